"""Other bundles out of the shipped one, signed by the tests, that answer otherwise."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

from imaging_node.inference.bundle import default_bundle_directory
from tests.signing import sign_again

if TYPE_CHECKING:
    from pathlib import Path

NAME = "chest_xray_pneumonia"
SHIPPED = json.loads((default_bundle_directory() / NAME / "configs/metadata.json").read_text())


def make_version(
    folder: Path, version: str, *, operating_point: float | None = None, signed: bool = True
) -> Path:
    """Copy the shipped bundle as another version.

    Args:
        operating_point: Of its finding; None: as shipped.
        signed: By the tests; else it keeps the signature of what it was copied from.
    """
    directory = shutil.copytree(default_bundle_directory() / NAME, folder / f"{NAME}-{version}")
    path = directory / "configs/metadata.json"
    metadata = json.loads(path.read_text())
    metadata["version"] = version
    if operating_point is not None:
        [output] = metadata["imaging_node"]["outputs"]
        output["operating_point"]["probability"] = operating_point
        output["undetermined_from"]["probability"] = min(
            operating_point, output["undetermined_from"]["probability"]
        )
    path.write_text(json.dumps(metadata))
    if signed:
        sign_again(directory)
    return directory


NAMESAKE = "another_pneumonia"


def make_zoo(folder: Path) -> Path:
    """The shipped bundle, and one of another name whose finding has the same name.

    Nothing reaches the other one's operating point.
    """
    shutil.copytree(default_bundle_directory() / NAME, folder / NAME)
    copy = shutil.copytree(default_bundle_directory() / NAME, folder / NAMESAKE)
    path = copy / "configs/metadata.json"
    metadata = json.loads(path.read_text())
    metadata["imaging_node"]["id"] = NAMESAKE
    metadata["imaging_node"]["outputs"][0]["operating_point"]["probability"] = 1.0
    path.write_text(json.dumps(metadata))
    sign_again(copy)
    return folder
