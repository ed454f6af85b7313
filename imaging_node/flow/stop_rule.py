"""When a model must not answer any more: a decision that rests on labels or on lasting alarms."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from imaging_node.domain.proportion import log_evidence_below
from imaging_node.domain.watching import LabelSource
from imaging_node.flow.performance import performance
from imaging_node.inference.drift_watch import ALL
from imaging_node.telemetry import Event, log

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imaging_node.domain.watching import DriftAlarm, LabelledCase, WatchedModel
    from imaging_node.settings.watching import StopRuleSettings

FALSE_STOP = 0.05
"""Probability that labels ever stop a model whose predictive values are not under the limit: of all
its findings together, and however often one looks."""

Demote = Callable[[str, str, str], bool]
"""Moves a model to shadow: its name, its digest and the reason; False if it does not answer."""


def reason_to_stop(
    rule: StopRuleSettings,
    model: WatchedModel,
    cases: Sequence[LabelledCase],
    alarms: Sequence[DriftAlarm],
) -> str | None:
    """Why a model must be stopped, in words without patient data; None if it need not be.

    Args:
        rule: The site's.
        model: As it stands.
        cases: Labelled studies, of any model; those since it is in its state.
        alarms: Alarms that are on, of any model.
    """
    if rule.lowest_ppv is not None:
        # Whoever reaches the page can click, and nobody knows who did: final labels alone count.
        own = [
            each
            for each in cases
            if each.model_digest == model.model_digest and each.source is LabelSource.CSV
        ]
        labels = sorted({each.label for each in own})
        enough = math.log(max(_findings(model), len(labels), 1) / FALSE_STOP)
        for label in labels:
            share = performance(
                [each for each in own if each.label == label]
            ).positive_predictive_value
            evidence = log_evidence_below(share.successes, share.n, rule.lowest_ppv)
            if share.n >= rule.labelled and evidence >= enough:
                return (
                    f"{label}: right in {share.successes} of {share.n} flagged studies with final"
                    f" labels, too few for {rule.lowest_ppv:g}"
                )
    if rule.alarm_studies is not None:
        for alarm in alarms:
            counts = not rule.alarm_quantities or alarm.quantity in rule.alarm_quantities
            is_own = alarm.model_digest == model.model_digest and alarm.group_kind == ALL
            lasted = model.studies - alarm.raised_after
            if is_own and counts and alarm.cleared_at is None and lasted >= rule.alarm_studies:
                return f"alarm of {alarm.quantity} over {lasted} studies"
    return None


def _findings(model: WatchedModel) -> int:
    """How many findings it calls, as far as its stream shows."""
    prefix = "positive:"
    return max(
        (sum(name.startswith(prefix) for name in each["streams"]) for each in model.groups),
        default=0,
    )


def apply_stop_rule(
    rule: StopRuleSettings,
    models: Sequence[WatchedModel],
    cases: Sequence[LabelledCase],
    alarms: Sequence[DriftAlarm],
    demote: Demote,
) -> int:
    """Stop the models that the rule stops.

    Returns:
        How many were moved to shadow now.
    """
    stopped = 0
    for model in models:
        reason = reason_to_stop(rule, model, cases, alarms)
        if reason is not None and demote(model.model, model.model_digest, reason):
            stopped += 1
            log(Event.STOP_RULE_ACTED, model=model.model, reason=reason)
    return stopped
