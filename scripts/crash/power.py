"""A state directory as a power failure would leave it: what was fsynced, and nothing else."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def lose_power(state: Path, shadow: Path) -> None:
    """Rebuild `state` from the shadow that the library of faults kept.

    A name is there when its folder was fsynced since; its content is that of the file's last
    fsync, or nothing. SQLite's shared memory is never durable.
    """
    rebuilt = state.with_name(f"{state.name}.rebuilt")
    _build(state.stat().st_ino, rebuilt, shadow)
    shutil.rmtree(state)
    rebuilt.rename(state)


def hold_all(state: Path, shadow: Path) -> None:
    """Take all of `state` for durable: an earlier life's writes have long reached the disk."""
    for folder, _, names in os.walk(state):
        entries = list(os.scandir(folder))
        (shadow / f"d.{Path(folder).stat().st_ino}").write_text(
            "".join(f"{each.name}\t{each.inode()}\t{each.is_dir():d}\n" for each in entries),
            encoding="utf-8",
        )
        for each in entries:
            if each.name in names:
                shutil.copyfile(each.path, shadow / f"f.{each.inode()}")


def _build(inode: int, target: Path, shadow: Path) -> None:
    target.mkdir(mode=0o700)
    listing = shadow / f"d.{inode}"
    if not listing.exists():
        return
    for line in listing.read_text(encoding="utf-8").splitlines():
        name, entry, is_folder = line.rsplit("\t", 2)
        if is_folder == "1":
            _build(int(entry), target / name, shadow)
        elif not name.endswith("-shm"):
            kept = shadow / f"f.{entry}"
            content = kept.read_bytes() if kept.exists() else b""
            (target / name).write_bytes(content)
            (target / name).chmod(0o600)
