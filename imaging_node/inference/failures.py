"""What a failed launch asks for: the runtimes say it in words only."""

from __future__ import annotations

from imaging_node.domain.errors import DeviceLostError, NotAnalysedError
from imaging_node.domain.finding import NotAnalysedReason

# What ONNX Runtime, OpenVINO, CUDA, cuBLAS and cuDNN say when memory is short, in lower case ...
_OUT_OF_MEMORY = (
    "failed to allocate", "out of memory", "bad_alloc", "bad allocation", "alloc_failed",
    "memoryallocation", "out_of_memory", "bfcarena",
)  # fmt: skip
# ... and when the device will answer nothing more to this process (cudaErrorIllegalAddress ...).
_DEVICE_LOST = (
    "illegal memory access", "unspecified launch failure", "device-side assert", "illegaladdress",
    "launchfailure", "device unavailable", "uncorrectable ecc", "has fallen off the bus",
)  # fmt: skip


def as_launch_failure(error: Exception, shape: tuple[int, ...]) -> Exception:
    """A DeviceLostError, MemoryError or NotAnalysedError (SOFTWARE) for a runtime's error.

    Args:
        error: As the runtime raised it; its words are not repeated.
        shape: Of the batch.
    """
    words = str(error).lower()
    if any(each in words for each in _DEVICE_LOST):
        return DeviceLostError("the accelerator answers nothing more; the study is tried again")
    if any(each in words for each in _OUT_OF_MEMORY):
        return MemoryError(f"a batch of shape {shape} does not fit")
    return NotAnalysedError(
        f"the model failed on a batch of shape {shape}", reason=NotAnalysedReason.SOFTWARE
    )
