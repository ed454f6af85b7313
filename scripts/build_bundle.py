"""Build model_zoo/chest_xray_pneumonia from two checkpoints: export, calibrate, test, sign off.

    python scripts/build_bundle.py --checkpoints DIR --signing-key KEY.pem

Calibration and thresholds come from the validation split; the test splits are only looked at
for the card. Manifest and signature are written last, over every other file.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from bundle_metadata import LABEL, VERSION, eligibility, metadata, network_definition
from evaluation import Split, threshold_at_sensitivity, threshold_at_specificity
from map_check import DeletionResult, delete_and_score
from model_card import CardFigures, write_card
from onnx import TensorProto, helper, numpy_helper
from train import DEFAULT_DATA, PREPROCESSING, build_network, index_rows, read_p_values

from imaging_node.inference.bundle import METADATA_NAME, Member, load_bundle
from imaging_node.inference.calibration import BetaCalibration, fit_beta_calibration
from imaging_node.inference.captum_check import HALF_SUFFIX, captum_map, load_weights, pearson
from imaging_node.inference.execution import Execution
from imaging_node.inference.golden import synthetic_thorax, verify_golden
from imaging_node.inference.preprocessing import prepare
from imaging_node.inference.runtime import Sessions
from imaging_node.inference.signing import read_private_key, sign_bundle

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

NAME = "chest_xray_pneumonia"
REPOSITORY = Path(__file__).resolve().parents[1]
MEMBERS = ("cnn", "vit")
OPSET = 17
SMALLEST_HALF = 256
LEAST_CORRELATION = 0.999
DELETION_FILMS = 80
SPECIFICITY_OF_PRESENT = 0.975
SENSITIVITY_OF_ABSENT = 0.99
GOLDEN_SHAPES = {"clear": (256, 208, 0.0), "opacity": (200, 240, 0.9), "narrow": (300, 150, 0.5)}
TOLERANCE = {"logit": 0.02, "probability": 0.01, "map": 0.1}
CAPTUM = {
    "cnn": ("net.class_layers.relu", "LayerGradCam"),
    "vit": ("norm", "LayerGradientXActivation"),
}


def export(network: torch.nn.Module, destination: Path) -> bytes:
    """ONNX graph of a network, weights under their torch names, the large ones as float16.

    It is also written to `destination`.
    """
    names = ("image", "logits", "maps")
    # The legacy exporter is fast and its graph runs faster. Folding and fusing is left to
    # ONNX Runtime, so that every weight keeps the name under which Captum's twin finds it.
    torch.onnx.export(
        network.eval(),
        (torch.zeros(2, 1, PREPROCESSING.rows, PREPROCESSING.columns),),
        destination,
        input_names=list(names[:1]),
        output_names=list(names[1:]),
        dynamic_axes={name: {0: "n"} for name in names},
        dynamo=False,
        opset_version=OPSET,
        do_constant_folding=False,
        training=torch.onnx.TrainingMode.PRESERVE,
    )
    model = onnx.load(destination)
    casts = []
    for initializer in list(model.graph.initializer):
        values = numpy_helper.to_array(initializer)
        if values.dtype != np.float32 or values.size <= SMALLEST_HALF:
            continue
        half = numpy_helper.from_array(values.astype(np.float16), initializer.name + HALF_SUFFIX)
        casts.append(
            helper.make_node("Cast", [half.name], [initializer.name], to=TensorProto.FLOAT)
        )
        model.graph.initializer.remove(initializer)
        model.graph.initializer.append(half)
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.checker.check_model(model)
    exported = bytes(model.SerializeToString())
    destination.write_bytes(exported)
    return exported


def run_member(
    session: onnxruntime.InferenceSession, inputs: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Logits (n, findings) and maps (n, findings, h, w), sixteen images a launch."""
    parts = [
        session.run(None, {"image": inputs[start : start + 16]})
        for start in range(0, len(inputs), 16)
    ]
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


def score_split(
    sessions: list[onnxruntime.InferenceSession], data: Path, source: str, split: str
) -> Split:
    """Score one split exactly as the node would."""
    rows = index_rows(data, source, split)
    inputs = np.stack([prepare(read_p_values(data, row), PREPROCESSING) for row in rows])
    logits = np.stack([run_member(session, inputs)[0][:, 0] for session in sessions])
    return Split(
        truth=np.array([float(row["Pneumonia"]) for row in rows], np.float32),
        patients=[row["patient_id"] for row in rows],
        views=[row["view"] for row in rows],
        logits=logits.astype(np.float64),
        pooled=logits.astype(np.float64).mean(0),
    )


def delete_by_map(
    sessions: list[onnxruntime.InferenceSession], data: Path, validation: Split
) -> DeletionResult:
    """The deletion test on the first validation films with pneumonia whose logit is positive."""
    rows = index_rows(data, "kermany", "val")
    chosen = [
        row
        for row, truth, logit in zip(rows, validation.truth, validation.pooled, strict=True)
        if truth == 1 and logit > 0
    ][:DELETION_FILMS]
    inputs = np.stack([prepare(read_p_values(data, row), PREPROCESSING) for row in chosen])

    def predict(
        batch: npt.NDArray[np.float32],
    ) -> tuple[npt.NDArray[np.float32], list[npt.NDArray[np.float32]]]:
        answers = [run_member(session, batch) for session in sessions]
        logits = np.mean([logits[:, 0] for logits, _ in answers], axis=0)
        return np.asarray(logits, np.float32), [maps for _, maps in answers]

    return delete_and_score(inputs, predict)


def calibrated(
    calibration: BetaCalibration, pooled: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Probabilities of pooled logits, shape (n,)."""
    return np.array([calibration.probability(float(logit)) for logit in pooled])


def threshold(
    probability: float, probabilities: npt.NDArray[np.float64], truth: npt.NDArray[np.float32]
) -> dict[str, float]:
    """A threshold as the metadata declare it."""
    called = probabilities >= probability
    return {
        "probability": probability,
        "sensitivity": round(float(called[truth == 1].mean()), 4),
        "specificity": round(float((~called[truth == 0]).mean()), 4),
    }


def golden_cases(
    folder: Path, sessions: list[onnxruntime.InferenceSession], calibration: BetaCalibration
) -> list[dict[str, object]]:
    """Write the synthetic inputs and their maps; what they scored goes into the metadata."""
    folder.mkdir()
    cases: list[dict[str, object]] = []
    for seed, (name, (rows, columns, opacity)) in enumerate(GOLDEN_SHAPES.items()):
        image = synthetic_thorax(rows, columns, opacity=opacity, seed=seed)
        np.save(folder / f"{name}.npy", image)
        answers = [
            run_member(session, prepare(image, PREPROCESSING)[np.newaxis]) for session in sessions
        ]
        for member, (_, maps) in zip(MEMBERS, answers, strict=True):
            np.save(folder / f"{name}.{member}.maps.npy", maps[0])
        logits = [[round(float(logits[0, 0]), 6)] for logits, _ in answers]
        pooled = float(np.mean([row[0] for row in logits]))
        cases.append(
            {
                "input": f"golden/{name}.npy",
                "logits": logits,
                "probabilities": [round(calibration.probability(pooled), 6)],
                "maps": [f"golden/{name}.{member}.maps.npy" for member in MEMBERS],
            }
        )
    return cases


def write_json(path: Path, content: object) -> None:
    """Readable JSON with a line break at its end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def build(checkpoints: Path, data: Path, directory: Path, signing_key: Ed25519PrivateKey) -> None:
    """Write the whole bundle anew, then load and test it as the node will."""
    shutil.rmtree(directory, ignore_errors=True)
    (directory / "models").mkdir(parents=True)
    networks, biases, sessions = {}, {}, []
    for member in MEMBERS:
        network = build_network(member)
        state = torch.load(checkpoints / f"{member}.best.pt", weights_only=True)
        network.load_state_dict(state["averaged"])
        networks[member] = network
        head = "net.class_layers.out.bias" if member == "cnn" else "head.bias"
        biases[member] = [float(each) for each in network.state_dict()[head]]
        model = export(network, directory / "models" / f"{member}.onnx")
        sessions.append(onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]))
        print(f"{member}: epoch {state['epoch'] + 1}, {len(model) / 1e6:.2f} MB", flush=True)

    validation = score_split(sessions, data, "kermany", "val")
    calibration = fit_beta_calibration(
        validation.pooled, validation.truth == 1, split="validation split, 1 to 5 years"
    )
    probabilities = calibrated(calibration, validation.pooled)
    present = threshold_at_specificity(probabilities, validation.truth, SPECIFICITY_OF_PRESENT)
    open_from = min(
        present, threshold_at_sensitivity(probabilities, validation.truth, SENSITIVITY_OF_ABSENT)
    )
    declared_present = threshold(present, probabilities, validation.truth)
    declared_open = threshold(open_from, probabilities, validation.truth)
    print("present", declared_present, "undetermined", declared_open, calibration, flush=True)

    figures = CardFigures(
        validation=validation,
        paediatric_test=score_split(sessions, data, "kermany", "test"),
        adult_test=score_split(sessions, data, "nih", "test"),
        calibration=calibration,
        operating_point=present,
        undetermined_from=open_from,
        deletion=delete_by_map(sessions, data, validation),
    )
    print(figures.deletion, flush=True)
    write_card(directory / "docs" / "README.md", figures)
    shutil.copyfile(REPOSITORY / "LICENSE", directory / "LICENSE")
    write_json(
        directory / "configs" / "inference.json",
        {
            "bundle_root": ".",
            "network_def": network_definition("cnn"),
            "second_network_def": network_definition("vit"),
            "preprocessing": PREPROCESSING.model_dump(mode="json"),
        },
    )
    declaration: dict[str, object] = {
        "schema": 1,
        "id": NAME,
        "manufacturer": "imaging-node project",
        "runtime": "onnxruntime",
        "members": [
            {
                "name": member,
                "file": f"models/{member}.onnx",
                "weight": 0.5,
                "biases": biases[member],
                "captum_layer": CAPTUM[member][0],
                "captum_method": CAPTUM[member][1],
            }
            for member in MEMBERS
        ],
        "pooling": "weighted mean of logits",
        "preprocess": PREPROCESSING.model_dump(mode="json"),
        "eligibility": eligibility(),
        "selection": {"per": "image", "choose": "highest probability"},
        "quality_gates": {"minimum_standard_deviation": 0.01, "maximum_one_grey_share": 0.98},
        "outputs": [
            {
                "label": LABEL,
                "calibration": calibration.model_dump(mode="json"),
                "operating_point": declared_present,
                "undetermined_from": declared_open,
            }
        ],
        "explain": {"kind": "class activation", "status": "unverified"},
        "priority": [{"finding": LABEL, "minimum_probability": present, "priority": "urgent"}],
        "golden": golden_cases(directory / "golden", sessions, calibration),
        "golden_tolerance": TOLERANCE,
        "card": "docs/README.md",
    }
    if maps_agree_with_captum(directory, networks, sessions) and figures.deletion.is_passed:
        declaration["explain"] = {"kind": "class activation", "status": "verified"}
    write_json(directory / METADATA_NAME, metadata(declaration))
    sign_bundle(directory, signing_key)
    bundle = load_bundle(directory)
    verify_golden(bundle, Sessions(bundle, Execution()))
    size = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
    print(f"{NAME} {VERSION} {bundle.identity.digest}: {size / 1e6:.2f} MB")


def maps_agree_with_captum(
    directory: Path,
    networks: dict[str, torch.nn.Module],
    sessions: list[onnxruntime.InferenceSession],
) -> bool:
    """Whether every member's map of every golden image equals Captum's at the pinned layer."""
    least = 1.0
    for member, session in zip(MEMBERS, sessions, strict=True):
        model = (directory / "models" / f"{member}.onnx").read_bytes()
        load_weights(networks[member], model)
        described = Member(
            name=member,
            file="",
            weight=0.5,
            biases=(),
            captum_layer=CAPTUM[member][0],
            captum_method=CAPTUM[member][1],
            model=model,
        )
        for name in GOLDEN_SHAPES:
            image = prepare(np.load(directory / "golden" / f"{name}.npy"), PREPROCESSING)
            served = run_member(session, image[np.newaxis])[1][0, 0]
            least = min(least, pearson(captum_map(networks[member], described, image, 0), served))
    print(f"least correlation of a map with Captum's: {least:.7f}", flush=True)
    return least >= LEAST_CORRELATION


def main() -> None:
    """Read the arguments and build."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--checkpoints", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA)
    parser.add_argument("--out", type=Path, default=REPOSITORY / "model_zoo" / NAME)
    parser.add_argument("--signing-key", type=Path, required=True, help="private key, PEM")
    arguments = parser.parse_args()
    signing_key = read_private_key(arguments.signing_key)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    build(arguments.checkpoints, arguments.data, arguments.out, signing_key)


if __name__ == "__main__":
    main()
