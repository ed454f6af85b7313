"""What the models say about a study: scores, maps, and why there is none."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from imaging_node.domain.errors import NotAnalysedError

FloatImage = npt.NDArray[np.float32]
"""Two-dimensional float32 array, shape (rows, columns)."""

MAXIMUM_SPREAD = 0.5


class Presence(StrEnum):
    """Call of one finding, the words of CID 240."""

    PRESENT = "present"
    ABSENT = "absent"
    UNDETERMINED = "undetermined"


class NotAnalysedReason(StrEnum):
    """Why a study that a model is meant for has no scores."""

    UNDECODABLE = "undecodable pixels"
    NO_PIXELS = "no pixel data"
    NO_ELIGIBLE_IMAGE = "no eligible image"
    VIEW = "not a frontal view"
    BODY_PART = "another body part"
    AGE = "age outside the model's range"
    SOP_CLASS = "kind of image not accepted by the model"
    PHOTOMETRIC = "colour or unsupported photometric interpretation"
    MULTI_FRAME = "several frames where one is expected"
    TOO_SMALL = "image too small"
    TOO_MANY = "more images than the model takes"
    NOT_FOR_PRESENTATION = "image for processing, not for presentation"
    BLANK = "blank image"
    SATURATED = "image black or white beyond detail"
    COLLIMATION = "collimated too far"
    TEXT = "covered by writing or graphics"
    ROTATED = "image turned"
    INVERTED = "grey scale inverted"
    COMPRESSION = "compressed with too much loss"
    UNFAMILIAR = "unlike the images that the model knows"
    QUALITY = "refused by a quality gate"
    GEOMETRY = "slices that make no volume"
    MODEL_OUTPUT = "scores that are not numbers"
    SOFTWARE = "software failure"


@dataclass(frozen=True, slots=True, kw_only=True)
class FindingScore:
    """One finding, scored by the whole ensemble on one image.

    Attributes:
        label: The bundle's label, a key of `dicom.terminology`, e.g. "Pneumonia".
        probability: Calibrated probability in [0, 1]; None when not evaluated.
        interval: 95 % interval of the calibration curve at this score, both in [0, 1];
            None when not evaluated or not estimated.
        spread: Standard deviation of the members' calibrated probabilities, in [0, 0.5].
        operating_point: Lowest probability that is called present.
        undetermined_from: Lowest probability that is not called absent.
        sop_instance_uid: Image that the score comes from; empty when not evaluated.
        absence_withheld: True when an image of the study could not be analysed, so that
            a low score is called undetermined instead of absent.
        is_contested: True when the members differ by more than the bundle allows: whatever
            they say together, the finding is left open.
        model, model_digest: Name and digest of the bundle that answered, as in `ModelIdentity`,
            once the answers of several stand together; "" before, and in rows of versions
            before 0.4.
    """

    label: str
    probability: float | None
    interval: tuple[float, float] | None = None
    spread: float | None = None
    operating_point: float
    undetermined_from: float
    sop_instance_uid: str = ""
    absence_withheld: bool = False
    is_contested: bool = False
    model: str = ""
    model_digest: str = ""

    def __post_init__(self) -> None:
        """Refuse what is not a probability; NaN fails every comparison."""
        if not 0 <= self.undetermined_from <= self.operating_point <= 1:
            raise ValueError(
                f"{self.label}: thresholds must satisfy 0 <= undetermined_from"
                f" ({self.undetermined_from}) <= operating_point ({self.operating_point}) <= 1"
            )
        numbers = [0.0 if self.probability is None else self.probability, *(self.interval or ())]
        if not all(0 <= number <= 1 for number in numbers):
            raise NotAnalysedError(
                f"{self.label}: the model answered p={self.probability}, interval={self.interval},"
                " which are no probabilities; report the bundle to its author",
                reason=NotAnalysedReason.MODEL_OUTPUT,
            )
        if self.spread is not None and not 0 <= self.spread <= MAXIMUM_SPREAD:
            raise NotAnalysedError(
                f"{self.label}: the members' spread {self.spread} is not in [0, 0.5];"
                " report the bundle to its author",
                reason=NotAnalysedReason.MODEL_OUTPUT,
            )

    @property
    def presence(self) -> Presence:
        """The call: undetermined when not evaluated."""
        if self.probability is None or self.is_contested:
            return Presence.UNDETERMINED
        if self.probability >= self.operating_point:
            return Presence.PRESENT
        if self.probability >= self.undetermined_from or self.absence_withheld:
            return Presence.UNDETERMINED
        return Presence.ABSENT

    @property
    def is_present(self) -> bool:
        """True when the finding is called present."""
        return self.presence is Presence.PRESENT


@dataclass(frozen=True, slots=True, kw_only=True)
class SaliencyMap:
    """Where one finding's score came from.

    Attributes:
        label: As in `FindingScore.label`.
        sop_instance_uid: Image that the map lies on.
        values: Evidence for the finding in logits per pixel area; float32, shape (rows, columns)
            of the source or of any other grid that covers the whole image, corner to corner;
            positive raised the score. What the model never saw is 0.
    """

    label: str
    sop_instance_uid: str
    values: FloatImage

    @property
    def peak(self) -> float:
        """Evidence at the strongest pixel of the map's own grid; 0 if nothing raised the score."""
        return max(0.0, float(self.values.max(initial=0.0)))


class AnalysisStatus(StrEnum):
    """How much of what was asked for was evaluated."""

    COMPLETE = "complete"
    PARTIAL = "partial"
    NOT_ANALYSED = "not analysed"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelIdentity:
    """The bundle that answered, as written into every result object.

    Attributes:
        name: Bundle name, e.g. "chest_xray_pneumonia".
        version: Bundle version, e.g. "0.1.0".
        manufacturer: Who made the bundle.
        digest: "sha256:" and 64 hex digits over weights, preprocessing and labels.
    """

    name: str
    version: str
    manufacturer: str
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyResult:
    """The answer for one study by one model.

    Attributes:
        status: COMPLETE, PARTIAL (an image failed) or NOT_ANALYSED (every finding undetermined).
        findings: One per requested finding, in the bundle's order, also when not evaluated.
        reasons: Why something was not evaluated, most important first.
        remarks: English sentences for the reader: waived rules, assumed body part, site
            operating points. No patient data.
        started_at: Start of the analysis, timezone-aware.
    """

    model: ModelIdentity
    status: AnalysisStatus
    findings: tuple[FindingScore, ...]
    reasons: tuple[NotAnalysedReason, ...] = ()
    remarks: tuple[str, ...] = ()
    started_at: datetime

    def __post_init__(self) -> None:
        """Refuse an answer that could be read as normal for a study nobody analysed."""
        if self.status is AnalysisStatus.NOT_ANALYSED:
            if any(score.probability is not None for score in self.findings) or not self.reasons:
                raise ValueError("a study that was not analysed has no scores, and has a reason")
        elif any(score.probability is None for score in self.findings) or not self.findings:
            raise ValueError("an analysed study has a score for every requested finding")
        if self.started_at.tzinfo is None:
            raise ValueError("started_at must be timezone-aware")
