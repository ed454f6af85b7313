"""C-ECHO from an honest peer, again and again, while others misbehave."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Self

from abuse.ground import Ground, UnexpectedError
from tests.dicom.listening import RELEASE_REQUEST, VERIFICATION, data_pdu, echo_command, value

if TYPE_CHECKING:
    from types import TracebackType

LIMIT_MS = 2000.0
_PAUSE_S = 0.1
_IMPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2"
_GIVE_UP_S = 10.0


class EchoProbe:
    """Owns a thread that asks; a context manager.

    Attributes:
        slowest_ms: Longest time from the connection to the answer.
        answered: How many were answered with Success.
        failures: Why others were not.
    """

    def __init__(self, ground: Ground) -> None:
        self.slowest_ms = 0.0
        self.answered = 0
        self.failures: list[str] = []
        self._ground = ground
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._ask_on, daemon=True)

    def __enter__(self) -> Self:
        self._ask()  # at least one before anything happens
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._is_over.set()
        self._thread.join()
        self._ask()

    def _ask_on(self) -> None:
        while not self._is_over.wait(_PAUSE_S):
            self._ask()

    def _ask(self) -> None:
        begun_s = time.monotonic()
        try:
            echo(self._ground)
        except (OSError, UnexpectedError, AssertionError) as error:
            self.failures.append(f"{type(error).__name__} {error}")
        else:
            self.answered += 1
        self.slowest_ms = max(self.slowest_ms, (time.monotonic() - begun_s) * 1000)


def echo(ground: Ground) -> None:
    """One C-ECHO on an association of its own.

    Raises:
        UnexpectedError: It was not answered with Success.
        OSError: Nor at all.
    """
    party = ground.honest
    with ground.call(source=party.address, tls=party.tls, limit_s=_GIVE_UP_S) as peer:
        answer = party.associate(
            peer, [(VERIFICATION, _IMPLICIT_VR_LITTLE_ENDIAN)], called=ground.ae_title
        )
        if answer[:1] != b"\x02":
            raise UnexpectedError(f"association answered by {answer[:10].hex(' ') or 'nothing'}")
        peer.send(data_pdu(value(echo_command(), is_command=True)))
        status = peer.status()
        if status:
            raise UnexpectedError(f"C-ECHO answered {status:04X}")
        peer.send(RELEASE_REQUEST)
        peer.pdu()
