"""Archives: what ends late in the database is exported all the same."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from imaging_node.domain.lifecycle import StudyState
from imaging_node.domain.priority import ReadingPriority, TriageDecision
from imaging_node.flow.reprocessing import export_ended
from imaging_node.store.answers import Ending, finish_study
from imaging_node.store.claims import Claim, claim_study
from imaging_node.store.database import open_database
from imaging_node.store.spool import Spool
from imaging_node.telemetry import Pseudonyms
from tests.store.arriving import NOON, arriving, note

if TYPE_CHECKING:
    from pathlib import Path

    from imaging_node.store.database import Database

DUE = NOON + timedelta(minutes=1)
ENDING = Ending(
    state=StudyState.NOT_APPLICABLE,
    reason="no model is meant for it (CT)",
    decision=TriageDecision(priority=ReadingPriority.ROUTINE, reason="as ordered"),
)


def claimed(database: Database) -> Claim:
    claim = claim_study(database, worker="w", now=DUE, lease=timedelta(hours=1))
    assert claim is not None
    return claim


def test_a_study_that_ended_earlier_but_was_recorded_later_is_exported(tmp_path: Path) -> None:
    database = open_database(f"sqlite:///{tmp_path / 'node.sqlite'}")
    note(database, arriving("1.2.3", "1.2.3.1"))
    note(database, arriving("1.2.4", "1.2.4.1"))
    waited, overtook = claimed(database), claimed(database)
    pending = {"1.2.3 1", "1.2.4 1"}
    since = DUE

    for claim, ended_at in ((overtook, DUE + timedelta(milliseconds=20)), (waited, DUE)):
        finish_study(database, claim, ENDING, destinations=(), now=ended_at)
        since = export_ended(
            tmp_path,
            pending,
            database=database,
            spool=Spool(tmp_path / "spool", min_free_bytes=0),
            pseudonyms=Pseudonyms(b"k" * 32),
            since=since,
            advance=lambda: None,
        )

    assert pending == set()
    database.close()
