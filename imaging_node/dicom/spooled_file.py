"""A spooled file that tells what its disk refuses from what its bytes make of a parser."""

from __future__ import annotations

import errno
from contextlib import contextmanager
from io import BufferedReader, FileIO
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from _typeshed import WriteableBuffer

# What a file can bring about by what it says: a seek before its beginning, too large a mapping.
_BY_CONTENT: Final = frozenset({None, errno.EINVAL, errno.ENOMEM})


class UnreadableFileError(OSError):
    """The file cannot be opened or read, whatever is in it."""


@contextmanager
def reading() -> Iterator[None]:
    """Where nothing but the file system, and pydicom's parser, can raise OSError.

    Raises:
        UnreadableFileError: The file system did; those of the parser have no number.
        FileNotFoundError: As it is.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno in _BY_CONTENT:
            raise
        raise UnreadableFileError(error.errno, "a spooled file cannot be read") from error


def open_spooled(path: Path) -> BufferedReader:
    """The file at `path`; opening and reading it raise as `reading`."""
    with reading():
        return BufferedReader(_Raw(path))


def is_unreadable(error: BaseException | None) -> bool:
    """Whether an error arose from one of reading, which pydicom replaces within sequences."""
    while error is not None and not isinstance(error, (UnreadableFileError, FileNotFoundError)):
        error = error.__context__
    return error is not None


class _Raw(FileIO):
    """Beneath the buffer, so that all that is read passes here."""

    def readinto(self, buffer: WriteableBuffer, /) -> int | None:
        with reading():
            return super().readinto(buffer)

    def readall(self) -> bytes:
        with reading():
            return super().readall()
