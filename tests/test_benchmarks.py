"""What the benchmarks measure is what they say."""

from __future__ import annotations

import numpy as np
from bench_gpu import inputs

from imaging_node.inference.bundle import default_bundle_directory, load_bundle


def test_no_two_images_of_a_measured_batch_are_the_same() -> None:
    batch = inputs(load_bundle(default_bundle_directory() / "chest_xray_pneumonia"), 4)
    assert len({each.tobytes() for each in np.asarray(batch)}) == 4
