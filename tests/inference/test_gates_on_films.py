"""The shipped bundles' gates let their films through and nothing else, each kind for itself.

A sample; `scripts/gate_table.py` and the cards tell the same of all of the public images.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from chest_xray.bundles import PLANS
from chest_xray.gate_fitting import enlarged, mildly_compressed
from chest_xray.gate_judging import GateJudge, count, public_strangers, strangers_of
from chest_xray.images import DEFAULT_DATA, read_p_values
from chest_xray.trained import splits_of

from imaging_node.inference.bundle import default_bundle_directory, load_bundle

if TYPE_CHECKING:
    from chest_xray.bundles import BundlePlan

    from imaging_node.domain.finding import FloatImage

FILMS = 100
CHANGED = 8
ANIMAL = "animal thorax"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not DEFAULT_DATA.is_dir(), reason="the public films are not here"),
]


@pytest.fixture(scope="module", params=PLANS, ids=lambda plan: plan.id)
def plan(request: pytest.FixtureRequest) -> BundlePlan:
    chosen: BundlePlan = request.param
    return chosen


@pytest.fixture(scope="module")
def judge(plan: BundlePlan) -> GateJudge:
    return GateJudge(load_bundle(default_bundle_directory() / plan.id))


@pytest.fixture(scope="module")
def films(plan: BundlePlan) -> list[FloatImage]:
    """Films of the test split, on which no limit was chosen."""
    images = splits_of(plan, DEFAULT_DATA)["test"]
    every = max(1, len(images) // FILMS)
    return [read_p_values(DEFAULT_DATA, image) for image in images[::every][:FILMS]]


def test_its_own_films_pass_also_compressed_and_enlarged(
    judge: GateJudge, films: list[FloatImage]
) -> None:
    refused = [judge.refusal(film) for film in films]
    refused += [judge.refusal(mildly_compressed(film)) for film in films[:20]]
    refused += [judge.refusal(enlarged(film)) for film in films[:10]]
    assert sum(map(bool, refused)) <= 0.02 * len(refused)


def test_every_change_that_makes_a_film_another_thing_is_noticed(
    judge: GateJudge, films: list[FloatImage]
) -> None:
    passed = {name: each[""] for name, each in count(judge, strangers_of(films[:CHANGED])).items()}
    assert passed == dict.fromkeys(passed, 0)


def test_public_images_of_other_kinds_are_refused_and_the_animal_among_them(
    judge: GateJudge,
) -> None:
    by_kind: dict[str, list[FloatImage]] = {}
    for name, image in public_strangers(DEFAULT_DATA):
        by_kind.setdefault(name, []).append(image)
    chosen = [
        (name, image)
        for name, images in by_kind.items()
        for image in images[:: max(1, len(images) // 12)]
    ]
    counts = count(judge, chosen)
    assert counts[ANIMAL][""] == 0
    passed = {name: each[""] / each.total() for name, each in counts.items()}
    assert {name for name, share in passed.items() if share > 0.05} == set()
