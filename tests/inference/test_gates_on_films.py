"""The shipped bundles' gates let their films through and nothing else, each kind for itself.

`scripts/gate_table.py` and the cards tell the same of more films.
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
CHANGED = 40
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


def test_what_is_no_upright_frontal_chest_film_is_refused_each_kind_for_itself(
    judge: GateJudge, films: list[FloatImage]
) -> None:
    counts = count(judge, strangers_of(films[:CHANGED]))
    counts |= count(judge, public_strangers(DEFAULT_DATA))
    assert counts[ANIMAL][""] == 0
    passed = {name: each[""] / each.total() for name, each in counts.items()}
    assert {name: share for name, share in passed.items() if share > 0.05} == {}
