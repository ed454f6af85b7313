"""Load a model bundle, and refuse it unless every byte is the one that was signed.

A bundle is a folder `<id>/`, or `<id>@<version>/`, that MONAI can read too.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from imaging_node.domain.finding import FloatImage, ModelIdentity
from imaging_node.domain.model_state import ModelState
from imaging_node.domain.priority import TriageRule
from imaging_node.domain.study import Eligibility
from imaging_node.inference.bundle_files import read_json, read_signed, refused
from imaging_node.inference.calibration import BetaCalibration
from imaging_node.inference.declaration import Declaration, DeclaredMonitoring
from imaging_node.inference.familiarity import DeclaredDepth, Depth, Familiarity
from imaging_node.inference.film_gate import DeclaredFilmGate
from imaging_node.inference.film_measures import FilmLimits
from imaging_node.inference.preprocessing import Preprocessing
from imaging_node.inference.quality import QualityGates
from imaging_node.inference.trust import TrustedKey, trusted_keys

METADATA_NAME = "configs/metadata.json"
SCHEMA_VERSION = 1  # of the key imaging_node
VERSION_MARK = "@"


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
        files: SHA-256 by path of everything but manifest and signature, 64 hex digits each.
        manifest_digest: "sha256:..." over the manifest: it names every byte of the bundle.
        signer: Whose key it was signed with.
        initial_state: SHADOW when its author says that it must first be promoted; else PRIMARY.
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
    manifest_digest: str
    signer: TrustedKey
    initial_state: ModelState
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


def load_bundle(directory: Path, trusted: Sequence[TrustedKey] | None = None) -> Bundle:
    """Read and verify the bundle in `directory`; its golden cases are run by `golden`.

    Args:
        directory: Named "<id>" or "<id>@<version>".
        trusted: Keys that may have signed it; None: the project's.

    Raises:
        BundleError: One line that names the bundle and the file at fault.
    """
    signed = read_signed(directory, trusted_keys() if trusted is None else trusted)
    contents = signed.contents
    metadata = read_json(directory, METADATA_NAME, _content(directory, METADATA_NAME, contents))
    declaration = _declaration(directory, metadata)
    version = str(metadata.get("version", ""))
    if directory.name not in (declaration.id, f"{declaration.id}{VERSION_MARK}{version}"):
        raise refused(
            directory, METADATA_NAME, f"its id is {declaration.id!r}, its version {version!r}"
        )
    hashes = signed.hashes
    total_weight = sum(member.weight for member in declaration.members)
    return Bundle(
        directory=directory,
        files=hashes,
        manifest_digest=signed.manifest_digest,
        signer=signed.signer,
        initial_state=ModelState(declaration.initial_state or ModelState.PRIMARY),
        identity=ModelIdentity(
            name=declaration.id,
            version=version,
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
        else _graph(directory, declaration.film_gate.file, contents),
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
                model=_graph(directory, member.file, contents),
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


def _declaration(directory: Path, metadata: Mapping[str, object]) -> Declaration:
    said = metadata.get("imaging_node")
    if said is None:
        raise refused(
            directory, METADATA_NAME, "has no key imaging_node: no bundle of this node's kind"
        )
    schema = said.get("schema") if isinstance(said, dict) else None
    if schema != SCHEMA_VERSION:
        raise refused(
            directory,
            METADATA_NAME,
            f"imaging_node.schema is {schema!a}; this node knows {SCHEMA_VERSION}",
        )
    try:
        return Declaration.model_validate(said)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in ("imaging_node", *first["loc"]))
        raise refused(directory, METADATA_NAME, f"{where}: {first['msg']}") from error


def _present(directory: Path, name: str, contents: Mapping[str, bytes]) -> str:
    if name not in contents:
        raise refused(directory, name, "is missing, although the metadata name it")
    return name


def _content(directory: Path, name: str, contents: Mapping[str, bytes]) -> bytes:
    return contents[_present(directory, name, contents)]


def _graph(directory: Path, name: str, contents: Mapping[str, bytes]) -> bytes:
    if not name.endswith(".onnx"):  # what has another name was not looked into
        raise refused(directory, name, "is no .onnx file, although a member names it")
    return _content(directory, name, contents)


def _read_array(
    directory: Path, name: str, contents: Mapping[str, bytes]
) -> npt.NDArray[np.float32]:
    try:
        loaded = np.load(io.BytesIO(_content(directory, name, contents)), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise refused(directory, name, f"is not a plain .npy array: {error}") from error
    if not isinstance(loaded, np.ndarray) or loaded.dtype != np.float32:
        raise refused(directory, name, "is not a float32 array")
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
    if space.ndim != 2 or len(space) < 2 or space.shape[1] != depth.last - depth.first:  # noqa: PLR2004 - a mean and a direction, each a row
        raise refused(
            directory,
            depth.space,
            f"is no mean and directions of {depth.last - depth.first} features, a row each",
        )
    neighbours = None
    if depth.neighbours:
        neighbours = _read_array(directory, depth.neighbours, contents)
        if neighbours.ndim != 2 or not len(neighbours) or neighbours.shape[1] != len(space) - 1:  # noqa: PLR2004 - an image in each row
            raise refused(
                directory, depth.neighbours, f"is no places along {len(space) - 1} directions"
            )
    return Depth(
        name=depth.name,
        first=depth.first,
        last=depth.last,
        mean=space[0],
        directions=space[1:],
        residual_scale=depth.residual_scale,
        neighbours=neighbours,
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
