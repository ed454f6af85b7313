"""A decoder that an image took over may lie to the node: it is believed as little as a peer."""

from __future__ import annotations

import json
import mmap
import socket
import threading
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest

from imaging_node.dicom.decoder import Decoder, DecoderEndedError, Request
from imaging_node.dicom.decoding import DecodingPool
from tests.dicom.synthetic_sources import radiograph, write

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SIDE = 8


@pytest.fixture
def taken_over(tmp_path: Path) -> Iterator[tuple[Decoder, socket.socket, Request]]:
    """A decoder whose socket the test holds the other end of."""
    path = write(radiograph(), tmp_path / "plain.dcm")
    pool = DecodingPool(processes=1, memory_limit_bytes=2**29, time_limit_s=10)
    try:
        pool.decode(path, "1.2.3")
        (decoder,) = pool._all
        honest = decoder._link
        decoder._link, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        honest.close()
        with theirs:
            yield decoder, theirs, Request(path=path)
    finally:
        pool.close()


def _decode(decoder: Decoder, request: Request) -> float:
    """Lowest P-Value, within half a second."""
    pixels, _ = decoder.decode(request, deadline=time.monotonic() + 0.5)
    return float(pixels.min())


def _answer(link: socket.socket, value: float, aspect: object) -> None:
    link.recv(65536)
    link.send(json.dumps({"rows": SIDE, "columns": SIDE}).encode())
    _, (descriptor,), _, _ = socket.recv_fds(link, 1, 1)
    memory = mmap.mmap(descriptor, SIDE * SIDE * 4)
    np.frombuffer(memory, np.float32)[:] = value
    link.send(json.dumps({"aspect": aspect}).encode())


def test_what_an_honest_decoder_says_is_believed(
    taken_over: tuple[Decoder, socket.socket, Request],
) -> None:
    decoder, theirs, request = taken_over
    answering = threading.Thread(target=_answer, args=(theirs, 0.5, 1.0))
    answering.start()
    assert _decode(decoder, request) == 0.5
    answering.join()


@pytest.mark.parametrize(
    ("value", "aspect"),
    [
        (float("nan"), 1.0),
        (1.5, 1.0),
        (-0.1, 1.0),
        (0.5, float("nan")),
        (0.5, -1.0),
        (0.5, 1e9),
        (0.5, "1"),
        (0.5, None),
    ],
)
def test_pixels_that_are_none_are_not_believed(
    value: float, aspect: object, taken_over: tuple[Decoder, socket.socket, Request]
) -> None:
    decoder, theirs, request = taken_over
    answering = threading.Thread(target=_answer, args=(theirs, value, aspect))
    answering.start()
    with pytest.raises(DecoderEndedError):
        _decode(decoder, request)
    answering.join()


@pytest.mark.parametrize(
    "message",
    [
        b"no JSON",
        b"\xff\xfe",
        b"[]",
        b"[" * 60000,
        b"null",
        b'{"rows": 65535, "columns": 65535}',
        b'{"rows": 1e9, "columns": 1}',
        b'{"rows": -5, "columns": -5}',
        b'{"rows": true, "columns": true}',
        b'{"rows": 8}',
        b'{"reason": "NORMAL", "detail": ""}',
        b'{"reason": ["NO_PIXELS"]}',
        b'{"rows": 8, "columns": 8, "rss": "many"}',
        b"",
    ],
)
def test_an_answer_that_is_none_ends_the_decoder(
    message: bytes, taken_over: tuple[Decoder, socket.socket, Request]
) -> None:
    decoder, theirs, request = taken_over
    theirs.send(message)
    with pytest.raises(DecoderEndedError):
        _decode(decoder, request)


@pytest.mark.parametrize(
    "silence",
    [lambda link: link.close(), lambda _: None],
    ids=["closes", "says nothing"],
)
def test_silence_ends_the_decoder_in_time(
    silence: Callable[[socket.socket], None],
    taken_over: tuple[Decoder, socket.socket, Request],
) -> None:
    decoder, theirs, request = taken_over
    silence(theirs)
    begun = time.monotonic()
    with pytest.raises(DecoderEndedError):
        _decode(decoder, request)
    assert time.monotonic() - begun < 5
