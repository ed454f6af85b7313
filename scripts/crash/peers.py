"""The sender of the crash test: it repeats what was not acknowledged, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pynetdicom import AE, _config
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # made at run time
    CTImageStorage,
    DigitalXRayImageStorageForPresentation,
)

from crash.life import AE_TITLE, LOOPBACK

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crash.films import SentInstance

# The bytes of the file, not what pydicom makes of them.
_config.STORE_SEND_CHUNKED_DATASET = True
_EXPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
_TRIES = 2
_TIMEOUT_S = 20.0


class Sender:
    """Remembers what was acknowledged.

    Attributes:
        acknowledged: SOP Instance UIDs that were answered with 0x0000.
    """

    def __init__(self, files: Sequence[SentInstance], *, ae_title: str = AE_TITLE) -> None:
        self._ae_title = ae_title
        self.files = files
        self.acknowledged: set[str] = set()

    def send_pending(self, port: int) -> None:
        """Send what was not acknowledged yet, in order, until the node is gone or all was tried."""
        for _ in range(_TRIES):
            pending = [
                each for each in self.files if each.sop_instance_uid not in self.acknowledged
            ]
            if not pending or not self._send(pending, port):
                return

    def _send(self, pending: Sequence[SentInstance], port: int) -> bool:
        """Use one association; False when there was none, or it ended under way."""
        entity = AE(ae_title="MODALITY")
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = _TIMEOUT_S
        entity.connection_timeout = _TIMEOUT_S
        for sop_class_uid in (CTImageStorage, DigitalXRayImageStorageForPresentation):
            entity.add_requested_context(sop_class_uid, _EXPLICIT_LITTLE_ENDIAN)
        association = entity.associate(LOOPBACK, port, ae_title=self._ae_title)
        if not association.is_established:
            return False
        try:
            for each in pending:
                answer = association.send_c_store(each.path)
                if answer.get("Status") is None:
                    return False
                if answer.Status == 0x0000:
                    self.acknowledged.add(each.sop_instance_uid)
        except RuntimeError:
            return False  # pynetdicom: the association ended
        finally:
            if association.is_established:
                association.release()
        return True
