"""What one foreign model says about one study: choose images, decode, run, count.

It never calls anything present or absent; see `domain.foreign_result`.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from hashlib import sha256
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from imaging_node.dicom.decoding import DecodingPool
from imaging_node.dicom.source import SourceHeader, read_source
from imaging_node.dicom.volume import FEWEST_SLICES, stack_slices
from imaging_node.domain.errors import NotAnalysedError
from imaging_node.domain.finding import AnalysisStatus, NotAnalysedReason
from imaging_node.domain.foreign_result import ForeignFinding, ForeignResult, ForeignTask
from imaging_node.inference.foreign_bundle import ForeignBundle
from imaging_node.inference.foreign_runner import ForeignLimits, ForeignOutput, run_foreign
from imaging_node.store.spool import require_unchanged

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from imaging_node.domain.finding import FloatImage
    from imaging_node.domain.study import ImageInstance, Study
    from imaging_node.domain.volume import Volume

MOST_IMAGES = 16
"""Single images of one study that a foreign model answers for; each takes a process."""

_MOST_SLICES = 4096
_LEAST_LIMIT_S = 1.0
_DISPLAY_MAXIMUM = np.float32(255)
_PHOTOMETRIC = frozenset({"MONOCHROME1", "MONOCHROME2"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignModel:
    """An installed foreign bundle and what the site decided about it.

    Attributes:
        trust_code: The hash that an operator trusted; another one is refused at each run.
    """

    bundle: ForeignBundle
    trust_code: str
    limits: ForeignLimits = field(default_factory=ForeignLimits)

    @property
    def settings_digest(self) -> str:
        """Digest of what the site can change in its results: nothing beyond the bundle."""
        return f"sha256:{sha256(b'foreign').hexdigest()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignAnswer:
    """One foreign model's answer, with what is needed to write it down.

    Attributes:
        sources: Images that were analysed, slices in the order of the masks; or those that the
            model was meant for.
        masks: As `build_segmentation` takes them, on the slices of `sources`; None without.
    """

    model: ForeignModel
    result: ForeignResult
    sources: tuple[SourceHeader, ...]
    masks: npt.NDArray[np.uint8] | None = None


def analyse_foreign(
    study: Study,
    model: ForeignModel,
    decoder: DecodingPool,
    *,
    started_at: datetime,
    explain: Callable[[str], None] | None = None,
) -> ForeignAnswer | None:
    """Have a foreign model answer for a study.

    Args:
        explain: As `run_foreign`.

    Returns:
        None when the model is not meant for the study. Otherwise an answer, which says "not
        analysed" when there is no image or series that it could take, or when it failed.

    Raises:
        BundleError: The bundle is not the one that was trusted.
        IdentityHeldError: The study's identity must be settled by an administrator first.
        IntegrityError: A file is not what was received.
        TemporaryError: Something else is at fault; the same may succeed later.
    """
    declaration = model.bundle.declaration
    meant = sorted(
        (each for each in study.instances if each.modality in declaration.modalities),
        key=lambda each: (each.series_instance_uid, each.sop_instance_uid),
    )
    if not meant:
        return None
    run = _Run(model=model, decoder=decoder, started_at=started_at, explain=explain)
    if declaration.spatial_dimensions == 3:  # noqa: PLR2004 - dimensions
        return _series_answer(meant, run)
    return _image_answer(meant, run)


def decline_foreign(
    study: Study, model: ForeignModel, reason: NotAnalysedReason, *, started_at: datetime
) -> ForeignAnswer | None:
    """An answer "not analysed" of a model that is not run; None when it is not meant for it.

    Raises:
        IdentityHeldError, IntegrityError: As `analyse_foreign`.
    """
    meant = [
        each for each in study.instances if each.modality in model.bundle.declaration.modalities
    ]
    if not meant:
        return None
    return _declined(model, meant, [reason], [], started_at=started_at)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    model: ForeignModel
    decoder: DecodingPool
    started_at: datetime
    explain: Callable[[str], None] | None

    def ask(
        self,
        voxels: npt.NDArray[np.float32],
        affine: npt.NDArray[np.float64],
        *,
        spent_s: float = 0.0,
    ) -> ForeignOutput:
        """The bundle's answer for one volume or image, in what is left of its time."""
        limits = self.model.limits
        left_s = max(_LEAST_LIMIT_S, limits.time_limit_s - spent_s)
        return run_foreign(
            self.model.bundle,
            voxels,
            affine,
            trust_code=self.model.trust_code,
            limits=replace(limits, time_limit_s=left_s),
            explain=self.explain,
        )

    def values(self, image: ImageInstance) -> FloatImage:
        """What the network takes: HU or the like, or P-Values times 255."""
        require_unchanged(image.path, image.digest)
        if self.model.bundle.declaration.has_modality_values:
            return self.decoder.modality_values(image.path)
        decoded = self.decoder.decode(image.path, image.sop_instance_uid)
        return decoded.p_values * _DISPLAY_MAXIMUM

    def result(
        self,
        status: AnalysisStatus,
        findings: Iterable[ForeignFinding],
        reasons: Sequence[NotAnalysedReason],
        remarks: Sequence[str],
    ) -> ForeignResult:
        """An answer in words."""
        return _result(self.model, status, findings, reasons, remarks, started_at=self.started_at)

    def declined(
        self,
        meant: Sequence[ImageInstance],
        reasons: Sequence[NotAnalysedReason],
        remarks: Sequence[str],
    ) -> ForeignAnswer:
        """Not analysed."""
        return _declined(self.model, meant, reasons, remarks, started_at=self.started_at)


def _result(
    model: ForeignModel,
    status: AnalysisStatus,
    findings: Iterable[ForeignFinding],
    reasons: Sequence[NotAnalysedReason],
    remarks: Sequence[str],
    *,
    started_at: datetime,
) -> ForeignResult:
    return ForeignResult(
        model=model.bundle.identity,
        task=model.bundle.declaration.task,
        status=status,
        findings=tuple(findings),
        reasons=tuple(dict.fromkeys(reasons)),
        remarks=tuple(dict.fromkeys(remarks)),
        started_at=started_at,
    )


def _declined(
    model: ForeignModel,
    meant: Sequence[ImageInstance],
    reasons: Sequence[NotAnalysedReason],
    remarks: Sequence[str],
    *,
    started_at: datetime,
) -> ForeignAnswer:
    """Not analysed: every label is there, and nothing is said of it.

    The report takes the patient from these headers: they must be what was received.
    """
    for each in meant:
        require_unchanged(each.path, each.digest)
    return ForeignAnswer(
        model=model,
        result=_result(
            model,
            AnalysisStatus.NOT_ANALYSED,
            (ForeignFinding(label=label) for label in model.bundle.labels),
            reasons or [NotAnalysedReason.NO_ELIGIBLE_IMAGE],
            remarks,
            started_at=started_at,
        ),
        sources=tuple(read_source(each.path) for each in meant),
    )


def _series_answer(meant: Sequence[ImageInstance], run: _Run) -> ForeignAnswer:
    """The answer for the largest series that makes a volume."""
    series, reasons = _eligible_series(meant, run.model.bundle)
    remarks: list[str] = []
    for images in series:
        try:
            stack = stack_slices([read_source(each.path) for each in images])
        except NotAnalysedError as error:
            reasons.append(error.reason)
            remarks.append(f"A series of {len(images)} images was not taken: {error}.")
            continue
        by_uid = {each.sop_instance_uid: each for each in images}
        ordered = [by_uid[each.sop_instance_uid] for each in stack.sources]
        try:
            volume = stack.volume([run.values(each) for each in ordered])
        except NotAnalysedError as error:
            return run.declined(ordered, [error.reason], remarks)
        grid = volume.regular_grid()
        if grid.is_interpolated:
            gaps = volume.distances_mm
            remarks.append(
                f"Slices are {gaps.min():.2f} to {gaps.max():.2f} mm apart: the model saw slices"
                " interpolated between them, and its labels went back to the nearest slice."
            )
        try:
            output = run.ask(grid.values, grid.affine)
        except NotAnalysedError as error:
            return run.declined(ordered, [error.reason], [*remarks, f"{error}."])
        masks = None if output.masks is None else output.masks[:, grid.nearest]
        if len(series) > 1:
            remarks.append(f"{len(series)} series could be meant; one was analysed.")
        return ForeignAnswer(
            model=run.model,
            result=run.result(
                AnalysisStatus.PARTIAL if reasons else AnalysisStatus.COMPLETE,
                _counted(masks, volume, run) if masks is not None else _scored(output, run),
                reasons,
                remarks,
            ),
            sources=stack.sources,
            masks=masks,
        )
    return run.declined(meant, reasons, remarks)


def _eligible_series(
    meant: Sequence[ImageInstance], bundle: ForeignBundle
) -> tuple[list[list[ImageInstance]], list[NotAnalysedReason]]:
    """Series of images that the bundle takes, the largest first, and why others are none."""
    series: dict[str, list[ImageInstance]] = defaultdict(list)
    refused: dict[str, NotAnalysedReason] = {}
    for image in meant:
        reason = _refusal(image, bundle)
        if reason is not None:
            refused[image.series_instance_uid] = reason
        series[image.series_instance_uid].append(image)
    for uid, images in series.items():
        if uid not in refused and len(images) < FEWEST_SLICES:
            refused[uid] = NotAnalysedReason.NO_ELIGIBLE_IMAGE
        if uid not in refused and len(images) > _MOST_SLICES:
            refused[uid] = NotAnalysedReason.TOO_MANY
    taken = [images for uid, images in series.items() if uid not in refused]
    taken.sort(key=lambda images: (-len(images), images[0].series_instance_uid))
    # Scouts and single slices are no gap beside a volume; without one, they are the reason.
    return taken, [] if taken else list(refused.values())


def _image_answer(meant: Sequence[ImageInstance], run: _Run) -> ForeignAnswer:
    """One answer an image, each with its own scores."""
    reasons: list[NotAnalysedReason] = []
    remarks: list[str] = []
    findings: list[ForeignFinding] = []
    sources: list[SourceHeader] = []
    eligible = []
    for image in meant:
        reason = _refusal(image, run.model.bundle)
        if reason is None:
            eligible.append(image)
        else:
            reasons.append(reason)
    if len(eligible) > MOST_IMAGES:
        reasons.append(NotAnalysedReason.TOO_MANY)
    begun_s = time.monotonic()
    for image in eligible[:MOST_IMAGES]:
        spent_s = time.monotonic() - begun_s
        if spent_s > run.model.limits.time_limit_s:
            reasons.append(NotAnalysedReason.SOFTWARE)
            remarks.append("The time for one study was spent before every image had its turn.")
            break
        source = read_source(image.path)
        try:
            values = run.values(image)
        except NotAnalysedError as error:
            reasons.append(error.reason)
            continue
        try:
            output = run.ask(values[np.newaxis], np.eye(4), spent_s=spent_s)
            scored = _scored(output, run, image.sop_instance_uid)
        except NotAnalysedError as error:
            reasons.append(error.reason)
            remarks.append(f"{error}.")
            continue
        findings += scored
        sources.append(source)
    if not findings:
        return run.declined(meant, reasons, remarks)
    return ForeignAnswer(
        model=run.model,
        result=run.result(
            AnalysisStatus.PARTIAL if reasons else AnalysisStatus.COMPLETE,
            findings,
            reasons,
            remarks,
        ),
        sources=tuple(sources),
    )


def _refusal(image: ImageInstance, bundle: ForeignBundle) -> NotAnalysedReason | None:
    """First rule that an image breaks."""
    rules = bundle.declaration
    checks = (
        (
            bool(rules.body_parts and image.body_part and image.body_part not in rules.body_parts),
            NotAnalysedReason.BODY_PART,
        ),
        (image.sop_class_uid not in rules.sop_class_uids, NotAnalysedReason.SOP_CLASS),
        (not image.has_pixel_data, NotAnalysedReason.NO_PIXELS),
        (image.number_of_frames > 1, NotAnalysedReason.MULTI_FRAME),
        (
            image.photometric_interpretation not in _PHOTOMETRIC,
            NotAnalysedReason.PHOTOMETRIC,
        ),
    )
    return next((reason for is_broken, reason in checks if is_broken), None)


def _counted(masks: npt.NDArray[np.uint8], volume: Volume, run: _Run) -> list[ForeignFinding]:
    """Voxels and volume of each label."""
    volumes_mm3 = volume.voxel_volumes_mm3
    findings = []
    for index, label in enumerate(run.model.bundle.labels):
        mask = masks[0] == index + 1 if len(masks) == 1 else masks[index] == 1
        counts = mask.sum(axis=(1, 2))
        findings.append(
            ForeignFinding(
                label=label,
                voxels=int(counts.sum()),
                volume_mm3=float(counts @ volumes_mm3),
            )
        )
    return findings


def _scored(output: ForeignOutput, run: _Run, sop_instance_uid: str = "") -> list[ForeignFinding]:
    assert run.model.bundle.declaration.task is ForeignTask.CLASSIFICATION
    return [
        ForeignFinding(label=label, score=score, sop_instance_uid=sop_instance_uid)
        for label, score in zip(run.model.bundle.labels, output.scores, strict=True)
    ]
