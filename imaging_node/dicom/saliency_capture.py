"""Where one finding's score came from, as a Secondary Capture that every PACS can show."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, Final

from PIL import Image
from pydicom import dcmread
from pydicom.sr.coding import Code
from pydicom.uid import (
    SecondaryCaptureImageStorage,
)

from imaging_node.dicom.elements import (
    by_tag,
    code_body,
    element,
    joined,
    reference_body,
    sequence,
)
from imaging_node.dicom.encoding import RawElement
from imaging_node.dicom.provenance import (
    DISCLAIMER,
    ascii_text,
    encode_result,
    result_elements,
    result_name,
)
from imaging_node.dicom.saliency_picture import LONG_SIDE, draw_saliency
from imaging_node.dicom.source_attributes import PAIRED_BODY_PARTS, UNPAIRED_BODY_PARTS
from imaging_node.dicom.srgb import SRGB_PROFILE
from imaging_node.dicom.terminology import PRESENCE, term
from imaging_node.domain.result_object import ObjectKind
from imaging_node.domain.study import LOSSY_SYNTAXES

if TYPE_CHECKING:
    from imaging_node.dicom.saliency_overlay import Picture
    from imaging_node.dicom.source import SourceHeader
    from imaging_node.domain.finding import FindingScore, SaliencyMap, StudyResult
    from imaging_node.domain.image import DecodedImage
    from imaging_node.domain.result_object import ResultContext, ResultObject

_SHORT_TEXT: Final = 1024  # ST
_ICC_PROFILE: Final = 0x00282000
_DIGEST_CHARACTERS: Final = 12
_LABELS_PER_REVISION: Final = 100
_NOT_AN_OUTLINE: Final = (
    "Shows image areas that raised the score; not a lesion outline."
    " Measurements on this picture are invalid."
)
_UNVERIFIED: Final = (
    "Explanation unverified: this model's maps did not pass their checks; see its card."
)
_SOURCE_IMAGE: Final = Code("121322", "DCM", "Source image for image processing operation")


def build_capture(
    *,
    source: SourceHeader,
    image: DecodedImage,
    score: FindingScore,
    saliency: SaliencyMap,
    result: StudyResult,
    context: ResultContext,
    label_index: int,
    is_verified: bool,
    long_side: int = LONG_SIDE,
) -> ResultObject:
    """Encode the picture of one finding: the same arguments give the same bytes.

    Args:
        source: Header of the image that the score comes from.
        image: Its P-Values.
        score: The finding, evaluated.
        saliency: Its map over the whole image, drawn relative to the strongest pixel of the
            grid that it comes on.
        result: Answer that the picture belongs to.
        context: Revision, node and series start.
        is_verified: Whether the bundle's maps passed their checks; if not, the picture says so.
        label_index: Place of the finding in the bundle's order, from 1.
        long_side: Longer side of the image in the picture, in pixels.

    Raises:
        BundleError: The finding has no reviewed code.
        ValueError: Map, image and source do not belong together, or nothing was evaluated.
    """
    if not source.sop_instance_uid == image.sop_instance_uid == saliency.sop_instance_uid:
        raise ValueError("header, pixels and map must be of the same image")
    if score.probability is None:
        raise ValueError("a finding that was not evaluated has no picture")
    picture = draw_saliency(
        image.p_values,
        saliency.values,
        peak=saliency.peak,
        row_to_column_spacing=image.row_to_column_spacing,
        patient_orientation=source.patient_orientation,
        headline=_headline(score, score.probability),
        details=_details(score, saliency, result, is_verified=is_verified),
        long_side=long_side,
    )
    name = result_name(
        source,
        result,
        context,
        kind=ObjectKind.CAPTURE,
        sop_class_uid=str(SecondaryCaptureImageStorage),
        label=score.label,
    )
    number = 1 + label_index + _LABELS_PER_REVISION * context.revision
    start = source.local_time(result.started_at)
    meaning = term(score.label).concept.meaning
    elements = [
        *result_elements(name, source, result, context, instance_number=number),
        # OT, not the source's: else hanging protocols and "latest DX" rules would hang it.
        element("Modality", "OT"),
        element("ConversionType", "WSD"),
        element("DateOfSecondaryCapture", start.strftime("%Y%m%d")),
        element("TimeOfSecondaryCapture", start.strftime("%H%M%S")),
        element("ImageType", "DERIVED", "SECONDARY", "OTHER", "AI_SALIENCY"),
        # Never guessed: empty where the source states none.
        element("PatientOrientation", *(source.patient_orientation or ())),
        # "NO" speaks of words that identify a patient or date an image: none is burned in.
        element("BurnedInAnnotation", "NO"),
        element("RecognizableVisualFeatures", "NO"),
        element("ImageComments", DISCLAIMER),
        element(
            "DerivationDescription",
            ascii_text(
                f"Saliency overlay (visual explanation) for {meaning}: class activation map,"
                " mean over the members of the ensemble, scaled to its strongest pixel;"
                f" {result.model.name} {result.model.version}; not a segmentation;"
                " not for diagnosis",
                _SHORT_TEXT,
            ),
        ),
        *_body_part(source),
        *_references(source),
        *_lossy(source),
        *_pixels(picture),
    ]
    return encode_result(name, by_tag(elements), source, result, samples=picture.data.cast("B"))


def capture_png(payload: bytes) -> bytes:
    """PNG of a capture that `build_capture` encoded."""
    dataset = dcmread(BytesIO(payload))
    size = (dataset.Columns, dataset.Rows)
    png = BytesIO()
    Image.frombytes("RGB", size, dataset.PixelData[: size[0] * size[1] * 3]).save(png, "PNG")
    return png.getvalue()


def picture_png(picture: Picture) -> bytes:
    """PNG of a picture that was just drawn."""
    png = BytesIO()
    Image.fromarray(picture).save(png, "PNG")
    return png.getvalue()


def _headline(score: FindingScore, probability: float) -> str:
    presence = PRESENCE[score.presence].meaning
    return (
        f"{term(score.label).concept.meaning}: {presence}, p = {probability:.2f}"
        f" (operating point {score.operating_point:.2f})"
    )


def _details(
    score: FindingScore, saliency: SaliencyMap, result: StudyResult, *, is_verified: bool
) -> list[str]:
    digest = result.model.digest.split(":")[-1][:_DIGEST_CHARACTERS]
    details = [
        ascii_text(f"{result.model.name} {result.model.version}, weights {digest}", _SHORT_TEXT),
        _NOT_AN_OUTLINE,
    ]
    if score.interval is not None:
        low, high = score.interval
        details.insert(0, f"95 % interval of p: {low:.2f} to {high:.2f}")
    if not is_verified:
        details.append(_UNVERIFIED)
    if not saliency.peak:
        details.append("No area of this image raised the score.")
    return details


def _body_part(source: SourceHeader) -> list[RawElement]:
    """Body part if it is a defined term, and the side that PS3.3 C.7.3.1 then asks for."""
    elements = []
    body_part = source.text("BodyPartExamined")
    if body_part in UNPAIRED_BODY_PARTS | PAIRED_BODY_PARTS:
        elements.append(element("BodyPartExamined", body_part))
    if body_part not in UNPAIRED_BODY_PARTS:
        sides = (source.text("Laterality"), source.text("ImageLaterality"))
        # Type 2C: empty when unknown, as it is for a body part that nobody named.
        side = next((side for side in sides if side in {"R", "L"}), "")
        elements.append(element("Laterality", side))
    return elements


def _references(source: SourceHeader) -> list[RawElement]:
    image = reference_body(source.sop_class_uid, source.sop_instance_uid)
    purpose = sequence("PurposeOfReferenceCodeSequence", code_body(_SOURCE_IMAGE))
    series = [
        element("SeriesInstanceUID", source.series_instance_uid),
        sequence("ReferencedInstanceSequence", image),
    ]
    return [
        sequence("SourceImageSequence", image + purpose.encoded()),
        sequence("ReferencedSeriesSequence", joined(series)),
    ]


def _lossy(source: SourceHeader) -> list[RawElement]:
    """Once lossy, always lossy (PS3.3 C.7.6.1.1.5)."""
    stated = source.text("LossyImageCompression") == "01"
    if not stated and source.transfer_syntax_uid not in LOSSY_SYNTAXES:
        return [element("LossyImageCompression", "00")]
    return [
        element("LossyImageCompression", "01"),
        *(
            element(keyword, *source.texts(keyword))
            for keyword in ("LossyImageCompressionRatio", "LossyImageCompressionMethod")
            if source.texts(keyword)
        ),
    ]


def _pixels(picture: Picture) -> list[RawElement]:
    rows, columns, samples = picture.shape
    return [
        element("SamplesPerPixel", samples),
        element("PhotometricInterpretation", "RGB"),
        element("PlanarConfiguration", 0),
        element("PixelRepresentation", 0),
        element("Rows", rows),
        element("Columns", columns),
        element("BitsAllocated", 8),
        element("BitsStored", 8),
        element("HighBit", 7),
        RawElement(_ICC_PROFILE, "OB", SRGB_PROFILE),
        element("ColorSpace", "SRGB"),
    ]
