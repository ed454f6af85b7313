"""Load a model bundle, and refuse it unless every byte is the one that was signed off.

A bundle is a folder `model_zoo/<name>/` that MONAI can read too. `manifest.json` holds the
SHA-256 of every other file. Each file is read once: the bytes that were hashed are the
bytes that are used.
"""

from __future__ import annotations

import hashlib
import io
import json
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from imaging_node.domain.errors import BundleError
from imaging_node.domain.finding import FloatImage, ModelIdentity
from imaging_node.domain.priority import TriageRule
from imaging_node.domain.study import Eligibility
from imaging_node.inference.calibration import BetaCalibration
from imaging_node.inference.declaration import Declaration, DeclaredMonitoring
from imaging_node.inference.familiarity import DeclaredDepth, Depth, Familiarity
from imaging_node.inference.film_gate import DeclaredFilmGate
from imaging_node.inference.film_measures import FilmLimits
from imaging_node.inference.preprocessing import Preprocessing
from imaging_node.inference.quality import QualityGates

MANIFEST_NAME = "manifest.json"
METADATA_NAME = "configs/metadata.json"

_PICKLE_SUFFIXES = frozenset({".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".bin", ".joblib"})
# A pickle of protocol 2 to 5 starts with 0x80 and its number; torch.save writes a zip archive.
_PICKLE_STARTS = (*(bytes([0x80, protocol]) for protocol in range(2, 6)), b"PK\x03\x04")


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One network of the ensemble; fields as in `declaration.DeclaredMember`.

    Attributes:
        weight: Normalised: the weights of all members sum to 1.
        model: The ONNX graph, weights embedded.
    """

    name: str
    file: str
    weight: float
    biases: tuple[float, ...]
    captum_layer: str
    captum_method: str
    model: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One output of the bundle.

    Attributes:
        operating_point: Lowest probability that is called present.
        undetermined_from: Lowest probability that is not called absent.
        maximum_spread: Members that differ more leave the finding open; None: never.
    """

    label: str
    calibration: BetaCalibration
    operating_point: float
    undetermined_from: float
    maximum_spread: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldenCase:
    """A synthetic image and the answer it must get.

    Attributes:
        file: The input's path in the bundle.
        p_values: Shape (rows, columns), in [0, 1].
        logits: Shape (members, findings).
        probabilities: Shape (findings,).
        maps: One array per member, shape (findings, h, w).
    """

    file: str
    p_values: FloatImage
    logits: npt.NDArray[np.float64]
    probabilities: npt.NDArray[np.float64]
    maps: tuple[npt.NDArray[np.float32], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldenTolerance:
    """Largest absolute difference per kind of number, in its unit."""

    logit: float
    probability: float
    map: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A bundle whose files are all as their manifest says.

    Attributes:
        directory: Where it was read from.
        files: SHA-256 by path of everything but the manifest, 64 hex digits each.
        description: One English sentence from the metadata.
        film_limits, film_gate, familiarity: Gates beside `quality_gates`; see `gates`.
        film_gate_model: The film gate's graph; empty when there is none.
        explanation_verified: Whether its maps agreed with Captum and passed the deletion test
            when it was built; if not, captures should say so.
        card: The model card.
        monitoring: What drift is measured against, None if the bundle does not say.
    """

    directory: Path
    files: Mapping[str, str]
    identity: ModelIdentity
    description: str
    eligibility: Eligibility
    findings: tuple[Finding, ...]
    triage_rules: tuple[TriageRule, ...]
    preprocessing: Preprocessing
    quality_gates: QualityGates
    film_limits: FilmLimits
    film_gate: DeclaredFilmGate | None
    film_gate_model: bytes = field(repr=False)
    familiarity: Familiarity | None
    members: tuple[Member, ...]
    explanation_verified: bool
    golden: tuple[GoldenCase, ...]
    golden_tolerance: GoldenTolerance
    card: Path
    monitoring: DeclaredMonitoring | None = None


def default_bundle_directory() -> Path:
    """The bundles that came with this package: beside it when installed, else the checkout's."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "model_zoo"
    return installed if installed.is_dir() else package.parent / "model_zoo"


def find_bundles(directory: Path) -> tuple[Path, ...]:
    """Folders that stand directly in `directory`, by name; hidden ones are left out."""
    if not directory.is_dir():
        return ()
    return tuple(
        sorted(
            each
            for each in directory.iterdir()
            if each.is_dir() and not each.name.startswith((".", "_"))
        )
    )


def load_bundle(directory: Path) -> Bundle:
    """Read and verify the bundle in `directory`; its golden cases are run by `golden`.

    Raises:
        BundleError: One line that names the bundle and the file at fault.
    """
    contents = _read_verified(directory)
    metadata = _read_json(directory, METADATA_NAME, contents)
    try:
        declaration = Declaration.model_validate(metadata.get("imaging_node"))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in ("imaging_node", *first["loc"]))
        raise _refused(directory, METADATA_NAME, f"{where}: {first['msg']}") from error
    if declaration.id != directory.name:
        raise _refused(directory, METADATA_NAME, f"its id is {declaration.id!r}")
    hashes = {path: hashlib.sha256(content).hexdigest() for path, content in contents.items()}
    total_weight = sum(member.weight for member in declaration.members)
    return Bundle(
        directory=directory,
        files=hashes,
        identity=ModelIdentity(
            name=declaration.id,
            version=str(metadata.get("version", "")),
            manufacturer=declaration.manufacturer,
            digest=_model_digest(declaration, hashes),
        ),
        description=str(metadata.get("description", "")),
        eligibility=Eligibility(**declaration.eligibility.model_dump()),
        findings=tuple(
            Finding(
                label=output.label,
                calibration=output.calibration,
                operating_point=output.operating_point.probability,
                undetermined_from=output.undetermined_from.probability,
                maximum_spread=output.maximum_spread,
            )
            for output in declaration.outputs
        ),
        triage_rules=tuple(TriageRule(**rule.model_dump()) for rule in declaration.priority),
        preprocessing=declaration.preprocess,
        quality_gates=declaration.quality_gates,
        film_limits=declaration.film_limits,
        film_gate=declaration.film_gate,
        film_gate_model=b""
        if declaration.film_gate is None
        else _content(directory, declaration.film_gate.file, contents),
        familiarity=None
        if declaration.familiarity is None
        else Familiarity(
            depths=tuple(
                _read_depth(directory, depth, contents) for depth in declaration.familiarity.depths
            ),
            limits=declaration.familiarity.limits,
        ),
        members=tuple(
            Member(
                **member.model_dump(exclude={"weight"}),
                weight=member.weight / total_weight,
                model=_content(directory, member.file, contents),
            )
            for member in declaration.members
        ),
        explanation_verified=declaration.explain.status == "verified",
        golden=tuple(
            GoldenCase(
                file=case.input,
                p_values=_read_array(directory, case.input, contents),
                logits=np.array(case.logits, np.float64),
                probabilities=np.array(case.probabilities, np.float64),
                maps=tuple(_read_array(directory, path, contents) for path in case.maps),
            )
            for case in declaration.golden
        ),
        golden_tolerance=GoldenTolerance(**declaration.golden_tolerance.model_dump()),
        card=directory / _present(directory, declaration.card, contents),
        monitoring=declaration.monitoring,
    )


def _refused(directory: Path, file: str, fault: str) -> BundleError:
    # A file name from outside may hold line breaks; the sentence stays one line.
    return BundleError(f"bundle {directory.name}: {ascii(file)[1:-1]}: {' '.join(fault.split())}")


def _read_verified(directory: Path) -> dict[str, bytes]:
    """All files but the manifest, by POSIX path, once every one is as the manifest says."""
    if directory.is_symlink() or not directory.is_dir():
        raise _refused(directory, ".", "is not a folder; check the name and the model directory")
    contents = {
        path.relative_to(directory).as_posix(): _read_plain(directory, path)
        for path in sorted(directory.rglob("*"))
        if not stat.S_ISDIR(path.lstat().st_mode)
    }
    manifest = _read_json(directory, MANIFEST_NAME, contents)
    expected = manifest.get("files")
    if not isinstance(expected, dict):
        raise _refused(directory, MANIFEST_NAME, "has no `files`")
    del contents[MANIFEST_NAME]
    for name in sorted(expected.keys() - contents.keys()):
        raise _refused(directory, name, "is missing; install the bundle again")
    for name, content in contents.items():
        if name not in expected:
            raise _refused(directory, name, "was added: it is not in the manifest; remove it")
        if hashlib.sha256(content).hexdigest() != expected[name]:
            raise _refused(directory, name, "was changed: its SHA-256 is not the manifest's")
    return contents


def _read_plain(directory: Path, path: Path) -> bytes:
    """Bytes of one file that can be nothing but a plain file of data."""
    name = path.relative_to(directory).as_posix()
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode):
        raise _refused(directory, name, "is a link or device; a bundle holds plain files")
    if status.st_nlink > 1:
        raise _refused(directory, name, "is hard-linked and could change elsewhere; copy it")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _refused(directory, name, f"cannot be read: {error.strerror}") from error
    if path.suffix.lower() in _PICKLE_SUFFIXES or content.startswith(_PICKLE_STARTS):
        raise _refused(directory, name, "is a pickle, which is code; bundles hold only data")
    return content


def _present(directory: Path, name: str, contents: Mapping[str, bytes]) -> str:
    if name not in contents:
        raise _refused(directory, name, "is missing, although the metadata name it")
    return name


def _content(directory: Path, name: str, contents: Mapping[str, bytes]) -> bytes:
    return contents[_present(directory, name, contents)]


def _read_json(directory: Path, name: str, contents: Mapping[str, bytes]) -> dict[str, object]:
    try:
        parsed = json.loads(_content(directory, name, contents))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise _refused(directory, name, f"is not JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise _refused(directory, name, "is not a JSON object")
    return parsed


def _read_array(
    directory: Path, name: str, contents: Mapping[str, bytes]
) -> npt.NDArray[np.float32]:
    try:
        loaded = np.load(io.BytesIO(_content(directory, name, contents)), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise _refused(directory, name, f"is not a plain .npy array: {error}") from error
    if not isinstance(loaded, np.ndarray) or loaded.dtype != np.float32:
        raise _refused(directory, name, "is not a float32 array")
    return loaded


def _gates_digest(declaration: Declaration, hashes: Mapping[str, str]) -> dict[str, object]:
    """What can turn a score into "not analysed"."""
    gates = declaration.model_dump(
        mode="json", include={"quality_gates", "film_limits", "film_gate", "familiarity"}
    )
    familiarity = declaration.familiarity
    files = [] if declaration.film_gate is None else [declaration.film_gate.file]
    if familiarity is not None:
        files += [name for each in familiarity.depths for name in (each.space, each.neighbours)]
    return gates | {"files": [hashes.get(name, "") for name in files if name]}


def _read_depth(directory: Path, depth: DeclaredDepth, contents: Mapping[str, bytes]) -> Depth:
    space = _read_array(directory, depth.space, contents)
    return Depth(
        name=depth.name,
        first=depth.first,
        last=depth.last,
        mean=space[0],
        directions=space[1:],
        residual_scale=depth.residual_scale,
        neighbours=_read_array(directory, depth.neighbours, contents) if depth.neighbours else None,
    )


def _model_digest(declaration: Declaration, hashes: Mapping[str, str]) -> str:
    """Digest over all that turns an image into scores, and nothing else."""
    decisive = {
        "members": [
            {"sha256": hashes.get(member.file, ""), "weight": member.weight}
            for member in declaration.members
        ],
        "preprocess": declaration.preprocess.model_dump(mode="json"),
        "outputs": [
            output.model_dump(
                mode="json",
                include={
                    "label": True,
                    "calibration": {"coefficients", "covariance"},
                    "operating_point": {"probability"},
                    "undetermined_from": {"probability"},
                    "maximum_spread": True,
                },
                exclude_none=True,
            )
            for output in declaration.outputs
        ],
        "gates": _gates_digest(declaration, hashes),
    }
    canonical = json.dumps(decisive, sort_keys=True, separators=(",", ":"))
    return "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()
