"""The sender of the crash test: it repeats what was not acknowledged, and nothing else.

It has no threads. pynetdicom's requestor now and then takes an answer for an unexpected message, on
a loaded machine, when one of its threads is late by a few milliseconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydicom.uid import CTImageStorage, DigitalXRayImageStorageForPresentation

from crash.life import AE_TITLE
from imaging_node.dicom import command_set as words
from tests.dicom.listening import RELEASE_REQUEST, RawPeer, data_pdu, store_command, value

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crash.films import SentInstance

_EXPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
_KINDS = (CTImageStorage, DigitalXRayImageStorageForPresentation)
_ACCEPTED, _DATA = b"\x02", b"\x04"
# Shorter than the shortest PDU that a receiver must offer.
_FRAGMENT_BYTES = 16000
# Of the PDU and its first presentation data value.
_PDU_BEGIN_BYTES = 12
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
        try:
            with RawPeer(port, limit_s=_TIMEOUT_S) as peer:
                answer = peer.associate(
                    [(kind, _EXPLICIT_LITTLE_ENDIAN) for kind in _KINDS],
                    called=self._ae_title,
                    calling="MODALITY",
                )
                if not answer.startswith(_ACCEPTED):
                    return False
                for each in pending:
                    status = _store(peer, each)
                    if status is None:
                        return False
                    if status == 0x0000:
                        self.acknowledged.add(each.sop_instance_uid)
                peer.send(RELEASE_REQUEST)
                peer.pdu()
        except OSError:
            return False  # the node is gone, or hangs
        return True


def _store(peer: RawPeer, each: SentInstance) -> int | None:
    """Status of the answer; None when the association ended instead."""
    kind = DigitalXRayImageStorageForPresentation if each.is_scored else CTImageStorage
    context_id = 1 + 2 * _KINDS.index(kind)
    command = store_command(each.sop_instance_uid, sop_class_uid=kind)
    peer.send(data_pdu(value(command, is_command=True, context_id=context_id)))
    for begin in range(0, len(each.content), _FRAGMENT_BYTES):
        end = begin + _FRAGMENT_BYTES
        fragment = value(
            each.content[begin:end],
            is_command=False,
            is_last=end >= len(each.content),
            context_id=context_id,
        )
        peer.send(data_pdu(fragment))
    response = peer.pdu()
    if not response.startswith(_DATA) or len(response) <= _PDU_BEGIN_BYTES:
        return None  # cut short, perhaps
    return words.decode_command(response[_PDU_BEGIN_BYTES:]).number(words.STATUS)
