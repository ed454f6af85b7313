"""An archive through the same scoring: resumable, every study to an end, one line each.

The run's state lies in a folder of its own inside the output folder: instances are noted with
the path of their file, which stays where it is; results are kept and exported. Killed and
started again, noted files are not read again and ended studies are not scored again.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

from imaging_node.dicom.file_format import split_part10
from imaging_node.dicom.headers import read_header
from imaging_node.dicom.intake_port import IncomingInstance
from imaging_node.dicom.saliency_capture import capture_png
from imaging_node.domain.errors import RejectedInstanceError
from imaging_node.domain.result_object import ObjectKind
from imaging_node.flow.intake import IntakeRoom, accept_instance
from imaging_node.store.arrivals import ArrivingInstance, known_paths, note_arrival
from imaging_node.store.content_digest import digest_of
from imaging_node.store.listings import list_objects, list_worklist

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from imaging_node.dicom.headers import ReceivedHeader
    from imaging_node.domain.records import WorklistRow
    from imaging_node.flow.analysis import ModelAnswer
    from imaging_node.store.database import Database
    from imaging_node.store.spool import Spool
    from imaging_node.telemetry import Pseudonyms

RESULTS_NAME = "results.jsonl"
# An archive is read whole before its first study is scored: nothing is still to come.
_NO_QUIET_PERIOD = timedelta(0)
# An ending is dated before its transaction waits for the database: a study that ended earlier may
# show up after one that ended later.
_LATEST_TO_APPEAR = timedelta(minutes=2)


@dataclass(slots=True)
class ScanOutcome:
    """What a scan of an archive found.

    Attributes:
        noted: Files that are instances of studies.
        skipped: Files that are no DICOM files, name no study, or are results of our own.
        refused: Files that contradict others, such as a study of two patients.
    """

    noted: int = 0
    skipped: int = 0
    refused: int = 0


def scan_archive(
    files: Sequence[Path],
    database: Database,
    *,
    clock: Callable[[], datetime],
    advance: Callable[[], None],
) -> ScanOutcome:
    """Note every DICOM file where it lies; files noted by an earlier run are not read again."""
    known = known_paths(database)
    outcome = ScanOutcome()
    for path in files:
        advance()
        if str(path.absolute()) in known:
            outcome.noted += 1
            continue
        try:
            payload = path.read_bytes()
            header = _read_file_header(payload)
        except (RejectedInstanceError, OSError):
            outcome.skipped += 1
            continue
        if header.is_own_result:
            outcome.skipped += 1
            continue
        try:
            note_arrival(
                database,
                ArrivingInstance(
                    image=replace(
                        header.image,
                        path=path.absolute(),
                        digest=digest_of(payload),
                    ),
                    is_in_spool=False,
                    patient_digest=header.patient_digest,
                    accession_number=header.accession_number,
                    study_at=header.study_at,
                    ordered_priority=header.ordered_priority,
                    calling_ae_title="",
                    is_archive=True,
                ),
                now=clock(),
                quiet_period=_NO_QUIET_PERIOD,
            )
        except RejectedInstanceError:
            outcome.refused += 1
        else:
            outcome.noted += 1
    return outcome


def queue_archive(
    files: Sequence[Path], room: IntakeRoom, *, advance: Callable[[], None]
) -> ScanOutcome:
    """Put every DICOM file into a running node, at archive priority."""
    outcome = ScanOutcome()
    for path in files:
        advance()
        try:
            payload = path.read_bytes()
            header = _read_file_header(payload)
        except (RejectedInstanceError, OSError):
            outcome.skipped += 1
            continue
        image = header.image
        try:
            accept_instance(
                IncomingInstance(
                    sop_class_uid=image.sop_class_uid,
                    sop_instance_uid=image.sop_instance_uid,
                    transfer_syntax_uid=image.transfer_syntax_uid,
                    calling_ae_title="",
                    is_high_priority=False,
                ),
                split_part10(payload)[1],
                room,
            )
        except RejectedInstanceError:
            outcome.refused += 1
        else:
            outcome.noted += 1
    return outcome


def exported_studies(out: Path) -> set[str]:
    """Studies that have their line already; a line cut off by a kill is removed."""
    results = out / RESULTS_NAME
    if not results.exists():
        return set()
    whole = results.read_bytes()
    kept = whole[: whole.rfind(b"\n") + 1]
    if len(kept) < len(whole):
        results.write_bytes(kept)
    return {
        f"{row['study_instance_uid']} {row['generation']}"
        for row in map(json.loads, kept.splitlines())
    }


def export_study(
    row: WorklistRow, out: Path, *, database: Database, spool: Spool, pseudonyms: Pseudonyms
) -> None:
    """Write an ended study's SR and captures, then its line: the line says that all is there."""
    folder = out / "studies" / row.token
    folder.mkdir(parents=True, exist_ok=True)
    files: list[dict[str, str]] = []
    for stored in list_objects(database, row.study.study_instance_uid):
        label = f"-{stored.label.lower()}" if stored.label else ""
        name = f"{stored.kind}{label}-{pseudonyms.token(stored.sop_instance_uid)[:8]}.dcm"
        payload = spool.read(stored.digest)
        _write(folder / name, payload)
        if stored.kind is ObjectKind.CAPTURE:
            _write((folder / name).with_suffix(".png"), capture_png(payload))
        files.append({"kind": stored.kind, "file": f"studies/{row.token}/{name}"})
    with (out / RESULTS_NAME).open("ab") as lines:
        lines.write(json.dumps(_line(row, files)).encode() + b"\n")
        lines.flush()
        os.fsync(lines.fileno())


def export_ended(
    out: Path,
    pending: set[str],
    *,
    database: Database,
    spool: Spool,
    pseudonyms: Pseudonyms,
    since: datetime,
    advance: Callable[[], None],
) -> datetime:
    """Export the pending studies that have ended since, and take them from `pending`.

    Returns:
        From when to look the next time.
    """
    for row in list_worklist(database, pseudonyms, now=since, finished_since=since):
        key = f"{row.study.study_instance_uid} {row.study.generation}"
        if key in pending and row.study.finished_at is not None:
            export_study(row, out, database=database, spool=spool, pseudonyms=pseudonyms)
            pending.remove(key)
            since = max(since, row.study.finished_at - _LATEST_TO_APPEAR)
            advance()
    return since


def save_maps(answer: ModelAnswer, out: Path, pseudonyms: Pseudonyms) -> None:
    """Write every finding's map of every scored image, float32, source rows x columns."""
    for analysis in answer.analyses.values():
        study = next(
            each.study_instance_uid
            for each in answer.sources
            if each.sop_instance_uid == analysis.sop_instance_uid
        )
        folder = out / "studies" / pseudonyms.token(study)
        folder.mkdir(parents=True, exist_ok=True)
        for score in analysis.scores:
            image = pseudonyms.token(analysis.sop_instance_uid)[:8]
            values = analysis.map_for(score.label).values
            np.save(folder / f"map-{score.label.lower()}-{image}.npy", values, allow_pickle=False)


def _read_file_header(payload: bytes) -> ReceivedHeader:
    transfer_syntax_uid, dataset = split_part10(payload)
    return read_header(dataset, transfer_syntax_uid=transfer_syntax_uid)


def _line(row: WorklistRow, files: list[dict[str, str]]) -> dict[str, Any]:
    study = row.study
    return {
        "study_instance_uid": study.study_instance_uid,
        "accession_number": study.accession_number,
        "state": study.state,
        "reason": study.reason,
        "generation": study.generation,
        "priority": study.priority,
        "priority_reason": row.priority_reason,
        "instances": study.instances,
        "findings": [
            {
                "label": score.label,
                "model": score.model,
                "presence": score.presence,
                "probability": score.probability,
                "interval": score.interval,
                "spread": score.spread,
                "operating_point": score.operating_point,
            }
            for score in row.findings
        ],
        "remarks": row.remarks,
        "files": files,
    }


def _write(path: Path, payload: bytes) -> None:
    # Durable before the line in `results.jsonl` says that it is there.
    part = path.with_name(f"{path.name}.part")
    with part.open("wb") as file:
        file.write(payload)
        file.flush()
        os.fsync(file.fileno())
    part.rename(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
