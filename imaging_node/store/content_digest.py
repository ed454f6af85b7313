"""What names content: its BLAKE3 digest, 64 hex digits (ADR 8)."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

from blake3 import blake3

if TYPE_CHECKING:
    from hashlib import _Hash as Hash
    from pathlib import Path

_PIECE_BYTES = 256 * 1024


def begin_digest() -> blake3:
    """A digest of nothing yet, for content that comes piece by piece."""
    return blake3()


def digest_of(content: bytes) -> str:
    """The digest of content that lies in memory."""
    return blake3(content).hexdigest()


def is_digest_of(content: bytes, digest: str) -> bool:
    """Whether `digest` names `content`; version 0.1 named it by its SHA-256."""
    return digest_of(content) == digest or sha256(content).hexdigest() == digest


def is_digest_of_file(path: Path, digest: str) -> bool:
    """Whether `digest` names the content of a file, which is read piece by piece.

    Raises:
        OSError: It cannot be read.
    """
    return any(_of_file(path, begin()) == digest for begin in (blake3, sha256))


def _of_file(path: Path, digest: blake3 | Hash) -> str:
    memory = memoryview(bytearray(_PIECE_BYTES))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(memory):
            digest.update(memory[:count])
    return digest.hexdigest()
