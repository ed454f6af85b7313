"""What was decided about models, by whom, and the number by which a change is noticed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert

from imaging_node.domain.errors import StorageError
from imaging_node.domain.model_state import ModelAction, ModelChange, ModelRow, ModelState
from imaging_node.store.checksums import require_intact
from imaging_node.store.schema import model_changes, model_states

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from sqlalchemy.engine import Connection

    from imaging_node.store.database import Database

_PARTS = 1_000_000
_LONGEST_REASON = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDecisions:
    """All that was decided.

    Attributes:
        revision: Grows with every change; 0 before the first.
    """

    revision: int
    rows: tuple[ModelRow, ...]


NO_DECISIONS = ModelDecisions(revision=0, rows=())


def model_revision(database: Database) -> int:
    """Number of the last change: cheap enough to be asked for every second."""
    with database.read() as connection:
        return _revision(connection)


def read_decisions(database: Database) -> ModelDecisions:
    """The states as they are now.

    Raises:
        IntegrityError: A row is not what was written.
    """
    with database.read() as connection:
        require_intact(connection, model_states)
        rows = connection.execute(sa.select(model_states).order_by(model_states.c.bundle)).all()
        return ModelDecisions(revision=_revision(connection), rows=tuple(map(_row, rows)))


def decided_at(database: Database) -> dict[str, datetime]:
    """When the state of each bundle was decided last; nothing of those that no command changed."""
    with database.read() as connection:
        rows = connection.execute(sa.select(model_states.c.bundle, model_states.c.changed_at))
        return {row.bundle: row.changed_at for row in rows}


def record_changes(
    database: Database,
    changes: Sequence[ModelChange],
    rows: Sequence[ModelRow],
    *,
    removed: Sequence[str] = (),
    revision: int,
) -> None:
    """Write new states and who decided them, all or nothing.

    Args:
        rows: As they are from now on.
        removed: Bundles that have no state any more.
        revision: On which the decision rests.

    Raises:
        StorageError: Somebody else changed a model meanwhile, or nothing could be written.
    """
    with database.write() as connection:
        if _revision(connection) != revision:
            raise StorageError(
                "models were changed by somebody else at the same moment: nothing was changed;"
                " look at `imaging-node models list` and try again"
            )
        connection.execute(sa.delete(model_states).where(model_states.c.bundle.in_(removed)))
        for row in rows:
            values = _values(row)
            connection.execute(
                insert(model_states)
                .values(values)
                .on_conflict_do_update(index_elements=[model_states.c.bundle], set_=values)
            )
        connection.execute(
            model_changes.insert(),
            [
                {
                    "bundle": each.bundle,
                    "action": each.action,
                    "former": each.former or "",
                    "state": each.state or "",
                    "share_ppm": round(each.share * _PARTS),
                    "manifest_digest": each.digest,
                    "reason": each.reason[:_LONGEST_REASON],
                    "changed_by": each.changed_by,
                    "changed_at": each.changed_at,
                }
                for each in changes
            ],
        )


def note_faults(database: Database, faults: Mapping[str, str]) -> None:
    """Keep why the scorer did not take a bundle; "" for one that it took."""
    with database.write() as connection:
        for bundle, fault in faults.items():
            connection.execute(
                model_states.update()
                .where(model_states.c.bundle == bundle, model_states.c.fault != fault)
                .values(fault=fault)
            )


def list_changes(database: Database, name: str = "") -> list[ModelChange]:
    """Every change, the oldest first; of one model or bundle when a name is given.

    Raises:
        IntegrityError: A row is not what was written.
    """
    query = sa.select(model_changes).order_by(model_changes.c.id)
    if name:
        query = query.where(
            sa.or_(
                model_changes.c.bundle == name,
                model_changes.c.bundle.startswith(f"{name}@", autoescape=True),
            )
        )
    with database.read() as connection:
        require_intact(connection, model_changes)
        return [
            ModelChange(
                bundle=row.bundle,
                action=ModelAction(row.action),
                former=ModelState(row.former) if row.former else None,
                state=ModelState(row.state) if row.state else None,
                share=row.share_ppm / _PARTS,
                digest=row.manifest_digest,
                reason=row.reason,
                changed_by=row.changed_by,
                changed_at=row.changed_at,
            )
            for row in connection.execute(query)
        ]


def _revision(connection: Connection) -> int:
    return connection.scalar(sa.select(sa.func.max(model_changes.c.id))) or 0


def _values(row: ModelRow) -> dict[str, Any]:
    return {
        "bundle": row.bundle,
        "name": row.name,
        "state": row.state,
        "share_ppm": round(row.share * _PARTS),
        "manifest_digest": row.manifest_digest,
        "replaced": row.replaced,
        "fault": row.fault,
        "changed_at": row.changed_at,
        "trusted_code": row.trusted_code,
    }


def _row(row: sa.Row[Any]) -> ModelRow:
    return ModelRow(
        bundle=row.bundle,
        name=row.name,
        state=ModelState(row.state),
        share=row.share_ppm / _PARTS,
        manifest_digest=row.manifest_digest,
        replaced=row.replaced,
        fault=row.fault,
        changed_at=row.changed_at,
        trusted_code=row.trusted_code,
    )
