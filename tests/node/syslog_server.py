"""A syslog server over TLS (RFC 5425), as strict as the standard about its frames."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from imaging_node.settings import TlsSettings


class SyslogServer:
    """Owns a listening socket; every message it read is in `messages`."""

    def __init__(
        self,
        identity: TlsSettings,
        *,
        port: int = 0,
        takes: int | None = None,
        says_goodbye: bool = True,
    ) -> None:
        """Listen on the loopback interface.

        Args:
            identity: Its certificate, and the authority that clients must come from.
            takes: Messages of its first connection that it reads before it resets it, as a
                server does that is killed; None: all.
            says_goodbye: Answers the end of TLS as RFC 5425 4.4 wants, or just closes.
        """
        self.messages: list[str] = []
        self.errors: list[str] = []
        self._takes = takes
        self._says_goodbye = says_goodbye
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(identity.certificate, identity.key)
        self._context.load_verify_locations(identity.ca)
        self._context.verify_mode = ssl.CERT_REQUIRED
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(timeout=10)

    def _serve(self) -> None:
        while True:
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return
            try:
                with self._context.wrap_socket(plain, server_side=True) as connection:
                    self._read_frames(connection)
            except (OSError, ValueError) as error:
                self.errors.append(type(error).__name__)

    def _read_frames(self, connection: ssl.SSLSocket) -> None:
        stream = connection.makefile("rb")
        while digits := _until_space(stream.read):
            payload = stream.read(int(digits))
            if len(payload) != int(digits):
                raise ValueError("a frame ended early")
            self.messages.append(payload.decode())
            if self._takes is not None and len(self.messages) >= self._takes:
                self._takes = None
                # RST instead of FIN: what a kernel sends for a process killed with bytes unread.
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return
        if self._says_goodbye:
            with contextlib.suppress(OSError):
                connection.unwrap()


def _until_space(read: object) -> bytes:
    digits = b""
    assert callable(read)
    while (character := read(1)) not in (b"", b" "):
        digits += character
    return digits
