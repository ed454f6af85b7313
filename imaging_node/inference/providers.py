"""What the installed model runtime can run on."""

from __future__ import annotations

import onnxruntime


def execution_providers() -> tuple[str, ...]:
    """Execution providers of the installed ONNX Runtime, the preferred one first."""
    return tuple(onnxruntime.get_available_providers())
