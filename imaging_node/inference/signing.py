"""Sign a bundle: what its author does, and whoever vouches for it at a site."""

from __future__ import annotations

import hashlib
import json
import os
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from imaging_node.domain.errors import OperatorError
from imaging_node.inference.bundle_files import HASH_ALGORITHM, MANIFEST_NAME, SIGNATURE_NAME
from imaging_node.inference.trust import sign

if TYPE_CHECKING:
    from pathlib import Path


def make_key(private: Path, public: Path) -> None:
    """Write a new pair of PEM files; the private one is readable by its owner only.

    Raises:
        OperatorError: The private file is there already: a key is never overwritten.
    """
    key = Ed25519PrivateKey.generate()
    try:
        descriptor = os.open(private, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise OperatorError(f"cannot write the key {private}: {error.strerror}") from error
    with os.fdopen(descriptor, "wb") as file:
        file.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(
        key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )


def read_private_key(path: Path) -> Ed25519PrivateKey:
    """A private key as `make_key` wrote it.

    Raises:
        OperatorError: It cannot be read, or is no such key.
    """
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except OSError as error:
        raise OperatorError(f"cannot read the key {path}: {error.strerror}") from error
    except (ValueError, TypeError) as error:
        raise OperatorError(f"{path} is no private key without passphrase in PEM") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise OperatorError(f"{path} is no Ed25519 key; make one with scripts/sign_bundle.py")
    return key


def sign_bundle(directory: Path, private: Ed25519PrivateKey) -> None:
    """Write manifest and signature of a finished bundle, in the place of earlier ones."""
    own = (MANIFEST_NAME, SIGNATURE_NAME)
    hashes = {
        path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.relative_to(directory).as_posix() not in own
    }
    content = {"algorithm": HASH_ALGORITHM, "files": hashes}
    manifest = (json.dumps(content, indent=2) + "\n").encode()
    (directory / MANIFEST_NAME).write_bytes(manifest)
    (directory / SIGNATURE_NAME).write_bytes(sign(manifest, private))
