"""Faults 4 and 5: disks that are full, or nearly so."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

from abuse.fault import Fault
from abuse.ground import HONEST, Ground, expect, running, wait_until
from abuse.own_mounts import small_disk
from abuse.scenes import HONEST_PARTY
from abuse.sending import (
    LITTLE,
    SUCCESS,
    Instance,
    association,
    await_delivered,
    await_ended,
    chest_film,
    ct_slice,
    store,
    store_alone,
)
from imaging_node.domain.lifecycle import DeliveryState
from imaging_node.store.listings import list_instances
from imaging_node.telemetry import Event
from tests.dicom.listening import CT, VERIFICATION

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.dicom.listening import RawPeer

_MEGABYTES, _INODES = 96, 4000
_WATERMARK_BYTES, _WATERMARK_INODES = 32 * 1024 * 1024, 1000
_OUT_OF_RESOURCES = 0xA700
_NOTICED_S = 5.0
_REJECTED_OVER_LIMIT = (2, 3, 2)


@contextmanager
def full_disk(folder: Path) -> Iterator[Ground]:
    """State on a disk of 96 MB, and no watermark to protect it."""
    with _on_small_disk(folder, {"min_free_bytes": 0, "min_free_inodes": 0}) as ground:
        yield ground


@contextmanager
def low_disk(folder: Path) -> Iterator[Ground]:
    """State on a disk of 96 MB, of which 32 MB must stay free."""
    limits = {"min_free_bytes": _WATERMARK_BYTES, "min_free_inodes": _WATERMARK_INODES}
    with _on_small_disk(folder, limits) as ground:
        yield ground


@contextmanager
def _on_small_disk(folder: Path, spool: dict[str, int]) -> Iterator[Ground]:
    changes = {
        "study": {"quiet_period_s": 0.5},
        "delivery": {"retry_first_s": 0.2, "retry_max_s": 1.0, "timeout_s": 2.0},
        "spool": spool,
    }
    with (
        small_disk(folder / "state", megabytes=_MEGABYTES, inodes=_INODES),
        running(folder, dicom={}, changes=changes, honest=HONEST_PARTY) as ground,
    ):
        yield ground


class _Filler:
    """Owns what takes the space; a context manager that gives it back."""

    def __init__(self, ground: Ground) -> None:
        self._folder = ground.state
        self._path = ground.state / "filler"
        self._many = ground.state / "many"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.free()

    def leave_bytes(self, free_bytes: int) -> None:
        """Take all space but so much."""
        free = os.statvfs(self._folder)
        size = free.f_bavail * free.f_frsize - free_bytes
        with self._path.open("ab") as file:
            if size < 0:
                file.truncate(max(0, file.tell() + size))
            else:
                file.write(bytes(size))

    def leave_inodes(self, count: int) -> None:
        """Take all inodes but so many."""
        self._many.mkdir()
        for number in range(os.statvfs(self._folder).f_favail - count):
            (self._many / str(number)).touch()

    def free(self) -> None:
        """Give it all back."""
        self._path.unlink(missing_ok=True)
        if self._many.exists():
            for each in self._many.iterdir():
                each.unlink()
            self._many.rmdir()


def _full(ground: Ground) -> str:
    acknowledged: list[Instance] = []
    refused = 0

    def send(peer: RawPeer, size_bytes: int) -> int:
        each = ct_slice(pixels=os.urandom(size_bytes))
        status = store(peer, each)
        expect(status in {SUCCESS, _OUT_OF_RESOURCES}, f"answered {status:04X}")
        if status == SUCCESS:
            acknowledged.append(each)
        return status

    with _Filler(ground) as filler, association(ground, [(CT, LITTLE)]) as peer:
        expect(send(peer, 8192) == SUCCESS, "refused while there was room")
        # At one of these the file fits and the database does not.
        for free_kilobytes in (1024, 256, 128, 96, 64, 48, 40, 32, 24, 16, 8, 0):
            filler.leave_bytes(free_kilobytes * 1024)
            refused += sum(send(peer, size) != SUCCESS for size in (8192, 200_000, 8192))
        filler.leave_bytes(0)
        expect(send(peer, 8192) == _OUT_OF_RESOURCES, "accepted on a full disk")
        filler.free()
        back_s = wait_until(
            lambda: send(peer, 8192) == SUCCESS, limit_s=10, what="the association takes it again"
        )
    expect(refused > 0, "nothing was refused")
    alarms = len(ground.events(Event.INSTANCE_REFUSED))
    expect(alarms >= refused, f"{alarms} refusals logged of {refused}")
    _expect_kept(ground, acknowledged)
    film = chest_film()
    expect(store_alone(ground, film) == SUCCESS, "a film was refused afterwards")
    await_ended(ground, film.study_instance_uid)
    return (
        f"A700 {refused} times on one association, 0000 {back_s:.1f} s after space came back,"
        f" {len(acknowledged)} acknowledged and kept, the next film scored"
    )


def _expect_kept(ground: Ground, acknowledged: list[Instance]) -> None:
    files = {path.stem: path for path in ground.kept_files()}
    for each in acknowledged:
        [row] = list_instances(ground.database, each.study_instance_uid)
        content = files[row.digest].read_bytes()
        expect(content.endswith(each.dataset), "a kept file is not what was sent")


def _low(ground: Ground, *, by_inodes: bool) -> str:
    low, back = len(ground.events(Event.STORAGE_LOW)), len(ground.events(Event.STORAGE_BACK))
    ground.node.pacs.close()
    film = chest_film()
    expect(store_alone(ground, film) == SUCCESS, "a film was refused")
    await_ended(ground, film.study_instance_uid)
    incoming = ground.state / "spool" / "incoming"
    with (
        _Filler(ground) as filler,
        association(ground, [(CT, LITTLE), (VERIFICATION, LITTLE)]) as peer,
    ):
        if by_inodes:
            filler.leave_inodes(_WATERMARK_INODES - 100)
        else:
            filler.leave_bytes(_WATERMARK_BYTES - 1024 * 1024)
        wait_until(
            lambda: _answer(ground) == _REJECTED_OVER_LIMIT,
            limit_s=_NOTICED_S,
            what="new associations are rejected with 2/3/2",
        )
        before = incoming.stat().st_mtime_ns
        statuses = {store(peer, ct_slice()) for _ in range(5)}
        expect(statuses == {_OUT_OF_RESOURCES}, f"{[f'{each:04X}' for each in statuses]}")
        expect(incoming.stat().st_mtime_ns == before, "a file was begun all the same")
        # Verification alone is what the honest peer asks for all the time.
        ground.node.pacs.open()
        delivered = await_delivered(ground, film.study_instance_uid, "pacs")
        expect(_answer(ground) == _REJECTED_OVER_LIMIT, "new associations were accepted meanwhile")
        filler.free()
        back_s = wait_until(
            lambda: store(peer, ct_slice()) == SUCCESS, limit_s=_NOTICED_S, what="it stores again"
        )
    expect(store_alone(ground, ct_slice(), source=HONEST) == SUCCESS, "new associations stay out")
    alarms = len(ground.events(Event.STORAGE_LOW)) - low
    ends = len(ground.events(Event.STORAGE_BACK)) - back
    expect(alarms >= 1 and ends >= 1, f"{alarms} alarms, {ends} ends of them")
    waiting = [each for each in ground.deliveries("pacs") if each.state is DeliveryState.WAITING]
    expect(not waiting, f"{len(waiting)} objects still wait")
    return (
        f"A700 with no file begun, RJ 2/3/2, {delivered} objects delivered meanwhile, alarm,"
        f" 0000 again after {back_s:.1f} s"
    )


def _answer(ground: Ground) -> tuple[int, ...]:
    """Result, source and reason of the rejection of a new association; () when accepted."""
    with ground.call() as peer:
        answer = peer.associate()
    return tuple(answer[7:10]) if answer[:1] == b"\x03" else ()


FULL_DISK_FAULTS = (
    Fault(
        number="4",
        what="disk full: file, database, audit log",
        expected="A700, association stays, resumes by itself",
        commit=_full,
        is_sampled=False,
    ),
)
LOW_DISK_FAULTS = (
    Fault(
        number="5a",
        what="free space crosses the watermark",
        expected="A700 before writing, RJ 2/3/2, delivery goes on, resumes",
        commit=lambda ground: _low(ground, by_inodes=False),
        is_sampled=False,
    ),
    Fault(
        number="5b",
        what="free inodes cross the watermark",
        expected="A700 before writing, RJ 2/3/2, delivery goes on, resumes",
        commit=lambda ground: _low(ground, by_inodes=True),
        is_sampled=False,
    ),
)
