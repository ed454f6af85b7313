"""How often a model was right, in the studies that readers or final labels speak of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imaging_node.domain.watching import (
    FEWEST_SHOWN,
    FindingReport,
    LabelledCase,
    LabelSource,
    Performance,
    Proportion,
    SubgroupRow,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SUBGROUPS = ("sex", "age_band", "view", "scanner")
"""Attributes of a case that the subgroup table is made by."""


def performance(cases: Sequence[LabelledCase]) -> Performance:
    """Figures over the cases of one finding of one model."""
    final = [each for each in cases if each.source is LabelSource.CSV]
    flagged = [each for each in cases if each.is_flagged]
    # Without labels of studies that were not flagged nothing is known of what was missed, and the
    # few that somebody came across are those in which something was.
    rests_on_both = sum(not each.is_flagged for each in final) >= FEWEST_SHOWN
    present = [each for each in final if each.is_present]
    absent = [each for each in final if not each.is_present]
    cleared = [each for each in final if not each.is_flagged]
    return Performance(
        labelled=len(cases),
        final=len(final),
        undetermined=sum(each.is_undetermined for each in cases),
        positive_predictive_value=Proportion(
            sum(each.is_present for each in flagged), len(flagged)
        ),
        sensitivity=Proportion(sum(each.is_flagged for each in present), len(present))
        if rests_on_both
        else None,
        specificity=Proportion(sum(not each.is_flagged for each in absent), len(absent))
        if rests_on_both
        else None,
        negative_predictive_value=Proportion(
            sum(not each.is_present for each in cleared), len(cleared)
        )
        if rests_on_both
        else None,
    )


def finding_reports(cases: Sequence[LabelledCase]) -> list[FindingReport]:
    """A report of each finding of each model that has labelled cases, with its subgroups."""
    reports = []
    for key in sorted({(each.model, each.model_digest, each.label) for each in cases}):
        model, digest, label = key
        own = [each for each in cases if (each.model, each.model_digest, each.label) == key]
        reports.append(
            FindingReport(
                model=model,
                model_digest=digest,
                label=label,
                performance=performance(own),
                subgroups=tuple(_subgroups(own)),
            )
        )
    return reports


def _subgroups(cases: Sequence[LabelledCase]) -> Iterator[SubgroupRow]:
    for attribute in SUBGROUPS:
        for value in sorted({str(getattr(each, attribute)) for each in cases}):
            own = [each for each in cases if getattr(each, attribute) == value]
            yield SubgroupRow(attribute=attribute, value=value, performance=performance(own))
