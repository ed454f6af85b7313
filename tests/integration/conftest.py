"""A whole node on loopback for each test module, and the real peers it is tested with."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from imaging_node.demonstration.local_node import LocalNode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SHARED_DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalNode]:
    """A node with a short quiet period, and the PACS it answers to."""
    folder = tmp_path_factory.mktemp("node")
    with LocalNode(folder, {"study": {"quiet_period_s": 0.5}}) as running:
        yield running


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The public images of the developers."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"the public images are not at {SHARED_DATA}")
    return SHARED_DATA


def wait_until(condition: Callable[[], bool], *, limit_s: float, what: str) -> None:
    """Return as soon as `condition` holds; fail after `limit_s`."""
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {limit_s} s: {what}")
        time.sleep(0.05)
