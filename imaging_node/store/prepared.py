"""Statements compiled once, for the paths that every instance and every study takes.

Building and compiling a statement anew costs more than receiving a CT slice; what SQLite does
with it costs a tenth of that.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sqlalchemy.dialects import sqlite

from imaging_node.store.checksums import checksum_of

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Mapping

    import sqlalchemy as sa
    from sqlalchemy.engine import Connection

_DIALECT = sqlite.dialect(paramstyle="qmark")
# SQLite takes 32,766 values in one statement.
_MOST_ROWS = 256


class Prepared:
    """One INSERT, UPDATE or DELETE whose values are bound by name."""

    def __init__(self, statement: sa.UpdateBase) -> None:
        """Compile it; a value that is no bind parameter becomes part of the text's constants."""
        compiled = statement.compile(dialect=_DIALECT)
        self._sql = str(compiled)
        self._constants: Mapping[str, Any] = {
            name: bind.value for name, bind in compiled.binds.items() if not bind.required
        }
        self._names: Sequence[str] = compiled.positiontup or ()
        self._processors: list[Callable[[Any], Any] | None] = [
            compiled.binds[name].type.dialect_impl(_DIALECT).bind_processor(_DIALECT)
            for name in self._names
        ]

    def run(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        """Execute it for each row; nothing happens when there is none."""
        if rows:
            driver(connection).executemany(self._sql, [self._bound(row) for row in rows])

    def change(self, connection: Connection, row: Mapping[str, Any]) -> int:
        """Execute it once; returns how many rows it changed."""
        return driver(connection).execute(self._sql, self._bound(row)).rowcount

    def _bound(self, row: Mapping[str, Any]) -> list[Any]:
        values = []
        for name, process in zip(self._names, self._processors, strict=True):
            value = row[name] if name in row else self._constants[name]
            values.append(value if process is None else process(value))
        return values


class PreparedQuery:
    """One SELECT whose values are bound by name; its rows have their columns' types."""

    def __init__(self, statement: sa.Select[Any]) -> None:
        """Compile it; a value that is no bind parameter becomes a constant of the text."""
        compiled = statement.compile(dialect=_DIALECT)
        self._sql = str(compiled)
        self._names: Sequence[str] = compiled.positiontup or ()
        self._binds = compiled.binds
        columns = list(statement.selected_columns)
        self._row: Any = namedtuple("Row", [each.key for each in columns])  # type: ignore[misc] # noqa: PYI024 - the names are the statement's
        self._processors = [
            each.type.dialect_impl(_DIALECT).result_processor(_DIALECT, None) for each in columns
        ]

    def rows(self, connection: Connection, **values: object) -> list[Any]:
        """All rows, each a named tuple of the selected columns."""
        bound = [self._value(name, values) for name in self._names]
        return [
            self._row._make(
                value if process is None else process(value)
                for value, process in zip(row, self._processors, strict=True)
            )
            for row in driver(connection).execute(self._sql, bound)
        ]

    def _value(self, name: str, values: Mapping[str, object]) -> object:
        bind = self._binds[name]
        value = values[name] if bind.required else bind.value
        process = bind.type.dialect_impl(_DIALECT).bind_processor(_DIALECT)
        return value if process is None else process(value)


BoundRow = Sequence[str | int | None]
"""A row as SQLite takes it: text, integers and nothing else."""


class SealedInsert:
    """The INSERT of whole rows, whose checksums are computed here, all of them in one step.

    Each step of a statement, and each call from it back into Python, waits for Python's lock.
    """

    def __init__(self, table: sa.Table) -> None:
        """For a table whose row ids SQLite chooses and whose columns are text and integers."""
        self._table = table
        self._columns = [each for each in table.columns if each.name not in ("id", "checksum")]
        self._processors = [
            each.type.dialect_impl(_DIALECT).bind_processor(_DIALECT) for each in self._columns
        ]
        names = ", ".join([*(each.name for each in self._columns), "checksum"])
        self._beginning = f"INSERT INTO {table.name} ({names}) VALUES "  # noqa: S608 - names of our own
        self._row = f"({', '.join('?' * (len(self._columns) + 1))})"

    def bind(self, row: Mapping[str, Any]) -> BoundRow:
        """What will be written for a row of values by column."""
        values: dict[str, str | int | None] = {}
        for column, process in zip(self._columns, self._processors, strict=True):
            value = row[column.name]
            values[column.name] = value if process is None else process(value)
        return [*values.values(), checksum_of(self._table, values)]

    def run(self, connection: Connection, rows: Sequence[BoundRow]) -> None:
        """Insert rows in their order; nothing happens when there is none."""
        for begin in range(0, len(rows), _MOST_ROWS):
            some = rows[begin : begin + _MOST_ROWS]
            driver(connection).execute(
                self._beginning + ", ".join([self._row] * len(some)),
                [value for row in some for value in row],
            )


def driver(connection: Connection) -> sqlite3.Connection:
    """The SQLite connection under a transaction of SQLAlchemy."""
    raw: sqlite3.Connection | None = connection.connection.driver_connection
    assert raw is not None  # the transaction holds it
    return raw
