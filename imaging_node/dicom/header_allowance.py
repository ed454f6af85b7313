"""Whether a header is within its budget, settled before a parser builds anything of it.

Where the walk over the header ends cleanly at the pixel data, the parser may read what it likes:
of what decoding opens it meets the same elements. Where the header is odd, as old files are, the
parser may understand more of it than the walk, so it may read no more bytes than the elements of
the budget need.
"""

from __future__ import annotations

import mmap
from io import BytesIO
from typing import TYPE_CHECKING, BinaryIO, Final, cast

from imaging_node.dicom.header_scan import (
    IMAGE_SEQUENCES,
    IMPLICIT_LITTLE,
    LONG_VRS,
    HeaderBudgetError,
    TruncatedHeaderError,
    scan_header,
)
from imaging_node.dicom.spooled_file import open_spooled, reading
from imaging_node.domain.errors import NotAnalysedError, RejectedInstanceError
from imaging_node.domain.finding import NotAnalysedReason

if TYPE_CHECKING:
    from pathlib import Path

    from imaging_node.dicom.decoding_budget import DecodingBudget

_META_BEGIN, _LONGEST_META_BYTES = 132, 65536
_META_GROUP: Final = b"\x02\0"
_TRANSFER_SYNTAX: Final = b"\x02\0\x10\0"
_USUAL_HEADER_BYTES: Final = 2**20
_LEAST_ELEMENT_BYTES: Final = 8  # tag and length: PS3.5 7.1


class _AllowedReads:
    """A file that a parser may read only so much of; to skip is free."""

    def __init__(self, file: BinaryIO, most_bytes: int) -> None:
        self._file = file
        self._left = most_bytes
        self.seek, self.tell = file.seek, file.tell

    def read(self, length: int = -1, /) -> bytes:
        content = self._file.read(self._left + 1 if length < 0 else min(length, self._left + 1))
        self._left -= len(content)
        if self._left < 0:
            raise _over_budget("the header is odd, and too long for one that is")
        return content


def require_short_meta(path: Path) -> None:
    """Refuse file meta information that is longer than any honest one, before it is parsed.

    Raises:
        NotAnalysedError: It is.
        UnreadableFileError: The file cannot be read.
    """
    with open_spooled(path) as file:
        _dataset_begin(file.read(_LONGEST_META_BYTES))


def within_budget(budget: DecodingBudget, file: BinaryIO, size_bytes: int) -> BinaryIO:
    """What a parser may read the header of a plain file from.

    Args:
        file: At its beginning, where it is left.

    Raises:
        NotAnalysedError: The header exceeds the budget; also raised by reading too much of an
            odd header from what is returned.
    """
    if isinstance(file, BytesIO) and size_bytes > budget.inflated_bytes:
        raise _over_budget("the deflated dataset becomes too large")
    if _ends_at_pixels(budget, file, size_bytes):
        return file
    return cast("BinaryIO", _AllowedReads(file, _LEAST_ELEMENT_BYTES * budget.elements))


def _ends_at_pixels(budget: DecodingBudget, file: BinaryIO, size_bytes: int) -> bool:
    """Whether a walk by lengths alone ends at the pixel data."""
    head = file.read(_LONGEST_META_BYTES)
    file.seek(0)
    begin, transfer_syntax_uid = _dataset_begin(head)
    is_implicit = transfer_syntax_uid == IMPLICIT_LITTLE
    if not transfer_syntax_uid or (is_implicit and _is_explicit(head, begin)):
        return False  # the parser guesses
    # The second only for the few headers that are that long.
    for length in (min(_USUAL_HEADER_BYTES, budget.header_bytes), budget.header_bytes):
        try:
            header = scan_header(
                _beginning(file, head, min(length, size_bytes)),
                transfer_syntax_uid,
                IMAGE_SEQUENCES,
                begin=begin,
                most_elements=budget.elements,
                most_items=0,
                most_nesting=budget.nesting,
            )
        except HeaderBudgetError as error:
            raise _over_budget("the header has too many elements, or is nested too deep") from error
        except TruncatedHeaderError as error:
            if budget.header_bytes <= length < size_bytes:
                raise _over_budget("the header is too long") from error
        except RejectedInstanceError:
            return False
        else:
            if header.has_pixel_data:
                return True
    return False


def _beginning(file: BinaryIO, head: bytes, length: int) -> bytes | mmap.mmap:
    """The first bytes of a file; mapped, not read, if they are many."""
    if length <= len(head):
        return head[:length]
    if isinstance(file, BytesIO):
        return file.getvalue()[:length]
    with reading():
        return mmap.mmap(file.fileno(), length, access=mmap.ACCESS_READ)


def _dataset_begin(head: bytes) -> tuple[int, str]:
    """Where the dataset begins, and its transfer syntax; "" where none is stated.

    Like the parser, by the elements of file meta information and not by the length that it states.
    """
    position, transfer_syntax_uid = _META_BEGIN, ""
    is_explicit = _is_explicit(head, _META_BEGIN)
    while head[position : position + 2] == _META_GROUP:
        vr = head[position + 4 : position + 6]
        if is_explicit and vr in LONG_VRS:
            start, length = position + 12, head[position + 8 : position + 12]
        elif is_explicit and b"AA" <= vr <= b"ZZ":  # the parser's own comparison
            start, length = position + 8, head[position + 6 : position + 8]
        else:
            start, length = position + 8, head[position + 4 : position + 8]
        end = start + int.from_bytes(length, "little")
        if head[position : position + 4] == _TRANSFER_SYNTAX:
            transfer_syntax_uid = head[start:end].rstrip(b"\0 ").decode("latin-1")
        position = end
    if position > _LONGEST_META_BYTES:
        raise _over_budget("the file meta information is too long")
    return position, transfer_syntax_uid


def _is_explicit(head: bytes, position: int) -> bool:
    """Whether an element has the two capitals of a VR."""
    vr = head[position + 4 : position + 6]
    return vr.isalpha() and vr.isupper()


def _over_budget(detail: str) -> NotAnalysedError:
    return NotAnalysedError(detail, reason=NotAnalysedReason.UNDECODABLE)
