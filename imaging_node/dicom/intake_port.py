"""What the listener asks of the rest of the node, and what it hands over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from imaging_node.dicom.commitment import CommitmentReport, CommitmentRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class IncomingInstance:
    """What a C-STORE command says of the instance whose dataset follows."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    calling_ae_title: str
    is_high_priority: bool


class InstanceSink(Protocol):
    """Where a dataset goes while it is received; one of `accept` and `discard` ends it."""

    def write(self, piece: memoryview) -> None:
        """Keep the next bytes; their memory may change afterwards.

        Raises:
            StorageError: They could not be kept.
        """
        ...

    def accept(self) -> str:
        """Return once the instance is durable: the token of its study, or "".

        Raises:
            RejectedInstanceError: The sender must know; its status says why.
            StorageError: It could not be kept; the sender should try again.
        """
        ...

    def discard(self) -> None:
        """Forget it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Intake:
    """Where requests go.

    Attributes:
        open_instance: Raises StorageError or RejectedInstanceError before a byte was read.
        note_request: Returns once a commitment request is durable.
        note_report: Returns once a commitment report is durable.
        may_promise: False once an fsync has failed.
        on_durability_lost: Called after a failed fsync: nothing may be promised any more.
    """

    open_instance: Callable[[IncomingInstance], InstanceSink]
    note_request: Callable[[CommitmentRequest], None]
    note_report: Callable[[CommitmentReport], None]
    may_promise: Callable[[], bool]
    on_durability_lost: Callable[[], None]


@dataclass(slots=True)
class Transferred:
    """What one association brought, for the audit.

    Attributes:
        instances: Accepted instances by token of their study.
    """

    instances: dict[str, int] = field(default_factory=dict)
    dataset_bytes: int = 0
    refused: int = 0

    def add(self, study: str, size_bytes: int) -> None:
        """Count one accepted instance."""
        self.instances[study] = self.instances.get(study, 0) + 1
        self.dataset_bytes += size_bytes
