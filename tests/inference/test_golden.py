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
from tests.signing import TRUSTED, sign_again

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from imaging_node.inference.outputs import MemberOutputs


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
        open_model(load_bundle(bundle_copy, TRUSTED), Execution(), "auto")
    assert f"bundle {bundle_copy.name}: {case['input']}: golden case failed" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_maps_that_do_not_add_up_to_their_scores_refuse_the_bundle(bundle_copy: Path) -> None:
    path = bundle_copy / "configs/metadata.json"
    metadata = json.loads(path.read_text())
    metadata["imaging_node"]["members"][1]["biases"] = [5.0]
    path.write_text(json.dumps(metadata))
    sign_again(bundle_copy)
    damaged = load_bundle(bundle_copy, TRUSTED)
    with pytest.raises(BundleError, match="vit completeness"):
        verify_golden(damaged, Sessions(damaged, Execution()))


class Swapping:
    """The real sessions, of which one set gives the first image's answer to the last."""

    is_slow_at_first = False

    def __init__(self, bundle: Bundle, execution: Execution) -> None:
        self.providers = ("CPUExecutionProvider",)
        self.sessions = Sessions(bundle, execution)
        self.sets = execution.in_flight
        self.batches: list[int] = []

    def buffer(self, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        return self.sessions.buffer(shape)

    def predict(self, batch: npt.NDArray[np.float32]) -> list[MemberOutputs]:
        self.batches.append(len(batch))
        answers = self.sessions.predict(batch)
        is_bad = len(self.batches) % self.sets == 0
        return [answers[-1], *answers[1:-1], answers[0]] if is_bad and len(batch) > 1 else answers


@pytest.mark.parametrize("sets", [1, 2])
def test_sessions_that_swap_the_rows_of_a_batch_are_refused(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, sets: int
) -> None:
    monkeypatch.setattr("imaging_node.inference.opening.Sessions", Swapping)
    with pytest.raises(BundleError, match=r"golden case failed in a batch of \d"):
        open_model(bundle, Execution(in_flight=sets), "auto")


def test_each_set_of_sessions_answers_the_cases_in_both_orders(bundle: Bundle) -> None:
    model = Swapping(bundle, Execution(in_flight=100))
    verify_golden(bundle, model, session_sets=2)
    cases = len(bundle.golden)
    assert model.batches == [1] * cases + [cases] * 4


def test_swapped_networks_refuse_the_bundle(bundle_copy: Path) -> None:
    shutil.copy(bundle_copy / "models/vit.onnx", bundle_copy / "models/cnn.onnx")
    sign_again(bundle_copy)
    damaged = load_bundle(bundle_copy, TRUSTED)
    with pytest.raises(BundleError, match="golden case failed"):
        verify_golden(damaged, Sessions(damaged, Execution()))
