"""A network namespace for a command: peers that bind every address find loopback only."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import struct
import sys

_INSIDE = "BENCH_HAS_ITS_OWN_NETWORK"
_SIOCSIFFLAGS = 0x8914
_UP_AND_RUNNING = 0x41


def enter() -> None:
    """Start this command again in a network namespace; return once inside.

    Debian's Orthanc listens on every address whatever it is told.
    """
    if _INSIDE in os.environ:
        _bring_loopback_up()
        return
    unshare = shutil.which("unshare")
    if unshare is None or os.geteuid() != 0:
        raise SystemExit("this benchmark needs unshare (util-linux) and root, for its own network")
    os.execve(  # noqa: S606 - our own command again
        unshare, [unshare, "--net", sys.executable, *sys.argv], os.environ | {_INSIDE: "yes"}
    )


def _bring_loopback_up() -> None:
    """What `ip link set lo up` does; a new namespace has its loopback down."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sh22x", b"lo", _UP_AND_RUNNING)
        fcntl.ioctl(control, _SIOCSIFFLAGS, request)
