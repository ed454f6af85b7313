"""From trained members to a bundle: export, calibrate, set gates, check maps, write the card.

Calibration, thresholds and gates come from the calibration split; the test splits are only looked
at for the card. Manifest and signature are written last, over every other file.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from chest_xray.card import write_card
from chest_xray.conformal import absent_threshold, present_threshold
from chest_xray.explanation_checks import (
    ExplanationChecks,
    MapDrawer,
    box_hits,
    deletion_share,
    film_inputs,
    flagged_films,
    incompleteness,
    mean_absolute_correlation,
)
from chest_xray.export import HEADS, export_member, keep_findings
from chest_xray.film_gate_training import train_film_gate
from chest_xray.gate_fitting import (
    enlarged,
    fit_familiarity,
    fit_film_gate,
    fit_film_limits,
    mildly_compressed,
)
from chest_xray.images import PREPROCESSING, IndexedImage, load_labels, read_index, select
from chest_xray.metadata import eligibility, metadata, network_definition
from chest_xray.plots import draw_plots
from chest_xray.recipe import LABELS, LEGS, MEMBERS, SEED, build_network
from chest_xray.reference import monitoring_reference
from chest_xray.run import leg_files
from chest_xray.scoring import model_input, on_grid, open_graphs, run, score_images
from chest_xray.tables import Evaluated, calibrated, is_shadow, spreads
from imaging_node.inference.bundle import (
    METADATA_NAME,
    Bundle,
    Finding,
    Member,
    load_bundle,
)
from imaging_node.inference.calibration import fit_beta_calibration
from imaging_node.inference.captum_check import captum_map, load_weights, pearson
from imaging_node.inference.execution import Execution
from imaging_node.inference.golden import synthetic_thorax, verify_golden
from imaging_node.inference.networks import MappedDenseNet, MappedTransformer
from imaging_node.inference.runtime import Sessions
from imaging_node.inference.signing import sign_bundle
from imaging_node.inference.trust import TrustedKey, key_id

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy.typing as npt
    import onnxruntime
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from chest_xray.bundles import BundlePlan
    from chest_xray.scoring import ScoredImages

GOLDEN_SHAPES = {"clear": (256, 208, 0.0), "opacity": (200, 240, 0.9), "narrow": (300, 150, 0.5)}
TOLERANCE = {"logit": 0.02, "probability": 0.01, "map": 0.1}
CAPTUM = {
    "cnn": ("net.class_layers.relu", "LayerGradCam"),
    "vit": ("norm", "LayerGradientXActivation"),
}
FAMILIAR_FILMS = 1200
VARIANT_FILMS = 60
COMPLETENESS_FILMS = 8
RANDOM_HEADS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """The members of one bundle, with only the findings that are reported.

    Attributes:
        seconds: Of training, per member, pretraining included.
    """

    labels: tuple[str, ...]
    networks: dict[str, MappedDenseNet | MappedTransformer]
    seconds: dict[str, float]


def intended(images: Sequence[IndexedImage], plan: BundlePlan) -> list[IndexedImage]:
    """Those whose age, where it is known, is the bundle's."""
    return [
        image
        for image in images
        if image.age_years is None
        or plan.minimum_age_years <= image.age_years < plan.maximum_age_years
    ]


def splits_of(plan: BundlePlan, data: Path) -> dict[str, list[IndexedImage]]:
    """Images of the bundle's splits, and the other source's test split."""
    index = read_index(data)
    return {
        "train": select(index, source=plan.source, split="train", labels=plan.labels),
        "calibration": intended(
            select(index, source=plan.source, split="val", labels=plan.labels), plan
        ),
        "test": intended(select(index, source=plan.source, split="test", labels=plan.labels), plan),
        "other": select(index, source=plan.other_source, split="test", labels=("Pneumonia",)),
    }


def read_trained(
    plan: BundlePlan, checkpoints: Path, calibration: Sequence[IndexedImage]
) -> Trained:
    """The members as the last leg of their task left them."""
    positives = load_labels(calibration, plan.labels).sum(0)
    kept = [index for index, count in enumerate(positives) if count >= plan.least_positives]
    networks, seconds = {}, {}
    for member in MEMBERS:
        legs = LEGS[member]
        last = max(index for index, leg in enumerate(legs) if leg.task is plan.task)
        network = build_network(member, len(LABELS[plan.task]), PREPROCESSING.rows)
        results = [
            torch.load(leg_files(checkpoints, member, index).result, weights_only=True)
            for index, leg in enumerate(legs)
            if leg.task in (plan.task, legs[0].task) and index <= last
        ]
        network.load_state_dict(results[-1]["averaged"])
        keep_findings(network, member, kept)
        networks[member] = network.eval()
        seconds[member] = sum(each["seconds"] for each in results)
    return Trained(
        labels=tuple(plan.labels[index] for index in kept), networks=networks, seconds=seconds
    )


def calibrate(plan: BundlePlan, scored: ScoredImages) -> dict[str, Finding]:
    """Curve, conformal thresholds and the limit of disagreement of every finding."""
    findings = {}
    for label in scored.labels:
        split = scored.split(label)
        curve = fit_beta_calibration(
            split.pooled, split.truth == 1, split=f"calibration split, {plan.people}"
        )
        probabilities = calibrated(curve, split.pooled)
        present = present_threshold(probabilities[split.truth == 0], plan.false_present)
        absent = absent_threshold(probabilities[split.truth == 1], plan.missed)
        # Where both calls would be allowed, as for a model that ranks nearly perfectly, what
        # lies between is left open: each promise then holds all the more.
        low, high = min(present, absent), max(present, absent)
        spread = np.quantile(spreads(curve, split.logits), plan.spread_quantile)
        findings[label] = Finding(
            label=label,
            calibration=curve,
            operating_point=high,
            undetermined_from=low,
            maximum_spread=round(float(spread), 4),
        )
    return findings


def declared_threshold(
    probability: float, finding: Finding, scored: ScoredImages
) -> dict[str, float]:
    """A threshold with what it gave on the calibration split."""
    split = scored.split(finding.label)
    called = calibrated(finding.calibration, split.pooled) >= probability
    return {
        "probability": probability,
        "sensitivity": round(float(called[split.truth == 1].mean()), 4),
        "specificity": round(float((~called[split.truth == 0]).mean()), 4),
    }


def golden_cases(
    folder: Path,
    sessions: Sequence[onnxruntime.InferenceSession],
    findings: dict[str, Finding],
) -> list[dict[str, object]]:
    """Write the synthetic inputs and their maps; what they scored goes into the metadata."""
    folder.mkdir()
    cases: list[dict[str, object]] = []
    for seed, (name, (rows, columns, opacity)) in enumerate(GOLDEN_SHAPES.items()):
        image = synthetic_thorax(rows, columns, opacity=opacity, seed=seed)
        np.save(folder / f"{name}.npy", image)
        answers = [run(session, golden_input(image)[np.newaxis]) for session in sessions]
        for member, answer in zip(MEMBERS, answers, strict=True):
            np.save(folder / f"{name}.{member}.maps.npy", answer[1][0])
        logits = [[round(float(each), 6) for each in answer[0][0]] for answer in answers]
        pooled = np.mean(logits, 0)
        cases.append(
            {
                "input": f"golden/{name}.npy",
                "logits": logits,
                "probabilities": [
                    round(finding.calibration.probability(float(logit)), 6)
                    for finding, logit in zip(findings.values(), pooled, strict=True)
                ],
                "maps": [f"golden/{name}.{member}.maps.npy" for member in MEMBERS],
            }
        )
    return cases


def golden_input(image: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """A synthetic image as the networks take it."""
    return model_input(on_grid(image)[1])


def check_explanations(
    trained: Trained,
    evaluated: Evaluated,
    graphs: dict[str, bytes],
    data: Path,
) -> ExplanationChecks:
    """Run every check of the maps; what needs films takes calibration films, the boxes all."""
    sessions = open_graphs(list(graphs.values()))
    drawer = MapDrawer(sessions)
    biases = np.mean([_head(trained, member).bias.detach().numpy() for member in MEMBERS], 0)
    films = film_inputs(data, evaluated.calibration.images[:COMPLETENESS_FILMS])
    flagged = flagged_films(evaluated.calibration, _logit_thresholds(evaluated))
    boxed = [
        image
        for image in (*evaluated.calibration.images, *evaluated.test.images)
        if image.source == "nih"
    ]
    boxes, hits, chance = box_hits(drawer, data, boxed, trained.labels)
    return ExplanationChecks(
        agreement=_least_agreement(trained, graphs, sessions),
        incompleteness=incompleteness(drawer, films, biases),
        random_correlation=_random_head_correlation(trained, films),
        deletion_share=deletion_share(
            drawer,
            film_inputs(data, [image for image, _ in flagged]),
            [column for _, column in flagged],
        ),
        deletion_films=len(flagged),
        boxes=boxes,
        hits=hits,
        chance=chance,
    )


def _logit_thresholds(evaluated: Evaluated) -> dict[str, float]:
    """The pooled logit at which each finding is flagged, from the calibration split's films."""
    thresholds = {}
    for label, finding in evaluated.findings.items():
        pooled = evaluated.calibration.split(label).pooled
        flagged = pooled[calibrated(finding.calibration, pooled) >= finding.operating_point]
        thresholds[label] = float(flagged.min()) if len(flagged) else float("inf")
    return thresholds


def _head(trained: Trained, member: str) -> torch.nn.Linear:
    head = trained.networks[member].get_submodule(HEADS[member])
    assert isinstance(head, torch.nn.Linear)
    return head


@torch.inference_mode()
def _random_head_correlation(trained: Trained, films: npt.NDArray[np.float32]) -> float:
    """Mean absolute correlation of the members' maps with those of random heads."""
    correlations = []
    inputs = torch.from_numpy(films)
    for member in MEMBERS:
        network, head = trained.networks[member], _head(trained, member)
        own, weight = network(inputs)[1].numpy(), head.weight.clone()
        generator = torch.Generator().manual_seed(SEED)
        for _ in range(RANDOM_HEADS):
            drawn = torch.randn(weight.shape, generator=generator) * weight.std()
            head.weight.copy_(drawn)
            random = network(inputs)[1].numpy()
            flat = (-1, *own.shape[2:])
            correlations.append(mean_absolute_correlation(own.reshape(flat), random.reshape(flat)))
        head.weight.copy_(weight)
    return float(np.mean(correlations))


def _least_agreement(
    trained: Trained,
    graphs: dict[str, bytes],
    sessions: Sequence[onnxruntime.InferenceSession],
) -> float:
    """Least correlation of a member's map with Captum's, over golden images and findings."""
    least = 1.0
    for member, session in zip(MEMBERS, sessions, strict=True):
        twin = build_network(member, len(trained.labels), PREPROCESSING.rows)
        load_weights(twin, graphs[member])
        described = Member(
            name=member,
            file="",
            weight=0.5,
            biases=(),
            captum_layer=CAPTUM[member][0],
            captum_method=CAPTUM[member][1],
            model=graphs[member],
        )
        for seed, (rows, columns, opacity) in enumerate(GOLDEN_SHAPES.values()):
            image = golden_input(synthetic_thorax(rows, columns, opacity=opacity, seed=seed))
            served = run(session, image[np.newaxis])[1][0]
            for finding, each in enumerate(served):
                theirs = captum_map(twin, described, image, finding)
                least = min(least, pearson(theirs, each))
    return least


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
    write_card(directory / "docs" / "README.md", evaluated, trained, checks, pictures)
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

    declaration["monitoring"] = monitoring_reference(signed(), data, splits["calibration"])
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
                "biases": [float(each) for each in _head(trained, member).bias],
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
