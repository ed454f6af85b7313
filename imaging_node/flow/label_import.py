"""Final labels from a CSV file: what studies really showed."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from typing import TYPE_CHECKING

from imaging_node.domain.errors import OperatorError
from imaging_node.domain.watching import LabelSource
from imaging_node.store.labels import GivenLabel, labels_known, record_labels, studies_named
from imaging_node.telemetry import Event, log

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from imaging_node.store.database import Database

UID_COLUMN, ACCESSION_COLUMN = "study_instance_uid", "accession_number"
FINDING_COLUMN, PRESENT_COLUMN = "finding", "present"
_MOST_ERRORS = 50
_CONTRADICTED = "another line says the opposite of this finding in this study"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportOutcome:
    """What came of an import.

    Attributes:
        lines: Lines with a label.
        news: Labels that say something else than before.
        faults: Lines that were left out, by number and cause: never by what they say.
    """

    lines: int
    news: int
    faults: tuple[str, ...]


class _LineError(Exception):
    """A line says nothing that can be used."""


def import_labels(database: Database, path: Path, *, now: datetime) -> ImportOutcome:
    """Take over final labels: `study_instance_uid` or `accession_number`, `finding`, `present`.

    Lines that cannot be used are left out, and so are all that say both of one finding of one
    study: which of them is right, nobody here knows. The same file again changes nothing.

    Raises:
        OperatorError: The file cannot be read, or has other columns.
        StorageError: Some or no labels were kept; the file can be imported again.
    """
    given: list[tuple[int, GivenLabel]] = []
    faults: list[tuple[int, str]] = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restkey="", strict=True)
            _require_columns(reader.fieldnames or ())
            for row in reader:
                try:
                    given.append((reader.line_num, _label_of(row, database)))
                except _LineError as error:
                    faults.append((reader.line_num, str(error)))
    except OSError as error:
        raise OperatorError(
            f"cannot read the labels ({error.strerror}); name a readable CSV file"
        ) from None
    except (UnicodeDecodeError, csv.Error):
        # Their messages quote the file.
        raise OperatorError(
            "cannot read the labels: not CSV in UTF-8; nothing was imported"
        ) from None
    contradicted = _contradicted(given)
    faults += [(line, _CONTRADICTED) for line, each in given if each[:2] in contradicted]
    usable = [each for _, each in given if each[:2] not in contradicted]
    news = record_labels(database, usable, source=LabelSource.CSV, now=now)
    log(Event.LABELS_IMPORTED, count=news)
    hidden = len(faults) - _MOST_ERRORS
    told = [f"line {line}: {cause}" for line, cause in sorted(faults)[:_MOST_ERRORS]]
    shown = [*told, *([f"and {hidden} more lines"] if hidden > 0 else [])]
    return ImportOutcome(lines=len(usable), news=news, faults=tuple(shown))


def _contradicted(given: Sequence[tuple[int, GivenLabel]]) -> set[tuple[str, str]]:
    """Study and finding that are said to be present and absent."""
    said: dict[tuple[str, str], bool] = {}
    found = set()
    for _, each in given:
        key = (each.study_instance_uid, each.label)
        if said.setdefault(key, each.is_present) != each.is_present:
            found.add(key)
    return found


def _require_columns(names: object) -> None:
    found = set(names) if isinstance(names, list | tuple) else set()
    if not {FINDING_COLUMN, PRESENT_COLUMN} <= found or not {UID_COLUMN, ACCESSION_COLUMN} & found:
        raise OperatorError(
            f"cannot read the labels: the first line must name {FINDING_COLUMN}, {PRESENT_COLUMN},"
            f" and {UID_COLUMN} or {ACCESSION_COLUMN}; nothing was imported"
        )


def _label_of(row: Mapping[str, str | None], database: Database) -> GivenLabel:
    uid, accession, finding, present = (
        (row.get(name) or "").strip()
        for name in (UID_COLUMN, ACCESSION_COLUMN, FINDING_COLUMN, PRESENT_COLUMN)
    )
    if present not in ("0", "1"):
        raise _LineError(f"{PRESENT_COLUMN} must be 0 or 1")
    if not uid and not accession:
        raise _LineError("names no study")
    found = studies_named(database, study_instance_uid=uid, accession_number=accession)
    if not found:
        raise _LineError("no such study here")
    if uid and accession and accession != found[0].accession_number:
        raise _LineError("UID and accession number disagree")
    if len(found) > 1:
        raise _LineError(f"{len(found)} studies have this accession number; give the UID")
    study = found[0].study_instance_uid
    if finding not in labels_known(database, study):
        raise _LineError("no model scored this finding in this study")
    return GivenLabel(study, finding, is_present=present == "1")
