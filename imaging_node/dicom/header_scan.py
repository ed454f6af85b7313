"""Wanted elements of an encoded dataset, found without decoding the rest.

Intake looks at every instance before it answers, so this walks over elements by their lengths
alone (PS3.5 7.1), within a budget of elements and nesting that no honest header comes near.
"""

from __future__ import annotations

import struct
import threading
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from imaging_node.dicom.statuses import STATUS_CANNOT_UNDERSTAND
from imaging_node.domain.errors import RejectedInstanceError

if TYPE_CHECKING:
    import mmap
    from collections.abc import Collection

MOST_ELEMENTS = 200_000
MOST_NESTING = 32

IMPLICIT_LITTLE = "1.2.840.10008.1.2"
EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
EXPLICIT_BIG = "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
# A header needs far less; a deflated dataset that holds more before its pixels is a bomb.
_LONGEST_INFLATED_HEADER_BYTES = 8 * 1024 * 1024
# So much for one of them at a time: as many bombs as there are associations are no more than one.
_INFLATING = threading.Lock()
# No value that is wanted may be as long (PS3.5 6.2); what goes on behind that is not read.
_LONGEST_VALUE_BYTES = 4096
# Nor does a sequence of a header hold as many: each item costs far more memory than it has bytes.
MOST_ITEMS = 64

_FIRST_PIXEL_TAG = 0x7FE00008
_PIXEL_TAGS = (0x7FE00008, 0x7FE00009, 0x7FE00010)
_ITEM = 0xFFFEE000
_ITEM_END = 0xFFFEE00D
_SEQUENCE_END = 0xFFFEE0DD
_UNDEFINED = 0xFFFFFFFF
# PS3.5 7.1.2: these have two reserved bytes and a length of 32 bits.
LONG_VRS = frozenset(
    {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
)
_SHORT_VRS = frozenset(
    {
        b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO", b"LT",
        b"PN", b"SH", b"SL", b"SS", b"ST", b"TM", b"UI", b"UL", b"US",
    }
)  # fmt: skip


class TruncatedHeaderError(RejectedInstanceError):
    """The bytes end before the header does: more of the dataset settles it."""


class HeaderBudgetError(RejectedInstanceError):
    """More elements, or deeper sequences, than any honest header has."""


@dataclass(slots=True)
class Header:
    """Elements found.

    Attributes:
        values: Values by tag, as received; the first 4 KiB of each.
        items: Items of wanted sequences by tag, as many as were asked for; they have none.
        has_pixel_data: Whether a pixel data element that is not empty follows.
        is_little_endian: Byte order of binary values.
    """

    values: dict[int, bytes] = field(default_factory=dict)
    items: dict[int, list[Header]] = field(default_factory=dict)
    has_pixel_data: bool = False
    is_little_endian: bool = True


def scan_header(
    dataset: bytes | mmap.mmap,
    transfer_syntax_uid: str,
    wanted: Collection[int],
    *,
    begin: int = 0,
    most_elements: int = MOST_ELEMENTS,
    most_items: int = MOST_ITEMS,
    most_nesting: int = MOST_NESTING,
) -> Header:
    """Walk from `begin` to the pixel data, or to the end.

    Args:
        wanted: Tags whose values, or items, are returned; in items the same tags.
        most_elements: Elements and items of all levels that may occur.
        most_items: Items of one sequence that are kept; what comes behind is walked over.
        most_nesting: Sequences within sequences that may occur.

    Raises:
        TruncatedHeaderError: 0xC000, the bytes end within an element.
        HeaderBudgetError: 0xC000, too many elements, or sequences too deep.
        RejectedInstanceError: 0xC000, what lies there are no elements.
    """
    if transfer_syntax_uid == DEFLATED:
        with _INFLATING:
            return scan_header(
                _inflated(dataset, begin),
                EXPLICIT_LITTLE,  # PS3.5 A.5: what it is once inflated
                wanted,
                most_elements=most_elements,
                most_items=most_items,
                most_nesting=most_nesting,
            )
    is_little = transfer_syntax_uid != EXPLICIT_BIG
    walk = _Walk(
        dataset,
        is_little=is_little,
        is_implicit=transfer_syntax_uid == IMPLICIT_LITTLE
        or (is_little and _looks_implicit(dataset, begin)),
        wanted=wanted,
        most_elements=most_elements,
        most_items=most_items,
        most_nesting=most_nesting,
    )
    try:
        header, _ = walk.elements(begin, len(dataset), depth=0, is_implicit=walk.is_implicit)
    except struct.error:
        raise _truncated() from None
    return header


def _inflated(dataset: bytes | mmap.mmap, begin: int) -> bytes:
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(
            dataset[begin : begin + _LONGEST_INFLATED_HEADER_BYTES], _LONGEST_INFLATED_HEADER_BYTES
        )
    except zlib.error:
        raise _not_understood("its deflated stream is damaged") from None


class _Walk:
    """One pass over a dataset, and how many elements it may still meet."""

    def __init__(
        self,
        dataset: bytes | mmap.mmap,
        *,
        is_little: bool,
        is_implicit: bool,
        wanted: Collection[int],
        most_elements: int,
        most_items: int,
        most_nesting: int,
    ) -> None:
        order = "<" if is_little else ">"
        self.is_implicit = is_implicit
        self._dataset = dataset
        self._is_little = is_little
        self._wanted = wanted
        self._left = most_elements
        self._most_items = most_items
        self._most_nesting = most_nesting
        self._explicit = struct.Struct(f"{order}HH2sH").unpack_from
        self._implicit = struct.Struct(f"{order}HHI").unpack_from
        self._long = struct.Struct(f"{order}I").unpack_from

    def elements(
        self, position: int, end: int, *, depth: int, is_implicit: bool
    ) -> tuple[Header, int]:
        """Elements of a dataset or an item; returns them and where they end."""
        header = Header(is_little_endian=self._is_little)
        dataset, wanted = self._dataset, self._wanted
        while position < end:
            if is_implicit:
                group, element, length = self._implicit(dataset, position)
                vr, start = b"", position + 8
            else:
                group, element, vr, length = self._explicit(dataset, position)
                start = position + 8
                if vr not in _SHORT_VRS and group != 0xFFFE:  # noqa: PLR2004 - items have no VR
                    if vr not in LONG_VRS:
                        # Its length may be meant in 16 bits or in 32: identity must not hang on
                        # a guess that the scorer may make otherwise.
                        raise _not_understood("an element has an unknown value representation")
                    (length,) = self._long(dataset, start)
                    start += 4
            tag = group << 16 | element
            if tag == _ITEM_END and depth:
                return header, start
            if tag >= _FIRST_PIXEL_TAG and not depth:
                header.has_pixel_data = tag in _PIXEL_TAGS and length > 0
                return header, position
            self._count()
            # What a parser takes an unknown VR for, it may parse as implicit (PS3.5 6.2.2 note 2).
            is_hidden = is_implicit or (vr == b"UN" and tag in IMAGE_SEQUENCES)
            if vr == b"SQ" or length == _UNDEFINED or (is_hidden and tag in wanted):
                position = self._value_or_items(
                    header, tag, vr, start, length, end, depth=depth, is_implicit=is_implicit
                )
                continue
            position = start + length
            if position > end:
                raise _truncated()
            if tag in wanted:
                header.values[tag] = dataset[start : min(position, start + _LONGEST_VALUE_BYTES)]
        return header, position

    def _value_or_items(
        self,
        header: Header,
        tag: int,
        vr: bytes,
        start: int,
        length: int,
        end: int,
        *,
        depth: int,
        is_implicit: bool,
    ) -> int:
        """Take a sequence, or a value of an implicit dataset that may be one."""
        stop = end if length == _UNDEFINED else start + length
        if stop > end:
            raise _truncated()
        is_sequence = vr == b"SQ" or length == _UNDEFINED or tag in _SEQUENCES
        if not is_sequence:
            header.values[tag] = self._dataset[start : min(stop, start + _LONGEST_VALUE_BYTES)]
            return stop
        is_kept = tag in self._wanted and not depth
        # PS3.5 6.2.2 note 2: an unknown VR of undefined length holds implicit elements.
        items, position = self._items(
            start,
            stop,
            is_open=length == _UNDEFINED,
            depth=depth + 1,
            is_implicit=is_implicit or vr == b"UN",
            most_kept=self._most_items if is_kept else 0,
        )
        if is_kept:
            header.items[tag] = items
        return position

    def _items(
        self,
        position: int,
        end: int,
        *,
        is_open: bool,
        depth: int,
        is_implicit: bool,
        most_kept: int,
    ) -> tuple[list[Header], int]:
        if depth > self._most_nesting:
            raise _over_budget(f"sequences are nested deeper than {self._most_nesting}")
        items: list[Header] = []
        while position < end:
            group, element, length = self._implicit(self._dataset, position)
            tag = group << 16 | element
            position += 8
            self._count()
            if tag == _SEQUENCE_END and is_open:
                return items, position
            if tag != _ITEM:
                raise _not_understood("a sequence holds what is no item")
            stop = end if length == _UNDEFINED else position + length
            if stop > end:
                raise _truncated()
            item, position = self.elements(position, stop, depth=depth, is_implicit=is_implicit)
            if len(items) < most_kept:
                items.append(item)
        if is_open:
            raise _truncated()
        return items, position

    def _count(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise _over_budget("it has too many elements")


# Lookup tables and functional groups, which decoding reads.
IMAGE_SEQUENCES = frozenset(
    {0x00283000, 0x00283010, 0x00289110, 0x00289132, 0x00289145, 0x52009229, 0x52009230}
)
# Sequences among what is ever wanted: an implicit dataset does not say that they are.
_SEQUENCES = IMAGE_SEQUENCES | {0x00081198, 0x00081199, 0x00082218, 0x00540220, 0x00400275}


def _looks_implicit(dataset: bytes | mmap.mmap, begin: int) -> bool:
    """Whether a dataset called explicit is none: some senders encode another syntax than agreed."""
    vr = dataset[begin + 4 : begin + 6]
    return len(vr) == 2 and not (vr.isalpha() and vr.isupper())  # noqa: PLR2004 - a VR's letters


def _not_understood(what: str) -> RejectedInstanceError:
    return RejectedInstanceError(
        f"the dataset cannot be parsed: {what}; check the sender's encoding",
        status=STATUS_CANNOT_UNDERSTAND,
    )


def _over_budget(what: str) -> HeaderBudgetError:
    return HeaderBudgetError(
        f"the dataset cannot be parsed: {what}; check the sender's encoding",
        status=STATUS_CANNOT_UNDERSTAND,
    )


def _truncated() -> TruncatedHeaderError:
    return TruncatedHeaderError(
        "the dataset ends within an element; check the sender's encoding",
        status=STATUS_CANNOT_UNDERSTAND,
    )
