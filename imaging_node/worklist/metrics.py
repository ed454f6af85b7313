"""Prometheus metrics, made anew from the database at each scrape: a closed list of names."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from imaging_node.domain.lifecycle import DeliveryState, StudyState
from imaging_node.worklist.watch_metrics import watch_metrics

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from prometheus_client.core import Metric

    from imaging_node.domain.records import RoleStatus
    from imaging_node.worklist.queries import WorklistQueries
    from imaging_node.worklist.watching import WatchingQueries

METRICS = {
    "imaging_node_ready": "1 when every required role reports and the database is writable",
    "imaging_node_database_writable": "1 when the database takes a write",
    "imaging_node_studies": "Studies by state",
    "imaging_node_deliveries": "Result objects on their way to a destination, by state",
    "imaging_node_quarantined_instances": "Instances refused because they contradict their patient",
    "imaging_node_oldest_waiting_seconds": "Age of the oldest study without an ending",
    "imaging_node_oldest_delivery_seconds": "Age of the oldest object that waits for its peer",
    "imaging_node_role_heartbeat_age_seconds": "Time since a role process last reported",
    "imaging_node_role_start_time_seconds": "Start of a role process since the epoch",
}
"""Names and help texts. Counters of the roles follow, each as `imaging_node_<name>_total`."""

_COUNTER = re.compile(r"(?P<name>[a-z][a-z0-9_]*)_total(?:\{(?P<labels>[^{}]*)\})?")
_LABEL = re.compile(r'([a-z_]+)="([^"\\]*)"')


def metrics_text(queries: WorklistQueries, watching: WatchingQueries, *, is_ready: bool) -> bytes:
    """Everything measured now, in the Prometheus text format."""
    registry = CollectorRegistry()
    registry.register(_Collector(queries, watching, is_ready=is_ready))
    return generate_latest(registry)


class _Collector:
    """The shape that prometheus_client asks for."""

    def __init__(
        self, queries: WorklistQueries, watching: WatchingQueries, *, is_ready: bool
    ) -> None:
        self._queries = queries
        self._watching = watching
        self._is_ready = is_ready

    def describe(self) -> list[Metric]:
        """Nothing ahead of time, so that registering asks the database nothing."""
        return []

    def collect(self) -> Iterator[Metric]:
        counts = self._queries.counts()
        yield _gauge("imaging_node_ready", float(self._is_ready))
        yield _gauge("imaging_node_database_writable", float(self._queries.is_database_writable()))
        yield _gauge("imaging_node_oldest_waiting_seconds", counts.oldest_waiting_s)
        yield _gauge("imaging_node_oldest_delivery_seconds", counts.oldest_delivery_s)
        yield _gauge("imaging_node_quarantined_instances", float(counts.quarantined_instances))
        yield _by_state(
            "imaging_node_studies", {each: counts.studies.get(each, 0) for each in StudyState}
        )
        yield _by_state(
            "imaging_node_deliveries",
            {each: counts.deliveries.get(each, 0) for each in DeliveryState},
        )
        roles = self._queries.roles()
        ages = _labelled("imaging_node_role_heartbeat_age_seconds", ["role", "pid"])
        starts = _labelled("imaging_node_role_start_time_seconds", ["role", "pid"])
        for each in roles:
            labels = [each.role, str(each.pid)]
            age_s = (self._queries.now() - each.heartbeat_at).total_seconds()
            ages.add_metric(labels, max(0.0, age_s))
            starts.add_metric(labels, each.started_at.timestamp())
        yield ages
        yield starts
        yield from watch_metrics(self._watching)
        yield from _role_counters(roles)


def _gauge(name: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, METRICS[name], value=value)


def _labelled(name: str, labels: Sequence[str]) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, METRICS[name], labels=labels)


def _by_state(name: str, counts: dict[StudyState, int] | dict[DeliveryState, int]) -> Metric:
    family = _labelled(name, ["state"])
    for state, count in counts.items():
        family.add_metric([state.value], count)
    return family


def _role_counters(roles: Sequence[RoleStatus]) -> Iterator[Metric]:
    """What the roles counted themselves, with role and process as labels.

    Raises:
        ValueError: A counter is not called `name_total` or `name_total{label="value"}`.
    """
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for status in roles:
        for written, value in status.counters.items():
            match = _COUNTER.fullmatch(written)
            if match is None:
                raise ValueError(f'a counter of {status.role} is not named x_total{{y="z"}}')
            labels = {"role": status.role, "pid": str(status.pid)}
            labels.update(_LABEL.findall(match["labels"] or ""))
            found.setdefault(match["name"], []).append((labels, value))
    for name, samples in sorted(found.items()):
        names = sorted({label for labels, _ in samples for label in labels})
        family = CounterMetricFamily(
            f"imaging_node_{name}", "Counted by a role since it started", labels=names
        )
        for labels, value in samples:
            family.add_metric([labels.get(each, "") for each in names], value)
        yield family
