"""Verification and Storage SCP: C-STORE in, one status out, for every instance."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pynetdicom import AE, evt
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # made at run time

from imaging_node.dicom.headers import STATUS_DATASET_MISMATCH
from imaging_node.dicom.identity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from imaging_node.domain.errors import RejectedInstanceError, StorageError
from imaging_node.telemetry import Counters, Event, Metric, log, place_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from pynetdicom.transport import ThreadedAssociationServer

    from imaging_node.settings import DicomSettings

STATUS_SUCCESS = 0x0000
STATUS_OUT_OF_RESOURCES = 0xA700
STATUS_UNEXPECTED = 0xC0FE
_PRIORITY_HIGH = 1  # PS3.7 9.1.1.1, C-STORE command Priority

STORAGE_CLASSES = (
    "1.2.840.10008.5.1.4.1.1.1",  # CR
    "1.2.840.10008.5.1.4.1.1.1.1",  # DX for presentation
    "1.2.840.10008.5.1.4.1.1.1.1.1",  # DX for processing
    "1.2.840.10008.5.1.4.1.1.1.2",  # mammography for presentation
    "1.2.840.10008.5.1.4.1.1.1.2.1",  # mammography for processing
    "1.2.840.10008.5.1.4.1.1.2",  # CT
    "1.2.840.10008.5.1.4.1.1.2.1",  # enhanced CT
    "1.2.840.10008.5.1.4.1.1.2.2",  # legacy converted enhanced CT
    "1.2.840.10008.5.1.4.1.1.4",  # MR
    "1.2.840.10008.5.1.4.1.1.4.1",  # enhanced MR
    "1.2.840.10008.5.1.4.1.1.4.3",  # enhanced MR colour
    "1.2.840.10008.5.1.4.1.1.4.4",  # legacy converted enhanced MR
    "1.2.840.10008.5.1.4.1.1.7",  # secondary capture
    "1.2.840.10008.5.1.4.1.1.7.1",  # multi-frame single bit secondary capture
    "1.2.840.10008.5.1.4.1.1.7.2",  # multi-frame grayscale byte secondary capture
    "1.2.840.10008.5.1.4.1.1.7.3",  # multi-frame grayscale word secondary capture
    "1.2.840.10008.5.1.4.1.1.7.4",  # multi-frame true colour secondary capture
)

TRANSFER_SYNTAXES = (
    "1.2.840.10008.1.2.1",  # explicit VR little endian
    "1.2.840.10008.1.2",  # implicit VR little endian
    "1.2.840.10008.1.2.1.99",  # deflated explicit VR little endian
    "1.2.840.10008.1.2.2",  # explicit VR big endian
    "1.2.840.10008.1.2.4.50",  # JPEG baseline
    "1.2.840.10008.1.2.4.51",  # JPEG extended
    "1.2.840.10008.1.2.4.57",  # JPEG lossless
    "1.2.840.10008.1.2.4.70",  # JPEG lossless, first-order prediction
    "1.2.840.10008.1.2.4.80",  # JPEG-LS lossless
    "1.2.840.10008.1.2.4.81",  # JPEG-LS near-lossless
    "1.2.840.10008.1.2.4.90",  # JPEG 2000 lossless
    "1.2.840.10008.1.2.4.91",  # JPEG 2000
    "1.2.840.10008.1.2.4.201",  # HTJ2K lossless
    "1.2.840.10008.1.2.4.202",  # HTJ2K lossless RPCL
    "1.2.840.10008.1.2.4.203",  # HTJ2K
    "1.2.840.10008.1.2.5",  # RLE lossless
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedInstance:
    """One C-STORE request: the command's words and the dataset's bytes, nothing decoded."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    calling_ae_title: str
    is_high_priority: bool
    dataset: bytes


class Receiver:
    """Owns the listening socket; every accepted instance has gone through `accept`."""

    def __init__(
        self,
        settings: DicomSettings,
        accept: Callable[[ReceivedInstance], None],
        counters: Counters,
    ) -> None:
        """Begin to listen.

        Args:
            accept: Returns once the instance is durable. RejectedInstanceError carries the
                status for the sender; StorageError is answered with 0xA700.

        Raises:
            StorageError: The port cannot be bound.
        """
        self._accept = accept
        self._counters = counters
        self._entity = AE(ae_title=settings.ae_title)
        self._entity.implementation_class_uid = IMPLEMENTATION_CLASS_UID
        self._entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
        self._entity.maximum_associations = settings.max_associations
        self._entity.maximum_pdu_size = 131072
        self._entity.add_supported_context(Verification)
        for sop_class_uid in STORAGE_CLASSES:
            self._entity.add_supported_context(sop_class_uid, list(TRANSFER_SYNTAXES))
        try:
            server = self._entity.start_server(
                (settings.host, settings.port),
                block=False,
                evt_handlers=[
                    (evt.EVT_C_STORE, self._store),
                    (evt.EVT_REJECTED, self._note_rejection),
                ],
            )
        except OSError as error:
            raise StorageError(
                f"cannot listen for DICOM on {settings.host}:{settings.port} ({error.strerror});"
                " free the port or change dicom.port"
            ) from error
        assert server is not None  # block=False returns it
        self._server: ThreadedAssociationServer = server

    def drain(self, limit_s: float) -> None:
        """Stop listening, let running associations finish for `limit_s`, then abort them."""
        self._server.shutdown()
        self._server.server_close()
        deadline = time.monotonic() + limit_s
        while self._server.active_associations and time.monotonic() < deadline:
            time.sleep(0.05)
        self._entity.shutdown()

    def _store(self, event: evt.Event) -> int:
        status = self._answer(event)
        self._counters.add(Metric.INSTANCES, status=f"0x{status:04X}")
        return status

    def _answer(self, event: evt.Event) -> int:
        started = time.monotonic()
        try:
            received = _received(event)
            self._accept(received)
        except RejectedInstanceError as error:
            log(Event.INSTANCE_REFUSED, status=f"0x{error.status:04X}", reason=str(error))
            return error.status
        except StorageError as error:
            log(
                Event.INSTANCE_REFUSED,
                status=f"0x{STATUS_OUT_OF_RESOURCES:04X}",
                reason=str(error),
                seconds=round(time.monotonic() - started, 3),
            )
            return STATUS_OUT_OF_RESOURCES
        except Exception as error:  # noqa: BLE001 - top of the C-STORE service
            log(
                Event.INSTANCE_REFUSED,
                status=f"0x{STATUS_UNEXPECTED:04X}",
                error=type(error).__name__,
                where=place_of(error.__traceback__),
            )
            return STATUS_UNEXPECTED
        return STATUS_SUCCESS

    def _note_rejection(self, _: evt.Event) -> None:
        log(Event.ASSOCIATION_REFUSED, reason="no common presentation context, or over the limit")


def _received(event: evt.Event) -> ReceivedInstance:
    request = event.request
    assert isinstance(request, C_STORE)  # EVT_C_STORE
    if str(request.AffectedSOPClassUID) != str(event.context.abstract_syntax):
        raise RejectedInstanceError(
            "the command's SOP class is not the presentation context's; correct the sender",
            status=STATUS_DATASET_MISMATCH,
        )
    return ReceivedInstance(
        sop_class_uid=str(request.AffectedSOPClassUID),
        sop_instance_uid=str(request.AffectedSOPInstanceUID or ""),
        transfer_syntax_uid=str(event.context.transfer_syntax),
        calling_ae_title=str(event.assoc.requestor.ae_title).strip(),
        is_high_priority=request.Priority == _PRIORITY_HIGH,
        dataset=event.encoded_dataset(include_meta=False),
    )
