"""The files of a bundle, read once, and refused unless each is the one that was signed.

`manifest.json` holds the SHA-256 of every other file, `manifest.sig` the signature over it. The
bytes that were hashed are the bytes that are used.
"""

from __future__ import annotations

import hashlib
import json
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from imaging_node.domain.errors import BundleError
from imaging_node.inference.onnx_graph import GraphError, require_self_contained
from imaging_node.inference.trust import TrustedKey, UntrustedSignatureError, signer_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

MANIFEST_NAME = "manifest.json"
SIGNATURE_NAME = "manifest.sig"
HASH_ALGORITHM = "sha256"

_PICKLE_SUFFIXES = frozenset({".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".bin", ".joblib"})
# A pickle of protocol 2 to 5 starts with 0x80 and its number; torch.save writes a zip archive.
_PICKLE_STARTS = (*(bytes([0x80, protocol]) for protocol in range(2, 6)), b"PK\x03\x04")
_GRAPH_SUFFIX = ".onnx"
_HASH_LENGTH = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedFiles:
    """A bundle's files as they were signed.

    Attributes:
        contents: By POSIX path, without manifest and signature.
        hashes: SHA-256 of each, 64 hex digits.
        manifest_digest: "sha256:..." over the manifest: it names all bytes of the bundle.
        signer: Whose key it was signed with.
    """

    contents: Mapping[str, bytes] = field(repr=False)
    hashes: Mapping[str, str]
    manifest_digest: str
    signer: TrustedKey


def refused(directory: Path, file: str, fault: str) -> BundleError:
    """One line that names bundle, file and fault."""
    # A file name from outside may hold line breaks; the sentence stays one line.
    return BundleError(f"bundle {directory.name}: {ascii(file)[1:-1]}: {' '.join(fault.split())}")


def read_signed(directory: Path, trusted: Sequence[TrustedKey]) -> SignedFiles:
    """All files of the bundle in `directory`, once every one is as its signed manifest says.

    Raises:
        BundleError: One line that names the bundle and the file at fault.
    """
    if directory.is_symlink() or not directory.is_dir():
        raise refused(directory, ".", "is not a folder; check the name and the model directory")
    paths = _plain_files(directory)
    manifest = _read(directory, paths, MANIFEST_NAME)
    signature = paths.get(SIGNATURE_NAME)
    if signature is None:
        raise refused(
            directory, SIGNATURE_NAME, "is missing: nobody signed this bundle; have it signed"
        )
    try:
        signer = signer_of(manifest, _read(directory, paths, SIGNATURE_NAME), trusted)
    except UntrustedSignatureError as error:
        raise refused(directory, SIGNATURE_NAME, str(error)) from error
    expected = _expected(directory, manifest)
    del paths[MANIFEST_NAME], paths[SIGNATURE_NAME]
    for name in sorted(expected.keys() - paths.keys()):
        raise refused(directory, name, "is missing; install the bundle again")
    for name in sorted(paths.keys() - expected.keys()):
        raise refused(directory, name, "was added: it is not in the manifest; remove it")
    contents = {name: _read(directory, paths, name) for name in paths}
    for name, content in contents.items():
        if hashlib.sha256(content).hexdigest() != expected[name]:
            raise refused(directory, name, "was changed: its SHA-256 is not the manifest's")
        _require_data(directory, name, content)
    return SignedFiles(
        contents=contents,
        hashes=expected,
        manifest_digest=digest_of_manifest(manifest),
        signer=signer,
    )


def digest_of_manifest(manifest: bytes) -> str:
    """What names the whole bundle."""
    return f"sha256:{hashlib.sha256(manifest).hexdigest()}"


def read_json(directory: Path, name: str, content: bytes) -> dict[str, object]:
    """A JSON object of a bundle.

    Raises:
        BundleError: It is none.
    """
    try:
        parsed = json.loads(content)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise refused(directory, name, f"is not JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise refused(directory, name, "is not a JSON object")
    return parsed


def _plain_files(directory: Path) -> dict[str, Path]:
    """Every file by POSIX path; each can be nothing but a plain file of its own."""
    found: dict[str, Path] = {}
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory).as_posix()
        status = path.lstat()
        if stat.S_ISDIR(status.st_mode):
            continue
        if not stat.S_ISREG(status.st_mode):
            raise refused(directory, name, "is a link or device; a bundle holds plain files")
        if status.st_nlink > 1:
            raise refused(directory, name, "is hard-linked and could change elsewhere; copy it")
        if path.suffix.lower() in _PICKLE_SUFFIXES:
            raise _pickle(directory, name)
        found[name] = path
    return found


def _read(directory: Path, paths: Mapping[str, Path], name: str) -> bytes:
    if name not in paths:
        raise refused(directory, name, "is missing; install the bundle again")
    try:
        return paths[name].read_bytes()
    except OSError as error:
        raise refused(directory, name, f"cannot be read: {error.strerror}") from error


def _expected(directory: Path, manifest: bytes) -> dict[str, str]:
    """SHA-256 by path, as the manifest says."""
    said = read_json(directory, MANIFEST_NAME, manifest)
    algorithm, files = said.get("algorithm"), said.get("files")
    if algorithm != HASH_ALGORITHM:
        raise refused(directory, MANIFEST_NAME, f"hashes by {algorithm!r}, not {HASH_ALGORITHM}")
    if not isinstance(files, dict):
        raise refused(directory, MANIFEST_NAME, "has no `files`")
    for name, digest in files.items():
        parts = PurePosixPath(name).parts
        if not parts or name != "/".join(parts) or {"..", "/"} & {*parts} or "\\" in name:
            raise refused(
                directory, MANIFEST_NAME, f"names {name!a}, which is no file of the bundle"
            )
        if not isinstance(digest, str) or len(digest) != _HASH_LENGTH:
            raise refused(directory, MANIFEST_NAME, f"has no SHA-256 of {name!a}")
    return files


def _require_data(directory: Path, name: str, content: bytes) -> None:
    """Refuse what is code, or would read another file."""
    if content.startswith(_PICKLE_STARTS):
        raise _pickle(directory, name)
    if name.lower().endswith(_GRAPH_SUFFIX):
        try:
            require_self_contained(content)
        except GraphError as error:
            raise refused(directory, name, str(error)) from error


def _pickle(directory: Path, name: str) -> BundleError:
    return refused(directory, name, "is a pickle, which is code; bundles hold only data")
