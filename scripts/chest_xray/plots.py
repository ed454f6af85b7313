"""Pictures of a model card: how it ranks, and whether its probabilities are frequencies."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np

from chest_xray.tables import Evaluated, calibrated

mpl.use("Agg")
from matplotlib import pyplot as plt

if TYPE_CHECKING:
    from pathlib import Path

    from chest_xray.evaluation import Split

_BINS = 8
_SIZE_INCHES = (8.4, 4.0)
# Without it every build would differ.
_WITHOUT_DATE = {"Software": None}


def draw_plots(evaluated: Evaluated, folder: Path) -> list[str]:
    """Write one picture a finding; returns their names."""
    names = []
    for label, finding in evaluated.findings.items():
        figure, (left, right) = plt.subplots(1, 2, figsize=_SIZE_INCHES, dpi=100)
        splits = {
            "calibration split": evaluated.calibration.split(label),
            "test split": evaluated.test.split(label),
        }
        for (name, split), style in zip(splits.items(), ("--", "-"), strict=True):
            left.plot(*_curve(split), style, color="black", label=name)
            probabilities = calibrated(finding.calibration, split.pooled)
            bins = np.array_split(np.argsort(probabilities, kind="stable"), _BINS)
            right.plot(
                [probabilities[each].mean() for each in bins],
                [split.truth[each].mean() for each in bins],
                f"o{style}",
                color="black",
                markersize=4,
                label=name,
            )
        left.set(xlabel="1 - specificity", ylabel="sensitivity", title=f"{label}: ranking")
        right.plot([0, 1], [0, 1], ":", color="grey")
        right.set(xlabel="mean probability", ylabel="share with it", title="calibration, 8 bins")
        for axes in (left, right):
            axes.set_xlim(-0.02, 1.02)
            axes.set_ylim(-0.02, 1.02)
            axes.legend(loc="lower right", frameon=False, fontsize=8)
        figure.tight_layout()
        names.append(f"{label}.png")
        figure.savefig(folder / names[-1], metadata=_WITHOUT_DATE)
        plt.close(figure)
    return names


def _curve(split: Split) -> tuple[list[float], list[float]]:
    order = np.argsort(-split.pooled, kind="stable")
    truth = split.truth[order]
    return (
        [0.0, *(np.cumsum(1 - truth) / (1 - truth).sum()).tolist()],
        [0.0, *(np.cumsum(truth) / truth.sum()).tolist()],
    )
