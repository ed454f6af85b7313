"""What an abused node is sent: synthetic instances, and a sender that goes wrong when told to."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING

from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian

from abuse.ground import ATTACKER, Ground, Party, expect, wait_until
from imaging_node.dicom.encoding import RawElement
from imaging_node.dicom.file_format import split_part10
from imaging_node.domain.lifecycle import FINAL_STUDY_STATES, DeliveryState
from tests.dicom.listening import CT, RELEASE_REQUEST, RawPeer, data_pdu, store_command, value
from tests.integration.films import film

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pydicom.dataset import Dataset

    from imaging_node.domain.records import StudyRecord

LITTLE = str(ExplicitVRLittleEndian)
SUCCESS = 0x0000
_FRAGMENT_BYTES = 65536
_ANSWER_LIMIT_S = 60.0
# Fewer than one address may: a connection counts until the node has noticed its end.
_AT_A_TIME = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One instance as a sender has it."""

    study_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    dataset: bytes
    transfer_syntax_uid: str = LITTLE

    @property
    def kind(self) -> tuple[str, str]:
        """The presentation context that it needs."""
        return self.sop_class_uid, self.transfer_syntax_uid


def new_uid() -> str:
    """A UID that was never used before."""
    return f"2.25.{uuid.uuid4().int}"


def chest_film(run: str = "", change: Callable[[Dataset], None] | None = None) -> Instance:
    """A film that a model scores; with the same `run` it is the same film of the same study."""
    payload = film(run, change)
    header = dcmread(BytesIO(payload), stop_before_pixels=True)
    syntax, dataset = split_part10(payload)
    return Instance(
        study_instance_uid=str(header.StudyInstanceUID),
        sop_instance_uid=str(header.SOPInstanceUID),
        sop_class_uid=str(header.SOPClassUID),
        transfer_syntax_uid=syntax,
        dataset=dataset,
    )


def slice_header(
    study: str, instance: str, *, patient: str = "SYNTHETIC-1", more: Sequence[RawElement] = ()
) -> bytes:
    """The elements of a CT slice up to its pixels, explicit VR little endian."""
    elements = [
        RawElement(0x00080016, "UI", CT.encode()),
        RawElement(0x00080018, "UI", instance.encode()),
        RawElement(0x00080060, "CS", b"CT"),
        RawElement(0x00100020, "LO", patient.encode()),
        RawElement(0x0020000D, "UI", study.encode()),
        RawElement(0x0020000E, "UI", f"{study[:60]}.1".encode()),
        RawElement(0x00280010, "US", (64).to_bytes(2, "little")),
        RawElement(0x00280011, "US", (64).to_bytes(2, "little")),
        *more,
    ]
    return b"".join(each.encoded() for each in sorted(elements, key=lambda each: each.tag))


def ct_slice(
    study: str = "",
    instance: str = "",
    *,
    patient: str = "SYNTHETIC-1",
    pixels: bytes = bytes(8192),
) -> Instance:
    """A slice that no model is meant for: received, kept and done with."""
    study, instance = study or new_uid(), instance or new_uid()
    return Instance(
        study_instance_uid=study,
        sop_instance_uid=instance,
        sop_class_uid=CT,
        dataset=slice_header(study, instance, patient=patient)
        + RawElement(0x7FE00010, "OW", pixels).encoded(),
    )


@contextmanager
def association(
    ground: Ground,
    kinds: Sequence[tuple[str, str]],
    *,
    source: str = ATTACKER,
    party: Party | None = None,
    limit_s: float = 30.0,
) -> Iterator[RawPeer]:
    """An association that is released at its end, unless the connection is gone by then.

    Raises:
        UnexpectedError: The node refused it.
    """
    caller = party or Party(ae_title="SENDER", address=source)
    with ground.call(source=caller.address, tls=caller.tls, limit_s=limit_s) as peer:
        answer = caller.associate(peer, kinds, called=ground.ae_title)
        expect(answer[:1] == b"\x02", f"association answered by {answer[:10].hex(' ')}")
        yield peer
        try:
            peer.send(RELEASE_REQUEST)
            peer.pdu()
        except OSError:
            return


def send_command(peer: RawPeer, instance: Instance, *, context_id: int = 1) -> None:
    """The C-STORE-RQ of an instance."""
    command = store_command(instance.sop_instance_uid, sop_class_uid=instance.sop_class_uid)
    peer.send(data_pdu(value(command, is_command=True, context_id=context_id)))


def send_dataset(peer: RawPeer, dataset: bytes, *, context_id: int = 1) -> None:
    """A whole dataset in P-DATA-TF PDUs."""
    for begin in range(0, max(1, len(dataset)), _FRAGMENT_BYTES):
        end = begin + _FRAGMENT_BYTES
        peer.send(
            data_pdu(
                value(
                    dataset[begin:end],
                    is_command=False,
                    is_last=end >= len(dataset),
                    context_id=context_id,
                )
            )
        )


def store(peer: RawPeer, instance: Instance, *, context_id: int = 1) -> int:
    """Send one instance on an association; the status of the answer."""
    send_command(peer, instance, context_id=context_id)
    send_dataset(peer, instance.dataset, context_id=context_id)
    return peer.status()


def store_alone(
    ground: Ground, instance: Instance, *, source: str = ATTACKER, party: Party | None = None
) -> int:
    """Send one instance on an association of its own; the status of the answer."""
    with association(ground, [instance.kind], source=source, party=party) as peer:
        return store(peer, instance)


def await_ended(
    ground: Ground, study_instance_uid: str, *, limit_s: float = _ANSWER_LIMIT_S
) -> StudyRecord:
    """The study once it has ended."""
    wait_until(
        lambda: (
            (study := ground.studies().get(study_instance_uid)) is not None
            and study.state in FINAL_STUDY_STATES
        ),
        limit_s=limit_s,
        what="the study ended",
    )
    return ground.studies()[study_instance_uid]


def await_delivered(
    ground: Ground, study_instance_uid: str, destination: str, *, limit_s: float = _ANSWER_LIMIT_S
) -> int:
    """How many objects of an ended study a destination has, once nothing is under way."""

    def states() -> list[DeliveryState]:
        return [
            each.state
            for each in ground.deliveries(destination)
            if each.study_instance_uid == study_instance_uid
        ]

    wait_until(
        lambda: (found := states()) and set(found) == {DeliveryState.DELIVERED},
        limit_s=limit_s,
        what=f"all was delivered to {destination}",
    )
    return len(states())


def warm_up(ground: Ground) -> None:
    """Have everything done once, and by many at a time: memory is what it is after some work."""

    def send(instance: Instance) -> int:
        return store_alone(ground, instance, party=ground.honest)

    first = chest_film()
    slices = [ct_slice() for _ in range(4 * _AT_A_TIME)]
    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        statuses = [send(first), *pool.map(send, slices)]
    expect(set(statuses) == {SUCCESS}, f"answers {[f'{each:04X}' for each in set(statuses)]}")
    await_ended(ground, first.study_instance_uid)
    for each in ground.node.settings.destinations:
        wait_until(
            lambda each=each: (
                not any(  # type: ignore[misc]  # bound now
                    row.state is DeliveryState.WAITING for row in ground.deliveries(each)
                )
            ),
            limit_s=_ANSWER_LIMIT_S,
            what=f"nothing waits for {each}",
        )
