"""A comparison takes what is kept of the very same version, and scores the rest."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from imaging_node.dicom.decoding import DecodingPool
from imaging_node.domain.finding import AnalysisStatus
from imaging_node.flow.comparing import compare_cohort, kept_scores
from imaging_node.store.cohort import list_cohort
from imaging_node.store.shadow_results import record_shadow_results
from tests.flow.test_scoring import accept
from tests.integration.films import film
from tests.store.model_records import shadow_result

if TYPE_CHECKING:
    from imaging_node.domain.comparison import ComparedStudy
    from imaging_node.flow.analysis import ConfiguredModel
    from imaging_node.flow.scoring import ScoringRoom
    from imaging_node.store.cohort import CohortStudy
    from imaging_node.store.shadow_results import ShadowResult
    from tests.flow.conftest import Clock

KEPT = 0.123


def _kept(study: CohortStudy, model: ConfiguredModel, **changes: Any) -> ShadowResult:  # noqa: ANN401 - the row's own fields
    """A row as the shadow worker leaves it, with a probability that no network gives."""
    [template] = shadow_result().findings
    identity = model.bundle.identity
    label = model.bundle.findings[0].label
    return replace(
        shadow_result(
            study_instance_uid=study.study_instance_uid,
            generation=study.generation,
            model=identity.name,
            version=identity.version,
            model_digest=identity.digest,
            settings_digest=model.settings_digest,
            findings=(replace(template, label=label, probability=KEPT, interval=None),),
        ),
        **changes,
    )


def _cohort(room: ScoringRoom, *uids: str) -> list[CohortStudy]:
    return [each for each in list_cohort(room.database) if each.study_instance_uid in uids]


def _compared(
    room: ScoringRoom, clock: Clock, decoder: DecodingPool, *uids: str
) -> list[ComparedStudy]:
    model = room.lineup.models[0].model
    return compare_cohort(
        _cohort(room, *uids),
        (model, model),
        database=room.database,
        spool=room.spool,
        decoder=decoder,
        kept=kept_scores(room.database, since=clock() - timedelta(days=36500)),
        site_rules=(),
        now=clock(),
        advance=lambda: None,
    )


def _probabilities(found: ComparedStudy) -> list[float | None]:
    return [each.probability for each in found.first.findings.values()]


@pytest.mark.parametrize(
    ("changes", "is_taken"),
    [
        ({}, True),
        # The same networks, and perhaps other images that they are for.
        ({"version": "0.0.1"}, False),
        ({"status": AnalysisStatus.NOT_ANALYSED, "findings": ()}, False),
    ],
    ids=["the same", "another version", "a failure"],
)
def test_kept_scores_are_taken_of_the_same_version_and_never_of_a_failure(
    opened: ScoringRoom, clock: Clock, changes: dict[str, object], is_taken: bool
) -> None:
    room = replace(opened, clock=clock)
    uid = accept(room, clock, film(f"kept {sorted(changes)}"))
    model = room.lineup.models[0].model
    [study] = _cohort(room, uid)
    record_shadow_results(room.database, [_kept(study, model, **changes)])
    [found] = _compared(room, clock, room.decoder, uid)
    assert len(_probabilities(found)) == 1
    assert (_probabilities(found) == [KEPT]) is is_taken


def test_a_study_that_cannot_be_scored_now_leaves_the_others_compared(
    opened: ScoringRoom, clock: Clock
) -> None:
    room = replace(opened, clock=clock)
    first = accept(room, clock, film("first"))
    second = accept(room, clock, film("second"))
    [kept] = _cohort(room, first)
    record_shadow_results(room.database, [_kept(kept, room.lineup.models[0].model)])
    # It says "try again", as a decoder that is stopped.
    decoder = DecodingPool(processes=1, memory_limit_bytes=2**29, time_limit_s=10)
    decoder.close()
    found = _compared(room, clock, decoder, first, second)
    by_study = {each.study_instance_uid: _probabilities(each) for each in found}
    assert by_study == {first: [KEPT], second: []}
