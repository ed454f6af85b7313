"""Benchmark of result objects: one header, one report, one capture at a time on one core."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import cv2
import numpy as np
import typer
from bench_workloads import render

from imaging_node.dicom.report import build_report
from imaging_node.dicom.report_writer import ReportWriter
from imaging_node.dicom.saliency_capture import build_capture
from imaging_node.dicom.source import SourceHeader, read_source
from imaging_node.domain.finding import (
    AnalysisStatus,
    FindingScore,
    ModelIdentity,
    SaliencyMap,
    StudyResult,
)
from imaging_node.domain.image import DecodedImage
from imaging_node.domain.result_object import NodeIdentity, ResultContext

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

LABELS = (
    "Pneumonia", "Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule",
    "Pneumothorax", "Consolidation", "Edema", "Emphysema", "Fibrosis", "Hernia", "Fracture",
)  # fmt: skip
MODEL_GRID = 128
OPERATING_POINT = 0.5
STARTED_AT = datetime(2026, 1, 1, 12, tzinfo=UTC)
NODE = NodeIdentity(
    ae_title="BENCH",
    manufacturer="imaging-node",
    model_name="imaging-node",
    software_version="0",
    serial_number="0",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyToReport:
    """One synthetic study with an answer.

    Attributes:
        evidence: Map of its first finding on the model grid.
    """

    path: Path
    source: SourceHeader
    result: StudyResult
    context: ResultContext
    image: DecodedImage
    evidence: SaliencyMap


def objects(
    studies: Annotated[int, typer.Option(min=2, help="Synthetic DX studies, all different.")] = 12,
    rounds: Annotated[int, typer.Option(min=1, help="Times that each study is done.")] = 10,
) -> None:
    """Time each step from a spooled header to encoded objects, in core-ms of this thread."""
    cv2.setNumThreads(1)  # as in the score role
    typer.echo(f"load before: {_load()}, {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory(prefix="imaging-node-bench-") as folder:
        paths = render(Path(folder) / "DX", "DX", studies)
        for findings in (1, len(LABELS)):
            typer.echo(f"{studies} studies of one DX 2500 x 2048, {findings} findings:")
            _compare(
                [_answered(path, number, findings) for number, path in enumerate(paths)], rounds
            )
    typer.echo(f"load after: {_load()}")


def _compare(studies: Sequence[StudyToReport], rounds: int) -> None:
    writer = ReportWriter()
    steps: dict[str, Callable[[StudyToReport], object]] = {
        "source header": lambda each: read_source(each.path),
        "SR built by highdicom": lambda each: build_report(
            sources=[each.source], result=each.result, context=each.context, captures=[]
        ),
        "SR encoded directly": lambda each: writer.write(
            sources=[each.source], result=each.result, context=each.context, captures=[]
        ),
        "capture, 1024": lambda each: _capture(each, 1024),
        "capture, 2048": lambda each: _capture(each, 2048),
    }
    taken: dict[str, list[float]] = {step: [] for step in steps}
    for number in range(rounds + 1):
        for study in studies:
            for step, make in steps.items():
                began = time.thread_time()
                make(study)
                if number:  # in the first round caches fill and shapes are proven
                    taken[step].append((time.thread_time() - began) * 1000)
    for step, each in taken.items():
        typer.echo(
            f"  {step:>21}: median {statistics.median(each):6.2f} core-ms,"
            f" {min(each):.2f} to {max(each):.2f} in {len(each)}"
        )
    built, encoded = (
        statistics.median(taken[step]) for step in ("SR built by highdicom", "SR encoded directly")
    )
    typer.echo(f"  encoded directly takes {encoded / built:.3f} of built by highdicom")


def _answered(path: Path, number: int, findings: int) -> StudyToReport:
    """Study with an answer of its own, and with pixels of its own shape."""
    random = np.random.default_rng(number)
    source = read_source(path)
    uid = source.sop_instance_uid
    rows, columns = (2500, 2048) if number % 2 else (2991 - number, 2443)
    grid = random.normal(0, 1, (MODEL_GRID // 32, MODEL_GRID // 32)).astype(np.float32)
    evidence = cv2.resize(grid, (MODEL_GRID, MODEL_GRID), interpolation=cv2.INTER_LINEAR)
    return StudyToReport(
        path=path,
        source=source,
        result=StudyResult(
            model=ModelIdentity(
                name="bench", version="1", manufacturer="bench", digest="sha256:" + "0" * 64
            ),
            status=AnalysisStatus.COMPLETE,
            findings=tuple(_score(label, uid, random) for label in LABELS[:findings]),
            started_at=STARTED_AT,
        ),
        context=ResultContext(
            node=NODE,
            source_sop_instance_uids=(uid,),
            settings_digest="sha256:" + "1" * 64,
            revision=0,
            predecessor=None,
            series_started_at=lambda _series_instance_uid: STARTED_AT,
        ),
        image=DecodedImage(
            sop_instance_uid=uid, p_values=random.random((rows, columns), np.float32)
        ),
        evidence=SaliencyMap(
            label=LABELS[0], sop_instance_uid=uid, values=np.asarray(evidence, np.float32)
        ),
    )


def _score(label: str, uid: str, random: np.random.Generator) -> FindingScore:
    probability = float(random.uniform(OPERATING_POINT, 1))
    return FindingScore(
        label=label,
        probability=probability,
        interval=(probability / 2, probability),
        spread=float(random.uniform(0, 0.1)),
        operating_point=OPERATING_POINT,
        undetermined_from=OPERATING_POINT / 2,
        sop_instance_uid=uid,
    )


def _capture(study: StudyToReport, long_side: int) -> object:
    return build_capture(
        source=study.source,
        image=study.image,
        score=study.result.findings[0],
        saliency=study.evidence,
        result=study.result,
        context=study.context,
        label_index=0,
        is_verified=True,
        long_side=long_side,
    )


def _load() -> str:
    return " ".join(f"{each:.2f}" for each in os.getloadavg())


if __name__ == "__main__":
    typer.run(objects)
