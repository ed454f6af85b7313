"""What watching models has found: its state, its alarms."""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert

from imaging_node.domain.watching import DriftAlarm, ReferenceSource, WatchedModel
from imaging_node.store.watching_schema import alarms, scanners, watched_models

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from imaging_node.store.database import Database

_LISTED_ALARMS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class AlarmChange:
    """An alarm that begins or ends; fields as in `DriftAlarm`."""

    is_raised: bool
    quantity: str
    group_kind: str
    group_value: str
    statistic: str
    value: float
    threshold: float
    raised_after: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchState:
    """Where watching a model stands.

    Attributes:
        plain: As `DriftWatch.to_plain` gives it; None when it cannot be read.
        seen_id: Last observation that is in it.
        updated_at: When it was recorded.
    """

    reference_source: ReferenceSource
    seen_id: int
    plain: dict[str, Any] | None
    updated_at: datetime


def read_watch_state(database: Database, model_digest: str) -> WatchState | None:
    """Where watching a model stands, None if it has not begun."""
    with database.read() as connection:
        row = connection.execute(
            sa.select(
                watched_models.c.reference_source,
                watched_models.c.seen_id,
                watched_models.c.state,
                watched_models.c.updated_at,
            ).where(watched_models.c.model_digest == model_digest)
        ).first()
    if row is None:
        return None
    try:
        plain = json.loads(zlib.decompress(row.state))
    except (zlib.error, ValueError):
        plain = None
    is_node = row.reference_source == ReferenceSource.NODE
    return WatchState(
        reference_source=ReferenceSource.NODE if is_node else ReferenceSource.BUNDLE,
        seen_id=row.seen_id,
        plain=plain if isinstance(plain, dict) else None,
        updated_at=row.updated_at,
    )


def record_watch(
    database: Database,
    watched: WatchedModel,
    *,
    plain: Mapping[str, Any],
    seen_id: int,
    changes: Sequence[AlarmChange],
    former: WatchState | None,
    ends_all: bool = False,
) -> bool:
    """Keep where watching a model stands, with the alarms that began and ended, together.

    Args:
        watched: What people are shown of it.
        plain: As `DriftWatch.to_plain` gives it.
        seen_id: Last observation that is in it.
        changes: Alarms that began and that ended, in their order: one may do so more than once.
        former: What this goes on from.
        ends_all: Whether all alarms that were on have ended, before `changes`.

    Returns:
        False when somebody else went on from it meanwhile: nothing was recorded.
    """
    values = {
        "model": watched.model,
        "reference_source": watched.reference_source,
        "studies": watched.studies,
        "baseline_left": watched.baseline_left,
        "seen_id": seen_id,
        "state": zlib.compress(json.dumps(plain).encode(), 1),
        "summary": watched.groups,
        "updated_at": watched.updated_at,
    }
    with database.write() as connection:
        standing = connection.execute(
            sa.select(watched_models.c.seen_id, watched_models.c.updated_at).where(
                watched_models.c.model_digest == watched.model_digest
            )
        ).first()
        expected = None if former is None else (former.seen_id, former.updated_at)
        if (None if standing is None else tuple(standing)) != expected:
            return False
        connection.execute(
            insert(watched_models)
            .values(model_digest=watched.model_digest, **values)
            .on_conflict_do_update(index_elements=["model_digest"], set_=values)
        )
        on = sa.and_(alarms.c.model_digest == watched.model_digest, alarms.c.cleared_at.is_(None))
        if ends_all:
            connection.execute(alarms.update().where(on).values(cleared_at=watched.updated_at))
        for each in changes:
            if each.is_raised:
                connection.execute(alarms.insert().values(_alarm(watched, each)))
                continue
            connection.execute(
                alarms.update()
                .where(
                    on,
                    alarms.c.quantity == each.quantity,
                    alarms.c.group_kind == each.group_kind,
                    alarms.c.group_value == each.group_value,
                    alarms.c.statistic == each.statistic,
                )
                .values(cleared_at=watched.updated_at)
            )
    return True


def _alarm(watched: WatchedModel, change: AlarmChange) -> dict[str, Any]:
    return {
        "model": watched.model,
        "model_digest": watched.model_digest,
        "quantity": change.quantity,
        "group_kind": change.group_kind,
        "group_value": change.group_value,
        "statistic": change.statistic,
        "value": change.value,
        "threshold": change.threshold,
        "raised_at": watched.updated_at,
        "raised_after": change.raised_after,
    }


def list_watched(database: Database) -> list[WatchedModel]:
    """Every model that is watched or was, by name, the one that was seen last first."""
    with database.read() as connection:
        rows = connection.execute(
            sa.select(watched_models).order_by(
                watched_models.c.model, watched_models.c.updated_at.desc()
            )
        ).all()
    return [
        WatchedModel(
            model=row.model,
            model_digest=row.model_digest,
            reference_source=ReferenceSource(row.reference_source),
            studies=row.studies,
            baseline_left=row.baseline_left,
            updated_at=row.updated_at,
            groups=row.summary,
        )
        for row in rows
    ]


def list_alarms(database: Database, *, only_on: bool = False) -> list[DriftAlarm]:
    """Alarms, those that are on first, the newest first; the last 200 of those that ended."""
    query = (
        sa.select(alarms, scanners.c.name.label("scanner_name"))
        .outerjoin(
            scanners,
            sa.and_(
                alarms.c.group_kind == "scanner",
                sa.cast(scanners.c.id, sa.String) == alarms.c.group_value,
            ),
        )
        .order_by(alarms.c.cleared_at.is_(None).desc(), alarms.c.id.desc())
    )
    query = query.where(alarms.c.cleared_at.is_(None)) if only_on else query.limit(_LISTED_ALARMS)
    with database.read() as connection:
        rows = connection.execute(query).all()
    return [
        DriftAlarm(
            id=row.id,
            model=row.model,
            model_digest=row.model_digest,
            quantity=row.quantity,
            group_kind=row.group_kind,
            group_value=row.group_value,
            statistic=row.statistic,
            value=row.value,
            threshold=row.threshold,
            raised_at=row.raised_at,
            raised_after=row.raised_after,
            cleared_at=row.cleared_at,
            scanner_name=row.scanner_name or "",
        )
        for row in rows
    ]
