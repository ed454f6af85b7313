"""What models see is recorded when a study ends, of the stream and not of archives."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import sqlalchemy as sa

from imaging_node.flow.scoring import ATTEMPTS_BEFORE_DECLINING, score_study
from imaging_node.store.observations import read_observations
from imaging_node.store.schema import studies
from tests.flow.test_scoring import accept, claimed, of_the_same_study
from tests.integration.films import film

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from imaging_node.flow.scoring import ScoringRoom
    from imaging_node.store.observations import SeenImage
    from tests.flow.conftest import Clock


def seen(room: ScoringRoom, uid: str) -> list[SeenImage]:
    digest = model_digest(room)
    found = read_observations(room.database, digest, after=0)
    return [each for each in found if each.study_instance_uid == uid]


def model_digest(room: ScoringRoom) -> str:
    with room.database.read() as connection:
        return str(
            connection.scalar(sa.text("SELECT model_digest FROM observations ORDER BY id DESC"))
        )


def of_scanner(dataset: Dataset) -> None:
    dataset.Manufacturer = "ACME\tMedical"
    dataset.ManufacturerModelName = "DR 9000"
    dataset.StationName = "ROOM-7"
    dataset.PatientSex = "F"


def test_a_scored_image_leaves_its_scores_and_statistics_and_no_patient(
    opened: ScoringRoom, clock: Clock
) -> None:
    room = replace(opened, clock=clock)
    uid = accept(room, clock, film(change=of_scanner))

    score_study(claimed(room, clock), room)

    [image] = seen(room, uid)
    observation = image.observation
    assert observation.is_scored
    assert observation.scanner == "ACME Medical DR 9000"
    assert (observation.sex, observation.age_band, observation.view_position) == (
        "F", "1 to 5", "AP",
    )  # fmt: skip
    assert set(observation.probabilities) == set(observation.presences) == {"Pneumonia"}
    assert 0 < observation.quantities["input_mean"] < 1
    with room.database.read() as connection:
        rows = connection.execute(sa.text("SELECT * FROM observations")).all()
    assert "ROOM-7" not in str(rows)


def test_a_refused_image_and_one_that_its_header_excludes_are_told_apart(
    opened: ScoringRoom, clock: Clock
) -> None:
    room = replace(opened, clock=clock)

    def lateral(dataset: Dataset) -> None:
        dataset.ViewPosition = "LL"

    damaged = accept(room, clock, of_the_same_study(1, is_damaged=True))
    score_study(claimed(room, clock), room)
    other = accept(room, clock, film(change=lateral))
    score_study(claimed(room, clock), room)

    [refused], [excluded] = seen(room, damaged), seen(room, other)
    assert (refused.observation.outcome, refused.observation.is_eligible) == (
        "undecodable pixels",
        True,
    )
    assert (excluded.observation.outcome, excluded.observation.is_eligible) == (
        "not a frontal view",
        False,
    )


def test_an_archive_is_no_part_of_the_stream(opened: ScoringRoom, clock: Clock) -> None:
    room = replace(opened, clock=clock)
    uid = accept(room, clock, film())
    with room.database.write() as connection:
        connection.execute(
            sa.update(studies).where(studies.c.study_instance_uid == uid).values(is_archive=True)
        )

    score_study(claimed(room, clock), room)

    assert seen(room, uid) == []


def test_a_study_that_is_declined_counts_as_refused(opened: ScoringRoom, clock: Clock) -> None:
    room = replace(opened, clock=clock)
    uid = accept(room, clock, film())

    score_study(claimed(room, clock, attempts=ATTEMPTS_BEFORE_DECLINING + 1), room)

    [image] = seen(room, uid)
    assert image.observation.outcome == "software failure"
