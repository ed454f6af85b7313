"""All settings of a node as one frozen object."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from imaging_node.settings.decoding import DecodingSettings
from imaging_node.settings.network import (
    AuditSettings,
    DeliverySettings,
    DicomSettings,
    PeerSettings,
)
from imaging_node.settings.watching import WatchingSettings
from imaging_node.settings.work import (
    DatabaseSettings,
    ModelSettings,
    PrioritySettings,
    ResultSettings,
    ScoringSettings,
    SpoolSettings,
    StudySettings,
    WebSettings,
)

ENVIRONMENT_PREFIX = "IMAGING_NODE__"

DEFAULT_PEERS = {"pacs": {"ae_title": "PACS", "host": "127.0.0.1", "port": 11113}}


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
        {name: PeerSettings(**peer) for name, peer in DEFAULT_PEERS.items()},
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
    model_keys: tuple[Path, ...] = Field(
        (),
        description="Public keys (PEM, Ed25519) whose bundles are taken, beside the project's.",
    )
    web: WebSettings = Field(WebSettings(), description="The worklist page.")
    database: DatabaseSettings = Field(DatabaseSettings(), description="The node's state.")
    answer_not_applicable: bool = Field(
        default=False,
        description="Also send a not-analysed SR for studies no model is meant for.",
    )
    scoring: ScoringSettings = Field(ScoringSettings(), description="How studies are scored.")
    results: ResultSettings = Field(ResultSettings(), description="The objects sent back.")
    decoding: DecodingSettings = Field(
        DecodingSettings(), description="The largest image that is decoded."
    )
    delivery: DeliverySettings = Field(DeliverySettings(), description="How results are sent.")
    audit: AuditSettings = Field(AuditSettings(), description="The audit trail.")
    spool: SpoolSettings = Field(SpoolSettings(), description="The folder of received files.")
    watching: WatchingSettings = Field(
        WatchingSettings(), description="How models are watched at work."
    )
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
        return self

    @property
    def database_url(self) -> str:
        """SQLAlchemy URL of the database, the default filled in."""
        return self.database.url or f"sqlite:///{self.state_directory / 'node.sqlite'}"
