"""ONNX Runtime sessions of all members of a bundle behind one call."""

from __future__ import annotations

from queue import SimpleQueue
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as onnxruntime_errors

from imaging_node.domain.errors import BundleError, DeviceLostError, NotAnalysedError
from imaging_node.domain.finding import NotAnalysedReason
from imaging_node.inference.outputs import MemberOutputs, split_outputs

if TYPE_CHECKING:
    from imaging_node.inference.bundle import Bundle, Member

_ONNX_RUNTIME_ERRORS: tuple[type[Exception], ...] = (
    onnxruntime_errors.Fail,
    onnxruntime_errors.InvalidArgument,
    onnxruntime_errors.InvalidGraph,
    onnxruntime_errors.InvalidProtobuf,
    onnxruntime_errors.NoModel,
    onnxruntime_errors.NoSuchFile,
    onnxruntime_errors.NotImplemented,
    onnxruntime_errors.EPFail,
    onnxruntime_errors.RuntimeException,
    RuntimeError,
    ValueError,
)

# Best first. TF32 would round a GPU's products to ten bits and move scores between machines.
_PROVIDER_OPTIONS: dict[str, dict[str, str]] = {
    "CUDAExecutionProvider": {"use_tf32": "0"},
    "CPUExecutionProvider": {},
}

# What ONNX Runtime, CUDA, cuBLAS and cuDNN say when memory is short, in lower case ...
_OUT_OF_MEMORY = (
    "failed to allocate", "out of memory", "bad_alloc", "bad allocation", "alloc_failed",
    "memoryallocation", "out_of_memory", "bfcarena",
)  # fmt: skip
# ... and when the device will answer nothing more to this process (cudaErrorIllegalAddress ...).
_DEVICE_LOST = (
    "illegal memory access", "unspecified launch failure", "device-side assert", "illegaladdress",
    "launchfailure", "device unavailable", "uncorrectable ecc", "has fallen off the bus",
)  # fmt: skip


class Sessions:
    """Owns ONNX Runtime sessions of every member, on the GPU when ONNX Runtime has one.

    `predict` may be called from several threads; each call runs the members in turn, on
    sessions of its own where sessions have threads or streams that calls would share.
    """

    def __init__(self, bundle: Bundle, *, threads: int, in_flight: int = 1) -> None:
        """Build the sessions from the bytes that were verified.

        Args:
            bundle: As loaded.
            threads: CPU threads of one launch, >= 1.
            in_flight: Launches at a time, >= 1; more calls wait.

        Raises:
            BundleError: A graph cannot be loaded or has other outputs.
        """
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # An arena keeps the memory of the largest batch ever seen for the process's life.
        options.enable_cpu_mem_arena = False
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.providers = tuple(
            each for each in _PROVIDER_OPTIONS if each in onnxruntime.get_available_providers()
        )
        self.is_slow_at_first = self.providers[0] != "CPUExecutionProvider"
        offered = [(each, _PROVIDER_OPTIONS[each]) for each in self.providers]
        # A session of one CPU thread runs on its caller's: calls have nothing to share.
        copies = 1 if threads == 1 and not self.is_slow_at_first else in_flight
        self._free: SimpleQueue[list[onnxruntime.InferenceSession]] = SimpleQueue()
        for _ in range(copies):
            sessions = [_open(bundle, member, options, offered) for member in bundle.members]
            for _ in range(in_flight // copies):
                self._free.put(sessions)

    def buffer(self, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        """Plain memory."""
        return np.empty(shape, np.float32)

    def predict(self, batch: npt.NDArray[np.float32]) -> list[MemberOutputs]:
        """Run every member on a batch of shape (n, 1, rows, columns).

        Returns:
            One entry per image, in order.

        Raises:
            DeviceLostError: A GPU answers nothing more to this process.
            MemoryError: Fewer images at a time may run.
            NotAnalysedError: ONNX Runtime refused or failed; the reason is SOFTWARE.
        """
        sessions = self._free.get()
        try:
            answers = [session.run(None, {"image": batch}) for session in sessions]
            return split_outputs(answers, len(batch))
        except _ONNX_RUNTIME_ERRORS as error:
            raise _translated(error, batch.shape) from error
        finally:
            self._free.put(sessions)


def _open(
    bundle: Bundle,
    member: Member,
    options: onnxruntime.SessionOptions,
    offered: list[tuple[str, dict[str, str]]],
) -> onnxruntime.InferenceSession:
    place = f"bundle {bundle.identity.name}: {member.file}"
    try:
        session = onnxruntime.InferenceSession(member.model, options, providers=offered)
    except _ONNX_RUNTIME_ERRORS as error:
        raise BundleError(f"{place}: ONNX Runtime cannot load it") from error
    inputs = [each.name for each in session.get_inputs()]
    outputs = [each.name for each in session.get_outputs()]
    if inputs != ["image"] or outputs != ["logits", "maps"]:
        raise BundleError(f"{place}: expected image -> logits, maps")
    return session


def _translated(error: Exception, shape: tuple[int, ...]) -> Exception:
    """What a failure asks for; the runtimes say it in words only."""
    words = str(error).lower()
    if any(each in words for each in _DEVICE_LOST):
        return DeviceLostError("the accelerator answers nothing more; the study is tried again")
    if any(each in words for each in _OUT_OF_MEMORY):
        return MemoryError(f"a batch of shape {shape} does not fit")
    return NotAnalysedError(
        f"the model failed on a batch of shape {shape}", reason=NotAnalysedReason.SOFTWARE
    )
