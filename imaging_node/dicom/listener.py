"""The listening socket, and a thread for each association that is let in."""

from __future__ import annotations

import errno
import socket
import threading
import time
from dataclasses import replace
from hashlib import sha256
from typing import TYPE_CHECKING

from imaging_node.dicom.association import Association, Reception, Watch
from imaging_node.dicom.negotiation import DRAINING, OVER_LIMIT, Caller, Policy, Rejection
from imaging_node.dicom.turning_away import TurningAway
from imaging_node.telemetry import Counters, Event, Metric, log, place_of

if TYPE_CHECKING:
    import ssl

    from imaging_node.dicom.connection_slots import ConnectionSlots
    from imaging_node.dicom.intake_port import Intake
    from imaging_node.dicom.upper_layer import UpperLayer
    from imaging_node.settings import DicomSettings

_HANDSHAKE_DEADLINE_S = 5.0
_DRAIN_POLL_S = 0.05
_ACCEPT_POLL_S = 0.2
# After accept() failed for lack of descriptors or memory: the kernel keeps the connection.
_EXHAUSTED_WAIT_S = 0.1
# All who will be rejected for their address share the slots of one address: with an address each
# they could hold all slots by saying nothing.
_STRANGERS = "::"


class Listener:
    """Owns a listening socket's accept loop and the associations that came of it."""

    def __init__(
        self,
        listening: socket.socket,
        settings: DicomSettings,
        intake: Intake,
        watch: Watch,
        slots: ConnectionSlots,
        counters: Counters,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Begin to accept."""
        self._listening = listening
        self._slots = slots
        self._counters = counters
        self._tls = tls
        self._is_draining = threading.Event()
        self._reception = Reception(
            settings=settings,
            policy=Policy(settings),
            intake=intake,
            watch=watch,
            counters=counters,
            is_draining=self._is_draining.is_set,
        )
        self._turning_away = TurningAway()
        self._lock = threading.Lock()
        self._layers: set[UpperLayer] = set()
        self._served = 0
        self._is_over = threading.Event()
        listening.settimeout(_ACCEPT_POLL_S)
        self._thread = threading.Thread(target=self._accept_all, daemon=True, name="accept")
        self._thread.start()

    def drain(self, limit_s: float) -> None:
        """Refuse new associations with 2/3/1, let running ones finish, then cut them off."""
        self._is_draining.set()
        deadline_s = time.monotonic() + limit_s
        while self._served and time.monotonic() < deadline_s:
            with self._lock:
                for layer in self._layers:
                    layer.drain()
            time.sleep(_DRAIN_POLL_S)
        self.cut()

    def stop_listening(self) -> None:
        """Give the port back now; associations go on."""
        self._is_over.set()
        self._thread.join()
        self._listening.close()

    def await_end(self, limit_s: float) -> None:
        """Return once no association is served, after `limit_s` at the latest."""
        deadline_s = time.monotonic() + limit_s
        while self._served and time.monotonic() < deadline_s:
            time.sleep(_DRAIN_POLL_S)

    def cut(self) -> None:
        """Stop accepting and end every association now."""
        self._is_over.set()
        self._thread.join()
        with self._lock:
            for layer in self._layers:
                layer.cut()
        self._turning_away.close()

    def _accept_all(self) -> None:
        while not self._is_over.is_set():
            try:
                connection, address = self._listening.accept()
            except TimeoutError:
                continue
            except OSError as error:
                # No descriptors, no memory, a peer that is gone already: none of it lasts.
                if not self._is_over.is_set():
                    self._counters.add(
                        Metric.ACCEPT_FAILURES,
                        error=errno.errorcode.get(error.errno or 0, "unknown"),
                    )
                self._is_over.wait(_EXHAUSTED_WAIT_S)
                continue
            try:
                self._admit(connection, Caller(address=_plain(address[0])))
            except Exception as error:  # noqa: BLE001 - top of the accept thread, which must go on
                connection.close()
                self._note_failure(error)

    def _admit(self, connection: socket.socket, caller: Caller) -> None:
        """Hand a new connection to a thread of its own, or turn it away."""
        if self._is_draining.is_set():
            self._turn_away(connection, caller, DRAINING)
            return
        is_expected = self._reception.policy.is_expected(caller.address)
        slot = self._slots.take(caller.address if is_expected else _STRANGERS)
        if slot is None:
            self._turn_away(connection, caller, OVER_LIMIT)
            return
        with self._lock:
            self._served += 1
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(
                target=self._serve, args=(connection, caller, slot), daemon=True
            ).start()
        except (OSError, RuntimeError):
            # The peer is gone, or no thread can be started.
            connection.close()
            self._release(slot)

    def _turn_away(self, connection: socket.socket, caller: Caller, rejection: Rejection) -> None:
        self._reception.note_refusal(caller, rejection.code, rejection.reason)
        if self._tls is not None:
            connection.close()  # a rejection would need the handshake that is being avoided
        else:
            self._turning_away.add(connection, rejection)

    def _serve(self, connection: socket.socket, caller: Caller, slot: int) -> None:
        try:
            connected_at_s = time.monotonic()
            if self._tls is not None:
                connection, caller = self._authenticate(connection, caller, self._tls)
                connected_at_s = time.monotonic()
            self._associate(connection, caller, connected_at_s)
        except _HandshakeError:
            pass  # noted where it failed
        except Exception as error:  # noqa: BLE001 - top of an association's thread
            self._note_failure(error)
        finally:
            connection.close()
            self._release(slot)

    def _associate(self, connection: socket.socket, caller: Caller, connected_at_s: float) -> None:
        association = Association(connection, caller, self._reception, connected_at_s)
        with self._lock:
            self._layers.add(association.layer)
        try:
            association.serve()
        finally:
            with self._lock:
                self._layers.discard(association.layer)

    def _release(self, slot: int) -> None:
        self._slots.give_back(slot)
        with self._lock:
            self._served -= 1

    def _note_failure(self, error: Exception) -> None:
        log(
            Event.THREAD_FAILED,
            role="receive",
            error=type(error).__name__,
            where=place_of(error.__traceback__),
        )
        self._counters.add(Metric.THREAD_FAILURES)

    def _authenticate(
        self, connection: socket.socket, caller: Caller, context: ssl.SSLContext
    ) -> tuple[socket.socket, Caller]:
        connection.settimeout(_HANDSHAKE_DEADLINE_S)
        try:
            secure = context.wrap_socket(connection, server_side=True)
            certificate = secure.getpeercert(binary_form=True) or b""
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", None) or type(error).__name__
            self._reception.note_refusal(caller, "tls", f"TLS handshake failed: {reason}")
            connection.close()
            raise _HandshakeError from None
        return secure, replace(caller, certificate_sha256=sha256(certificate).hexdigest())


class _HandshakeError(Exception):
    """A TLS handshake failed; it has been noted."""


def _plain(address: str) -> str:
    """An IPv4 address as such, also when an IPv6 socket took the connection."""
    return address.removeprefix("::ffff:").partition("%")[0]
