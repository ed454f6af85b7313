"""The Storage SCU on real sockets: what arrives, and what a peer can do to it."""

from __future__ import annotations

import socket
import ssl
import subprocess
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from imaging_node.dicom.command_set import encode_command
from imaging_node.dicom.file_format import encode_part10
from imaging_node.dicom.sender import Caller, open_storage, verify_peer
from imaging_node.dicom.tls import acceptor_context
from imaging_node.domain.errors import PeerRefusedError, PeerUnavailableError
from imaging_node.settings import PeerSettings, TlsSettings
from tests.dicom.certificates import authority, certificate
from tests.dicom.storage_peer import CAPTURE, StoragePeer
from tests.dicom.talking import (
    ABORTED,
    ACCEPT,
    HANG_UP,
    RELEASE_REQUESTED,
    data_pdu,
    scripted_peer,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SYNTAX = "1.2.840.10008.1.2.1"
HASTY = Caller(ae_title="NODE", timeout_s=0.5)
PATIENT = Caller(ae_title="NODE", timeout_s=10)


def film(pixel_bytes: int, uid: str = "1.2.3") -> bytes:
    value = bytes(range(256)) * (pixel_bytes // 256 + 1)
    dataset = b"\x08\x00\x18\x00UI" + (6).to_bytes(2, "little") + uid.encode().ljust(6, b"\0")
    dataset += b"\xe0\x7f\x10\x00OW\0\0" + pixel_bytes.to_bytes(4, "little") + value[:pixel_bytes]
    return encode_part10(
        dataset, sop_class_uid=CAPTURE, sop_instance_uid=uid, transfer_syntax_uid=SYNTAX
    )


def send(peer: PeerSettings, source: Path | bytes, caller: Caller = PATIENT) -> str:
    with open_storage(peer, caller, [(CAPTURE, SYNTAX)]) as association:
        return association.store(source, sop_class_uid=CAPTURE, transfer_syntax_uid=SYNTAX)


def at(port: int) -> PeerSettings:
    return PeerSettings(ae_title="PEER", host="127.0.0.1", port=port)


@pytest.mark.parametrize("max_pdu", [0, 1024, 16382, 131072, 1048576])
@pytest.mark.parametrize("pixel_bytes", [0, 2, 1016, 131060, 700_000])
def test_every_byte_arrives_whatever_length_of_pdu_the_peer_takes(
    tmp_path: Path, max_pdu: int, pixel_bytes: int
) -> None:
    payload = film(pixel_bytes)
    path = tmp_path / "film.dcm"
    path.write_bytes(payload)
    with StoragePeer(max_pdu=max_pdu) as peer:
        assert send(peer.settings(), path) == "0000"
        assert send(peer.settings(), payload) == "0000"

        first, second = peer.datasets["1.2.3"]

    assert first == second
    assert payload.endswith(first)
    assert len(first) == 8 + 6 + 12 + pixel_bytes


def test_a_batch_goes_over_one_association_that_proposes_what_is_sent() -> None:
    with StoragePeer() as peer:
        with open_storage(peer.settings(), PATIENT, [(CAPTURE, SYNTAX)]) as association:
            for number in range(20):
                payload = film(5000, f"1.2.{number}")
                association.store(payload, sop_class_uid=CAPTURE, transfer_syntax_uid=SYNTAX)
            with pytest.raises(PeerRefusedError, match="no presentation context"):
                association.store(
                    payload, sop_class_uid=CAPTURE, transfer_syntax_uid="1.2.840.10008.1.2"
                )

        assert len(peer.datasets) == 20
        assert peer.associations == 1


@pytest.mark.parametrize("content", [b"", b"x" * 200, b"\0" * 128 + b"DICM" + b"\xff" * 100])
def test_what_is_no_dicom_file_is_refused_here_and_the_next_one_sent(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "no.dcm"
    path.write_bytes(content)
    with (
        StoragePeer() as peer,
        open_storage(peer.settings(), PATIENT, [(CAPTURE, SYNTAX)]) as association,
    ):
        for source in (path, tmp_path / "missing.dcm", content):
            with pytest.raises(PeerRefusedError) as refusal:
                association.store(source, sop_class_uid=CAPTURE, transfer_syntax_uid=SYNTAX)
            assert refusal.value.status == "unsendable file"
        association.store(film(10), sop_class_uid=CAPTURE, transfer_syntax_uid=SYNTAX)
        assert list(peer.datasets) == ["1.2.3"]


def response(message_id: int, *, field: int = 0x8001, status: int = 0) -> bytes:
    return encode_command({0x0100: field, 0x0120: message_id, 0x0900: status}, {})


@pytest.mark.parametrize(
    "answers",
    [
        (),
        (HANG_UP,),
        (ABORTED,),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n",),
        (b"\x02\x00\xff\xff\xff\xff",),
        (b"\x02\x00\x00\x00\x00\x04\x00\x01\x00\x00",),
        (b"\x02\x00\x00\x00\x00\x60" + b"\xff" * 96,),
        (b"\x02\x00\x00",),
        (data_pdu(1, 3, response(1)),),
    ],
    ids=[
        "silent", "hangs up", "aborts", "speaks HTTP", "4 GiB acceptance", "short acceptance",
        "damaged acceptance", "half a header", "data first",
    ],
)  # fmt: skip
def test_whatever_a_peer_says_to_a_request_it_is_tried_again_and_soon_over(
    answers: tuple[bytes, ...],
) -> None:
    began = time.monotonic()
    with scripted_peer(*answers) as port, pytest.raises(PeerUnavailableError) as failure:
        send(at(port), film(10), HASTY)

    assert failure.value.status.startswith("no association")
    assert time.monotonic() - began < 3


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (None, "no answer"),
        (HANG_UP, "no answer"),
        (RELEASE_REQUESTED, "no answer"),
        (ABORTED, "aborted by the peer"),
        (b"\x04\x00\xff\xff\xff\xf0", "protocol error"),
        (b"\x09\x00\x00\x00\x00\x00", "protocol error"),
        (data_pdu(1, 3, response(7)), "protocol error"),
        (data_pdu(1, 3, b"\x00"), "protocol error"),
        (data_pdu(1, 3, b""), "protocol error"),
        (data_pdu(1, 0, b"data"), "protocol error"),
        (b"\x04\x00\x00\x00\x00\x00", "protocol error"),
        (b"\x04\x00\x00\x00\x00\x06\x00\x00\x00\xff\x01\x03", "protocol error"),
        (data_pdu(1, 3, response(1, field=0x0130)), "protocol error"),
        (data_pdu(1, 1, response(1)[:20]), "no answer"),
        (data_pdu(1, 1, b"\0" * 60000) * 2, "protocol error"),
        (data_pdu(1, 3, encode_command({0x0100: 0x8001, 0x0120: 1}, {})), "no answer"),
    ],
    ids=[
        "silent", "hangs up", "releases", "aborts", "4 GiB of data", "unknown PDU",
        "answers another", "no command", "empty command", "dataset first", "no value",
        "value beyond its PDU", "asks instead", "half a command", "command without end",
        "no status",
    ],
)  # fmt: skip
def test_without_a_proper_response_the_outcome_is_unknown_and_soon_over(
    answer: bytes | None, status: str
) -> None:
    began = time.monotonic()
    answers = (ACCEPT,) if answer is None else (ACCEPT, answer)
    with scripted_peer(*answers) as port, pytest.raises(PeerUnavailableError) as failure:
        send(at(port), film(10), HASTY)

    assert failure.value.status == status
    assert time.monotonic() - began < 4


def test_a_response_may_come_in_pieces_and_one_byte_to_a_value() -> None:
    encoded = response(1, status=0xB000)
    pieces = b"".join(
        data_pdu(1, 3 if position == len(encoded) - 1 else 1, encoded[position : position + 1])
        for position in range(len(encoded))
    )
    with scripted_peer(ACCEPT, pieces) as port:
        assert send(at(port), film(10), HASTY) == "B000"


@pytest.mark.parametrize("reads_on", [True, False])
def test_a_peer_that_hangs_up_or_reads_nothing_is_given_up(*, reads_on: bool) -> None:
    answers = (ACCEPT, HANG_UP) if reads_on else (ACCEPT,)
    began = time.monotonic()
    with (
        scripted_peer(*answers, reads_on=reads_on) as port,
        pytest.raises(PeerUnavailableError) as failure,
    ):
        send(at(port), film(30_000_000), HASTY)

    assert failure.value.status == "no answer"
    assert time.monotonic() - began < 4


def test_an_address_where_nobody_listens_is_said_so() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        with pytest.raises(PeerUnavailableError) as failure:
            verify_peer(at(closed.getsockname()[1]), HASTY)
    assert failure.value.status == "no association: connection refused"


# TLS


@pytest.fixture
def secured(tmp_path: Path) -> TlsSettings:
    return certificate(tmp_path, authority(tmp_path, "hospital"), "node")


def test_mutual_tls_carries_a_batch(secured: TlsSettings) -> None:
    payload = film(300_000)
    with StoragePeer(tls=acceptor_context(secured)) as peer:
        assert send(peer.settings(tls=secured), payload) == "0000"
        assert payload.endswith(peer.datasets["1.2.3"][0])


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize(
    "fault", ["ours expired", "ours unknown", "theirs expired", "theirs unknown"]
)
def test_a_certificate_that_does_not_fit_is_refused_for_good_and_says_tls(
    tmp_path: Path, version: ssl.TLSVersion, fault: str
) -> None:
    hospital, other = authority(tmp_path, "hospital"), authority(tmp_path, "other")
    good = certificate(tmp_path, hospital, "good")
    bad = certificate(
        tmp_path,
        other if "unknown" in fault else hospital,
        "bad",
        not_after=datetime.now(UTC) - timedelta(days=1) if "expired" in fault else None,
        ca=hospital.certificate_path,
    )
    ours, theirs = (bad, good) if "ours" in fault else (good, bad)
    accepting = acceptor_context(theirs)
    accepting.maximum_version = version
    with StoragePeer(tls=accepting) as peer, pytest.raises(PeerRefusedError) as refusal:
        send(peer.settings(tls=ours), film(10), HASTY)

    assert refusal.value.status.startswith("TLS: ")
    assert ("expired" if "expired" in fault else "unknown") in refusal.value.status or (
        "issuer" in refusal.value.status
    )


def test_a_peer_with_the_certificate_of_another_host_is_refused(tmp_path: Path) -> None:
    hospital = authority(tmp_path, "hospital")
    other = certificate(tmp_path, hospital, "other", hosts=["192.0.2.7"])
    ours = certificate(tmp_path, hospital, "node")
    with (
        StoragePeer(tls=acceptor_context(other)) as peer,
        pytest.raises(PeerRefusedError, match="another host"),
    ):
        send(peer.settings(tls=ours), film(10), HASTY)


def test_a_peer_that_speaks_no_tls_is_refused_and_said_so(secured: TlsSettings) -> None:
    with scripted_peer(ABORTED) as port, pytest.raises(PeerRefusedError) as refusal:
        send(at(port).model_copy(update={"tls": secured}), film(10), HASTY)
    assert refusal.value.status == "TLS: wrong version number"


@pytest.fixture
def storescp(
    tmp_path: Path, tool_path: Callable[[str], str]
) -> Iterator[Callable[..., tuple[int, Path]]]:
    """Start DCMTK's receiver with options; its port and its folder."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*options: object) -> tuple[int, Path]:
        folder = tmp_path / "received"
        folder.mkdir()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        started.append(
            subprocess.Popen(
                [
                    tool_path("storescp"), "--fork", "-od", str(folder), "+B",
                    *(str(each) for each in options), str(port),
                ],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )  # fmt: skip
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        return port, folder

    yield start
    for each in started:
        each.terminate()
        each.wait()


def test_dcmtk_takes_our_files_and_our_echo(storescp: Callable[..., tuple[int, Path]]) -> None:
    port, folder = storescp()
    payload = film(400_000)

    verify_peer(at(port), PATIENT)
    assert send(at(port), payload) == "0000"

    [stored] = folder.iterdir()
    assert stored.read_bytes().endswith(payload[-400_000:])


def test_dcmtk_takes_our_files_over_mutual_tls_and_no_stranger(
    storescp: Callable[..., tuple[int, Path]], tmp_path: Path
) -> None:
    hospital = authority(tmp_path, "hospital")
    theirs, ours = (certificate(tmp_path, hospital, name) for name in ("pacs", "node"))
    stranger = certificate(
        tmp_path, authority(tmp_path, "other"), "stranger", ca=hospital.certificate_path
    )
    port, folder = storescp("+tls", theirs.key, theirs.certificate, "+cf", theirs.ca)

    assert send(at(port).model_copy(update={"tls": ours}), film(400_000)) == "0000"
    assert len(list(folder.iterdir())) == 1
    with pytest.raises(PeerRefusedError) as refusal:
        send(at(port).model_copy(update={"tls": stranger}), film(10), HASTY)
    assert refusal.value.status.startswith("TLS: the peer refuses")
    assert len(list(folder.iterdir())) == 1
