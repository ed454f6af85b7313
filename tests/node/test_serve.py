"""What `serve` does before the first role runs."""

from __future__ import annotations

import sys
import threading

import pytest

from imaging_node.domain.errors import BundleError
from imaging_node.node import serve
from imaging_node.node.serve import Node
from imaging_node.settings import Settings


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Node:
    """Its models are never verified to their end."""
    endless = [sys.executable, "-c", "import time; time.sleep(3600)"]
    monkeypatch.setattr(Node, "_command", lambda *_: endless)
    return Node(Settings(), None)


def test_a_stop_ends_the_verification_of_the_models(node: Node) -> None:
    verifying = threading.Thread(target=node._models_are_sound, daemon=True)
    verifying.start()
    node._stopping.set()
    verifying.join(60)
    assert not verifying.is_alive()
    assert not node._models_are_sound()


def test_models_that_are_never_verified_refuse_to_start_with_one_line(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "_MODELS_LIMIT_S", 0.0)
    with pytest.raises(BundleError, match="models in service were not answered within"):
        node._models_are_sound()
