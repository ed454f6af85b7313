"""Audit events as XML of the schema in PS3.15 A.5.1."""

from __future__ import annotations

import os
import socket
from base64 import b64encode
from dataclasses import dataclass
from datetime import UTC
from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element, SubElement, tostring

from imaging_node.domain.audit import AlertKind, AuditKind

if TYPE_CHECKING:
    from imaging_node.domain.audit import AuditEvent

# PS3.16 CID 400 (EventID), CID 401 (EventTypeCode), CID 402 (RoleIDCode), CID 404 (objects).
_EVENTS = {
    AuditKind.APPLICATION_START: ("110100", "Application Activity", "E"),
    AuditKind.APPLICATION_STOP: ("110100", "Application Activity", "E"),
    AuditKind.BEGIN_TRANSFERRING: ("110102", "Begin Transferring DICOM Instances", "E"),
    AuditKind.INSTANCES_TRANSFERRED: ("110104", "DICOM Instances Transferred", "C"),
    AuditKind.PROCEDURE_RECORD: ("110111", "Procedure Record", "U"),
    AuditKind.SECURITY_ALERT: ("110113", "Security Alert", "E"),
    AuditKind.USER_AUTHENTICATION: ("110114", "User Authentication", "E"),
}
_TYPES = {
    AuditKind.APPLICATION_START: ("110120", "Application Start"),
    AuditKind.APPLICATION_STOP: ("110121", "Application Stop"),
    AuditKind.USER_AUTHENTICATION: ("110122", "Login"),
}
_ALERTS = {
    AlertKind.NODE_AUTHENTICATION: ("110126", "Node Authentication"),
    AlertKind.RECORDING_STOPPED: ("110133", "Audit Recording Stopped"),
    AlertKind.SOFTWARE_CONFIGURATION: ("110131", "Software Configuration"),
}
_APPLICATION = ("110150", "Application")
_DESTINATION = ("110152", "Destination Role ID")
_SOURCE = ("110153", "Source Role ID")
_STUDY = ("110180", "Study Instance UID")
_NODE = ("110182", "Node ID")

_APPLICATION_SERVER = "4"  # AuditSourceTypeCode
_SYSTEM_OBJECT = "2"  # ParticipantObjectTypeCode
_REPORT = "3"  # ParticipantObjectTypeCodeRole
_SECURITY_RESOURCE = "13"  # the same
_HOST_NAME, _IP_ADDRESS = "1", "2"  # NetworkAccessPointTypeCode


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditSource:
    """Who writes the messages.

    Attributes:
        ae_title: The node's.
        host: Name of the machine.
        pid: The writing process.
    """

    ae_title: str
    host: str
    pid: int


def this_process(ae_title: str) -> AuditSource:
    """The source that messages of this process name."""
    return AuditSource(ae_title=ae_title, host=socket.gethostname(), pid=os.getpid())


def audit_xml(event: AuditEvent, source: AuditSource) -> str:
    """The event as one line of XML."""
    message = Element("AuditMessage")
    _identify_event(message, event)
    _add_participants(message, event, source)
    origin = SubElement(
        message,
        "AuditSourceIdentification",
        {"AuditEnterpriseSiteID": source.host, "AuditSourceID": source.ae_title},
    )
    SubElement(origin, "AuditSourceTypeCode", {"csd-code": _APPLICATION_SERVER})
    for study in event.studies:
        _add_study(message, event, study)
    if event.kind is AuditKind.SECURITY_ALERT:
        _add_alert_subject(message, event, source)
    return tostring(message, encoding="unicode")


def _identify_event(message: Element, event: AuditEvent) -> None:
    code, meaning, action = _EVENTS[event.kind]
    identification = SubElement(
        message,
        "EventIdentification",
        {
            "EventActionCode": action,
            "EventDateTime": event.occurred_at.astimezone(UTC).isoformat(timespec="microseconds"),
            "EventOutcomeIndicator": str(event.outcome),
        },
    )
    _add_code(identification, "EventID", (code, meaning))
    if event.kind is AuditKind.SECURITY_ALERT:
        _add_code(identification, "EventTypeCode", _ALERTS[event.alert])
    elif event.kind in _TYPES:
        _add_code(identification, "EventTypeCode", _TYPES[event.kind])
    words = _outcome_words(event)
    if words:
        SubElement(identification, "EventOutcomeDescription").text = words


def _outcome_words(event: AuditEvent) -> str:
    repeats = f"{event.count} times" if event.count > 1 else ""
    return ", ".join(each for each in (event.reason, repeats) if each)


def _add_participants(message: Element, event: AuditEvent, source: AuditSource) -> None:
    """Both sides of the event; the one that asked for it is the requestor."""
    if event.kind in (AuditKind.BEGIN_TRANSFERRING, AuditKind.INSTANCES_TRANSFERRED):
        ours, theirs = (_SOURCE, _DESTINATION) if event.is_outgoing else (_DESTINATION, _SOURCE)
        _add_node(message, event, source, role=ours, is_requestor=event.is_outgoing)
        _add_peer(message, event, role=theirs, is_requestor=not event.is_outgoing)
        return
    if event.kind is AuditKind.USER_AUTHENTICATION:
        _add_peer(message, event, role=None, is_requestor=True)
        _add_node(message, event, source, role=_APPLICATION, is_requestor=False)
        return
    _add_node(message, event, source, role=_APPLICATION, is_requestor=False)
    if event.peer_ae_title or event.peer_address:
        _add_peer(message, event, role=None, is_requestor=True)
    if event.user:
        SubElement(
            message, "ActiveParticipant", {"UserID": event.user, "UserIsRequestor": _truth(True)}
        )


def _add_node(
    message: Element,
    event: AuditEvent,
    source: AuditSource,
    *,
    role: tuple[str, str],
    is_requestor: bool,
) -> None:
    participant = SubElement(
        message,
        "ActiveParticipant",
        {
            "UserID": str(source.pid),
            "AlternativeUserID": f"AETITLES={source.ae_title}",
            "UserName": f"imaging-node: {event.role}",
            "UserIsRequestor": _truth(is_requestor),
            "NetworkAccessPointID": source.host,
            "NetworkAccessPointTypeCode": _HOST_NAME,
        },
    )
    _add_code(participant, "RoleIDCode", role)


def _add_peer(
    message: Element, event: AuditEvent, *, role: tuple[str, str] | None, is_requestor: bool
) -> None:
    attributes = {
        "UserID": event.peer_ae_title or event.peer_address or "unknown",
        "UserIsRequestor": _truth(is_requestor),
    }
    if event.peer_ae_title:
        attributes["AlternativeUserID"] = f"AETITLES={event.peer_ae_title}"
    if event.peer_address:
        attributes["NetworkAccessPointID"] = event.peer_address
        attributes["NetworkAccessPointTypeCode"] = _IP_ADDRESS
    participant = SubElement(message, "ActiveParticipant", attributes)
    if role is not None:
        _add_code(participant, "RoleIDCode", role)


def _add_study(message: Element, event: AuditEvent, study: str) -> None:
    target = SubElement(
        message,
        "ParticipantObjectIdentification",
        {
            "ParticipantObjectID": study,
            "ParticipantObjectTypeCode": _SYSTEM_OBJECT,
            "ParticipantObjectTypeCodeRole": _REPORT,
        },
    )
    _add_code(target, "ParticipantObjectIDTypeCode", _STUDY)
    SubElement(target, "ParticipantObjectName").text = f"token {study}"
    if event.bytes:
        _add_detail(target, "bytes of the transfer", str(event.bytes))
    if event.instances:
        _add_detail(target, "instances of the transfer", str(event.instances))
    description = SubElement(target, "ParticipantObjectDescription")
    if event.instances and len(event.studies) == 1:
        SubElement(description, "SOPClass", {"NumberOfInstances": str(event.instances)})
    SubElement(description, "Anonymized").text = "true"


def _add_alert_subject(message: Element, event: AuditEvent, source: AuditSource) -> None:
    target = SubElement(
        message,
        "ParticipantObjectIdentification",
        {
            "ParticipantObjectID": source.ae_title,
            "ParticipantObjectTypeCode": _SYSTEM_OBJECT,
            "ParticipantObjectTypeCodeRole": _SECURITY_RESOURCE,
        },
    )
    _add_code(target, "ParticipantObjectIDTypeCode", _NODE)
    SubElement(target, "ParticipantObjectName").text = source.ae_title
    _add_detail(target, "Alert Description", _outcome_words(event) or "no reason given")


def _add_code(parent: Element, name: str, code: tuple[str, str]) -> None:
    value, meaning = code
    SubElement(
        parent,
        name,
        {"csd-code": value, "codeSystemName": "DCM", "originalText": meaning},
    )


def _add_detail(parent: Element, kind: str, value: str) -> None:
    encoded = b64encode(value.encode()).decode("ascii")
    SubElement(parent, "ParticipantObjectDetail", {"type": kind, "value": encoded})


def _truth(value: bool) -> str:
    return "true" if value else "false"
