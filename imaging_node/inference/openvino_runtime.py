"""OpenVINO in the place of ONNX Runtime on a CPU; imported only where it is asked for."""

from __future__ import annotations

import sys
from queue import SimpleQueue
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from imaging_node.domain.errors import BundleError, SettingsError
from imaging_node.inference.failures import as_launch_failure
from imaging_node.inference.outputs import OUTPUTS, MemberOutputs, split_outputs

# Imported with it, OpenVINO counts its use in the home folder and would tell its maker; without
# it, its own stand-in is taken.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # refuses the import
import openvino  # noqa: E402 - after the line above

if TYPE_CHECKING:
    from imaging_node.inference.bundle import Bundle, Member
    from imaging_node.inference.execution import Execution

_TYPE_NAMES = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}


class OpenVinoModels:
    """Owns the compiled models of every member; as `runtime.Sessions`.

    Attributes:
        providers: What runs, for people.
    """

    is_slow_at_first = False

    def __init__(self, bundle: Bundle, execution: Execution) -> None:
        """Compile the members from the bytes that were verified.

        Raises:
            BundleError: A graph cannot be compiled or has other outputs.
            SettingsError: This CPU cannot compute in that precision.
        """
        self.providers: tuple[str, ...] = ("OpenVINO CPU",)
        core = openvino.Core()
        compiled = [_compile(core, bundle, member, execution) for member in bundle.members]
        self._free: SimpleQueue[list[openvino.InferRequest]] = SimpleQueue()
        for _ in range(execution.in_flight):
            self._free.put([each.create_infer_request() for each in compiled])

    def buffer(self, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        """Plain memory."""
        return np.empty(shape, np.float32)

    def predict(self, batch: npt.NDArray[np.float32]) -> list[MemberOutputs]:
        """Run every member on a batch of shape (n, 1, rows, columns); as `Sessions.predict`."""
        requests = self._free.get()
        try:
            answers = []
            for request in requests:
                request.infer({"image": batch}, share_inputs=True)
                answers.append([each.data for each in request.output_tensors])
            return split_outputs(answers, len(batch))
        except (RuntimeError, ValueError) as error:
            raise as_launch_failure(error, batch.shape) from error
        finally:
            self._free.put(requests)


def _compile(
    core: openvino.Core, bundle: Bundle, member: Member, execution: Execution
) -> openvino.CompiledModel:
    place = f"bundle {bundle.identity.name}: {member.file}"
    try:
        compiled = core.compile_model(
            core.read_model(member.model),
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": execution.precision,
                "NUM_STREAMS": execution.in_flight,
                "INFERENCE_NUM_THREADS": execution.threads * execution.in_flight,
                # The decoders share the cores.
                "ENABLE_CPU_PINNING": False,
            },
        )
    except RuntimeError as error:
        raise BundleError(f"{place}: OpenVINO cannot compile it") from error
    inputs = [each.any_name for each in compiled.inputs]
    outputs = [each.any_name for each in compiled.outputs]
    if inputs != ["image"] or outputs not in (list(OUTPUTS), list(OUTPUTS[:2])):
        raise BundleError(f"{place}: expected image -> logits, maps and, if it likes, features")
    # A hint is a wish: without f16 in the CPU another type is taken, and nothing said.
    used = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    if used not in (execution.precision, _TYPE_NAMES[execution.precision]):
        raise SettingsError(
            f"scoring.precision: this CPU does not compute in {execution.precision}, OpenVINO"
            f" would take {used}"
        )
    return compiled
