"""Settings from one YAML file, overridden by IMAGING_NODE__ environment variables.

The only module that reads the environment.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_settings import EnvSettingsSource
from pydantic_settings import SettingsError as EnvironmentSyntaxError

from imaging_node.domain.errors import SettingsError
from imaging_node.settings.settings import DEFAULT_PEERS, ENVIRONMENT_PREFIX, Settings

CONFIG_VARIABLE = "IMAGING_NODE_CONFIG"


def load_settings(config: Path | None = None) -> Settings:
    """Read the settings: `config`, else IMAGING_NODE_CONFIG, else the built-in defaults.

    Raises:
        SettingsError: Naming each wrong key, its value and what would be right.
    """
    named = os.environ.get(CONFIG_VARIABLE, "")
    path = config or (Path(named) if named else None)
    from_file = {} if path is None else _read_yaml(path)
    from_file.setdefault("peers", DEFAULT_PEERS)
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
