"""Ship the audit log to a syslog server over TLS: all of it, in order, at least once.

Syslog has no acknowledgement. A server that has read everything ends the connection in order
when it is told that no more will come; one that went away with messages unread resets it. So
each batch has its own connection, and counts as shipped once that has ended in order.
"""

from __future__ import annotations

import socket
import ssl
import threading
from typing import TYPE_CHECKING

from imaging_node.domain.errors import StorageError
from imaging_node.telemetry import Event, log, place_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imaging_node.settings import SyslogSettings
    from imaging_node.store.audit_log import AuditLog, AuditRecord

_LIMIT_S = 10.0
_POLL_S = 1.0
_LONGEST_BACKOFF_S = 60.0
_MESSAGES_AT_A_TIME = 500
_STOP_LIMIT_S = 2.0
# Facility 10, security and authorisation; severity 5, normal but significant (PS3.15 A.6).
_PRIORITY = 10 * 8 + 5
_MESSAGE_ID = "DICOM+RFC3881"
_BYTE_ORDER_MARK = "\ufeff"  # RFC 5424 6.4: what follows is UTF-8


class AuditShipper:
    """Owns the thread that ships; what a server did not take waits in the log."""

    def __init__(self, audit_log: AuditLog, settings: SyslogSettings, *, host: str) -> None:
        """Start to ship.

        Args:
            host: Name of this machine in the messages.
        """
        self._log = audit_log
        self._settings = settings
        self._host = host
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="audit shipping", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop; what was not shipped is at the next start."""
        self._is_over.set()
        self._thread.join(timeout=_STOP_LIMIT_S)

    def _run(self) -> None:
        failures = 0
        while not self._is_over.is_set():
            wait_s = 0.0
            try:
                if not self._ship_some():
                    wait_s = _POLL_S
                if failures:
                    log(Event.AUDIT_SHIPPED, address=self._settings.host)
                failures = 0
            except (OSError, StorageError) as error:
                self._say_failing(error, failures)
                failures += 1
                wait_s = min(_LONGEST_BACKOFF_S, 2.0 ** (failures - 1))
            except Exception as error:  # noqa: BLE001 - top of the thread's loop
                log(
                    Event.THREAD_FAILED,
                    role="deliver",
                    error=type(error).__name__,
                    where=place_of(error.__traceback__),
                )
                failures += 1
                wait_s = _LONGEST_BACKOFF_S
            self._is_over.wait(wait_s)

    def _ship_some(self) -> int:
        batch = self._log.read_after(self._log.shipped(), limit=_MESSAGES_AT_A_TIME)
        if batch.damaged:
            log(Event.AUDIT_DAMAGED, count=batch.damaged)
        if batch.records:
            send_batch(batch.records, self._settings, host=self._host)
            self._log.note_shipped(batch.records[-1].sequence)
        return len(batch.records)

    def _say_failing(self, error: Exception, failures: int) -> None:
        if not failures:
            log(
                Event.AUDIT_NOT_SHIPPED,
                address=self._settings.host,
                port=self._settings.port,
                error=type(error).__name__,
            )


def send_batch(records: Sequence[AuditRecord], settings: SyslogSettings, *, host: str) -> None:
    """Return once the server has read all of them.

    Raises:
        OSError: It has not, or its certificate was not believed; they must be sent again.
    """
    context = ssl.create_default_context(cafile=settings.ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if settings.certificate is not None:
        context.load_cert_chain(settings.certificate, settings.key)
    with socket.create_connection((settings.host, settings.port), timeout=_LIMIT_S) as plain:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with context.wrap_socket(plain, server_hostname=settings.host) as connection:
            connection.sendall(b"".join(_frame(record, host) for record in records))
            _end_in_order(connection)


def _end_in_order(connection: ssl.SSLSocket) -> None:
    """Say that no more will come, and wait until the server has ended its side as well.

    Raises:
        OSError: It reset the connection or did not answer: messages may be unread.
    """
    try:
        connection.unwrap()
    except ssl.SSLEOFError:
        pass  # it closed the connection without the TLS alert, but after reading all
    except OSError as error:
        if error.errno:
            raise
        # Python's word for the same: an end of file where the alert was expected.


def _frame(record: AuditRecord, host: str) -> bytes:
    """RFC 5424 message in an octet-counted frame (RFC 5425 4.3)."""
    entry = record.entry
    message = (
        f"<{_PRIORITY}>1 {entry.occurred_at} {host} imaging-node/{entry.role} {entry.pid}"
        f" {_MESSAGE_ID} - {_BYTE_ORDER_MARK}{entry.xml}"
    ).encode()
    return f"{len(message)} ".encode("ascii") + message
