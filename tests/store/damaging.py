"""Damage rows behind the node's back, as a failing disk would."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

from imaging_node.store.answers import finish_study
from imaging_node.store.claims import claim_study
from imaging_node.store.database import open_database
from imaging_node.store.model_states import record_changes
from imaging_node.store.owed_reports import note_wanted
from imaging_node.store.quarantine import add_to_quarantine
from imaging_node.store.schema import commitment_items, commitment_requests
from imaging_node.store.shadow_results import record_shadow_results
from tests.store.arriving import NOON, QUIET, arriving, note
from tests.store.model_records import model_change, model_row, shadow_result
from tests.store.test_studies import DUE, LEASE, done

if TYPE_CHECKING:
    from pathlib import Path


def fill(location: Path) -> None:
    """A database with one row in every table of work, and a study that is under way."""
    database = open_database(f"sqlite:///{location}")
    note(database, arriving())
    claim = claim_study(database, worker="w", now=DUE, lease=LEASE)
    assert claim is not None
    assert finish_study(database, claim, done(), destinations=["pacs"], now=DUE)
    note(database, arriving("1.2.4", "1.2.4.1", digest="b" * 64), at=NOON - QUIET)
    with database.write() as connection:
        add_to_quarantine(
            connection,
            arriving("1.2.4", "1.2.3.1", digest="c" * 64),
            reason="known in another study",
            now=NOON,
        )
        connection.execute(
            commitment_requests.insert().values(
                transaction_uid="2.25.7", destination="pacs", asked_at=NOON
            )
        )
        connection.execute(
            commitment_items.insert().values(transaction_uid="2.25.7", delivery_id=1)
        )
    note_wanted(
        database,
        calling_ae_title="MODALITY",
        transaction_uid="2.25.8",
        wanted=[("1.2.840.10008.5.1.4.1.1.1.1", "1.2.3.1")],
        now=NOON,
    )
    record_changes(database, [model_change()], [model_row()], revision=0)
    record_shadow_results(database, [shadow_result()])
    database.close()


def damage(location: Path, table: str, column: str, value: object = None, *, row: int = 1) -> None:
    """Change one value of one row without the node's triggers: one bit of it, or to `value`."""
    with closing(sqlite3.connect(location)) as connection, connection:
        connection.execute("PRAGMA ignore_check_constraints=ON")
        for (name,) in connection.execute(
            "SELECT name FROM sqlite_master WHERE type = 'trigger'"
        ).fetchall():
            connection.execute(f"DROP TRIGGER {name}")
        if value is None:
            old = connection.execute(
                f"SELECT {column} FROM {table} WHERE rowid = ?",  # noqa: S608 - names from the tests
                [row],
            ).fetchone()[0]
            value = _with_one_bit_changed(old)
        connection.execute(
            f"UPDATE {table} SET {column} = ? WHERE rowid = ?",  # noqa: S608 - same
            [value, row],
        )


def integrity(location: Path) -> list[str]:
    """What SQLite's own check says."""
    with closing(sqlite3.connect(location)) as connection:
        connection.text_factory = lambda text: text.decode("utf-8", "replace")
        return [line for (line,) in connection.execute("PRAGMA integrity_check")]


def _with_one_bit_changed(value: object) -> object:
    match value:
        case None:
            return 1
        case int():
            return value ^ 1
        case "":
            return "\x01"
        case str():
            return chr(ord(value[0]) ^ 1) + value[1:]
        case _:
            raise TypeError(type(value))
