"""Who signed a bundle: Ed25519 (RFC 8032) over the bytes of its manifest.

The signature is a file of its own, so that signing a bundle again changes no other file. The
project's public key comes with the package; a site adds those of whom else it trusts.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from imaging_node.domain.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Sequence

ALGORITHM = "ed25519"
_KEYS = Path(__file__).with_name("keys")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustedKey:
    """A public key whose bundles are taken.

    Attributes:
        key_id: First 16 hex digits of the SHA-256 of the key's 32 bytes.
        owner: Name of its file.
    """

    key_id: str
    owner: str
    public: Ed25519PublicKey

    def __str__(self) -> str:
        return f"{self.owner} (key {self.key_id})"


class UntrustedSignatureError(Exception):
    """Why a signature counts for nothing; the text continues "manifest.sig: "."""


def trusted_keys(site_keys: Sequence[Path] = ()) -> tuple[TrustedKey, ...]:
    """The project's keys, then the site's.

    Args:
        site_keys: Files of public keys, PEM.

    Raises:
        SettingsError: One of them cannot be read as an Ed25519 public key.
    """
    return tuple(_read_key(path) for path in (*sorted(_KEYS.glob("*.pem")), *site_keys))


def _read_key(path: Path) -> TrustedKey:
    try:
        key = load_pem_public_key(path.read_bytes())
    except OSError as error:
        raise SettingsError(
            f"model_keys: cannot read {path}: {error.strerror}; name a readable PEM file"
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _no_key(path) from error
    if not isinstance(key, Ed25519PublicKey):
        raise _no_key(path)
    return TrustedKey(key_id=key_id(key), owner=path.stem, public=key)


def _no_key(path: Path) -> SettingsError:
    return SettingsError(
        f"model_keys: {path} is no Ed25519 public key in PEM; name the file with the public key of"
        " whoever signs the bundles"
    )


def key_id(public: Ed25519PublicKey) -> str:
    """What a signature names its key by."""
    return hashlib.sha256(public.public_bytes_raw()).hexdigest()[:16]


def sign(manifest: bytes, private: Ed25519PrivateKey) -> bytes:
    """Content of the signature file for a manifest's bytes."""
    signature = {
        "algorithm": ALGORITHM,
        "key_id": key_id(private.public_key()),
        "signature": base64.b64encode(private.sign(manifest)).decode("ascii"),
    }
    return (json.dumps(signature, indent=2) + "\n").encode()


def signer_of(manifest: bytes, signature: bytes, trusted: Sequence[TrustedKey]) -> TrustedKey:
    """The trusted key that signed a manifest.

    Raises:
        UntrustedSignatureError: None did; the text says why not.
    """
    try:
        said = json.loads(signature)
        algorithm, claimed = said["algorithm"], said["key_id"]
        value = base64.b64decode(said["signature"], validate=True)
    except (ValueError, KeyError, TypeError, binascii.Error) as error:
        raise UntrustedSignatureError("is no signature file") from error
    if algorithm != ALGORITHM:
        raise UntrustedSignatureError(f"is signed by {algorithm!r}; only {ALGORITHM} is taken")
    for key in trusted:
        if key.key_id == claimed:
            try:
                key.public.verify(value, manifest)
            except InvalidSignature as error:
                raise UntrustedSignatureError(
                    f"does not fit the manifest, though it names key {key.key_id};"
                    " get the bundle again from its author"
                ) from error
            return key
    raise UntrustedSignatureError(
        f"is signed with key {claimed!r}, which this node does not trust; if the author is"
        " known to you, add the author's public key to `model_keys`"
    )
