"""What a stream of images is compared with: the bundle's own images, or a node's first ones."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np

from imaging_node.inference.declaration import QUANTILES, DeclaredMonitoring

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from imaging_node.domain.observation import ImageObservation

_LEVELS = np.linspace(0, 1, QUANTILES)


def quantiles_of(values: Sequence[float]) -> tuple[float, ...]:
    """A sample's values at 0, 5, ... 100 %: values that occurred, never one between two.

    Args:
        values: At least one, all finite.
    """
    found = np.quantile(np.asarray(values, np.float64), _LEVELS, method="inverted_cdf")
    return tuple(float(each) for each in found)


def build_reference(observations: Sequence[ImageObservation]) -> DeclaredMonitoring:
    """The key `monitoring` of a bundle, from images that its networks were not trained on.

    Args:
        observations: One image of each patient, at most: several of one patient say less than
            their number, and alarms would be raised too easily. Refused images included.

    Raises:
        ValueError: Fewer than 100 images were scored.
    """
    quantities: defaultdict[str, list[float]] = defaultdict(list)
    rates: defaultdict[str, list[float]] = defaultdict(list)
    for each in observations:
        for name, value in each.watched_quantities().items():
            quantities[name].append(value)
        for name, value in each.watched_rates().items():
            rates[name].append(value)
    shares = {name: float(np.mean(values)) for name, values in rates.items()}
    images = sum(each.is_scored for each in observations)
    incomplete = sorted(name for name, values in quantities.items() if len(values) < images)
    if incomplete:
        raise ValueError(f"some scored images lack {', '.join(incomplete)}")
    return DeclaredMonitoring(
        images=images,
        quantiles={name: quantiles_of(values) for name, values in sorted(quantities.items())},
        positive_rates=_of_labels("positive:", shares),
        undetermined_rates=_of_labels("undetermined:", shares),
        refusal_rate=shares.get("refused", 0.0),
    )


def reference_at_site(
    declared: DeclaredMonitoring, *, own_points: Collection[str], are_gates_enforced: bool
) -> DeclaredMonitoring:
    """What a bundle declares, without the shares that the site's own decisions change.

    They are compared with the node's first studies instead: against the bundle's, a decision of
    the site would be an alarm that never ends.

    Args:
        own_points: Findings whose operating point the site set.
        are_gates_enforced: False where image gates report only.
    """
    return declared.model_copy(
        update={
            "positive_rates": _without(declared.positive_rates, own_points),
            "undetermined_rates": _without(declared.undetermined_rates, own_points),
            "refusal_rate": declared.refusal_rate if are_gates_enforced else None,
        }
    )


def _without(shares: dict[str, float], labels: Collection[str]) -> dict[str, float]:
    return {label: share for label, share in shares.items() if label not in labels}


def _of_labels(prefix: str, shares: dict[str, float]) -> dict[str, float]:
    return {
        name.removeprefix(prefix): share
        for name, share in sorted(shares.items())
        if name.startswith(prefix)
    }
