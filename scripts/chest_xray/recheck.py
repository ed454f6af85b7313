"""The tables of a card once more, from the weights that are shipped."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chest_xray.scoring import open_graphs, score_images
from chest_xray.tables import TABLES, Evaluated
from chest_xray.trained import splits_of
from imaging_node.inference.bundle import load_bundle

if TYPE_CHECKING:
    from pathlib import Path

    from chest_xray.bundles import BundlePlan
    from chest_xray.scoring import ScoredImages


def recheck(plan: BundlePlan, data: Path, zoo: Path) -> int:
    """Print every table of a bundle's card; returns how many differ from the card."""
    bundle = load_bundle(zoo / plan.id)
    sessions = open_graphs([member.model for member in bundle.members])
    splits = splits_of(plan, data)
    labels = [finding.label for finding in bundle.findings]

    def scored(name: str) -> ScoredImages:
        return score_images(sessions, labels, data, splits[name])

    evaluated = Evaluated(
        plan=plan,
        findings={finding.label: finding for finding in bundle.findings},
        calibration=scored("calibration"),
        test=scored("test"),
        other=scored("other"),
    )
    card = bundle.card.read_text(encoding="utf-8")
    differences = 0
    for name, table in TABLES.items():
        text = table(evaluated)
        is_same = text in card
        differences += not is_same
        print(f"\n## {plan.id}: {name}: {'as in the card' if is_same else 'NOT as in the card'}")
        print(text)
    return differences
