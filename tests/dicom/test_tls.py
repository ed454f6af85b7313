"""Who gets through a TLS handshake, and when a certificate ends; real sockets, real OpenSSL."""

from __future__ import annotations

import socket
import ssl
import threading
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest

from imaging_node.dicom.tls import (
    acceptor_context,
    authority_expiry,
    certificate_expiry,
    certificate_sha256,
    requestor_context,
    require_name,
)
from imaging_node.domain.errors import SettingsError
from tests.dicom.certificates import Authority, authority, certificate, der

if TYPE_CHECKING:
    from pathlib import Path

    from imaging_node.settings import TlsSettings

# With TLS 1.3 a caller learns of its refusal at its first read, perhaps as a closed connection.
REFUSED = (ssl.SSLError, ConnectionError)


@pytest.fixture
def hospital(tmp_path: Path) -> Authority:
    return authority(tmp_path, "hospital")


@pytest.fixture
def node(tmp_path: Path, hospital: Authority) -> TlsSettings:
    return certificate(tmp_path, hospital, "node")


def handshake(accepting: ssl.SSLContext, calling: ssl.SSLContext) -> tuple[str, str]:
    """Protocol and suite of a connection that carried a byte each way.

    Raises:
        OSError: Either side refused; with TLS 1.3 the caller learns that at its first read.
    """
    failures: list[OSError] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            connection, _ = listener.accept()
            connection.settimeout(5)
            try:
                with accepting.wrap_socket(connection, server_side=True) as secured:
                    secured.sendall(secured.recv(1))
            except OSError as error:
                failures.append(error)
            finally:
                connection.close()

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            with (
                socket.create_connection(listener.getsockname(), timeout=5) as connection,
                calling.wrap_socket(connection) as secured,
            ):
                secured.sendall(b"x")
                if secured.recv(1) != b"x":
                    raise ConnectionError("closed")
                suite = secured.cipher()
                assert suite is not None
                return str(secured.version()), suite[0]
        finally:
            thread.join()


@pytest.mark.parametrize(
    ("version", "spoken"),
    [(ssl.TLSVersion.TLSv1_2, "TLSv1.2"), (ssl.TLSVersion.TLSv1_3, "TLSv1.3")],
)
def test_both_sides_speak_1_2_and_1_3(
    node: TlsSettings, version: ssl.TLSVersion, spoken: str
) -> None:
    calling = requestor_context(node)
    calling.maximum_version = version
    assert handshake(acceptor_context(node), calling)[0] == spoken

    accepting = acceptor_context(node)
    accepting.maximum_version = version
    assert handshake(accepting, requestor_context(node))[0] == spoken


@pytest.mark.parametrize(
    ("version", "suites"),
    [
        (ssl.TLSVersion.TLSv1_1, "ALL:@SECLEVEL=0"),
        (ssl.TLSVersion.TLSv1_2, "ECDHE-ECDSA-AES256-SHA384:ECDHE-ECDSA-AES128-SHA:@SECLEVEL=0"),
    ],
    ids=["TLS 1.1", "CBC only"],
)
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_old_protocols_and_suites_are_refused_on_both_sides(
    node: TlsSettings, version: ssl.TLSVersion, suites: str
) -> None:
    def old(context: ssl.SSLContext) -> ssl.SSLContext:
        context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        context.maximum_version = version
        context.set_ciphers(suites)
        return context

    # Two such sides would talk: it is ours that refuses.
    assert handshake(old(acceptor_context(node)), old(requestor_context(node)))
    with pytest.raises(REFUSED):
        handshake(acceptor_context(node), old(requestor_context(node)))
    with pytest.raises(REFUSED):
        handshake(old(acceptor_context(node)), requestor_context(node))


def test_a_caller_without_a_certificate_is_refused(node: TlsSettings) -> None:
    calling = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    calling.check_hostname = False
    calling.load_verify_locations(node.ca)

    with pytest.raises(REFUSED):
        handshake(acceptor_context(node), calling)


def test_a_certificate_of_another_authority_is_refused_on_both_sides(
    tmp_path: Path, hospital: Authority, node: TlsSettings
) -> None:
    stranger = certificate(
        tmp_path, authority(tmp_path, "other"), "stranger", ca=hospital.certificate_path
    )

    with pytest.raises(REFUSED):
        handshake(acceptor_context(node), requestor_context(stranger))
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(acceptor_context(stranger), requestor_context(node))


def test_an_expired_certificate_is_refused_on_both_sides(
    tmp_path: Path, hospital: Authority, node: TlsSettings
) -> None:
    yesterday = datetime.now(UTC) - timedelta(days=1)
    late = certificate(tmp_path, hospital, "late", not_after=yesterday)

    with pytest.raises(REFUSED):
        handshake(acceptor_context(node), requestor_context(late))
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        handshake(acceptor_context(late), requestor_context(node))


def test_a_peers_own_certificate_in_ca_pins_it(
    tmp_path: Path, hospital: Authority, node: TlsSettings
) -> None:
    pacs = certificate(tmp_path, hospital, "pacs")
    pinning = node.model_copy(update={"ca": pacs.certificate})

    assert handshake(acceptor_context(pacs), requestor_context(pinning))
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(acceptor_context(node), requestor_context(pinning))


@pytest.mark.parametrize(
    ("names", "host", "fits"),
    [
        ([("IP Address", "127.0.0.1")], "127.0.0.1", True),
        ([("IP Address", "10.0.0.9")], "127.0.0.1", False),
        ([("IP Address", "0:0:0:0:0:0:0:1")], "::1", True),
        ([("DNS", "pacs.example")], "127.0.0.1", True),
        ([("DNS", "pacs.example")], "PACS.example", True),
        ([("DNS", "pacs.example")], "ris.example", False),
        ([("DNS", "*.example")], "pacs.example", True),
        ([("DNS", "*.example")], "a.pacs.example", False),
        ([("IP Address", "10.0.0.9")], "pacs.example", True),
        ([], "pacs.example", True),
    ],
)
def test_a_certificate_must_agree_with_the_host_in_what_it_says(
    names: list[tuple[str, str]], host: str, fits: bool
) -> None:
    found = {"subjectAltName": tuple(names)}
    if fits:
        require_name(found, host)
    else:
        with pytest.raises(ssl.SSLCertVerificationError, match="another host"):
            require_name(found, host)


@pytest.mark.parametrize("year", [2031, 2049, 2050, 2077])
def test_the_end_of_a_certificate_is_read_from_its_file(
    tmp_path: Path, hospital: Authority, year: int
) -> None:
    end = datetime(year, 2, 28, 23, 59, 58, tzinfo=UTC)
    made = certificate(tmp_path, hospital, "node", not_after=end)

    assert certificate_expiry(made.certificate) == end


def test_of_a_chain_the_first_end_counts_and_of_authorities_the_last(tmp_path: Path) -> None:
    soon, late = datetime(2031, 1, 1, tzinfo=UTC), datetime(2032, 1, 1, tzinfo=UTC)
    both = tmp_path / "both.pem"
    both.write_bytes(
        authority(tmp_path, "a", not_after=soon).certificate_path.read_bytes()
        + authority(tmp_path, "b", not_after=late).certificate_path.read_bytes()
    )

    assert certificate_expiry(both) == soon
    assert authority_expiry(both) == late


def test_a_fingerprint_is_the_sha256_of_the_der_form(node: TlsSettings) -> None:
    assert certificate_sha256(der(node.certificate)) == sha256(der(node.certificate)).hexdigest()


@pytest.mark.parametrize("field", ["certificate", "key", "ca"])
@pytest.mark.parametrize("content", [None, b"", b"-----BEGIN CERTIFICATE-----\nAAAA\n"])
def test_a_file_that_cannot_be_used_is_refused_by_the_name_of_its_setting(
    tmp_path: Path, node: TlsSettings, field: str, content: bytes | None
) -> None:
    path = tmp_path / "bad.pem"
    if content is not None:
        path.write_bytes(content)
    bad = node.model_copy(update={field: path})

    for build in (acceptor_context, requestor_context):
        with pytest.raises(SettingsError, match=rf"dicom\.tls\.{field}"):
            build(bad, setting="dicom.tls")


def test_a_key_of_another_certificate_is_refused(
    tmp_path: Path, hospital: Authority, node: TlsSettings
) -> None:
    other = certificate(tmp_path, hospital, "other")

    with pytest.raises(SettingsError, match="its own key"):
        acceptor_context(node.model_copy(update={"key": other.key}))


@pytest.mark.parametrize(
    "content", [b"", b"no PEM", b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"]
)
def test_no_end_is_read_from_what_is_no_certificate(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.pem"
    path.write_bytes(content)

    with pytest.raises(SettingsError, match=r"bad\.pem"):
        certificate_expiry(path)


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o666, 0o601])
def test_a_private_key_that_everybody_may_use_is_refused(node: TlsSettings, mode: int) -> None:
    node.key.chmod(mode)
    for context in (acceptor_context, requestor_context):
        with pytest.raises(SettingsError, match=rf"tls\.key.*{mode:04o}.*chmod o="):
            context(node)

    node.key.chmod(0o640)
    acceptor_context(node)
