"""The kinds of node that faults need."""

from __future__ import annotations

import ssl
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import TYPE_CHECKING

from abuse.ground import HONEST, HONEST_AE_TITLE, Ground, Party, running
from tests.dicom.certificates import authority, certificate, der

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from imaging_node.settings import TlsSettings

QUIET_PERIOD_S = 1.0
OTHER = "127.0.0.4"
USER, PASSCODE = "modality", "open sesame"
_WORK = {
    "study": {"quiet_period_s": QUIET_PERIOD_S},
    "delivery": {"retry_first_s": 0.2, "retry_max_s": 1.0, "timeout_s": 2.0},
}
HONEST_PARTY = Party(ae_title=HONEST_AE_TITLE, address=HONEST)


@contextmanager
def plain(folder: Path) -> Iterator[Ground]:
    """As a node is set up for one machine: limits and deadlines are those by default."""
    with running(folder, dicom={}, changes=_WORK, honest=HONEST_PARTY) as ground:
        yield ground


@contextmanager
def fresh(folder: Path) -> Iterator[Ground]:
    """The same, and nothing was sent to it yet: its memory is what it needs at least."""
    with plain(folder) as ground:
        ground.is_fresh = True
        yield ground


@contextmanager
def capped(folder: Path) -> Iterator[Ground]:
    """A node that takes instances of 64 MiB at most."""
    limit = {"max_instance_bytes": 64 * 1024 * 1024}
    with running(folder, dicom=limit, changes=_WORK, honest=HONEST_PARTY) as ground:
        yield ground


@contextmanager
def secured(folder: Path) -> Iterator[Ground]:
    """Mutual TLS, callers by title, address and certificate, and user identity required.

    Its own certificate ends in ten days. `client_context` gives its callers' credentials.
    """
    folder.mkdir(exist_ok=True)
    root = authority(folder, "authority")
    own = certificate(folder, root, "node", not_after=datetime.now(UTC) + timedelta(days=10))
    callers = []
    for name, address in (("honest", HONEST), ("other", OTHER)):
        files = certificate(folder, root, name)
        fingerprint = sha256(der(files.certificate)).hexdigest()
        callers.append(
            {"ae_title": name.upper(), "address": address, "certificate_sha256": fingerprint}
        )
    dicom = {
        "tls": {name: str(path) for name, path in own},
        "callers": callers,
        "user_identity": "require",
        "users": {USER: sha256(PASSCODE.encode()).hexdigest()},
    }
    party = Party(
        ae_title=HONEST_AE_TITLE,
        address=HONEST,
        tls=client_context(folder, "honest"),
        user=(USER, PASSCODE),
    )
    with running(folder, dicom=dicom, changes=_WORK, honest=party) as ground:
        yield ground


def client_context(folder: Path, name: str) -> ssl.SSLContext:
    """TLS with one of the certificates that `secured` made."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(folder / "authority.pem")
    context.load_cert_chain(folder / f"{name}.cert.pem", folder / f"{name}.key.pem")
    return context


def as_mapping(tls: TlsSettings) -> dict[str, str]:
    """A section `tls` as a settings file says it."""
    return {name: str(path) for name, path in tls}
