"""Nothing that an archive or a folder says can reach beyond the folder it is unpacked into."""

from __future__ import annotations

import os
import stat
import warnings
import zipfile
from typing import TYPE_CHECKING

import pytest

from imaging_node.domain.errors import BundleError
from imaging_node.inference.unpacking import UnpackingLimits, unpack

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

GOOD = {"configs/metadata.json": b"{}", "docs/README.md": b"card"}


def entry(name: str, *, mode: int = stat.S_IFREG | 0o644) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return info


def write_zip(path: Path, *entries: tuple[zipfile.ZipInfo, bytes]) -> Path:
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        warnings.simplefilter("ignore")  # of names that are there twice
        for info, content in entries:
            archive.writestr(info, content, compress_type=zipfile.ZIP_DEFLATED)
    return path


def refusal(source: Path, tmp_path: Path, limits: UnpackingLimits | None = None) -> str:
    """Why it is not taken; nothing may be left of it, here or elsewhere."""
    before = set(tmp_path.rglob("*"))
    with pytest.raises(BundleError) as refused:
        unpack(source, tmp_path / "out", limits)
    assert set(tmp_path.rglob("*")) == before
    sentence = str(refused.value)
    assert "\n" not in sentence
    assert sentence.startswith(f"cannot add {source.name}: ")
    return sentence


@pytest.mark.parametrize("prefix", ["", "bundle/"])
def test_an_archive_gives_its_files_with_or_without_a_folder_around_them(
    tmp_path: Path, prefix: str
) -> None:
    source = write_zip(
        tmp_path / "b.zip", *((entry(prefix + name), content) for name, content in GOOD.items())
    )
    unpack(source, tmp_path / "out")
    out = tmp_path / "out"
    assert {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in out.rglob("*")
        if path.is_file()
    } == GOOD
    assert {path.stat().st_mode & 0o777 for path in out.rglob("*") if path.is_file()} == {0o600}


@pytest.mark.parametrize(
    "name",
    ["../evil", "a/../../evil", "/etc/evil", "a//b", "./a", "a\\b", "C:evil", "a\nb", "x/" * 40],
)
def test_a_name_that_leads_elsewhere_refuses_the_archive(tmp_path: Path, name: str) -> None:
    source = write_zip(tmp_path / "b.zip", (entry("good"), b""), (entry(name), b"evil"))
    assert "no name of a bundle's file" in refusal(source, tmp_path)


@pytest.mark.parametrize("mode", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFSOCK])
def test_links_and_devices_in_an_archive_are_refused(tmp_path: Path, mode: int) -> None:
    source = write_zip(tmp_path / "b.zip", (entry("a", mode=mode | 0o777), b"/etc/passwd"))
    assert "is a link or device" in refusal(source, tmp_path)


@pytest.mark.parametrize("second", ["a", "A"])
def test_a_name_that_is_there_twice_is_refused(tmp_path: Path, second: str) -> None:
    source = write_zip(tmp_path / "b.zip", (entry("a"), b"1"), (entry(second), b"2"))
    assert "is there twice" in refusal(source, tmp_path)


def test_a_file_that_is_also_a_folder_is_refused(tmp_path: Path) -> None:
    source = write_zip(tmp_path / "b.zip", (entry("a"), b"1"), (entry("a/b"), b"2"))
    refusal(source, tmp_path)


def test_a_bomb_is_refused_by_what_it_says_and_by_what_it_gives(tmp_path: Path) -> None:
    source = write_zip(tmp_path / "b.zip", (entry("a"), bytes(4_000_000)))
    assert "more than" in refusal(source, tmp_path)
    # The same, with a directory that says it is small.
    content = source.read_bytes().replace((4_000_000).to_bytes(4, "little"), b"\x10\0\0\0")
    source.write_bytes(content)
    assert refusal(source, tmp_path)


def test_too_many_files_and_too_many_bytes_are_refused(tmp_path: Path) -> None:
    names = [entry(f"f{number}") for number in range(5)]
    source = write_zip(tmp_path / "b.zip", *((each, os.urandom(100)) for each in names))
    assert "5 entries" in refusal(source, tmp_path, UnpackingLimits(files=4))
    assert "more than a bundle may" in refusal(source, tmp_path, UnpackingLimits(bytes=499))
    unpack(source, tmp_path / "out", UnpackingLimits(files=5, bytes=500))


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "b.zip"
    source.write_bytes(b"no archive")
    assert "no sound zip archive" in refusal(source, tmp_path)


def test_a_damaged_archive_is_refused(tmp_path: Path) -> None:
    source = write_zip(tmp_path / "b.zip", (entry("a"), os.urandom(5000)))
    content = bytearray(source.read_bytes())
    content[2000] ^= 0xFF
    source.write_bytes(content)
    assert "no sound zip archive" in refusal(source, tmp_path)


def hard_link(folder: Path) -> None:
    os.link(folder / "a", folder.parent / "outside")


def soft_link(folder: Path) -> None:
    (folder / "b").symlink_to("/etc/hostname")


def linked_folder(folder: Path) -> None:
    (folder / "b").symlink_to("/etc")


def pipe(folder: Path) -> None:
    os.mkfifo(folder / "b")


@pytest.mark.parametrize("plant", [hard_link, soft_link, linked_folder, pipe])
def test_a_folder_with_links_or_devices_is_refused(
    tmp_path: Path, plant: Callable[[Path], None]
) -> None:
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "a").write_text("a")
    plant(folder)
    assert "link" in refusal(folder, tmp_path)
