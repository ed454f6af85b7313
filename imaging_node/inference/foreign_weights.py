"""Weights of a foreign bundle as safetensors: data, where a pickle would be a program."""

from __future__ import annotations

import io
import pickle
import zipfile
from typing import TYPE_CHECKING, Any, Final

from imaging_node.inference.foreign_files import refused

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from imaging_node.inference.foreign_files import ForeignFiles

INSTALLED_WEIGHTS: Final = "models/model.safetensors"

_STATE_DICTS: Final = ("models/model.pt", "models/model.pth")
# A checkpoint may hold the optimiser and more; these keys hold the network.
_INSIDE: Final = ("state_dict", "model_state_dict", "model", "network", "net")


def find_weights(files: ForeignFiles) -> str:
    """Path of the weights: safetensors before a state dict.

    Raises:
        BundleError: There are none that are data.
    """
    for name in (INSTALLED_WEIGHTS, *_STATE_DICTS):
        if name in files.hashes:
            return name
    others = [name for name in files.hashes if name.startswith("models/")]
    raise refused(
        files.directory,
        others[0] if others else "models",
        f"holds no weights that are data: give {INSTALLED_WEIGHTS} or a state dict"
        f" {_STATE_DICTS[0]} (TorchScript and other pickles are programs)",
    )


def install_weights(files: ForeignFiles, source: str, target: Path) -> None:
    """Write the weights as safetensors, whatever they were.

    Args:
        files: Of the bundle; its code is trusted, its pickles are not.
        source: As `find_weights`.
        target: File to write.

    Raises:
        BundleError: They are TorchScript, need code to be read, or are no tensors.
    """
    from safetensors import SafetensorError  # noqa: PLC0415 - only where it is used
    from safetensors.torch import load, save_file  # noqa: PLC0415 - imports torch

    content = files.content(source)
    if source == INSTALLED_WEIGHTS:
        try:
            is_empty = not load(content)
        except SafetensorError as error:
            raise refused(files.directory, source, "is not safetensors") from error
        if is_empty:
            raise refused(files.directory, source, "holds no tensor")
        target.write_bytes(content)
        return
    tensors = _state_dict(files, source, content)
    save_file({name: each.detach().contiguous().clone() for name, each in tensors.items()}, target)


def _state_dict(files: ForeignFiles, source: str, content: bytes) -> Mapping[str, Any]:
    import torch  # noqa: PLC0415 - the node itself does without

    if _is_torchscript(content):
        raise refused(
            files.directory, source, "is TorchScript, which is a program; give the state dict"
        )
    try:
        loaded = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, KeyError, ValueError) as error:
        raise refused(
            files.directory, source, "cannot be read as a state dict without running code"
        ) from error
    for key in _INSIDE:
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    if (
        not isinstance(loaded, dict)
        or not loaded
        or not all(
            isinstance(name, str) and isinstance(each, torch.Tensor)
            for name, each in loaded.items()
        )
    ):
        raise refused(files.directory, source, "is no state dict: names and tensors")
    return loaded


def _is_torchscript(content: bytes) -> bool:
    if not zipfile.is_zipfile(io.BytesIO(content)):
        return False
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return any(
            "/code/" in name or name.endswith("constants.pkl") for name in archive.namelist()
        )
