"""From trained members to a bundle: export, calibrate, set gates, check maps, write the card.

Calibration, thresholds and gates come from the calibration split; the test splits are only looked
at for the card. Manifest and signature are written last, over every other file.
"""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import numpy as np

from chest_xray.calibrating import calibrate, declared_threshold
from chest_xray.card import write_card
from chest_xray.export import export_member
from chest_xray.film_gate_training import train_film_gate
from chest_xray.gate_fitting import (
    enlarged,
    fit_familiarity,
    fit_film_gate,
    fit_film_limits,
    mildly_compressed,
)
from chest_xray.gate_judging import gates_table, judge_gates
from chest_xray.golden_cases import TOLERANCE, golden_cases
from chest_xray.images import PREPROCESSING
from chest_xray.map_checking import CAPTUM, check_explanations
from chest_xray.metadata import eligibility, metadata, network_definition
from chest_xray.plots import draw_plots
from chest_xray.recipe import MEMBERS, SEED
from chest_xray.reference import monitoring_reference
from chest_xray.scoring import open_graphs, score_images
from chest_xray.tables import Evaluated, is_shadow
from chest_xray.trained import Trained, head_of, read_trained, splits_of
from imaging_node.inference.bundle import (
    METADATA_NAME,
    Bundle,
    Finding,
    load_bundle,
)
from imaging_node.inference.execution import Execution
from imaging_node.inference.golden import verify_golden
from imaging_node.inference.runtime import Sessions
from imaging_node.inference.signing import sign_bundle
from imaging_node.inference.trust import TrustedKey, key_id

if TYPE_CHECKING:
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from chest_xray.bundles import BundlePlan
    from chest_xray.scoring import ScoredImages

FAMILIAR_FILMS = 800
VARIANT_FILMS = 60


def write_json(path: Path, content: object) -> None:
    """Readable JSON with a line break at its end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def build(
    plan: BundlePlan,
    checkpoints: Path,
    data: Path,
    zoo: Path,
    *,
    licence: Path,
    signing_key: Ed25519PrivateKey,
) -> None:
    """Write the whole bundle anew and sign it, then load and test it as the node will."""
    directory = zoo / plan.id
    shutil.rmtree(directory, ignore_errors=True)
    for name in ("models", "gates", "docs"):
        (directory / name).mkdir(parents=True)
    splits = splits_of(plan, data)
    trained = read_trained(plan, checkpoints, splits["calibration"])
    graphs = {
        member: export_member(network, directory / "models" / f"{member}.onnx")
        for member, network in trained.networks.items()
    }
    sessions = open_graphs(list(graphs.values()))

    def scored(name: str, count: int | None = None) -> ScoredImages:
        return score_images(sessions, trained.labels, data, splits[name][:count])

    calibration = scored("calibration")
    findings = calibrate(plan, calibration)
    evaluated = Evaluated(
        plan=plan,
        findings=findings,
        calibration=calibration,
        test=scored("test"),
        other=scored("other"),
    )
    variants = [
        score_images(sessions, trained.labels, data, splits["calibration"][:VARIANT_FILMS], change)
        for change in (mildly_compressed, enlarged)
    ]
    order = np.random.default_rng(SEED).permutation(len(splits["train"]))[:FAMILIAR_FILMS]
    training = score_images(
        sessions, trained.labels, data, [splits["train"][each] for each in order]
    )
    gates: dict[str, object] = {
        "film_limits": fit_film_limits([calibration, *variants]).model_dump(mode="json"),
        "film_gate": fit_film_gate(
            train_film_gate(checkpoints, data), directory, [calibration, *variants]
        ).model_dump(mode="json"),
        "familiarity": fit_familiarity(directory, training, [calibration, *variants]).model_dump(
            mode="json"
        ),
    }
    checks = check_explanations(trained, evaluated, graphs, data)
    print(plan.id, checks, flush=True)
    pictures = draw_plots(evaluated, directory / "docs")
    card = directory / "docs" / "README.md"
    write_card(card, evaluated, trained, checks, pictures)
    shutil.copyfile(licence, directory / "LICENSE")
    write_json(
        directory / "configs" / "inference.json",
        {
            "bundle_root": ".",
            "network_def": network_definition("cnn", len(trained.labels)),
            "second_network_def": network_definition("vit", len(trained.labels)),
            "preprocessing": PREPROCESSING.model_dump(mode="json"),
        },
    )
    declaration = _declaration(plan, trained, findings, calibration, gates)
    declaration["explain"] = {
        "kind": "class activation",
        "status": "verified" if checks.is_passed else "unverified",
    }
    if is_shadow(evaluated):
        declaration["initial_state"] = "shadow"
    declaration["golden"] = golden_cases(directory / "golden", sessions, findings)
    public = signing_key.public_key()
    own_key = TrustedKey(key_id=key_id(public), owner="signer", public=public)

    def signed() -> Bundle:
        write_json(directory / METADATA_NAME, metadata(plan, trained.labels, declaration))
        sign_bundle(directory, signing_key)
        return load_bundle(directory, [own_key])

    unwatched = signed()
    declaration["monitoring"] = monitoring_reference(unwatched, data, splits["calibration"])
    figures = judge_gates(unwatched, splits["test"], splits["other"], data)
    print(plan.id, figures.faults or "gates as wanted", flush=True)
    write_card(card, evaluated, trained, checks, pictures, gates_table(figures))
    bundle = signed()
    verify_golden(bundle, Sessions(bundle, Execution()))
    size = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
    print(f"{plan.id} {plan.version} {bundle.identity.digest}: {size / 1e6:.2f} MB", flush=True)


def _declaration(
    plan: BundlePlan,
    trained: Trained,
    findings: dict[str, Finding],
    calibration: ScoredImages,
    gates: dict[str, object],
) -> dict[str, object]:
    return {
        "schema": 1,
        "id": plan.id,
        "manufacturer": "imaging-node project",
        "runtime": "onnxruntime",
        "members": [
            {
                "name": member,
                "file": f"models/{member}.onnx",
                "weight": 0.5,
                "biases": head_of(trained, member).bias.detach().tolist(),
                "captum_layer": CAPTUM[member][0],
                "captum_method": CAPTUM[member][1],
            }
            for member in MEMBERS
        ],
        "pooling": "weighted mean of logits",
        "preprocess": PREPROCESSING.model_dump(mode="json"),
        "eligibility": eligibility(plan),
        "selection": {"per": "image", "choose": "highest probability"},
        "quality_gates": {"minimum_standard_deviation": 0.01, "maximum_one_grey_share": 0.98},
        **gates,
        "outputs": [
            {
                "label": label,
                "calibration": finding.calibration.model_dump(mode="json"),
                "operating_point": declared_threshold(
                    finding.operating_point, finding, calibration
                ),
                "undetermined_from": declared_threshold(
                    finding.undetermined_from, finding, calibration
                ),
                "maximum_spread": finding.maximum_spread,
            }
            for label, finding in findings.items()
        ],
        "priority": [
            {
                "finding": label,
                "minimum_probability": findings[label].operating_point,
                "priority": "urgent",
            }
            for label in plan.urgent
            if label in findings
        ],
        "golden_tolerance": TOLERANCE,
        "card": "docs/README.md",
    }
