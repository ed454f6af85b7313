"""What is explained is the answer that was given, by the bundle that gave it, or nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from imaging_node.domain.errors import BundleError, UnknownRecordError
from imaging_node.domain.finding import FindingScore
from imaging_node.flow.explaining import require_same_answer
from imaging_node.inference.bundle import Bundle, load_bundle
from imaging_node.node.explain import bundle_that_answered, meant_finding
from imaging_node.settings import Settings
from tests.integration.other_version import NAME, NAMESAKE, make_zoo
from tests.signing import TRUSTED, write_test_key

if TYPE_CHECKING:
    from pathlib import Path

SHIPPED, OTHER = NAME, NAMESAKE


def score(
    model: str = SHIPPED, digest: str = "", probability: float = 0.7, label: str = "Pneumonia"
) -> FindingScore:
    return FindingScore(
        label=label,
        probability=probability,
        operating_point=0.6,
        undetermined_from=0.3,
        model=model,
        model_digest=digest,
    )


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two bundles that both score "Pneumonia"; the other one comes first in the alphabet."""
    return make_zoo(tmp_path_factory.mktemp("zoo"))


@pytest.fixture(scope="module")
def settings(zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("state")
    key = write_test_key(folder)
    return Settings(state_directory=folder, model_directory=zoo, model_keys=[key])


@pytest.fixture(scope="module")
def bundles(zoo: Path) -> dict[str, Bundle]:
    return {name: load_bundle(zoo / name, TRUSTED) for name in (SHIPPED, OTHER)}


def test_a_finding_that_several_models_scored_must_be_named_with_its_model() -> None:
    both = [score(OTHER, probability=0.1), score(SHIPPED), score(OTHER, label="Mass")]
    with pytest.raises(UnknownRecordError, match=f"{OTHER}, {SHIPPED}.*--model"):
        meant_finding(both, "Pneumonia", None)
    assert meant_finding(both, "Pneumonia", SHIPPED) == both[1]
    assert meant_finding(both, "Pneumonia", OTHER) == both[0]
    assert meant_finding(both, "Mass", None) == both[2]
    with pytest.raises(UnknownRecordError, match="did not score"):
        meant_finding(both, "Mass", SHIPPED)
    with pytest.raises(UnknownRecordError, match="there are: Mass, Pneumonia"):
        meant_finding(both, "Frog", None)


def test_an_answer_is_explained_by_the_bundle_that_gave_it(
    settings: Settings, bundles: dict[str, Bundle]
) -> None:
    digests = {each.identity.digest for each in bundles.values()}
    assert len(digests) == 2
    for name, bundle in bundles.items():
        found = bundle_that_answered(settings, score(name, bundle.identity.digest), digests)
        assert found.identity == bundle.identity


def test_a_bundle_that_is_gone_is_not_replaced_by_another_of_the_same_finding(
    settings: Settings, bundles: dict[str, Bundle]
) -> None:
    digests = {each.identity.digest for each in bundles.values()}
    with pytest.raises(UnknownRecordError, match="not installed any more"):
        bundle_that_answered(settings, score(SHIPPED, "sha256:" + 64 * "0"), digests)


def test_an_old_answer_is_explained_only_where_one_bundle_can_have_given_it(
    settings: Settings, bundles: dict[str, Bundle]
) -> None:
    digests = {name: each.identity.digest for name, each in bundles.items()}
    with pytest.raises(UnknownRecordError, match="which of several"):
        bundle_that_answered(settings, score(""), set(digests.values()))
    found = bundle_that_answered(settings, score(""), {digests[SHIPPED]})
    assert found.identity.name == SHIPPED
    named = meant_finding([score("")], "Pneumonia", OTHER)
    assert bundle_that_answered(settings, named, set(digests.values())).identity.name == OTHER


@pytest.mark.parametrize("logit", [-4.0, 4.0])
def test_networks_that_give_another_score_explain_nothing(
    bundles: dict[str, Bundle], logit: float
) -> None:
    bundle = bundles[SHIPPED]
    given = bundle.findings[0].calibration.probability(0.3)
    require_same_answer(bundle, score(probability=given), 0.301)
    with pytest.raises(BundleError, match="score the study again"):
        require_same_answer(bundle, score(probability=given), logit)
