"""Sessions answer for the bytes that were verified, batch or no batch."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import pytest

from imaging_node.domain.errors import BundleError, NotAnalysedError
from imaging_node.domain.finding import NotAnalysedReason
from imaging_node.inference.runtime import Sessions

if TYPE_CHECKING:
    from imaging_node.inference.bundle import Bundle


def test_an_image_gets_the_same_answer_alone_and_in_company(bundle: Bundle) -> None:
    sessions = Sessions(bundle, threads=1)
    batch = np.random.default_rng(1).normal(size=(3, 1, 224, 224)).astype(np.float32)
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
        Sessions(broken, threads=1)


def test_a_batch_the_graph_refuses_is_a_coded_failure(bundle: Bundle) -> None:
    sessions = Sessions(bundle, threads=1)
    with pytest.raises(NotAnalysedError) as failure:
        sessions.predict(np.zeros((1, 1, 17, 17), np.float32))
    assert failure.value.reason is NotAnalysedReason.SOFTWARE
