"""Members to one answer, called by the thresholds of the bundle or of the site."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import pytest

from imaging_node.domain.errors import NotAnalysedError, SettingsError
from imaging_node.domain.finding import FindingScore, NotAnalysedReason, Presence
from imaging_node.inference.ensemble import combine_images, score_findings, site_thresholds

if TYPE_CHECKING:
    from imaging_node.inference.bundle import Bundle

LABEL = "Pneumonia"


def scored(
    bundle: Bundle, logits: list[list[float]], site: dict[str, float] | None = None
) -> FindingScore:
    return score_findings(
        np.array(logits, np.float32),
        members=bundle.members,
        findings=bundle.findings,
        thresholds=site_thresholds(bundle.findings, site or {}),
        sop_instance_uid="2.25.7",
    )[0]


def test_logits_are_pooled_before_they_are_calibrated(bundle: Bundle) -> None:
    score = scored(bundle, [[3.0], [-1.0]])
    assert score.probability == bundle.findings[0].calibration.probability(1.0)
    assert score.interval == bundle.findings[0].calibration.interval(1.0)


def test_spread_is_the_disagreement_of_the_calibrated_members(bundle: Bundle) -> None:
    assert scored(bundle, [[1.0], [1.0]]).spread == 0
    apart = scored(bundle, [[30.0], [-30.0]]).spread
    assert apart == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_logit_that_is_no_number_is_never_a_score(bundle: Bundle, bad: float) -> None:
    with pytest.raises(NotAnalysedError) as failure:
        scored(bundle, [[0.5], [bad]])
    assert failure.value.reason is NotAnalysedReason.MODEL_OUTPUT


@pytest.mark.parametrize("logit", [-1000.0, 1000.0])
def test_an_extreme_logit_is_still_a_probability(bundle: Bundle, logit: float) -> None:
    expected = 1.0 if logit > 0 else 0.0
    assert scored(bundle, [[logit], [logit]]).probability == pytest.approx(expected)


def test_a_site_that_raises_its_operating_point_leaves_open_what_was_present(
    bundle: Bundle,
) -> None:
    finding = bundle.findings[0]
    logits = [[8.0], [8.0]]
    assert scored(bundle, logits).presence is Presence.PRESENT
    raised = scored(bundle, logits, {LABEL: 1.0})
    assert raised.undetermined_from == finding.undetermined_from
    assert raised.presence is Presence.UNDETERMINED


def test_a_site_that_lowers_its_operating_point_below_the_band_empties_the_band(
    bundle: Bundle,
) -> None:
    lowered = scored(bundle, [[-8.0], [-8.0]], {LABEL: 0.0})
    assert (lowered.undetermined_from, lowered.operating_point) == (0.0, 0.0)
    assert lowered.presence is Presence.PRESENT


@pytest.mark.parametrize("site", [{"Pnuemonia": 0.5}, {LABEL: 1.2}, {LABEL: float("nan")}])
def test_an_impossible_operating_point_is_refused_by_name(
    bundle: Bundle, site: dict[str, float]
) -> None:
    with pytest.raises(SettingsError, match=next(iter(site))):
        site_thresholds(bundle.findings, site)


def test_the_image_with_the_highest_probability_answers_for_the_study(bundle: Bundle) -> None:
    low = scored(bundle, [[-3.0], [-3.0]])
    high = dataclasses.replace(scored(bundle, [[2.0], [2.0]]), sop_instance_uid="2.25.8")
    assert combine_images([[low], [high]]) == (high,)
    assert combine_images([[high], [low]]) == (high,)
