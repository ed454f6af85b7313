"""ONNX Runtime's execution providers, with the options that keep scores the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnxruntime

from imaging_node.inference.launch_budget import MAXIMUM_BATCH

if TYPE_CHECKING:
    from imaging_node.inference.execution import Execution

_USUAL_BATCH = 32


def execution_providers() -> tuple[str, ...]:
    """Execution providers of the installed ONNX Runtime, the preferred one first."""
    return tuple(onnxruntime.get_available_providers())


def provider_options(
    execution: Execution, item_shape: tuple[int, ...]
) -> list[tuple[str, dict[str, str]]]:
    """Providers for a session, best first; what one cannot compute the next one does.

    Args:
        execution: Not for OpenVINO.
        item_shape: Of one image.
    """
    offered: list[tuple[str, dict[str, str]]] = [("CPUExecutionProvider", {})]
    if execution.uses_gpu:
        offered.insert(0, ("CUDAExecutionProvider", _cuda(execution.device_id)))
    if execution.provider == "tensorrt":
        offered.insert(0, ("TensorrtExecutionProvider", _tensorrt(execution, item_shape)))
    return offered


def _cuda(device_id: int) -> dict[str, str]:
    return {
        "device_id": str(device_id),
        # TF32 would round products to ten bits and move scores between machines.
        "use_tf32": "0",
        # The exhaustive search times every algorithm for each new size of batch.
        "cudnn_conv_algo_search": "HEURISTIC",
        # Two in flight have a stream each, which overlaps copies; ONNX Runtime warns of races
        # when one session copies beside its own stream.
        "do_copy_in_default_stream": "1",
        "arena_extend_strategy": "kSameAsRequested",
    }


def _tensorrt(execution: Execution, item_shape: tuple[int, ...]) -> dict[str, str]:
    def shapes(images: int) -> str:
        return "image:" + "x".join(map(str, (images, *item_shape)))

    return {
        "device_id": str(execution.device_id),
        "trt_fp16_enable": str(int(execution.precision == "f16")),
        "trt_bf16_enable": str(int(execution.precision == "bf16")),
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(execution.engine_folder),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(execution.engine_folder),
        # One engine for every size of batch, else each new size would build for minutes.
        "trt_profile_min_shapes": shapes(1),
        "trt_profile_opt_shapes": shapes(_USUAL_BATCH),
        "trt_profile_max_shapes": shapes(MAXIMUM_BATCH),
    }
