"""Every status that the listener answers, with what it means to the sender.

The conformance statement's table is made of this.
"""

from __future__ import annotations

from dataclasses import dataclass

STATUS_SUCCESS = 0x0000
STATUS_PROCESSING_FAILURE = 0x0110
STATUS_NO_SUCH_INSTANCE = 0x0112
STATUS_NO_SUCH_EVENT = 0x0113
STATUS_INVALID_ARGUMENT = 0x0115
STATUS_INVALID_SOP_INSTANCE = 0x0117
STATUS_CLASS_NOT_SUPPORTED = 0x0122
STATUS_NO_SUCH_ACTION = 0x0123
STATUS_UNRECOGNISED_OPERATION = 0x0211
STATUS_RESOURCE_LIMITATION = 0x0213
STATUS_OUT_OF_RESOURCES = 0xA700
STATUS_TOO_LARGE = 0xA701
STATUS_DATASET_MISMATCH = 0xA900
STATUS_CANNOT_UNDERSTAND = 0xC000
STATUS_IDENTITY_CONFLICT = 0xC010
STATUS_UNEXPECTED = 0xC0FE


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """One status of one service.

    Attributes:
        may_retry: Whether the same bytes may be accepted later.
    """

    code: int
    meaning: str
    may_retry: bool = False


STORAGE_STATUSES = (
    Status(
        code=STATUS_SUCCESS,
        meaning="Kept: bytes, folder and database row are durable. The same bytes again change"
        " nothing; other bytes under the same UID are kept beside the first.",
    ),
    Status(
        code=STATUS_OUT_OF_RESOURCES,
        meaning="Not kept: too little space or inodes, too many studies waiting, or the disk or"
        " the database failed.",
        may_retry=True,
    ),
    Status(
        code=STATUS_TOO_LARGE,
        meaning="The dataset is longer than dicom.max_instance_bytes; the association is aborted.",
    ),
    Status(
        code=STATUS_DATASET_MISMATCH,
        meaning="The command's SOP Class UID is not the presentation context's, or the dataset's"
        " SOP Class or Instance UID is not the command's.",
    ),
    Status(
        code=STATUS_CANNOT_UNDERSTAND,
        meaning="The header cannot be read, lacks a Study, Series or SOP UID, is nested deeper"
        " than 32 or has more than 200,000 elements.",
    ),
    Status(
        code=STATUS_IDENTITY_CONFLICT,
        meaning="The instance is known in another study, or its study for another patient: kept in"
        " quarantine, never scored.",
    ),
    Status(
        code=STATUS_INVALID_SOP_INSTANCE,
        meaning="Affected SOP Instance UID is not 1 to 64 digits and dots.",
    ),
    Status(
        code=STATUS_CLASS_NOT_SUPPORTED,
        meaning="C-STORE on a presentation context of another service.",
    ),
    Status(
        code=STATUS_UNEXPECTED, meaning="A defect of the node; its log says where.", may_retry=True
    ),
)
VERIFICATION_STATUSES = (
    Status(code=STATUS_SUCCESS, meaning="The node answers."),
    Status(
        code=STATUS_CLASS_NOT_SUPPORTED,
        meaning="C-ECHO on a presentation context of another service.",
    ),
    Status(code=STATUS_UNRECOGNISED_OPERATION, meaning="Another operation than was agreed on."),
)
COMMITMENT_STATUSES = (
    Status(
        code=STATUS_SUCCESS, meaning="The request, or the report, is durable; a report will come."
    ),
    Status(
        code=STATUS_PROCESSING_FAILURE,
        meaning="No peer is configured under the caller's AE title; the report is of a transaction"
        " that the caller was not asked for; or the database failed.",
        may_retry=True,
    ),
    Status(
        code=STATUS_INVALID_ARGUMENT,
        meaning="The dataset cannot be read, lacks a UID or refers to nothing.",
    ),
    Status(
        code=STATUS_RESOURCE_LIMITATION,
        meaning="It refers to more than 65,536 instances, or the caller is owed too many reports.",
        may_retry=True,
    ),
    Status(code=STATUS_NO_SUCH_INSTANCE, meaning="Not the well-known SOP Instance."),
    Status(code=STATUS_NO_SUCH_EVENT, meaning="Event Type ID is neither 1 nor 2."),
    Status(code=STATUS_NO_SUCH_ACTION, meaning="Action Type ID is not 1."),
    Status(code=STATUS_UNRECOGNISED_OPERATION, meaning="Another operation than was agreed on."),
)
