"""A key that only the tests trust, for bundles that they change or build."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from imaging_node.inference.signing import sign_bundle
from imaging_node.inference.trust import TrustedKey, key_id, trusted_keys

if TYPE_CHECKING:
    from pathlib import Path

TEST_KEY = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"for tests only").digest())
# What a node trusts that has the tests' key among its `model_keys`.
TRUSTED = (
    *trusted_keys(),
    TrustedKey(key_id=key_id(TEST_KEY.public_key()), owner="tests", public=TEST_KEY.public_key()),
)


def sign_again(directory: Path) -> None:
    """Write manifest and signature that fit a changed bundle, as its author would."""
    sign_bundle(directory, TEST_KEY)


def write_test_key(folder: Path) -> Path:
    """The public key as a file, for the setting `model_keys`."""
    path = folder / "tests.pem"
    path.write_bytes(
        TEST_KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    return path
