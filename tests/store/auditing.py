"""Audit events for the tests, and the schema of PS3.15 A.5.1 as far as a message can break it."""

from __future__ import annotations

import re
from base64 import b64decode
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import Element, fromstring

from imaging_node.domain.audit import AuditEvent, AuditKind
from imaging_node.store.audit_log import AuditEntry, AuditLog
from imaging_node.store.audit_message import AuditSource

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
SOURCE = AuditSource(ae_title="IMAGING_NODE", host="node", pid=4711)
CODED = {"csd-code", "codeSystemName", "originalText"}
# Element: its attributes ("?": optional), and its children as (name, least, most), in order.
SCHEMA: dict[str, tuple[set[str], Sequence[tuple[str, int, float]]]] = {
    "AuditMessage": (
        set(),
        [
            ("EventIdentification", 1, 1),
            ("ActiveParticipant", 1, float("inf")),
            ("AuditSourceIdentification", 1, 1),
            ("ParticipantObjectIdentification", 0, float("inf")),
        ],
    ),
    "EventIdentification": (
        {"EventActionCode", "EventDateTime", "EventOutcomeIndicator"},
        [
            ("EventID", 1, 1),
            ("EventTypeCode", 0, float("inf")),
            ("EventOutcomeDescription", 0, 1),
        ],
    ),
    "ActiveParticipant": (
        {
            "UserID",
            "AlternativeUserID?",
            "UserName?",
            "UserIsRequestor",
            "NetworkAccessPointID?",
            "NetworkAccessPointTypeCode?",
        },
        [("RoleIDCode", 0, float("inf"))],
    ),
    "AuditSourceIdentification": (
        {"AuditEnterpriseSiteID?", "AuditSourceID"},
        [("AuditSourceTypeCode", 0, float("inf"))],
    ),
    "ParticipantObjectIdentification": (
        {
            "ParticipantObjectID",
            "ParticipantObjectTypeCode?",
            "ParticipantObjectTypeCodeRole?",
        },
        [
            ("ParticipantObjectIDTypeCode", 1, 1),
            ("ParticipantObjectName", 1, 1),
            ("ParticipantObjectDetail", 0, float("inf")),
            ("ParticipantObjectDescription", 0, float("inf")),
        ],
    ),
    "ParticipantObjectDescription": (
        set(),
        [("SOPClass", 0, float("inf")), ("Encrypted", 0, 1), ("Anonymized", 0, 1)],
    ),
    "SOPClass": ({"UID?", "NumberOfInstances"}, []),
    "ParticipantObjectDetail": ({"type", "value"}, []),
    "EventID": (CODED, []),
    "EventTypeCode": (CODED, []),
    "RoleIDCode": (CODED, []),
    "ParticipantObjectIDTypeCode": (CODED, []),
    "AuditSourceTypeCode": ({"csd-code"}, []),
    "EventOutcomeDescription": (set(), []),
    "ParticipantObjectName": (set(), []),
    "Anonymized": (set(), []),
    "Encrypted": (set(), []),
}
VALUES = {
    "EventActionCode": r"[CRUDE]",
    "EventDateTime": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)",
    "EventOutcomeIndicator": r"0|4|8|12",
    "UserIsRequestor": r"true|false",
    "NetworkAccessPointTypeCode": r"[1-5]",
    "ParticipantObjectTypeCode": r"[1-4]",
    "ParticipantObjectTypeCodeRole": r"[1-9]|1\d|2[0-6]",
    "NumberOfInstances": r"\d+",
    "csd-code": r"\d+",
    "codeSystemName": r"DCM",
}


def event(kind: AuditKind = AuditKind.SECURITY_ALERT, **changes: Any) -> AuditEvent:  # noqa: ANN401 - the event's own fields
    return AuditEvent(**{"kind": kind, "occurred_at": NOON, "role": "receive", **changes})


def entries(*names: str) -> list[AuditEntry]:
    return [
        AuditEntry(occurred_at=NOON.isoformat(), role="receive", pid=1, xml=f"<a>{name}</a>")
        for name in names
    ]


def read_all(folder: Path) -> list[str]:
    """The messages of a log, oldest first."""
    batch = AuditLog(folder).read_after(0, limit=1_000_000)
    return [record.entry.xml for record in batch.records]


def valid(xml: str) -> Element:
    """The message, once it was found to follow the schema."""
    message: Element = fromstring(xml)  # noqa: S314 - our own message
    assert message.tag == "AuditMessage"
    _check(message)
    return message


def outcome_words(xml: str) -> str:
    return valid(xml).findtext("EventIdentification/EventOutcomeDescription") or ""


def count_in(xml: str) -> int:
    """How many events a message stands for."""
    found = re.search(r"(\d+) times$", outcome_words(xml))
    return int(found[1]) if found else 1


def _check(element: Element) -> None:
    attributes, children = SCHEMA[element.tag]
    needed = {name for name in attributes if not name.endswith("?")}
    allowed = {name.removesuffix("?") for name in attributes}
    assert needed <= set(element.attrib) <= allowed, (element.tag, element.attrib)
    for name, value in element.attrib.items():
        assert re.fullmatch(VALUES.get(name, r".+"), value), (element.tag, name, value)
    if element.tag == "ParticipantObjectDetail":
        b64decode(element.attrib["value"], validate=True)
    order = [name for name, _, _ in children]
    found = [child.tag for child in element]
    assert found == sorted(found, key=order.index), (element.tag, found)
    for name, least, most in children:
        assert least <= found.count(name) <= most, (element.tag, name)
    for child in element:
        _check(child)
