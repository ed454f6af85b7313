"""Memory that a GPU reads without a detour, where there is a GPU."""

from __future__ import annotations

import ctypes
import re
import weakref
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

_CUDA_RUNTIME = re.compile(r"\S*/libcudart[.\w-]*\.so[.\w]*")


def pinned(shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Memory that the CUDA runtime of this process has locked; plain memory where it has not.

    Only the speed of copies depends on it, so that a refusal (a limit of locked memory) is none.
    """
    memory = np.empty(shape, np.float32)
    runtime = _loaded_cuda_runtime()
    if runtime is None:
        return memory
    # cudaHostRegister(void *, size_t, unsigned int flags), cudaHostUnregister(void *)
    runtime.cudaHostRegister.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint)
    runtime.cudaHostUnregister.argtypes = (ctypes.c_void_p,)
    address = memory.ctypes.data
    if runtime.cudaHostRegister(address, memory.nbytes, 0) == 0:
        weakref.finalize(memory, runtime.cudaHostUnregister, address)
    return memory


def _loaded_cuda_runtime() -> ctypes.CDLL | None:
    """The very library that ONNX Runtime's CUDA provider has loaded."""
    try:
        maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    found = _CUDA_RUNTIME.search(maps)
    return None if found is None else ctypes.CDLL(found[0])
