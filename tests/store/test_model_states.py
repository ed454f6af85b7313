"""What was decided about models is kept whole, in order, and by whom."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from imaging_node.domain.errors import StorageError
from imaging_node.domain.model_state import ModelAction, ModelState
from imaging_node.store.cohort import answering_digests
from imaging_node.store.model_states import (
    list_changes,
    model_revision,
    note_faults,
    read_decisions,
    record_changes,
)
from imaging_node.store.schema import results
from imaging_node.store.shadow_results import list_shadow_results, record_shadow_results
from tests.store.arriving import NOON, arriving, note
from tests.store.model_records import BUNDLE, model_change, model_row, shadow_result

if TYPE_CHECKING:
    from imaging_node.store.database import Database


def test_states_and_changes_are_read_as_they_were_written(database: Database) -> None:
    row = model_row(state=ModelState.CANARY, share=0.1, replaced="chest")
    change = model_change(former=ModelState.SHADOW, state=ModelState.CANARY, share=0.1)
    record_changes(database, [change], [row], revision=0)
    assert read_decisions(database).rows == (row,)
    assert list_changes(database) == [change]
    assert list_changes(database, "chest") == [change]
    assert list_changes(database, "ches") == []


def test_every_change_raises_the_revision_and_a_removed_bundle_has_no_state(
    database: Database,
) -> None:
    assert model_revision(database) == 0
    record_changes(database, [model_change()], [model_row()], revision=0)
    assert model_revision(database) == 1
    removal = model_change(action=ModelAction.REMOVE, former=ModelState.SHADOW, state=None)
    record_changes(database, [removal], [], removed=[BUNDLE], revision=1)
    decisions = read_decisions(database)
    assert (decisions.revision, decisions.rows) == (2, ())
    assert [each.action for each in list_changes(database)] == ["add", "remove"]


def test_a_decision_on_what_is_no_longer_so_changes_nothing(database: Database) -> None:
    record_changes(database, [model_change()], [model_row()], revision=0)
    late = model_row(state=ModelState.PRIMARY)
    with pytest.raises(StorageError, match="somebody else"):
        record_changes(database, [model_change()], [late], revision=0)
    assert read_decisions(database).rows == (model_row(),)
    assert len(list_changes(database)) == 1


def test_a_fault_is_kept_beside_the_decision_and_is_none_itself(database: Database) -> None:
    record_changes(database, [model_change()], [model_row()], revision=0)
    note_faults(database, {BUNDLE: "golden case failed", "absent": "x"})
    decisions = read_decisions(database)
    assert decisions.revision == 1
    assert [each.fault for each in decisions.rows] == ["golden case failed"]


def test_the_models_of_the_last_reports_alone_are_those_that_answered(database: Database) -> None:
    note(database, arriving())
    row = {
        "study_instance_uid": "1.2.3",
        "model": "chest",
        "report_series_instance_uid": "2.25.1",
        "report_sop_class_uid": "2.25.2",
        "report_sop_instance_uid": "2.25.3",
        "recorded_at": NOON,
    }
    with database.write() as connection:
        connection.execute(
            results.insert(),
            [
                row | {"generation": generation, "model_digest": digest}
                for generation, digest in ((1, "first"), (2, "second"), (2, "other"))
            ],
        )
    assert answering_digests(database, "1.2.3") == {"second", "other"}
    assert answering_digests(database, "1.2.4") == set()


def test_shadow_results_are_read_as_they_were_written(database: Database) -> None:
    note(database, arriving())
    result = shadow_result()
    record_shadow_results(database, [result])
    assert list_shadow_results(database, since=NOON) == [result]
    assert list_shadow_results(database, study_instance_uid="1.2.4") == []
