"""Elements that the node writes of its own, by keyword, as Explicit VR Little Endian bytes.

They are what pydicom would write for the same values, without a dataset in between: tests write
every result again with pydicom and compare the bytes.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from pydicom.datadict import dictionary_VR, tag_for_keyword

from imaging_node.dicom.encoding import RawElement

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pydicom.sr.coding import Code

_SHORT_STRING: Final = 16  # SH, PS3.5 6.2
_BINARY: Final = {"US": "H", "FD": "d"}
_ITEM: Final = struct.Struct("<HHL")


def element(keyword: str, *values: str | float) -> RawElement:
    """Element of the data dictionary; no value makes it empty.

    Args:
        keyword: Of an element whose VR holds text, or is US or FD.
        values: In the order of the element, as they are written.

    Raises:
        UnicodeEncodeError: Text beyond Latin-1; our own is ASCII, see `provenance.ascii_text`.
    """
    tag, vr = _place(keyword)
    if vr in _BINARY:
        return RawElement(tag, vr, struct.pack(f"<{len(values)}{_BINARY[vr]}", *values))
    return RawElement(tag, vr, "\\".join(map(str, values)).encode("latin-1"))


def sequence(keyword: str, *items: bytes) -> RawElement:
    """Sequence over encoded items without their heads, with explicit lengths (PS3.5 7.5)."""
    return RawElement(_place(keyword)[0], "SQ", b"".join(map(item, items)))


def item(body: bytes) -> bytes:
    """Item with an explicit length around encoded elements (PS3.5 7.5.1)."""
    return _ITEM.pack(0xFFFE, 0xE000, len(body)) + body


def joined(elements: Iterable[RawElement]) -> bytes:
    """Elements of one dataset or item, in the order of their tags (PS3.5 7.1)."""
    return b"".join(each.encoded() for each in sorted(elements, key=_tag))


def by_tag(elements: Iterable[RawElement]) -> dict[int, bytes]:
    """Encoded elements by tag; of two with the same tag the later one counts."""
    return {each.tag: each.encoded() for each in elements}


def code_body(code: Code) -> bytes:
    """Body of an item of a code sequence (PS3.3 8.8)."""
    if len(code.value) <= _SHORT_STRING:
        keyword = "CodeValue"
    elif code.value.startswith("urn") or "://" in code.value:
        keyword = "URNCodeValue"
    else:
        keyword = "LongCodeValue"
    version = code.scheme_version
    return joined(
        [
            element(keyword, code.value),
            element("CodingSchemeDesignator", code.scheme_designator),
            *([element("CodingSchemeVersion", version)] if version is not None else ()),
            element("CodeMeaning", code.meaning),
        ]
    )


def reference_body(sop_class_uid: str, sop_instance_uid: str) -> bytes:
    """Body of an item that names another instance (PS3.3 Table 10-11)."""
    return joined(
        [
            element("ReferencedSOPClassUID", sop_class_uid),
            element("ReferencedSOPInstanceUID", sop_instance_uid),
        ]
    )


def _tag(raw: RawElement) -> int:
    return raw.tag


@lru_cache(maxsize=512)
def _place(keyword: str) -> tuple[int, str]:
    """Tag and VR of the data dictionary."""
    tag = tag_for_keyword(keyword)
    assert tag is not None, keyword
    return int(tag), str(dictionary_VR(tag))
