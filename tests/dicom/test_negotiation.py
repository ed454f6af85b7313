"""Who is let in: every rejection on the wire, with its code, and what is ignored politely."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import pytest
from pynetdicom.pdu import A_ASSOCIATE_AC
from pynetdicom.pdu_primitives import (
    AsynchronousOperationsWindowNegotiation,
    SCP_SCU_RoleSelectionNegotiation,
    SOPClassExtendedNegotiation,
    UserIdentityNegotiation,
)

from imaging_node.settings import DicomSettings
from tests.dicom.listening import (
    CT,
    LOOPBACK,
    RELEASE_REQUEST,
    VERIFICATION,
    RawPeer,
    Seen,
    association_request,
    data_pdu,
    echo_command,
    listening,
    value,
)

if TYPE_CHECKING:
    from pathlib import Path

LITTLE = "1.2.840.10008.1.2.1"
STORES = [(CT, LITTLE), (VERIFICATION, LITTLE)]
USERS = {"alice": sha256(b"secret").hexdigest()}
HERE = {"ae_title": "RAW", "address": "127.0.0.0/8"}


def identity(name: bytes, passcode: bytes = b"", *, kind: int = 2) -> UserIdentityNegotiation:
    item = UserIdentityNegotiation()
    item.user_identity_type = kind
    item.primary_field = name
    if kind == 2:
        item.secondary_field = passcode
    item.positive_response_requested = True
    return item


def rejection(pdu: bytes) -> str:
    assert pdu[:1] == b"\x03", "not rejected"
    return "/".join(map(str, pdu[7:10]))


@pytest.mark.parametrize(
    ("settings", "request_", "code"),
    [
        ({}, association_request(STORES, called="OTHER"), "1/1/7"),
        ({}, association_request(STORES, called="imaging_node"), "1/1/7"),
        ({"callers": [HERE]}, association_request(STORES, calling="NOBODY"), "1/1/3"),
        ({"callers": [HERE]}, association_request(STORES, calling="raw"), "1/1/3"),
        (
            {"callers": [{**HERE, "address": "192.0.2.0/24"}]},
            association_request(STORES),
            "1/1/3",
        ),
        (
            {},
            association_request(STORES).replace(
                b"1.2.840.10008.3.1.1.1", b"1.2.840.10008.3.1.1.2"
            ),
            "1/1/2",
        ),
        ({}, association_request(STORES).replace(b"\0\1\0\0IMAGING", b"\0\2\0\0IMAGING"), "1/2/2"),
        (
            {"user_identity": "refuse"},
            association_request(STORES, more=[identity(b"alice", b"secret")]),
            "1/1/1",
        ),
        ({"user_identity": "require", "users": USERS}, association_request(STORES), "1/1/1"),
        (
            {"user_identity": "require", "users": USERS},
            association_request(STORES, more=[identity(b"alice", b"wrong")]),
            "1/1/1",
        ),
        (
            {"user_identity": "require", "users": USERS},
            association_request(STORES, more=[identity(b"bob", b"secret")]),
            "1/1/1",
        ),
        (
            {"user_identity": "require", "users": USERS},
            association_request(STORES, more=[identity(b"alice", kind=1)]),
            "1/1/1",
        ),
    ],
    ids=[
        "called", "called in another case", "caller", "caller in another case", "address",
        "application context", "protocol version", "user where none may be", "no user",
        "wrong passcode", "unknown user", "user without passcode",
    ],
)  # fmt: skip
def test_who_may_not_call_is_rejected_with_the_code_of_the_standard_and_noted(
    tmp_path: Path, settings: dict[str, Any], request_: bytes, code: str
) -> None:
    with listening(tmp_path, **settings) as running, RawPeer(running.port) as peer:
        peer.send(request_)
        assert rejection(peer.pdu()) == code

    [(caller, reason)] = running.seen.refused
    assert caller.address == "127.0.0.1"
    assert reason.startswith(code)
    counted = running.seen.counters.snapshot()
    assert counted[f'associations_refused_total{{reason="{code}"}}'] == 1
    assert running.seen.begun == []


def test_a_user_with_the_right_passcode_is_let_in_and_answered(tmp_path: Path) -> None:
    answer = A_ASSOCIATE_AC()
    with (
        listening(tmp_path, user_identity="require", users=USERS) as running,
        RawPeer(running.port) as peer,
    ):
        peer.send(association_request(STORES, more=[identity(b"alice", b"secret")]))
        answer.decode(peer.pdu())

    assert answer.user_information is not None
    assert answer.user_information.user_identity is not None
    assert [caller.user for caller, _ in running.seen.begun] == ["alice"]


def test_low_storage_turns_senders_away_and_lets_an_echo_in(tmp_path: Path) -> None:
    with listening(tmp_path, Seen(is_storage_low=True)) as running:
        with RawPeer(running.port) as peer:
            assert rejection(peer.associate(STORES)) == "2/3/2"
        with RawPeer(running.port) as peer:
            assert peer.associate(STORES[1:])[:1] == b"\x02"
            peer.send(data_pdu(value(echo_command(), is_command=True)))
            assert peer.status() == 0x0000


@pytest.mark.parametrize("limit", ["max_associations", "max_associations_per_address"])
def test_one_association_too_many_is_rejected_until_another_ends(
    tmp_path: Path, limit: str
) -> None:
    settings: dict[str, Any] = {limit: 3}
    with listening(tmp_path, **settings) as running, ExitStack() as stack:
        peers = [stack.enter_context(RawPeer(running.port)) for _ in range(4)]
        answers = [peer.associate(STORES) for peer in peers]
        assert [answer[:1] for answer in answers[:3]] == [b"\x02"] * 3
        assert rejection(answers[3]) == "2/3/2"

        peers[0].send(RELEASE_REQUEST)
        assert peers[0].pdu()[:1] == b"\x06"
        peers[0].socket.close()
        running.listener.await_end(0.2)
        with RawPeer(running.port) as peer:
            assert peer.associate(STORES)[:1] == b"\x02"


def test_strangers_with_many_addresses_leave_room_for_those_who_may_call(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "max_associations": 4,
        "max_associations_per_address": 2,
        "callers": [{"ae_title": "RAW", "address": LOOPBACK}],
    }
    with listening(tmp_path, **settings) as running, ExitStack() as stack:
        silent = [
            stack.enter_context(RawPeer(running.port, source=f"127.0.0.{number}"))
            for number in range(2, 8)
        ]
        answers = [peer.associate(STORES) for peer in silent[2:]]
        assert {rejection(answer) for answer in answers} == {"2/3/2"}

        for _ in range(2):
            peer = stack.enter_context(RawPeer(running.port))
            assert peer.associate(STORES)[:1] == b"\x02"
        assert rejection(silent[0].associate(STORES)) == "1/1/3"


def test_what_was_not_asked_for_is_ignored_politely(tmp_path: Path) -> None:
    window = AsynchronousOperationsWindowNegotiation()
    window.maximum_number_operations_invoked = 9
    window.maximum_number_operations_performed = 9
    extended = SOPClassExtendedNegotiation()
    extended.sop_class_uid, extended.service_class_application_information = CT, b"\2\0\3\0\1\0"
    role = SCP_SCU_RoleSelectionNegotiation()
    role.sop_class_uid, role.scu_role, role.scp_role = CT, True, True
    answer = A_ASSOCIATE_AC()
    with listening(tmp_path) as running, RawPeer(running.port) as peer:
        peer.send(association_request(STORES, more=[window, extended, role]))
        answer.decode(peer.pdu())
        peer.send(data_pdu(value(echo_command(), is_command=True, context_id=3)))
        assert peer.status() == 0x0000

    information = answer.user_information
    assert information is not None
    assert information.async_ops_window is None
    assert not information.ext_neg
    assert not information.role_selection
    assert [each.result for each in answer.presentation_context] == [0, 0]


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::", "pacs.example"])  # noqa: S104 - compared, not bound
def test_nobody_listens_to_others_in_plain_text_without_saying_so(host: str) -> None:
    with pytest.raises(ValueError, match="allow_plaintext"):
        DicomSettings.model_validate({"host": host})
    assert DicomSettings.model_validate({"host": host, "allow_plaintext": True}).host == host


def test_while_draining_callers_are_told_to_come_back_and_running_work_is_finished(
    tmp_path: Path,
) -> None:
    begin, rest = echo_command()[:20], echo_command()[20:]
    with listening(tmp_path) as running, RawPeer(running.port) as staying:
        assert staying.associate(STORES)[:1] == b"\x02"
        staying.send(data_pdu(value(begin, is_command=True, is_last=False, context_id=3)))
        draining = threading.Thread(target=running.listener.drain, args=(10,))
        draining.start()
        assert running.listener._is_draining.wait(5)
        with RawPeer(running.port) as late:
            assert rejection(late.associate(STORES)) == "2/3/1"
        staying.send(data_pdu(value(rest, is_command=True, context_id=3)))
        assert staying.status() == 0x0000
        draining.join(5)
        assert not draining.is_alive()


def test_a_user_name_is_read_as_utf_8(tmp_path: Path) -> None:
    users = {"jürgen": USERS["alice"]}
    with (
        listening(tmp_path, user_identity="require", users=users) as running,
        RawPeer(running.port) as peer,
    ):
        peer.send(association_request(STORES, more=[identity("jürgen".encode(), b"secret")]))
        assert peer.pdu()[0] == 2

    assert [caller.user for caller, _ in running.seen.begun] == ["jürgen"]
