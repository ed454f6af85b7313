"""The coded terms of the result objects: one table, reviewed as a whole."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from pydicom.sr.coding import Code

from imaging_node.domain.coded_term import LOCAL_SCHEME
from imaging_node.domain.errors import BundleError
from imaging_node.domain.finding import NotAnalysedReason, Presence

LOCAL_SCHEME_NAME: Final = "imaging-node local codes"
LOCAL_SCHEME_ORGANISATION: Final = "imaging-node"


class TermStatus(StrEnum):
    """Where the code of a finding was found."""

    DICOM = "DICOM"  # a member of a DICOM context group
    PUBLISHED = "PUB"  # same code and meaning in at least two public sources; needs sign-off
    LOCAL = "LOCAL"  # deliberately our own: no trustworthy public code


@dataclass(frozen=True, slots=True, kw_only=True)
class FindingTerm:
    """How one label of a bundle is written into a result.

    Attributes:
        label: The bundle's label, as in `FindingScore.label`.
        concept: What is present or absent.
        site: Where in the body (Finding Site).
        status: Where the concept comes from.
    """

    label: str
    concept: Code
    site: Code
    status: TermStatus


# Finding sites: members of CID 4 or of the cardiac and chest context groups.
LUNG: Final = Code("39607008", "SCT", "Lung structure")
HEART: Final = Code("80891009", "SCT", "Heart structure")
PLEURA: Final = Code("3120008", "SCT", "Pleural structure")
THORAX: Final = Code("51185008", "SCT", "Thoracic structure")
MEDIASTINUM: Final = Code("72410000", "SCT", "Mediastinum")

_DICOM, _PUBLISHED, _LOCAL = TermStatus.DICOM, TermStatus.PUBLISHED, TermStatus.LOCAL

# Label, code value, scheme, meaning sent, site, status. The first fourteen are the labels of
# ChestX-ray14, the others those that CheXpert adds or spells differently. CheXpert's
# "No Finding" is left out on purpose: a result never says "normal".
_ROWS: Final = (
    ("Atelectasis", "46621007", "SCT", "Atelectasis", LUNG, _PUBLISHED),
    # Not 287272002, which the fetal context groups 12248 and 12249 call Cardiomegaly.
    ("Cardiomegaly", "8186001", "SCT", "Cardiomegaly", HEART, _PUBLISHED),
    ("Effusion", "60046008", "SCT", "Pleural effusion", PLEURA, _DICOM),
    ("Infiltration", "112121", "DCM", "Infiltrate", LUNG, _DICOM),
    ("Mass", "4147007", "SCT", "Mass", LUNG, _DICOM),
    ("Nodule", "27925004", "SCT", "Nodule", LUNG, _DICOM),
    ("Pneumonia", "233604007", "SCT", "Pneumonia", LUNG, _PUBLISHED),
    ("Pneumothorax", "36118008", "SCT", "Pneumothorax", PLEURA, _DICOM),
    ("Consolidation", "95436008", "SCT", "Lung consolidation", LUNG, _PUBLISHED),
    ("Edema", "19242006", "SCT", "Pulmonary edema", LUNG, _DICOM),
    ("Emphysema", "87433001", "SCT", "Pulmonary emphysema", LUNG, _PUBLISHED),
    ("Fibrosis", "51615001", "SCT", "Pulmonary fibrosis", LUNG, _PUBLISHED),
    (
        "Pleural_Thickening",
        "pleural-thickening",
        LOCAL_SCHEME,
        "Pleural thickening",
        PLEURA,
        _LOCAL,
    ),
    ("Hernia", "39839004", "SCT", "Diaphragmatic hernia", THORAX, _PUBLISHED),
    ("Pleural Effusion", "60046008", "SCT", "Pleural effusion", PLEURA, _DICOM),
    ("Lung Opacity", "112001", "DCM", "Opacity", LUNG, _DICOM),
    ("Lung Lesion", "52988006", "SCT", "Lesion", LUNG, _DICOM),
    ("Fracture", "125605004", "SCT", "Fracture of bone", THORAX, _PUBLISHED),
    (
        "Enlarged Cardiomediastinum",
        "enlarged-cardiomediastinum",
        LOCAL_SCHEME,
        "Enlarged cardiomediastinum",
        MEDIASTINUM,
        _LOCAL,
    ),
    (
        "Pleural Other",
        "pleural-other",
        LOCAL_SCHEME,
        "Other pleural abnormality",
        PLEURA,
        _LOCAL,
    ),
    ("Support Devices", "support-devices", LOCAL_SCHEME, "Support devices", THORAX, _LOCAL),
)

FINDING_TERMS: Final = {
    label: FindingTerm(label=label, concept=Code(value, scheme, meaning), site=site, status=status)
    for label, value, scheme, meaning, site, status in _ROWS
}


def term(label: str) -> FindingTerm:
    """Coded term of a bundle's label.

    Raises:
        BundleError: No reviewed code exists; the bundle must not be loaded.
    """
    try:
        return FINDING_TERMS[label]
    except KeyError:
        known = ", ".join(sorted(FINDING_TERMS))
        raise BundleError(
            f"No reviewed code exists for the finding {label!r}; use one of: {known},"
            " or have a new row reviewed in imaging_node/dicom/terminology.py"
        ) from None


# CID 240, the answers to "is the finding there?".
PRESENCE: Final = {
    Presence.PRESENT: Code("52101004", "SCT", "Present"),
    Presence.ABSENT: Code("272519000", "SCT", "Absent"),
    Presence.UNDETERMINED: Code("373068000", "SCT", "Undetermined"),
}

# CID 6047, by (some algorithm succeeded for everything, something was called present).
ALL_SUCCEEDED_WITHOUT: Final = Code("111241", "DCM", "All algorithms succeeded; without findings")
ALL_SUCCEEDED_WITH: Final = Code("111242", "DCM", "All algorithms succeeded; with findings")
SOME_SUCCEEDED_WITHOUT: Final = Code(
    "111243", "DCM", "Not all algorithms succeeded; without findings"
)
SOME_SUCCEEDED_WITH: Final = Code("111244", "DCM", "Not all algorithms succeeded; with findings")
NONE_SUCCEEDED: Final = Code("111245", "DCM", "No algorithms succeeded; without findings")

# CID 7036.
DIAGNOSTIC_QUALITY: Final = Code("RID12", "RADLEX", "Diagnostic quality")
LIMITED_QUALITY: Final = Code("RID13", "RADLEX", "Limited quality")
NON_DIAGNOSTIC_QUALITY: Final = Code("RID14", "RADLEX", "Non-diagnostic quality")

_POSITIONING = Code("111209", "DCM", "Positioning")
_NO_IMAGE = Code("111213", "DCM", "No image")
_SOFTWARE_FAILURE = Code("111218", "DCM", "Software failure")
_ARTIFACTS = Code("111215", "DCM", "Artifact(s) other than grid or detector artifact")
_IMAGE_PROCESSING = Code("111219", "DCM", "Inappropriate image processing")
_OTHER_FAILURE = Code("111220", "DCM", "Other failure")

QUALITY_FINDING: Final = {
    NotAnalysedReason.UNDECODABLE: _NO_IMAGE,
    NotAnalysedReason.NO_PIXELS: _NO_IMAGE,
    NotAnalysedReason.NO_ELIGIBLE_IMAGE: _OTHER_FAILURE,
    NotAnalysedReason.VIEW: _POSITIONING,
    NotAnalysedReason.BODY_PART: _POSITIONING,
    NotAnalysedReason.AGE: _OTHER_FAILURE,
    NotAnalysedReason.SOP_CLASS: _OTHER_FAILURE,
    NotAnalysedReason.PHOTOMETRIC: _OTHER_FAILURE,
    NotAnalysedReason.MULTI_FRAME: _OTHER_FAILURE,
    NotAnalysedReason.TOO_SMALL: _OTHER_FAILURE,
    NotAnalysedReason.TOO_MANY: _OTHER_FAILURE,
    NotAnalysedReason.NOT_FOR_PRESENTATION: _IMAGE_PROCESSING,
    NotAnalysedReason.BLANK: _NO_IMAGE,
    NotAnalysedReason.SATURATED: _OTHER_FAILURE,
    NotAnalysedReason.COLLIMATION: _POSITIONING,
    NotAnalysedReason.TEXT: _ARTIFACTS,
    NotAnalysedReason.ROTATED: _POSITIONING,
    NotAnalysedReason.INVERTED: _IMAGE_PROCESSING,
    NotAnalysedReason.COMPRESSION: _IMAGE_PROCESSING,
    NotAnalysedReason.UNFAMILIAR: _OTHER_FAILURE,
    NotAnalysedReason.QUALITY: _OTHER_FAILURE,
    NotAnalysedReason.GEOMETRY: _OTHER_FAILURE,
    NotAnalysedReason.MODEL_OUTPUT: _SOFTWARE_FAILURE,
    NotAnalysedReason.SOFTWARE: _SOFTWARE_FAILURE,
}
"""CID 6135 code for each reason; the reason's own words stand in the comment beside it."""

QUALITY_REASONS: Final = frozenset(
    {
        NotAnalysedReason.BLANK,
        NotAnalysedReason.SATURATED,
        NotAnalysedReason.TEXT,
        NotAnalysedReason.COMPRESSION,
        NotAnalysedReason.QUALITY,
    }
)
"""Reasons that say something about the quality of the image itself."""

UNSPECIFIED_RADIOGRAPHY: Final = Code("43468-8", "LN", "XR unspecified body region")  # CID 100
UNSPECIFIED_CT: Final = Code("25045-6", "LN", "CT unspecified body region")
