"""What an enhanced multi-frame object says of one frame (PS3.3 C.7.6.16)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pydicom.dataset import Dataset

from imaging_node.dicom.encoding import PARSE_ERRORS

if TYPE_CHECKING:
    from pydicom.dataset import FileDataset

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
        item = dataset[keyword].value[index]
    except PARSE_ERRORS:
        return None
    return item if isinstance(item, Dataset) else None
