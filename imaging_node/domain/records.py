"""What the node tells about its work: rows of listings, of the page and of the metrics."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from imaging_node.domain.finding import FindingScore
from imaging_node.domain.lifecycle import DeliveryState, StudyState
from imaging_node.domain.priority import ReadingPriority


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyRecord:
    """One study as a listing shows it; times are timezone-aware UTC.

    Attributes:
        reason: Why the study ended as it did; "" while it is under way or done.
        generation: 1, and 1 more for each change after the first claim.
        study_at: Study Date and Time as received, None if the header does not say.
    """

    study_instance_uid: str
    accession_number: str
    state: StudyState
    reason: str
    generation: int
    priority: ReadingPriority
    received_at: datetime
    finished_at: datetime | None
    instances: int
    study_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class QuarantinedInstance:
    """One instance that was refused because it contradicts what is known of its patient.

    Its bytes are kept. Nothing was scored, and nothing happens to it by itself.

    Attributes:
        digest: BLAKE3 of its file in the spool, 64 hex digits.
        received_at: Timezone-aware UTC; None when the row that said so is damaged.
    """

    study_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    accession_number: str
    reason: str
    digest: str
    calling_ae_title: str
    received_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptInstance:
    """One content of one instance of a study, as kept in the spool or in an archive.

    Attributes:
        digest: BLAKE3 of its file, 64 hex digits.
    """

    sop_instance_uid: str
    sop_class_uid: str
    digest: str
    received_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureReference:
    """A capture of a study that the page can show.

    Attributes:
        token: Keyed hash that names the capture in a URL; never a raw UID.
        label: Finding shown.
    """

    token: str
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WorklistRow:
    """One study as the worklist ranks it.

    Attributes:
        token: Keyed hash that names the study in a URL; never a raw UID.
        rank: 1 is read first.
        priority_reason: Why the study has its priority, e.g. "Pneumonia present, p=0.91".
        remarks: Waived rules, assumptions and site operating points of the answer.
        deliveries: Count of objects by delivery state.
    """

    study: StudyRecord
    token: str
    rank: int
    priority_reason: str
    findings: tuple[FindingScore, ...]
    remarks: tuple[str, ...]
    captures: tuple[CaptureReference, ...]
    deliveries: dict[DeliveryState, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryRecord:
    """One object on its way to one destination; times are timezone-aware UTC.

    Attributes:
        last_status: What the peer said last, a status as four hexadecimal digits ("0000",
            "B000", "C000") or in words ("no association: ..."); "" before the first attempt.
    """

    id: int
    study_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    destination: str
    state: DeliveryState
    attempts: int
    last_status: str
    next_attempt_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleStatus:
    """What one role process last said of itself.

    Attributes:
        role: "receive", "score", "deliver" or "web".
        counters: Monotonic counts since the process started, by metric name with labels,
            e.g. {'instances_total{status="0x0000"}': 12}.
    """

    role: str
    pid: int
    started_at: datetime
    heartbeat_at: datetime
    counters: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkCounts:
    """How much work lies where; a state that is not named counts 0.

    Attributes:
        studies, deliveries: Number by state.
        oldest_waiting_s: Age of the oldest study that has no ending yet; 0 if there is none.
        oldest_delivery_s: Age of the oldest object not yet delivered or parked; 0 if there is
            none.
        quarantined_instances: Instances that were refused and kept.
    """

    studies: dict[StudyState, int]
    deliveries: dict[DeliveryState, int]
    oldest_waiting_s: float
    oldest_delivery_s: float
    quarantined_instances: int
