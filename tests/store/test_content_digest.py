"""What names content, and what named it before."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

import pytest

from imaging_node.store.content_digest import (
    begin_digest,
    digest_of,
    is_digest_of,
    is_digest_of_file,
)

if TYPE_CHECKING:
    from pathlib import Path

CONTENT = b"a chest film" * 100_000
# Of the authors' own test vectors: 0 and 1023 bytes that count from 0 to 250.
VECTORS = {
    0: "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
    1023: "10108970eeda3eb932baac1428c7a2163b0e924c9a9e25b35bba72b28f70bd11",
}


@pytest.mark.parametrize(("length", "expected"), VECTORS.items())
def test_it_is_the_published_digest(length: int, expected: str) -> None:
    assert digest_of(bytes(number % 251 for number in range(length))) == expected


def test_pieces_have_the_digest_of_the_whole() -> None:
    digest = begin_digest()
    for begin in range(0, len(CONTENT), 131_072):
        digest.update(memoryview(CONTENT)[begin : begin + 131_072])

    assert digest.hexdigest() == digest_of(CONTENT)


@pytest.mark.parametrize("named_by", [digest_of, lambda content: sha256(content).hexdigest()])
def test_today_s_name_and_that_of_version_0_1_are_believed_and_no_other(
    tmp_path: Path, named_by: object
) -> None:
    assert callable(named_by)
    digest, file = named_by(CONTENT), tmp_path / "file"
    file.write_bytes(CONTENT)

    assert is_digest_of(CONTENT, digest)
    assert is_digest_of_file(file, digest)

    changed = CONTENT[:-1] + b"X"
    file.write_bytes(changed)
    assert not is_digest_of(changed, digest)
    assert not is_digest_of_file(file, digest)
