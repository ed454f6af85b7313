"""Who answers a study, who only looks at it, and that neither disturbs the other."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from imaging_node.domain.finding import AnalysisStatus
from imaging_node.domain.lifecycle import StudyState
from imaging_node.domain.model_state import ModelState, is_in_share
from imaging_node.flow.lineup import Lineup, ServedModel, candidates
from imaging_node.flow.scoring import score_study
from imaging_node.flow.shadowing import ShadowWork, score_in_shadow
from imaging_node.inference.scorer import Scorer
from imaging_node.store.listings import list_deliveries, list_objects, list_worklist
from imaging_node.store.shadow_results import list_shadow_results
from tests.flow.test_scoring import accept, answers, claimed, record
from tests.integration.films import film

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from imaging_node.flow.scoring import ScoringRoom
    from imaging_node.inference.outputs import MemberOutputs
    from tests.flow.conftest import Clock


class FaultyModel:
    """A network that loads, and fails on every image."""

    is_slow_at_first = False
    providers: tuple[str, ...] = ("CPUExecutionProvider",)

    def predict(self, batch: npt.NDArray[np.float32]) -> list[MemberOutputs]:
        raise RuntimeError(f"no answer for a batch of shape {batch.shape}")

    def buffer(self, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        return np.empty(shape, np.float32)


def version_of(
    primary: ServedModel,
    version: str,
    state: ModelState,
    *,
    is_faulty: bool = False,
    share: float = 1,
) -> ServedModel:
    """The shipped model again, as another version in another state."""
    scorer = primary.model.scorer
    bundle = replace(
        scorer.bundle, identity=replace(scorer.bundle.identity, version=version, digest=version)
    )
    opened = replace(scorer.opened, model=FaultyModel()) if is_faulty else scorer.opened
    other = Scorer(
        bundle,
        opened,
        scorer.batcher,
        site_operating_points={},
        name=version,
        gate_policy=scorer.gate_policy,
    )
    return replace(
        primary,
        model=replace(primary.model, scorer=other),
        bundle=f"{primary.bundle}@{version}",
        state=state,
        share=share,
    )


@pytest.fixture
def primary(opened: ScoringRoom) -> Iterator[ServedModel]:
    [served] = opened.lineup.models
    yield served
    for version in ("2", "3"):
        opened.batcher.remove_model(version)


def scored(
    opened: ScoringRoom, clock: Clock, *models: ServedModel, attempts: int = 1
) -> tuple[ScoringRoom, str]:
    """Score a new film with these models, shadows included; returns the room and the study."""
    work: list[ShadowWork] = []
    room = replace(opened, clock=clock, lineup=Lineup(models), on_recorded=work.append)
    uid = accept(room, clock, film())
    score_study(claimed(room, clock, attempts=attempts), room)
    for each in work:
        score_in_shadow(each, room)
        each.hold.release()
    return room, uid


def test_a_share_is_kept_and_the_same_study_always_gets_the_same_model() -> None:
    uids = [f"1.2.826.0.1.{number}" for number in range(20_000)]
    chosen = {uid for uid in uids if is_in_share(uid, 0.1)}
    assert len(chosen) / len(uids) == pytest.approx(0.1, abs=0.01)
    assert chosen <= {uid for uid in uids if is_in_share(uid, 0.2)}  # a larger share keeps its own
    assert all(is_in_share(uid, 1) for uid in uids[:100])


def test_a_canary_answers_its_share_and_only_a_first_attempt(primary: ServedModel) -> None:
    canary = version_of(primary, "2", ModelState.CANARY, share=0.5)
    shadow = version_of(primary, "3", ModelState.SHADOW)
    for number in range(50):
        uid = f"1.2.3.{number}"
        [turn] = candidates([primary, canary, shadow], uid, attempts=1)
        expected = ["2", "0.2.1"] if is_in_share(uid, 0.5) else ["0.2.1"]
        assert [each.model.bundle.identity.version for each in turn] == expected
        assert candidates([primary, canary, shadow], uid, attempts=2) == [(primary,)]
    assert candidates([shadow], "1.2.3", attempts=1) == []


def test_every_finding_on_the_worklist_says_which_model_it_is_from(
    opened: ScoringRoom, clock: Clock, primary: ServedModel
) -> None:
    room, uid = scored(opened, clock, primary)
    rows = list_worklist(room.database, room.pseudonyms, now=clock(), study_instance_uid=uid)
    identity = primary.model.bundle.identity
    named = {(score.model, score.model_digest) for row in rows for score in row.findings}
    assert named == {(identity.name, identity.digest)}


def test_what_a_shadow_says_is_kept_and_nothing_of_it_is_sent_or_shown(
    opened: ScoringRoom, clock: Clock, primary: ServedModel
) -> None:
    alone, expected = scored(opened, clock, primary)
    room, uid = scored(opened, clock, primary, version_of(primary, "2", ModelState.SHADOW))

    results = list_shadow_results(room.database, study_instance_uid=uid)
    assert [(each.version, each.is_delivered) for each in results] == [
        ("0.2.1", True),
        ("2", False),
    ]
    assert results[0].findings == results[1].findings
    assert list_shadow_results(room.database, study_instance_uid=expected) == []
    kinds = [each.kind for each in list_objects(alone.database, expected)]
    assert [each.kind for each in list_objects(room.database, uid)] == kinds
    assert len(
        [each for each in list_deliveries(room.database) if each.study_instance_uid == uid]
    ) == len(kinds)
    assert '"2"' not in "".join(
        str(each.ContentSequence) for each in answers(room, uid) if "ContentSequence" in each
    )


def test_a_shadow_that_fails_changes_no_answer_and_its_failure_is_kept(
    opened: ScoringRoom, clock: Clock, primary: ServedModel
) -> None:
    room, uid = scored(
        opened, clock, primary, version_of(primary, "2", ModelState.SHADOW, is_faulty=True)
    )
    assert record(room, clock, uid).state is StudyState.DONE
    delivered, failed = list_shadow_results(room.database, study_instance_uid=uid)
    assert delivered.findings
    assert (failed.status, failed.reason, failed.findings) == (
        AnalysisStatus.NOT_ANALYSED,
        "software failure",
        (),
    )


def test_a_canary_that_fails_leaves_the_answer_to_the_primary(
    opened: ScoringRoom, clock: Clock, primary: ServedModel
) -> None:
    canary = version_of(primary, "2", ModelState.CANARY, is_faulty=True)
    room, uid = scored(opened, clock, primary, canary)
    assert record(room, clock, uid).state is StudyState.DONE
    results = list_shadow_results(room.database, study_instance_uid=uid)
    assert [(each.version, each.is_delivered, bool(each.findings)) for each in results] == [
        ("0.2.1", True, True),
        ("2", False, False),
    ]


def test_a_study_whose_worker_died_is_not_given_to_the_canary_again(
    opened: ScoringRoom, clock: Clock, primary: ServedModel
) -> None:
    canary = version_of(primary, "2", ModelState.CANARY)
    room, uid = scored(opened, clock, primary, canary, attempts=2)
    results = list_shadow_results(room.database, study_instance_uid=uid)
    assert {each.version: each.is_delivered for each in results} == {"0.2.1": True, "2": False}


def test_with_models_in_shadow_alone_a_study_has_no_answer(
    opened: ScoringRoom, clock: Clock, primary: ServedModel
) -> None:
    room, uid = scored(opened, clock, version_of(primary, "2", ModelState.SHADOW))
    found = record(room, clock, uid)
    assert found.state is StudyState.NOT_APPLICABLE
    assert list_objects(room.database, uid) == []
    [result] = list_shadow_results(room.database, study_instance_uid=uid)
    assert not result.is_delivered


def test_a_model_that_left_is_unloaded_once_the_last_study_with_it_has_ended(
    opened: ScoringRoom, primary: ServedModel
) -> None:
    shadow = version_of(primary, "2", ModelState.SHADOW)
    lineup = Lineup([primary, shadow])
    hold = lineup.hold()
    second = hold.again()
    lineup.change([primary])
    assert lineup.models == (primary,)
    assert "2" in opened.batcher._models
    hold.release()
    assert "2" in opened.batcher._models
    second.release()
    assert "2" not in opened.batcher._models
    with lineup.hold() as last:
        assert last.models == (primary,)
    lineup.change([primary])
    assert "2" not in opened.batcher._models
    assert primary.model.scorer._name in opened.batcher._models
