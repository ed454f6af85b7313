"""Watch the stream of one model: over all studies, and by scanner and view."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from imaging_node.inference.drift import Limits, QuantityReference, RateReference, limits
from imaging_node.inference.drift_streams import (
    QuantityStream,
    RateStream,
    quantity_stream,
    rate_stream,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from imaging_node.domain.observation import ImageObservation
    from imaging_node.inference.declaration import DeclaredMonitoring
    from imaging_node.inference.drift_streams import Reading

ALL, SCANNER, VIEW = "all", "scanner", "view"
GROUP_BASELINE = 200
"""Studies of a scanner or a view that it is compared with from then on."""
_STATE_FORMAT = 1


class Group(NamedTuple):
    """Studies that are watched together: `kind` is "all", "scanner" or "view"."""

    kind: str
    value: str


EVERYTHING = Group(ALL, "")


class Noticed(NamedTuple):
    """A statistic that went over its threshold, or back."""

    group: Group
    quantity: str
    statistic: str
    reading: Reading
    is_raised: bool
    studies: int


@dataclass(slots=True)
class _Streams:
    """All streams of one group.

    Attributes:
        over: (quantity, statistic) of alarms that are on.
    """

    studies: int = 0
    quantities: dict[str, QuantityStream] = field(default_factory=dict)
    rates: dict[str, RateStream] = field(default_factory=dict)
    over: set[tuple[str, str]] = field(default_factory=set)

    def each(self) -> Iterator[tuple[str, QuantityStream | RateStream]]:
        yield from self.quantities.items()
        yield from self.rates.items()


class DriftWatch:
    """What is known of one model's stream; fed with studies in their order.

    All studies are compared with the bundle's reference, or where it has none with the first
    `baseline` of them. Both are mixtures of scanners and views, so each of these is compared with
    its own first 200 studies, whenever it comes: against the mixture a rare one would be a change
    although nothing changed.

    Attributes:
        newcomers: Scanners and views that appeared since this was made or restored, and after the
            first `baseline` studies: no alarm, but worth to be told.
    """

    def __init__(self, reference: DeclaredMonitoring | None, *, baseline: int) -> None:
        self._baseline = baseline
        self.newcomers: list[Group] = []
        quantities: dict[str, QuantityReference] = {}
        rates: dict[str, RateReference] = {}
        if reference is not None:
            n = reference.images
            quantities = {
                name: QuantityReference(n, values) for name, values in reference.quantiles.items()
            }
            rates = {
                **_rates("positive:", reference.positive_rates, n),
                **_rates("undetermined:", reference.undetermined_rates, n),
            }
            if reference.refusal_rate is not None:
                rates["refused"] = RateReference(n, reference.refusal_rate)
        # At once, not with their first value: what is declared is part of the state.
        everything = _Streams(
            quantities={
                name: QuantityStream(baseline=baseline, reference=each)
                for name, each in quantities.items()
            },
            rates={
                name: RateStream(baseline=baseline, reference=each) for name, each in rates.items()
            },
        )
        self._groups: dict[Group, _Streams] = {EVERYTHING: everything}

    @property
    def studies(self) -> int:
        """Studies so far."""
        return self._groups[EVERYTHING].studies

    @property
    def baseline_left(self) -> int:
        """Studies until all quantities have a reference, as far as can be told; 0: they have."""
        quantities = self._groups[EVERYTHING].quantities.values()
        if not quantities:
            return self._baseline
        waiting = [each.studies for each in quantities if each.reference is None]
        return max(1, self._baseline - min(waiting)) if waiting else 0

    @property
    def groups(self) -> tuple[Group, ...]:
        """Every group so far, all studies first."""
        return tuple(self._groups)

    @property
    def limits(self) -> Limits:
        """Thresholds, by the number of streams that there are."""
        every = self._groups[EVERYTHING]
        return limits(max(1, len(every.quantities) + len(every.rates)))

    def add_study(self, images: Sequence[tuple[int, ImageObservation]]) -> Iterable[Noticed]:
        """Take the images of one study, each with the number of its scanner.

        Returns:
            Alarms that begin and that end.
        """
        members: defaultdict[Group, list[ImageObservation]] = defaultdict(list)
        for scanner, image in images:
            members[EVERYTHING].append(image)
            members[Group(SCANNER, str(scanner))].append(image)
            members[Group(VIEW, image.view_position)].append(image)
        noticed: list[Noticed] = []
        for group, of_group in members.items():
            streams = self._groups.get(group)
            if streams is None:
                streams = self._groups[group] = _Streams()
                if self.studies > self._baseline:
                    self.newcomers.append(group)
            self._feed(group, streams, of_group)
            noticed += self._noticed(group, streams)
        return noticed

    def expect(self, groups: Iterable[Group]) -> None:
        """Take scanners and views as known, so that they are no newcomers when they come."""
        for group in groups:
            self._groups.setdefault(group, _Streams())

    def fall_silent(self) -> None:
        """Forget evidence and alarms, not references: the stream was interrupted."""
        for streams in self._groups.values():
            streams.over.clear()
            for _, stream in streams.each():
                stream.forget_evidence()

    def over(self) -> Iterator[tuple[Group, str, str]]:
        """Group, quantity and statistic of every alarm that is on."""
        for group, streams in self._groups.items():
            for quantity, statistic in sorted(streams.over):
                yield group, quantity, statistic

    def summary(self) -> list[dict[str, Any]]:
        """Every group in JSON's own types: what it looked like lately, and each statistic."""
        bounds = self.limits
        return [
            {
                "kind": group.kind,
                "value": group.value,
                "studies": streams.studies,
                "streams": {
                    name: {
                        "recent": stream.recent,
                        "reference": _centre(stream),
                        "statistics": {
                            statistic: [reading.value, reading.threshold]
                            for statistic, reading in stream.readings(bounds).items()
                        },
                    }
                    for name, stream in streams.each()
                },
            }
            for group, streams in self._groups.items()
        ]

    def to_plain(self) -> dict[str, Any]:
        """For JSON; `restore` reads it."""
        return {
            "format": _STATE_FORMAT,
            "groups": [
                {
                    "kind": group.kind,
                    "value": group.value,
                    "studies": streams.studies,
                    "quantities": {n: each.to_plain() for n, each in streams.quantities.items()},
                    "rates": {name: each.to_plain() for name, each in streams.rates.items()},
                    "over": sorted(streams.over),
                }
                for group, streams in self._groups.items()
            ],
        }

    def restore(self, plain: dict[str, Any]) -> None:
        """Go on from what was made plain.

        Raises:
            KeyError, TypeError, ValueError: It is not that.
        """
        if plain["format"] != _STATE_FORMAT:
            raise ValueError("a state of another format")
        everything = next(each for each in plain["groups"] if each["kind"] == ALL)
        bounds = limits(max(1, len(everything["quantities"]) + len(everything["rates"])))
        groups: dict[Group, _Streams] = {}
        for each in plain["groups"]:
            group = Group(each["kind"], each["value"])
            baseline = self._baseline_of(group)
            groups[group] = _Streams(
                studies=int(each["studies"]),
                quantities={
                    name: quantity_stream(stream, baseline, bounds)
                    for name, stream in each["quantities"].items()
                },
                rates={
                    name: rate_stream(stream, baseline, bounds)
                    for name, stream in each["rates"].items()
                },
                over={(quantity, statistic) for quantity, statistic in each["over"]},
            )
        self._groups = groups

    def _feed(self, group: Group, streams: _Streams, images: Sequence[ImageObservation]) -> None:
        streams.studies += 1
        # Images of one study are alike: the first scored one stands for all, or a study of many
        # would look like many studies.
        scored = next((each for each in images if each.is_scored), None)
        values = {} if scored is None else scored.watched_quantities()
        for name in values.keys() - streams.quantities.keys():
            streams.quantities[name] = QuantityStream(baseline=self._baseline_of(group))
        shares: defaultdict[str, list[float]] = defaultdict(list)
        for image in images:
            for name, value in image.watched_rates().items():
                shares[name].append(value)
        for name in shares.keys() - streams.rates.keys():
            streams.rates[name] = RateStream(baseline=self._baseline_of(group))
        bounds = self.limits
        # What is changed already is nothing to compare with later.
        changed = {name for name, _ in self._groups[EVERYTHING].over}
        for name, value in values.items():
            quantity = streams.quantities[name]
            if quantity.reference is not None or name not in changed:
                quantity.add(value, bounds)
        for name, of_images in shares.items():
            rate = streams.rates[name]
            if rate.reference is not None or name not in changed:
                rate.add(sum(of_images) / len(of_images), bounds)

    def _noticed(self, group: Group, streams: _Streams) -> Iterator[Noticed]:
        bounds = self.limits
        for name, stream in streams.each():
            for statistic, reading in stream.readings(bounds).items():
                key = (name, statistic)
                is_over = key in streams.over
                if is_over and reading.is_cleared(statistic):
                    streams.over.remove(key)
                elif not is_over and reading.is_over():
                    streams.over.add(key)
                else:
                    continue
                yield Noticed(group, name, statistic, reading, not is_over, streams.studies)

    def _baseline_of(self, group: Group) -> int:
        return self._baseline if group == EVERYTHING else GROUP_BASELINE


def _rates(prefix: str, shares: Mapping[str, float], images: int) -> dict[str, RateReference]:
    return {f"{prefix}{label}": RateReference(images, share) for label, share in shares.items()}


def _centre(stream: QuantityStream | RateStream) -> float | None:
    """Median or share of the reference."""
    if isinstance(stream, QuantityStream):
        if stream.reference is None:
            return None
        values = stream.reference.quantiles
        return values[len(values) // 2]
    return None if stream.reference is None else stream.reference.rate
