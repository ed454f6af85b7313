"""One status for every C-STORE, whatever happens behind it; real sockets."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.presentation import AllStoragePresentationContexts

from imaging_node.dicom.listening_socket import bind
from imaging_node.dicom.storage_classes import STORAGE_CLASSES
from imaging_node.domain.errors import DurabilityError, RejectedInstanceError, StorageError
from tests.dicom.listening import (
    CT,
    LOOPBACK,
    VERIFICATION,
    RawPeer,
    Seen,
    data_pdu,
    echo_command,
    listening,
    store,
    store_command,
    value,
)
from tests.integration.films import film

if TYPE_CHECKING:
    from pathlib import Path

LITTLE = str(ExplicitVRLittleEndian)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (StorageError("disk full"), 0xA700),
        (RejectedInstanceError("not understood", status=0xC000), 0xC000),
        (ZeroDivisionError("a defect of ours"), 0xC0FE),
    ],
)
def test_every_failure_is_an_explicit_status_and_the_listener_goes_on(
    tmp_path: Path, error: Exception, status: int
) -> None:
    with listening(tmp_path, Seen(error=error)) as running:
        assert [store(running.port, film()) for _ in range(2)] == [status] * 2

    assert not running.seen.durability_lost
    assert all(each.is_discarded for each in running.seen.sinks)


def test_a_failed_fsync_is_told_to_the_sender_and_to_the_role(tmp_path: Path) -> None:
    with listening(tmp_path, Seen(error=DurabilityError("EIO"))) as running:
        assert store(running.port, film()) == 0xA700

    assert running.seen.durability_lost


def test_nothing_is_promised_once_an_fsync_has_failed(tmp_path: Path) -> None:
    with listening(tmp_path, Seen(may_promise=False)) as running:
        assert store(running.port, film()) == 0xA700


def test_the_dataset_arrives_byte_for_byte_and_success_is_counted(tmp_path: Path) -> None:
    payload = film()
    with listening(tmp_path) as running:
        assert store(running.port, payload) == 0x0000

    [kept] = running.seen.sinks
    assert payload.endswith(kept.written[-1000:])
    assert kept.incoming.calling_ae_title == "SENDER"
    counted = running.seen.counters.snapshot()
    assert counted['instances_total{status="0x0000"}'] == 1
    [(_, _, transferred)] = running.seen.ended
    assert transferred.instances == {"0123456789abcdef": 1}
    assert transferred.dataset_bytes == len(kept.written)


@pytest.mark.parametrize("setting", ["images", "all", [CT]])
def test_the_storage_classes_of_the_settings_are_accepted_and_no_other(
    tmp_path: Path, setting: str | list[str]
) -> None:
    every = [str(each.abstract_syntax) for each in AllStoragePresentationContexts]
    promised = {"images": set(STORAGE_CLASSES), "all": set(every)}.get(str(setting), {CT})
    accepted = set()
    with listening(tmp_path, storage_classes=setting) as running:
        for begin in range(0, len(every), 100):
            entity = AE(ae_title="SENDER")
            for sop_class_uid in (*every[begin : begin + 100], "1.2.3.4.5"):
                entity.add_requested_context(sop_class_uid, LITTLE)
            association = entity.associate(LOOPBACK, running.port, ae_title="IMAGING_NODE")
            accepted |= {str(each.abstract_syntax) for each in association.accepted_contexts}
            association.release()

    assert accepted == promised


@pytest.mark.parametrize(
    ("context", "command", "status"),
    [
        (CT, store_command(sop_class_uid=STORAGE_CLASSES[0]), 0xA900),
        (CT, store_command("../../etc/x"), 0x0117),
        (CT, store_command("1.2\n3"), 0x0117),
        (CT, store_command("1.2\0.3"), 0x0117),
        (CT, store_command("1" * 200), 0x0117),
        (CT, store_command(""), 0x0117),
        (VERIFICATION, store_command(sop_class_uid=VERIFICATION), 0x0122),
        (CT, store_command(has_dataset=False), 0xC000),
        (CT, echo_command(), 0x0122),
    ],
)
def test_a_command_that_cannot_be_served_gets_its_status_and_the_association_stays(
    tmp_path: Path, context: str, command: bytes, status: int
) -> None:
    has_dataset = command != echo_command() and command != store_command(has_dataset=False)
    with listening(tmp_path) as running, RawPeer(running.port) as peer:
        assert peer.associate([(context, LITTLE)])[:1] == b"\x02"
        for _ in range(2):
            peer.send(data_pdu(value(command, is_command=True)))
            if has_dataset:
                peer.send(data_pdu(value(b"x" * 100, is_command=False)))
            assert peer.status() == status

    assert not running.seen.sinks


def test_an_operation_that_nobody_offered_is_unrecognised(tmp_path: Path) -> None:
    find = store_command(has_dataset=False).replace(
        b"\0\0\x00\x01\x02\0\0\0\x01\0", b"\0\0\x00\x01\x02\0\0\0\x20\0"
    )
    with listening(tmp_path) as running, RawPeer(running.port) as peer:
        peer.associate()
        peer.send(data_pdu(value(find, is_command=True)))

        assert peer.status() == 0x0211


def test_an_instance_over_the_limit_is_answered_a701_and_the_association_ends(
    tmp_path: Path,
) -> None:
    with (
        listening(tmp_path, max_instance_bytes=100_000) as running,
        RawPeer(running.port) as peer,
    ):
        peer.associate()
        peer.send(data_pdu(value(store_command(), is_command=True)))
        for _ in range(4):
            peer.send(data_pdu(value(b"x" * 30_000, is_command=False, is_last=False)))

        assert peer.status() == 0xA701
        assert peer.pdu()[:1] == b"\x07"

    [kept] = running.seen.sinks
    assert kept.is_discarded
    assert not kept.is_accepted


def test_no_room_is_told_before_a_byte_is_written(tmp_path: Path) -> None:
    def refuse(_: object) -> None:
        raise StorageError("no room")

    with listening(tmp_path, open_instance=refuse) as running:  # type: ignore[arg-type]  # it never returns
        assert [store(running.port, film()) for _ in range(2)] == [0xA700, 0xA700]


def test_a_port_in_use_is_a_storage_error_with_its_setting() -> None:
    with (
        socket.create_server((LOOPBACK, 0)) as taken,
        pytest.raises(StorageError, match=r"dicom\.port"),
    ):
        bind(LOOPBACK, taken.getsockname()[1])
