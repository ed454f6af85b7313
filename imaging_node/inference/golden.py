"""The self-test of a bundle: known synthetic images must get their known answers here too."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from imaging_node.domain.errors import BundleError, ImagingNodeError
from imaging_node.inference.ensemble import pool_logits
from imaging_node.inference.preprocessing import prepare

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from imaging_node.domain.finding import FloatImage
    from imaging_node.inference.bundle import Bundle, GoldenCase
    from imaging_node.inference.outputs import LaunchedModel, MemberOutputs

# Enough to tell rows apart, and little for any memory.
_MOST_TOGETHER = 16


def verify_golden(bundle: Bundle, model: LaunchedModel, *, session_sets: int = 1) -> None:
    """Run every golden case on this machine, and the completeness of every map.

    Each case alone, then all of them as one batch and in the reverse order: no image may get
    another one's answer.

    Args:
        bundle: As loaded.
        model: Of the bundle.
        session_sets: Sets of sessions that take turns in `model`: the batches run on each.

    Raises:
        BundleError: One line naming the bundle, the case's file and what differs.
    """
    cases = bundle.golden
    for case in cases:
        _verify_together(bundle, model, [case])
    for start in range(0, len(cases), _MOST_TOGETHER):
        together = cases[start : start + _MOST_TOGETHER]
        for ordered in (together, together[::-1]) if len(together) > 1 else ():
            for _ in range(session_sets):
                _verify_together(bundle, model, ordered)


def _verify_together(bundle: Bundle, model: LaunchedModel, cases: Sequence[GoldenCase]) -> None:
    company = f" in a batch of {len(cases)}" if len(cases) > 1 else ""
    places = [
        f"bundle {bundle.identity.name}: {case.file}: golden case failed{company}" for case in cases
    ]
    try:
        answers = model.predict(
            np.stack([prepare(case.p_values, bundle.preprocessing) for case in cases])
        )
    except (ValueError, MemoryError, ImagingNodeError) as error:
        raise BundleError(f"{places[0]}: the model does not run on it") from error
    if len(answers) != len(cases):
        raise BundleError(f"{places[0]}: {len(answers)} answers for {len(cases)} images")
    for place, case, answer in zip(places, cases, answers, strict=True):
        _verify(place, bundle, case, answer)


def _verify(place: str, bundle: Bundle, case: GoldenCase, answer: MemberOutputs) -> None:
    tolerance = bundle.golden_tolerance
    pooled = pool_logits(answer.logits, bundle.members)
    probabilities = [
        finding.calibration.probability(float(logit))
        for finding, logit in zip(bundle.findings, pooled, strict=True)
    ]
    checks: list[tuple[str, npt.NDArray[np.floating], npt.NDArray[np.floating], float]] = [
        ("logits", answer.logits, case.logits, tolerance.logit),
        ("probabilities", np.array(probabilities), case.probabilities, tolerance.probability),
    ]
    for index, member in enumerate(bundle.members):
        maps = answer.maps[index]
        checks.append((f"{member.name} maps", maps, case.maps[index], tolerance.map))
        summed = maps.mean((1, 2)) + np.array(member.biases)
        checks.append(
            (f"{member.name} completeness", summed, answer.logits[index], tolerance.logit)
        )
    for name, found, expected, allowed in checks:
        if found.shape != expected.shape:
            raise BundleError(f"{place}: {name} of shape {found.shape}, not {expected.shape}")
        difference = float(np.abs(found - expected).max())
        if not difference <= allowed:  # NaN fails
            raise BundleError(f"{place}: {name} differ by {difference:.2g} > {allowed:.2g}")


def synthetic_thorax(rows: int, columns: int, *, opacity: float, seed: int) -> FloatImage:
    """A crude thorax for golden cases: two dark lungs, ribs, noise and an optional opacity.

    Nobody's picture, and scores on it mean nothing clinically.

    Args:
        rows, columns: >= 1.
        opacity: Density of a blurred disc in the lower right lung field, in [0, 1].
        seed: Of the noise.

    Returns:
        P-Values, float32, shape (rows, columns), in [0, 1].
    """
    down, across = np.meshgrid(np.linspace(-1, 1, rows), np.linspace(-1, 1, columns), indexing="ij")
    body = 1 / (1 + np.exp((np.hypot(across / 0.95, down / 1.15) - 1) * 25))
    lungs = sum(
        1 / (1 + np.exp((np.hypot((across - side) / 0.3, down / 0.62) - 1) * 14))
        for side in (-0.42, 0.42)
    )
    ribs = 0.06 * np.sin(14 * (down + 0.35 * across**2)) * lungs
    disc = opacity * np.exp(-((across + 0.42) ** 2 + (down - 0.25) ** 2) / 0.05)
    noise = np.random.default_rng(seed).normal(0, 0.015, (rows, columns))
    image = 0.72 * body - 0.48 * lungs + ribs + 0.4 * disc + noise
    clipped: FloatImage = np.clip(image, 0, 1).astype(np.float32)
    return clipped
