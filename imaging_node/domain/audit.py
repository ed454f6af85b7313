"""What an auditor is told: who did what, when, with what outcome."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

# EventOutcomeIndicator, PS3.15 A.5.1.
SUCCESS = 0
MINOR_FAILURE = 4
SERIOUS_FAILURE = 8
MAJOR_FAILURE = 12

_TOKEN = re.compile(r"[0-9a-f]{16}")
_NO_AE_CHARACTER = re.compile(r"[^\x20-\x5b\x5d-\x7e]")  # PS3.5 6.2, VR AE
_LONGEST_AE_TITLE = 16
_LONGEST_REASON = 200
_LONGEST_USER = 64


class AuditKind(StrEnum):
    """The events of PS3.15 A.5.3 that the node takes part in."""

    APPLICATION_START = "application_start"
    APPLICATION_STOP = "application_stop"
    BEGIN_TRANSFERRING = "begin_transferring"
    INSTANCES_TRANSFERRED = "instances_transferred"
    PROCEDURE_RECORD = "procedure_record"
    SECURITY_ALERT = "security_alert"
    USER_AUTHENTICATION = "user_authentication"


class AlertKind(StrEnum):
    """What a security alert is about (PS3.16 CID 403)."""

    NODE_AUTHENTICATION = "node_authentication"
    RECORDING_STOPPED = "recording_stopped"
    SOFTWARE_CONFIGURATION = "software_configuration"


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEvent:
    """One event, without anything that names a patient.

    By decision of the house raw UIDs and patient identifiers stay in the database and the
    spool: an audit message carries the keyed tokens that also stand in the log and in the
    addresses of the worklist page. Whoever may open that page sees whose study it was.

    Attributes:
        kind: What happened.
        occurred_at: When; with a time zone.
        outcome: 0 success, 4 minor, 8 serious, 12 major failure.
        role: "receive", "score", "deliver" or "web": the process that saw it.
        peer_ae_title: The other side's claim. Hostile text from the wire: characters that an
            AE title cannot have become "?", and it is cut to 16.
        peer_address: IP address of the other side; "" when there is none or it is no address.
        is_outgoing: True when the node is the source of a transfer.
        reason: Our own words, never a dataset's; cut to 200 printable characters.
        studies: Tokens of the studies concerned, 16 hexadecimal digits each.
        instances, bytes: What was transferred.
        count: How many equal events this one stands for.
        alert: What a security alert is about.
        user: Who did it, by the operating system's name for the user or a part of the node; cut to
            64 printable characters.
    """

    kind: AuditKind
    occurred_at: datetime
    outcome: int = SUCCESS
    role: str
    peer_ae_title: str = ""
    peer_address: str = ""
    is_outgoing: bool = False
    reason: str = ""
    studies: tuple[str, ...] = ()
    instances: int = 0
    bytes: int = 0
    count: int = 1
    alert: AlertKind = AlertKind.NODE_AUTHENTICATION
    user: str = ""

    def __post_init__(self) -> None:
        if self.outcome not in (SUCCESS, MINOR_FAILURE, SERIOUS_FAILURE, MAJOR_FAILURE):
            raise ValueError(f"outcome {self.outcome} is none of 0, 4, 8, 12")
        if self.occurred_at.tzinfo is None:
            raise ValueError("an audit event needs a time zone")
        if not all(_TOKEN.fullmatch(study) for study in self.studies):
            raise ValueError("an audit event names studies by token, not by UID")
        if self.count < 1 or self.instances < 0 or self.bytes < 0:
            raise ValueError("an audit event cannot count below zero, or stand for no event")
        # What came from the wire is made harmless here, so that no caller can forget it.
        object.__setattr__(self, "peer_ae_title", legal_ae_title(self.peer_ae_title))
        object.__setattr__(self, "peer_address", _legal_address(self.peer_address))
        object.__setattr__(self, "reason", _printable(self.reason))
        object.__setattr__(self, "user", _printable(self.user[:_LONGEST_USER]))

    @property
    def is_refusal(self) -> bool:
        """True for what a hostile peer can cause as often as it likes."""
        return self.outcome != SUCCESS and self.kind in (
            AuditKind.SECURITY_ALERT,
            AuditKind.USER_AUTHENTICATION,
        )


def legal_ae_title(text: str) -> str:
    """`text` with what no AE title can hold replaced by "?": at most 16 characters."""
    return _NO_AE_CHARACTER.sub("?", text[:_LONGEST_AE_TITLE]).strip()


def _legal_address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return ""


def _printable(text: str) -> str:
    return "".join(
        character if character.isprintable() else " " for character in text[:_LONGEST_REASON]
    )
