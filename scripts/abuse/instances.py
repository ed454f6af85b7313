"""Faults 15 to 17, 26, 27 and 31: instances that break off, collide or lie about themselves."""

from __future__ import annotations

import json
import re
import socket
import struct
import subprocess
import sys
import tempfile
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from abuse.fault import Fault
from abuse.ground import Ground, expect, wait_until
from abuse.sending import (
    LITTLE,
    SUCCESS,
    association,
    await_delivered,
    await_ended,
    chest_film,
    ct_slice,
    new_uid,
    send_command,
    send_dataset,
    store,
    store_alone,
)
from imaging_node.dicom.file_format import encode_part10
from imaging_node.dicom.statuses import STATUS_DATASET_MISMATCH
from imaging_node.domain.lifecycle import StudyState
from imaging_node.settings import free_environment
from imaging_node.telemetry import Event
from tests.dicom.listening import CT, VERIFICATION, RawPeer, data_pdu, store_command, value

if TYPE_CHECKING:
    from collections.abc import Callable

_ABORT_REQUEST = b"\x07\0\0\0\0\x04\0\0\0\0"
_REPORT = "1.2.840.10008.5.1.4.1.1.88.34"
_PREAMBLE_BYTES = 128
_PARALLEL_SOURCES = [f"127.0.0.{number}" for number in range(10, 14)]
_PARALLEL, _SENDS = 50, 100


def studies_json(ground: Ground, *arguments: str) -> list[dict[str, Any]]:
    """What the command `studies` shows an operator."""
    done = subprocess.run(
        [
            sys.executable, "-m", "imaging_node", "studies", *arguments, "--json",
            "--config", str(ground.node.config),
        ],
        capture_output=True,
        text=True,
        check=False,
        env=free_environment(),
    )  # fmt: skip
    expect(done.returncode == 0, f"studies: {done.stderr.strip()}")
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    return rows


def _broken_off(ground: Ground) -> str:
    files = ground.kept_files()
    lost = []
    endings: tuple[Callable[[RawPeer], object], ...] = (
        lambda peer: peer.send(_ABORT_REQUEST),
        lambda peer: peer.socket.shutdown(socket.SHUT_WR),
        lambda peer: peer.socket.setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        ),
    )
    for end in endings * 4:
        # Half of it is more than is gathered in memory before there is a file.
        instance = ct_slice(pixels=bytes(2_000_000))
        lost.append(instance.study_instance_uid)
        with ground.call() as peer:
            peer.associate()
            send_command(peer, instance)
            half = instance.dataset[: len(instance.dataset) // 2]
            for begin in range(0, len(half), 65536):
                piece = half[begin : begin + 65536]
                peer.send(data_pdu(value(piece, is_command=False, is_last=False)))
            wait_until(ground.parts, limit_s=5, what="the file under way is there")
            end(peer)
    seconds = wait_until(
        lambda: not ground.parts(), limit_s=60, what="the unfinished files are gone"
    )
    expect(not set(lost) & set(ground.studies()), "an unfinished instance made a study")
    expect(ground.kept_files() == files, "an unfinished instance was kept")
    return f"12 broken off: nothing queued, files gone after {seconds:.1f} s"


def _same_in_parallel(ground: Ground) -> str:
    files = len(ground.kept_files())
    film = chest_film()

    def send(number: int) -> list[int]:
        source = _PARALLEL_SOURCES[number % len(_PARALLEL_SOURCES)]
        with association(ground, [film.kind], source=source) as peer:
            return [store(peer, film) for _ in range(_SENDS // _PARALLEL)]

    with ThreadPoolExecutor(_PARALLEL) as pool:
        statuses = [each for answers in pool.map(send, range(_PARALLEL)) for each in answers]
    expect(set(statuses) == {SUCCESS}, f"statuses {sorted(map(hex, set(statuses)))}")
    study = await_ended(ground, film.study_instance_uid)
    objects = await_delivered(ground, film.study_instance_uid, "pacs")
    reports = [
        each
        for each in ground.node.pacs.stored
        if each.study_instance_uid == film.study_instance_uid and each.sop_class_uid == _REPORT
    ]
    expect(study.state is StudyState.DONE, f"the study is {study.state}")
    expect(
        (study.generation, study.instances) == (1, 1),
        f"generation {study.generation}, {study.instances} instances",
    )
    expect(len(reports) == 1, f"{len(reports)} reports")
    expect(
        len(ground.kept_files()) == files + 1 + objects,
        f"{len(ground.kept_files()) - files - objects} files for one instance",
    )
    return f"{len(statuses)} of {_SENDS} answered 0000, one file, one report"


def _other_bytes(ground: Ground) -> str:
    study, uid = new_uid(), new_uid()
    first, second = (ct_slice(study, uid, pixels=bytes([number]) * 8192) for number in (1, 2))
    changed = len(ground.events(Event.INSTANCE_CHANGED))
    answers = [store_alone(ground, first), store_alone(ground, second)]
    expect(answers == [SUCCESS, SUCCESS], f"answers {[f'{each:04X}' for each in answers]}")
    record = await_ended(ground, study)
    [shown] = studies_json(ground, "show", study)
    digests = {each["digest"] for each in shown["instances"]}
    expect(len(digests) == 2, f"{len(digests)} contents are kept")  # noqa: PLR2004 - of two
    alarms = len(ground.events(Event.INSTANCE_CHANGED)) - changed
    expect(alarms == 1, f"{alarms} alarms")
    return f"0000, both kept, generation {record.generation}, alarm logged"


def _other_patient(ground: Ground) -> str:
    study = new_uid()
    first = ct_slice(study)
    second = ct_slice(study, patient="SOMEONE-ELSE")
    third = ct_slice(new_uid(), first.sop_instance_uid)
    answers = [store_alone(ground, each) for each in (first, second, third)]
    expect(answers == [SUCCESS, 0xC010, 0xC010], f"answers {[f'{each:04X}' for each in answers]}")
    wanted = {second.sop_instance_uid, third.sop_instance_uid}
    rows = [
        each
        for each in studies_json(ground)
        if each["state"] == "quarantined" and each["sop_instance_uid"] in wanted
    ]
    expect(len(rows) == len(wanted), f"{len(rows)} rows are quarantined")
    expect(all(each["reason"] for each in rows), "a quarantined row gives no reason")
    kept = {path.stem for path in ground.kept_files()}
    expect(all(each["digest"] in kept for each in rows), "quarantined bytes are not kept")
    return "C010 twice, both shown as quarantined with a reason, bytes kept"


def _wrong_classes(ground: Ground) -> str:
    instance = ct_slice()
    enhanced = "1.2.840.10008.5.1.4.1.1.2.1"
    seen = []
    with association(ground, [(CT, LITTLE), (VERIFICATION, LITTLE)]) as peer:
        status = store(peer, replace(instance, sop_class_uid=enhanced))
        expect(status == STATUS_DATASET_MISMATCH, f"another class than the context's: {status:04X}")
        status = store(peer, instance, context_id=3)
        expect(status in {0x0122, 0xA900}, f"C-STORE on Verification: {status:04X}")
        seen.append(f"A900, {status:04X}")
        status = store(peer, replace(ct_slice(), sop_instance_uid=new_uid()))
        expect(status == STATUS_DATASET_MISMATCH, f"another UID than the dataset's: {status:04X}")
    with ground.call() as peer:
        answer = peer.associate([("1.2.3.4.5.6", LITTLE), (CT, LITTLE)])
        # PS3.8 9.3.3.2: context 1, and its result; 3 is "abstract syntax not supported".
        result = re.search(rb"\x21\0..\x01\0(.)", answer, re.DOTALL)
        expect(result and result[1] == b"\x03", "a private class was not rejected with 3")
        seen.append("private class: result 3")
        send_command(peer, instance, context_id=1)
        expect(peer.pdu()[:1] == b"\x07", "C-STORE on a rejected context: no A-ABORT")
    with ground.call() as peer:
        peer.associate()
        send_command(peer, instance, context_id=99)
        expect(peer.pdu()[:1] == b"\x07", "C-STORE on no context: no A-ABORT")
    return ", ".join([*seen, "rejected and unknown context: A-ABORT"])


def _illegal_uids(ground: Ground) -> str:
    marker = f"abuse{uuid.uuid4().hex[:12]}"
    before = _inodes(ground)
    uids = [
        f"../{marker}",
        f"../../../../../../../../tmp/{marker}",
        f"/tmp/{marker}",  # noqa: S108 - that nothing is made there is the point
        f"1.2/../../{marker}",
        "1.2\0.3",
        "1.2\n3",
        "1" * 200,
        "",
        "1.2.abc",
        " ",
        "..",
    ]
    statuses = []
    with association(ground, [(CT, LITTLE)]) as peer:
        for uid in uids:
            instance = ct_slice()
            peer.send(data_pdu(value(store_command(uid), is_command=True)))
            send_dataset(peer, instance.dataset)
            statuses.append(peer.status())
    expected = [0x0117] * (len(uids) - 1) + [0xA900]  # ".." is digits and dots, and another UID
    expect(statuses == expected, f"statuses {[f'{each:04X}' for each in statuses]}")
    # The same where only the dataset names them.
    paths = [ct_slice(f"../../{marker}"), ct_slice("/etc/passwd")]
    statuses = [store_alone(ground, each) for each in paths]
    expect(statuses == [0xC000] * 2, f"Study UIDs: {[f'{each:04X}' for each in statuses]}")
    new = _inodes(ground) - before
    strange = [path for path in new if marker in path]
    expect(not strange, f"made: {strange}")
    outside = [path for path in new if not path.startswith(str(ground.folder))]
    expect(not outside, f"made outside the store: {outside}")
    return f"0117 for {len(uids) - 1}, A900, C000 twice; no file of theirs anywhere"


def _inodes(ground: Ground) -> set[str]:
    """All files of the node's folder, and what lies in each folder that a `..` would reach."""
    found = {str(path) for path in ground.folder.rglob("*")}
    for folder in (ground.state, *ground.state.parents, Path("/etc"), Path.cwd()):
        if folder == Path(tempfile.gettempdir()):
            # Others work there too.
            found |= {str(path) for path in folder.glob("*abuse*")}
        else:
            found |= {str(path) for path in folder.iterdir()}
    return {path for path in found if not path.endswith((".dcm", ".part", "-journal"))}


def _polyglot(ground: Ground) -> str:
    """Files that are programs as well: sent by DCMTK, which reads them from the disk."""
    seen = []
    for name, head in (("PE", b"MZ\x90\0"), ("ELF", b"\x7fELF\x02\x01\x01\0"), ("HTML", b"<html>")):
        instance = ct_slice()
        payload = encode_part10(
            instance.dataset,
            sop_class_uid=instance.sop_class_uid,
            sop_instance_uid=instance.sop_instance_uid,
            transfer_syntax_uid=LITTLE,
        )
        path = ground.folder / f"{name}.dcm"
        path.write_bytes(head.ljust(_PREAMBLE_BYTES, b"\x90") + payload[_PREAMBLE_BYTES:])
        before = ground.kept_files()
        dicom = ground.node.settings.dicom
        done = subprocess.run(
            ["storescu", "-xe", "-aec", dicom.ae_title, "127.0.0.1", str(dicom.port), str(path)],
            capture_output=True,
            text=True,
            check=False,
        )
        expect(done.returncode == 0, f"storescu: {done.stderr.strip()}")
        [kept] = ground.kept_files() - before
        beginning = kept.read_bytes()[: _PREAMBLE_BYTES + 4]
        expect(beginning == bytes(_PREAMBLE_BYTES) + b"DICM", f"kept with {beginning[:8]!r}")
        seen.append(name)
    return f"{', '.join(seen)}: kept with a preamble of zeros"


INSTANCE_FAULTS = (
    Fault(
        number="15",
        what="A-ABORT, FIN and RST within a dataset",
        expected="nothing queued, no file left after 60 s",
        commit=_broken_off,
    ),
    Fault(
        number="16",
        what="one instance 100 times, 50 associations at a time",
        expected="all 0000, one file, one job",
        commit=_same_in_parallel,
    ),
    Fault(
        number="17a",
        what="same UID, other bytes",
        expected="0000, both kept, alarm",
        commit=_other_bytes,
    ),
    Fault(
        number="17b",
        what="same UID or study, other patient",
        expected="C010, quarantined, visible",
        commit=_other_patient,
    ),
    Fault(
        number="26",
        what="wrong, private, rejected and unknown SOP classes",
        expected="A900, 0122, context rejected, A-ABORT",
        commit=_wrong_classes,
    ),
    Fault(
        number="27",
        what="UIDs with ../, NUL, newline, 200 characters, none",
        expected="0117, no file outside the store",
        commit=_illegal_uids,
    ),
    Fault(
        number="31",
        what="files that are programs as well",
        expected="kept with a preamble of zeros",
        commit=_polyglot,
    ),
)
