"""Send studies to a node on loopback, wait for every answer, keep what the PACS received."""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from imaging_node.demonstration.local_node import LOOPBACK, LocalNode
from imaging_node.demonstration.table import DemoRow, answer_in_words
from imaging_node.dicom.file_format import split_part10
from imaging_node.dicom.headers import read_header
from imaging_node.dicom.phantom import DEMO_STUDIES
from imaging_node.dicom.saliency_capture import capture_png
from imaging_node.dicom.sender import Caller
from imaging_node.domain.errors import OperatorError, RejectedInstanceError
from imaging_node.domain.lifecycle import DeliveryState, StudyState
from imaging_node.domain.priority import ReadingPriority
from imaging_node.flow.sending import find_files, send_files
from imaging_node.node.wiring import now, open_state
from imaging_node.settings import PeerSettings, Settings
from imaging_node.store.listings import list_objects, list_worklist

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from imaging_node.dicom.pacs import StoredByPacs
    from imaging_node.domain.records import WorklistRow

_CALLER = Caller(ae_title="DEMO_MODALITY", timeout_s=30.0)
_LIMIT_S = 120.0
_LIMIT_PER_STUDY_S = 10.0
_QUIET_PERIOD_S = 1.0
_KEPT_SETTINGS = {"models", "model_directory", "scoring", "priority", "answer_not_applicable"}


@dataclass(slots=True)
class SentStudy:
    """One study of the demo.

    Attributes:
        name: For the table and file names; never text from a dataset.
        files: Its instances as DICOM files.
        refused: Statuses of instances that the node refused.
    """

    name: str
    description: str
    study_instance_uid: str
    files: list[Path]
    last_sent_at: datetime | None = None
    refused: list[str] = field(default_factory=list)


def run_demo(
    paths: Sequence[Path], out: Path, settings: Settings, *, say: Callable[[str], None]
) -> list[DemoRow]:
    """Run the demo with the synthetic studies, or with the DICOM files at `paths`.

    Args:
        settings: Their models, scoring and priority rules are the demo node's; ports, peers and
            state directory are its own.

    Returns:
        One row a study; those without an answer say so.

    Raises:
        OperatorError: The node did not start, or no DICOM file was found.
    """
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="imaging-node-demo-") as folder:
        studies = own_studies(paths) if paths else synthetic_studies(Path(folder))
        say("starting a node and a receiving PACS on loopback")
        kept = settings.model_dump(mode="json", include=_KEPT_SETTINGS)
        changes = kept | {"study": {"quiet_period_s": _QUIET_PERIOD_S}}
        with LocalNode(Path(folder), changes) as node:
            say(f"sending {len(studies)} studies")
            for study in studies:
                _send(study, node)
            say("waiting for the answers")
            rows = _await_answers(studies, node)
            _keep_results(studies, node, out)
            return [
                _table_row(study, rows.get(study.study_instance_uid), node) for study in studies
            ]


def synthetic_studies(folder: Path) -> list[SentStudy]:
    """The demo's studies, rendered and written below `folder`."""
    run = f"{time.time_ns():x}"
    studies = []
    for phantom in DEMO_STUDIES:
        path = folder / f"{phantom.name}.dcm"
        payload = phantom.part_10(run=run, study_at=now())
        path.write_bytes(payload)
        studies.append(
            SentStudy(
                name=phantom.name,
                description=phantom.description,
                study_instance_uid=_study_uid(payload),
                files=[path],
            )
        )
    return studies


def own_studies(paths: Sequence[Path]) -> list[SentStudy]:
    """The studies among the person's own files.

    Raises:
        OperatorError: There is none.
    """
    files: dict[str, list[Path]] = defaultdict(list)
    for path in find_files(paths):
        try:
            files[_study_uid(path.read_bytes())].append(path)
        except RejectedInstanceError:
            continue
    if not files:
        raise OperatorError("none of these files is a DICOM file that names a study; name others")
    return [
        SentStudy(
            name=f"study-{number:02d}",
            description=f"study {number} of yours, {len(instances)} file(s)",
            study_instance_uid=uid,
            files=instances,
        )
        for number, (uid, instances) in enumerate(sorted(files.items()), start=1)
    ]


def _study_uid(payload: bytes) -> str:
    transfer_syntax_uid, dataset = split_part10(payload)
    return read_header(dataset, transfer_syntax_uid=transfer_syntax_uid).image.study_instance_uid


def _send(study: SentStudy, node: LocalNode) -> None:
    listener = PeerSettings(
        ae_title=node.settings.dicom.ae_title, host=LOOPBACK, port=node.settings.dicom.port
    )
    outcome = send_files(study.files, listener, _CALLER, advance=lambda: None)
    study.refused = outcome.refused
    study.last_sent_at = datetime.now(UTC)


def _await_answers(studies: Sequence[SentStudy], node: LocalNode) -> dict[str, WorklistRow]:
    """Rows of the node's worklist, once all have ended and all results are at the PACS."""
    database, _, pseudonyms = open_state(node.settings)
    wanted = {
        study.study_instance_uid for study in studies if len(study.refused) < len(study.files)
    }
    deadline = time.monotonic() + _LIMIT_S + _LIMIT_PER_STUDY_S * len(studies)
    rows: dict[str, WorklistRow] = {}
    while time.monotonic() < deadline:
        rows = {
            row.study.study_instance_uid: row
            for row in list_worklist(database, pseudonyms, now=now())
        }
        if wanted <= {uid for uid, row in rows.items() if _is_answered(row)}:
            break
        time.sleep(0.2)
    database.close()
    return rows


def _is_answered(row: WorklistRow) -> bool:
    return row.study.state.is_final and not row.deliveries.get(DeliveryState.WAITING)


def _keep_results(studies: Sequence[SentStudy], node: LocalNode, out: Path) -> None:
    """Write what the PACS received: reports and captures, captures as pictures too."""
    database, _, _ = open_state(node.settings)
    by_uid = {stored.sop_instance_uid: stored for stored in node.pacs.stored}
    for study in studies:
        for kept in list_objects(database, study.study_instance_uid):
            stored = by_uid.get(kept.sop_instance_uid)
            if stored is None:
                continue
            label = f"-{kept.label.lower()}" if kept.label else ""
            path = out / f"{study.name}-{kept.kind}{label}.dcm"
            path.write_bytes(stored.payload)
            if not stored.is_report:
                path.with_suffix(".png").write_bytes(capture_png(stored.payload))
    database.close()


def _table_row(study: SentStudy, row: WorklistRow | None, node: LocalNode) -> DemoRow:
    reports = [
        stored
        for stored in node.pacs.stored
        if stored.is_report and stored.study_instance_uid == study.study_instance_uid
    ]
    seconds = None
    if reports and study.last_sent_at is not None:
        seconds = (reports[-1].stored_at - study.last_sent_at).total_seconds()
    return DemoRow(
        study=study.description,
        answer=_answer(study, row, reports),
        priority=row.study.priority if row else ReadingPriority.ROUTINE,
        seconds=seconds,
    )


def _answer(study: SentStudy, row: WorklistRow | None, reports: Sequence[StoredByPacs]) -> str:
    """What came back; "" unless an SR is at the PACS, or no model is meant for the study."""
    if study.refused:
        return f"refused at the door: {', '.join(sorted(set(study.refused)))}"
    if row is None:
        return ""
    if row.study.state is StudyState.NOT_APPLICABLE:
        return f"not applicable: {row.study.reason}"
    if row.study.state not in (StudyState.DONE, StudyState.NOT_ANALYSED) or not reports:
        return ""
    return answer_in_words(row.findings, row.study.reason)
