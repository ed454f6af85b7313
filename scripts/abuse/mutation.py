"""Damage to bytes that once meant something: the fuzzing of the abuse test."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator, Sequence

_MOST_CHANGES = 6
_SPOILED_REQUESTS, _SPOILED_PDUS = 0.2, 0.6
_WELL_FRAMED = 0.75
_P_DATA = 4
# PDU header, and length, context and control of the first presentation data value.
_DATA_BEGIN = 12
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


def mutated_stream(
    streams: Sequence[Sequence[bytes]], chance: random.Random
) -> Iterator[tuple[bytes, bool]]:
    """One of the recorded streams, spoiled: its PDUs, and which of them are not as recorded.

    Most requests for an association stay whole, because behind a broken one nothing is heard.
    """
    for pdu in _rearranged(list(chance.choice(streams)), streams, chance):
        is_request = pdu[:1] == b"\x01"
        if chance.random() < (_SPOILED_REQUESTS if is_request else _SPOILED_PDUS):
            yield _mutated_pdu(pdu, chance), True
        else:
            yield pdu, False


def _rearranged(
    pdus: list[bytes], streams: Sequence[Sequence[bytes]], chance: random.Random
) -> list[bytes]:
    kind = chance.randrange(12)
    position = chance.randrange(len(pdus))
    if kind == 0:
        pdus.insert(position, pdus[position])
    elif kind == 1 and len(pdus) > 1:
        other = chance.randrange(len(pdus))
        pdus[position], pdus[other] = pdus[other], pdus[position]
    elif kind == 2:  # noqa: PLR2004 - one of twelve
        del pdus[position]
    elif kind == 3:  # noqa: PLR2004 - one of twelve
        other_stream = chance.choice(streams)
        pdus[position:position] = other_stream[chance.randrange(len(other_stream)) :]
    elif kind == 4:  # noqa: PLR2004 - one of twelve
        pdus.insert(position, bytes([chance.randrange(9), 0, 0, 0, 0, 4]) + chance.randbytes(4))
    elif kind == 5:  # noqa: PLR2004 - one of twelve
        del pdus[position:]
    return pdus or [b"\x01"]


def _mutated_pdu(pdu: bytes, chance: random.Random) -> bytes:
    """A PDU whose content changed and whose length says so, or one that is wrong all over."""
    if chance.random() < _WELL_FRAMED and len(pdu) > _DATA_BEGIN:
        # Behind the headers of PDU and value, so that it is a message that is wrong.
        content = mutated(pdu[_DATA_BEGIN:], chance)
        if pdu[0] == _P_DATA:
            value = (len(content) + 2).to_bytes(4, "big") + pdu[10:12] + content
            return b"\x04\0" + len(value).to_bytes(4, "big") + value
        body = pdu[6:_DATA_BEGIN] + content
        return pdu[:2] + len(body).to_bytes(4, "big") + body
    return mutated(pdu, chance)
