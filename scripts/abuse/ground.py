"""A running node to be abused, and the ways to look at it from outside."""

from __future__ import annotations

import json
import ssl
import time
import urllib.request
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from pynetdicom.pdu_primitives import UserIdentityNegotiation

from imaging_node.demonstration.local_node import LocalNode, free_ports
from imaging_node.node.wiring import now
from imaging_node.store.database import open_database
from imaging_node.store.listings import list_deliveries, list_studies
from tests.dicom.fault_proxy import FaultProxy
from tests.dicom.listening import LOOPBACK, RawPeer
from tests.dicom.storage_peer import StoragePeer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from imaging_node.domain.records import DeliveryRecord, StudyRecord
    from imaging_node.store.database import Database
    from imaging_node.telemetry import Event

HONEST, ATTACKER = "127.0.0.2", "127.0.0.3"
HONEST_AE_TITLE = "HONEST"
_POLL_S = 0.02
_WITHOUT_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class UnexpectedError(Exception):
    """The node did something else than it should; the text says what."""


def expect(condition: object, what: str) -> None:
    """Raise UnexpectedError with `what` was seen unless the condition holds."""
    if not condition:
        raise UnexpectedError(what)


def wait_until(condition: Callable[[], object], *, limit_s: float, what: str) -> float:
    """Return after how many seconds `condition` held.

    Raises:
        UnexpectedError: It did not within `limit_s`.
    """
    begun_s = time.monotonic()
    while not condition():
        expect(time.monotonic() - begun_s < limit_s, f"not within {limit_s:g} s: {what}")
        time.sleep(_POLL_S)
    return time.monotonic() - begun_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Party:
    """Somebody who calls the node.

    Attributes:
        tls: What it authenticates with, when the node speaks TLS.
        user: Name and passcode that it gives.
    """

    ae_title: str
    address: str
    tls: ssl.SSLContext | None = None
    user: tuple[str, str] | None = None

    def associate(
        self, peer: RawPeer, contexts: Sequence[tuple[str, str]], *, called: str
    ) -> bytes:
        """Ask for an association in its own name; the answering PDU."""
        information = []
        if self.user is not None:
            identity = UserIdentityNegotiation()
            identity.user_identity_type = 2  # user name and passcode, PS3.7 D.3.3.7
            identity.primary_field, identity.secondary_field = (each.encode() for each in self.user)
            identity.positive_response_requested = True
            information.append(identity)
        return peer.associate(contexts, called=called, calling=self.ae_title, more=information)


@dataclass(kw_only=True)
class Ground:
    """One node, who calls it, and whom it calls.

    Attributes:
        folder: Where the scene keeps its files; the node's state is in `state` below it.
        honest: Who must always be served.
        peers: Destinations of the node, by the names in its settings.
        proxies: What stands between the node and some of them.
        is_fresh: Whether the first fault meets a node that has done nothing yet.
    """

    node: LocalNode
    folder: Path
    honest: Party
    peers: Mapping[str, StoragePeer] = field(default_factory=dict)
    proxies: Mapping[str, FaultProxy] = field(default_factory=dict)
    is_fresh: bool = False

    @property
    def port(self) -> int:
        """Where the node listens."""
        return self.node.settings.dicom.port

    @property
    def ae_title(self) -> str:
        """What the node is called."""
        return self.node.settings.dicom.ae_title

    @property
    def state(self) -> Path:
        """Its state directory."""
        return self.node.settings.state_directory

    @cached_property
    def database(self) -> Database:
        """Its database, to look into."""
        return open_database(self.node.settings.database_url)

    def call(
        self, *, source: str = ATTACKER, tls: ssl.SSLContext | None = None, limit_s: float = 30.0
    ) -> RawPeer:
        """A connection to the node from another address of this machine."""
        return RawPeer(self.port, source=source, tls=tls, limit_s=limit_s)

    def role(self, name: str) -> psutil.Process:
        """The process of a role.

        Raises:
            UnexpectedError: There is none.
        """
        for child in psutil.Process(self.node.process.pid).children():
            if " ".join(child.cmdline()).strip("\0 ") == f"imaging-node: {name}":
                return child
        raise UnexpectedError(f"there is no process of the role {name}")

    def studies(self) -> dict[str, StudyRecord]:
        """All studies by UID."""
        return {each.study_instance_uid: each for each in list_studies(self.database, now=now())}

    def deliveries(self, destination: str) -> Sequence[DeliveryRecord]:
        """What goes or went to one destination."""
        return [each for each in list_deliveries(self.database) if each.destination == destination]

    def kept_files(self) -> set[Path]:
        """Whole files of the spool."""
        return set((self.state / "spool").glob("*/*.dcm"))

    def parts(self) -> list[Path]:
        """Unfinished files of the spool."""
        return list((self.state / "spool").rglob("*.part"))

    def events(self, event: Event) -> list[dict[str, Any]]:
        """What the node logged of one kind."""
        lines = self.node.log.read_text(encoding="utf-8").splitlines()
        records = [json.loads(line) for line in lines if str(event) in line]
        return [record for record in records if record["event"] == str(event)]

    def counted(self, name: str) -> float:
        """Sum of a counter over all roles and labels, as the metrics endpoint shows it."""
        web = self.node.settings.web
        with _WITHOUT_PROXY.open(f"http://{web.host}:{web.port}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        return sum(
            float(line.rpartition(" ")[2])
            for line in lines
            if line.startswith((f"imaging_node_{name} ", f"imaging_node_{name}{{"))
        )

    def audited(self) -> str:
        """The node's audit log as text."""
        files = sorted((self.state / "audit").glob("*.log"))
        return "".join(each.read_text(encoding="utf-8") for each in files)


@contextmanager
def running(
    folder: Path, *, dicom: Mapping[str, Any], changes: Mapping[str, Any], honest: Party
) -> Iterator[Ground]:
    """A node with these settings; ports and the state directory are its own."""
    folder.mkdir(exist_ok=True)
    [port] = free_ports(1)
    settings = {"dicom": {"host": LOOPBACK, "port": port, **dicom}, **changes}
    with LocalNode(folder, settings) as node:
        ground = Ground(node=node, folder=folder, honest=honest)
        try:
            yield ground
        finally:
            if "database" in vars(ground):
                ground.database.close()
