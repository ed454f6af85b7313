"""The shipped bundle, damaged copies of it, and synthetic images."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from imaging_node.domain.image import DecodedImage
from imaging_node.inference.batching import Batcher
from imaging_node.inference.bundle import Bundle, default_bundle_directory, load_bundle
from imaging_node.inference.execution import Execution
from imaging_node.inference.golden import synthetic_thorax
from imaging_node.inference.opening import OpenedModel, open_model
from imaging_node.inference.scorer import Scorer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NAME = "chest_xray_pneumonia"


@pytest.fixture(scope="session")
def bundle() -> Bundle:
    return load_bundle(default_bundle_directory() / NAME)


@pytest.fixture
def bundle_copy(tmp_path: Path) -> Path:
    """The shipped bundle, free to be damaged."""
    return shutil.copytree(default_bundle_directory() / NAME, tmp_path / NAME)


@pytest.fixture
def batcher() -> Iterator[Batcher]:
    opened = Batcher(launch_budget_ms=500, in_flight=1)
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def opened_model(bundle: Bundle) -> OpenedModel:
    return open_model(bundle, Execution(in_flight=2), "auto")


@pytest.fixture(scope="session")
def scorer(bundle: Bundle, opened_model: OpenedModel) -> Iterator[Scorer]:
    batcher = Batcher(launch_budget_ms=500, in_flight=2)
    # The synthetic thorax is no film, and the gates know it.
    opened = Scorer(bundle, opened_model, batcher, site_operating_points={}, gate_policy="report")
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def thorax() -> DecodedImage:
    return DecodedImage(
        sop_instance_uid="2.25.1", p_values=synthetic_thorax(300, 260, opacity=0.6, seed=3)
    )
