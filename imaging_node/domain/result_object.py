"""Result objects as bytes, and what names them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from imaging_node.domain.finding import AnalysisStatus, ModelIdentity


class ObjectKind(StrEnum):
    """Kinds of result objects, each in a series of its own."""

    NOT_ANALYSED = "not-analysed-report"
    REPORT = "report"
    CAPTURE = "capture"
    SEGMENTATION = "segmentation"

    @property
    def series_number(self) -> int:
        """Series Number: 9000 not analysed, 9001 report, 9002 capture, 9005 segmentation."""
        return _SERIES_NUMBERS[self]


# 9003 and 9004 are kept for parametric maps and presentation states.
_SERIES_NUMBERS = {
    ObjectKind.NOT_ANALYSED: 9000,
    ObjectKind.REPORT: 9001,
    ObjectKind.CAPTURE: 9002,
    ObjectKind.SEGMENTATION: 9005,
}


class Answer(Protocol):
    """What every result object needs to know of an answer, calibrated or not."""

    @property
    def model(self) -> ModelIdentity:
        """Who answered."""
        ...

    @property
    def status(self) -> AnalysisStatus:
        """How much was evaluated."""
        ...

    @property
    def started_at(self) -> datetime:
        """Start of the analysis, timezone-aware."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeIdentity:
    """The installation that answers, as written into every result object.

    Attributes:
        ae_title: AE title of the installation; seeds its Device Observer UID.
        manufacturer, model_name, software_version, serial_number: Equipment module.
    """

    ae_title: str
    manufacturer: str
    model_name: str
    software_version: str
    serial_number: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportReference:
    """An SR that the node sent before for the same study, to be named as predecessor."""

    study_instance_uid: str
    series_instance_uid: str
    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultContext:
    """All that decides the UIDs and the provenance of the result objects of one answer.

    Attributes:
        source_sop_instance_uids: Every instance of the study that the answer rests on.
        settings_digest: "sha256:..." over the settings that can change a result.
        revision: How many answers of this study by any model went out before; 0 is the first.
        predecessor: The SR that this one replaces, None for the first.
        series_started_at: Date and time of a series by its Series Instance UID, the same
            for every object ever put into that series; timezone-aware.
    """

    node: NodeIdentity
    source_sop_instance_uids: tuple[str, ...]
    settings_digest: str
    revision: int
    predecessor: ReportReference | None
    series_started_at: Callable[[str], datetime]


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultObject:
    """One encoded DICOM Part 10 file, never changed after it was built.

    Attributes:
        label: Finding that a capture shows; "" for a report.
        payload: The whole file, preamble of zeros included.
    """

    kind: ObjectKind
    label: str
    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    transfer_syntax_uid: str
    payload: bytes
