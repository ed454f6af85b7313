"""The process that decodes pixels, made to be killed: whatever a file does, it does it here.

It reads one JSON line per file from standard input and answers on standard output with the
length of a JSON header, the header, and float32 P-Values. It ends when its parent does.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import select
import signal
import struct
import sys
import threading
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

import numpy as np
import psutil
from pydicom.encaps import get_frame
from pydicom.errors import InvalidDicomError
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import UID, JPEGExtended12Bit
from setproctitle import setproctitle

from imaging_node.dicom.codestream import check_frame
from imaging_node.dicom.encoding import PARSE_ERRORS
from imaging_node.dicom.part10 import read_part10
from imaging_node.dicom.pixels import (
    MAXIMUM_PIXELS,
    StoredImage,
    pixel_aspect,
    read_transform,
    to_p_values,
)
from imaging_node.domain.errors import NotAnalysedError
from imaging_node.domain.finding import FloatImage, NotAnalysedReason

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

HEADER_LENGTH: Final = struct.Struct("<L")
PROCESS_TITLE: Final = "imaging-node: decode"

_PIXEL_ELEMENTS: Final = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_INFLATED_LIMIT_BYTES: Final = 4 * MAXIMUM_PIXELS
_PARENT_DEATH_SIGNAL: Final = 1  # PR_SET_PDEATHSIG of prctl(2)
_DECODER_ERRORS: Final = (
    AssertionError,
    BufferError,
    ImportError,
    InvalidDicomError,
    RuntimeError,
    zlib.error,
    *PARSE_ERRORS,
)


def decode_file(path: Path) -> tuple[FloatImage, float]:
    """P-Values of a file with one grayscale frame, and the height of a pixel over its width.

    Raises:
        NotAnalysedError: The pixels are missing, are not one grayscale frame, are more than
            `MAXIMUM_PIXELS`, or cannot be decoded.
    """
    try:
        dataset = read_part10(
            path, inflated_limit_bytes=_INFLATED_LIMIT_BYTES, stop_before_pixels=False
        )
        _check_header(dataset)
        stored = _stored_image(dataset)
        return to_p_values(stored, read_transform(dataset)), pixel_aspect(dataset)
    except _DECODER_ERRORS as error:
        raise NotAnalysedError(
            f"the decoder failed with {type(error).__name__}",
            reason=NotAnalysedReason.UNDECODABLE,
        ) from error


def main(*, parent_pid: int, memory_limit_bytes: int, time_limit_s: float) -> None:
    """Serve decode requests until standard input ends."""
    setproctitle(PROCESS_TITLE)
    answers = _private_output()
    _end_with(parent_pid)
    get_decoder(JPEGExtended12Bit).add_plugin(
        "gdcm_12_bit", ("imaging_node.dicom.gdcm_extended", "decode_frame")
    )
    process = psutil.Process()
    # Relative to what the imports need, which is not the fault of any file.
    _limit(resource.RLIMIT_AS, process.memory_info().vms + memory_limit_bytes)
    _limit(resource.RLIMIT_CORE, 0)  # a core file would hold pixels
    _send(answers, {"rss": process.memory_info().rss})
    for line in sys.stdin.buffer:
        used_s = sum(process.cpu_times()[:2])
        _limit(resource.RLIMIT_CPU, int(used_s + time_limit_s) + 2)
        _answer(answers, Path(json.loads(line)["path"]), process)


def _answer(answers: BinaryIO, path: Path, process: psutil.Process) -> None:
    try:
        pixels, aspect = decode_file(path)
    except NotAnalysedError as error:
        answer = {"reason": error.reason.name, "detail": str(error)}
        _send(answers, {**answer, "rss": process.memory_info().rss})
        return
    except MemoryError:
        answer = {"reason": "UNDECODABLE", "detail": "the image needs more memory than allowed"}
        _send(answers, {**answer, "rss": sys.maxsize})  # asks for a fresh process
        return
    rows, columns = pixels.shape
    header = {"rows": rows, "columns": columns, "aspect": aspect}
    _send(answers, {**header, "rss": process.memory_info().rss}, pixels)


def _check_header(dataset: Dataset) -> None:
    """Refuse by header what would only be refused after decoding."""
    if not any(keyword in dataset for keyword in _PIXEL_ELEMENTS):
        raise NotAnalysedError("there is no pixel data", reason=NotAnalysedReason.NO_PIXELS)
    photometric = str(dataset.get("PhotometricInterpretation", "")).strip()
    if int(dataset.get("SamplesPerPixel") or 1) != 1 or photometric not in {
        "MONOCHROME1",
        "MONOCHROME2",
    }:
        raise NotAnalysedError("the image is not grayscale", reason=NotAnalysedReason.PHOTOMETRIC)
    if int(dataset.get("NumberOfFrames") or 1) != 1:
        raise NotAnalysedError("the image has several frames", reason=NotAnalysedReason.MULTI_FRAME)
    pixels = int(dataset.get("Rows") or 0) * int(dataset.get("Columns") or 0)
    if pixels == 0:
        raise NotAnalysedError("the image has no pixels", reason=NotAnalysedReason.TOO_SMALL)
    if pixels > MAXIMUM_PIXELS:
        raise NotAnalysedError(
            f"the image has more than {MAXIMUM_PIXELS} pixels",
            reason=NotAnalysedReason.UNDECODABLE,
        )


def _stored_image(dataset: Dataset) -> StoredImage:
    transfer_syntax = UID(dataset.file_meta.TransferSyntaxUID)
    precision = None
    if transfer_syntax.is_encapsulated:
        precision = check_frame(
            get_frame(dataset.PixelData, 0, number_of_frames=1),
            transfer_syntax,
            rows=dataset.Rows,
            columns=dataset.Columns,
            bytes_per_pixel=(dataset.BitsAllocated + 7) // 8,
        )
    if transfer_syntax == JPEGExtended12Bit and precision is not None:
        # Some headers state fewer bits than the codestream has.
        dataset.BitsStored, dataset.HighBit = precision, precision - 1
    stored: StoredImage
    stored, _ = get_decoder(transfer_syntax).as_array(dataset, index=0, raw=True)
    if transfer_syntax.is_encapsulated or not np.issubdtype(stored.dtype, np.integer):
        return stored
    return _without_unused_bits(stored, dataset)


def _without_unused_bits(stored: StoredImage, dataset: Dataset) -> StoredImage:
    """Native samples without the bits above High Bit, which may hold anything (PS3.5 8.1.1)."""
    allocated, bits = int(dataset.BitsAllocated), int(dataset.BitsStored)
    unused = allocated - bits
    if unused <= 0 or bits <= 0 or int(dataset.HighBit) != bits - 1:
        return stored
    native = stored.astype(stored.dtype.newbyteorder("="))
    shift = np.array(unused, native.dtype)
    # An arithmetic shift to the right brings the sign back.
    return np.asarray(np.right_shift(np.left_shift(native, shift), shift))


def _private_output() -> BinaryIO:
    """The answer pipe; what decoders print, which may quote a header, goes nowhere."""
    answers: BinaryIO = os.fdopen(os.dup(1), "wb", buffering=0)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    return answers


def _end_with(parent_pid: int) -> None:
    """Die when the parent does, even in the middle of a decode."""
    with contextlib.suppress(OSError, AttributeError):  # other systems have no prctl
        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent_pid:
        sys.exit(1)
    threading.Thread(target=_watch_input, daemon=True).start()


def _watch_input() -> None:
    poll = select.poll()
    poll.register(0, 0)  # reports a hang-up only
    poll.poll()
    os.kill(os.getpid(), signal.SIGKILL)


def _limit(kind: int, soft: int) -> None:
    _, hard = resource.getrlimit(kind)
    bounded = soft if hard == resource.RLIM_INFINITY else min(soft, hard)
    resource.setrlimit(kind, (bounded, hard))


def _send(
    answers: BinaryIO, header: dict[str, str | int | float], pixels: FloatImage | None = None
) -> None:
    text = json.dumps(header).encode()
    _write(answers, HEADER_LENGTH.pack(len(text)) + text)
    if pixels is not None:
        _write(answers, np.ascontiguousarray(pixels).data.cast("B"))


def _write(answers: BinaryIO, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[answers.write(view) :]
