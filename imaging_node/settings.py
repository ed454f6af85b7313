"""Validated settings: one YAML file, overridden by IMAGING_NODE__ environment variables.

The only module that reads the environment.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict
from pydantic_settings import SettingsError as EnvironmentSyntaxError

from imaging_node.domain.errors import SettingsError
from imaging_node.domain.priority import ReadingPriority
from imaging_node.domain.study import WAIVABLE_RULES

ENVIRONMENT_PREFIX = "IMAGING_NODE__"
CONFIG_VARIABLE = "IMAGING_NODE_CONFIG"

AeTitle = Annotated[
    str,
    StringConstraints(
        pattern=r"^[\x21-\x5b\x5d-\x7e]([\x20-\x5b\x5d-\x7e]{0,14}[\x21-\x5b\x5d-\x7e])?$"
    ),
]
"""PS3.5 6.2, VR AE: 1 to 16 characters of the default repertoire, no backslash."""
Port = Annotated[int, Field(ge=1, le=65535)]
Probability = Annotated[float, Field(ge=0, le=1)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


class DicomSettings(_Section):
    """The listener that a PACS sends to."""

    ae_title: AeTitle = Field("IMAGING_NODE", description="AE title of the node, also as sender.")
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: Port = Field(11112, description="Port to listen on.")
    maximum_associations: int = Field(
        32, ge=1, le=512, description="Associations served at a time; more are rejected (2/3/2)."
    )


class PeerSettings(_Section):
    """A DICOM application the node talks to."""

    ae_title: AeTitle = Field(description="AE title of the peer.")
    host: str = Field(description="Address or name of the peer.")
    port: Port = Field(description="Port of the peer.")


class StudySettings(_Section):
    """When a study is complete."""

    quiet_period_s: float = Field(
        5, ge=0, le=86400, description="Seconds without a new instance that complete a study."
    )


class ModelSettings(_Section):
    """One bundle of the model zoo, and what the site decided about it."""

    name: str = Field(description="Folder name of the bundle.")
    operating_points: dict[str, Probability] = Field(
        default_factory=dict,
        description="Finding: lowest probability called present, instead of the bundle's.",
    )
    waive: tuple[Literal["age", "view", "body_part", "presentation_intent"], ...] = Field(
        (), description=f"Eligibility rules waived for research, of {', '.join(WAIVABLE_RULES)}."
    )


class WebSettings(_Section):
    """The worklist page and the health endpoints."""

    host: str = Field("127.0.0.1", description="Address of the page.")
    port: Port = Field(8080, description="Port of the page.")
    worklist_hours: float = Field(
        72, gt=0, description="Hours after arrival that an ended study stays on the worklist."
    )


class DatabaseSettings(_Section):
    """Where the node keeps its state."""

    url: str = Field(
        "",
        pattern=r"^(sqlite:///.+)?$",
        description='Empty: SQLite in state_directory; or "sqlite:///" and a path.',
    )


class ScoringSettings(_Section):
    """How studies are scored."""

    lease_s: float = Field(
        60, gt=1, le=3600, description="Seconds after which a dead worker's study is taken over."
    )
    concurrent_studies: int = Field(
        4, ge=1, le=64, description="Studies in work at a time; their images share launches."
    )
    threads: int = Field(
        0, ge=0, le=256, description="Threads of the model runtime; 0: one for each core."
    )
    launch_budget_ms: float = Field(
        150, gt=0, le=10000, description="Longest launch of the model: bounds a STAT study's wait."
    )
    decoders: int = Field(2, ge=1, le=64, description="Processes that decode pixels.")
    decoder_memory_mib: int = Field(
        384, ge=64, le=65536, description="Memory that one decoder may add while it decodes."
    )
    decode_limit_s: float = Field(
        10, gt=0, le=600, description="Seconds after which a decoder is killed."
    )


class DeliverySettings(_Section):
    """How results are sent."""

    first_retry_s: float = Field(2, gt=0, le=3600, description="Wait before the first retry.")
    longest_retry_s: float = Field(
        300, gt=0, le=86400, description="Waits double up to this many seconds."
    )
    timeout_s: float = Field(30, gt=0, le=600, description="Longest wait for a peer's answer.")


class SpoolSettings(_Section):
    """The folder that holds instances as received and results as built."""

    minimum_free_mib: int = Field(
        512, ge=0, description="Free space under which instances are refused with A700."
    )


class TriageRuleSettings(_Section):
    """A site's own triage rule, applied beside the bundle's; it can only raise a priority."""

    finding: str = Field(description="Finding as the bundle labels it.")
    minimum_probability: Probability = Field(
        0, description="Lowest probability; the finding must also be called present."
    )
    priority: ReadingPriority = Field(description="Suggested reading priority.")


class PrioritySettings(_Section):
    """Ordered priority by sender, and the site's triage rules."""

    calling_ae_titles: dict[AeTitle, ReadingPriority] = Field(
        default_factory=dict, description="Calling AE title: priority of all it sends."
    )
    rules: tuple[TriageRuleSettings, ...] = Field((), description="Triage rules of the site.")


_DEFAULT_PEERS = {"pacs": {"ae_title": "PACS", "host": "127.0.0.1", "port": 11113}}


class Settings(BaseSettings):
    """All settings of a node; frozen once read."""

    model_config = SettingsConfigDict(
        extra="forbid",
        frozen=True,
        env_prefix=ENVIRONMENT_PREFIX,
        env_nested_delimiter="__",
        protected_namespaces=(),
    )

    state_directory: Path = Field(
        Path("imaging-node-data"),
        description="Folder of the database, the spool and the node's key; only the node's user"
        " may read it.",
    )
    dicom: DicomSettings = Field(DicomSettings(), description="The DICOM listener.")
    peers: dict[str, PeerSettings] = Field(
        {name: PeerSettings(**peer) for name, peer in _DEFAULT_PEERS.items()},
        description="DICOM applications by a name of your choice.",
    )
    destinations: tuple[str, ...] = Field(("pacs",), description="Peers that get every result.")
    study: StudySettings = Field(StudySettings(), description="When a study is complete.")
    models: tuple[ModelSettings, ...] = Field(
        (ModelSettings(name="chest_xray_pneumonia"),),
        description="Bundles that score studies: a name, or an object.",
    )
    model_directory: Path | None = Field(
        None, description="Folder of the bundles; null: those that come with the package."
    )
    web: WebSettings = Field(WebSettings(), description="The worklist page.")
    database: DatabaseSettings = Field(DatabaseSettings(), description="The node's state.")
    answer_not_applicable: bool = Field(
        default=False,
        description="Also send a not-analysed SR for studies no model is meant for.",
    )
    scoring: ScoringSettings = Field(ScoringSettings(), description="How studies are scored.")
    delivery: DeliverySettings = Field(DeliverySettings(), description="How results are sent.")
    spool: SpoolSettings = Field(SpoolSettings(), description="The folder of received files.")
    priority: PrioritySettings = Field(
        PrioritySettings(), description="Ordered priority and triage."
    )

    @field_validator("models", mode="before")
    @classmethod
    def _name_alone_is_a_model(cls, value: object) -> object:
        if isinstance(value, list | tuple):
            return [{"name": each} if isinstance(each, str) else each for each in value]
        return value

    @model_validator(mode="after")
    def _names_must_be_known(self) -> Settings:
        unknown = [name for name in self.destinations if name not in self.peers]
        if unknown:
            raise ValueError(
                f"destinations: {unknown[0]!r} is not among the peers ({', '.join(self.peers)})"
            )
        names = [model.name for model in self.models]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"models: {names} must name at least one bundle, each once")
        if self.delivery.first_retry_s > self.delivery.longest_retry_s:
            raise ValueError(
                f"delivery.first_retry_s: {self.delivery.first_retry_s} must not exceed"
                f" delivery.longest_retry_s ({self.delivery.longest_retry_s})"
            )
        return self

    @property
    def database_url(self) -> str:
        """SQLAlchemy URL of the database, the default filled in."""
        return self.database.url or f"sqlite:///{self.state_directory / 'node.sqlite'}"


def load_settings(config: Path | None = None) -> Settings:
    """Read the settings: `config`, else IMAGING_NODE_CONFIG, else the built-in defaults.

    Raises:
        SettingsError: Naming each wrong key, its value and what would be right.
    """
    named = os.environ.get(CONFIG_VARIABLE, "")
    path = config or (Path(named) if named else None)
    from_file = {} if path is None else _read_yaml(path)
    from_file.setdefault("peers", _DEFAULT_PEERS)
    source = f"settings file {path}" if path else "built-in settings"
    merged = _merge(from_file, _from_environment())
    try:
        return Settings.model_validate(merged)
    except ValidationError as error:
        lines = [_explain(each) for each in error.errors()]
        raise SettingsError(f"cannot use the {source}: " + "; ".join(lines)) from error


def free_environment(**overrides: str) -> dict[str, str]:
    """The process environment for a child, without the node's own variables, plus `overrides`."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(ENVIRONMENT_PREFIX) and name != CONFIG_VARIABLE
    }
    return kept | overrides


def settings_schema() -> dict[str, Any]:
    """JSON Schema of the settings file."""
    return Settings.model_json_schema()


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(
            f"cannot read the settings file {path}: {error.strerror}; name a readable YAML file"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        place = getattr(error, "problem_mark", None)
        where = f", line {place.line + 1}" if place else ""
        raise SettingsError(f"the settings file {path} is no YAML{where}; correct it") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise SettingsError(
            f"the settings file {path} holds a {type(content).__name__}; it must hold keys"
        )
    return content


def _from_environment() -> dict[str, Any]:
    known = {f"{ENVIRONMENT_PREFIX}{name}".upper() for name in Settings.model_fields}
    for variable in os.environ:
        if not variable.upper().startswith(ENVIRONMENT_PREFIX):
            continue
        section = "__".join(variable.upper().split("__")[:2])
        if section not in known:
            raise SettingsError(
                f"environment variable {variable}: there is no such setting; known after"
                f" {ENVIRONMENT_PREFIX} are {', '.join(sorted(Settings.model_fields))}"
            )
    try:
        values: dict[str, Any] = EnvSettingsSource(Settings)()
    except EnvironmentSyntaxError as error:
        raise SettingsError(
            f"cannot use the environment variables {ENVIRONMENT_PREFIX}...: {error}; write lists"
            """ and objects as JSON, e.g. '["pacs"]'"""
        ) from error
    return values


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """`above` over `below`, key by key in nested dictionaries."""
    merged = dict(below)
    for key, value in above.items():
        kept = merged.get(key)
        merged[key] = (
            _merge(kept, value) if isinstance(kept, dict) and isinstance(value, dict) else value
        )
    return merged


def _explain(error: Any) -> str:  # noqa: ANN401 - pydantic's ErrorDetails, a TypedDict of Any
    """One sentence with the key, the value and what would be right."""
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        known = ", ".join(_known_keys(error["loc"][:-1]))
        return f"{key}: unknown setting (value {error['input']!r}); known here: {known}"
    message = re.sub(r"^(Value error, )", "", error["msg"])
    if not key:
        return message
    return f"{key}: {error['input']!r} is not possible: {message}"


def _known_keys(location: tuple[str | int, ...]) -> list[str]:
    """Field names of the section at `location` of the settings tree."""
    model: Any = Settings
    for part in location:
        fields = getattr(model, "model_fields", {})
        if part in fields:
            annotation = fields[part].annotation
            arguments = getattr(annotation, "__args__", ())
            model = next(
                (each for each in (annotation, *arguments) if hasattr(each, "model_fields")), model
            )
    return sorted(getattr(model, "model_fields", {}))
