"""The JSON Schema of the key `imaging_node`, and what MONAI's own tools say of the bundle."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
from bundle_schema import text
from monai.bundle.scripts import verify_metadata

from imaging_node.inference.declaration import SCHEMA_FILE, declaration_schema

if TYPE_CHECKING:
    from pathlib import Path

    from imaging_node.inference.bundle import Bundle

# What MONAI's own schema asks of every bundle (meta_schema_20240725.json).
_MONAI_REQUIRES = (
    "schema", "version", "monai_version", "pytorch_version", "numpy_version", "task",
    "description", "authors", "copyright", "network_data_format",
)  # fmt: skip


def metadata_of(bundle: Bundle) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(
        (bundle.directory / "configs/metadata.json").read_text(encoding="utf-8")
    )
    return content


def test_the_shipped_schema_is_that_of_the_declaration() -> None:
    assert SCHEMA_FILE.read_text(encoding="utf-8") == text(), "run scripts/bundle_schema.py"


def test_the_schema_takes_the_shipped_bundle_and_refuses_a_misspelt_key(bundle: Bundle) -> None:
    schema = declaration_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    key = metadata_of(bundle)["imaging_node"]
    jsonschema.validate(key, schema)
    for wrong in ({"opperating_point": 1}, {"schema": 2}, {"initial_state": "primary"}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(key | wrong, schema)


def test_monai_verifies_the_metadata_against_the_schema(bundle: Bundle, tmp_path: Path) -> None:
    schema = tmp_path / "schema.json"  # there already: MONAI downloads nothing
    schema.write_text(
        json.dumps(
            {
                "type": "object",
                "required": [*_MONAI_REQUIRES, "imaging_node"],
                "properties": {"imaging_node": {"$ref": "#/$defs/Key"}},
                "$defs": {**declaration_schema()["$defs"], "Key": _without_definitions()},
            }
        )
    )
    meta_file = bundle.directory / "configs/metadata.json"
    verify_metadata(meta_file=str(meta_file), filepath=schema)

    wrong = metadata_of(bundle)
    del wrong["imaging_node"]["golden"]
    changed = tmp_path / "metadata.json"
    changed.write_text(json.dumps(wrong))
    with pytest.raises(ValueError, match="Failed validating"):
        verify_metadata(meta_file=str(changed), filepath=schema)


def _without_definitions() -> dict[str, Any]:
    return {key: value for key, value in declaration_schema().items() if key != "$defs"}
