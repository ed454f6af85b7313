"""A PACS made of pynetdicom: stores, answers as told, and commits as told."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Literal, Self

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import UID
from pynetdicom import AE, evt
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.transport import ThreadedAssociationServer

from imaging_node.settings import PeerSettings, TlsSettings

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterable

REPORT = "1.2.840.10008.5.1.4.1.1.88.34"
CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
PUSH_MODEL = "1.2.840.10008.1.20.1"
PUSH_MODEL_INSTANCE = "1.2.840.10008.1.20.1.1"
SYNTAXES = ["1.2.840.10008.1.2.1", "1.2.840.10008.1.2"]


class StoragePeer:
    """Owns a listening socket on loopback; a context manager.

    Attributes:
        status: Status of the next C-STORE responses.
        action_status: Status of the next N-ACTION responses.
        commits: Where its reports go: on the association that asked, or nowhere.
        missing: SOP instance UIDs that its reports name as failed, with the reason.
        datasets: What it was sent, by SOP instance UID, in order.
        asked: Action Information of every N-ACTION.
        report_statuses: Status of the response to each of its reports.
        associations: How many were opened.
    """

    def __init__(
        self,
        *,
        sop_class_uids: Iterable[str] = (REPORT, CAPTURE, PUSH_MODEL),
        ae_title: str = "PEER",
        max_pdu: int = 16382,
        require_called: str | None = None,
        port: int = 0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Begin to listen."""
        self.status = 0x0000
        self.action_status = 0x0000
        self.commits: Literal["here", "never"] = "never"
        self.missing: dict[str, int] = {}
        self.datasets: dict[str, list[bytes]] = {}
        self.asked: list[Dataset] = []
        self.report_statuses: list[int | None] = []
        self.associations = 0
        self._ae_title = ae_title
        self._is_closed = False
        entity = AE(ae_title=require_called or ae_title)
        entity.require_called_aet = require_called is not None
        entity.maximum_pdu_size = max_pdu
        for each in sop_class_uids:
            entity.add_supported_context(each, SYNTAXES)
        server = entity.start_server(
            ("127.0.0.1", port),
            block=False,
            ssl_context=tls,
            evt_handlers=[
                (evt.EVT_ACCEPTED, self._count),
                (evt.EVT_C_STORE, self._store),
                (evt.EVT_N_ACTION, self._commit),
                (evt.EVT_DIMSE_SENT, self._report_afterwards),
            ],
        )
        assert isinstance(server, ThreadedAssociationServer)
        assert server.socket is not None
        self._server = server
        self.port: int = server.socket.getsockname()[1]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening; a second time does nothing."""
        if not self._is_closed:
            self._is_closed = True
            self._server.shutdown()

    def settings(
        self, *, storage_commitment: bool = False, tls: TlsSettings | None = None
    ) -> PeerSettings:
        """How the node is told of it."""
        return PeerSettings(
            ae_title=self._ae_title,
            host="127.0.0.1",
            port=self.port,
            storage_commitment=storage_commitment,
            tls=tls,
        )

    def event_information(self, asked: Dataset) -> Dataset:
        """What its report to a request says."""
        committed, failed = [], []
        for each in asked.ReferencedSOPSequence:
            reason = self.missing.get(str(each.ReferencedSOPInstanceUID))
            if reason is None:
                committed.append(each)
            else:
                each.FailureReason = reason
                failed.append(each)
        information = Dataset()
        information.TransactionUID = asked.TransactionUID
        if committed:
            information.ReferencedSOPSequence = Sequence(committed)
        if failed:
            information.FailedSOPSequence = Sequence(failed)
        return information

    def _count(self, _: evt.Event) -> None:
        self.associations += 1

    def _store(self, event: evt.Event) -> int:
        request = event.request
        assert isinstance(request, C_STORE)
        if self.status in {0x0000, 0xB000, 0xB006, 0xB007}:
            self.datasets.setdefault(str(request.AffectedSOPInstanceUID), []).append(
                event.encoded_dataset(include_meta=False)
            )
        return self.status

    def _commit(self, event: evt.Event) -> tuple[int, None]:
        self.asked.append(event.action_information)
        return self.action_status, None

    def _report_afterwards(self, event: evt.Event) -> None:
        """Report on the same association once the N-ACTION response is out."""
        if type(event.message).__name__ == "N_ACTION_RSP" and self.commits == "here":
            threading.Thread(
                target=self._report, args=(event.assoc, self.asked[-1]), daemon=True
            ).start()

    def _report(self, association: Any, asked: Dataset) -> None:  # noqa: ANN401 - pynetdicom's Association, untyped
        information = self.event_information(asked)
        answer, _ = association.send_n_event_report(
            information,
            2 if "FailedSOPSequence" in information else 1,
            PUSH_MODEL,
            PUSH_MODEL_INSTANCE,
        )
        self.report_statuses.append(answer.get("Status"))


class ReportListener:
    """A modality that asked for commitment and listens for the report; a context manager.

    Attributes:
        status: Status of its next responses.
        reports: Event type and Event Information of each report.
        roles: Whether we were proposed as SCP, one for each association.
    """

    def __init__(self, *, ae_title: str = "MODALITY", port: int = 0) -> None:
        """Begin to listen."""
        self.status = 0x0000
        self.reports: list[tuple[int, Dataset]] = []
        self.roles: list[bool] = []
        self._ae_title = ae_title
        self._is_closed = False
        entity = AE(ae_title=ae_title)
        entity.add_supported_context(PUSH_MODEL, SYNTAXES, scu_role=False, scp_role=True)
        server = entity.start_server(
            ("127.0.0.1", port),
            block=False,
            evt_handlers=[
                (evt.EVT_N_EVENT_REPORT, self._take),
                (evt.EVT_ACCEPTED, self._note_role),
            ],
        )
        assert isinstance(server, ThreadedAssociationServer)
        assert server.socket is not None
        self._server = server
        self.port: int = server.socket.getsockname()[1]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening; a second time does nothing."""
        if not self._is_closed:
            self._is_closed = True
            self._server.shutdown()

    def settings(self) -> PeerSettings:
        """How the node is told of it."""
        return PeerSettings(ae_title=self._ae_title, host="127.0.0.1", port=self.port)

    def _take(self, event: evt.Event) -> tuple[int, None]:
        assert event.event_type is not None
        self.reports.append((event.event_type, event.event_information))
        return self.status, None

    def _note_role(self, event: evt.Event) -> None:
        role = event.assoc.requestor.role_selection.get(UID(PUSH_MODEL))
        self.roles.append(role is not None and bool(role.scp_role) and not role.scu_role)
