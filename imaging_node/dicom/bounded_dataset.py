"""Small datasets of normalised services, read in one pass with a bound on everything."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

IMPLICIT_VR_LITTLE_ENDIAN: Final = "1.2.840.10008.1.2"
EXPLICIT_VR_LITTLE_ENDIAN: Final = "1.2.840.10008.1.2.1"

_DEEPEST: Final = 8
_TAG_AND_LENGTH = struct.Struct("<HHI")
_EXPLICIT_HEAD = struct.Struct("<HH2sH")
_LONG_LENGTH = struct.Struct("<I")
# PS3.5 7.1.2: these have two reserved bytes and a length of four.
_LONG_VRS: Final = frozenset(
    {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
)
_UNDEFINED: Final = 0xFFFFFFFF
_ITEM: Final = 0xFFFEE000
_ITEM_END: Final = 0xFFFEE00D
_SEQUENCE_END: Final = 0xFFFEE0DD

Elements = dict[int, bytes]


class BoundedDataset:
    """The plain elements of a dataset and the items of the sequences that were asked for.

    Attributes:
        elements: Values by tag, of the dataset itself.
        items: Plain elements of each item, by the tag of its sequence.
    """

    def __init__(
        self,
        encoded: bytes,
        transfer_syntax_uid: str,
        *,
        sequences: Collection[int],
        most_elements: int,
    ) -> None:
        """Read `encoded` whole; time and memory grow with its length alone.

        Args:
            sequences: Tags of the sequences whose items are kept; others are stepped over.
            most_elements: Elements and items of all levels that may occur.

        Raises:
            ValueError: It is no dataset of this transfer syntax, or passes a bound.
        """
        if transfer_syntax_uid not in (IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_LITTLE_ENDIAN):
            raise ValueError("neither implicit nor explicit VR little endian")
        self._encoded = encoded
        self._is_implicit = transfer_syntax_uid == IMPLICIT_VR_LITTLE_ENDIAN
        self._sequences = sequences
        self._left = most_elements
        self._at = 0
        self.items: dict[int, list[Elements]] = {tag: [] for tag in sequences}
        self.elements = self._read_elements(len(encoded), depth=0)

    def _read_elements(self, end: int, *, depth: int) -> Elements:
        """Elements up to `end`, or up to an item delimiter."""
        found: Elements = {}
        while self._at < end:
            tag, length = self._head(end)
            if tag == _ITEM_END:
                break
            if tag in self._sequences and depth == 0:
                self.items[tag] += self._read_items(length, end, depth=depth)
            elif length == _UNDEFINED:
                for _ in self._read_items(length, end, depth=depth):
                    pass
            else:
                found[tag] = self._encoded[self._at : self._step(length, end)]
        return found

    def _read_items(self, length: int, end: int, *, depth: int) -> Iterator[Elements]:
        if depth >= _DEEPEST:
            raise ValueError("sequences are nested too deep")
        if length != _UNDEFINED:
            if length > end - self._at:
                raise ValueError("a sequence is longer than the dataset")
            end = self._at + length
        while self._at < end:
            tag, item_length = self._item_head(end)
            if tag == _SEQUENCE_END:
                return
            if tag != _ITEM:
                raise ValueError("a sequence holds what is no item")
            item_end = end
            if item_length != _UNDEFINED:
                if item_length > end - self._at:
                    raise ValueError("an item is longer than its sequence")
                item_end = self._at + item_length
            yield self._read_elements(item_end, depth=depth + 1)
        if length == _UNDEFINED:
            raise ValueError("a sequence has no end")

    def _head(self, end: int) -> tuple[int, int]:
        """Tag and length of the element that begins here."""
        tag, length = self._item_head(end)
        if self._is_implicit or tag == _ITEM_END:
            return tag, length
        _, _, vr, length = _EXPLICIT_HEAD.unpack_from(self._encoded, self._at - _EXPLICIT_HEAD.size)
        if vr not in _LONG_VRS:
            return tag, length
        begin = self._at
        self._step(_LONG_LENGTH.size, end)
        return tag, _LONG_LENGTH.unpack_from(self._encoded, begin)[0]

    def _item_head(self, end: int) -> tuple[int, int]:
        self._left -= 1
        if self._left < 0:
            raise ValueError("too many elements")
        begin = self._at
        self._step(_TAG_AND_LENGTH.size, end)
        group, element, length = _TAG_AND_LENGTH.unpack_from(self._encoded, begin)
        return group << 16 | element, length

    def _step(self, length: int, end: int) -> int:
        if length > end - self._at:
            raise ValueError("the dataset ends within an element")
        self._at += length
        return self._at
