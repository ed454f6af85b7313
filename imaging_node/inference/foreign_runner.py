"""A foreign bundle's answer from a process of its own, which is believed in nothing.

Voxels go to it and labels come back through memory that the node made; words are JSON. What the
process says is held against what the bundle declares, after the process was ended.
"""

from __future__ import annotations

import builtins
import fcntl
import json
import math
import mmap
import os
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from imaging_node import confinement
from imaging_node.domain.errors import BundleError, NotAnalysedError, TemporaryError
from imaging_node.domain.finding import NotAnalysedReason
from imaging_node.domain.foreign_result import ForeignTask
from imaging_node.inference.foreign_process import MESSAGE_BYTES, REFUSALS

if TYPE_CHECKING:
    from collections.abc import Callable

    from imaging_node.domain.volume import FloatVolume, Matrix
    from imaging_node.inference.foreign_bundle import ForeignBundle

MOST_OVERLAPPING: Final = 8
"""Labels that may overlap: each has a plane of its own in memory."""

_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
_PACKAGE_PARENT: Final = Path(__file__).resolve().parents[2]
_STEPS: Final = frozenset(
    ("configuration", "weights", "preprocessing", "inference", "postprocessing", "output")
)
_ERROR_NAMES: Final = frozenset(
    name
    for name, each in vars(builtins).items()
    if isinstance(each, type) and issubclass(each, BaseException)
) | {"OutputError", "OutOfMemoryError"}
_MOST_VOXELS: Final = 2**31
_VOXEL_BYTES: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignLimits:
    """What one answer may cost.

    Attributes:
        time_limit_s: From the start of the process to its answer, imports included.
        memory_limit_bytes: Of the process above what the libraries take; and of the node for what
            it hands over and takes back.
        threads: That torch computes with.
    """

    time_limit_s: float = 600.0
    memory_limit_bytes: int = 16 * 2**30
    threads: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignOutput:
    """What a bundle answered, checked.

    Attributes:
        scores: One a label, finite; empty for a segmentation.
        masks: None for a classification; else uint8, shape (1, slices, rows, columns) with the
            place of each voxel's label, from 1; or a plane of 0 and 1 for each label.
    """

    scores: tuple[float, ...]
    masks: npt.NDArray[np.uint8] | None


def run_foreign(
    bundle: ForeignBundle,
    voxels: FloatVolume,
    affine: Matrix,
    *,
    trust_code: str,
    limits: ForeignLimits,
    explain: Callable[[str], None] | None = None,
) -> ForeignOutput:
    """Have a bundle answer for one image or volume.

    Args:
        bundle: As `load_foreign` read it; the process reads and verifies it again.
        voxels: Modality values of slices, or P-Values times 255 of one image; shape (slices,
            rows, columns).
        affine: From (column, row, slice, 1) to DICOM's patient coordinates in millimetres.
        trust_code: The hash that the operator trusted.
        limits: Time, memory and threads.
        explain: Told what the bundle's own code said when it failed. That may be anything: it
            is for a person at a terminal, never for a log.

    Raises:
        BundleError: The files are not those that were trusted, or there is no confinement here.
        NotAnalysedError: The bundle failed, took too long or too much, or its answer is none.
        TemporaryError: No process, or no memory for the voxels.
    """
    if trust_code != bundle.trust_hash:
        raise BundleError(f"bundle {bundle.identity.name} was trusted with another hash")
    if not confinement.has_filter():
        raise BundleError("foreign bundles need a processor with a system-call filter")
    if voxels.size > _MOST_VOXELS:
        raise NotAnalysedError("the volume is too large", reason=NotAnalysedReason.TOO_MANY)
    is_segmentation = bundle.declaration.task is ForeignTask.SEGMENTATION
    count = len(bundle.declaration.labels)
    planes = count if is_segmentation and count <= MOST_OVERLAPPING else 1
    masks_shape = (planes, *voxels.shape) if is_segmentation else (1, 1, 1, 1)
    # What the node itself holds meanwhile: voxels and their copy for the process, labels and what
    # becomes of them.
    needed_bytes = voxels.size * (2 * _VOXEL_BYTES + 2 * planes)
    if needed_bytes > limits.memory_limit_bytes:
        raise NotAnalysedError(
            f"the volume needs {needed_bytes // 2**20} MiB beside its process, more than it may",
            reason=NotAnalysedReason.TOO_MANY,
        )
    request = {
        "directory": str(bundle.directory.absolute()),
        "trust_hash": trust_code,
        "digest": bundle.identity.digest,
        "shape": voxels.shape,
        "affine": affine.tolist(),
        "masks_shape": masks_shape,
        "threads": limits.threads,
        "memory_limit_bytes": limits.memory_limit_bytes,
        "cpu_s": limits.time_limit_s * limits.threads,
    }
    with ExitStack() as closing:
        given = _memory("voxels", voxels.size * _VOXEL_BYTES, closing)
        _write(given, voxels)
        filled = _memory("masks", math.prod(masks_shape), closing)
        message = _exchange(request, (given, filled), limits)
        # The process has ended: nobody writes to the memory any more.
        masks = _read(filled, masks_shape) if is_segmentation else None
    _require_answer(message, bundle, explain)
    if masks is None:
        return ForeignOutput(scores=_scores(message, count), masks=None)
    return ForeignOutput(scores=(), masks=_checked(masks, count))


def _exchange(
    request: dict[str, Any], memories: tuple[int, int], limits: ForeignLimits
) -> dict[str, Any]:
    """One process, one request, one answer; the process is gone when this returns."""
    deadline = time.monotonic() + limits.time_limit_s
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        with theirs:
            process = _start((theirs.fileno(), *memories))
        try:
            ours.settimeout(max(0.001, deadline - time.monotonic()))
            with suppress(BrokenPipeError):  # it ended already, which the answer shows
                ours.send(json.dumps(request).encode())
            answer = ours.recv(MESSAGE_BYTES)
        except TimeoutError as error:
            raise NotAnalysedError(
                f"the bundle did not answer in {limits.time_limit_s:g} s",
                reason=NotAnalysedReason.SOFTWARE,
            ) from error
        except OSError as error:
            raise _ended() from error
        finally:
            process.kill()
            process.wait()
    try:
        message = json.loads(answer)
    except (ValueError, RecursionError) as error:
        raise _ended() from error
    if not isinstance(message, dict):
        raise _ended()
    return message


def _start(descriptors: tuple[int, int, int]) -> subprocess.Popen[bytes]:
    link, given, filled = descriptors
    code = (
        f"import sys; sys.path.insert(0, {str(_PACKAGE_PARENT)!r})\n"
        "from imaging_node.inference.foreign_process import main\n"
        f"main(parent_pid={os.getpid()}, link={link}, voxels={given}, masks={filled})"
    )
    # Nothing of the node's environment: it may hold passwords.
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": "/nonexistent",
        "LANG": "C.UTF-8",
        # No thread before the process is confined: it starts its own afterwards.
        **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
    }
    try:
        return subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [sys.executable, "-c", code],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            # What code of a bundle prints may be voxels: nobody keeps it.
            stderr=subprocess.DEVNULL,
            env=environment,
            cwd="/",
            pass_fds=descriptors,
        )
    except OSError as error:
        raise TemporaryError(
            "A process for a foreign bundle did not start; try again", is_counted=False
        ) from error


def _memory(name: str, size_bytes: int, closing: ExitStack) -> int:
    """Descriptor of sealed memory, which the process can fill but not shrink under the node."""
    try:
        descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        closing.callback(os.close, descriptor)
        os.ftruncate(descriptor, size_bytes)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
    except OSError as error:
        raise TemporaryError("There is no memory for a volume; try again") from error
    return descriptor


def _write(descriptor: int, values: FloatVolume) -> None:
    with mmap.mmap(descriptor, values.size * _VOXEL_BYTES) as mapping:
        target = np.frombuffer(mapping, np.float32).reshape(values.shape)
        target[...] = values
        del target  # a mapping that is looked at cannot be closed


def _read(descriptor: int, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """The memory itself, read-only; it goes with the last array over it."""
    mapping = mmap.mmap(descriptor, math.prod(shape), prot=mmap.PROT_READ)
    return np.frombuffer(mapping, np.uint8).reshape(shape)


def _require_answer(
    message: dict[str, Any], bundle: ForeignBundle, explain: Callable[[str], None] | None
) -> None:
    if message.get("done") is True:
        return
    # Code of the bundle can write to the socket, too: none of its words becomes the node's.
    refusal = message.get("refused")
    if isinstance(refusal, str) and refusal in REFUSALS:
        raise BundleError(f"bundle {bundle.identity.name}: {REFUSALS[refusal]}")
    step, name = message.get("failed"), message.get("error")
    if not isinstance(step, str) or step not in _STEPS or not isinstance(name, str):
        raise _ended()
    if explain is not None:
        explain(f"{step}: {name[:60]}: {message.get('detail')}")
    raise NotAnalysedError(
        f"bundle {bundle.identity.name} failed in its {step}"
        f" ({name if name in _ERROR_NAMES else 'an error of its own'})",
        reason=(NotAnalysedReason.MODEL_OUTPUT if step == "output" else NotAnalysedReason.SOFTWARE),
    )


def _scores(message: dict[str, Any], count: int) -> tuple[float, ...]:
    values = message.get("scores")
    if (
        not isinstance(values, list)
        or len(values) != count
        or not all(type(each) is float and math.isfinite(each) for each in values)
    ):
        raise _no_output("the scores are not one number for each label")
    return tuple(values)


def _checked(masks: npt.NDArray[np.uint8], count: int) -> npt.NDArray[np.uint8]:
    """Labels in the first plane and nothing in the others, or planes of 0 and 1."""
    if not masks[1:].any() and int(masks[0].max(initial=0)) <= count:
        return masks[:1]
    if len(masks) != count or int(masks.max(initial=0)) > 1:
        raise _no_output("the masks hold labels that the bundle does not have")
    return masks


def _no_output(detail: str) -> NotAnalysedError:
    return NotAnalysedError(detail, reason=NotAnalysedReason.MODEL_OUTPUT)


def _ended() -> NotAnalysedError:
    return NotAnalysedError(
        "the process of the bundle ended without an answer", reason=NotAnalysedReason.SOFTWARE
    )
