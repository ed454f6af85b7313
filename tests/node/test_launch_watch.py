"""A launch at fault ends the process once the work of the others is given back."""

from __future__ import annotations

import threading

from imaging_node.inference.batching import Batcher
from imaging_node.inference.lanes import ROUTINE
from imaging_node.node.launch_watch import EXIT_LAUNCH_HANGS, LaunchWatch
from tests.inference.launched import EchoModel, image


def test_the_process_ends_after_what_is_innocent_was_given_back() -> None:
    model = EchoModel()
    batcher = Batcher(
        launch_budget_ms=10, launch_limit_s=60, in_flight=1, monotonic_s=lambda: model.now_s
    )
    batcher.add_model("echo", model)
    done: list[object] = []
    has_ended = threading.Event()

    def end(status: int) -> None:
        done.append(status)
        has_ended.set()

    watch = LaunchWatch(batcher, done.append, end=end)
    watch.start()
    model.may_run.clear()
    answer = batcher.submit("echo", image(1), ROUTINE, owner="claim")
    assert model.is_running.wait(10)
    model.now_s += 61
    assert has_ended.wait(30)
    assert done == [frozenset({"claim"}), EXIT_LAUNCH_HANGS]
    model.may_run.set()
    answer.result(10)
    watch.stop()
    batcher.close()
