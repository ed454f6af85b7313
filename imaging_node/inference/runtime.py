"""ONNX Runtime sessions of all members of a bundle behind one call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as onnxruntime_errors

from imaging_node.domain.errors import BundleError, NotAnalysedError
from imaging_node.domain.finding import NotAnalysedReason

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imaging_node.inference.bundle import Bundle

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


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberOutputs:
    """What all members said about one image.

    Attributes:
        logits: float32, shape (members, findings).
        maps: Per member, float32, shape (findings, h, w) on that member's own grid.
    """

    logits: npt.NDArray[np.float32]
    maps: tuple[npt.NDArray[np.float32], ...]


class Sessions:
    """Owns one ONNX Runtime session per member, on the GPU when ONNX Runtime has one.

    `predict` may be called from several threads; each call runs the members in turn.
    """

    def __init__(self, bundle: Bundle, *, threads: int) -> None:
        """Build the sessions from the bytes that were verified.

        Args:
            bundle: As loaded.
            threads: CPU threads of one launch, >= 1.

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
        offered = [(each, _PROVIDER_OPTIONS[each]) for each in self.providers]
        self._sessions = []
        for member in bundle.members:
            place = f"bundle {bundle.identity.name}: {member.file}"
            try:
                session = onnxruntime.InferenceSession(member.model, options, providers=offered)
            except _ONNX_RUNTIME_ERRORS as error:
                raise BundleError(f"{place}: ONNX Runtime cannot load it") from error
            inputs = [each.name for each in session.get_inputs()]
            outputs = [each.name for each in session.get_outputs()]
            if inputs != ["image"] or outputs != ["logits", "maps"]:
                raise BundleError(f"{place}: expected image -> logits, maps")
            self._sessions.append(session)

    def predict(self, batch: npt.NDArray[np.float32]) -> list[MemberOutputs]:
        """Run every member on a batch of shape (n, 1, rows, columns).

        Returns:
            One entry per image, in order.

        Raises:
            NotAnalysedError: ONNX Runtime refused or failed; the reason is SOFTWARE.
        """
        try:
            answers = [session.run(None, {"image": batch}) for session in self._sessions]
        except _ONNX_RUNTIME_ERRORS as error:
            raise NotAnalysedError(
                f"ONNX Runtime failed on a batch of shape {batch.shape}",
                reason=NotAnalysedReason.SOFTWARE,
            ) from error
        return [split_outputs(answers, index) for index in range(len(batch))]


def split_outputs(
    answers: Sequence[Sequence[npt.NDArray[np.float32]]], index: int
) -> MemberOutputs:
    """One image's part of what the members answered for a batch."""
    return MemberOutputs(
        logits=np.stack([logits[index] for logits, _ in answers]),
        maps=tuple(np.array(maps[index]) for _, maps in answers),
    )
