"""Files that are durable, immutable and verified."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from imaging_node.domain.errors import IntegrityError, StorageError
from imaging_node.store.content_digest import digest_of
from imaging_node.store.spool import Spool


def test_a_file_is_named_by_its_content_and_read_back_whole(spool: Spool) -> None:
    digest = spool.write(b"instance")

    assert digest == digest_of(b"instance")
    assert spool.read(digest) == b"instance"
    assert spool.path(digest).stat().st_mode & 0o077 == 0


def test_file_and_folder_are_synced_before_write_returns(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[bool] = []
    sync = os.fsync

    def watched(descriptor: int) -> None:
        synced.append(os.path.isdir(f"/proc/self/fd/{descriptor}"))  # noqa: PTH112 - a link of /proc
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    spool.write(b"instance")

    assert synced == [False, True]  # the file, the folder that names it


def test_a_damaged_file_is_never_read_as_what_was_kept(spool: Spool) -> None:
    digest = spool.write(b"instance")
    spool.path(digest).write_bytes(b"instancf")

    with pytest.raises(IntegrityError, match="digest changed"):
        spool.read(digest)


def test_a_missing_file_is_an_integrity_fault(spool: Spool) -> None:
    with pytest.raises(IntegrityError):
        spool.read("0" * 64)


def test_nothing_is_written_when_free_space_is_under_the_watermark(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", min_free_bytes=1 << 60)

    with pytest.raises(StorageError, match="min_free_bytes"):
        spool.write(b"instance")

    assert not [path for path in (tmp_path / "spool").rglob("*") if path.is_file()]


def test_a_failing_disk_leaves_no_part_file_behind(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)

    with pytest.raises(StorageError, match="EIO"):
        spool.write(b"instance")
    assert not list((tmp_path / "spool").rglob("*.part"))


def test_what_lies_there_already_is_not_trusted_to_be_durable(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = digest_of(b"instance")
    # As a writer leaves it that was killed between rename and fsync: it reads well, from memory.
    spool.path(digest).write_bytes(b"instance")
    synced: set[int] = set()
    sync = os.fsync

    def watched(descriptor: int) -> None:
        synced.add(os.fstat(descriptor).st_ino)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    spool.write(b"instance")

    assert spool.path(digest).stat().st_ino in synced
    assert spool.path(digest).parent.stat().st_ino in synced
    assert spool.read(digest) == b"instance"


def test_a_good_copy_does_not_yield_to_one_that_the_disk_did_not_take(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = spool.path(spool.write(b"instance")).stat().st_ino

    def fail(_: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StorageError, match="EIO"):
        spool.write(b"instance")

    assert spool.path(digest_of(b"instance")).stat().st_ino == before


def test_a_disk_that_takes_a_file_but_no_byte_leaves_neither_file_nor_descriptor(
    spool: Spool, tmp_path: Path
) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        with pytest.raises(StorageError, match="EFBIG"):
            spool.write(b"the beginning of an instance")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert not [path for path in (tmp_path / "spool").rglob("*") if path.is_file()]


def test_a_good_copy_replaces_a_damaged_one(spool: Spool) -> None:
    digest = spool.write(b"content")
    spool.path(digest).write_bytes(b"damaged")

    assert spool.write(b"content") == digest

    assert spool.read(digest) == b"content"
