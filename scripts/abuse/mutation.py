"""Damage to bytes that once meant something: the fuzzing of the abuse test."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random

_MOST_CHANGES = 6
_INTERESTING = (
    b"\0", b"\xff", b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\xfe\xff\0\xe0",
    b"\xfe\xff\xdd\xe0", b"\xfe\xff\x0d\xe0", b"SQ", b"UN", b"OB", b"\x08\0\x18\0", b"\x80",
)  # fmt: skip


def mutated(source: bytes, chance: random.Random) -> bytes:
    """`source` with one to six changes: flips, cuts, copies, insertions, lengths."""
    content = bytearray(source)
    for _ in range(chance.randint(1, _MOST_CHANGES)):
        _change(content, chance)
    return bytes(content)


def _change(content: bytearray, chance: random.Random) -> None:
    if not content:
        content += chance.randbytes(8)
        return
    position = chance.randrange(len(content))
    kind = chance.randrange(8)
    if kind == 0:
        content[position] ^= 1 << chance.randrange(8)
    elif kind == 1:
        content[position] = chance.randrange(256)
    elif kind == 2:  # noqa: PLR2004 - one of eight
        del content[position:]
    elif kind == 3:  # noqa: PLR2004 - one of eight
        del content[position : position + chance.randint(1, 32)]
    elif kind == 4:  # noqa: PLR2004 - one of eight
        piece = content[position : position + chance.randint(1, 64)]
        content[position:position] = piece
    elif kind == 5:  # noqa: PLR2004 - one of eight
        other = chance.randrange(len(content))
        piece = content[other : other + chance.randint(1, 64)]
        content[position : position + len(piece)] = piece
    elif kind == 6:  # noqa: PLR2004 - one of eight
        piece = bytearray(chance.choice(_INTERESTING))
        content[position : position + len(piece)] = piece
    else:
        _change_length(content, position, chance)


def _change_length(content: bytearray, position: int, chance: random.Random) -> None:
    """Add a little to what may be a length of two or four bytes."""
    size, order = chance.choice((2, 4)), chance.choice(("little", "big"))
    field = content[position : position + size]
    number = int.from_bytes(field, "little" if order == "little" else "big")
    number = (number + chance.randint(-16, 16)) % (1 << 8 * len(field))
    content[position : position + size] = number.to_bytes(
        len(field), "little" if order == "little" else "big"
    )
