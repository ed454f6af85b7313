"""How soon is a planted change noticed, and how often nothing is? Printed as tables.

    python scripts/drift_run.py [--studies 20000] [--seeds 3] [--data ../shared/data] [--scene ...]

Observations are written to a node's database as the score role does, and judged by what the score
role calls: rows in, alarms out. Simulated streams follow known laws; where the public radiographs
are present, their training and validation images are scored by the shipped bundle and changed for
real, and compared with images apart, or with the reference that the bundle brings. A change is
planted after 1,000 stable studies. Delays are in studies, of all studies together; "first alarm"
names the quantity and statistic that came first. Changes called small show where the promise ends:
they may be noticed later, or not within the studies that are watched.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import numpy as np
from drift_scenes import DEFAULT_DATA, NOW, radiographs, shipped, simulated

from imaging_node.flow.watching import WatchingRoom, watch_models
from imaging_node.store.database import open_database
from imaging_node.store.observations import record_observations
from imaging_node.store.watches import list_alarms
from imaging_node.telemetry import configure_logging

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from drift_scenes import Scene

    from imaging_node.domain.observation import ImageObservation
    from imaging_node.domain.watching import DriftAlarm
    from imaging_node.inference.declaration import DeclaredMonitoring

REFERENCE_IMAGES = 1000
RADIOGRAPH_REFERENCE, RADIOGRAPH_POOL, RADIOGRAPHS_SHIFTED = 800, 1000, 200
STABLE_STUDIES = 1000
WATCHED_AFTER = 400
PROMISED_WITHIN = 200
SMALL = "(small)"
SCENES = ("simulated", "radiographs", "shipped")
_IN_ONE_TRANSACTION = 500


class Node:
    """The part of a node between observations and alarms, with a database of its own."""

    def __init__(self, folder: Path, reference: DeclaredMonitoring | None) -> None:
        self._database = open_database(f"sqlite:///{folder / 'node.sqlite'}")
        self._reference = reference
        self._studies = 0

    def take(
        self,
        studies: int,
        draw: Callable[[np.random.Generator], ImageObservation],
        random: np.random.Generator,
    ) -> None:
        """Let so many studies of one image each end, and judge them."""
        digest = ""
        for begin in range(0, studies, _IN_ONE_TRANSACTION):
            with self._database.write() as connection:
                for _ in range(begin, min(studies, begin + _IN_ONE_TRANSACTION)):
                    self._studies += 1
                    uid = f"1.2.{self._studies}"
                    image = draw(random)
                    digest = image.model_digest
                    record_observations(connection, uid, [(f"{uid}.1", image)])
        references = {digest: self._reference}
        watch_models(
            WatchingRoom(
                database=self._database,
                references=lambda: references,
                baseline=500,
                clock=lambda: NOW,
            )
        )

    def alarms(self) -> list[DriftAlarm]:
        """All alarms so far, the first one first."""
        return sorted(list_alarms(self._database), key=lambda each: each.id)

    def close(self) -> None:
        """Close the database."""
        self._database.close()


def false_alarms(scene: Scene, studies: int, seed: int, *, has_reference: bool) -> int:
    """Alarms over an exchangeable stream."""
    reference = scene.reference if has_reference else None
    with tempfile.TemporaryDirectory() as folder:
        node = Node(Path(folder), reference)
        node.take(studies, scene.stable, np.random.default_rng([seed, 2]))
        raised = node.alarms()
        node.close()
    for each in raised:
        print(f"  false: {each.quantity} {each.statistic} {each.group} {each.raised_after}")
    return len(raised)


def delay(scene: Scene, shift: str, seed: int, *, has_reference: bool) -> tuple[float, str]:
    """Studies until the first alarm over all studies, and which it was; infinite: none came."""
    reference = scene.reference if has_reference else None
    random = np.random.default_rng([seed, 3])
    with tempfile.TemporaryDirectory() as folder:
        node = Node(Path(folder), reference)
        node.take(STABLE_STUDIES, scene.stable, random)
        before = len(node.alarms())
        node.take(WATCHED_AFTER, scene.shifts[shift], random)
        found = [each for each in node.alarms()[before:] if each.group_kind == "all"]
        node.close()
    if not found:
        return float("inf"), "none"
    first = min(found, key=lambda each: each.raised_after)
    return first.raised_after - STABLE_STUDIES, f"{first.quantity}, {first.statistic}"


def main() -> int:
    """Print the tables; 1 if a change was noticed late or nothing was taken for one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--studies", type=int, default=20_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA)
    parser.add_argument("--scene", choices=SCENES, action="append")
    options = parser.parse_args()
    with open("/dev/null", "w") as nowhere:  # noqa: PTH123 - the events of the node itself
        configure_logging("drift-run", stream=nowhere)
        return _run(options.studies, options.seeds, options.data, options.scene or SCENES)


def _scenes(data: Path, wanted: Sequence[str]) -> list[Callable[[int], Scene]]:
    """By seed; a scene of public images is the same for every seed."""
    scenes: list[Callable[[int], Scene]] = []
    if "simulated" in wanted:
        scenes.append(lambda seed: simulated(seed, REFERENCE_IMAGES))
    if not (data / "chest_radiographs" / "index.csv").is_file():
        print("no public radiographs here: only what is simulated")
        return scenes
    if "radiographs" in wanted:
        scored = radiographs(
            data,
            reference_images=RADIOGRAPH_REFERENCE,
            pool=RADIOGRAPH_POOL,
            shifted=RADIOGRAPHS_SHIFTED,
        )
        scenes.append(lambda _: scored)
    if "shipped" in wanted:
        brought = shipped(data, shifted=RADIOGRAPHS_SHIFTED)
        scenes.append(lambda _: brought)
    return scenes


def _run(studies: int, seeds: int, data: Path, wanted: Sequence[str]) -> int:
    scenes = _scenes(data, wanted)
    is_kept = True
    print("| stream | reference | planted change | delay (median, worst) | first alarm |")
    print("|---|---|---|---|---|")
    for scene_of in scenes:
        for has_reference in (True, False):
            for shift in scene_of(0).shifts:
                runs = [
                    delay(scene_of(seed), shift, seed, has_reference=has_reference)
                    for seed in range(seeds)
                ]
                delays = [each for each, _ in runs]
                is_kept &= SMALL in shift or max(delays) <= PROMISED_WITHIN
                print(
                    f"| {scene_of(0).name} | {'bundle' if has_reference else 'node'} | {shift}"
                    f" | {median(delays):.0f}, {max(delays):.0f} | {runs[0][1]} |",
                    flush=True,
                )
    print("\n| stream | reference | seed | studies | false alarms | seconds |")
    print("|---|---|---|---|---|---|")
    for scene_of in scenes:
        for has_reference in (True, False):
            for seed in range(seeds):
                begun = time.perf_counter()
                scene = scene_of(seed)
                raised = false_alarms(scene, studies, seed, has_reference=has_reference)
                is_kept &= raised == 0
                print(
                    f"| {scene.name} | {'bundle' if has_reference else 'node'} | {seed}"
                    f" | {studies} | {raised} | {time.perf_counter() - begun:.0f} |",
                    flush=True,
                )
    return 0 if is_kept else 1


if __name__ == "__main__":
    sys.exit(main())
