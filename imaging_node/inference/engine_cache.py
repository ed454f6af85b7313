"""Where TensorRT keeps the engines that it built: for one model, one GPU and one driver."""

from __future__ import annotations

import hashlib
import subprocess
from typing import TYPE_CHECKING

import onnxruntime

from imaging_node.domain.errors import SettingsError

if TYPE_CHECKING:
    from pathlib import Path

_ANSWER_LIMIT_S = 30


def engine_folder(state: Path, *, model_digest: str, gpu: str) -> Path:
    """Folder for the engines of a model; another model, GPU, driver or runtime has another.

    Args:
        state: The state directory.
        model_digest: Of the bundle.
        gpu: As from `describe_gpu`.
    """
    text = f"{model_digest}\n{gpu}\n{onnxruntime.__version__}"
    return state / "engines" / hashlib.sha256(text.encode()).hexdigest()[:32]


def describe_gpu(device_id: int) -> str:
    """Name and driver version of a GPU, as `nvidia-smi` says them.

    Raises:
        SettingsError: There is no such GPU, or no driver.
    """
    command = [
        "nvidia-smi", f"--id={device_id}", "--query-gpu=name,driver_version",
        "--format=csv,noheader",
    ]  # fmt: skip
    try:
        answer = subprocess.run(  # noqa: S603 - the driver's own command, with a number
            command, capture_output=True, text=True, check=True, timeout=_ANSWER_LIMIT_S
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise SettingsError(
            f"scoring.devices: nvidia-smi knows no GPU {device_id}; see `nvidia-smi -L`"
        ) from error
    return answer.stdout.strip()
