"""What a study costs, in counts that no clock and no load of the machine can change.

A change that raises one of them is either a mistake or a decision: then the number here is changed
with it.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import event

from imaging_node.dicom import report
from imaging_node.domain.lifecycle import StudyState
from imaging_node.inference.batching import Batcher
from imaging_node.inference.lanes import ARCHIVE
from imaging_node.node.score import StudyWorkers
from imaging_node.node.wiring import now
from imaging_node.settings import Settings
from imaging_node.store.listings import count_work
from tests.flow.test_scoring import accept
from tests.inference.launched import EchoModel, image
from tests.integration.films import film

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from imaging_node.flow.scoring import ScoringRoom

STUDIES = 100
BYTES_PER_IMAGE = 128 * 128 * 4
# An ending may be alone in its transaction; a claim is one of four or more studies.
MOST_WRITES = STUDIES + STUDIES // 3
FEWEST_WRITES = STUDIES // 8


@pytest.mark.slow
def test_a_hundred_studies_cost_what_they_cost_last_time(
    opened: ScoringRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(STUDIES):
        accept(opened, now, film(seed=number % 4))
    batcher = opened.batcher
    begun = (batcher.launched_images, batcher.copied_bytes, opened.decoder.starts)
    counts: Counter[str] = Counter()

    def count_writes(connection: Connection) -> None:
        counts["writes"] += connection.get_execution_options().get("begin") == "IMMEDIATE"

    build = report.built_content

    def count_built(*arguments: object) -> dict[int, bytes]:
        counts["built"] += 1
        return build(*arguments)  # type: ignore[arg-type] # as they came

    monkeypatch.setattr("imaging_node.dicom.report_writer.built_content", count_built)
    engine = opened.database._engine
    event.listen(engine, "commit", count_writes)
    try:
        with StudyWorkers(Settings(), opened) as workers:
            deadline = time.monotonic() + 240
            while (
                count_work(opened.database, now=now()).studies.get(StudyState.DONE, 0) < STUDIES
                and time.monotonic() < deadline
            ):
                if not workers.take_some():
                    workers.wait_for_one(0.1)
    finally:
        event.remove(engine, "commit", count_writes)

    assert count_work(opened.database, now=now()).studies == {StudyState.DONE: STUDIES}
    assert batcher.launched_images - begun[0] == STUDIES
    assert batcher.copied_bytes - begun[1] == STUDIES * BYTES_PER_IMAGE
    assert opened.decoder.starts - begun[2] <= Settings().scoring.decoders
    # The first of a kind, which several threads may meet at once; and none after that.
    assert counts["built"] <= 4 * Settings().scoring.concurrent_studies
    assert FEWEST_WRITES < counts["writes"] <= MOST_WRITES


@pytest.mark.parametrize(
    ("overhead_ms", "ms_per_image", "launches"),
    [(0.0, 10.0, 95), (40.0, 1.0, 16)],
    ids=["a CPU, where company gains nothing", "a GPU, where it does"],
)
def test_a_hundred_images_that_wait_share_as_few_launches_as_pay(
    overhead_ms: float, ms_per_image: float, launches: int
) -> None:
    # Looks at other sizes included: every sixteenth launch, and doubling at the beginning.
    model = EchoModel(ms_per_image, overhead_ms)
    batcher = Batcher(launch_budget_ms=150, in_flight=1, monotonic_s=lambda: model.now_s)
    batcher.add_model("model", model)
    model.may_run.clear()
    answers = [batcher.submit("model", image(number), ARCHIVE) for number in range(STUDIES)]
    model.may_run.set()
    for answer in answers:
        answer.result(30)
    closing = threading.Thread(target=batcher.close)
    closing.start()
    closing.join(30)

    assert batcher.launches == launches
    assert batcher.launched_images == STUDIES
    assert batcher.copied_bytes == STUDIES * image(0).nbytes
