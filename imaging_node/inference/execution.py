"""Where a model runs, in which precision and with how many threads."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import onnxruntime

from imaging_node.domain.errors import SettingsError

Provider = Literal["cpu", "cuda", "tensorrt", "openvino"]
Precision = Literal["f32", "bf16", "f16"]

# One launch computes while the other copies or waits for Python; a third would only make STAT
# wait.
LAUNCHES_IN_FLIGHT = 2

_NEEDED = {"cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
_REDUCED: dict[Provider, tuple[Precision, ...]] = {
    "cpu": (),
    "cuda": (),
    "tensorrt": ("f16", "bf16"),
    "openvino": ("bf16", "f16"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """How sessions are built.

    Attributes:
        provider: ONNX Runtime on a CPU, with CUDA or with TensorRT; or OpenVINO on a CPU.
        precision: Of products and sums; what goes in and comes out is float32 always.
        threads: CPU threads of one launch, >= 1.
        in_flight: Launches at a time, >= 1.
        device_id: Number of the GPU.
        engine_folder: Where TensorRT keeps what it built; None only where it is not used.
    """

    provider: Provider = "cpu"
    precision: Precision = "f32"
    threads: int = 1
    in_flight: int = 1
    device_id: int = 0
    engine_folder: Path | None = None

    @property
    def uses_gpu(self) -> bool:
        """Whether launches run on a GPU."""
        return self.provider in _NEEDED

    @property
    def named_precision(self) -> str:
        """As reports and the settings digest name it; "f32" only where it is exact.

        ONNX Runtime has no option that keeps TensorRT from rounding products to TF32.
        """
        is_rounded = self.provider == "tensorrt" and self.precision == "f32"
        return "f32 with TF32 products" if is_rounded else self.precision


def share_threads(threads: int) -> tuple[int, int]:
    """Launches in flight and threads of each, from `threads` >= 1 in all."""
    in_flight = min(threads, LAUNCHES_IN_FLIGHT)
    return in_flight, threads // in_flight


def choose_provider(wanted: Provider | Literal["auto"]) -> Provider:
    """What `scoring.provider` means on this machine.

    "auto" takes CUDA where ONNX Runtime has it, else the CPU; never TensorRT, which builds
    engines for minutes, and never OpenVINO.

    Raises:
        SettingsError: What is wanted is not installed.
    """
    offered = onnxruntime.get_available_providers()
    if wanted == "auto":
        return "cuda" if _NEEDED["cuda"] in offered else "cpu"
    if wanted == "openvino" and find_spec("openvino") is None:
        raise SettingsError(
            "scoring.provider: OpenVINO is not installed;"
            " install it with `pip install 'imaging-node[openvino]'` or choose another provider"
        )
    if wanted in _NEEDED and _NEEDED[wanted] not in offered:
        raise SettingsError(
            f"scoring.provider: the installed ONNX Runtime has no {wanted}; replace the package"
            " onnxruntime by onnxruntime-gpu (never both) or choose another provider"
        )
    return wanted


def precisions_to_try(
    provider: Provider, wanted: Precision | Literal["auto"]
) -> tuple[Precision, ...]:
    """What `scoring.precision` means: the first that answers the golden cases is used.

    Raises:
        SettingsError: The provider cannot compute so.
    """
    reduced = _REDUCED[provider]
    if wanted == "auto":
        return (*reduced[:1], "f32")
    if wanted != "f32" and wanted not in reduced:
        raise SettingsError(
            f"scoring.precision: {provider} computes in f32 only; for {wanted} set"
            " scoring.provider to tensorrt or openvino"
        )
    return (wanted,)
