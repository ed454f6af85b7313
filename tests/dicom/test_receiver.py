"""One status for every C-STORE, whatever happens behind it; real sockets."""

from __future__ import annotations

import socket
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from io import BytesIO
from typing import TYPE_CHECKING

import pytest
from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE

from imaging_node.dicom.receiver import STORAGE_CLASSES, ReceivedInstance, Receiver
from imaging_node.domain.errors import RejectedInstanceError, StorageError
from imaging_node.flow.intake import Intake, accept_instance
from imaging_node.settings import DicomSettings
from imaging_node.store.database import open_database
from imaging_node.store.listings import list_studies
from imaging_node.store.spool import Spool
from imaging_node.telemetry import Counters, Pseudonyms
from tests.integration.films import film

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@contextmanager
def listening(
    accept: Callable[[ReceivedInstance], None], counters: Counters | None = None
) -> Iterator[int]:
    """A receiver on a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    receiver = Receiver(
        DicomSettings.model_validate({"port": port}), accept, counters or Counters()
    )
    try:
        yield port
    finally:
        receiver.drain(1)


def store(port: int, payload: bytes) -> int:
    """Status that a sender sees."""
    dataset = dcmread(BytesIO(payload))
    entity = AE(ae_title="SENDER")
    entity.add_requested_context(dataset.SOPClassUID, ExplicitVRLittleEndian)
    association = entity.associate("127.0.0.1", port)
    assert association.is_established
    status = association.send_c_store(dataset).Status
    association.release()
    return int(status)


def refuse_with(error: Exception) -> Callable[[ReceivedInstance], None]:
    def accept(_: ReceivedInstance) -> None:
        raise error

    return accept


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (StorageError("disk full"), 0xA700),
        (RejectedInstanceError("not understood", status=0xC000), 0xC000),
        (ZeroDivisionError("a defect of ours"), 0xC0FE),
    ],
)
def test_every_failure_is_an_explicit_status_and_the_listener_goes_on(
    error: Exception, status: int
) -> None:
    with listening(refuse_with(error)) as port:
        assert [store(port, film()) for _ in range(2)] == [status] * 2


def test_the_dataset_arrives_byte_for_byte_and_success_is_counted() -> None:
    received: list[ReceivedInstance] = []
    counters = Counters()
    payload = film()
    with listening(received.append, counters) as port:
        assert store(port, payload) == 0x0000

    [instance] = received
    assert payload.endswith(instance.dataset[-1000:])
    assert instance.calling_ae_title == "SENDER"
    assert counters.snapshot() == {'instances_total{status="0x0000"}': 1}


def test_a_full_disk_is_told_to_the_sender_and_nothing_is_noted(tmp_path: Path) -> None:
    database = open_database(f"sqlite:///{tmp_path / 'node.sqlite'}")
    intake = Intake(
        database=database,
        spool=Spool(tmp_path / "spool", min_free_bytes=1 << 60),
        pseudonyms=Pseudonyms(b"k" * 32),
        quiet_period=timedelta(0),
        priority_by_calling_ae_title={},
        is_archive=False,
        clock=lambda: datetime.now(UTC),
    )
    with listening(partial(accept_instance, intake=intake)) as port:
        assert store(port, film()) == 0xA700

    assert list_studies(database, now=datetime.now(UTC)) == []


def test_every_promised_storage_class_is_accepted_and_another_is_not() -> None:
    entity = AE(ae_title="SENDER")
    for sop_class_uid in (*STORAGE_CLASSES, "1.2.840.10008.5.1.4.1.1.481.3"):
        entity.add_requested_context(sop_class_uid, ExplicitVRLittleEndian)
    with listening(lambda _: None) as port:
        association = entity.associate("127.0.0.1", port)
        accepted = {str(each.abstract_syntax) for each in association.accepted_contexts}
        association.release()

    assert accepted == set(STORAGE_CLASSES)


def test_a_port_in_use_is_a_storage_error_with_its_setting() -> None:
    with (
        listening(lambda _: None) as port,
        pytest.raises(StorageError, match=r"dicom\.port"),
    ):
        Receiver(DicomSettings.model_validate({"port": port}), lambda _: None, Counters())
