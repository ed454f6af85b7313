"""Several receivers on one socket, and a node that only known callers with certificates reach."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import psutil
import pytest

from imaging_node.demonstration.local_node import LOOPBACK, LocalNode, free_ports
from imaging_node.dicom.sender import Caller, open_storage, verify_peer
from imaging_node.domain.errors import PeerRefusedError, PeerUnavailableError
from imaging_node.settings import PeerSettings
from tests.dicom.certificates import authority, certificate
from tests.dicom.listening import VERIFICATION, RawPeer
from tests.integration import syntaxes
from tests.integration.answers import listing
from tests.integration.conftest import wait_until
from tests.integration.films import CALLER, film, study_uid
from tests.integration.receiving import kept_in

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DX = "1.2.840.10008.5.1.4.1.1.1.1"
LITTLE = "1.2.840.10008.1.2.1"
FILMS, SENDERS = 20, 4


@pytest.fixture
def node(tmp_path: Path) -> Iterator[LocalNode]:
    """A node with two receivers that scores nothing meanwhile."""
    [port] = free_ports(1)
    dicom = {
        "host": LOOPBACK,
        "port": port,
        "receivers": 2,
        "max_associations_per_address": 64,
    }
    with LocalNode(tmp_path, {"dicom": dicom, "study": {"quiet_period_s": 3600}}) as running:
        yield running


def receivers(node: LocalNode) -> dict[str, psutil.Process]:
    """Receiver processes by their titles."""
    found = {}
    for child in psutil.Process(node.process.pid).children():
        try:
            title = " ".join(child.cmdline())
        except psutil.Error:  # killed a moment ago
            continue
        if title.startswith("imaging-node: receive"):
            found[title.removeprefix("imaging-node: ").strip()] = child
    return found


def served(process: psutil.Process) -> int:
    """Associations that a process holds."""
    connections = process.net_connections("inet")
    return sum(each.status == psutil.CONN_ESTABLISHED for each in connections)


def listener_of(node: LocalNode) -> PeerSettings:
    dicom = node.settings.dicom
    return PeerSettings(ae_title=dicom.ae_title, host=LOOPBACK, port=dicom.port)


def test_both_receivers_of_a_socket_get_work(node: LocalNode) -> None:
    both = receivers(node)
    assert set(both) == {"receive", "receive-2"}
    peers: list[RawPeer] = []
    try:
        while not all(served(each) for each in both.values()):
            assert len(peers) < 48, "one receiver takes all"
            peers.append(RawPeer(node.settings.dicom.port))
            assert peers[-1].associate([(VERIFICATION, LITTLE)])[:1] == b"\x02"
    finally:
        for each in peers:
            each.socket.close()


class Senders:
    """Owns threads that send films, each again until it is acknowledged.

    Attributes:
        acknowledged: SOP Instance UIDs that were answered 0000.
        broken: How often an association was lost before the answer.
        go_on: Each waits for this after its first film, with its association open.
    """

    def __init__(self, node: LocalNode, films: list[bytes]) -> None:
        self.acknowledged: set[str] = set()
        self.broken = 0
        self.go_on = threading.Event()
        self._lock = threading.Lock()
        self._listener = listener_of(node)
        self._threads = [
            threading.Thread(target=self._send_all, args=(films[number::SENDERS],))
            for number in range(SENDERS)
        ]
        for each in self._threads:
            each.start()

    def join(self) -> None:
        for each in self._threads:
            each.join()

    def _send_all(self, films: list[bytes]) -> None:
        waiting = list(films)
        deadline_s = time.monotonic() + 60
        while waiting and time.monotonic() < deadline_s:
            try:
                with open_storage(self._listener, CALLER, [(DX, LITTLE)]) as association:
                    while waiting:
                        payload = waiting[0]
                        association.store(payload, sop_class_uid=DX, transfer_syntax_uid=LITTLE)
                        with self._lock:
                            self.acknowledged.add(syntaxes.instance_uid(payload))
                        waiting.pop(0)
                        self.go_on.wait(30)
            except PeerUnavailableError:
                with self._lock:
                    self.broken += 1


@contextmanager
def echoing(node: LocalNode) -> Iterator[list[float]]:
    """C-ECHO all the time; how many seconds each answer took."""
    waits_s: list[float] = []
    is_over = threading.Event()

    def echo() -> None:
        while not is_over.is_set():
            started_s = time.monotonic()
            try:
                verify_peer(listener_of(node), Caller(ae_title="WATCH", timeout_s=10))
            except PeerUnavailableError:
                continue  # it was on the receiver that is gone; the next try must succeed soon
            finally:
                waits_s.append(time.monotonic() - started_s)

    thread = threading.Thread(target=echo)
    thread.start()
    try:
        yield waits_s
    finally:
        is_over.set()
        thread.join()


def test_a_killed_receiver_loses_no_acknowledged_film_and_the_other_goes_on(
    node: LocalNode,
) -> None:
    films = [film(run=f"receivers-{number}") for number in range(FILMS)]
    before = receivers(node)
    with echoing(node) as waits_s:
        senders = Senders(node, films)
        wait_until(
            lambda: len(senders.acknowledged) == SENDERS, limit_s=30, what="a film of each sender"
        )
        name = max(before, key=lambda each: served(before[each]))
        senders.go_on.set()
        before[name].kill()
        senders.join()
        wait_until(
            lambda: receivers(node).get(name, before[name]).pid != before[name].pid,
            limit_s=10,
            what="the receiver is back",
        )

    assert senders.broken >= 1
    assert senders.acknowledged == {syntaxes.instance_uid(each) for each in films}
    kept = kept_in(node.settings.state_directory / "spool")
    assert senders.acknowledged <= kept.keys()
    known = {row["study_instance_uid"] for row in listing(node, "studies")}
    assert {study_uid(each) for each in films} <= known
    assert len(waits_s) > 10
    assert max(waits_s) < 2


def test_a_node_with_tls_and_callers_becomes_ready_and_serves_them_alone(tmp_path: Path) -> None:
    [port] = free_ports(1)
    root = authority(tmp_path, "hospital")
    own, ct = certificate(tmp_path, root, "node"), certificate(tmp_path, root, "ct")
    dicom = {
        "host": LOOPBACK,
        "port": port,
        "tls": {name: str(path) for name, path in own.model_dump().items()},
        "callers": [{"ae_title": "CT", "address": "127.0.0.0/8"}],
    }
    with LocalNode(tmp_path, {"dicom": dicom}) as node:
        secured = listener_of(node).model_copy(update={"tls": ct})
        verify_peer(secured, Caller(ae_title="CT", timeout_s=10))
        with pytest.raises(PeerRefusedError, match="1/1/3"):
            verify_peer(secured, Caller(ae_title="MR", timeout_s=10))
