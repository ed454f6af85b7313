"""What each role process last said of itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from imaging_node.domain.records import RoleStatus
from imaging_node.store.schema import roles

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imaging_node.store.database import Database


def list_roles(database: Database) -> Sequence[RoleStatus]:
    """What each role process last said of itself."""
    with database.read() as connection:
        return [RoleStatus(**row._mapping) for row in connection.execute(sa.select(roles))]  # noqa: SLF001 - SQLAlchemy's public name for a row as a mapping


def beat(database: Database, status: RoleStatus) -> None:
    """Note that a role is alive, and its counts."""
    values = {name: getattr(status, name) for name in RoleStatus.__dataclass_fields__}
    with database.write() as connection:
        connection.execute(sa.delete(roles).where(roles.c.role == status.role))
        connection.execute(roles.insert().values(**values))


def forget_roles(database: Database) -> None:
    """Forget what the roles of an earlier run said."""
    with database.write() as connection:
        connection.execute(sa.delete(roles))


def retire(database: Database, role: str, *, pid: int) -> None:
    """Note that a role process has ended as it should: its last heartbeat is no sign of life."""
    with database.write() as connection:
        connection.execute(sa.delete(roles).where(roles.c.role == role, roles.c.pid == pid))
