"""What names content: its BLAKE3 digest, 64 hex digits (ADR 8)."""

from __future__ import annotations

import threading
from hashlib import sha256
from typing import TYPE_CHECKING

from blake3 import blake3

if TYPE_CHECKING:
    from hashlib import _Hash as Hash
    from pathlib import Path

# Each piece lets go of Python's lock twice, so a film takes few.
_PIECE_BYTES = 1024 * 1024
_kept = threading.local()


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
    memory = _memory()
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(memory):
            digest.update(memory[:count])
    return digest.hexdigest()


def _memory() -> memoryview:
    """Room for a piece, used again by its thread: a fresh one costs a fault a page."""
    memory: memoryview | None = getattr(_kept, "memory", None)
    if memory is None:
        memory = _kept.memory = memoryview(bytearray(_PIECE_BYTES))
    return memory
