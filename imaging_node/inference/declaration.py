"""What a bundle declares of itself: the key `imaging_node` of its `configs/metadata.json`.

Data only, checked as strictly as settings: an unknown or misspelt key refuses the bundle.
"""

from __future__ import annotations

from itertools import pairwise
from math import isfinite
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from imaging_node.domain.priority import ReadingPriority
from imaging_node.inference.calibration import BetaCalibration
from imaging_node.inference.familiarity import DeclaredFamiliarity
from imaging_node.inference.film_gate import DeclaredFilmGate
from imaging_node.inference.film_measures import FilmLimits
from imaging_node.inference.preprocessing import Preprocessing
from imaging_node.inference.quality import QualityGates

QUANTILES = 21
"""Values of a quantity at 0, 5, ... 100 %."""

Share = Annotated[float, Field(ge=0, le=1)]
RelativePath = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_./-]*$")]


SCHEMA_FILE = Path(__file__).with_name("imaging_node.schema.json")
"""JSON Schema of the key, for whoever builds bundles elsewhere; written from `Declaration`."""


class _Declared(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class DeclaredMember(_Declared):
    """One network of the ensemble.

    Attributes:
        file: ONNX graph with outputs `logits` (n, findings), `maps` (n, findings, h, w) and, of
            at most one member, `features` (n, d), which `familiarity` judges.
        weight: Share of its logits in the pooled logit, before normalisation; > 0.
        biases: Of its output units: mean(map) + bias == logit, one per finding.
        captum_layer, captum_method: Where and how Captum gives the same map.
    """

    name: str
    file: RelativePath
    weight: float = Field(gt=0)
    biases: tuple[float, ...]
    captum_layer: str
    captum_method: Literal["LayerGradCam", "LayerGradientXActivation"]


class DeclaredEligibility(_Declared):
    """`domain.study.Eligibility`, as JSON."""

    modalities: tuple[str, ...]
    sop_class_uids: tuple[str, ...]
    body_parts: tuple[str, ...]
    accepts_absent_body_part: bool
    view_positions: tuple[str, ...]
    accepts_absent_view: bool
    photometric_interpretations: tuple[str, ...]
    minimum_age_years: float
    maximum_age_years: float
    accepts_absent_age: bool
    minimum_rows: int
    minimum_columns: int
    presentation_intents: tuple[str, ...]
    maximum_images: int = Field(ge=1)
    maximum_lossy_ratio: float | None = Field(default=None, ge=1)


class DeclaredThreshold(_Declared):
    """A probability and what it gave on the split that the calibration was fitted on."""

    probability: Share
    sensitivity: Share
    specificity: Share


class DeclaredOutput(_Declared):
    """One finding.

    Attributes:
        label: Key of the terminology table, e.g. "Pneumonia".
        operating_point: From here on the finding is called present.
        undetermined_from: From here on, and below the operating point, it is left open.
        maximum_spread: Largest standard deviation of the members' probabilities with which the
            finding is called at all; None: never left open for that.
    """

    label: str
    calibration: BetaCalibration
    operating_point: DeclaredThreshold
    undetermined_from: DeclaredThreshold
    maximum_spread: float | None = Field(default=None, ge=0, le=0.5)

    @model_validator(mode="after")
    def _band_below_operating_point(self) -> DeclaredOutput:
        if self.undetermined_from.probability > self.operating_point.probability:
            raise ValueError(f"{self.label}: undetermined_from lies above operating_point")
        return self


class DeclaredSelection(_Declared):
    """How several images of a study become one answer."""

    per: Literal["image"]
    choose: Literal["highest probability"]


class DeclaredExplanation(_Declared):
    """What kind of map the graphs give, and what is known of it.

    Attributes:
        status: "verified" when Captum drew the same map and the deletion test was passed.
    """

    kind: Literal["class activation"]
    status: Literal["verified", "unverified"]


class DeclaredPriority(_Declared):
    """`domain.priority.TriageRule`, as JSON."""

    finding: str
    minimum_probability: Share
    priority: ReadingPriority


class DeclaredGoldenCase(_Declared):
    """A synthetic input and what the bundle answered when it was built.

    Attributes:
        input: `.npy`, P-Values, float32, shape (rows, columns).
        logits: Per member, per finding.
        probabilities: Per finding.
        maps: `.npy` per member, float32, shape (findings, h, w).
    """

    input: RelativePath
    logits: tuple[tuple[float, ...], ...]
    probabilities: tuple[Share, ...]
    maps: tuple[RelativePath, ...]


class DeclaredTolerance(_Declared):
    """Largest absolute differences of a golden case that still count as the same answer."""

    logit: float = Field(gt=0)
    probability: float = Field(gt=0)
    map: float = Field(gt=0)


class DeclaredMonitoring(_Declared):
    """What the bundle's own images looked like: what a site's stream is compared with.

    Attributes:
        images: Scored images, each of another patient, that the rest is computed from.
        quantiles: By quantity ("input_mean", "feature_distance_...", "probability:<label>",
            "disagreement"): its value at 0, 5, ... 100 %.
        positive_rates, undetermined_rates: Share of the images by label.
        refusal_rate: Share of the images of right modality, view, age ... that no score came of;
            None where that depends on what the site decides.
    """

    images: int = Field(ge=100)
    quantiles: dict[str, tuple[float, ...]]
    positive_rates: dict[str, Share]
    undetermined_rates: dict[str, Share]
    refusal_rate: Share | None

    @model_validator(mode="after")
    def _quantiles_ascend(self) -> DeclaredMonitoring:
        for name, values in self.quantiles.items():
            is_ascending = all(low <= high for low, high in pairwise(values))
            if len(values) != QUANTILES or not is_ascending or not all(map(isfinite, values)):
                raise ValueError(f"{name}: expected {QUANTILES} ascending numbers")
        return self


class Declaration(_Declared):
    """The whole key.

    Attributes:
        format: Version of this declaration's format.
        id: Name of the bundle and of its folder.
        monitoring: What drift is measured against; None: a node's own first images.
        initial_state: "shadow" for a bundle that must be promoted before it answers.
    """

    format: Literal[1] = Field(alias="schema")
    id: str = Field(pattern=r"^[a-z0-9_]+$")
    manufacturer: str
    runtime: Literal["onnxruntime"]
    members: tuple[DeclaredMember, ...] = Field(min_length=1)
    pooling: Literal["weighted mean of logits"]
    preprocess: Preprocessing
    eligibility: DeclaredEligibility
    selection: DeclaredSelection
    quality_gates: QualityGates
    film_limits: FilmLimits = FilmLimits()
    film_gate: DeclaredFilmGate | None = None
    familiarity: DeclaredFamiliarity | None = None
    outputs: tuple[DeclaredOutput, ...] = Field(min_length=1)
    explain: DeclaredExplanation
    priority: tuple[DeclaredPriority, ...]
    golden: tuple[DeclaredGoldenCase, ...] = Field(min_length=1)
    golden_tolerance: DeclaredTolerance
    card: RelativePath
    monitoring: DeclaredMonitoring | None = None
    initial_state: Literal["shadow"] | None = None

    @model_validator(mode="after")
    def _counts_agree(self) -> Declaration:
        findings, members = len(self.outputs), len(self.members)
        if any(len(member.biases) != findings for member in self.members):
            raise ValueError("every member needs one bias per output")
        for case in self.golden:
            shape_agrees = len(case.logits) == len(case.maps) == members and all(
                len(row) == findings for row in (*case.logits, case.probabilities)
            )
            if not shape_agrees:
                raise ValueError(f"{case.input}: expected one row per member, one value per output")
        labels = {output.label for output in self.outputs}
        if unknown := {rule.finding for rule in self.priority} - labels:
            raise ValueError(f"priority names findings without output: {sorted(unknown)}")
        return self


def declaration_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of the key `imaging_node`."""
    schema = Declaration.model_json_schema(by_alias=True)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "The key imaging_node of a bundle's configs/metadata.json",
    } | {key: value for key, value in schema.items() if key != "title"}
