"""What a foreign bundle is for and how its answer is told: read from MONAI's metadata, once.

It stands beside the bundle's own files as `configs/imaging_node.json`, so that those stay as
their author made them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from imaging_node.domain.coded_term import CodedTerm, local_term
from imaging_node.domain.errors import BundleError
from imaging_node.domain.foreign_result import ForeignLabel, ForeignTask
from imaging_node.inference.foreign_files import refused

if TYPE_CHECKING:
    from imaging_node.inference.foreign_files import ForeignFiles

DECLARATION_NAME: Final = "configs/imaging_node.json"
METADATA_NAME: Final = "configs/metadata.json"
INFERENCE_NAMES: Final = (
    "configs/inference.json",
    "configs/inference.yaml",
    "configs/inference.yml",
)

_UNCLASSIFIED: Final = CodedTerm(
    value="unclassified-structure", scheme="99RADINFER", meaning="Unclassified structure"
)
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_.-]{0,62}")
# MONAI's word for the modality -> DICOM's, and the classes of single-frame images.
_MODALITIES: Final = {
    "CT": ("CT",),
    "MR": ("MR",),
    "MRI": ("MR",),
    "CR": ("CR", "DX"),
    "DX": ("CR", "DX"),
    "XRAY": ("CR", "DX"),
    "RADIOGRAPH": ("CR", "DX"),
    "MG": ("MG",),
    "MAMMOGRAM": ("MG",),
    "MAMMOGRAPHY": ("MG",),
}
_SOP_CLASSES: Final = {
    "CT": ("1.2.840.10008.5.1.4.1.1.2",),
    "MR": ("1.2.840.10008.5.1.4.1.1.4",),
    "CR": ("1.2.840.10008.5.1.4.1.1.1",),
    "DX": ("1.2.840.10008.5.1.4.1.1.1.1",),
    "MG": ("1.2.840.10008.5.1.4.1.1.1.2",),
}
_SECTIONAL: Final = frozenset({"CT", "MR"})
# A result never says "normal", nor that there is nothing.
_UNSAID: Final = frozenset(
    {"background", "normal", "no finding", "no findings", "negative", "healthy", "none"}
)
_MOST_OVERLAPPING: Final = 255
_CHANNELS: Final = {2: (1, 3), 3: (1,)}


class _Part(BaseModel):
    """A piece of the declaration: frozen, and nothing unknown in it."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class DeclaredCode(_Part):
    """A coded term of the site."""

    value: str
    scheme: str
    meaning: str

    def term(self) -> CodedTerm:
        """The same, checked.

        Raises:
            ValueError: It is no code.
        """
        return CodedTerm(value=self.value, scheme=self.scheme, meaning=self.meaning)


class DeclaredLabel(_Part):
    """One structure or class.

    Attributes:
        channel: Of the network's output: its index among scores, its value in a label map.
        name: The bundle's own word.
    """

    channel: int = Field(ge=0)
    name: str = Field(min_length=1, max_length=64)
    concept: DeclaredCode
    category: DeclaredCode

    def label(self) -> ForeignLabel:
        """As answers name it."""
        return ForeignLabel(
            name=self.name, concept=self.concept.term(), category=self.category.term()
        )


class ForeignDeclaration(_Part):
    """The declaration file.

    Attributes:
        id: Name of the bundle, also of its folder.
        inference: Its configuration for inference.
        spatial_dimensions: 2 for single images, 3 for series of slices.
        input_channels: 3 repeats one gray image.
        output_channels: Of the network.
        body_parts: Words of Body Part Examined that are accepted; empty: all.
        labels: What is reported, in the order of the channels; "background" is not.
    """

    schema_version: Literal["foreign-1"]
    id: str
    version: str
    manufacturer: str
    task: ForeignTask
    inference: str
    weights: str
    spatial_dimensions: Literal[2, 3]
    input_channels: Literal[1, 3]
    output_channels: int = Field(ge=1, le=_MOST_OVERLAPPING)
    modalities: tuple[str, ...] = Field(min_length=1)
    sop_class_uids: tuple[str, ...] = Field(min_length=1)
    body_parts: tuple[str, ...] = ()
    labels: tuple[DeclaredLabel, ...] = Field(min_length=1)

    @property
    def has_modality_values(self) -> bool:
        """True when the network takes HU or the like; else P-Values times 255."""
        return _SECTIONAL.issuperset(self.modalities)


class SiteLabel(_Part):
    """How a site codes one of a bundle's names."""

    concept: DeclaredCode
    category: DeclaredCode | None = None


class SiteChoices(_Part):
    """What a site says of a foreign bundle when it installs it; all of it may be left out.

    Attributes:
        name: Name of the bundle here; default: the name of its folder.
        task: Where the metadata do not say.
        modality: Where the metadata name none that the node knows.
        body_parts: Words of Body Part Examined that the bundle is meant for; empty: all.
        labels: Codes by the bundle's own name.
    """

    name: str | None = None
    task: ForeignTask | None = None
    modality: str | None = None
    body_parts: tuple[str, ...] = ()
    labels: Mapping[str, SiteLabel] = Field(default_factory=dict)


def derive_declaration(
    files: ForeignFiles, *, weights: str, site: SiteChoices
) -> ForeignDeclaration:
    """Read the declaration out of MONAI's metadata and the site's choices.

    Args:
        files: Of the bundle as its author made it.
        weights: Path of its weights once installed.
        site: What the site says; it counts before the metadata.

    Raises:
        BundleError: The metadata do not say enough, or name what the node cannot do.
    """
    metadata = _json(files, METADATA_NAME)
    inference = next((name for name in INFERENCE_NAMES if name in files.hashes), None)
    if inference is None:
        raise refused(files.directory, INFERENCE_NAMES[0], "is missing, in JSON and in YAML")
    formats = _mapping(metadata.get("network_data_format"))
    image = _mapping(_first(formats.get("inputs")))
    output = _mapping(_first(formats.get("outputs")))
    if len(_mapping(formats.get("inputs"))) != 1 or not output:
        raise refused(
            files.directory, METADATA_NAME, "must describe one input and an output of the network"
        )
    task = site.task or _task(files, metadata, output)
    dimensions = len(image.get("spatial_shape") or ())
    channels = image.get("num_channels")
    if channels not in _CHANNELS.get(dimensions, ()):
        raise refused(
            files.directory,
            METADATA_NAME,
            f"its input has {dimensions} dimensions and {channels} channels; the node feeds single"
            " gray images (as 1 or 3 channels) and series of slices (1 channel)",
        )
    if task is ForeignTask.SEGMENTATION and dimensions == 2:  # noqa: PLR2004 - dimensions
        raise refused(files.directory, METADATA_NAME, "segments single images, which is not done")
    modalities = _modalities(files, image, site)
    name = (site.name or files.directory.name).lower()
    if not _NAME.fullmatch(name):
        raise refused(files.directory, ".", "has a name with odd characters; give another one")
    try:
        return ForeignDeclaration(
            schema_version="foreign-1",
            id=name,
            version=str(metadata.get("version") or "0"),
            manufacturer=str(metadata.get("authors") or metadata.get("copyright") or "unknown"),
            task=task,
            inference=inference,
            weights=weights,
            spatial_dimensions=3 if dimensions == 3 else 2,  # noqa: PLR2004 - dimensions
            input_channels=3 if channels == 3 else 1,  # noqa: PLR2004 - channels
            output_channels=int(output.get("num_channels") or 0),
            modalities=modalities,
            sop_class_uids=tuple(uid for each in modalities for uid in _SOP_CLASSES[each]),
            body_parts=tuple(each.upper() for each in site.body_parts),
            labels=_labels(files, output, site, task),
        )
    except (ValidationError, ValueError, TypeError) as error:
        raise refused(files.directory, METADATA_NAME, str(error)[:300]) from error


def _labels(
    files: ForeignFiles, output: Mapping[str, Any], site: SiteChoices, task: ForeignTask
) -> tuple[DeclaredLabel, ...]:
    named = _mapping(output.get("channel_def"))
    labels: list[DeclaredLabel] = []
    for channel, name in sorted((int(key), str(value).strip()) for key, value in named.items()):
        is_ground = task is ForeignTask.SEGMENTATION and channel == 0 and len(named) > 1
        if name.lower() in _UNSAID or (is_ground and name.lower() in {"", "other", "else"}):
            continue
        chosen = site.labels.get(name)
        labels.append(
            DeclaredLabel(
                channel=channel,
                name=name,
                concept=chosen.concept if chosen else _declared(local_term(name)),
                category=(chosen.category if chosen else None) or _declared(_UNCLASSIFIED),
            )
        )
    codes = [(each.concept.scheme, each.concept.value) for each in labels]
    if len(set(codes)) < len(codes) or len({each.name for each in labels}) < len(labels):
        raise refused(files.directory, METADATA_NAME, "two labels have the same name or code")
    unknown = set(site.labels) - {each.name for each in labels}
    if unknown:
        raise refused(
            files.directory,
            METADATA_NAME,
            f"has no label {min(unknown)!r}; it has {[each.name for each in labels]}",
        )
    for each in labels:
        each.label()  # a site's code may be none
    return tuple(labels)


def _declared(term: CodedTerm) -> DeclaredCode:
    return DeclaredCode(value=term.value, scheme=term.scheme, meaning=term.meaning)


def _task(
    files: ForeignFiles, metadata: Mapping[str, Any], output: Mapping[str, Any]
) -> ForeignTask:
    for words in (output.get("format"), output.get("type"), metadata.get("task")):
        text = str(words or "").lower()
        if "segment" in text:
            return ForeignTask.SEGMENTATION
        if "classif" in text or text in {"probabilities", "logits", "labels"}:
            return ForeignTask.CLASSIFICATION
    raise refused(
        files.directory, METADATA_NAME, "says neither segmentation nor classification; name one"
    )


def _modalities(
    files: ForeignFiles, image: Mapping[str, Any], site: SiteChoices
) -> tuple[str, ...]:
    word = str(site.modality or image.get("modality") or "")
    known = _MODALITIES.get(re.sub(r"[^A-Z]", "", word.upper()))
    if known is None:
        raise refused(
            files.directory,
            METADATA_NAME,
            f"is for the modality {word!r}; the node knows {', '.join(sorted(_MODALITIES))}",
        )
    return known


def _json(files: ForeignFiles, name: str) -> Mapping[str, Any]:
    try:
        parsed = json.loads(files.text(name))
    except (json.JSONDecodeError, RecursionError) as error:
        raise refused(files.directory, name, "is not JSON") from error
    return _mapping(parsed)


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _first(value: object) -> object:
    return next(iter(_mapping(value).values()), None)


def read_site_choices(text: str) -> SiteChoices:
    """The site's choices from JSON.

    Raises:
        BundleError: They are none.
    """
    try:
        return SiteChoices.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise BundleError(f"choices for a foreign bundle: {where}: {first['msg']}") from error
