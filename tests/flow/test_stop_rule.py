"""A model is stopped by what the site decided, and by nothing else."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from pydantic import ValidationError

from imaging_node.domain.proportion import log_evidence_below
from imaging_node.domain.watching import (
    DriftAlarm,
    LabelledCase,
    LabelSource,
    ReferenceSource,
    WatchedModel,
)
from imaging_node.flow.stop_rule import FALSE_STOP, apply_stop_rule, reason_to_stop
from imaging_node.settings.watching import StopRuleSettings
from tests.store.arriving import NOON

MODEL = WatchedModel(
    model="chest", model_digest="d", reference_source=ReferenceSource.BUNDLE, studies=1000,
    baseline_left=0, updated_at=NOON,
)  # fmt: skip
ALARM = DriftAlarm(
    id=1, model="chest", model_digest="d", quantity="input_mean", group_kind="all", group_value="",
    statistic="cusum_up", value=20.0, threshold=20.0, raised_at=NOON, raised_after=600,
    cleared_at=None,
)  # fmt: skip
PPV = StopRuleSettings(lowest_ppv=0.6)
LASTING = StopRuleSettings(alarm_studies=300)


def flagged(right: int, wrong: int, digest: str = "d") -> list[LabelledCase]:
    return [
        LabelledCase(
            model="chest", model_digest=digest, label="Pneumonia", is_flagged=True,
            is_undetermined=False, is_present=number < right, source=LabelSource.CSV, sex="F",
            age_band="1 to 5", view="PA", scanner="ACME DR",
        )
        for number in range(right + wrong)
    ]  # fmt: skip


def test_no_rule_stops_nothing() -> None:
    rule = StopRuleSettings()
    assert not rule.is_on
    assert reason_to_stop(rule, MODEL, flagged(0, 500), [replace(ALARM, raised_after=1)]) is None


@pytest.mark.parametrize(
    ("right", "wrong", "is_stopped"),
    [(5, 25, True), (5, 24, False), (13, 17, False), (30, 0, False), (30, 70, True)],
    ids=str,
)
def test_a_predictive_value_stops_when_final_labels_speak_for_a_lower_one(
    *, right: int, wrong: int, is_stopped: bool
) -> None:
    reason = reason_to_stop(PPV, MODEL, flagged(right, wrong), [])
    assert (reason is not None) == is_stopped
    if reason is not None:
        assert f"right in {right} of {right + wrong} flagged studies" in reason
    assert reason_to_stop(PPV, MODEL, flagged(0, 100, digest="another version"), []) is None


def test_clicks_on_the_page_stop_nothing() -> None:
    clicks = [replace(each, source=LabelSource.PAGE) for each in flagged(0, 100)]
    assert reason_to_stop(PPV, MODEL, clicks, []) is None


def test_looking_after_every_label_stops_a_model_at_its_limit_no_oftener_than_promised() -> None:
    random = np.random.default_rng(1)
    models, labels, enough = 2000, 1000, math.log(1 / FALSE_STOP)
    most: list[int] = []  # right ones of n with which a model is stopped
    right = -1
    for n in range(1, labels + 1):
        while right < n and log_evidence_below(right + 1, n, 0.6) >= enough:
            right += 1
        most.append(right)

    is_stopped = np.cumsum(random.random((models, labels)) < 0.6, axis=1) <= most

    stopped = is_stopped[:, 29:].any(axis=1).sum()
    assert models / 200 <= stopped <= FALSE_STOP * models


def test_a_model_far_below_its_limit_is_stopped_soon_and_more_findings_need_more_labels() -> None:
    random = np.random.default_rng(2)
    for _ in range(20):
        right = int((random.random(100) < 0.3).sum())
        assert reason_to_stop(PPV, MODEL, flagged(right, 100 - right), [])
    streams: dict[str, object] = {f"positive:{number}": {} for number in range(40)}
    many = replace(MODEL, groups=[{"streams": streams}])
    assert reason_to_stop(PPV, MODEL, flagged(9, 21), [])
    assert reason_to_stop(PPV, many, flagged(9, 21), []) is None


def test_evidence_is_the_mean_likelihood_of_all_smaller_shares() -> None:
    for right, n, limit in ((5, 30, 0.6), (0, 40, 0.2), (12, 40, 0.3), (30, 40, 0.9)):
        smaller = (np.arange(100_000) + 0.5) / 100_000 * limit
        likelihood = smaller**right * (1 - smaller) ** (n - right)
        expected = math.log(likelihood.mean()) - right * math.log(limit)
        expected -= (n - right) * math.log(1 - limit)
        assert log_evidence_below(right, n, limit) == pytest.approx(expected, abs=1e-6)
    assert log_evidence_below(0, 0, 0.5) == pytest.approx(0)
    assert log_evidence_below(9, 9, 1) == log_evidence_below(0, 9, 0) == -math.inf
    assert log_evidence_below(8, 9, 1) == math.inf
    with pytest.raises(ValueError, match="no share"):
        log_evidence_below(3, 2, 0.5)


@pytest.mark.parametrize(
    ("alarm", "is_stopped"),
    [
        (ALARM, True),
        (replace(ALARM, raised_after=800), False),
        (replace(ALARM, group_kind="scanner", group_value="1"), False),
        (replace(ALARM, cleared_at=NOON), False),
        (replace(ALARM, model_digest="another"), False),
    ],
)
def test_an_alarm_over_all_studies_stops_once_it_has_lasted(
    *, alarm: DriftAlarm, is_stopped: bool
) -> None:
    assert (reason_to_stop(LASTING, MODEL, [], [alarm]) is not None) == is_stopped
    named = LASTING.model_copy(update={"alarm_quantities": ("disagreement",)})
    assert reason_to_stop(named, MODEL, [], [alarm]) is None


def test_only_a_model_that_answers_is_counted_as_stopped() -> None:
    asked: list[tuple[str, str]] = []

    def demote(model: str, digest: str, reason: str) -> bool:
        asked.append((model, reason))
        return digest == "d"

    others = replace(MODEL, model_digest="e")
    alarms = [ALARM, replace(ALARM, model_digest="e")]
    assert apply_stop_rule(LASTING, [MODEL, others], [], alarms, demote) == 1
    assert asked == [("chest", "alarm of input_mean over 400 studies")] * 2


def test_named_alarms_without_their_condition_are_refused() -> None:
    with pytest.raises(ValidationError, match="they stop nothing"):
        StopRuleSettings(alarm_quantities=("input_mean",))
    with pytest.raises(ValidationError, match="30"):
        StopRuleSettings(lowest_ppv=0.5, labelled=10)
