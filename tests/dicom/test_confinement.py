"""A decoder reaches nothing but its own memory: no network, no program, no process, no file."""

from __future__ import annotations

import os
import signal
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
    "a signal of a thread's own kind": "call('tgkill', os.getppid(), os.getppid(), 0)",
    "a signal by the old call": "call('syscall', {'x86_64': 200, 'aarch64': 130}[machine], 1, 0)",
    "a signal with a value": "call('sigqueue', os.getppid(), 0, 0)",
    "a signal with a value to a thread": (
        "call('syscall', {'x86_64': 297, 'aarch64': 240}[machine], os.getppid(), os.getppid(), 34,"
        " ctypes.create_string_buffer(128))"
    ),
    "a signal by a descriptor": "fcntl.fcntl(pipe, fcntl.F_SETOWN, os.getppid())",
    "another's limits": "resource.prlimit(os.getppid(), resource.RLIMIT_CORE, (0, 0))",
    "another's priority": "os.setpriority(os.PRIO_PROCESS, os.getppid(), 1)",
    "another's processors": "os.sched_setaffinity(os.getppid(), os.sched_getaffinity(0))",
    "another's policy": "os.sched_setscheduler(os.getppid(), os.SCHED_OTHER, os.sched_param(0))",
    "a process": "os.fork()",
    "a process that shares memory": "call('syscall', {'x86_64': 58, 'aarch64': 220}[machine], 17)",
    "a process by clone": "call('syscall', {'x86_64': 56, 'aarch64': 220}[machine], 17, 0, 0)",
    "a namespace": "call('unshare', 0x10000000)",
    "another's mode": "os.chmod(sys.argv[1], 0)",
    "another's mode by descriptor": "os.fchmod(victim, 0)",
    "an owner": "os.chown(sys.argv[1], -1, -1)",
    "an owner by descriptor": "os.fchown(victim, -1, -1)",
    "an owner of a link": "os.lchown(sys.argv[1], -1, -1)",
    "an attribute": "os.setxattr(sys.argv[1], 'user.a', b'')",
    "an attribute by descriptor": "os.setxattr(victim, 'user.a', b'')",
    "no attribute": "os.removexattr(sys.argv[1], 'user.a')",
    "a time": "os.utime(sys.argv[1], (0, 0))",
    "a named pipe": "os.mkfifo('pipe')",
    "a link": "os.link(sys.argv[1], 'link')",
    "a symbolic link": "os.symlink(sys.argv[1], 'link')",
    "a lock": "fcntl.flock(victim, fcntl.LOCK_EX)",
    "a lease": "fcntl.fcntl(victim, fcntl.F_SETLEASE, fcntl.F_RDLCK)",
    "a lock of a part": "fcntl.lockf(victim, fcntl.LOCK_SH)",
    "another folder": "os.chdir('/')",
    "a life of its own": "call('prctl', 1, 0)",
    "a session of its own": "os.setsid()",
    "a length": "os.truncate(sys.argv[1], 0)",
    "memory of another": "call('syscall', {'x86_64': 310, 'aarch64': 270}[machine], os.getppid())",
    "memory that is a file": "os.memfd_create('a')",
}
# Before the filter: what attempts name.
PREPARED = """
import ctypes, fcntl, os, platform, resource, socket, sys, threading, time
from imaging_node.confinement import refuse_system_calls
machine, library = platform.machine(), ctypes.CDLL(None, use_errno=True)
def call(name, *arguments):
    if getattr(library, name)(*arguments) == -1:
        raise OSError(ctypes.get_errno(), name)
pipe, victim = os.pipe()[0], os.open(sys.argv[1], os.O_RDONLY)
os.stat(sys.argv[1])
refuse_system_calls()
"""


def _run_confined(code: str, victim: Path, *, prepared: str = PREPARED) -> int:
    """How Python ended that was confined."""
    return subprocess.run(
        [sys.executable, "-c", prepared + code, str(victim)],
        cwd=victim.parent,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.DEVNULL,
        check=False,
    ).returncode


@pytest.mark.parametrize("attempt", ATTEMPTS.values(), ids=ATTEMPTS)
def test_what_reaches_beyond_the_process_is_refused(attempt: str, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"spooled")
    code = (
        "assert open(sys.argv[1], 'rb').read() == b'spooled'\n"
        f"try:\n    {attempt}\n"
        "except PermissionError:\n    os._exit(7)\n"
    )
    assert _run_confined(code, victim) == 7
    assert victim.read_bytes() == b"spooled"


@pytest.mark.parametrize(
    ("need", "ended"),
    [
        ("os.abort()", -signal.SIGABRT),
        ("ctypes.string_at(0)", -signal.SIGSEGV),
        ("each = threading.Thread(target=os._exit, args=(7,)); each.start(); each.join()", 7),
        ("resource.setrlimit(resource.RLIMIT_AS, (2**40, 2**40)); os._exit(7)", 7),
        ("os.urandom(1); os.listdir('.'); sys.exit(7)", 7),
    ],
)
def test_what_decoding_needs_is_left(need: str, ended: int, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"spooled")
    assert _run_confined(need, victim) == ended


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


def test_threads_that_run_already_are_bound_as_well(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"spooled")
    code = """
def attempt():
    ready.set()
    confined.wait()
    try:
        socket.socket(socket.AF_INET)
    except PermissionError:
        os._exit(7)
    os._exit(0)
"""
    before = "ready, confined = threading.Event(), threading.Event()\n" + code
    before += "threading.Thread(target=attempt).start()\nready.wait()\n"
    prepared = PREPARED.replace("\nrefuse_system_calls()\n", f"\n{before}refuse_system_calls()\n")
    assert _run_confined("confined.set()\ntime.sleep(60)", victim, prepared=prepared) == 7
