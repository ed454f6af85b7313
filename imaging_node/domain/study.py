"""A study as the node reads it, and which of its images a model may score."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from imaging_node.domain.finding import NotAnalysedReason

LOSSY_SYNTAXES = frozenset(
    {
        "1.2.840.10008.1.2.4.50",  # JPEG baseline
        "1.2.840.10008.1.2.4.51",  # JPEG extended, 12 bit
        "1.2.840.10008.1.2.4.81",  # JPEG-LS near-lossless
        "1.2.840.10008.1.2.4.91",  # JPEG 2000
        "1.2.840.10008.1.2.4.203",  # HTJ2K
    }
)
"""Transfer syntaxes that may have lost something."""

UNKNOWN_RATIO = sys.float_info.max
"""Stands for a lossy compression of which nobody knows how strong it was: beyond every limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageInstance:
    """What the header of one received instance says, as far as eligibility needs it.

    Text is upper-case and stripped; "" or None means that the header does not say.

    Attributes:
        path: Durable file with the bytes as received.
        digest: BLAKE3 of that file, 64 hex digits.
        modality: (0008,0060).
        body_part: Body Part Examined (0018,0015), or a word found in its code sequences.
        view_position: (0018,5101), or the view of the View Code Sequence.
        presentation_intent: (0008,0068), "FOR PRESENTATION" or "FOR PROCESSING".
        patient_age_years: From Patient's Age, or birth and study date; >= 0.
        number_of_frames: >= 1.
        has_pixel_data: Whether a pixel data element follows the header.
        lossy_compression_ratio: Product of (0028,2112), >= 1; 0 where none is stated,
            `UNKNOWN_RATIO` where what is stated is no ratio.
        bits_allocated: (0028,0100) of one sample of a pixel; 0 when the header does not say.
        patient_sex: (0010,0040).
        scanner: Manufacturer (0008,0070) and model name (0008,1090), see `observation`.
    """

    path: Path
    digest: str
    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    modality: str
    body_part: str
    view_position: str
    photometric_interpretation: str
    presentation_intent: str
    patient_age_years: float | None
    rows: int
    columns: int
    number_of_frames: int
    has_pixel_data: bool
    lossy_compression_ratio: float = 0.0
    # Rows of versions before 0.4 lack them.
    patient_sex: str = ""
    scanner: str = ""
    bits_allocated: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """All instances of one study that the node holds."""

    study_instance_uid: str
    instances: tuple[ImageInstance, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Eligibility:
    """What a bundle was made for (its `eligibility` key).

    Attributes:
        modalities: Modalities the bundle is meant for: they decide applicability.
        sop_class_uids: Storage classes it accepts among those.
        body_parts: Words of Body Part Examined that it accepts.
        accepts_absent_body_part, accepts_absent_view, accepts_absent_age: What the bundle
            decided about headers that do not say.
        view_positions: Views it accepts, e.g. ("PA", "AP").
        photometric_interpretations: e.g. ("MONOCHROME1", "MONOCHROME2").
        minimum_age_years, maximum_age_years: Inclusive lower, exclusive upper bound.
        minimum_rows, minimum_columns: Smallest image.
        presentation_intents: Accepted values; an absent intent is always accepted.
        maximum_images: Most images of one study that are scored.
        maximum_lossy_ratio: Strongest lossy compression that is accepted; None: any.
    """

    modalities: tuple[str, ...]
    sop_class_uids: tuple[str, ...]
    body_parts: tuple[str, ...]
    accepts_absent_body_part: bool
    view_positions: tuple[str, ...]
    accepts_absent_view: bool
    photometric_interpretations: tuple[str, ...]
    minimum_age_years: float
    maximum_age_years: float
    accepts_absent_age: bool
    minimum_rows: int
    minimum_columns: int
    presentation_intents: tuple[str, ...]
    maximum_images: int
    maximum_lossy_ratio: float | None = None


WAIVABLE_RULES = ("age", "view", "body_part", "presentation_intent")
"""Eligibility rules that a research site may waive by name; the SR says so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which images of a study a model scores.

    Attributes:
        applicable: Whether the study is meant for the model at all.
        images: Eligible images, in a reproducible order; empty if none is.
        refused: Images meant for the model but refused, with the reason.
        remarks: What was assumed or waived, for the SR.
    """

    applicable: bool
    images: tuple[ImageInstance, ...]
    refused: tuple[tuple[ImageInstance, NotAnalysedReason], ...]
    remarks: tuple[str, ...]


def select_images(
    study: Study, eligibility: Eligibility, waived: frozenset[str] = frozenset()
) -> Selection:
    """Split a study by what a bundle was made for; the modality decides before the SOP class."""
    meant = sorted(
        (each for each in study.instances if each.modality in eligibility.modalities),
        key=lambda each: (each.series_instance_uid, each.sop_instance_uid),
    )
    judged = [(each, _refusal(each, eligibility, waived)) for each in meant]
    eligible = tuple(each for each, reason in judged if reason is None)
    images = eligible[: eligibility.maximum_images]
    beyond = eligible[eligibility.maximum_images :]
    remarks: list[str] = []
    if images:
        if any(not each.body_part for each in images):
            remarks.append("Body part not stated; assumed to be the model's.")
        if any(not each.view_position for each in images):
            remarks.append("View not stated; assumed to be frontal.")
        if any(each.patient_age_years is None for each in images):
            remarks.append("Patient age not stated; the model's age range was not checked.")
    remarks.extend(
        f"Eligibility rule waived by the site: {rule}." for rule in WAIVABLE_RULES if rule in waived
    )
    return Selection(
        applicable=bool(meant),
        images=images,
        refused=(
            *((each, reason) for each, reason in judged if reason is not None),
            *((each, NotAnalysedReason.TOO_MANY) for each in beyond),
        ),
        remarks=tuple(remarks),
    )


def _refusal(
    image: ImageInstance, rules: Eligibility, waived: frozenset[str]
) -> NotAnalysedReason | None:
    """First rule that the image breaks, in the order a radiologist would want to hear."""
    checks = (
        (_is_other_body_part(image, rules) and "body_part" not in waived, "BODY_PART"),
        (_is_other_view(image, rules) and "view" not in waived, "VIEW"),
        (_is_other_age(image, rules) and "age" not in waived, "AGE"),
        (image.sop_class_uid not in rules.sop_class_uids, "SOP_CLASS"),
        (
            bool(image.presentation_intent)
            and image.presentation_intent not in rules.presentation_intents
            and "presentation_intent" not in waived,
            "NOT_FOR_PRESENTATION",
        ),
        (not image.has_pixel_data, "NO_PIXELS"),
        (image.number_of_frames > 1, "MULTI_FRAME"),
        (image.photometric_interpretation not in rules.photometric_interpretations, "PHOTOMETRIC"),
        (image.rows < rules.minimum_rows or image.columns < rules.minimum_columns, "TOO_SMALL"),
    )
    return next((NotAnalysedReason[name] for broken, name in checks if broken), None)


def _is_other_body_part(image: ImageInstance, rules: Eligibility) -> bool:
    if not image.body_part:
        return not rules.accepts_absent_body_part
    return image.body_part not in rules.body_parts


def _is_other_view(image: ImageInstance, rules: Eligibility) -> bool:
    if not image.view_position:
        return not rules.accepts_absent_view
    return image.view_position not in rules.view_positions


def _is_other_age(image: ImageInstance, rules: Eligibility) -> bool:
    if image.patient_age_years is None:
        return not rules.accepts_absent_age
    return not rules.minimum_age_years <= image.patient_age_years < rules.maximum_age_years
