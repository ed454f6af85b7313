"""A decoder reaches nothing but its own memory: no network, no program, no process, no file."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from imaging_node.dicom.decoding import DecodingPool
from imaging_node.dicom.shared_pixels import SharedPixels
from tests.dicom.synthetic_sources import radiograph, write

ROOT = Path(__file__).resolve().parents[2]

ATTEMPTS = {
    "an internet socket": "socket.socket(socket.AF_INET)",
    "a local socket": "socket.socket(socket.AF_UNIX)",
    "a pair of sockets": "socket.socketpair()",
    "another program": "os.execv(sys.executable, [sys.executable, '-c', ''])",
    "a signal": "os.kill(os.getppid(), 0)",
    "a new file": "open('new', 'w')",
    "a file to write": "os.open(sys.argv[1], os.O_RDWR)",
    "a file to delete": "os.unlink(sys.argv[1])",
    "a file to rename": "os.rename(sys.argv[1], sys.argv[1] + 'x')",
    "a folder": "os.mkdir('folder')",
}


@pytest.mark.parametrize("attempt", ATTEMPTS.values(), ids=ATTEMPTS)
def test_what_reaches_beyond_the_process_is_refused(attempt: str, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"spooled")
    code = (
        "import os, socket, sys\n"
        "from imaging_node.dicom.confinement import refuse_system_calls\n"
        "os.stat(sys.argv[1])\n"
        "refuse_system_calls()\n"
        "assert open(sys.argv[1], 'rb').read() == b'spooled'\n"
        f"try:\n    {attempt}\n"
        "except PermissionError:\n    sys.exit(7)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, str(victim)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert ended.returncode == 7
    assert victim.read_bytes() == b"spooled"


def test_every_decoder_is_confined(tmp_path: Path) -> None:
    pool = DecodingPool(processes=1, memory_limit_bytes=2**29, time_limit_s=10)
    try:
        pool.decode(write(radiograph(), tmp_path / "plain.dcm"), "1.2.3")
        (decoder,) = pool._all
        status = Path(f"/proc/{decoder.process.pid}/status").read_text(encoding="ascii")
        descriptors = list(Path(f"/proc/{decoder.process.pid}/fd").iterdir())
        targets = {str(each.readlink()) for each in descriptors}
    finally:
        pool.close()
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert (fields["Seccomp"], fields["NoNewPrivs"], fields["Threads"]) == ("2", "1", "1")
    # Its own socket, its own pipe and size, and nothing of the node or of other decoders.
    assert sum(each.startswith("socket:") for each in targets) == 1
    assert sum(each.startswith("pipe:") for each in targets) == 1
    assert {each for each in targets if not each.startswith(("socket:", "pipe:"))} == {
        os.devnull,
        f"/proc/{decoder.process.pid}/statm",
    }


def test_shared_memory_can_be_neither_shrunk_nor_grown() -> None:
    memory = SharedPixels(100)
    for size in (0, memory.size_bytes * 2):
        with pytest.raises(PermissionError):
            os.ftruncate(memory.descriptor, size)


def test_the_node_cannot_write_what_a_decoder_wrote() -> None:
    image = SharedPixels(100).image(5, 5, release=lambda _: None)
    with pytest.raises(ValueError, match="read-only"):
        image[0, 0] = 1


def test_memory_is_released_when_the_last_view_is_dropped() -> None:
    released: list[SharedPixels] = []
    memory = SharedPixels(100)
    view = memory.image(5, 5, release=released.append)[1:3].T
    assert not released
    del view
    assert released == [memory]
