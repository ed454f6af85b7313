"""How studies are scored and shown, and where the node keeps its state."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from imaging_node.domain.priority import ReadingPriority
from imaging_node.domain.study import WAIVABLE_RULES
from imaging_node.settings.section import AeTitle, Port, Probability, Section


class StudySettings(Section):
    """When a study is complete."""

    quiet_period_s: float = Field(
        5, ge=0, le=86400, description="Seconds without a new instance that complete a study."
    )


class ModelSettings(Section):
    """One bundle of the model zoo, and what the site decided about it."""

    name: str = Field(description="Folder name of the bundle.")
    operating_points: dict[str, Probability] = Field(
        default_factory=dict,
        description="Finding: lowest probability called present, instead of the bundle's.",
    )
    waive: tuple[Literal["age", "view", "body_part", "presentation_intent"], ...] = Field(
        (), description=f"Eligibility rules waived for research, of {', '.join(WAIVABLE_RULES)}."
    )
    gates: Literal["refuse", "report"] = Field(
        "refuse",
        description="Images unlike those that the bundle is for (turned, another body part,"
        " covered by writing ...): not analysed, or scored with a remark.",
    )


class WebSettings(Section):
    """The worklist page and the health endpoints."""

    host: str = Field("127.0.0.1", description="Address of the page.")
    port: Port = Field(8080, description="Port of the page.")
    worklist_hours: float = Field(
        72, gt=0, description="Hours after arrival that an ended study stays on the worklist."
    )
    names: tuple[str, ...] = Field(
        (),
        description="Host names under which readers open the page: clicks are taken under these,"
        " under localhost and under addresses, so that no foreign name can lead to it.",
    )


class DatabaseSettings(Section):
    """Where the node keeps its state."""

    url: str = Field(
        "",
        pattern=r"^(sqlite:///.+)?$",
        description='Empty: SQLite in state_directory; or "sqlite:///" and a path.',
    )


class ScoringSettings(Section):
    """How studies are scored."""

    provider: Literal["auto", "cpu", "cuda", "tensorrt", "openvino"] = Field(
        "auto",
        description="What runs the models; auto: CUDA where ONNX Runtime has it, else the CPU.",
    )
    precision: Literal["auto", "f32", "bf16", "f16"] = Field(
        "auto",
        description="Of the model's arithmetic; auto: what TensorRT or OpenVINO do faster, if the"
        " bundle's golden cases allow it, else f32.",
    )
    devices: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        (0,), min_length=1, description="GPUs; each has a score process of its own."
    )

    lease_s: float = Field(
        60, gt=1, le=3600, description="Seconds after which a dead worker's study is taken over."
    )
    concurrent_studies: int = Field(
        8, ge=1, le=64, description="Studies in work at a time; their images share launches."
    )
    threads: int = Field(
        0, ge=0, le=256, description="Threads of the model runtime; 0: one for each core."
    )
    launch_budget_ms: float = Field(
        150, gt=0, le=10000, description="Longest launch of the model: bounds a STAT study's wait."
    )
    launch_limit_s: float = Field(
        60,
        ge=1,
        le=3600,
        description="Seconds after which a launch hangs and its process is replaced; ten times as"
        " long for a GPU's first launch of a size.",
    )
    foreign_limit_s: float = Field(
        300,
        ge=10,
        le=3600,
        description="Seconds that one foreign bundle may take for one study, its start included.",
    )
    foreign_memory_mib: int = Field(
        16384, ge=256, le=1048576, description="Memory of it above what its libraries take."
    )
    foreign_threads: int = Field(1, ge=1, le=256, description="Threads that it computes with.")
    decoders: int = Field(2, ge=1, le=64, description="Processes that decode pixels.")
    decoder_memory_mib: int = Field(
        768,
        ge=64,
        le=65536,
        description="Memory that one decoder may add while it decodes, beside its result.",
    )
    decode_limit_s: float = Field(
        9,
        gt=0,
        le=600,
        description="Seconds for one image: a decoder is killed after three quarters of them,"
        " a second one after the rest.",
    )

    @model_validator(mode="after")
    def _several_devices_are_gpus(self) -> ScoringSettings:
        if len(set(self.devices)) != len(self.devices):
            raise ValueError(f"devices: {list(self.devices)} names a GPU twice")
        if len(self.devices) > 1 and self.provider not in ("cuda", "tensorrt"):
            raise ValueError(
                f"devices: several need provider cuda or tensorrt, not {self.provider}"
            )
        return self


class ResultSettings(Section):
    """The objects that are sent back."""

    capture_long_side: int = Field(
        1024,
        ge=256,
        le=4096,
        description="Pixels of the longer side of the image in a Secondary Capture.",
    )


class SpoolSettings(Section):
    """The folder that holds instances as received and results as built."""

    min_free_bytes: int = Field(
        5368709120,
        ge=0,
        description="Free space under which instances are refused with A700; 0: off.",
    )
    min_free_inodes: int = Field(
        10000, ge=0, description="The same for free inodes of the file system; 0: off."
    )
    max_waiting_studies: int = Field(
        100000,
        ge=0,
        description="Studies without an ending above which instances are refused with A700;"
        " 0: off.",
    )


class TriageRuleSettings(Section):
    """A site's own triage rule, applied beside the bundle's; it can only raise a priority."""

    finding: str = Field(description="Finding as the bundle labels it.")
    minimum_probability: Probability = Field(
        0, description="Lowest probability; the finding must also be called present."
    )
    priority: ReadingPriority = Field(description="Suggested reading priority.")


class PrioritySettings(Section):
    """Ordered priority by sender, and the site's triage rules."""

    calling_ae_titles: dict[AeTitle, ReadingPriority] = Field(
        default_factory=dict, description="Calling AE title: priority of all it sends."
    )
    rules: tuple[TriageRuleSettings, ...] = Field((), description="Triage rules of the site.")
