"""The rows that arriving instances read and write, with as little ado as SQLite allows."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from imaging_node.store.checksums import damaged_row_ids, row_checksum, row_id, sealed_values
from imaging_node.store.prepared import Prepared, SealedInsert, driver
from imaging_node.store.schema import Moment, instances, studies

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from sqlalchemy.engine import Connection

    from imaging_node.store.prepared import BoundRow

_READ = (
    "study_instance_uid", "state", "generation", "ordered_priority", "priority", "is_archive",
    "patient_digest", "accession_number", "study_at", "due_at",
)  # fmt: skip
_AMONG = "IN (SELECT value FROM json_each(?))"
_FIND_INSTANCES = (
    "SELECT id, study_instance_uid, sop_instance_uid, digest FROM instances"  # noqa: S608 - a constant
    f" WHERE sop_instance_uid {_AMONG} ORDER BY id"
)
# By row id: found through the index of UIDs, a row would lend its values from there.
_FIND_STUDIES = (
    f"SELECT {', '.join(_READ)}, checksum, {sealed_values(studies, studies.name)}"  # noqa: S608 - names of our own columns
    f" FROM studies WHERE rowid IN (SELECT rowid FROM studies WHERE study_instance_uid {_AMONG})"
)
_FIND_ORPHANS = (
    f"SELECT DISTINCT study_instance_uid FROM instances WHERE study_instance_uid {_AMONG}"  # noqa: S608 - a constant
)
_PROLONGED = (
    "due_at", "ordered_priority", "priority", "urgency", "is_archive", "patient_digest",
    "accession_number", "study_at",
)  # fmt: skip


def _update(*names: str, **constants: object) -> Prepared:
    bound = {name: sa.bindparam(f"new_{name}", type_=studies.c[name].type) for name in names}
    return Prepared(
        studies.update()
        .where(studies.c.study_instance_uid == sa.bindparam("new_study_instance_uid"))
        .values(**bound, attempts=0, **constants)
    )


_INSERT_STUDY = Prepared(
    studies.insert().values(
        {
            column.name: sa.bindparam(column.name, type_=column.type)
            for column in studies.c
            if column.name != "checksum" and not column.name.endswith("_rows")
        }
        # Counted by the database itself from here on.
        | {column.name: 0 for column in studies.c if column.name.endswith("_rows")}
    )
)
INSTANCE_INSERT = SealedInsert(instances)
_DELETE_INSTANCE = Prepared(instances.delete().where(instances.c.id == sa.bindparam("row")))
_PROLONG_STUDY = _update(*_PROLONGED)
_REOPEN_STUDY = _update(
    *_PROLONGED,
    "state",
    "generation",
    reason="",
    claim_token="",
    claimed_by="",
    finished_at=None,
    # What an earlier answer said stands in its report; here it would read as current.
    findings=[],
    remarks=[],
)


def find_instances(
    connection: Connection, sop_instance_uids: Collection[str]
) -> Iterable[tuple[int, str, str, str]]:
    """Row id, study, instance and digest of what is known under these UIDs, oldest first."""
    found: Iterable[tuple[int, str, str, str]] = driver(connection).execute(
        _FIND_INSTANCES, [json.dumps(sorted(sop_instance_uids))]
    )
    return found


def find_studies(
    connection: Connection, study_instance_uids: Collection[str]
) -> tuple[dict[str, dict[str, Any]], set[str]]:
    """What is noted of these studies by UID, and which of them are damaged.

    A damaged row is no ground to decide on, and no change may give it a right checksum. A study
    that has instances but no row is damaged too.
    """
    raw = driver(connection)
    moment = Moment()
    dialect = connection.dialect
    found: dict[str, dict[str, Any]] = {}
    is_whole = True
    for values in raw.execute(_FIND_STUDIES, [json.dumps(sorted(study_instance_uids))]):
        checksum, *sealed = values[len(_READ) :]
        if checksum != row_checksum(*sealed):
            is_whole = False
            continue
        row = dict(zip(_READ, values, strict=False))
        for name in ("study_at", "due_at"):
            row[name] = moment.process_result_value(row[name], dialect)
        row["is_archive"] = bool(row["is_archive"])
        found[row["study_instance_uid"]] = row
    missing = sorted(set(study_instance_uids) - found.keys())
    damaged = set() if is_whole else _damaged(connection, study_instance_uids)
    if missing:
        damaged |= {uid for (uid,) in raw.execute(_FIND_ORPHANS, [json.dumps(missing)])}
    return {uid: row for uid, row in found.items() if uid not in damaged}, damaged


def write_arrivals(
    connection: Connection,
    *,
    returning: Sequence[int],
    new_studies: Sequence[Mapping[str, Any]],
    prolonged: Sequence[Mapping[str, Any]],
    reopened: Sequence[Mapping[str, Any]],
    instance_rows: Sequence[BoundRow],
) -> None:
    """Write what was decided.

    Args:
        returning: Row ids of instances whose content comes back and is noted anew.
        prolonged, reopened: New values by column, each name with "new_" before it.
        instance_rows: As `INSTANCE_INSERT` binds them.
    """
    _DELETE_INSTANCE.run(connection, [{"row": each} for each in returning])
    _INSERT_STUDY.run(connection, new_studies)
    _PROLONG_STUDY.run(connection, prolonged)
    _REOPEN_STUDY.run(connection, reopened)
    INSTANCE_INSERT.run(connection, instance_rows)


def _damaged(connection: Connection, study_instance_uids: Collection[str]) -> set[str]:
    """Which of these have a row that is not what was written, as the index names them."""
    row_ids = damaged_row_ids(
        connection, studies, studies.c.study_instance_uid.in_(study_instance_uids)
    )
    return set(
        connection.scalars(
            sa.select(studies.c.study_instance_uid).where(row_id(studies).in_(row_ids))
        )
    )
