"""Members that disagree leave a finding open, and cannot outvote an image that is called."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from imaging_node.domain.finding import Presence
from imaging_node.inference.ensemble import combine_images, score_findings, site_thresholds

if TYPE_CHECKING:
    from imaging_node.inference.bundle import Bundle


def scores(bundle: Bundle, logits: list[float], maximum_spread: float | None = 0.2) -> Presence:
    finding = replace(
        bundle.findings[0],
        operating_point=0.6,
        undetermined_from=0.3,
        maximum_spread=maximum_spread,
    )
    [score] = score_findings(
        np.array([[logit] for logit in logits], np.float32),
        members=bundle.members,
        findings=[finding],
        thresholds=site_thresholds([finding], {}),
        sop_instance_uid="2.25.1",
    )
    return score.presence


@pytest.mark.parametrize(("high", "low"), [(9.0, -4.0), (1.0, -9.0)], ids=["present", "absent"])
def test_disagreement_leaves_open_what_would_be_called(
    bundle: Bundle, high: float, low: float
) -> None:
    assert scores(bundle, [high, low]) is Presence.UNDETERMINED
    assert scores(bundle, [high, high]) is Presence.PRESENT
    assert scores(bundle, [-9.0, -9.0]) is Presence.ABSENT


def test_absent_is_said_by_every_member(bundle: Bundle) -> None:
    # Close together, and together below the limit, but one of them alone is not.
    assert scores(bundle, [-2.2, -3.0]) is Presence.UNDETERMINED
    assert scores(bundle, [-3.0, -3.0]) is Presence.ABSENT


def test_a_bundle_without_a_limit_is_called_by_its_probability(bundle: Bundle) -> None:
    called = {scores(bundle, logits, None) for logits in ([9.0, -4.0], [1.0, -9.0])}
    assert called <= {Presence.PRESENT, Presence.ABSENT}


def test_an_image_that_is_called_answers_before_a_contested_one(bundle: Bundle) -> None:
    [finding] = bundle.findings
    [present] = score_findings(
        np.full((2, 1), 9, np.float32),
        members=bundle.members,
        findings=[finding],
        thresholds=site_thresholds([finding], {}),
        sop_instance_uid="2.25.1",
    )
    contested = replace(present, probability=1.0, is_contested=True, sop_instance_uid="2.25.2")
    [answer] = combine_images([[contested], [present]])
    assert answer.sop_instance_uid == "2.25.1"
    assert answer.is_present


def test_an_image_that_is_clear_does_not_hide_a_contested_one(bundle: Bundle) -> None:
    [finding] = bundle.findings
    answers = [
        score_findings(
            np.array([[logit] for logit in logits], np.float32),
            members=bundle.members,
            findings=[replace(finding, undetermined_from=0.25, maximum_spread=0.4)],
            thresholds={finding.label: (0.25, 0.96)},
            sop_instance_uid=uid,
        )
        for uid, logits in {"2.25.1": (0.9, -8.0), "2.25.2": (-3.0, -3.0)}.items()
    ]
    (contested,), (clear,) = answers
    assert clear.presence is Presence.ABSENT
    assert contested.is_contested
    assert (contested.probability or 0.0) < (clear.probability or 0.0)
    for order in (answers, answers[::-1]):
        [answer] = combine_images(order)
        assert answer.presence is Presence.UNDETERMINED
        assert answer.sop_instance_uid == "2.25.1"
