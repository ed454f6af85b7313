"""Alarms in words: what a reader should know, and what an operator should do."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imaging_node.domain.watching import DriftAlarm

_QUANTITIES = {
    "input_mean": "brightness of the images",
    "input_deviation": "contrast of the images",
    "input_entropy": "grey levels of the images",
    "input_gradient": "noise or sharpness of the images",
    "input_dark_share": "dark areas of the images",
    "input_bright_share": "bright areas of the images",
    "clipped_share": "black or white areas of the images",
    "field_share": "exposed field of the images",
    "stroke_share": "writing or graphics on the images",
    "frontal_probability": "likeness of the images to frontal chest films",
    "disagreement": "disagreement between the networks",
    "refused": "share of images refused by their pixels",
    "not_eligible": "share of images not meant for the model (view, body part, age ...)",
}
_PREFIXES = {
    "probability:": "scores of",
    "positive:": "share called present of",
    "undetermined:": "share left undetermined of",
}
_DISTANCES = ("distance_", "residual_", "neighbours_", "feature_distance")
_STATISTICS = {
    "cusum_up": "higher than it was",
    "cusum_down": "lower than it was",
    "cusum_spread": "more extreme than it was",
    "ks": "distributed otherwise",
    "psi": "distributed otherwise",
    "share": "another share than before",
}

FOR_READERS = "Read its results with more caution than usual until this is cleared."
FOR_OPERATORS = (
    "Look for what changed (exposure, processing, scanner, referrals) and call the physicist;"
    " see `imaging-node watch status`. If it is known and harmless: `imaging-node watch accept`."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelBand:
    """What stands over the worklist about one model.

    Attributes:
        since: When the oldest of its alarms was raised.
        changes: What changed, and where; each once.
    """

    model: str
    since: datetime
    changes: tuple[str, ...]


def bands(alarms: Sequence[DriftAlarm]) -> list[ModelBand]:
    """One band a model, of the alarms that are on."""
    by_model: defaultdict[str, list[DriftAlarm]] = defaultdict(list)
    for alarm in alarms:
        by_model[alarm.model].append(alarm)
    return [
        ModelBand(
            model=model,
            since=min(each.raised_at for each in own),
            changes=tuple(
                dict.fromkeys(
                    f"{quantity_words(each.quantity)}{_place(each)}"
                    for each in sorted(own, key=lambda each: (each.group_kind != "all", each.id))
                )
            ),
        )
        for model, own in sorted(by_model.items())
    ]


def quantity_words(quantity: str) -> str:
    """What a reader calls a quantity, e.g. "brightness of the images", "scores of Pneumonia"."""
    for prefix, words in _PREFIXES.items():
        if quantity.startswith(prefix):
            return f"{words} {quantity.removeprefix(prefix)}"
    if quantity.startswith(_DISTANCES):
        return "unlikeness of the images to those the model knows"
    return _QUANTITIES.get(quantity, quantity.replace("_", " "))


def change_words(statistic: str) -> str:
    """How it changed."""
    return _STATISTICS.get(statistic, statistic)


def group_words(alarm: DriftAlarm) -> str:
    """Whose studies, with the scanner's name: for people only."""
    if alarm.group_kind == "all":
        return "all studies"
    if alarm.group_kind == "scanner":
        return f"scanner {alarm.group_value} ({alarm.scanner_name or 'several'})"
    return f"view {alarm.group_value}"


def _place(alarm: DriftAlarm) -> str:
    return "" if alarm.group_kind == "all" else f" of {group_words(alarm)}"
