"""Say spoiled streams to a listener, connection after connection; prints what came of them.

Run as a process of its own, several at a time: `python -m abuse.replay` with one JSON object
on standard input.
"""

from __future__ import annotations

import json
import random
import select
import socket
import struct
import sys
import time
from dataclasses import asdict, dataclass

from abuse.mutation import mutated_stream

_LIMIT_S = 20.0
_GLANCE_S = 0.005
_ANSWER_S = 0.05
_RESETS = 0.05


@dataclass(slots=True)
class Tally:
    """What was said.

    Attributes:
        pdus: Sent to an end that still listened.
        mutated: Those among them that were not as recorded.
        refused: Connections that could not be made.
        hung: Connections that the node did not end within 20 s of ours.
    """

    pdus: int = 0
    mutated: int = 0
    connections: int = 0
    refused: int = 0
    hung: int = 0


def replay(
    port: int, source: str, streams: list[list[bytes]], *, pdus: int, seconds: float, seed: int
) -> Tally:
    """Go on until so many mutated PDUs were sent, or so long."""
    chance, tally = random.Random(seed), Tally()  # noqa: S311 - repeatable
    deadline_s = time.monotonic() + seconds
    while tally.mutated < pdus and time.monotonic() < deadline_s:
        try:
            connection = socket.create_connection(
                ("127.0.0.1", port), timeout=_LIMIT_S, source_address=(source, 0)
            )
        except OSError:
            tally.refused += 1
            time.sleep(_ANSWER_S)
            continue
        tally.connections += 1
        with connection:
            _say(connection, mutated_stream(streams, chance), chance, tally)
    return tally


def _say(
    connection: socket.socket,
    pdus: object,
    chance: random.Random,
    tally: Tally,
) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        for pdu, is_mutated in pdus:  # type: ignore[attr-defined]  # an iterator of pairs
            connection.sendall(pdu)
            tally.pdus += 1
            tally.mutated += is_mutated
            # A sender waits for answers; this one is impatient.
            if _has_ended(connection, chance.choice((0.0, _GLANCE_S, _ANSWER_S))):
                return
        if chance.random() < _RESETS:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):
            pass
    except TimeoutError:
        tally.hung += 1
    except OSError:
        return  # it has had enough


def _has_ended(connection: socket.socket, wait_s: float) -> bool:
    """Read what is there; True when the node has said its last."""
    while select.select([connection], [], [], wait_s)[0]:
        answer = connection.recv(65536)
        if not answer or answer[:1] in (b"\x07", b"\x03"):
            return True
        wait_s = 0.0
    return False


def main() -> None:
    """Replay as standard input says."""
    orders = json.load(sys.stdin)
    streams = [[bytes.fromhex(pdu) for pdu in stream] for stream in orders["streams"]]
    tally = replay(
        orders["port"],
        orders["source"],
        streams,
        pdus=orders["pdus"],
        seconds=orders["seconds"],
        seed=orders["seed"],
    )
    json.dump(asdict(tally), sys.stdout)


if __name__ == "__main__":
    main()
