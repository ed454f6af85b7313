"""One row for each image that a model looked at; written with the ending of its study."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert

from imaging_node.domain.observation import MOST_SCANNERS, OTHER_SCANNERS, ImageObservation
from imaging_node.store.prepared import Prepared
from imaging_node.store.watching_schema import observations, scanners

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime

    from sqlalchemy.engine import Connection

    from imaging_node.store.database import Database

_MOST_AT_A_TIME = 2000


def _bound(name: str, column: sa.Column[Any]) -> sa.BindParameter[Any]:
    return sa.bindparam(name, type_=column.type)


# Beyond so many the names may be anything: nothing bounds what headers say.
_ADD_SCANNER = Prepared(
    scanners.insert()
    .prefix_with("OR IGNORE")
    .from_select(
        ["name"],
        sa.select(_bound("scanner_name", scanners.c.name)).where(
            sa.select(sa.func.count()).select_from(scanners).scalar_subquery() < MOST_SCANNERS
        ),
    )
)
_SCANNER_ID = sa.func.coalesce(
    sa.select(scanners.c.id)
    .where(scanners.c.name == _bound("scanner_name", scanners.c.name))
    .scalar_subquery(),
    OTHER_SCANNERS,
)
# What a later answer to the same image says; the row stays in its place of the stream.
_ANSWERED = ("outcome", "is_eligible", "numbers")
_INSERT = insert(observations).values(
    {
        each.name: _SCANNER_ID if each.name == "scanner_id" else _bound(each.name, each)
        for each in observations.c
        if each.name != "id"
    }
)
_ADD = Prepared(
    _INSERT.on_conflict_do_update(
        index_elements=["sop_instance_uid", "model_digest"],
        set_={name: _INSERT.excluded[name] for name in _ANSWERED},
    )
)
_CORRECT = Prepared(
    observations.update()
    .where(
        observations.c.sop_instance_uid
        == _bound("seen_instance_uid", observations.c.sop_instance_uid),
        observations.c.model_digest == _bound("seen_by", observations.c.model_digest),
    )
    .values({name: _bound(f"new_{name}", observations.c[name]) for name in _ANSWERED})
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenImage:
    """An observation as it is kept.

    Attributes:
        scanner_id: Number of its scanner; 0: one of those beyond the first 32.
    """

    id: int
    study_instance_uid: str
    scanner_id: int
    observation: ImageObservation


def record_observations(
    connection: Connection,
    study_instance_uid: str,
    seen: Sequence[tuple[str, ImageObservation]],
    *,
    is_archive: bool = False,
) -> None:
    """Keep what models saw of a study, by SOP Instance UID.

    A later answer of the same model replaces what the image's row says, since it is the one that
    was delivered; the row keeps its number, so that nothing is judged twice.

    Args:
        is_archive: Its studies are no part of the stream: they replace only, and add nothing.
    """
    if not seen:
        return
    rows = [_row(study_instance_uid, uid, each) for uid, each in seen]
    if is_archive:
        _CORRECT.run(connection, [_correction(row) for row in rows])
        return
    _ADD_SCANNER.run(connection, [{"scanner_name": name} for name in _names(rows)])
    _ADD.run(connection, rows)


def _correction(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "seen_instance_uid": row["sop_instance_uid"],
        "seen_by": row["model_digest"],
        **{f"new_{name}": row[name] for name in _ANSWERED},
    }


def _names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(str(row["scanner_name"]) for row in rows))


def read_observations(database: Database, model_digest: str, *, after: int) -> list[SeenImage]:
    """The next images of a model behind a row id, in order; some thousands at most.

    The images of one study's ending are never torn apart.
    """
    with database.read() as connection:
        found = list(
            connection.execute(
                _select()
                .where(observations.c.model_digest == model_digest, observations.c.id > after)
                .order_by(observations.c.id)
                .limit(_MOST_AT_A_TIME + 1)
            )
        )
    if len(found) > _MOST_AT_A_TIME:
        last = found[-1].study_instance_uid
        whole = [row for row in found if row.study_instance_uid != last]
        found = whole or found
    return list(_seen(found))


def read_last_scored(database: Database, model_digest: str, *, studies: int) -> list[SeenImage]:
    """The images of a model's newest studies, oldest first, for a reference of the node's own."""
    newest = (
        sa.select(observations.c.study_instance_uid, sa.func.max(observations.c.id).label("last"))
        .where(observations.c.model_digest == model_digest)
        .group_by(observations.c.study_instance_uid)
        .order_by(sa.desc("last"))
        .limit(studies)
        .subquery()
    )
    with database.read() as connection:
        found = connection.execute(
            _select()
            .join(newest, newest.c.study_instance_uid == observations.c.study_instance_uid)
            .where(observations.c.model_digest == model_digest)
            .order_by(observations.c.id)
        ).all()
    return list(_seen(found))


def observed_models(database: Database) -> list[tuple[str, str, int]]:
    """Name, digest and newest row id of every model that has observations."""
    with database.read() as connection:
        return [
            (row.model, row.model_digest, row.newest)
            for row in connection.execute(
                sa.select(
                    observations.c.model,
                    observations.c.model_digest,
                    sa.func.max(observations.c.id).label("newest"),
                ).group_by(observations.c.model_digest)
            )
        ]


def scanner_names(database: Database) -> dict[int, str]:
    """Name of each scanner by its number, from headers: for people, never for logs or metrics."""
    with database.read() as connection:
        return {row.id: row.name for row in connection.execute(sa.select(scanners))}


def remove_old_observations(database: Database, *, before: datetime, keep: int) -> int:
    """Remove what is older, or beyond the newest `keep`; returns how many."""
    beyond = (
        sa.select(observations.c.id).order_by(observations.c.id.desc()).offset(keep).limit(1)
    ).scalar_subquery()
    with database.write() as connection:
        removed = connection.execute(
            observations.delete().where(
                sa.or_(observations.c.observed_at < before, observations.c.id <= beyond)
            )
        )
    return removed.rowcount


def _select() -> sa.Select[Any]:
    return sa.select(observations, scanners.c.name.label("scanner_name")).outerjoin(
        scanners, scanners.c.id == observations.c.scanner_id
    )


def _row(study_instance_uid: str, sop_instance_uid: str, seen: ImageObservation) -> dict[str, Any]:
    return {
        "model": seen.model,
        "model_digest": seen.model_digest,
        "study_instance_uid": study_instance_uid,
        "sop_instance_uid": sop_instance_uid,
        "observed_at": seen.observed_at,
        "scanner_name": seen.scanner,
        "view_position": seen.view_position,
        "sex": seen.sex,
        "age_band": seen.age_band,
        "outcome": seen.outcome,
        "is_eligible": seen.is_eligible,
        "numbers": json.dumps(
            [seen.probabilities, seen.presences, seen.disagreement, seen.quantities],
            separators=(",", ":"),
        ),
    }


def _seen(rows: Sequence[sa.Row[Any]]) -> Iterator[SeenImage]:
    for row in rows:
        try:
            probabilities, presences, disagreement, quantities = json.loads(row.numbers)
            observation = ImageObservation(
                model=row.model,
                model_digest=row.model_digest,
                observed_at=row.observed_at,
                scanner=row.scanner_name or "other",
                view_position=row.view_position,
                sex=row.sex,
                age_band=row.age_band,
                outcome=row.outcome,
                is_eligible=row.is_eligible,
                probabilities=probabilities,
                presences=presences,
                disagreement=disagreement,
                quantities=quantities,
            )
        except (TypeError, ValueError, AttributeError):
            continue  # damaged: one image less
        yield SeenImage(
            id=row.id,
            study_instance_uid=row.study_instance_uid,
            scanner_id=row.scanner_id,
            observation=observation,
        )
