"""Watched models as Prometheus metrics; scanners by number, never by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prometheus_client.core import GaugeMetricFamily

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.core import Metric

    from imaging_node.domain.watching import WatchedModel
    from imaging_node.worklist.watching import WatchingQueries

WATCH_METRICS = {
    "imaging_node_drift_alarms": "Alarms that are on, by model; 0 when there is none",
    "imaging_node_drift_alarm": "1 for each alarm that is on",
    "imaging_node_drift": "Statistic over all studies, as a part of its alarm threshold",
    "imaging_node_watched_studies": "Studies that a model was watched over",
    "imaging_node_positive_rate": "Share called present over about the last 200 studies",
    "imaging_node_undetermined_rate": "Share left undetermined over about the last 200 studies",
    "imaging_node_refused_rate": "Share of eligible images refused over about the last 200 studies",
    "imaging_node_not_eligible_rate": "Share of images excluded by their header, the same",
    "imaging_node_disagreement": "Mean of the largest spread between members, the same",
}
"""Names and help texts."""

_RATES = {
    "positive:": "imaging_node_positive_rate",
    "undetermined:": "imaging_node_undetermined_rate",
}
_OF_IMAGES = {
    "refused": "imaging_node_refused_rate",
    "not_eligible": "imaging_node_not_eligible_rate",
    "disagreement": "imaging_node_disagreement",
}


def watch_metrics(watching: WatchingQueries) -> Iterator[Metric]:
    """All families; the same bundle in two versions is told apart by the start of its digest."""
    models, alarms = watching.models(), watching.alarms()
    counted = _family("imaging_node_drift_alarms", "model", "digest")
    each_alarm = _family(
        "imaging_node_drift_alarm", "model", "digest", "quantity", "group", "statistic"
    )
    for model in models:
        own = [each for each in alarms if each.model_digest == model.model_digest]
        counted.add_metric(_names(model), len(own))
        for alarm in own:
            each_alarm.add_metric([*_names(model), alarm.quantity, alarm.group, alarm.statistic], 1)
    yield counted
    yield each_alarm
    studies = _family("imaging_node_watched_studies", "model", "digest")
    drift = _family("imaging_node_drift", "model", "digest", "quantity", "statistic")
    rates = {name: _family(name, "model", "digest", "finding", "group") for name in _RATES.values()}
    images = {name: _family(name, "model", "digest", "group") for name in _OF_IMAGES.values()}
    for model in models:
        studies.add_metric(_names(model), model.studies)
        for group in model.groups:
            words = " ".join(each for each in (group["kind"], group["value"]) if each)
            for quantity, stream in group["streams"].items():
                _add_rate(rates, images, model, words, quantity, stream)
                if group["kind"] != "all":
                    continue
                for statistic, (value, threshold) in stream["statistics"].items():
                    drift.add_metric([*_names(model), quantity, statistic], value / threshold)
    yield studies
    yield drift
    yield from rates.values()
    yield from images.values()


def _add_rate(
    rates: dict[str, GaugeMetricFamily],
    images: dict[str, GaugeMetricFamily],
    model: WatchedModel,
    group: str,
    quantity: str,
    stream: dict[str, Any],
) -> None:
    if quantity in _OF_IMAGES:
        images[_OF_IMAGES[quantity]].add_metric([*_names(model), group], stream["recent"])
    for prefix, name in _RATES.items():
        if quantity.startswith(prefix):
            finding = quantity.removeprefix(prefix)
            rates[name].add_metric([*_names(model), finding, group], stream["recent"])


def _family(name: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, WATCH_METRICS[name], labels=labels)


def _names(model: WatchedModel) -> list[str]:
    return [model.model, model.model_digest.removeprefix("sha256:")[:12]]
