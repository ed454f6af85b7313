#!/usr/bin/env python3
"""Write docs/settings.md and configs/node.yaml from the settings themselves."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import annotated_types
import yaml
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from imaging_node.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic.fields import FieldInfo

ROOT = Path(__file__).resolve().parents[1]
MARKDOWN = ROOT / "docs" / "settings.md"
YAML = ROOT / "configs" / "node.yaml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One setting: its place, what it is, its default and what it may be."""

    path: tuple[str, ...]
    description: str
    default: Any
    bounds: str
    is_section: bool


def entries(model: type[BaseModel] = Settings, above: tuple[str, ...] = ()) -> Iterator[Entry]:
    """Every setting, sections before what they hold."""
    for name, field in model.model_fields.items():
        section = _section(field)
        yield Entry(
            path=(*above, name),
            description=field.description or "",
            default=_default(field),
            bounds=_bounds(field),
            is_section=section is not None,
        )
        if section is not None:
            yield from entries(section, (*above, name))


def markdown() -> str:
    """The reference as a table for people."""
    lines = [
        "# Settings",
        "",
        "One YAML file, named by `--config FILE`, else by the environment variable",
        "`IMAGING_NODE_CONFIG`, else the built-in defaults below. An environment variable",
        "overrides a key: `IMAGING_NODE__DICOM__PORT=11112` is `dicom.port`. Lists and objects",
        "are given as JSON: `IMAGING_NODE__DESTINATIONS='[\"pacs\"]'`.",
        "",
        "An unknown key, a wrong type or an impossible value refuses to start, with the key, the",
        "value and what would be right. `imaging-node config check` tries a file,",
        "`imaging-node config show` prints what is in force. `configs/node.yaml` is this",
        "reference as a file to start from.",
        "",
        "This page is written by `scripts/settings_reference.py`; a test keeps it true.",
        "",
        "| key | default | may be | what it does |",
        "| --- | --- | --- | --- |",
    ]
    lines.extend(
        f"| `{'.'.join(entry.path)}` | {'' if entry.is_section else f'`{_flow(entry.default)}`'}"
        f" | {entry.bounds} | {entry.description} |"
        for entry in entries()
    )
    return "\n".join([*lines, "", *_OBJECTS, ""])


_OBJECTS = (
    "## Objects in lists",
    "",
    "A model is a bundle's name, or an object:",
    "",
    "```yaml",
    "models:",
    "  - name: chest_xray_pneumonia",
    "    operating_points: {Pneumonia: 0.6}   # lowest probability called present",
    "    waive: [age]                         # research only; of age, view, body_part,",
    "                                         # presentation_intent",
    "```",
    "",
    "Both are recorded in every SR and shown on the worklist page.",
    "",
    "A caller is who its AE title, its address and, with TLS, its certificate say together:",
    "",
    "```yaml",
    "dicom:",
    "  host: 0.0.0.0",
    "  tls: {certificate: node.pem, key: node.key, ca: hospital-ca.pem}",
    "  callers:",
    "    - {ae_title: PACS, address: 192.0.2.0/28}",
    "    - ae_title: CT1",
    "      address: 192.0.2.40/32",
    "      certificate_sha256: 3f...           # openssl x509 -noout -fingerprint -sha256",
    "```",
    "",
    "A triage rule of the site raises a priority, never lowers it:",
    "",
    "```yaml",
    "priority:",
    "  calling_ae_titles: {ED_XRAY: stat}     # all that this sender sends",
    "  rules:",
    "    - {finding: Pneumonia, minimum_probability: 0.9, priority: asap}",
    "```",
)


def commented_yaml() -> str:
    """The reference as a settings file with every key at its default."""
    lines = [
        "# Every setting of the node at its default. Written by scripts/settings_reference.py;",
        "# see docs/settings.md. Keep only what you change.",
    ]
    for entry in entries():
        indent = "  " * (len(entry.path) - 1)
        note = f" ({entry.bounds})" if entry.bounds else ""
        lines.append("" if not indent else f"{indent}# {entry.description}{note}")
        if not indent:
            lines.append(f"# {entry.description}{note}")
        value = "" if entry.is_section else f" {_flow(entry.default)}"
        lines.append(f"{indent}{entry.path[-1]}:{value}")
    return "\n".join([*lines, ""])


def _section(field: FieldInfo) -> type[BaseModel] | None:
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _default(field: FieldInfo) -> Any:  # noqa: ANN401 - a setting may be anything
    value = field.get_default(call_default_factory=True, validated_data={})
    return None if value is PydanticUndefined else _plain(value)


def _plain(value: Any) -> Any:  # noqa: ANN401 - a setting may be anything
    if isinstance(value, BaseModel):
        changed = value.model_dump(mode="json", exclude_defaults=True)
        return changed["name"] if set(changed) == {"name"} else changed
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, Path) else value


def _bounds(field: FieldInfo) -> str:
    signs = {
        annotated_types.Ge: ("ge", "at least"),
        annotated_types.Gt: ("gt", "above"),
        annotated_types.Le: ("le", "at most"),
        annotated_types.Lt: ("lt", "below"),
    }
    parts = []
    for constraint in field.metadata:
        for kind, (attribute, words) in signs.items():
            if isinstance(constraint, kind):
                parts.append(f"{words} {getattr(constraint, attribute)}")
    return ", ".join(parts)


def _flow(value: object) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...")


def main() -> None:
    """Write both files."""
    MARKDOWN.write_text(markdown(), encoding="utf-8")
    YAML.write_text(commented_yaml(), encoding="utf-8")
    print(f"wrote {MARKDOWN.relative_to(ROOT)} and {YAML.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
