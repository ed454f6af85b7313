"""What a decoder process may not do: the network, other programs, other processes, writing files.

A system-call filter (seccomp) needs no privilege and holds for the life of the process. Where
there is the privilege, a network namespace without interfaces is put around it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import signal
import struct
import sys
from dataclasses import dataclass
from typing import Final

_PARENT_DEATH_SIGNAL: Final = 1  # of prctl(2), as the next two
_SECCOMP, _FILTER_MODE = 22, 2
_NO_NEW_PRIVILEGES: Final = 38
_NEW_NETWORK: Final = 0x40000000  # CLONE_NEWNET of unshare(2)

# Classic BPF over struct seccomp_data: number at 0, architecture at 4, arguments from 16.
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENTS_AT = 0, 4, 16
_ALLOW, _KILL_PROCESS = 0x7FFF0000, 0x80000000
_REFUSE: Final = 0x00050000 | errno.EPERM
_X32_CALLS: Final = 0x40000000  # a second table of numbers for the same calls
_WRITING: Final = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


@dataclass(frozen=True, slots=True, kw_only=True)
class _Architecture:
    """System-call numbers of one processor.

    Attributes:
        audit: AUDIT_ARCH of linux/audit.h.
        refused: Calls that fail with EPERM.
        opening: Calls that open a file, and which argument holds their flags.
    """

    audit: int
    refused: tuple[int, ...]
    opening: tuple[tuple[int, int], ...]


_ARCHITECTURES: Final = {
    "x86_64": _Architecture(
        audit=0xC000003E,
        refused=(
            *(41, 42, 43, 49, 50, 53, 288),  # socket connect accept bind listen -pair accept4
            *(425, 426, 427),  # io_uring: it opens sockets and files without these calls
            *(59, 322),  # execve, execveat
            *(62, 101, 310, 311, 424, 434, 438),  # kill ptrace process_vm_* pidfd_*
            *(165, 272, 308, 321, 298, 323),  # mount unshare setns bpf perf userfaultfd
            *(76, 82, 264, 316, 87, 263, 84),  # truncate rename* unlink* rmdir
            *(83, 258, 85, 86, 265, 88, 266),  # mkdir* creat link* symlink*
            *(90, 268, 92, 94, 260, 437),  # chmod* chown* openat2, whose flags a filter cannot see
        ),
        opening=((2, 1), (257, 2)),
    ),
    "aarch64": _Architecture(
        audit=0xC00000B7,
        refused=(
            *(198, 203, 202, 200, 201, 199, 242),
            *(425, 426, 427),
            *(221, 281),
            *(129, 117, 270, 271, 424, 434, 438),
            *(40, 97, 268, 280, 241, 282),
            *(45, 38, 276, 35, 34, 37, 36),
            *(53, 54, 437),
        ),
        opening=((56, 2),),
    ),
}


class _Program(ctypes.Structure):
    """struct sock_fprog of linux/filter.h."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def end_with(parent_pid: int) -> None:
    """Have this process killed when the thread that started it ends; end now if it already did."""
    ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent_pid:
        sys.exit(1)


def leave_network() -> None:
    """Move this process and those it will fork to a network without interfaces, if it may."""
    ctypes.CDLL(None).unshare(_NEW_NETWORK)  # EPERM without privilege: the filter is enough


def refuse_system_calls() -> None:
    """Let calls that reach beyond this process fail with EPERM, from now on and for good.

    Raises:
        OSError: The kernel takes no filter.
    """
    architecture = _ARCHITECTURES.get(platform.machine())
    if architecture is None:
        return  # an unknown table of numbers would refuse the wrong calls
    instructions = _instructions(architecture)
    program = _Program(len(instructions) // 8, instructions)
    library = ctypes.CDLL(None, use_errno=True)
    if library.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) or library.prctl(
        _SECCOMP, _FILTER_MODE, ctypes.byref(program), 0, 0
    ):
        raise OSError(ctypes.get_errno(), "the kernel refuses a system-call filter")


def limit(kind: int, soft: int) -> None:
    """Set a soft limit of setrlimit(2), never above the hard one."""
    _, hard = resource.getrlimit(kind)
    bounded = soft if hard == resource.RLIM_INFINITY else min(soft, hard)
    resource.setrlimit(kind, (bounded, hard))


def confine() -> None:
    """Refuse system calls, and let nothing be written: no file, no core of pixels.

    Raises:
        OSError: As `refuse_system_calls`.
    """
    refuse_system_calls()
    limit(resource.RLIMIT_CORE, 0)
    limit(resource.RLIMIT_FSIZE, 0)


def _instructions(architecture: _Architecture) -> bytes:
    """The filter: a wrong table kills, what is refused gets EPERM, all else goes on."""
    program = [
        (_LOAD, 0, 0, _ARCHITECTURE_AT),
        (_EQUAL, 1, 0, architecture.audit),
        (_RETURN, 0, 0, _KILL_PROCESS),
        (_LOAD, 0, 0, _NUMBER_AT),
        *_refuse_if(_AT_LEAST, _X32_CALLS),
    ]
    for number in architecture.refused:
        program += _refuse_if(_EQUAL, number)
    for number, argument in architecture.opening:
        program += [
            (_EQUAL, 0, 4, number),
            (_LOAD, 0, 0, _ARGUMENTS_AT + 8 * argument),
            *_refuse_if(_ANY_BIT, _WRITING),
            (_RETURN, 0, 0, _ALLOW),
        ]
    program.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("HBBI", *each) for each in program)


def _refuse_if(test: int, number: int) -> list[tuple[int, int, int, int]]:
    return [(test, 0, 1, number), (_RETURN, 0, 0, _REFUSE)]
