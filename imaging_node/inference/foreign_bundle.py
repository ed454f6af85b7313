"""Install a foreign bundle once it is trusted, and read it again as it was installed."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pydantic import ValidationError

from imaging_node.domain.errors import BundleError
from imaging_node.domain.finding import ModelIdentity
from imaging_node.inference.foreign_declaration import (
    DECLARATION_NAME,
    ForeignDeclaration,
    SiteChoices,
    derive_declaration,
)
from imaging_node.inference.foreign_files import (
    ForeignFiles,
    is_sha256,
    read_foreign_files,
    refused,
    trust_hash_of,
)
from imaging_node.inference.foreign_weights import (
    INSTALLED_WEIGHTS,
    find_weights,
    install_weights,
)

if TYPE_CHECKING:
    from imaging_node.domain.foreign_result import ForeignLabel

MANIFEST_NAME: Final = "manifest.json"
INITIAL_STATE: Final = "shadow"

_LEFT_OUT_SUFFIXES: Final = (
    *(".pt", ".pth", ".ts", ".pkl", ".pickle", ".ckpt", ".bin", ".joblib", ".engine"),
    *(".onnx", ".pyc", ".so", ".pyd"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignBundle:
    """A foreign bundle whose files are all as they were installed.

    Attributes:
        directory: Where it lies.
        trust_hash: Of the files that the operator trusted.
        files: SHA-256 by path of every file but the manifest.
    """

    directory: Path
    trust_hash: str
    files: Mapping[str, str]
    declaration: ForeignDeclaration
    identity: ModelIdentity

    @property
    def labels(self) -> tuple[ForeignLabel, ...]:
        """What is reported, in the order of the channels."""
        return tuple(each.label() for each in self.declaration.labels)


@dataclass(frozen=True, slots=True, kw_only=True)
class InstalledForeign:
    """What `install_foreign` did.

    Attributes:
        state: "shadow": a foreign bundle is never primary at once.
        left_out: Files that were not taken over: pickles, TorchScript, compiled code.
    """

    bundle: ForeignBundle
    state: str
    left_out: tuple[str, ...]


def is_foreign(directory: Path) -> bool:
    """True for a bundle that `install_foreign` made."""
    return (directory / DECLARATION_NAME).is_file()


def install_foreign(
    source: Path,
    zoo_directory: Path,
    *,
    trust_code: str | None,
    site: SiteChoices | None = None,
) -> InstalledForeign:
    """Take a MONAI bundle over into `zoo_directory`, as `configs/imaging_node.json` describes it.

    Nothing of the bundle is evaluated, imported or unpickled as a program, before or after.

    Args:
        source: Folder with the bundle, unpacked.
        zoo_directory: Where bundles lie; the new folder appears there at once, or not at all.
        trust_code: The hash of exactly these files, from an operator who read them.
        site: What the site says of it.

    Raises:
        UntrustedCodeError: `trust_code` is not the hash; the message tells it.
        BundleError: It is no bundle that the node can run, or its name is taken.
    """
    files = read_foreign_files(source)
    weights = find_weights(files)
    declaration = derive_declaration(files, weights=INSTALLED_WEIGHTS, site=site or SiteChoices())
    for name in (MANIFEST_NAME, DECLARATION_NAME):
        if name in files.hashes:
            raise refused(source, name, "would be overwritten; it is not a bundle of the zoo")
    files.require_trust(trust_code)
    target = zoo_directory / declaration.id
    if target.exists():
        raise BundleError(f"there is a bundle {declaration.id!r} already; remove it, or rename")
    left_out = tuple(
        name
        for name in files.hashes
        if name != INSTALLED_WEIGHTS and name.lower().endswith(_LEFT_OUT_SUFFIXES)
    )
    try:
        zoo_directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=zoo_directory, prefix=".installing-") as folder:
            staged = Path(folder) / "bundle"
            _copy(files, staged, left_out)
            install_weights(files, weights, staged / INSTALLED_WEIGHTS)
            _write(staged / DECLARATION_NAME, declaration.model_dump(mode="json"))
            kept = read_foreign_files(staged, is_installed=True)
            manifest = {
                "files": dict(kept.hashes),
                "foreign": {
                    "trust_hash": files.trust_hash,
                    "source_files": dict(files.hashes),
                    "left_out": list(left_out),
                },
            }
            _write(staged / MANIFEST_NAME, manifest)
            bundle = load_foreign(staged)
            staged.rename(target)
    except OSError as error:
        raise BundleError(
            f"bundle {declaration.id}: cannot be written to the model directory:"
            f" {error.strerror}; check its room and rights"
        ) from error
    return InstalledForeign(bundle=_at(bundle, target), state=INITIAL_STATE, left_out=left_out)


def load_foreign(directory: Path) -> ForeignBundle:
    """Read an installed foreign bundle, refused unless every byte is as it was trusted.

    Raises:
        BundleError: A file was changed, added or removed, or is not what the source had.
    """
    files = read_foreign_files(directory, is_installed=True)
    manifest = _read(files, MANIFEST_NAME)
    listed, foreign = manifest.get("files"), manifest.get("foreign")
    if not isinstance(listed, dict) or not isinstance(foreign, dict):
        raise refused(directory, MANIFEST_NAME, "is no manifest of a foreign bundle")
    source = foreign.get("source_files")
    if not isinstance(source, dict) or not all(map(is_sha256, source.values())):
        raise refused(directory, MANIFEST_NAME, "does not say what was trusted")
    found = {name: each for name, each in files.hashes.items() if name != MANIFEST_NAME}
    for name in sorted(found.keys() | listed.keys()):
        if found.get(name) != listed.get(name):
            raise refused(directory, name, "was changed, added or removed since it was installed")
    if trust_hash_of(source) != foreign.get("trust_hash"):
        raise refused(directory, MANIFEST_NAME, "does not carry the hash that was trusted")
    for name, digest in found.items():
        # Weights that were a state dict are no file of the source any more.
        is_ours = name == DECLARATION_NAME or (name == INSTALLED_WEIGHTS and name not in source)
        if not is_ours and source.get(name) != digest:
            raise refused(directory, name, "is not the file that was trusted")
    try:
        declaration = ForeignDeclaration.model_validate_json(files.text(DECLARATION_NAME))
        labels = [each.label() for each in declaration.labels]
    except (ValidationError, ValueError) as error:
        raise refused(directory, DECLARATION_NAME, str(error)[:300]) from error
    assert labels  # pydantic saw to it
    canonical = json.dumps(sorted(found.items()), separators=(",", ":"))
    return ForeignBundle(
        directory=directory,
        trust_hash=trust_hash_of(source),
        files=found,
        declaration=declaration,
        identity=ModelIdentity(
            name=declaration.id,
            version=declaration.version,
            manufacturer=declaration.manufacturer,
            digest="sha256:" + hashlib.sha256(canonical.encode()).hexdigest(),
        ),
    )


def _at(bundle: ForeignBundle, directory: Path) -> ForeignBundle:
    return ForeignBundle(
        directory=directory,
        trust_hash=bundle.trust_hash,
        files=bundle.files,
        declaration=bundle.declaration,
        identity=bundle.identity,
    )


def _copy(files: ForeignFiles, staged: Path, left_out: tuple[str, ...]) -> None:
    """Copy what is kept, and see that it is what was hashed."""
    (staged / "models").mkdir(parents=True)
    for name in files.hashes:
        if name in left_out or name == INSTALLED_WEIGHTS:
            continue
        path = staged / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(files.content(name))


def _read(files: ForeignFiles, name: str) -> dict[str, object]:
    try:
        parsed = json.loads(files.text(name))
    except (json.JSONDecodeError, RecursionError) as error:
        raise refused(files.directory, name, "is not JSON") from error
    if not isinstance(parsed, dict):
        raise refused(files.directory, name, "is not a JSON object")
    return parsed


def _write(path: Path, content: Mapping[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=1, sort_keys=True, ensure_ascii=True)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
