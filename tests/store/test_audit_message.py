"""What an auditor reads follows PS3.15 A.5, and names no patient."""

from __future__ import annotations

from typing import Any

import pytest

from imaging_node.domain.audit import AlertKind, AuditEvent, AuditKind
from imaging_node.store.audit_message import audit_xml
from tests.store.auditing import NOON, SOURCE, event, outcome_words, valid

STUDY = "0123456789abcdef"
PEER: dict[str, Any] = {"peer_ae_title": "MODALITY", "peer_address": "192.0.2.7"}
EVENTS = [
    (event(AuditKind.APPLICATION_START), "110100", "110120", ["110150"]),
    (event(AuditKind.APPLICATION_STOP, outcome=8), "110100", "110121", ["110150"]),
    (event(AuditKind.BEGIN_TRANSFERRING, **PEER), "110102", None, ["110152", "110153"]),
    (
        event(AuditKind.INSTANCES_TRANSFERRED, studies=(STUDY,), instances=3, bytes=9, **PEER),
        "110104",
        None,
        ["110152", "110153"],
    ),
    (
        event(AuditKind.INSTANCES_TRANSFERRED, is_outgoing=True, outcome=4, **PEER),
        "110104",
        None,
        ["110153", "110152"],
    ),
    (event(outcome=8, reason="unknown caller", **PEER), "110113", "110126", ["110150"]),
    (event(alert=AlertKind.RECORDING_STOPPED, count=3), "110113", "110133", ["110150"]),
    (
        event(alert=AlertKind.SOFTWARE_CONFIGURATION, user="operator", reason="model promoted"),
        "110113",
        "110131",
        ["110150"],
    ),
    (event(AuditKind.USER_AUTHENTICATION, **PEER), "110114", "110122", ["110150"]),
]


@pytest.mark.parametrize(("said", "event_id", "type_code", "roles"), EVENTS)
def test_each_event_is_a_message_of_the_schema(
    said: AuditEvent, event_id: str, type_code: str | None, roles: list[str]
) -> None:
    message = valid(audit_xml(said, SOURCE))

    assert message.find("EventIdentification/EventID[@csd-code]") is not None
    codes = [each.get("csd-code") for each in message.iter("EventID")]
    assert codes == [event_id]
    assert [each.get("csd-code") for each in message.iter("EventTypeCode")] == (
        [type_code] if type_code else []
    )
    assert [each.get("csd-code") for each in message.iter("RoleIDCode")] == roles


def test_both_ends_of_a_transfer_are_named_with_their_address() -> None:
    message = valid(audit_xml(EVENTS[3][0], SOURCE))

    ours, theirs = message.findall("ActiveParticipant")
    assert ours.get("AlternativeUserID") == "AETITLES=IMAGING_NODE"
    assert theirs.get("AlternativeUserID") == "AETITLES=MODALITY"
    assert theirs.get("NetworkAccessPointID") == "192.0.2.7"
    assert (ours.get("UserIsRequestor"), theirs.get("UserIsRequestor")) == ("false", "true")
    study = message.find("ParticipantObjectIdentification")
    assert study is not None
    assert study.get("ParticipantObjectID") == STUDY
    sop_class = study.find("ParticipantObjectDescription/SOPClass")
    assert sop_class is not None
    assert sop_class.get("NumberOfInstances") == "3"


@pytest.mark.parametrize(
    "hostile",
    ['"/><EventID a="', "A\nB\r\tC", "\x00\x1b[31m", "\ud800\ufffe", "名前名前", "x" * 5000],
)
def test_an_ae_title_from_the_wire_stays_one_legal_attribute(hostile: str) -> None:
    said = event(outcome=8, peer_ae_title=hostile, peer_address=hostile, reason=hostile)

    xml = audit_xml(said, SOURCE)

    message = valid(xml)
    assert "\n" not in xml
    assert len(said.peer_ae_title) <= 16
    assert said.peer_ae_title.isascii()
    assert said.peer_address == ""
    assert len(list(message.iter("EventID"))) == 1


def test_a_raw_uid_cannot_stand_where_a_token_belongs() -> None:
    with pytest.raises(ValueError, match="by token"):
        event(AuditKind.INSTANCES_TRANSFERRED, studies=("2.25.7777777777777701",))


@pytest.mark.parametrize(
    "wrong",
    [{"outcome": 1}, {"count": 0}, {"instances": -1}, {"occurred_at": NOON.replace(tzinfo=None)}],
)
def test_an_impossible_event_cannot_be_built(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        event(**wrong)


def test_a_change_of_models_names_the_user_who_asked_for_it() -> None:
    said = event(alert=AlertKind.SOFTWARE_CONFIGURATION, user="op\nerator" + "x" * 99)

    node, user = valid(audit_xml(said, SOURCE)).findall("ActiveParticipant")
    assert (node.get("UserIsRequestor"), user.get("UserIsRequestor")) == ("false", "true")
    assert user.get("UserID") == "op erator" + "x" * 55


def test_a_folded_message_says_how_many_it_stands_for() -> None:
    said = event(outcome=8, reason="unknown caller", count=57)

    assert outcome_words(audit_xml(said, SOURCE)) == "unknown caller, 57 times"
