"""Content items of a structured report (PS3.3 C.17.3) as Explicit VR Little Endian bytes.

Each function returns the body of one item of a Content Sequence. No element is looked for in
bytes made before: an item is put together from whole elements, in the order of their tags.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final

from pydicom.sr.coding import Code
from pydicom.valuerep import DS

from imaging_node.dicom.elements import (
    code_body,
    element,
    item,
    joined,
    reference_body,
    sequence,
)
from imaging_node.dicom.encoding import RawElement

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

CONTAINS: Final = "CONTAINS"
HAS_CONCEPT_MODIFIER: Final = "HAS CONCEPT MOD"
HAS_OBSERVATION_CONTEXT: Final = "HAS OBS CONTEXT"
HAS_ACQUISITION_CONTEXT: Final = "HAS ACQ CONTEXT"

_CONTENT_SEQUENCE: Final = 0x0040A730
_TEXT_VALUE: Final = 0x0040A160


def container(name: Code, items: Iterable[bytes], *, template: str | None = None) -> bytes:
    """CONTAINER with the relationship CONTAINS; `template` is its TID."""
    return b"".join(
        [
            _head(CONTAINS, "CONTAINER", *_words(name)),
            element("ContinuityOfContent", "CONTINUOUS").encoded(),
            *([template_sequence(template).encoded()] if template is not None else ()),
            content_sequence(items).encoded(),
        ]
    )


def template_sequence(template: str) -> RawElement:
    """Content Template Sequence for a TID of PS3.16."""
    body = joined([element("MappingResource", "DCMR"), element("TemplateIdentifier", template)])
    return sequence("ContentTemplateSequence", body)


def content_sequence(items: Iterable[bytes]) -> RawElement:
    """Content Sequence over encoded content items."""
    return RawElement(_CONTENT_SEQUENCE, "SQ", b"".join(map(item, items)))


def code_item(relationship: str, name: Code, value: Code) -> bytes:
    """CODE item of coded terms that the node itself knows."""
    return _code_item(relationship, _words(name), _words(value))


def received_code_item(relationship: str, name: Code, value: Code) -> bytes:
    """CODE item whose value came with an image: nothing of it is kept in memory."""
    head = _head(relationship, "CODE", *_words(name))
    return head + sequence("ConceptCodeSequence", code_body(value)).encoded()


def text_item(relationship: str, name: Code, text: str) -> bytes:
    """TEXT item."""
    value = RawElement(_TEXT_VALUE, "UT", text.encode("latin-1"))
    return _head(relationship, "TEXT", *_words(name)) + value.encoded()


def uid_item(relationship: str, name: Code, uid: str) -> bytes:
    """UIDREF item."""
    return _head(relationship, "UIDREF", *_words(name)) + element("UID", uid).encoded()


def number_item(
    relationship: str, name: Code, value: float, unit: Code, modifiers: Sequence[bytes] = ()
) -> bytes:
    """NUM item; `modifiers` are content items below it.

    An integer is written as a decimal string alone, any other number as FD too (PS3.3 C.18.1).
    """
    measured = _units(*_words(unit))
    if isinstance(value, float):
        measured += element("FloatingPointValue", value).encoded()
    measured += element("NumericValue", _decimal_string(value)).encoded()
    below = content_sequence(modifiers).encoded() if modifiers else b""
    return (
        _head(relationship, "NUM", *_words(name))
        + sequence("MeasuredValueSequence", measured).encoded()
        + below
    )


def image_item(
    name: Code, sop_class_uid: str, sop_instance_uid: str, descriptors: Sequence[bytes] = ()
) -> bytes:
    """IMAGE item with the relationship CONTAINS; `descriptors` are content items below it."""
    reference = sequence("ReferencedSOPSequence", reference_body(sop_class_uid, sop_instance_uid))
    below = content_sequence(descriptors).encoded() if descriptors else b""
    return reference.encoded() + _head(CONTAINS, "IMAGE", *_words(name)) + below


def _words(code: Code) -> tuple[str, str, str]:
    # Two codes are equal to pydicom whatever their meanings: a cache must tell those apart.
    return code.value, code.scheme_designator, code.meaning


@lru_cache(maxsize=1024)
def _code_item(relationship: str, name: tuple[str, str, str], value: tuple[str, str, str]) -> bytes:
    return received_code_item(relationship, Code(*name), Code(*value))


@lru_cache(maxsize=1024)
def _head(relationship: str, value_type: str, value: str, scheme: str, meaning: str) -> bytes:
    """Relationship, value type and concept name: what every content item begins with."""
    return joined(
        [
            element("RelationshipType", relationship),
            element("ValueType", value_type),
            sequence("ConceptNameCodeSequence", code_body(Code(value, scheme, meaning))),
        ]
    )


@lru_cache(maxsize=64)
def _units(value: str, scheme: str, meaning: str) -> bytes:
    units = code_body(Code(value, scheme, meaning))
    return sequence("MeasurementUnitsCodeSequence", units).encoded()


def _decimal_string(value: float) -> str:
    """At most 16 characters (PS3.5 6.2, DS), or as a source wrote the number."""
    number = DS(value, auto_format=True)
    return str(getattr(number, "original_string", number))
