"""DCMTK and OpenSSL as callers of a listener with mutual TLS: who gets in, who does not."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import fromstring

import pytest

from imaging_node.dicom.tls import certificate_sha256
from tests.dicom.certificates import authority, certificate, der
from tests.integration.films import film
from tests.integration.receiving import ReceiveRole
from tests.integration.syntaxes import instance_uid
from tests.store.auditing import read_all

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from imaging_node.settings import TlsSettings

NODE = "IMAGING_NODE"
MODERN = ["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"]


class Hospital:
    """A listener with TLS, and who may call it with which certificate."""

    def __init__(self, folder: Path) -> None:
        own = authority(folder, "hospital")
        self.node = certificate(folder, own, "node")
        self.ct = certificate(folder, own, "ct")
        self.pacs = certificate(folder, own, "pacs")
        self.stranger = certificate(
            folder, authority(folder, "elsewhere"), "stranger", ca=own.certificate_path
        )
        self.callers = [
            {
                "ae_title": title,
                "address": "127.0.0.0/8",
                "certificate_sha256": certificate_sha256(der(tls.certificate)),
            }
            for title, tls in (("CT", self.ct), ("PACS", self.pacs))
        ]


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Hospital:
    return Hospital(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def listener(tmp_path: Path, hospital: Hospital) -> Iterator[ReceiveRole]:
    tls = {name: str(path) for name, path in hospital.node.model_dump().items()}
    with ReceiveRole(tmp_path, tls=tls, callers=hospital.callers) as running:
        yield running


@pytest.fixture
def call(
    listener: ReceiveRole, tool_path: Callable[[str], str]
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a DCMTK tool against the listener, with a caller's certificate or without TLS."""

    def run(
        tool: str, title: str, tls: TlsSettings | None, *more: object
    ) -> subprocess.CompletedProcess[str]:
        secured: list[str | Path] = []
        if tls is not None:
            secured = ["+tls", tls.key, tls.certificate, "+cf", tls.ca]
        return subprocess.run(
            [
                tool_path(tool), *secured, "-to", "10", "-ta", "10", "-aet", title, "-aec", NODE,
                "127.0.0.1", str(listener.port), *map(str, more),
            ],
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip

    return run


def alerts(listener: ReceiveRole) -> list[str]:
    """Reasons of the security alerts in the audit log, each as often as it occurred."""
    found = []
    for message in read_all(listener.state / "audit"):
        root = fromstring(message)  # noqa: S314 - our own log
        event = root.find("EventIdentification")
        assert event is not None
        if [each.get("csd-code") for each in event.iter("EventID")] == ["110113"]:
            words = event.findtext("EventOutcomeDescription") or ""
            reason, _, times = words.removesuffix(" times").rpartition(", ")
            found += [reason] * int(times) if times.isdigit() else [words]
    return found


def test_dcmtk_echoes_and_stores_with_its_own_certificate(
    listener: ReceiveRole,
    hospital: Hospital,
    call: Callable[..., subprocess.CompletedProcess[str]],
    tmp_path: Path,
) -> None:
    path = tmp_path / "film.dcm"
    path.write_bytes(film())

    assert call("echoscu", "CT", hospital.ct).returncode == 0
    assert call("storescu", "CT", hospital.ct, path).returncode == 0
    assert call("storescu", "PACS", hospital.pacs, path).returncode == 0

    assert listener.kept().keys() == {instance_uid(path.read_bytes())}
    listener.close()
    assert alerts(listener) == []


def test_a_valid_certificate_that_is_not_the_callers_own_is_rejected_1_1_3(
    listener: ReceiveRole,
    hospital: Hospital,
    call: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    for title, tls in (("CT", hospital.pacs), ("PACS", hospital.ct), ("NOBODY", hospital.ct)):
        refused = call("echoscu", title, tls)
        assert refused.returncode != 0
        assert "Calling AE Title Not Recognized" in refused.stderr

    assert call("echoscu", "PACS", hospital.pacs).returncode == 0
    listener.close()
    assert len(alerts(listener)) == 3
    assert all(reason.startswith("1/1/3") for reason in alerts(listener))


def test_another_authority_no_certificate_and_no_tls_get_no_association(
    listener: ReceiveRole,
    hospital: Hospital,
    call: Callable[..., subprocess.CompletedProcess[str]],
    tool_path: Callable[[str], str],
) -> None:
    assert call("echoscu", "CT", hospital.stranger).returncode != 0
    anonymous = subprocess.run(
        [
            tool_path("echoscu"), "+tla", "+cf", hospital.ct.ca, "-aet", "CT", "-aec", NODE,
            "-to", "10", "-ta", "10", "127.0.0.1", str(listener.port),
        ],
        capture_output=True, check=False, timeout=60,
    )  # fmt: skip
    assert anonymous.returncode != 0
    assert call("echoscu", "CT", None).returncode != 0

    assert call("echoscu", "CT", hospital.ct).returncode == 0
    listener.close()
    assert len(alerts(listener)) == 3
    assert all(reason.startswith("tls: TLS handshake failed") for reason in alerts(listener))


def s_client(
    listener: ReceiveRole, tls: TlsSettings, openssl: str, *options: str
) -> subprocess.CompletedProcess[str]:
    """OpenSSL's client, whose input ends at once."""
    return subprocess.run(
        [
            openssl, "s_client", "-connect", f"127.0.0.1:{listener.port}", "-verify_return_error",
            "-cert", tls.certificate, "-key", tls.key, "-CAfile", tls.ca, *options,
        ],
        input="", capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


@pytest.mark.parametrize(
    "old",
    [
        ["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"],
        ["-tls1", "-cipher", "ALL:@SECLEVEL=0"],
        ["-tls1_2", "-cipher", "ECDHE-ECDSA-AES256-SHA384:ECDHE-ECDSA-AES128-SHA:@SECLEVEL=0"],
    ],
    ids=["TLS 1.1", "TLS 1.0", "CBC only"],
)
def test_what_bcp_195_forbids_is_refused_in_the_handshake(
    listener: ReceiveRole, hospital: Hospital, tool_path: Callable[[str], str], old: list[str]
) -> None:
    openssl = tool_path("openssl")
    for modern in (MODERN, ["-tls1_3"]):
        assert s_client(listener, hospital.ct, openssl, *modern).returncode == 0

    refused = s_client(listener, hospital.ct, openssl, *old)

    assert refused.returncode != 0
    assert "alert" in refused.stderr


def test_a_caller_of_another_address_is_rejected_1_1_3(
    tmp_path: Path, hospital: Hospital, tool_path: Callable[[str], str]
) -> None:
    tls = {name: str(path) for name, path in hospital.node.model_dump().items()}
    callers: list[Any] = [{**each, "address": "192.0.2.0/24"} for each in hospital.callers]
    with ReceiveRole(tmp_path, tls=tls, callers=callers) as listener:
        refused = subprocess.run(
            [
                tool_path("echoscu"), "+tls", hospital.ct.key, hospital.ct.certificate,
                "+cf", hospital.ct.ca, "-aet", "CT", "-aec", NODE,
                "127.0.0.1", str(listener.port),
            ],
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
    assert "Calling AE Title Not Recognized" in refused.stderr
