"""The error tree, split by who must act."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from imaging_node.domain.finding import NotAnalysedReason


class ImagingNodeError(Exception):
    """Root: catching it means "we foresaw this"."""


class RejectedInstanceError(ImagingNodeError):
    """The sender must know.

    Attributes:
        status: C-STORE response status (PS3.4 B.2.3), e.g. 0xC000.
    """

    def __init__(self, reason: str, *, status: int) -> None:
        super().__init__(reason)
        self.status = status


class OperatorError(ImagingNodeError):
    """The operator of the node must act."""


class SettingsError(OperatorError):
    """A setting is unknown, of the wrong type or impossible: the node refuses to start."""


class BundleError(OperatorError):
    """A model bundle is not what its manifest says: it is never loaded."""


class StorageError(OperatorError):
    """The state directory or the database cannot take what must be kept."""


class RowRefusedError(StorageError):
    """The database refused one row: what was to be written with it may be written without."""


class DurabilityError(StorageError):
    """An fsync failed: what the disk holds is unknown, and no later fsync may claim success."""


class IntegrityError(OperatorError):
    """A kept file is missing or is not what was kept: nothing is concluded from it."""


class IdentityHeldError(OperatorError):
    """A patient or study identity is ambiguous: the result is held for an administrator."""


class UnknownRecordError(OperatorError):
    """A command named a study, delivery or peer that the node does not have."""


class PeerRefusedError(OperatorError):
    """A peer refused for good: repeating the same bytes cannot help.

    Attributes:
        status: What the peer said, e.g. "A900", or why no transfer was possible.
    """

    def __init__(self, reason: str, *, status: str) -> None:
        super().__init__(reason)
        self.status = status


class NotAnalysedError(ImagingNodeError):
    """A radiologist must know: the study gets a "not analysed" answer.

    Attributes:
        reason: The coded reason that the answer carries.
    """

    def __init__(self, detail: str, *, reason: NotAnalysedReason) -> None:
        super().__init__(detail)
        self.reason = reason


class TemporaryError(ImagingNodeError):
    """Nobody need act yet: the queue tries again after a delay.

    Attributes:
        is_counted: Whether the attempt is held against the work; False when it is certain that
            something else was at fault.
    """

    def __init__(self, reason: str, *, is_counted: bool = True) -> None:
        super().__init__(reason)
        self.is_counted = is_counted


class DeviceLostError(TemporaryError):
    """An accelerator answers nothing more in this process: it must end, its work is done again."""


class PeerUnavailableError(TemporaryError):
    """A peer did not answer, or asked to try later: the same bytes may succeed.

    Attributes:
        status: What the peer said, or "no association", "no answer".
    """

    def __init__(self, reason: str, *, status: str) -> None:
        super().__init__(reason)
        self.status = status
