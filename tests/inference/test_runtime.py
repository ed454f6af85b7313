"""Sessions answer for the bytes that were verified, batch or no batch."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import pytest
from onnxruntime.capi import onnxruntime_pybind11_state

from imaging_node.domain.errors import BundleError, DeviceLostError, NotAnalysedError
from imaging_node.domain.finding import NotAnalysedReason
from imaging_node.inference.execution import Execution
from imaging_node.inference.failures import as_launch_failure
from imaging_node.inference.outputs import split_outputs
from imaging_node.inference.pinned_memory import pinned
from imaging_node.inference.runtime import Sessions, run_bound

if TYPE_CHECKING:
    from imaging_node.inference.bundle import Bundle


def test_an_image_gets_the_same_answer_alone_and_in_company(bundle: Bundle) -> None:
    sessions = Sessions(bundle, Execution())
    batch = np.random.default_rng(1).normal(size=(3, 1, 128, 128)).astype(np.float32)
    together = sessions.predict(batch)
    for index, answer in enumerate(together):
        alone = sessions.predict(batch[index : index + 1])[0]
        np.testing.assert_allclose(alone.logits, answer.logits, atol=1e-4)
        for first, second in zip(alone.maps, answer.maps, strict=True):
            np.testing.assert_allclose(first, second, atol=1e-3)


def test_bytes_that_are_no_graph_refuse_the_bundle(bundle: Bundle) -> None:
    broken = dataclasses.replace(
        bundle, members=(dataclasses.replace(bundle.members[0], model=b"no graph"),)
    )
    with pytest.raises(BundleError, match=r"models/cnn\.onnx"):
        Sessions(broken, Execution())


def test_a_batch_the_graph_refuses_is_a_coded_failure(bundle: Bundle) -> None:
    sessions = Sessions(bundle, Execution())
    with pytest.raises(NotAnalysedError) as failure:
        sessions.predict(np.zeros((1, 1, 17, 17), np.float32))
    assert failure.value.reason is NotAnalysedReason.SOFTWARE


def test_several_launches_at_a_time_get_the_answers_they_get_alone(bundle: Bundle) -> None:
    sessions = Sessions(bundle, Execution(threads=2, in_flight=2))
    batches = np.random.default_rng(2).normal(size=(6, 1, 1, 128, 128)).astype(np.float32)
    alone = [sessions.predict(batch)[0].logits for batch in batches]
    with ThreadPoolExecutor(3) as launches:
        together = list(launches.map(sessions.predict, batches))
    for expected, found in zip(alone, together, strict=True):
        np.testing.assert_allclose(found[0].logits, expected, atol=1e-4)


def test_a_batch_bound_to_a_device_gets_the_answers_of_a_plain_one(bundle: Bundle) -> None:
    sessions = Sessions(bundle, Execution())
    batch = pinned((2, 1, 128, 128))
    batch[...] = np.random.default_rng(3).normal(size=batch.shape)
    plain = sessions.predict(batch)
    members = sessions._free.get()
    bound = split_outputs(run_bound(members, batch, "cpu", 0), 2)
    for expected, found in zip(plain, bound, strict=True):
        np.testing.assert_array_equal(found.logits, expected.logits)
        for first, second in zip(found.maps, expected.maps, strict=True):
            np.testing.assert_array_equal(first, second)


def test_answers_share_no_memory_with_their_batch_or_with_each_other(bundle: Bundle) -> None:
    first, second = Sessions(bundle, Execution()).predict(np.zeros((2, 1, 128, 128), np.float32))
    assert first.maps[0].base is None
    assert not np.shares_memory(first.maps[0], second.maps[0])


class Failing:
    """A session whose run raises."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def run(self, *_: object) -> None:
        raise self.error


@pytest.mark.parametrize(
    "kind",
    [each for each in vars(onnxruntime_pybind11_state).values() if isinstance(each, type)
     and issubclass(each, Exception)],
)  # fmt: skip
def test_no_error_of_onnx_runtime_escapes_a_launch(bundle: Bundle, kind: type[Exception]) -> None:
    sessions = Sessions(bundle, Execution())
    sessions._free.get()
    sessions._free.put([Failing(kind("the engine failed"))])
    with pytest.raises(NotAnalysedError):
        sessions.predict(np.zeros((1, 1, 128, 128), np.float32))


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("bfc_arena.cc: Failed to allocate memory for requested buffer of size 4", MemoryError),
        ("CUDA failure 2: out of memory ; GPU=0", MemoryError),
        ("std::bad_alloc", MemoryError),
        ("CUBLAS_STATUS_ALLOC_FAILED", MemoryError),
        ("CUDA failure 700: an illegal memory access was encountered", DeviceLostError),
        ("CUDA error cudaErrorLaunchFailure: unspecified launch failure", DeviceLostError),
        ("Got invalid dimensions for input", NotAnalysedError),
    ],
)
def test_what_a_runtime_says_decides_what_happens_to_its_images(
    words: str, kind: type[Exception]
) -> None:
    assert type(as_launch_failure(RuntimeError(words), (1, 1, 2, 2))) is kind


def test_a_member_that_answers_for_too_few_images_is_noticed() -> None:
    logits, maps = np.zeros((2, 1), np.float32), np.zeros((2, 1, 7, 7), np.float32)
    with pytest.raises(ValueError, match="3 images"):
        split_outputs([(logits, maps)], 3)
