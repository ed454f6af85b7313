"""What an enhanced multi-frame object says of one frame (PS3.3 C.7.6.16)."""

from __future__ import annotations

import struct
from io import BytesIO
from typing import TYPE_CHECKING, Final

from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset

from imaging_node.dicom.encoding import PARSE_ERRORS
from imaging_node.dicom.image_file import UNDEFINED_LENGTH

if TYPE_CHECKING:
    from pydicom.dataset import FileDataset

_ITEM: Final = (0xFFFE, 0xE000)
# Macro sequences, and the elements that decoding takes from them.
_MACROS: Final = {
    "PixelValueTransformationSequence": ("RescaleSlope", "RescaleIntercept"),
    "FrameVOILUTSequence": ("WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence"),
    "PixelMeasuresSequence": ("PixelSpacing",),
}


def frame_header(header: FileDataset, index: int) -> Dataset:
    """The header as it stands for one frame.

    A macro of the frame's own group comes first, then that of the shared group, then what the
    header says of the whole image, as objects without functional groups do.

    Args:
        header: Of the whole object.
        index: Number of the frame, from 0.
    """
    found = Dataset()
    found.update(header)
    groups = (
        _item(header, "PerFrameFunctionalGroupsSequence", index),
        _item(header, "SharedFunctionalGroupsSequence", 0),
    )
    for sequence, keywords in _MACROS.items():
        macros = (_item(group, sequence, 0) for group in groups if group is not None)
        macro = next((each for each in macros if each is not None), None)
        if macro is None:
            continue
        for keyword in keywords:
            found.pop(keyword, None)
            if keyword in macro:
                found.add(macro[keyword])
    return found


def _item(dataset: Dataset, keyword: str, index: int) -> Dataset | None:
    """One item of a sequence, None if it is not there."""
    try:
        item = _unread_item(dataset.get_item(keyword), index)
        item = dataset[keyword].value[index] if item is None else item
    except PARSE_ERRORS:
        return None
    return item if isinstance(item, Dataset) else None


def _unread_item(element: object, index: int) -> Dataset | None:
    """One item of a sequence that pydicom has not read yet, without reading the others.

    None if it has, or if an item has no length: then all must be read to find one.
    """
    if not isinstance(element, RawDataElement) or not element.value:
        return None
    order, position, length = "<" if element.is_little_endian else ">", 0, 0
    for _ in range(index + 1):
        position += length
        group, number, length = struct.unpack_from(f"{order}HHL", element.value, position)
        if (group, number) != _ITEM or length == UNDEFINED_LENGTH:
            return None
        position += 8
    content = BytesIO(element.value[position : position + length])
    return read_dataset(content, element.is_implicit_VR, element.is_little_endian)
