"""How an association ends, PS3.8 9.3.8."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum

from imaging_node.domain.errors import ImagingNodeError


class AbortReason(IntEnum):
    """Reason of an A-ABORT by the service provider, PS3.8 table 9-26."""

    NOT_SPECIFIED = 0
    UNRECOGNISED_PDU = 1
    UNEXPECTED_PDU = 2
    INVALID_PARAMETER = 6


class AbortAssociationError(ImagingNodeError):
    """The association cannot go on.

    Attributes:
        is_provider: Source of the A-ABORT: True for the service provider, which gives `abort`
            as its reason; False for the service user, who gives none (PS3.8 9.3.8).
    """

    def __init__(
        self,
        reason: str,
        *,
        abort: AbortReason = AbortReason.NOT_SPECIFIED,
        is_provider: bool = True,
    ) -> None:
        super().__init__(reason)
        self.abort = abort
        self.is_provider = is_provider


class Ended(Enum):
    """How an association ended."""

    RELEASED = "released"
    REJECTED = "rejected"
    ABORTED_BY_PEER = "aborted by the peer"
    ABORTED = "aborted"
    CONNECTION_LOST = "connection lost"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How an association ended, and why in words without patient data."""

    how: Ended
    reason: str = ""
