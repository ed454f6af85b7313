"""Part 10 files as they are sent: the file meta is read, the dataset goes out byte for byte."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pydicom.filereader import read_dataset

from imaging_node.dicom.encoding import PARSE_ERRORS
from imaging_node.dicom.requestor import Payload
from imaging_node.domain.errors import PeerRefusedError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

_PREFIX_END: Final = 132
_META_GROUP: Final = 2
_LONGEST_META_BYTES: Final = 65536


@dataclass(frozen=True, slots=True, kw_only=True)
class Sendable:
    """One file, ready to be sent once."""

    sop_instance_uid: str
    payload: Payload


@contextmanager
def open_sendable(source: Path | bytes) -> Iterator[Sendable]:
    """A file by its path, or by its content.

    Raises:
        PeerRefusedError: It cannot be read, or is no DICOM file; no peer will take it.
    """
    try:
        stream: BinaryIO = source.open("rb") if isinstance(source, Path) else BytesIO(source)
    except OSError as error:
        raise _unsendable(type(error).__name__) from None
    with stream:
        try:
            size_bytes = (
                os.fstat(stream.fileno()).st_size if isinstance(source, Path) else len(source)
            )
            sop_instance_uid, begin = _read_meta(stream.read(_LONGEST_META_BYTES))
            stream.seek(begin)
        except PARSE_ERRORS as error:
            raise _unsendable(type(error).__name__) from None
        yield Sendable(
            sop_instance_uid=sop_instance_uid,
            payload=Payload(stream=stream, size_bytes=size_bytes - begin),
        )


def _read_meta(beginning: bytes) -> tuple[str, int]:
    """The SOP instance UID, and where the dataset begins."""
    if beginning[128:_PREFIX_END] != b"DICM":
        raise ValueError("no prefix")
    stream = BytesIO(beginning)
    stream.seek(_PREFIX_END)
    meta = read_dataset(
        stream,
        is_implicit_VR=False,
        is_little_endian=True,
        stop_when=lambda tag, _vr, _length: tag >> 16 != _META_GROUP,
    )
    return str(meta.MediaStorageSOPInstanceUID), stream.tell()


def _unsendable(kind: str) -> PeerRefusedError:
    return PeerRefusedError(
        f"the file cannot be sent as it is ({kind});"
        " its file meta information is damaged or it cannot be read",
        status="unsendable file",
    )
