"""What is kept of an image names no patient and nothing without bound."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from imaging_node.domain.observation import (
    LONGEST_SCANNER,
    NOT_STATED,
    SCORED,
    ImageObservation,
    age_band,
    scanner_name,
    sex_word,
    view_word,
)
from imaging_node.domain.proportion import wilson_interval

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("manufacturer", "model", "name"),
    [
        ("ACME", "DR 9000", "ACME DR 9000"),
        ("  ACME\n Corp\t", "\x1b[31mDR", "ACME Corp [31mDR"),
        ("", "", NOT_STATED),
        ("\u5e73\u7530", "", NOT_STATED),
        ("A" * 500, "B", "A" * LONGEST_SCANNER),
    ],
)
def test_a_scanner_is_one_short_printable_text(manufacturer: str, model: str, name: str) -> None:
    assert scanner_name(manufacturer, model) == name


def test_views_sexes_and_ages_come_from_closed_lists() -> None:
    assert [view_word(each) for each in ("PA", "", "SMITH^JOHN")] == ["PA", NOT_STATED, "other"]
    assert [sex_word(each) for each in ("F", "M", "O", "x")] == ["F", "M", NOT_STATED, NOT_STATED]
    assert [age_band(each) for each in (0.5, 1, 5.9, 6, 17.9, 64.9, 65, 200, None)] == [
        "under 1", "1 to 5", "1 to 5", "6 to 17", "6 to 17", "40 to 64", "65 and over",
        "65 and over", NOT_STATED,
    ]  # fmt: skip


def test_a_number_that_is_none_is_left_out_and_a_score_without_outcome_refused() -> None:
    fields = {"model": "m", "model_digest": "d", "observed_at": NOON, "scanner": "s",
              "view_position": "PA"}  # fmt: skip
    image = ImageObservation(
        **fields,  # type: ignore[arg-type] # texts and a time
        outcome=SCORED,
        probabilities={"P": 0.5},
        quantities={"a": float("nan"), "b": float("inf"), "c": 1.0},
    )
    assert image.quantities == {"c": 1.0}
    with pytest.raises(ValueError, match="if, and only if"):
        ImageObservation(**fields, outcome="blank image", probabilities={"P": 0.5})  # type: ignore[arg-type] # same


def test_wilsons_interval_is_that_of_the_textbook() -> None:
    # Newcombe 1998, table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29.
    for successes, n, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        assert wilson_interval(successes, n) == pytest.approx((low, high), abs=1e-4)
    for successes, n in ((1, 0), (3, 2), (-1, 2)):
        with pytest.raises(ValueError, match="no share"):
            wilson_interval(successes, n)
