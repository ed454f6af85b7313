"""What a distrusted process may do: compute, read files, and fill the memory that it is handed.

A system-call filter (seccomp) lists that; it needs no privilege and holds for the life of the
process. The network, other programs, other processes and writing files are not on it. Where
there is the privilege, a network namespace without interfaces is put around it. A process that
runs code from elsewhere is also kept to the files that it needs (Landlock).
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import resource
import signal
import struct
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_PARENT_DEATH_SIGNAL: Final = 1  # of prctl(2), as the next one
_NO_NEW_PRIVILEGES: Final = 38
_FILTER_MODE, _ALL_THREADS = 1, 1  # of seccomp(2): SECCOMP_SET_MODE_FILTER, FLAG_TSYNC
_NEW_NETWORK: Final = 0x40000000  # CLONE_NEWNET of unshare(2)

# Classic BPF over struct seccomp_data: number at 0, architecture at 4, arguments from 16.
_Step = tuple[int, int, int, int]
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENTS_AT = 0, 4, 16
_ALLOW, _KILL_PROCESS = 0x7FFF0000, 0x80000000
_REFUSE: Final = 0x00050000 | errno.EPERM
_X32_CALLS: Final = 0x40000000  # a second table of numbers for the same calls
_UNKNOWN: Final = 0x00050000 | errno.ENOSYS
_NEW_THREAD: Final = 0x10000  # CLONE_THREAD of clone(2)
# Of fcntl(2): copies and flags of descriptors, but no owner that a signal would go to.
_FCNTL: Final = (fcntl.F_DUPFD, fcntl.F_GETFD, fcntl.F_SETFD, fcntl.F_GETFL, fcntl.F_DUPFD_CLOEXEC)
# Of ioctl(2): whether it is a terminal, close on exec, blocking or not.
_IOCTL: Final = (0x5401, 0x5450, 0x5451, 0x5421)
# Of landlock(7); the numbers are the same on all processors.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_PATH_BENEATH: Final = 1
_VERSION: Final = 1
_READ_FILE, _READ_FOLDER = 1 << 2, 1 << 3
_WRITING: Final = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


@dataclass(frozen=True, slots=True, kw_only=True)
class _Architecture:
    """System-call numbers of one processor.

    Attributes:
        audit: AUDIT_ARCH of linux/audit.h.
        allowed: Calls that only reach this process, what it was handed, or files to read.
        opening: Calls that open a file, and which argument holds their flags.
        clone, clone3, fcntl, ioctl, prlimit, tgkill: Calls that are allowed by their arguments.
        seccomp: The call that sets the filter; it is not allowed itself.
    """

    audit: int
    allowed: tuple[int, ...]
    opening: tuple[tuple[int, int], ...]
    clone: int
    clone3: int
    fcntl: int
    ioctl: int
    prlimit: int
    tgkill: int
    seccomp: int


_ARCHITECTURES: Final = {
    "x86_64": _Architecture(
        audit=0xC000003E,
        allowed=(
            *(0, 1, 17, 19, 20, 295, 8),  # read write pread64 readv writev preadv lseek
            *(3, 32, 33, 292, 293, 436),  # close dup* pipe2 close_range
            *(44, 45, 47, 51, 52, 55),  # sendto recvfrom recvmsg getsockname -peername -sockopt
            *(4, 5, 6, 262, 332, 137, 138, 21, 269, 439),  # stat* statfs* access faccessat*
            *(78, 217, 79, 89, 267, 221),  # getdents* getcwd readlink* fadvise64
            *(7, 271, 23, 270),  # poll ppoll select pselect6
            *(9, 10, 11, 12, 25, 26, 27, 28, 239),  # m* brk get_mempolicy
            *(13, 14, 15, 127, 131),  # rt_sig* of this process, sigaltstack
            *(202, 449, 218, 273, 274, 334, 324, 158),  # futex* and what a thread sets of itself
            *(24, 204, 143, 145, 309, 140),  # sched_yield, questions to the scheduler
            *(35, 96, 201, 228, 229, 230, 100, 219),  # sleep, clocks, restart_syscall
            *(39, 110, 186, 102, 104, 107, 108, 63, 99),  # get*id uname sysinfo
            *(97, 160, 98, 318),  # getrlimit setrlimit getrusage getrandom
            *(60, 231),  # exit*
        ),
        opening=((2, 1), (257, 2)),
        clone=56,
        clone3=435,
        fcntl=72,
        ioctl=16,
        prlimit=302,
        tgkill=234,
        seccomp=317,
    ),
    "aarch64": _Architecture(
        audit=0xC00000B7,
        allowed=(
            *(63, 64, 67, 65, 66, 69, 62),
            *(57, 23, 24, 59, 436),
            *(206, 207, 212, 204, 205, 209),
            *(80, 79, 291, 43, 44, 48, 439),
            *(61, 17, 78, 223),
            *(73, 72),
            *(222, 226, 215, 214, 216, 227, 232, 233, 236),
            *(134, 135, 139, 136, 132),
            *(98, 449, 96, 99, 100, 293, 283),
            *(124, 123, 121, 120, 168, 141),
            *(101, 169, 113, 114, 115, 153, 128),
            *(172, 173, 178, 174, 176, 175, 177, 160, 179),
            *(163, 164, 165, 278),
            *(93, 94),
        ),
        opening=((56, 2),),
        clone=220,
        clone3=435,
        fcntl=25,
        ioctl=29,
        prlimit=261,
        tgkill=131,
        seccomp=277,
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


def has_filter() -> bool:
    """Whether there is a system-call filter for this processor; a kernel may still refuse it."""
    return platform.machine() in _ARCHITECTURES


def refuse_system_calls() -> None:
    """Let all calls but those that decoding needs fail with EPERM, from now on and for good.

    Threads of this process are possible, and its own end by a signal (abort(3)); other processes
    are not. Threads that run already are bound as well.

    Raises:
        OSError: The kernel takes no filter, or not for every thread.
    """
    architecture = _ARCHITECTURES.get(platform.machine())
    if architecture is None:
        return  # an unknown table of numbers would refuse the wrong calls
    instructions = _instructions(architecture)
    program = _Program(len(instructions) // 8, instructions)
    library = ctypes.CDLL(None, use_errno=True)
    # A thread without the filter would do for the others what they may not: a signal handler is
    # code that any thread can be made to run.
    if library.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) or library.syscall(
        architecture.seccomp, _FILTER_MODE, _ALL_THREADS, ctypes.byref(program)
    ):
        raise OSError(ctypes.get_errno(), "the kernel refuses a system-call filter")


def require_one_thread() -> None:
    """See that what binds the calling thread alone (Landlock) binds the process.

    Raises:
        OSError: There are other threads, which would stay as they are.
    """
    count = len(os.listdir("/proc/self/task"))  # noqa: PTH208 - names only
    if count != 1:
        raise OSError(errno.EBUSY, f"{count} threads run where one can be confined")


def keep_to_files_below(paths: Iterable[Path]) -> bool:
    """Let no file be read but those at and below `paths`, from now on and for good.

    Paths that do not exist are left out. It binds the calling thread and those that it will start.

    Returns:
        False where the kernel has no Landlock, and nothing changed.

    Raises:
        OSError: The kernel has it and refuses these rules, or there are other threads.
    """
    require_one_thread()
    library = ctypes.CDLL(None, use_errno=True)
    if library.syscall(_CREATE_RULESET, None, 0, _VERSION) < 1:
        return False
    reading = struct.pack("Q", _READ_FILE | _READ_FOLDER)
    rules = library.syscall(_CREATE_RULESET, reading, ctypes.c_size_t(len(reading)), 0)
    if rules < 0:
        raise OSError(ctypes.get_errno(), "the kernel makes no Landlock rules")
    try:
        for path in paths:
            try:
                place = os.open(path, os.O_PATH | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            access = _READ_FILE | (_READ_FOLDER if path.is_dir() else 0)
            rule = struct.pack("=Qi", access, place)
            refused = library.syscall(_ADD_RULE, rules, _PATH_BENEATH, rule, 0)
            os.close(place)
            if refused:
                raise OSError(ctypes.get_errno(), "the kernel refuses a Landlock rule")
        if library.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) or library.syscall(
            _RESTRICT_SELF, rules, 0
        ):
            raise OSError(ctypes.get_errno(), "the kernel refuses Landlock")
    finally:
        os.close(rules)
    return True


def limit_for_good(kind: int, value: int) -> None:
    """Set both limits of setrlimit(2), so that this process cannot raise them again."""
    _, hard = resource.getrlimit(kind)
    bounded = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (bounded, bounded))


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
    limit_for_good(resource.RLIMIT_CORE, 0)
    limit_for_good(resource.RLIMIT_FSIZE, 0)


def _instructions(architecture: _Architecture) -> bytes:
    """The filter: a wrong table kills, what is not needed gets EPERM."""
    number = architecture
    program = [
        (_LOAD, 0, 0, _ARCHITECTURE_AT),
        (_EQUAL, 1, 0, architecture.audit),
        (_RETURN, 0, 0, _KILL_PROCESS),
        (_LOAD, 0, 0, _NUMBER_AT),
        *_if(_AT_LEAST, _X32_CALLS, _REFUSE),
    ]
    for each in architecture.allowed:
        program += _if(_EQUAL, each, _ALLOW)
    # Its flags lie in memory, which a filter cannot see: libraries fall back to clone.
    program += _if(_EQUAL, number.clone3, _UNKNOWN)
    for each, argument in architecture.opening:
        program += _by_argument(each, argument, _if(_ANY_BIT, _WRITING, _REFUSE), _ALLOW)
    program += _by_argument(number.clone, 0, _if(_ANY_BIT, _NEW_THREAD, _ALLOW), _REFUSE)
    # Other processes have limits and signals, too.
    own = [0, os.getpid()]
    for each, argument, values in (
        (number.tgkill, 0, own[1:]),
        (number.prlimit, 0, own),
        (number.fcntl, 1, _FCNTL),
        (number.ioctl, 1, _IOCTL),
    ):
        tests = [step for value in values for step in _if(_EQUAL, value, _ALLOW)]
        program += _by_argument(each, argument, tests, _REFUSE)
    program.append((_RETURN, 0, 0, _REFUSE))
    return b"".join(struct.pack("HBBI", *each) for each in program)


def _if(test: int, value: int, then: int) -> list[_Step]:
    return [(test, 0, 1, value), (_RETURN, 0, 0, then)]


def _by_argument(call: int, argument: int, tests: list[_Step], otherwise: int) -> list[_Step]:
    """What becomes of a call, by the low 32 bits of one of its arguments."""
    steps = [(_LOAD, 0, 0, _ARGUMENTS_AT + 8 * argument), *tests, (_RETURN, 0, 0, otherwise)]
    return [(_EQUAL, 0, len(steps), call), *steps]
