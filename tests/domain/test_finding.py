"""A score is a probability with a call, or it is no score."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest

from imaging_node.domain.errors import NotAnalysedError
from imaging_node.domain.finding import (
    AnalysisStatus,
    FindingScore,
    ModelIdentity,
    NotAnalysedReason,
    Presence,
    SaliencyMap,
    StudyResult,
)

SCORE = FindingScore(label="Pneumonia", probability=0.5, operating_point=0.6, undetermined_from=0.3)
MODEL = ModelIdentity(name="m", version="1", manufacturer="x", digest="sha256:0")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -0.1, 1.1])
def test_what_is_not_a_probability_never_becomes_a_score(bad: float) -> None:
    with pytest.raises(NotAnalysedError, match="Pneumonia") as refused:
        replace(SCORE, probability=bad)
    assert refused.value.reason is NotAnalysedReason.MODEL_OUTPUT
    with pytest.raises(NotAnalysedError):
        replace(SCORE, interval=(0.1, bad))


@pytest.mark.parametrize(
    ("probability", "call"),
    [
        (0.6, Presence.PRESENT),
        (0.59, Presence.UNDETERMINED),
        (0.3, Presence.UNDETERMINED),
        (0.29, Presence.ABSENT),
        (None, Presence.UNDETERMINED),
    ],
)
def test_the_call_follows_the_thresholds(probability: float | None, call: Presence) -> None:
    assert replace(SCORE, probability=probability).presence is call


def test_absence_is_withheld_when_an_image_of_the_study_could_not_be_analysed() -> None:
    assert replace(SCORE, probability=0.1, absence_withheld=True).presence is Presence.UNDETERMINED


def test_thresholds_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="thresholds"):
        replace(SCORE, undetermined_from=0.7)


def test_a_study_nobody_analysed_cannot_carry_a_score() -> None:
    with pytest.raises(ValueError, match="not analysed"):
        StudyResult(
            model=MODEL,
            status=AnalysisStatus.NOT_ANALYSED,
            findings=(SCORE,),
            reasons=(NotAnalysedReason.VIEW,),
            started_at=datetime.now(UTC),
        )


def test_an_analysed_study_has_a_score_for_every_finding() -> None:
    with pytest.raises(ValueError, match="every requested finding"):
        StudyResult(
            model=MODEL,
            status=AnalysisStatus.COMPLETE,
            findings=(replace(SCORE, probability=None),),
            started_at=datetime.now(UTC),
        )


def test_the_peak_of_a_map_is_what_raised_the_score_most() -> None:
    values = np.array([[-2.0, 0.0], [1.0, 4.0]], np.float32)
    assert SaliencyMap(label="x", sop_instance_uid="1", values=values).peak == 4
    assert SaliencyMap(label="x", sop_instance_uid="1", values=-np.abs(values)).peak == 0
