"""The node's own certificates: sound when a role starts, and a warning before they end."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from imaging_node.dicom.tls import (
    acceptor_context,
    authority_expiry,
    certificate_expiry,
    requestor_context,
)
from imaging_node.domain.errors import SettingsError
from imaging_node.telemetry import Event, log

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from imaging_node.settings import Settings, TlsSettings

WARNING_TIME: Final = timedelta(days=30)


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedCertificate:
    """A file that TLS needs, and until when it serves.

    Attributes:
        setting: Where it is named, e.g. "peers.pacs.tls.certificate".
        expires_at: UTC; of a chain the first end, of several authorities the last.
    """

    setting: str
    expires_at: datetime


def named_certificates(settings: Settings) -> list[NamedCertificate]:
    """Every certificate that the settings name for DICOM, expired or not.

    Raises:
        SettingsError: A file cannot be used, by the name of its setting.
    """
    found = []
    for setting, tls in _sections(settings):
        if setting == "dicom.tls":
            acceptor_context(tls, setting=setting)
        else:
            requestor_context(tls, setting=setting)
        found += [
            NamedCertificate(
                setting=f"{setting}.certificate", expires_at=certificate_expiry(tls.certificate)
            ),
            NamedCertificate(setting=f"{setting}.ca", expires_at=authority_expiry(tls.ca)),
        ]
    return found


def expiring(certificates: Sequence[NamedCertificate], now: datetime) -> list[NamedCertificate]:
    """Those to warn of: they end within 30 days, or have ended; the first to end comes first."""
    return sorted(
        (each for each in certificates if each.expires_at - now < WARNING_TIME),
        key=lambda each: each.expires_at,
    )


def require_valid_certificates(settings: Settings, now: datetime) -> None:
    """Refuse to start with certificates that no peer will believe.

    Raises:
        SettingsError: One cannot be used or has expired, by the name of its setting.
    """
    for each in named_certificates(settings):
        if each.expires_at <= now:
            raise SettingsError(
                f"{each.setting} expired on {each.expires_at:%Y-%m-%d}; put a new one in its place"
            )


def warn_of_expiry(settings: Settings, now: datetime) -> None:
    """Log what expires within 30 days; a file that cannot be read is logged as well."""
    try:
        certificates = named_certificates(settings)
    except SettingsError as error:
        log(Event.CERTIFICATE_EXPIRES, reason=str(error))
        return
    for each in expiring(certificates, now):
        log(
            Event.CERTIFICATE_EXPIRES,
            reason=f"{each.setting} expires on {each.expires_at:%Y-%m-%d}; renew it",
            count=max(0, (each.expires_at - now).days),
        )


def _sections(settings: Settings) -> Iterator[tuple[str, TlsSettings]]:
    if settings.dicom.tls is not None:
        yield "dicom.tls", settings.dicom.tls
    for name, peer in settings.peers.items():
        if peer.tls is not None:
            yield f"peers.{name}.tls", peer.tls
