"""Whether all that was written of a study is there, looked at before each work on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imaging_node.domain.errors import IntegrityError
from imaging_node.store.checksums import COUNTED_TABLES, row_checksum, row_damaged, sealed_values
from imaging_node.store.prepared import driver
from imaging_node.store.schema import studies

if TYPE_CHECKING:
    import sqlalchemy as sa
    from sqlalchemy.engine import Connection


def _of_study(table: sa.Table, *columns: str) -> str:
    # By row id: found through an index, a row would lend its values from there.
    return (
        f"SELECT {', '.join(('rowid', *columns, 'checksum'))}, {sealed_values(table, table.name)}"  # noqa: S608 - names of our own columns
        f" FROM {table.name} WHERE rowid IN"
        f" (SELECT rowid FROM {table.name} WHERE study_instance_uid = ?)"
    )


_STUDY = {
    each.name: _of_study(studies, f"coalesce({each.name}_rows, 0)") for each in COUNTED_TABLES
}
_ROWS = {each.name: _of_study(each, "0") for each in COUNTED_TABLES}


def require_whole(connection: Connection, table: sa.Table, study_instance_uid: str) -> None:
    """Verify a study's row and all its rows in `table`, one of the counted tables.

    A row whose key is damaged is not found any more: the count in the study's row misses it.

    Raises:
        IntegrityError: One of them is not what was written, or is missing.
    """
    written = sum(_verified(connection, studies, _STUDY[table.name], study_instance_uid))
    found = len(_verified(connection, table, _ROWS[table.name], study_instance_uid))
    if found != written:
        raise IntegrityError(
            f"row damaged: {found} of {written} rows of the study are found in the table"
            f" {table.name}; restore the database from a backup"
        )


def _verified(
    connection: Connection, table: sa.Table, query: str, study_instance_uid: str
) -> list[int]:
    """The column beside the row id of each row, once every row is what was written."""
    beside = []
    for number, value, checksum, *sealed in driver(connection).execute(query, [study_instance_uid]):
        if checksum != row_checksum(*sealed):
            raise row_damaged(table, number)
        beside.append(value)
    return beside
