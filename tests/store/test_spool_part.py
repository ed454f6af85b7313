"""What is gathered in memory and written past the page cache is what was received."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any

import pytest

from imaging_node.domain.errors import StorageError
from imaging_node.store.content_digest import digest_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from imaging_node.store.spool import Spool

_BLOCK = 4096
_LEAST_DIRECT = 256 * 1024
_MEMORY = 640 * 1024
SIZES = [
    0, 1, _BLOCK - 1, _BLOCK, _LEAST_DIRECT - 1, _LEAST_DIRECT, _LEAST_DIRECT + 1,
    _MEMORY - 1, _MEMORY, _MEMORY + 1, 2 * _MEMORY, 3 * _MEMORY + _BLOCK + 7,
]  # fmt: skip


def keep(spool: Spool, content: bytes, piece_bytes: int) -> str:
    """Give the content piece by piece, as it comes from a sender; its digest."""
    part = spool.begin()
    try:
        for begin in range(0, len(content), piece_bytes):
            part.write(memoryview(content)[begin : begin + piece_bytes])
        return spool.settle(part)
    finally:
        part.discard()


@pytest.mark.parametrize("piece_bytes", [131_060, 10_007])
@pytest.mark.parametrize("size_bytes", SIZES)
def test_every_length_is_kept_byte_for_byte(
    spool: Spool, size_bytes: int, piece_bytes: int
) -> None:
    content = os.urandom(size_bytes)

    digest = keep(spool, content, piece_bytes)

    assert digest == digest_of(content)
    assert spool.path(digest).read_bytes() == content


def test_a_part_holds_nothing_of_the_one_before_it_in_the_same_memory(spool: Spool) -> None:
    keep(spool, b"A" * _MEMORY, 131_060)

    for size_bytes in (1, 100, _LEAST_DIRECT + 5):
        digest = keep(spool, b"B" * size_bytes, 131_060)
        assert spool.path(digest).read_bytes() == b"B" * size_bytes


def test_what_is_long_is_written_past_the_page_cache_and_only_its_end_through_it(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    descriptor_flags: list[tuple[int, bool]] = []
    write = os.write

    def watched(descriptor: int, piece: memoryview) -> int:
        with open(f"/proc/self/fdinfo/{descriptor}") as told:  # noqa: PTH123 - a name of /proc
            flags = int(told.read().split("flags:")[1].split()[0], 8)
        descriptor_flags.append((len(piece), bool(flags & os.O_DIRECT)))
        return write(descriptor, piece)

    monkeypatch.setattr(os, "write", watched)
    keep(spool, bytes(_MEMORY + _BLOCK + 7), 131_060)
    keep(spool, bytes(1000), 131_060)

    if not descriptor_flags[0][1]:
        pytest.skip("the file system of the temporary folder has no O_DIRECT")
    assert descriptor_flags == [(_MEMORY, True), (_BLOCK, True), (7, False), (1000, False)]


def _without_direct_files(real: Callable[..., int]) -> Callable[..., int]:
    """As some file systems are: the file is made, and then refused."""

    def opened(path: str, flags: int, *more: Any, **named: Any) -> int:  # noqa: ANN401 - as os.open
        descriptor = real(path, flags & ~os.O_DIRECT, *more, **named)
        if flags & os.O_DIRECT:
            os.close(descriptor)
            raise OSError(errno.EINVAL, "Invalid argument")
        return descriptor

    return opened


def test_a_file_system_without_direct_files_keeps_the_same_bytes(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "open", _without_direct_files(os.open))
    content = os.urandom(2 * _MEMORY + 9)

    digest = keep(spool, content, 131_060)

    assert spool.path(digest).read_bytes() == content


def test_a_disk_of_longer_blocks_keeps_the_same_bytes(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write
    refused: list[int] = []

    def once_refused(descriptor: int, piece: memoryview) -> int:
        if not refused:
            refused.append(len(piece))
            raise OSError(errno.EINVAL, "Invalid argument")
        return write(descriptor, piece)

    monkeypatch.setattr(os, "write", once_refused)
    content = os.urandom(2 * _MEMORY + 9)

    digest = keep(spool, content, 131_060)

    assert refused == [_MEMORY]
    assert spool.path(digest).read_bytes() == content


def test_a_disk_that_takes_a_part_is_given_the_rest(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write

    def takes_little(descriptor: int, piece: memoryview) -> int:
        return write(descriptor, piece[: max(1, len(piece) // 2)])

    monkeypatch.setattr(os, "write", takes_little)
    content = os.urandom(_MEMORY + 5 * _BLOCK + 9)

    digest = keep(spool, content, 131_060)

    assert spool.path(digest).read_bytes() == content


def test_a_full_disk_leaves_no_file_and_the_memory_is_used_again(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_descriptor: int, _piece: memoryview) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(StorageError, match="ENOSPC"):
            keep(spool, bytes(_MEMORY + 1), 131_060)

    assert not [path for path in (tmp_path / "spool").rglob("*") if path.is_file()]
    digest = keep(spool, b"C" * 1000, 131_060)
    assert spool.path(digest).read_bytes() == b"C" * 1000


def test_a_header_longer_than_what_is_remembered_is_read_from_the_file(spool: Spool) -> None:
    content = os.urandom(_MEMORY + 77)
    part = spool.begin()
    part.write(content)
    assert part.beginning == content[: len(part.beginning)]
    assert len(part.beginning) >= 32 * 1024

    with part.mapped() as whole:
        assert whole[:] == content
    part.discard()
