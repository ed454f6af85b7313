"""Who may talk to the node, whom it talks to, and how both are protected."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    StringConstraints,
    field_validator,
    model_validator,
)

from imaging_node.settings.section import AeTitle, Port, Section

Uid = Annotated[str, StringConstraints(pattern=r"^[0-9.]{1,64}$")]


def _network(text: str) -> str:
    """CIDR notation, or one address; host bits are an error that would hide a typing slip."""
    return str(ipaddress.ip_network(text))


def _fingerprint(text: object) -> object:
    """The SHA-256 of a certificate as openssl prints it, or without its colons."""
    return text.replace(":", "").lower() if isinstance(text, str) else text


Network = Annotated[str, AfterValidator(_network)]
Sha256 = Annotated[str, BeforeValidator(_fingerprint), StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class TlsSettings(Section):
    """Mutual TLS: who we are, and whose certificates we believe."""

    certificate: Path = Field(description="PEM file of the own certificate and its chain.")
    key: Path = Field(description="PEM file of the private key.")
    ca: Path = Field(description="PEM file of the authorities that the other side must come from.")


class CallerSettings(Section):
    """One application that may call: all that is named must agree."""

    ae_title: AeTitle = Field(description="Its calling AE title.")
    address: Network = Field(description="Its address, or a range in CIDR notation.")
    certificate_sha256: Sha256 | None = Field(
        None, description="SHA-256 of its certificate (DER); with TLS only."
    )


class DicomSettings(Section):
    """The listener that a PACS sends to."""

    ae_title: AeTitle = Field("IMAGING_NODE", description="AE title of the node, also as sender.")
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: Port = Field(11112, description="Port to listen on.")
    receivers: int = Field(
        1, ge=1, le=64, description="Receiver processes on the one listening socket."
    )
    callers: tuple[CallerSettings, ...] = Field(
        (), description="Who may call; empty: anyone, on the loopback interface only."
    )
    allow_plaintext: bool = Field(
        default=False, description="Listen without TLS on an address that others can reach."
    )
    tls: TlsSettings | None = Field(
        None, description="Certificate, key and ca: with them the port speaks mutual TLS only."
    )
    max_associations: int = Field(
        64, ge=1, le=512, description="Associations served at a time; more are rejected (2/3/2)."
    )
    max_associations_per_address: int = Field(
        16, ge=1, le=512, description="The same for one address."
    )
    max_instance_bytes: int = Field(
        4294967296, ge=1024, description="Largest dataset; a larger one is answered A701."
    )
    idle_timeout_s: float = Field(
        60, ge=1, le=86400, description="Silence after which an association is aborted."
    )
    storage_classes: Literal["images", "all"] | tuple[Uid, ...] = Field(
        "images",
        description="Storage SOP classes accepted: those of images the node may score, all"
        " standard ones, or a list of UIDs.",
    )
    user_identity: Literal["accept", "require", "refuse"] = Field(
        "accept",
        description="A user identity in the association request: may be there and is not"
        " checked, must be one of dicom.users, or must not be there.",
    )
    users: dict[str, Sha256] = Field(
        default_factory=dict, description="User name: SHA-256 of its passcode."
    )

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the listener."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @field_validator("tls", mode="before")
    @classmethod
    def _nothing_named_is_no_tls(cls, value: object) -> object:
        if isinstance(value, dict) and value and not any(value.values()):
            return None
        return value

    @model_validator(mode="after")
    def _must_be_safe(self) -> DicomSettings:
        if not self.is_loopback and self.tls is None and not self.allow_plaintext:
            raise ValueError(
                f"{self.host!r} can be reached by others: give dicom.tls, or state"
                " dicom.allow_plaintext: true"
            )
        if self.tls is None and any(each.certificate_sha256 for each in self.callers):
            raise ValueError("callers name certificates: they need dicom.tls")
        if self.user_identity == "require" and not self.users:
            raise ValueError("user_identity: require needs dicom.users")
        return self


class PeerSettings(Section):
    """A DICOM application the node talks to."""

    ae_title: AeTitle = Field(description="AE title of the peer.")
    host: str = Field(description="Address or name of the peer.")
    port: Port = Field(description="Port of the peer.")
    tls: TlsSettings | None = Field(None, description="Certificate, key and ca for mutual TLS.")
    storage_commitment: bool = Field(
        default=False,
        description="Ask for storage commitment, and wait for it before an object counts as"
        " delivered.",
    )


class DeliverySettings(Section):
    """How results are sent."""

    retry_first_s: float = Field(2, gt=0, le=3600, description="Wait before the first retry.")
    retry_max_s: float = Field(
        300, gt=0, le=86400, description="Waits double up to this many seconds."
    )
    timeout_s: float = Field(30, gt=0, le=600, description="Longest wait for a peer's answer.")
    commitment_timeout_s: float = Field(
        3600,
        gt=0,
        le=604800,
        description="Longest wait for a commitment report; then the object is sent again.",
    )

    @model_validator(mode="after")
    def _waits_must_grow(self) -> DeliverySettings:
        if self.retry_first_s > self.retry_max_s:
            raise ValueError(
                f"retry_first_s: {self.retry_first_s} must not exceed retry_max_s"
                f" ({self.retry_max_s})"
            )
        return self


class SyslogSettings(Section):
    """A syslog server for audit messages (RFC 5425)."""

    host: str = Field(description="Address or name of the syslog server.")
    port: Port = Field(6514, description="Its TLS port.")
    ca: Path = Field(description="PEM file of the authorities its certificate must come from.")
    certificate: Path | None = Field(None, description="PEM file of the own certificate.")
    key: Path | None = Field(None, description="PEM file of its private key.")


class AuditSettings(Section):
    """Who did what: messages of PS3.15 A.5 in the state directory."""

    syslog: SyslogSettings | None = Field(
        None, description="Also send them there, over TLS; none is lost while it is down."
    )
