"""A small receiving PACS: stores what it is sent into a folder, for the demo and the bench."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pynetdicom import AE, evt
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.presentation import AllStoragePresentationContexts
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # made at run time

from imaging_node.dicom.headers import read_header
from imaging_node.domain.errors import StorageError

if TYPE_CHECKING:
    from pynetdicom.transport import ThreadedAssociationServer

COMPREHENSIVE_3D_SR = "1.2.840.10008.5.1.4.1.1.88.34"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredByPacs:
    """One object that arrived, as a whole Part 10 file."""

    study_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    stored_at: datetime
    payload: bytes

    @property
    def is_report(self) -> bool:
        """True for a Structured Report."""
        return self.sop_class_uid == COMPREHENSIVE_3D_SR


class ReceivingPacs:
    """Owns a listening socket; everything it was sent is in `stored`."""

    def __init__(self, *, ae_title: str, host: str, port: int) -> None:
        """Begin to listen.

        Raises:
            StorageError: The port cannot be bound.
        """
        self._address = (host, port)
        self._lock = threading.Lock()
        self._stored: list[StoredByPacs] = []
        self._entity = AE(ae_title=ae_title)
        self._entity.add_supported_context(Verification)
        for context in AllStoragePresentationContexts:
            self._entity.add_supported_context(str(context.abstract_syntax))
        self.open()

    def open(self) -> None:
        """Listen, for the first time or again; what was stored stays.

        Raises:
            StorageError: The port cannot be bound.
        """
        try:
            server = self._entity.start_server(
                self._address, block=False, evt_handlers=[(evt.EVT_C_STORE, self._store)]
            )
        except OSError as error:
            host, port = self._address
            raise StorageError(
                f"cannot listen on {host}:{port} ({error.strerror}); free the port"
            ) from error
        assert server is not None  # block=False returns it
        self._server: ThreadedAssociationServer = server

    @property
    def stored(self) -> tuple[StoredByPacs, ...]:
        """All objects so far, in order of arrival."""
        with self._lock:
            return tuple(self._stored)

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._entity.shutdown()

    def _store(self, event: evt.Event) -> int:
        request = event.request
        assert isinstance(request, C_STORE)  # EVT_C_STORE
        image = read_header(
            event.encoded_dataset(include_meta=False),
            transfer_syntax_uid=str(event.context.transfer_syntax),
        ).image
        with self._lock:
            self._stored.append(
                StoredByPacs(
                    study_instance_uid=image.study_instance_uid,
                    sop_instance_uid=image.sop_instance_uid,
                    sop_class_uid=image.sop_class_uid,
                    stored_at=datetime.now(UTC),
                    payload=event.encoded_dataset(include_meta=True),
                )
            )
        return 0x0000
