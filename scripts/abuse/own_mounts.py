"""Small disks of one's own: tmpfs in a mount namespace that ends with the command."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_INSIDE = "ABUSE_HAS_ITS_OWN_MOUNTS"


def enter() -> None:
    """Start this command again where it may mount; return once inside, or where that is refused."""
    if _INSIDE in os.environ:
        return
    unshare = shutil.which("unshare")
    if unshare is None:
        return
    wanted = [unshare, "--mount"]
    if os.geteuid():
        wanted += ["--user", "--map-root-user"]
    if subprocess.run([*wanted, "true"], check=False, capture_output=True).returncode:
        return
    os.execve(  # noqa: S606 - our own command again
        unshare, [*wanted, sys.executable, *sys.argv], os.environ | {_INSIDE: "yes"}
    )


@contextmanager
def small_disk(folder: Path, *, megabytes: int, inodes: int) -> Iterator[None]:
    """A file system in memory at `folder`.

    Raises:
        OSError: It may not be mounted.
    """
    folder.mkdir(parents=True)
    options = f"size={megabytes}m,nr_inodes={inodes},mode=0700"
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)],
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise OSError(f"a small disk cannot be mounted: {done.stderr.strip()}")
    try:
        yield
    finally:
        # Lazily: a process that is about to end may still have a file open.
        subprocess.run(["umount", "-l", str(folder)], check=False, capture_output=True)
