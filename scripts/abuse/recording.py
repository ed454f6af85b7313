"""What real senders say to the node, as PDUs: the seeds of the replay."""

from __future__ import annotations

import socket
import subprocess
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE

from abuse.ground import ATTACKER, Ground, expect
from abuse.sending import ct_slice
from imaging_node.dicom.commitment import (
    COMMITMENT_PUSH_MODEL,
    COMMITMENT_PUSH_MODEL_INSTANCE,
)
from imaging_node.dicom.file_format import encode_part10
from tests.dicom.listening import CT, LOOPBACK, VERIFICATION

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import TracebackType

_HEADER_BYTES = 6
_SLICES = 3
_LIMIT_S = 30


class Recorder:
    """Owns a port that leads to the node, and notes what callers say; a context manager."""

    def __init__(self, ground: Ground) -> None:
        self._node = (LOOPBACK, ground.port)
        self._said: list[bytearray] = []
        self._listener = socket.create_server((LOOPBACK, 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._listen, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._listener.close()

    def streams(self) -> list[list[bytes]]:
        """The PDUs of each connection so far."""
        return [pdus for pdus in map(_split, self._said) if pdus]

    def _listen(self) -> None:
        while True:
            try:
                caller, _ = self._listener.accept()
            except OSError:
                return  # it was closed
            node = socket.create_connection(self._node, source_address=(ATTACKER, 0))
            said = bytearray()
            self._said.append(said)
            threading.Thread(target=_pass, args=(caller, node, said), daemon=True).start()
            threading.Thread(target=_pass, args=(node, caller, None), daemon=True).start()


def _pass(giver: socket.socket, taker: socket.socket, said: bytearray | None) -> None:
    with suppress(OSError):
        while piece := giver.recv(65536):
            if said is not None:
                said += piece
            taker.sendall(piece)
    for each in (giver, taker):
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
        each.close()


def _split(said: bytearray) -> list[bytes]:
    pdus, position = [], 0
    while len(said) - position >= _HEADER_BYTES:
        end = position + _HEADER_BYTES + int.from_bytes(said[position + 2 : position + 6], "big")
        pdus.append(bytes(said[position:end]))
        position = end
    return pdus


def record_streams(ground: Ground) -> list[list[bytes]]:
    """DCMTK's echoscu, storescu and dcmsend, and pynetdicom, once each."""
    folder = ground.folder / "recorded"
    folder.mkdir(exist_ok=True)
    files = [_write_slice(folder / f"slice-{number}.dcm") for number in range(_SLICES)]
    names = [str(each) for each in files]
    with Recorder(ground) as recorder:
        target = ["-aec", ground.ae_title, LOOPBACK, str(recorder.port)]
        for command in (
            ["echoscu", *target],
            ["storescu", "-R", "-xe", *target, *names],
            ["storescu", "-R", "-xi", "--max-send-pdu", "4096", *target, *names],
            ["storescu", *target, names[0]],
            ["dcmsend", *target, *names],
        ):
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=_LIMIT_S
            )
            expect(done.returncode == 0, f"{command[0]}: {done.stderr.strip()[-200:]}")
        _talk(recorder.port, ground.ae_title, files)
        return recorder.streams()


def _write_slice(path: Path) -> Path:
    instance = ct_slice(pixels=bytes(6000))
    path.write_bytes(
        encode_part10(
            instance.dataset,
            sop_class_uid=instance.sop_class_uid,
            sop_instance_uid=instance.sop_instance_uid,
            transfer_syntax_uid=instance.transfer_syntax_uid,
        )
    )
    return path


def _talk(port: int, called: str, files: Sequence[Path]) -> None:
    """pynetdicom: verification, storage and a request for commitment on one association."""
    entity = AE(ae_title="FUZZ_SCU")
    for each in (VERIFICATION, CT, COMMITMENT_PUSH_MODEL):
        entity.add_requested_context(each, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
    association = entity.associate(LOOPBACK, port, ae_title=called)
    expect(association.is_established, "pynetdicom got no association")
    association.send_c_echo()
    for path in files:
        association.send_c_store(path)
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = CT, "1.2.3"
    request = Dataset()
    request.TransactionUID = "2.25.1"
    request.ReferencedSOPSequence = [item]
    association.send_n_action(request, 1, COMMITMENT_PUSH_MODEL, COMMITMENT_PUSH_MODEL_INSTANCE)
    association.release()
