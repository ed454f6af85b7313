"""The process that runs a foreign bundle, made to be distrusted: its code has no other place.

It is started by `foreign_runner` for one answer. The libraries are loaded first; then the process
gives up the network, other programs, writing, and reading anything but the bundle and Python; only
then does it start threads, and only then is anything of the bundle evaluated. Voxels come and go
through memory that it is handed.
"""

from __future__ import annotations

import json
import mmap
import os
import resource
import socket
import sys
import sysconfig
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from setproctitle import setproctitle

from imaging_node import confinement
from imaging_node.domain.errors import BundleError
from imaging_node.inference.foreign_bundle import load_foreign

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy.typing as npt

PROCESS_TITLE: Final = "imaging-node: foreign model"
MESSAGE_BYTES: Final = 65536
"""Longest message either way."""

REFUSALS: Final = {
    "files": "a file was changed, added or removed since it was installed; add it again",
    "trust": "it was trusted with another hash; add it again",
}
"""What the process may say before it runs anything of the bundle, and what the node says then."""

_LONGEST_DETAIL: Final = 400
_CPU_MARGIN_S: Final = 5
_PAGE_BYTES: Final = resource.getpagesize()


def main(*, parent_pid: int, link: int, voxels: int, masks: int) -> None:
    """Read one request from `link`, answer it, and end.

    Args:
        parent_pid: The node; the process ends with it.
        link: Descriptor of a sequential-packet socket.
        voxels: Descriptor of the memory with the input, float32.
        masks: Descriptor of the memory for the labels, uint8, all 0.

    Raises:
        OSError: The process cannot be confined.
    """
    setproctitle(PROCESS_TITLE)
    confinement.end_with(parent_pid)
    confinement.leave_network()
    with socket.socket(fileno=link) as peer:
        request = json.loads(peer.recv(MESSAGE_BYTES))
        peer.send(json.dumps(_answer(request, voxels, masks)).encode())
        # Nothing that code of the bundle registered for the end is run.
        os._exit(0)


def _answer(request: dict[str, Any], voxels: int, masks: int) -> dict[str, Any]:
    try:
        bundle = load_foreign(Path(request["directory"]))
    except BundleError:
        return {"refused": "files"}
    if bundle.trust_hash != request["trust_hash"]:
        return {"refused": "trust"}
    # The declaration is the node's: the hash that was trusted says nothing of it.
    if bundle.identity.digest != request["digest"]:
        return {"refused": "files"}
    # The libraries are ours and may still do as they like; what follows may not.
    from imaging_node.inference import foreign_pipeline  # noqa: PLC0415 - torch and MONAI

    foreign_pipeline.prepare()
    image = _mapped(voxels, np.float32, request["shape"], mmap.PROT_READ)
    labels = _mapped(masks, np.uint8, request["masks_shape"], mmap.PROT_READ | mmap.PROT_WRITE)
    _confine(bundle.directory, request)
    foreign_pipeline.use_threads(request["threads"])
    pipeline = foreign_pipeline.Pipeline(bundle)
    try:
        scores = pipeline.run(image, np.array(request["affine"]), labels)
    except Exception as error:  # noqa: BLE001 - the top of a process, and code from anywhere
        return {
            "failed": pipeline.step,
            "error": type(error).__name__,
            "detail": _chain(error)[:_LONGEST_DETAIL],
        }
    return {"done": True, "scores": scores}


def _chain(error: BaseException | None) -> str:
    """What went wrong, its cause first: MONAI wraps errors in errors."""
    said = []
    while error is not None:
        said.append(f"{type(error).__name__}: {' '.join(str(error).split())}")
        error = error.__cause__
    return "; in ".join(reversed(said))


def _confine(directory: Path, request: dict[str, Any]) -> None:
    os.chdir(directory)
    sys.path.insert(0, str(directory))
    sys.dont_write_bytecode = True
    # A compiled file is looked for where none can be.
    sys.pycache_prefix = "/nonexistent"
    warnings.simplefilter("ignore")
    used = resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = int(used.ru_utime + used.ru_stime + request["cpu_s"]) + _CPU_MARGIN_S
    confinement.limit_for_good(resource.RLIMIT_CPU, cpu_s)
    mapped = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * _PAGE_BYTES
    confinement.limit_for_good(resource.RLIMIT_AS, mapped + request["memory_limit_bytes"])
    confinement.keep_to_files_below(_readable(directory))
    confinement.confine()


def _readable(directory: Path) -> Iterable[Path]:
    """The bundle, Python and what the system says of itself; no spool, no database, no home."""
    yield directory
    for name in ("stdlib", "platstdlib", "purelib", "platlib"):
        yield Path(sysconfig.get_path(name))
    # The package itself may lie in a checkout.
    yield Path(__file__).resolve().parents[1]
    for name in ("/usr/lib", "/usr/local/lib", "/usr/share", "/lib", "/lib64"):
        yield Path(name)
    for name in ("/proc", "/sys", "/dev/null", "/dev/urandom", "/dev/zero", "/etc/localtime"):
        yield Path(name)


def _mapped(
    descriptor: int, dtype: type[np.generic], shape: list[int], protection: int
) -> npt.NDArray[Any]:
    length = int(np.prod(shape)) * np.dtype(dtype).itemsize
    mapping = mmap.mmap(descriptor, length, flags=mmap.MAP_SHARED, prot=protection)
    os.close(descriptor)
    return np.frombuffer(mapping, dtype).reshape(shape)
