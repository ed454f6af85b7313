"""The tables of a card once more, from the weights that are shipped."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chest_xray.card import explanation_table
from chest_xray.gate_judging import gates_table, judge_gates
from chest_xray.map_checking import check_explanations
from chest_xray.recipe import MEMBERS
from chest_xray.scoring import open_graphs, score_images
from chest_xray.tables import TABLES, Evaluated
from chest_xray.trained import Trained, splits_of
from imaging_node.inference.bundle import load_bundle
from imaging_node.inference.captum_methods import open_twins
from imaging_node.inference.networks import MappedDenseNet, MappedTransformer

if TYPE_CHECKING:
    from pathlib import Path

    from chest_xray.bundles import BundlePlan
    from chest_xray.scoring import ScoredImages
    from imaging_node.inference.bundle import Bundle


def recheck(plan: BundlePlan, data: Path, zoo: Path) -> int:
    """Print every table of a bundle's card; returns how many differ from the card."""
    bundle = load_bundle(zoo / plan.id)
    sessions = open_graphs([member.model for member in bundle.members])
    splits = splits_of(plan, data)
    networks = _networks(bundle)
    labels = tuple(finding.label for finding in bundle.findings)

    def scored(name: str) -> ScoredImages:
        return score_images(sessions, labels, data, splits[name])

    evaluated = Evaluated(
        plan=plan,
        findings={finding.label: finding for finding in bundle.findings},
        calibration=scored("calibration"),
        test=scored("test"),
        other=scored("other"),
    )
    checks = check_explanations(
        Trained(labels=labels, networks=networks, seconds={}),
        evaluated,
        {member.name: member.model for member in bundle.members},
        data,
    )
    tables = {name: table(evaluated) for name, table in TABLES.items()}
    tables["explanation"] = explanation_table(checks)
    tables["gates"] = gates_table(judge_gates(bundle, splits["test"], splits["other"], data))
    card = bundle.card.read_text(encoding="utf-8")
    for name, text in tables.items():
        verdict = "as in the card" if text in card else "NOT as in the card"
        print(f"\n## {plan.id}: {name}: {verdict}\n{text}", flush=True)
    return sum(text not in card for text in tables.values())


def _networks(bundle: Bundle) -> dict[str, MappedDenseNet | MappedTransformer]:
    """The torch twins of the shipped graphs, by member."""
    networks = {}
    for member, twin in zip(MEMBERS, open_twins(bundle), strict=True):
        assert isinstance(twin, MappedDenseNet | MappedTransformer)
        networks[member] = twin
    return networks
