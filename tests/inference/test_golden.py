"""A bundle that answers otherwise than when it was built is refused."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest

from imaging_node.domain.errors import BundleError
from imaging_node.inference.bundle import Bundle, load_bundle
from imaging_node.inference.execution import Execution
from imaging_node.inference.golden import synthetic_thorax, verify_golden
from imaging_node.inference.opening import open_model
from imaging_node.inference.runtime import Sessions

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_every_golden_case_gets_its_answer_within_the_stated_tolerance(bundle: Bundle) -> None:
    assert len(bundle.golden) >= 3
    verify_golden(bundle, Sessions(bundle, Execution()))


def test_golden_inputs_are_ours_and_can_be_made_again(bundle: Bundle) -> None:
    case = bundle.golden[0]
    rows, columns = case.p_values.shape
    again = synthetic_thorax(rows, columns, opacity=0.0, seed=0)
    np.testing.assert_allclose(case.p_values, again, atol=1e-6)


@pytest.mark.parametrize(
    ("key", "value"), [("logits", [[0.0], [0.0]]), ("probabilities", [0.123456])]
)
def test_another_answer_refuses_the_bundle_and_names_the_case(
    bundle_copy: Path,
    sign_again: Callable[[Path], None],
    key: str,
    value: object,
) -> None:
    path = bundle_copy / "configs/metadata.json"
    metadata = json.loads(path.read_text())
    case = metadata["imaging_node"]["golden"][1]
    case[key] = value
    path.write_text(json.dumps(metadata))
    sign_again(bundle_copy)
    with pytest.raises(BundleError) as refusal:
        open_model(load_bundle(bundle_copy), Execution(), "auto")
    assert f"bundle {bundle_copy.name}: {case['input']}: golden case failed" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_maps_that_do_not_add_up_to_their_scores_refuse_the_bundle(
    bundle_copy: Path, sign_again: Callable[[Path], None]
) -> None:
    path = bundle_copy / "configs/metadata.json"
    metadata = json.loads(path.read_text())
    metadata["imaging_node"]["members"][1]["biases"] = [5.0]
    path.write_text(json.dumps(metadata))
    sign_again(bundle_copy)
    damaged = load_bundle(bundle_copy)
    with pytest.raises(BundleError, match="vit completeness"):
        verify_golden(damaged, Sessions(damaged, Execution()))


def test_swapped_networks_refuse_the_bundle(
    bundle_copy: Path, sign_again: Callable[[Path], None]
) -> None:
    shutil.copy(bundle_copy / "models/vit.onnx", bundle_copy / "models/cnn.onnx")
    sign_again(bundle_copy)
    damaged = load_bundle(bundle_copy)
    with pytest.raises(BundleError, match="golden case failed"):
        verify_golden(damaged, Sessions(damaged, Execution()))
