"""What readers and final labels say a study showed; kept whole, the last word counts."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

import sqlalchemy as sa

from imaging_node.domain.finding import Presence
from imaging_node.domain.watching import LabelledCase, LabelSource
from imaging_node.store.schema import studies
from imaging_node.store.watching_schema import labels, observations, scanners

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from sqlalchemy.engine import Connection

    from imaging_node.store.database import Database


_MOST_AT_A_TIME = 500


class NamedStudy(NamedTuple):
    """A study, by its UID and its number at the hospital."""

    study_instance_uid: str
    accession_number: str


class GivenLabel(NamedTuple):
    """What one finding of one study was, by a source.

    Attributes:
        called: The model's call that a reader agreed or disagreed with; "" of a final label.
    """

    study_instance_uid: str
    label: str
    is_present: bool
    called: str = ""


def record_labels(
    database: Database, given: Sequence[GivenLabel], *, source: LabelSource, now: datetime
) -> int:
    """Keep labels; one that says what its source said last is no news.

    So many at a time that studies, which wait for the same database, hardly notice.

    Returns:
        How many were news.

    Raises:
        StorageError: Those of earlier transactions are kept; what was given can be given again.
    """
    news = 0
    for begin in range(0, len(given), _MOST_AT_A_TIME):
        batch = given[begin : begin + _MOST_AT_A_TIME]
        with database.write() as connection:
            said = _last_said(connection, batch, source)
            rows = []
            for each in batch:
                key, word = (each.study_instance_uid, each.label), (each.is_present, each.called)
                if said.get(key) == word:
                    continue
                said[key] = word
                rows.append(
                    {
                        "study_instance_uid": each.study_instance_uid,
                        "label": each.label,
                        "source": source,
                        "is_present": each.is_present,
                        "called": each.called,
                        "given_at": now,
                    }
                )
            if rows:
                connection.execute(labels.insert(), rows)
        news += len(rows)
    return news


def _last_said(
    connection: Connection, given: Sequence[GivenLabel], source: LabelSource
) -> dict[tuple[str, str], tuple[bool, str]]:
    """What a source said last of the studies that labels speak of, by study and finding."""
    named = {each.study_instance_uid for each in given}
    rows = connection.execute(
        sa.select(labels)
        .where(labels.c.study_instance_uid.in_(named), labels.c.source == source)
        .order_by(labels.c.id)
    )
    return {
        (row.study_instance_uid, row.label): (row.is_present, row.called)
        for row in rows  # the last one stays
    }


def last_verdicts(database: Database, study_instance_uid: str) -> dict[str, tuple[bool, str]]:
    """What the page's readers said last of a study: present or not, and the call then, by label."""
    with database.read() as connection:
        rows = connection.execute(
            sa.select(labels.c.label, labels.c.is_present, labels.c.called)
            .where(
                labels.c.study_instance_uid == study_instance_uid,
                labels.c.source == LabelSource.PAGE,
            )
            .order_by(labels.c.id)
        ).all()
    return {row.label: (row.is_present, row.called) for row in rows}


def count_labels(database: Database) -> int:
    """Rows of all labels ever given: it grows whenever one is."""
    with database.read() as connection:
        return connection.scalar(sa.select(sa.func.max(labels.c.id))) or 0


def studies_named(
    database: Database, *, study_instance_uid: str, accession_number: str
) -> list[NamedStudy]:
    """Studies with that UID; without one, with that accession number."""
    wanted = (
        studies.c.study_instance_uid == study_instance_uid
        if study_instance_uid
        else studies.c.accession_number == accession_number
    )
    query = sa.select(studies.c.study_instance_uid, studies.c.accession_number).where(wanted)
    with database.read() as connection:
        return [NamedStudy(*row) for row in connection.execute(query)]


def labels_known(database: Database, study_instance_uid: str) -> set[str]:
    """Findings that models scored in a study."""
    with database.read() as connection:
        rows = connection.scalars(
            sa.select(observations.c.numbers).where(
                observations.c.study_instance_uid == study_instance_uid
            )
        ).all()
    return {label for numbers in rows for label in _presences(numbers)}


def labelled_cases(database: Database, *, since: datetime | None = None) -> list[LabelledCase]:
    """Every labelled finding of every study that a model scored.

    Args:
        since: Only labels that were given at or after that time.
    """
    last = sa.select(sa.func.max(labels.c.id)).group_by(
        labels.c.study_instance_uid, labels.c.label, labels.c.source
    )
    wanted: list[sa.ColumnElement[bool]] = [labels.c.id.in_(last)]
    if since is not None:
        wanted.append(labels.c.given_at >= since)
    with database.read() as connection:
        given = connection.execute(sa.select(labels).where(*wanted).order_by(labels.c.id)).all()
        chosen = sa.select(labels.c.study_instance_uid).where(*wanted)
        seen = connection.execute(
            sa.select(observations, scanners.c.name.label("scanner_name"))
            .outerjoin(scanners, scanners.c.id == observations.c.scanner_id)
            .where(observations.c.study_instance_uid.in_(chosen), observations.c.is_eligible)
            .order_by(observations.c.id)
        ).all()
    truth: dict[tuple[str, str], sa.Row[Any]] = {}
    for row in given:
        key = (row.study_instance_uid, row.label)
        # A final label is the truth whatever was clicked, and whenever.
        if key not in truth or row.source == LabelSource.CSV:
            truth[key] = row
    answers: dict[tuple[str, str, str], list[sa.Row[Any]]] = {}
    for row in seen:
        key_of_answer = (row.study_instance_uid, row.model, row.model_digest)
        answers.setdefault(key_of_answer, []).append(row)
    cases = []
    for (study, model, digest), images in answers.items():
        calls = [_presences(image.numbers) for image in images]
        for label in dict.fromkeys(label for each in calls for label in each):
            if (study, label) not in truth:
                continue
            given_row = truth[study, label]
            # An image without scores leaves a gap: no absence was stated then.
            words = [each.get(label, Presence.UNDETERMINED) for each in calls]
            is_flagged = Presence.PRESENT in words
            first = images[0]
            cases.append(
                LabelledCase(
                    model=model,
                    model_digest=digest,
                    label=label,
                    is_flagged=is_flagged,
                    is_undetermined=not is_flagged and Presence.UNDETERMINED in words,
                    is_present=given_row.is_present,
                    source=LabelSource(given_row.source),
                    sex=first.sex,
                    age_band=first.age_band,
                    view=first.view_position,
                    scanner=first.scanner_name or "other",
                )
            )
    return cases


def _presences(numbers: str) -> dict[str, str]:
    """Calls by label from an observation's numbers; nothing of a damaged row."""
    try:
        found = json.loads(numbers)[1]
    except (ValueError, IndexError, KeyError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}
