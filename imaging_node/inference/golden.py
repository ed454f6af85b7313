"""The self-test of a bundle: known synthetic images must get their known answers here too."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from imaging_node.domain.errors import BundleError, ImagingNodeError
from imaging_node.inference.ensemble import pool_logits
from imaging_node.inference.preprocessing import prepare

if TYPE_CHECKING:
    import numpy.typing as npt

    from imaging_node.domain.finding import FloatImage
    from imaging_node.inference.bundle import Bundle
    from imaging_node.inference.outputs import LaunchedModel


def verify_golden(bundle: Bundle, model: LaunchedModel) -> None:
    """Run every golden case on this machine, and the completeness of every map.

    Raises:
        BundleError: One line naming the bundle, the case's file and what differs.
    """
    tolerance = bundle.golden_tolerance
    for case in bundle.golden:
        place = f"bundle {bundle.identity.name}: {case.file}: golden case failed"
        try:
            answer = model.predict(prepare(case.p_values, bundle.preprocessing)[np.newaxis])[0]
        except (ValueError, MemoryError, ImagingNodeError) as error:
            raise BundleError(f"{place}: the model does not run on it") from error
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
