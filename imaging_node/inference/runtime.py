"""ONNX Runtime sessions of all members of a bundle behind one call."""

from __future__ import annotations

from queue import SimpleQueue
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as onnxruntime_errors

from imaging_node.domain.errors import BundleError, SettingsError
from imaging_node.inference.failures import as_launch_failure
from imaging_node.inference.outputs import OUTPUTS, MemberOutputs, split_outputs
from imaging_node.inference.pinned_memory import pinned
from imaging_node.inference.providers import provider_options

if TYPE_CHECKING:
    from imaging_node.inference.bundle import Bundle, Member
    from imaging_node.inference.execution import Execution

# Each derives from Exception alone, and one more may come with each version.
_ONNX_RUNTIME_ERRORS: tuple[type[Exception], ...] = (
    *(
        each
        for each in vars(onnxruntime_errors).values()
        if isinstance(each, type) and issubclass(each, Exception)
    ),
    RuntimeError,
    ValueError,
)


class Sessions:
    """Owns ONNX Runtime sessions of every member.

    `predict` may be called from several threads; each call runs the members in turn, on
    sessions of its own where sessions have threads or streams that calls would share.

    Attributes:
        providers: ONNX Runtime's names, as they really run.
    """

    def __init__(self, bundle: Bundle, execution: Execution) -> None:
        """Build the sessions from the bytes that were verified.

        Args:
            bundle: As loaded.
            execution: Any provider but OpenVINO.

        Raises:
            BundleError: A graph cannot be loaded or has other outputs.
            SettingsError: The GPU cannot be used.
        """
        self._execution = execution
        self.is_slow_at_first = execution.uses_gpu
        # A session of one CPU thread runs on its caller's: calls have nothing to share.
        is_shared = execution.threads == 1 and not execution.uses_gpu
        self._free: SimpleQueue[list[onnxruntime.InferenceSession]] = SimpleQueue()
        sessions: list[onnxruntime.InferenceSession] = []
        for _ in range(execution.in_flight):
            if not sessions or not is_shared:
                sessions = [_open(bundle, member, execution) for member in bundle.members]
            self._free.put(sessions)
        self.providers = tuple(sessions[0].get_providers())

    def buffer(self, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        """Memory for batches; locked for a GPU, which then copies by itself."""
        return pinned(shape) if self._execution.uses_gpu else np.empty(shape, np.float32)

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
            if self._execution.uses_gpu:
                answers = run_bound(sessions, batch, "cuda", self._execution.device_id)
            else:
                answers = [session.run(None, {"image": batch}) for session in sessions]
            return split_outputs(answers, len(batch))
        except _ONNX_RUNTIME_ERRORS as error:
            raise as_launch_failure(error, batch.shape) from error
        finally:
            self._free.put(sessions)


def run_bound(
    sessions: list[onnxruntime.InferenceSession],
    batch: npt.NDArray[np.float32],
    device_type: str,
    device_id: int,
) -> list[list[npt.NDArray[np.float32]]]:
    """Run the members on a batch that is copied to their device once.

    Args:
        sessions: Of the members, all on one device.
        batch: Shape (n, 1, rows, columns).
        device_type: As ONNX Runtime names it: "cuda", or "cpu" in tests and in the bench.
        device_id: Its number.

    Returns:
        What each member answered, in the order of `OUTPUTS`, in plain memory.
    """
    on_device = onnxruntime.OrtValue.ortvalue_from_numpy(batch, device_type, device_id)
    answers = []
    for session in sessions:
        binding = session.io_binding()
        binding.bind_ortvalue_input("image", on_device)
        for output in session.get_outputs():
            binding.bind_output(output.name, device_type, device_id)
        session.run_with_iobinding(binding)
        answers.append(binding.copy_outputs_to_cpu())
    return answers


def _open(bundle: Bundle, member: Member, execution: Execution) -> onnxruntime.InferenceSession:
    place = f"bundle {bundle.identity.name}: {member.file}"
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = execution.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # An arena keeps the memory of the largest batch ever seen for the process's life.
    options.enable_cpu_mem_arena = False
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    item_shape = (1, bundle.preprocessing.rows, bundle.preprocessing.columns)
    offered = provider_options(execution, item_shape)
    if execution.engine_folder is not None:
        execution.engine_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        session = onnxruntime.InferenceSession(member.model, options, providers=offered)
    except _ONNX_RUNTIME_ERRORS as error:
        raise BundleError(f"{place}: ONNX Runtime cannot load it") from error
    inputs = [each.name for each in session.get_inputs()]
    outputs = [each.name for each in session.get_outputs()]
    if inputs != ["image"] or outputs not in (list(OUTPUTS), list(OUTPUTS[:2])):
        raise BundleError(f"{place}: expected image -> logits, maps and, if it likes, features")
    # ONNX Runtime goes on with the CPU when a driver or a library is missing, and says nothing.
    if offered[0][0] not in session.get_providers():
        raise SettingsError(
            f"scoring.provider: {execution.provider} is installed and does not start on device"
            f" {execution.device_id}; check driver and CUDA libraries, or choose cpu"
        )
    return session
