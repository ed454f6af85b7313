"""A reduced precision is used only where the golden cases allow it, and it is said."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np
import pytest

from imaging_node.domain.errors import BundleError, SettingsError
from imaging_node.inference.bundle import GoldenTolerance
from imaging_node.inference.execution import Execution
from imaging_node.inference.opening import open_model
from imaging_node.inference.runtime import Sessions
from imaging_node.settings import free_environment

if TYPE_CHECKING:
    from pathlib import Path

    from imaging_node.inference.bundle import Bundle

needs_openvino = pytest.mark.skipif(
    find_spec("openvino") is None, reason="the extra openvino is not installed"
)
OPENVINO = Execution(provider="openvino", in_flight=2)


def with_tolerance(bundle: Bundle, tolerance: float) -> Bundle:
    allowed = GoldenTolerance(logit=tolerance, probability=tolerance, map=tolerance)
    return dataclasses.replace(bundle, golden_tolerance=allowed)


def computes_in_bf16() -> bool:
    import openvino  # noqa: PLC0415 - an extra

    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def test_the_default_provider_computes_in_f32_and_says_so(bundle: Bundle) -> None:
    opened = open_model(bundle, Execution(), "auto")
    assert opened.runs_on == "CPUExecutionProvider, f32"
    assert opened.refusal == ""


@needs_openvino
def test_openvino_in_f32_gives_onnx_runtimes_answers(bundle: Bundle) -> None:
    opened = open_model(bundle, OPENVINO, "f32")
    assert opened.runs_on == "OpenVINO CPU, f32"
    batch = np.random.default_rng(1).normal(size=(3, 1, 128, 128)).astype(np.float32)
    exact = Sessions(bundle, Execution()).predict(batch)
    for expected, found in zip(exact, opened.model.predict(batch), strict=True):
        np.testing.assert_allclose(found.logits, expected.logits, atol=1e-4)
        for first, second in zip(found.maps, expected.maps, strict=True):
            np.testing.assert_allclose(first, second, atol=1e-3)


@needs_openvino
def test_bf16_beyond_the_golden_tolerance_is_replaced_by_f32_with_the_reason(
    bundle: Bundle,
) -> None:
    opened = open_model(with_tolerance(bundle, 1e-4), OPENVINO, "auto")
    assert opened.execution.precision == "f32"
    assert opened.refusal.startswith("bf16: ")


@needs_openvino
def test_bf16_within_the_golden_tolerance_is_used(bundle: Bundle) -> None:
    opened = open_model(with_tolerance(bundle, 1.0), OPENVINO, "auto")
    if not computes_in_bf16():
        pytest.skip("this CPU does not compute in bf16")
    assert opened.execution.precision == "bf16"
    assert opened.refusal == ""


@needs_openvino
def test_a_forced_precision_that_fails_the_golden_cases_refuses_to_start(bundle: Bundle) -> None:
    with pytest.raises((BundleError, SettingsError), match=r"scoring\.precision"):
        open_model(with_tolerance(bundle, 1e-4), OPENVINO, "bf16")


@needs_openvino
def test_a_precision_that_the_cpu_lacks_is_never_replaced_in_silence(bundle: Bundle) -> None:
    try:
        opened = open_model(with_tolerance(bundle, 1.0), OPENVINO, "f16")
    except SettingsError as error:
        assert "f16" in str(error)  # noqa: PT017 - either ending keeps the promise
    else:
        assert opened.execution.precision == "f16"


@needs_openvino
def test_openvino_neither_counts_its_use_nor_could_tell_anybody(tmp_path: Path) -> None:
    program = (
        "import sys, imaging_node.inference.openvino_runtime\n"
        "print([each for each in sys.modules if each.startswith('openvino_telemetry.')])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={**free_environment(), "HOME": str(tmp_path)},
    )
    assert ran.stdout.strip() == "[]"
    assert not list(tmp_path.iterdir())


def test_openvino_is_not_loaded_unless_it_is_asked_for() -> None:
    program = (
        "import sys, imaging_node.inference.opening, imaging_node.node.models\n"
        "print('openvino' in sys.modules)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert ran.stdout.strip() == "False"
