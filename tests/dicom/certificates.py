"""Authorities and certificates made for one test: nothing secret lies in the repository."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from imaging_node.settings import TlsSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

_EARLIER = timedelta(days=400)
_LATER = timedelta(days=365)


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """A certificate authority; `certificate_path` is what a `ca` setting names."""

    certificate_path: Path
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def authority(folder: Path, name: str, *, not_after: datetime | None = None) -> Authority:
    """A new root, written to `folder` as NAME.pem."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _named(name)
    built = (
        _builder(not_after)
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = folder / f"{name}.pem"
    path.write_bytes(built.public_bytes(serialization.Encoding.PEM))
    return Authority(certificate_path=path, certificate=built, key=key)


def certificate(
    folder: Path,
    issuer: Authority,
    name: str,
    *,
    not_after: datetime | None = None,
    hosts: Sequence[str] = ("127.0.0.1", "localhost"),
    ca: Path | None = None,
) -> TlsSettings:
    """A certificate and key for both sides of a connection, written to `folder`.

    Args:
        not_after: End of validity; a year from now if not given.
        hosts: Addresses and host names in its subjectAltName; empty: it has none.
        ca: The authorities that its owner believes; the issuer if not given.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    builder = (
        _builder(not_after)
        .subject_name(_named(name))
        .issuer_name(issuer.certificate.subject)
        .public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key()),
            critical=False,
        )
        .add_extension(
            x509.ExtendedKeyUsage(
                [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
            ),
            critical=False,
        )
    )
    if hosts:
        names = [_host(each) for each in hosts]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    built = builder.sign(issuer.key, hashes.SHA256())
    certificate_path, key_path = folder / f"{name}.cert.pem", folder / f"{name}.key.pem"
    certificate_path.write_bytes(built.public_bytes(serialization.Encoding.PEM))
    key_path.touch(mode=0o600)
    key_path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return TlsSettings(certificate=certificate_path, key=key_path, ca=ca or issuer.certificate_path)


def der(path: Path) -> bytes:
    """The first certificate of a PEM file."""
    pem = x509.load_pem_x509_certificate(path.read_bytes())
    return pem.public_bytes(serialization.Encoding.DER)


def _builder(not_after: datetime | None) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _EARLIER)
        .not_valid_after(not_after or now + _LATER)
    )


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _host(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
