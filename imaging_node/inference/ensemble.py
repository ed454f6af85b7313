"""Members to one answer: pool the logits, calibrate once, call by operating points."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from imaging_node.domain.errors import NotAnalysedError, SettingsError
from imaging_node.domain.finding import (
    MAXIMUM_SPREAD,
    FindingScore,
    NotAnalysedReason,
    Presence,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import numpy.typing as npt

    from imaging_node.inference.bundle import Finding, Member

_WEIGHT = {Presence.PRESENT: 2, Presence.UNDETERMINED: 1, Presence.ABSENT: 0}


def pool_logits(
    logits: npt.NDArray[np.floating], members: Sequence[Member]
) -> npt.NDArray[np.float64]:
    """Weighted mean over members of logits of shape (members, findings); shape (findings,)."""
    weights = np.array([member.weight for member in members])
    return np.asarray(weights @ np.asarray(logits, np.float64), np.float64)


def site_thresholds(
    findings: Iterable[Finding], site_operating_points: Mapping[str, float]
) -> dict[str, tuple[float, float]]:
    """Lowest probabilities called undetermined and present, by label.

    A site's operating point replaces the bundle's. The undetermined band stays below it: it
    begins where the bundle says, or is empty when the site's point lies lower still. A site
    that raises the point thus turns former "present" into "undetermined", never "absent".

    Raises:
        SettingsError: A label that the bundle does not have, or a point outside [0, 1].
    """
    thresholds = {
        finding.label: (finding.undetermined_from, finding.operating_point) for finding in findings
    }
    for label, point in site_operating_points.items():
        if label not in thresholds:
            raise SettingsError(
                f"operating_points: the bundle has no finding {label!r};"
                f" it has {', '.join(thresholds)}"
            )
        if not 0 <= point <= 1:
            raise SettingsError(f"operating_points: {label}: {point} is not within 0 and 1")
        thresholds[label] = (min(thresholds[label][0], point), point)
    return thresholds


def score_findings(
    logits: npt.NDArray[np.floating],
    *,
    members: Sequence[Member],
    findings: Sequence[Finding],
    thresholds: Mapping[str, tuple[float, float]],
    sop_instance_uid: str,
) -> tuple[FindingScore, ...]:
    """Turn the members' logits for one image into scores, in the bundle's order.

    The spread is the standard deviation of the members' probabilities, each through the
    ensemble's calibration: a measure of agreement, not of the error of the answer. A bundle that
    limits it is contested beyond the limit, and where the pair would clear what a member alone
    would not: "absent" is said by all of them.

    Args:
        logits: Shape (members, findings).
        members, findings: The bundle's.
        thresholds: As from `site_thresholds`.
        sop_instance_uid: Image that was scored.

    Raises:
        NotAnalysedError: A logit is no number; the reason is MODEL_OUTPUT.
    """
    if not np.isfinite(logits).all():
        raise NotAnalysedError(
            "a network answered with values that are not numbers",
            reason=NotAnalysedReason.MODEL_OUTPUT,
        )
    scores = []
    for index, finding in enumerate(findings):
        pooled = float(pool_logits(logits, members)[index])
        probability = finding.calibration.probability(pooled)
        each_member = [finding.calibration.probability(float(logit)) for logit in logits[:, index]]
        undetermined_from, operating_point = thresholds[finding.label]
        spread = min(float(np.std(each_member)), MAXIMUM_SPREAD)
        scores.append(
            FindingScore(
                label=finding.label,
                probability=probability,
                interval=finding.calibration.interval(pooled),
                spread=spread,
                is_contested=finding.maximum_spread is not None
                and (
                    spread > finding.maximum_spread
                    or probability < undetermined_from <= max(each_member)
                ),
                operating_point=operating_point,
                undetermined_from=undetermined_from,
                sop_instance_uid=sop_instance_uid,
            )
        )
    return tuple(scores)


def combine_images(
    scores_by_image: Sequence[Sequence[FindingScore]],
) -> tuple[FindingScore, ...]:
    """Answer of a study: present if an image is, absent only if every image is.

    Of the images with that call the one with the highest probability answers. A probability alone
    would let an image over which the members disagree be outdone by one that is clear.

    Args:
        scores_by_image: At least one image's scores, all in the bundle's order; on equal
            probabilities the earlier image answers.
    """
    return tuple(
        max(
            of_one_finding,
            key=lambda score: (_WEIGHT[score.presence], score.probability or 0.0),
        )
        for of_one_finding in zip(*scores_by_image, strict=True)
    )
