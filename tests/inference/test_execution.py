"""Settings of provider and precision mean what they say, or refuse with what to do."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import onnxruntime
import pytest

from imaging_node.domain.errors import SettingsError
from imaging_node.inference.engine_cache import describe_gpu, engine_folder
from imaging_node.inference.execution import (
    Execution,
    choose_provider,
    precisions_to_try,
    share_threads,
)
from imaging_node.inference.providers import provider_options

HAS_CUDA = "CUDAExecutionProvider" in onnxruntime.get_available_providers()


def test_auto_takes_cuda_where_there_is_one_and_else_the_cpu() -> None:
    assert choose_provider("auto") == ("cuda" if HAS_CUDA else "cpu")


@pytest.mark.skipif(HAS_CUDA, reason="ONNX Runtime has CUDA here")
@pytest.mark.parametrize("wanted", ["cuda", "tensorrt"])
def test_a_provider_that_onnx_runtime_lacks_is_refused_with_the_package_to_install(
    wanted: str,
) -> None:
    with pytest.raises(SettingsError, match="onnxruntime-gpu"):
        choose_provider(wanted)  # type: ignore[arg-type]  # parametrised


@pytest.mark.skipif(find_spec("openvino") is not None, reason="OpenVINO is installed")
def test_openvino_that_is_not_installed_is_refused_with_the_extra_to_install() -> None:
    with pytest.raises(SettingsError, match=r"imaging-node\[openvino\]"):
        choose_provider("openvino")


def test_reduced_precision_is_tried_only_where_the_provider_computes_so() -> None:
    assert precisions_to_try("cpu", "auto") == ("f32",)
    assert precisions_to_try("cuda", "auto") == ("f32",)
    assert precisions_to_try("openvino", "auto") == ("bf16", "f32")
    assert precisions_to_try("tensorrt", "auto") == ("f16", "f32")
    assert precisions_to_try("openvino", "bf16") == ("bf16",)
    with pytest.raises(SettingsError, match="f32 only"):
        precisions_to_try("cpu", "bf16")


@pytest.mark.parametrize(
    ("threads", "shared"), [(1, (1, 1)), (2, (2, 1)), (3, (2, 1)), (8, (2, 4))]
)
def test_all_launches_together_have_the_threads_of_the_setting(
    threads: int, shared: tuple[int, int]
) -> None:
    assert share_threads(threads) == shared


def test_a_gpu_computes_without_tf32_and_falls_back_to_the_cpu_for_single_operators() -> None:
    offered = provider_options(Execution(provider="cuda", device_id=3), (1, 224, 224))
    assert [name for name, _ in offered] == ["CUDAExecutionProvider", "CPUExecutionProvider"]
    assert offered[0][1]["use_tf32"] == "0"
    assert offered[0][1]["device_id"] == "3"


def test_tensorrt_builds_one_engine_for_all_sizes_and_keeps_it(tmp_path: Path) -> None:
    execution = Execution(provider="tensorrt", precision="f16", engine_folder=tmp_path)
    (name, options), *others = provider_options(execution, (1, 224, 224))
    assert name == "TensorrtExecutionProvider"
    assert [each for each, _ in others] == ["CUDAExecutionProvider", "CPUExecutionProvider"]
    assert options["trt_profile_min_shapes"] == "image:1x1x224x224"
    assert options["trt_profile_max_shapes"] == "image:256x1x224x224"
    assert options["trt_engine_cache_path"] == str(tmp_path)
    assert (options["trt_fp16_enable"], options["trt_bf16_enable"]) == ("1", "0")


def test_another_model_gpu_or_driver_has_other_engines() -> None:
    gpus = ("NVIDIA A, 550.1", "NVIDIA A, 560.2", "NVIDIA B, 550.1")
    folders = {
        engine_folder(Path("state"), model_digest=digest, gpu=gpu)
        for digest in ("sha256:1", "sha256:2")
        for gpu in gpus
    }
    assert len(folders) == 6
    again = engine_folder(Path("state"), model_digest="sha256:1", gpu=gpus[0])
    assert again in folders


def test_the_gpu_is_described_as_the_driver_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = tmp_path / "nvidia-smi"
    driver.write_text('#!/bin/sh\n[ "$1" = --id=1 ] && echo "NVIDIA X, 550.54"\n')
    driver.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert describe_gpu(1) == "NVIDIA X, 550.54"
    with pytest.raises(SettingsError, match=r"scoring\.devices"):
        describe_gpu(2)
