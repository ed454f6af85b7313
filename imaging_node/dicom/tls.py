"""Mutual TLS as PS3.15 B.12 asks for it: the BCP 195 profile (RFC 9325) on both sides."""

from __future__ import annotations

import re
import ssl
import stat
from datetime import UTC, datetime
from hashlib import sha256
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Final

from imaging_node.domain.errors import SettingsError

if TYPE_CHECKING:
    from pathlib import Path

    from imaging_node.settings import TlsSettings

# RFC 9325 4.2: forward secrecy and authenticated encryption; TLS 1.3 has nothing else.
TLS_1_2_SUITES: Final = (
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
)
_PEM_CERTIFICATE = re.compile(
    r"-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----"
)
# DER tags, X.690 8.
_INTEGER_TAG = 0x02
_VERSION_TAG = 0xA0
_UTC_TIME_TAG = 0x17
_GENERALIZED_TIME_TAG = 0x18
_LONG_LENGTH = 0x80


def acceptor_context(tls: TlsSettings, *, setting: str = "dicom.tls") -> ssl.SSLContext:
    """For the listening side: a caller without a certificate from `tls.ca` is refused.

    Args:
        setting: Where `tls` stands in the settings, for the message.

    Raises:
        SettingsError: A file cannot be read, or certificate and key do not fit.
    """
    context = _context(ssl.PROTOCOL_TLS_SERVER, tls, setting)
    context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE | ssl.OP_NO_TICKET
    # Tickets of TLS 1.3 are written after the handshake: a caller that never reads would have
    # them answered with a reset, and nothing here is ever resumed.
    context.num_tickets = 0
    return context


def requestor_context(tls: TlsSettings, *, setting: str = "peers.*.tls") -> ssl.SSLContext:
    """For the calling side: the peer's chain must come from `tls.ca`, always.

    After the handshake hold the certificate against the host with `require_name`.

    Raises:
        SettingsError: A file cannot be read, or certificate and key do not fit.
    """
    context = _context(ssl.PROTOCOL_TLS_CLIENT, tls, setting)
    context.check_hostname = False  # `require_name` does it by the rule that DICOM allows
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def require_name(certificate: dict[str, Any], host: str) -> None:
    """Hold a verified certificate against the host that was called.

    PS3.15 B.12 leaves names to the site, and DICOM devices are often called by address while
    their certificates name a host, or nothing but a common name. So the certificate must agree
    in what it says: one that names addresses must name this address, one that names hosts must
    name this host. One that says nothing of the kind stands on its chain alone. Where one
    authority certifies more than the peer, put the peer's own certificate into `ca`: then no
    other one is believed.

    Args:
        certificate: As `SSLSocket.getpeercert` returns it.

    Raises:
        ssl.SSLCertVerificationError: It names others of this kind, and not this one.
    """
    kind = "IP Address" if _is_address(host) else "DNS"
    names = [value for each, value in certificate.get("subjectAltName", ()) if each == kind]
    if names and not any(_matches(name, host, kind) for name in names):
        raise ssl.SSLCertVerificationError(
            ssl.SSL_ERROR_SSL, "the peer's certificate is for another host"
        )


def certificate_sha256(der: bytes) -> str:
    """64 lower-case hex digits that name a certificate, given in DER."""
    return sha256(der).hexdigest()


def certificate_expiry(path: Path) -> datetime:
    """When the certificate in a PEM file, or the first of its chain, becomes invalid; UTC.

    Raises:
        SettingsError: The file cannot be read or holds no certificate.
    """
    return min(_expiries(path))


def authority_expiry(path: Path) -> datetime:
    """When the last of the authorities in a PEM file becomes invalid; UTC.

    Raises:
        SettingsError: The file cannot be read or holds no certificate.
    """
    return max(_expiries(path))


def _context(protocol: int, tls: TlsSettings, setting: str) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.maximum_version = ssl.TLSVersion.TLSv1_3
    context.set_ciphers(":".join(TLS_1_2_SUITES))
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.verify_mode = ssl.CERT_REQUIRED
    # A certificate in `ca` is an anchor even when it is no root: so one peer can be pinned.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    _require_secret(tls.key, f"{setting}.key")
    try:
        # Without a password openssl would ask on the terminal for an encrypted key's.
        context.load_cert_chain(tls.certificate, tls.key, password="")
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"cannot use {setting}.certificate {tls.certificate} with {setting}.key {tls.key}"
            f" ({_reason(error)}); name a PEM certificate and its own key without a password,"
            " readable by the node's user"
        ) from None
    try:
        context.load_verify_locations(tls.ca)
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"cannot use {setting}.ca {tls.ca} ({_reason(error)});"
            " name a readable PEM file of the authorities' certificates"
        ) from None
    return context


def _require_secret(key: Path, setting: str) -> None:
    """Refuse a private key that is none: every account of this machine could pose as the node."""
    try:
        mode = stat.S_IMODE(key.stat().st_mode)
    except OSError:
        return  # it cannot be read either, which is told where that is tried
    if mode & stat.S_IRWXO:
        raise SettingsError(
            f"cannot use {setting} {key}: every user of this machine may read it (mode"
            f" {mode:04o}); chmod o= it, and consider a new key"
        )


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return error.reason or "no PEM"
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return type(error).__name__


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _matches(name: str, host: str, kind: str) -> bool:
    if kind == "IP Address":
        return ip_address(name.strip()) == ip_address(host)
    name, host = name.lower().rstrip("."), host.lower().rstrip(".")
    if name.startswith("*."):  # RFC 6125 6.4.3: one whole label
        return host.partition(".")[2] == name[2:]
    return name == host


def _expiries(path: Path) -> list[datetime]:
    try:
        text = path.read_text(encoding="ascii", errors="replace")
    except OSError as error:
        raise SettingsError(
            f"cannot read the certificate {path} ({error.strerror}); name a readable PEM file"
        ) from None
    try:
        found = [
            _not_after(ssl.PEM_cert_to_DER_cert(pem)) for pem in _PEM_CERTIFICATE.findall(text)
        ]
    except (ValueError, IndexError):
        found = []
    if not found:
        raise SettingsError(
            f"cannot use the certificate {path}: it holds none; name a PEM file"
        ) from None
    return found


def _not_after(der: bytes) -> datetime:
    """RFC 5280 4.1: Certificate, TBSCertificate, Validity, notAfter."""
    _, at, _ = _element(der, 0)
    _, at, _ = _element(der, at)
    tag, _, end = _element(der, at)
    if tag == _VERSION_TAG:
        tag, _, end = _element(der, end)
    if tag != _INTEGER_TAG:
        raise ValueError("no serial number")
    for _ in range(2):  # signature, issuer
        _, _, end = _element(der, end)
    _, at, _ = _element(der, end)  # validity
    _, _, end = _element(der, at)  # notBefore
    tag, begin, end = _element(der, end)
    text = der[begin:end].decode("ascii")
    if tag == _UTC_TIME_TAG:
        # RFC 5280 4.1.2.5.1: 50 to 99 are years of the last century.
        text = ("19" if text[:2] >= "50" else "20") + text
    elif tag != _GENERALIZED_TIME_TAG:
        raise ValueError("no time")
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)


def _element(der: bytes, at: int) -> tuple[int, int, int]:
    """Tag, begin and end of the content of the DER element at `at`."""
    tag, length, begin = der[at], der[at + 1], at + 2
    if length >= _LONG_LENGTH:
        size = length - _LONG_LENGTH
        length = int.from_bytes(der[begin : begin + size], "big")
        begin += size
    return tag, begin, begin + length
