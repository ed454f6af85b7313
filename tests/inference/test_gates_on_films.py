"""The shipped bundles' gates let their films through and nothing else, on a sample of each kind.

`scripts/gate_table.py` prints the same for all of the public images.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from chest_xray.bundles import PLANS
from chest_xray.gate_fitting import enlarged, mildly_compressed
from chest_xray.images import DEFAULT_DATA, read_p_values
from chest_xray.trained import splits_of
from gate_table import GateJudge, public_strangers, strangers_of

from imaging_node.inference.bundle import default_bundle_directory, load_bundle

if TYPE_CHECKING:
    from chest_xray.bundles import BundlePlan

    from imaging_node.domain.finding import FloatImage

FILMS = 50
STRANGERS_EVERY = 3
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not DEFAULT_DATA.is_dir(), reason="the public films are not here"),
]


@pytest.fixture(scope="module", params=PLANS, ids=lambda plan: plan.id)
def plan(request: pytest.FixtureRequest) -> BundlePlan:
    chosen: BundlePlan = request.param
    if not (default_bundle_directory() / chosen.id).is_dir():
        pytest.skip("this bundle is not shipped")
    return chosen


@pytest.fixture(scope="module")
def judge(plan: BundlePlan) -> GateJudge:
    return GateJudge(load_bundle(default_bundle_directory() / plan.id))


@pytest.fixture(scope="module")
def films(plan: BundlePlan) -> list[FloatImage]:
    """Films of the calibration split: the test split is the table's."""
    images = splits_of(plan, DEFAULT_DATA)["calibration"]
    return [read_p_values(DEFAULT_DATA, image) for image in images[:: len(images) // FILMS][:FILMS]]


def test_its_own_films_pass_also_compressed_and_enlarged(
    judge: GateJudge, films: list[FloatImage]
) -> None:
    refused = [judge.refusal(film) for film in films]
    refused += [judge.refusal(mildly_compressed(film)) for film in films[:20]]
    refused += [judge.refusal(enlarged(film)) for film in films[:10]]
    assert sum(map(bool, refused)) <= 0.03 * len(refused)


def test_what_is_no_upright_frontal_chest_film_is_refused(
    judge: GateJudge, films: list[FloatImage]
) -> None:
    refused = [judge.refusal(image) for _, image in strangers_of(films[:8])]
    strangers = list(public_strangers(DEFAULT_DATA))[::STRANGERS_EVERY]
    refused += [judge.refusal(image) for _, image in strangers]
    assert np.mean([bool(each) for each in refused]) >= 0.95
