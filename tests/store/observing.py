"""Observations of synthetic images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imaging_node.domain.observation import SCORED, ImageObservation
from imaging_node.store.observations import record_observations
from tests.store.arriving import NOON

if TYPE_CHECKING:
    from datetime import datetime

    from imaging_node.store.database import Database

DIGEST = f"sha256:{'a' * 64}"


def observation(
    *,
    probability: float = 0.2,
    call: str = "absent",
    mean: float = 0.5,
    scanner: str = "ACME DR",
    view: str = "PA",
    sex: str = "F",
    at: datetime = NOON,
    digest: str = DIGEST,
) -> ImageObservation:
    return ImageObservation(
        model="chest",
        model_digest=digest,
        observed_at=at,
        scanner=scanner,
        view_position=view,
        sex=sex,
        age_band="1 to 5",
        outcome=SCORED,
        probabilities={"Pneumonia": probability},
        presences={"Pneumonia": call},
        disagreement=0.01,
        quantities={"input_mean": mean},
    )


def see(database: Database, study: str, *images: ImageObservation) -> None:
    """Keep what was seen of a study's images."""
    with database.write() as connection:
        record_observations(
            connection, study, [(f"{study}.{n}", each) for n, each in enumerate(images, start=1)]
        )
