"""Alarms come soon after a change, and never from chance: shown on streams of known law."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from datetime import UTC, datetime
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from imaging_node.domain.observation import (
    MOST_SCANNERS,
    MOST_VIEWS,
    SCORED,
    ImageObservation,
)
from imaging_node.inference.drift import (
    _PSI_MARGIN,
    FALSE_ALARM,
    WINDOW,
    Limits,
    QuantityReference,
    RateReference,
    kolmogorov_smirnov,
    limits,
    population_stability,
    position_cusum,
    rate_cusum,
    share_change,
)
from imaging_node.inference.drift_watch import EVERYTHING, GROUP_BASELINE, DriftWatch, Group
from imaging_node.inference.reference import build_reference, quantiles_of, reference_at_site

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from imaging_node.inference.drift_watch import Noticed

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
PROMISED_WITHIN = 200


def image(
    random: np.random.Generator,
    *,
    brightness: float = 0.0,
    noise: float = 1.0,
    prevalence: float = 0.3,
    refused: float = 0.02,
    view: str = "PA",
    scanner: str = "ACME DR",
) -> ImageObservation:
    """A synthetic image: six quantities, one of them often zero, a score and a call."""
    if random.random() < refused:
        return ImageObservation(
            model="chest", model_digest="d", observed_at=NOW, scanner=scanner, view_position=view,
            outcome="blank image",
        )  # fmt: skip
    numbers = random.normal(0, 1, 6)
    is_ill = random.random() < prevalence
    probability = float(random.beta(6, 2) if is_ill else random.beta(2, 6))
    call = "present" if probability >= 0.6 else "undetermined" if probability >= 0.5 else "absent"
    return ImageObservation(
        model="chest",
        model_digest="d",
        observed_at=NOW,
        scanner=scanner,
        view_position=view,
        outcome=SCORED,
        probabilities={"Pneumonia": probability},
        presences={"Pneumonia": call},
        disagreement=float(random.exponential(0.05)),
        quantities={
            "input_mean": float(noise * numbers[0] + brightness),
            "input_dark_share": max(0.0, float(numbers[1])),
            **{f"feature_distance_{each}": float(numbers[each] ** 2) for each in (2, 3)},
            "input_entropy": float(numbers[4]),
            "input_gradient": float(np.exp(numbers[5])),
        },
    )


def stream(
    random: np.random.Generator,
    length: int,
    **kind: Any,  # noqa: ANN401 - as `image` takes them
) -> Iterator[tuple[int, ImageObservation]]:
    for _ in range(length):
        yield (
            int(random.integers(1, 4)),
            image(random, view=str(random.choice(["AP", "PA"])), **kind),
        )


def feed(watch: DriftWatch, images: Iterator[tuple[int, ImageObservation]]) -> list[Noticed]:
    return [each for one in images for each in watch.add_study([one])]


@pytest.mark.slow
def test_twenty_thousand_exchangeable_studies_raise_no_alarm() -> None:
    random = np.random.default_rng(5)
    watch = DriftWatch(build_reference([image(random) for _ in range(500)]), baseline=500)

    assert feed(watch, stream(random, 20_000)) == []
    assert watch.studies == 20_000
    assert {each.kind for each in watch.groups} == {"all", "scanner", "view"}


@pytest.mark.parametrize(
    ("change", "quantity"),
    [
        ({"brightness": 1.0}, "input_mean"),
        ({"brightness": -1.0}, "input_mean"),
        ({"noise": 3.0}, "input_mean"),
        ({"prevalence": 0.7}, "positive:Pneumonia"),
        ({"refused": 0.4}, "refused"),
    ],
    ids=str,
)
def test_a_change_is_noticed_within_two_hundred_studies(
    change: dict[str, float], quantity: str
) -> None:
    random = np.random.default_rng(7)
    reference = build_reference([image(random) for _ in range(1000)])
    watch = DriftWatch(reference, baseline=500)
    assert feed(watch, stream(random, 1000)) == []

    noticed = feed(watch, stream(random, PROMISED_WITHIN, **change))

    assert (EVERYTHING, quantity) in {(each.group, each.quantity) for each in noticed}


@pytest.mark.parametrize("studies_before", [200, 1000])
def test_an_alarm_ends_once_the_stream_is_as_it_was(studies_before: int) -> None:
    random = np.random.default_rng(3)
    watch = DriftWatch(build_reference([image(random) for _ in range(1000)]), baseline=500)
    feed(watch, stream(random, studies_before))
    assert any(each.is_raised for each in feed(watch, stream(random, 200, brightness=2.0)))
    assert any(quantity == "input_mean" for _, quantity, _ in watch.over())

    feed(watch, stream(random, 600))

    assert list(watch.over()) == []


def test_a_rare_scanner_that_always_differed_is_announced_and_raises_no_alarm() -> None:
    random = np.random.default_rng(11)
    watch = DriftWatch(build_reference([image(random) for _ in range(1000)]), baseline=500)
    assert feed(watch, stream(random, 1000)) == []
    assert watch.newcomers == []

    noticed = []
    for _ in range(PROMISED_WITHIN):
        noticed += feed(watch, stream(random, 9))
        noticed += feed(watch, iter([(9, image(random, brightness=1.5, scanner="new"))]))

    assert noticed == []
    assert watch.newcomers == [Group("scanner", "9")]


def test_a_scanner_that_came_late_is_named_when_it_changes() -> None:
    random = np.random.default_rng(11)
    watch = DriftWatch(build_reference([image(random) for _ in range(1000)]), baseline=500)
    feed(watch, stream(random, 600))
    for _ in range(GROUP_BASELINE):
        watch.add_study([(9, image(random))])

    noticed = feed(watch, ((9, image(random, brightness=1.5)) for _ in range(PROMISED_WITHIN)))

    assert Group("scanner", "9") in {
        each.group for each in noticed if each.quantity == "input_mean"
    }


def test_groups_that_are_expected_are_no_newcomers() -> None:
    random = np.random.default_rng(11)
    watch = DriftWatch(build_reference([image(random) for _ in range(1000)]), baseline=500)
    watch.expect([EVERYTHING, Group("scanner", "9")])
    feed(watch, stream(random, 501))
    watch.add_study([(9, image(random))])
    watch.add_study([(8, image(random, view="LL"))])
    assert watch.newcomers == [Group("scanner", "8"), Group("view", "LL")]
    assert watch.studies == 503


def test_views_and_scanners_that_always_differed_are_no_change() -> None:
    random = np.random.default_rng(13)
    watch = DriftWatch(None, baseline=500)

    noticed = []
    for number in range(3000):
        is_ap = number % 2
        one = image(random, brightness=2.0 if is_ap else -2.0, view="AP" if is_ap else "PA")
        noticed += feed(watch, iter([(1 + is_ap, one)]))

    assert noticed == []


def test_images_of_one_study_count_as_one() -> None:
    random = np.random.default_rng(17)
    watch = DriftWatch(None, baseline=500)

    watch.add_study([(1, image(random, refused=0)) for _ in range(4)])

    assert watch.studies == 1
    assert watch.baseline_left == 499


def test_what_is_known_goes_on_after_a_restart_as_if_there_was_none() -> None:
    random = np.random.default_rng(19)
    images = list(stream(random, 1500)) + list(stream(random, 300, brightness=1.5))
    whole = DriftWatch(None, baseline=500)
    at_once = feed(whole, iter(images))

    in_parts, noticed = DriftWatch(None, baseline=500), []
    for begin in range(0, len(images), 123):
        resumed = DriftWatch(None, baseline=500)
        resumed.restore(json.loads(json.dumps(in_parts.to_plain())))
        noticed += feed(resumed, iter(images[begin : begin + 123]))
        in_parts = resumed

    assert at_once
    assert noticed == at_once
    assert in_parts.summary() == whole.summary()


@pytest.mark.parametrize("damage", [{}, {"format": 0}, {"format": 1, "groups": [{"kind": "all"}]}])
def test_a_state_that_is_none_is_refused(damage: dict[str, object]) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        DriftWatch(None, baseline=500).restore(damage)


def test_positions_are_uniform_in_the_mean_whatever_the_distribution() -> None:
    random = np.random.default_rng(23)
    for values in (
        random.normal(0, 1, 20_000),
        np.exp(random.normal(0, 2, 20_000)),
        np.maximum(0, random.normal(0, 1, 20_000)),  # half of them equal
        np.zeros(20_000),
    ):
        reference = QuantityReference(5000, quantiles_of(list(values[:5000])))
        positions = [reference.position(each) for each in values[5000:]]
        assert np.mean(positions) == pytest.approx(0.5, abs=reference.mean_error(limits(20)))
        assert reference.expected.sum() == pytest.approx(1)


@pytest.mark.parametrize("value", [-1e9, 1e9])
def test_what_lies_beyond_the_reference_has_the_last_position(value: float) -> None:
    reference = QuantityReference(500, tuple(float(each) for each in range(21)))
    assert reference.position(value) == (value > 0)
    assert reference.bin_of(value) == (19 if value > 0 else 0)


def test_no_factor_of_a_cusum_can_gain_by_chance() -> None:
    """The expectation that Ville's inequality rests on, at the worst mean that is allowed."""
    bounds = limits(20)
    for cusum in (
        position_cusum(QuantityReference(500, tuple(map(float, range(21)))), bounds),
        *(rate_cusum(RateReference(500, rate), bounds) for rate in (0.0, 0.02, 0.3, 0.97, 1.0)),
    ):
        for mean, bet in ((cusum.high, cusum.bet_up), (1 - cusum.low, cusum.bet_down)):
            at_nothing, at_one = 1 - bet * mean, 1 + bet * (1 - mean)
            assert at_nothing >= 0
            assert (1 - mean) * at_nothing + mean * at_one == pytest.approx(1)


def test_windows_of_a_stable_stream_stay_far_below_their_thresholds() -> None:
    random = np.random.default_rng(29)
    bounds = limits(20)
    reference = QuantityReference(500, quantiles_of(list(random.normal(0, 1, 500))))
    for _ in range(200):
        bins = [reference.bin_of(each) for each in random.normal(0, 1, WINDOW)]
        for value, threshold in (
            kolmogorov_smirnov(bins, reference, bounds),
            population_stability(bins, reference, bounds),
        ):
            assert value < threshold
    moved = [reference.bin_of(each) for each in random.normal(1.5, 1, WINDOW)]
    for value, threshold in (
        kolmogorov_smirnov(moved, reference, bounds),
        population_stability(moved, reference, bounds),
    ):
        assert value > threshold


@pytest.mark.parametrize("reference_images", [200, 500, 5000])
@pytest.mark.parametrize("tail", [1e-4, 1e-8])
def test_the_stability_index_of_a_stable_window_stays_within_its_tail(
    reference_images: int, tail: float
) -> None:
    """Rare events by importance sampling: bins drawn more unequal, weighed back exactly.

    The mass between the deciles of a sample is Dirichlet's, a window's counts in them multinomial.
    """
    draws, bins = 200_000, 10
    random = np.random.default_rng(43)
    reference = QuantityReference(reference_images, tuple(map(float, range(21))))
    scale = 1 / WINDOW + 1 / reference_images
    stable = reference_images / bins
    unequal = 1 / (bins * (4 * scale - 1 / WINDOW))
    counts = random.multinomial(WINDOW, random.dirichlet([unequal] * bins, draws))
    weights = np.exp(_log_probability(counts, stable) - _log_probability(counts, unequal))
    bounds = Limits(cusum=20, tail=tail, reference_z=4)
    _, threshold = population_stability([0] * WINDOW, reference, bounds)
    shares = (counts + 0.5) / (WINDOW + 0.5 * bins)
    index = ((shares - 1 / bins) * np.log(shares * bins)).sum(axis=1)

    over = weights * (index >= threshold)
    assert over.mean() + 3 * over.std() / draws**0.5 <= tail
    without_margin = weights * (index >= threshold / _PSI_MARGIN)
    assert without_margin.mean() > tail


def _log_probability(counts: npt.NDArray[np.int64], weight: float) -> npt.NDArray[np.float64]:
    """Of counts in bins of equal weight (Dirichlet and multinomial), but for what all share."""
    draws, bins = counts.shape
    terms = np.array([math.lgamma(weight + n) - math.lgamma(weight) for n in range(WINDOW + 1)])
    shared = math.lgamma(bins * weight) - math.lgamma(bins * weight + WINDOW)
    logarithms: npt.NDArray[np.float64] = terms[counts].sum(axis=1) + np.full(draws, shared)
    return logarithms


def test_the_error_of_every_groups_reference_is_in_the_promise() -> None:
    """A CUSUM's band holds for the references of all scanners, views and ends together."""
    random = np.random.default_rng(47)
    streams, groups = 20, 1 + (MOST_SCANNERS + 1) + MOST_VIEWS
    share = 2 * (1 - NormalDist().cdf(limits(streams).reference_z))
    assert 1.5 * share * groups * streams == pytest.approx(FALSE_ALARM / 6)
    means = random.random((2000, 200)).mean(axis=1)
    reference = QuantityReference(200, tuple(map(float, range(21))))
    assert np.abs(means - 0.5).max() < reference.mean_error(limits(streams))


def test_a_reference_needs_a_hundred_images_with_every_quantity() -> None:
    random = np.random.default_rng(31)
    images = [image(random, refused=0.1) for _ in range(300)]
    reference = build_reference(images)
    assert reference.images == sum(each.is_scored for each in images)
    assert reference.refusal_rate == pytest.approx(1 - reference.images / 300)
    assert set(reference.quantiles) >= {"input_mean", "probability:Pneumonia", "disagreement"}
    with pytest.raises(ValueError, match="100"):
        build_reference(images[:50])
    lacking = ImageObservation(
        model="chest", model_digest="d", observed_at=NOW, scanner="x", view_position="PA",
        outcome=SCORED, probabilities={"Pneumonia": 0.5}, presences={"Pneumonia": "absent"},
    )  # fmt: skip
    with pytest.raises(ValueError, match="lack disagreement"):
        build_reference([*images, lacking])


def test_a_sites_own_operating_point_and_gates_that_only_report_are_no_change() -> None:
    random = np.random.default_rng(41)
    declared = build_reference([image(random, refused=0.3) for _ in range(1000)])
    at_site = reference_at_site(declared, own_points={"Pneumonia"}, are_gates_enforced=False)
    assert at_site.quantiles == declared.quantiles
    watch = DriftWatch(at_site, baseline=500)

    assert feed(watch, (called_from(0.2, each) for each in stream(random, 1500, refused=0))) == []
    noticed = feed(watch, (called_from(0.9, each) for each in stream(random, 200, refused=0.4)))

    of_all = {each.quantity for each in noticed if each.group == EVERYTHING}
    assert of_all >= {"positive:Pneumonia", "refused"}
    kept = reference_at_site(declared, own_points={"Edema"}, are_gates_enforced=True)
    assert kept == declared


def called_from(point: float, seen: tuple[int, ImageObservation]) -> tuple[int, ImageObservation]:
    """The image as a model with that operating point calls it."""
    scanner, one = seen
    calls = {
        label: "present" if value >= point else "absent"
        for label, value in one.probabilities.items()
    }
    return scanner, replace(one, presences=calls)


@pytest.mark.parametrize("rate", [0.005, 0.1, 0.5])
def test_the_share_of_a_stable_window_exceeds_its_logarithm_no_oftener_than_that_says(
    rate: float,
) -> None:
    random = np.random.default_rng(37)
    draws, tail = 40_000, 1e-3
    bounds = Limits(cusum=20, tail=tail, reference_z=4)
    references = random.binomial(500, rate, draws) / 500
    windows = random.binomial(WINDOW, rate, draws)
    over = 0
    for reference, count in zip(references, windows, strict=True):
        values = [1.0] * int(count) + [0.0] * (WINDOW - int(count))
        value, threshold = share_change(values, RateReference(500, float(reference)), bounds)
        over += value >= threshold
    assert over <= tail * draws
    moved = [1.0] * 170 + [0.0] * 30
    value, threshold = share_change(moved, RateReference(500, rate), limits(20))
    assert value > threshold
