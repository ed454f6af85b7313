"""Where one finding's score came from, as a Secondary Capture that every PACS can show."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, Final

from PIL import Image
from pydicom import dcmread
from pydicom.sr.coding import Code
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLSNearLossless,
    SecondaryCaptureImageStorage,
)

from imaging_node.dicom.provenance import (
    DISCLAIMER,
    ascii_text,
    code_item,
    encode_result,
    reference_item,
    result_dataset,
)
from imaging_node.dicom.saliency_picture import draw_saliency
from imaging_node.dicom.source_attributes import PAIRED_BODY_PARTS, UNPAIRED_BODY_PARTS
from imaging_node.dicom.srgb import SRGB_PROFILE
from imaging_node.dicom.terminology import PRESENCE, term
from imaging_node.domain.result_object import ObjectKind

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from imaging_node.dicom.saliency_picture import Picture
    from imaging_node.dicom.source import SourceHeader
    from imaging_node.domain.finding import FindingScore, SaliencyMap, StudyResult
    from imaging_node.domain.image import DecodedImage
    from imaging_node.domain.result_object import ResultContext, ResultObject

_LOSSY: Final = frozenset(
    {JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless, JPEG2000, HTJ2K}
)
_SHORT_TEXT: Final = 1024  # ST
_DIGEST_CHARACTERS: Final = 12
_LABELS_PER_REVISION: Final = 100
_NOT_AN_OUTLINE: Final = (
    "Shows image areas that raised the score; not a lesion outline."
    " Measurements on this picture are invalid."
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
) -> ResultObject:
    """Encode the picture of one finding: the same arguments give the same bytes.

    Args:
        source: Header of the image that the score comes from.
        image: Its P-Values.
        score: The finding, evaluated.
        saliency: Its map, of the shape of `image`.
        result: Answer that the picture belongs to.
        context: Revision, node and series start.
        label_index: Place of the finding in the bundle's order, from 0.

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
        saliency.relative(),
        row_to_column_spacing=image.row_to_column_spacing,
        patient_orientation=source.patient_orientation,
        headline=_headline(score, score.probability),
        details=_details(score, saliency, result),
    )
    dataset = result_dataset(
        source,
        result,
        context,
        kind=ObjectKind.CAPTURE,
        sop_class_uid=str(SecondaryCaptureImageStorage),
        finding=score.label,
        instance_number=1 + label_index + _LABELS_PER_REVISION * context.revision,
    )
    # OT, not the source's: else hanging protocols and "latest DX" rules would hang the picture.
    dataset.Modality = "OT"
    dataset.ConversionType = "WSD"
    dataset.DateOfSecondaryCapture = dataset.ContentDate
    dataset.TimeOfSecondaryCapture = dataset.ContentTime
    dataset.ImageType = ["DERIVED", "SECONDARY", "OTHER", "AI_SALIENCY"]
    # Never guessed: empty where the source states none.
    orientation = source.patient_orientation
    dataset.PatientOrientation = list(orientation) if orientation is not None else None
    # "NO" speaks of words that identify a patient or date an image: none is burned in.
    dataset.BurnedInAnnotation = "NO"
    dataset.RecognizableVisualFeatures = "NO"
    dataset.ImageComments = DISCLAIMER
    dataset.DerivationDescription = ascii_text(
        f"Saliency overlay (visual explanation) for {term(score.label).concept.meaning}: class"
        " activation map, mean over the members of the ensemble, scaled to its strongest pixel;"
        f" {result.model.name} {result.model.version}; not a segmentation; not for diagnosis",
        _SHORT_TEXT,
    )
    _add_body_part(dataset, source)
    _add_references(dataset, source)
    _add_lossy(dataset, source)
    _add_pixels(dataset, picture)
    return encode_result(dataset, source, result, kind=ObjectKind.CAPTURE, label=score.label)


def capture_png(payload: bytes) -> bytes:
    """PNG of a capture that `build_capture` encoded."""
    dataset = dcmread(BytesIO(payload))
    size = (dataset.Columns, dataset.Rows)
    png = BytesIO()
    Image.frombytes("RGB", size, dataset.PixelData[: size[0] * size[1] * 3]).save(png, "PNG")
    return png.getvalue()


def _headline(score: FindingScore, probability: float) -> str:
    presence = PRESENCE[score.presence].meaning
    return (
        f"{term(score.label).concept.meaning}: {presence}, p = {probability:.2f}"
        f" (operating point {score.operating_point:.2f})"
    )


def _details(score: FindingScore, saliency: SaliencyMap, result: StudyResult) -> list[str]:
    digest = result.model.digest.split(":")[-1][:_DIGEST_CHARACTERS]
    details = [
        ascii_text(f"{result.model.name} {result.model.version}, weights {digest}", _SHORT_TEXT),
        _NOT_AN_OUTLINE,
    ]
    if score.interval is not None:
        low, high = score.interval
        details.insert(0, f"95 % interval of p: {low:.2f} to {high:.2f}")
    if not saliency.relative().any():
        details.append("No area of this image raised the score.")
    return details


def _add_body_part(dataset: Dataset, source: SourceHeader) -> None:
    """Body part if it is a defined term, and the side that PS3.3 C.7.3.1 then asks for."""
    body_part = source.text("BodyPartExamined")
    if body_part in UNPAIRED_BODY_PARTS | PAIRED_BODY_PARTS:
        dataset.BodyPartExamined = body_part
    if body_part not in UNPAIRED_BODY_PARTS:
        sides = (source.text("Laterality"), source.text("ImageLaterality"))
        # Type 2C: empty when unknown, as it is for a body part that nobody named.
        dataset.Laterality = next((side for side in sides if side in {"R", "L"}), "")


def _add_references(dataset: Dataset, source: SourceHeader) -> None:
    image = reference_item(source.sop_class_uid, source.sop_instance_uid)
    image.PurposeOfReferenceCodeSequence = [code_item(_SOURCE_IMAGE)]
    dataset.SourceImageSequence = [image]
    series = type(dataset)()
    series.SeriesInstanceUID = source.series_instance_uid
    series.ReferencedInstanceSequence = [
        reference_item(source.sop_class_uid, source.sop_instance_uid)
    ]
    dataset.ReferencedSeriesSequence = [series]


def _add_lossy(dataset: Dataset, source: SourceHeader) -> None:
    """Once lossy, always lossy (PS3.3 C.7.6.1.1.5)."""
    stated = source.text("LossyImageCompression") == "01"
    if not stated and source.transfer_syntax_uid not in _LOSSY:
        dataset.LossyImageCompression = "00"
        return
    dataset.LossyImageCompression = "01"
    for keyword in ("LossyImageCompressionRatio", "LossyImageCompressionMethod"):
        if source.texts(keyword):
            setattr(dataset, keyword, list(source.texts(keyword)))


def _add_pixels(dataset: Dataset, picture: Picture) -> None:
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 3, "RGB"
    dataset.PlanarConfiguration, dataset.PixelRepresentation = 0, 0
    dataset.Rows, dataset.Columns = picture.shape[:2]
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
    dataset.ICCProfile, dataset.ColorSpace = SRGB_PROFILE, "SRGB"
    samples = picture.tobytes()
    dataset.add_new("PixelData", "OB", samples + b"\0" * (len(samples) % 2))
