"""Take a bundle's files from a folder or a zip archive of anybody's into a folder of our own.

Nothing is believed: names stay inside, links and devices are refused, and sizes are counted as
they are written.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import zipfile
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, BinaryIO

from imaging_node.domain.errors import BundleError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_PIECE = 1024 * 1024
_ENCRYPTED = 0x1
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_DEEPEST = 16
_LONGEST_NAME = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class UnpackingLimits:
    """Beyond these no bundle is taken.

    Attributes:
        ratio: Largest size of an archive's contents as a multiple of its own.
    """

    files: int = 4096
    bytes: int = 4 * 1024**3
    ratio: int = 100


def unpack(source: Path, destination: Path, limits: UnpackingLimits | None = None) -> None:
    """Copy a folder, or unpack a zip archive, into `destination`, which must not be there.

    An archive whose contents lie in one folder gives that folder's contents.

    Raises:
        BundleError: One line that names the source and the entry at fault; nothing is left then.
    """
    within = limits or UnpackingLimits()
    destination.mkdir(mode=0o700)
    try:
        if source.is_dir() and not source.is_symlink():
            _copy_folder(source, destination, within)
        elif source.is_file():
            _unpack_archive(source, destination, within)
        else:
            raise _refused(source, "is neither a folder nor a zip archive")
    except (BundleError, OSError) as error:
        shutil.rmtree(destination)
        if isinstance(error, OSError):
            raise _refused(source, f"cannot be read or copied: {error.strerror}") from error
        raise


@contextmanager
def folder_of(source: Path) -> Iterator[Path]:
    """A bundle's folder: the source itself, or what its archive holds, gone at the end.

    The folder is called as the source is, without the archive's suffix.

    Raises:
        BundleError: As `unpack`.
    """
    if source.is_dir():
        yield source.absolute()
        return
    with tempfile.TemporaryDirectory(prefix="bundle-") as place:
        folder = Path(place) / source.stem
        unpack(source, folder)
        yield folder


def _refused(source: Path, fault: str) -> BundleError:
    return BundleError(f"cannot add {source.name}: {fault}")


def _copy_folder(source: Path, destination: Path, limits: UnpackingLimits) -> None:
    entries = sorted(source.rglob("*"))
    names = [path.relative_to(source).as_posix() for path in entries]
    _require_sound_names(source, names, limits)
    left = limits.bytes
    for path, name in zip(entries, names, strict=True):
        status = path.lstat()
        if stat.S_ISDIR(status.st_mode):
            (destination / name).mkdir(mode=0o700)
            continue
        if not stat.S_ISREG(status.st_mode):
            raise _refused(source, f"{name!a} is a link or device")
        if status.st_nlink > 1:
            raise _refused(source, f"{name!a} is hard-linked and could change elsewhere")
        # Not followed if it became a link since.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
            left -= _write(source, file, destination / name, left)


def _unpack_archive(source: Path, destination: Path, limits: UnpackingLimits) -> None:
    most = min(limits.bytes, limits.ratio * source.stat().st_size)
    try:
        with zipfile.ZipFile(source) as archive:
            entries = archive.infolist()
            names = [_entry_name(source, each) for each in entries]
            _require_sound_names(source, names, limits)
            if sum(each.file_size for each in entries) > most:
                raise _too_large(source)
            top = _only_folder(names)
            left = most
            for entry, name in zip(entries, names, strict=True):
                inner = PurePosixPath(name).relative_to(top).as_posix()
                if entry.is_dir():
                    (destination / inner).mkdir(mode=0o700, parents=True, exist_ok=True)
                    continue
                target = destination / inner
                target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                with archive.open(entry) as file:
                    left -= _write(source, file, target, left)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError) as error:
        raise _refused(source, "is no sound zip archive") from error


def _entry_name(source: Path, entry: zipfile.ZipInfo) -> str:
    """The name of an entry that is a plain file or a folder."""
    mode = entry.external_attr >> 16
    kind = stat.S_IFMT(mode)
    shown = ascii(entry.filename)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise _refused(source, f"{shown} is a link or device")
    if entry.flag_bits & _ENCRYPTED or entry.compress_type not in _COMPRESSIONS:
        raise _refused(source, f"{shown} is encrypted or compressed in an unusual way")
    if entry.orig_filename != entry.filename:  # cut off at a zero byte, or with other separators
        raise _refused(source, f"{entry.orig_filename!a} is no name of a bundle's file")
    return entry.filename.removesuffix("/")


def _require_sound_names(source: Path, names: list[str], limits: UnpackingLimits) -> None:
    if len(names) > limits.files:
        raise _refused(source, f"holds {len(names)} entries, more than {limits.files}")
    seen: set[str] = set()
    for name in names:
        parts = name.split("/")
        is_sound = (
            all(part not in ("", ".", "..") for part in parts)
            and name.isprintable()
            and not {"\\", ":"} & {*name}
            and len(parts) <= _DEEPEST
            and len(name) <= _LONGEST_NAME
        )
        if not is_sound:
            raise _refused(source, f"{name!a} is no name of a bundle's file")
        if name.casefold() in seen:
            raise _refused(source, f"{name!a} is there twice")
        seen.add(name.casefold())


def _only_folder(names: Iterable[str]) -> str:
    """The one folder in which all entries lie; "" when there is none."""
    tops = {name.split("/")[0] for name in names}
    if len(tops) != 1 or not any("/" in name for name in names):
        return ""
    [top] = tops
    return top


def _write(source: Path, file: IO[bytes] | BinaryIO, target: Path, most: int) -> int:
    """Copy at most so many bytes; returns how many they were."""
    written = 0
    with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as copy:
        while piece := file.read(_PIECE):
            written += len(piece)
            if written > most:
                raise _too_large(source)
            copy.write(piece)
    return written


def _too_large(source: Path) -> BundleError:
    return _refused(source, "holds more than a bundle may, or more than its size explains")
