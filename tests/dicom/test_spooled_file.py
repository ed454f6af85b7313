"""What the disk refuses is told from what a file's bytes make of a parser."""

from __future__ import annotations

import errno
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from imaging_node.dicom.image_decoding import decode_file
from imaging_node.dicom.spooled_file import UnreadableFileError, is_unreadable, open_spooled
from imaging_node.domain.errors import NotAnalysedError
from tests.dicom.synthetic_sources import radiograph, write

UNREADABLE = Path("/proc/self/mem")  # its first page belongs to nobody: EIO


@pytest.mark.parametrize("length", [8, -1])
def test_what_cannot_be_read_says_so(length: int) -> None:
    with open_spooled(UNREADABLE) as file, pytest.raises(UnreadableFileError) as caught:
        file.read(length)
    assert caught.value.errno == errno.EIO


def test_what_cannot_be_opened_says_so(tmp_path: Path) -> None:
    (tmp_path / "loop.dcm").symlink_to(tmp_path / "loop.dcm")
    with pytest.raises(UnreadableFileError):
        decode_file(tmp_path / "loop.dcm")


def test_a_file_that_there_is_no_room_for_is_not_called_damaged(tmp_path: Path) -> None:
    path = write(radiograph(rows=2000, columns=2000), tmp_path / "large.dcm")
    code = (
        "import resource, sys; from pathlib import Path;"
        "from imaging_node.dicom.image_decoding import decode_file;"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize();"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 2**22, used + 2**22));"
        "decode_file(Path(sys.argv[1]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, path], capture_output=True, text=True, check=False
    )
    assert done.stderr.strip().splitlines()[-1].startswith("MemoryError")


def test_an_error_of_reading_is_found_behind_the_one_that_a_parser_made_of_it() -> None:
    with pytest.raises(OSError, match="No tag") as caught:
        _read_as_a_parser_does(UNREADABLE)
    assert caught.value.errno is None
    assert is_unreadable(caught.value)
    assert not is_unreadable(OSError("image file is truncated"))


def _read_as_a_parser_does(path: Path) -> None:
    try:
        with open_spooled(path) as file:
            file.read(8)
    except OSError:
        raise OSError("No tag to read") from None


def test_a_file_cannot_pass_its_own_damage_off_as_the_disks(tmp_path: Path) -> None:
    path = write(radiograph(), tmp_path / "cut.dcm")
    content = path.read_bytes()
    at = content.index(b"\x10\0\x10\0PN")
    # A sequence without an end: pydicom says OSError of it.
    sequence = struct.pack("<HH2sHL", 0x0009, 0x1001, b"SQ", 0, 0xFFFFFFFF)
    path.write_bytes(content[:at] + sequence)
    with pytest.raises(NotAnalysedError, match="OSError"):
        decode_file(path)
