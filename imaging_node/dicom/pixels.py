"""Stored pixel values to P-Values: the grayscale pipeline of PS3.4 N.2 for one frame.

Every step works on single values, so images of integers go through a table of all values that
occur: exact, and faster than transforming each pixel.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from imaging_node.dicom.encoding import PARSE_ERRORS
from imaging_node.domain.errors import NotAnalysedError
from imaging_node.domain.finding import FloatImage, NotAnalysedReason

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pydicom.dataset import Dataset

Values = npt.NDArray[np.float64]
StoredImage = npt.NDArray[np.generic]

_PERCENTILES: Final = (0.5, 99.5)
_TABLE_LIMIT: Final = 2**18
_BLOCK_PIXELS: Final = 2**17
_WORD_BYTES: Final = 2
_MAXIMUM_ASPECT: Final = 10.0
_PERCENTILE_SAMPLE: Final = 2_000_000
_SIGNED_LIMIT: Final = 2**15


@dataclass(frozen=True, slots=True, kw_only=True)
class LookupTable:
    """Modality or VOI LUT (PS3.3 C.11.1.1.1): values below and above map to the end entries."""

    first_mapped: int
    entries: Values

    def apply(self, values: Values) -> Values:
        """Entry of each value."""
        index = np.clip(values - self.first_mapped, 0, len(self.entries) - 1)
        found: Values = self.entries[index.astype(np.intp)]
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """VOI window (PS3.3 C.11.2.1.2 and C.11.2.1.3); the output is in [0, 1]."""

    centre: float
    width: float
    function: str

    def apply(self, values: Values) -> Values:
        """P-Values of modality values."""
        if self.function == "SIGMOID":
            exponent = np.clip(-4 * (values - self.centre) / self.width, -700, 700)
            sigmoid: Values = 1 / (1 + np.exp(exponent))
            return sigmoid
        if self.function == "LINEAR_EXACT":
            linear = (values - self.centre) / self.width + 0.5
        elif self.width == 1:
            linear = (values > self.centre - 0.5).astype(np.float64)
        else:
            linear = (values - (self.centre - 0.5)) / (self.width - 1) + 0.5
        return np.clip(linear, 0.0, 1.0)


class Unscaled:
    """No VOI at all: modality values stay as they are."""

    def apply(self, values: Values) -> Values:
        """The values themselves."""
        return values


@dataclass(frozen=True, slots=True, kw_only=True)
class GrayscaleTransform:
    """What a header says about the meaning of stored values.

    Attributes:
        voi: First window, else VOI LUT scaled to [0, 1]; None means percentiles; `Unscaled`
            ends with modality values.
        padding: Lowest and highest stored value that is no image, None if there is none.
        is_inverted: MONOCHROME1: the lowest value is white.
    """

    modality_lut: LookupTable | None
    slope: float
    intercept: float
    voi: Window | LookupTable | Unscaled | None
    padding: tuple[float, float] | None
    is_inverted: bool

    def modality_values(self, stored: Values) -> Values:
        """Values after the Modality LUT or rescale."""
        if self.modality_lut is not None:
            return self.modality_lut.apply(stored)
        return stored * self.slope + self.intercept

    def is_padding(self, stored: Values) -> npt.NDArray[np.bool_]:
        """True where a stored value is padding (PS3.3 C.7.5.1.1.2)."""
        if self.padding is None:
            return np.zeros(stored.shape, np.bool_)
        return (stored >= self.padding[0]) & (stored <= self.padding[1])


def read_transform(dataset: Dataset) -> GrayscaleTransform:
    """Grayscale transformations that a header states; what makes no sense is left out."""
    modality_lut = _first_lut(dataset, "ModalityLUTSequence", signed=False)
    slope = _number(dataset, "RescaleSlope")
    intercept = _number(dataset, "RescaleIntercept")
    if slope is None or slope == 0:
        slope, intercept = 1.0, intercept or 0.0
    return GrayscaleTransform(
        modality_lut=modality_lut,
        slope=slope,
        intercept=intercept or 0.0,
        voi=_window(dataset) or _voi_lut(dataset, signed=(intercept or 0) < 0),
        padding=_padding(dataset),
        is_inverted=str(dataset.get("PhotometricInterpretation", "")) == "MONOCHROME1",
    )


def without_presentation(transform: GrayscaleTransform) -> GrayscaleTransform:
    """The Modality LUT or rescale alone: HU for CT, padding included as it is stored."""
    return replace(transform, voi=Unscaled(), padding=None, is_inverted=False)


def to_p_values(
    stored: StoredImage,
    transform: GrayscaleTransform,
    *,
    used_bits: int | None = None,
    place: Callable[[int, int], FloatImage] | None = None,
) -> FloatImage:
    """P-Values of one grayscale frame.

    Args:
        stored: Stored values, shape (rows, columns), integers or floats.
        transform: What the header says.
        used_bits: Low bits of a value of one or two bytes that are the sample; those above may
            hold anything (PS3.5 8.1.1). None: all of them.
        place: Makes the array of (rows, columns) that is written and returned; new memory if
            None.

    Returns:
        float32 in [0, 1], 1 is white, shape (rows, columns); padding is 0. A constant image
        without a window is all 0. Of a transform `without_presentation`: modality values.

    Raises:
        NotAnalysedError: Zero-size image, several planes, or values that are not finite.
    """
    if stored.size == 0:
        raise NotAnalysedError("the image has no pixels", reason=NotAnalysedReason.TOO_SMALL)
    if stored.ndim != 2:  # noqa: PLR2004 - rows and columns
        raise NotAnalysedError("the image has several planes", reason=NotAnalysedReason.MULTI_FRAME)
    rows, columns = stored.shape
    pixels = place(rows, columns) if place else np.empty((rows, columns), np.float32)
    if not np.issubdtype(stored.dtype, np.integer):
        pixels[...] = _transformed(_finite(stored), transform, weights=None)
    elif stored.dtype.itemsize <= _WORD_BYTES:
        _render_words(stored, transform, used_bits, pixels)
    else:
        _render_wide(stored, transform, pixels)
    return pixels


def _render_words(
    stored: StoredImage, transform: GrayscaleTransform, used_bits: int | None, pixels: FloatImage
) -> None:
    """Look every word up in a table of all words there are: nothing need be known of the image."""
    words = stored.view(f"{stored.dtype.byteorder}u{stored.dtype.itemsize}")
    bits = 8 * stored.dtype.itemsize
    used = used_bits or bits
    counts = None
    if transform.voi is None:
        counts = np.zeros(2**bits, np.int64)
        for rows in _row_blocks(words):
            counts += np.bincount(words[rows].ravel(), minlength=len(counts))
        counts = counts.reshape(-1, 2**used).sum(axis=0)
    samples = np.arange(2**used, dtype=f"u{stored.dtype.itemsize}")
    if np.issubdtype(stored.dtype, np.signedinteger):
        # An arithmetic shift to the right brings the sign back.
        unused = np.array(bits - used, samples.dtype)
        signed = np.left_shift(samples, unused).view(f"i{stored.dtype.itemsize}")
        samples = np.right_shift(signed, unused.astype(signed.dtype))
    table = _transformed(samples.astype(np.float64), transform, weights=counts)
    table = np.tile(table, 2 ** (bits - used))
    for rows in _row_blocks(words):
        # No word is outside the table; "clip" only saves a copy of the output.
        np.take(table, words[rows], out=pixels[rows], mode="clip")


def _render_wide(stored: StoredImage, transform: GrayscaleTransform, pixels: FloatImage) -> None:
    """A table of the values between the least and the greatest, if they are not too many."""
    low, high = int(stored.min()), int(stored.max())
    if high - low >= _TABLE_LIMIT:
        pixels[...] = _transformed(stored.astype(np.float64), transform, weights=None)
        return
    counts = np.zeros(high - low + 1, np.int64)
    if transform.voi is None:
        for rows in _row_blocks(stored):
            counts += np.bincount(_index(stored[rows], low).ravel(), minlength=len(counts))
    table = _transformed(np.arange(low, high + 1, dtype=np.float64), transform, weights=counts)
    for rows in _row_blocks(stored):
        np.take(table, _index(stored[rows], low), out=pixels[rows], mode="clip")


def _row_blocks(stored: StoredImage) -> list[slice]:
    """Whole rows, about a hundred thousand pixels at a time, so that indices stay small."""
    height = max(1, _BLOCK_PIXELS // stored.shape[1])
    return [slice(top, top + height) for top in range(0, stored.shape[0], height)]


def _index(stored: StoredImage, low: int) -> npt.NDArray[np.intp]:
    index: npt.NDArray[np.intp] = stored.astype(np.intp) - low
    return index


def pixel_aspect(dataset: Dataset) -> float:
    """Height of a pixel over its width; 1 if the header does not say or says nonsense."""
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        ratio = _ratio(dataset, keyword)
        if ratio is not None:
            return ratio
    return _ratio(dataset, "PixelAspectRatio") or 1.0


def _transformed(
    stored: Values, transform: GrayscaleTransform, *, weights: npt.NDArray[np.int64] | None
) -> FloatImage:
    """P-Values of `stored`, which is an image or, with `weights`, the values that occur."""
    padding = transform.is_padding(stored)
    values = transform.modality_values(stored)
    if transform.voi is None:
        low, high = _value_range(values, ~padding, weights)
        span = high - low
        p_values = np.clip((values - low) / span, 0, 1) if span > 0 else np.zeros_like(values)
    else:
        p_values = transform.voi.apply(values)
        span = 1.0
    if transform.is_inverted and span > 0:
        p_values = 1 - p_values
    p_values[padding] = 0
    return p_values.astype(np.float32)


def _value_range(
    values: Values, is_image: npt.NDArray[np.bool_], weights: npt.NDArray[np.int64] | None
) -> tuple[float, float]:
    """The 0.5 and 99.5 percentiles of what is image, (0, 0) if nothing is."""
    kept = values[is_image]
    if kept.size == 0:
        return 0.0, 0.0
    if weights is None:
        sample = kept[:: max(1, kept.size // _PERCENTILE_SAMPLE)]
        low, high = np.percentile(sample, _PERCENTILES)
        return float(low), float(high)
    order = np.argsort(kept, kind="stable")
    cumulated = np.cumsum(weights[is_image][order])
    if cumulated[-1] == 0:
        return 0.0, 0.0
    ranks = np.array(_PERCENTILES) / 100 * (cumulated[-1] - 1)
    found = kept[order][np.searchsorted(cumulated, ranks, side="right").clip(0, kept.size - 1)]
    return float(found[0]), float(found[1])


def _finite(stored: StoredImage) -> Values:
    values = stored.astype(np.float64)
    if not np.isfinite(values).all():
        raise NotAnalysedError(
            "the image has pixels that are no numbers", reason=NotAnalysedReason.UNDECODABLE
        )
    return values


def _window(dataset: Dataset) -> Window | None:
    """First window of the header if it is a legal one."""
    centre, width = _number(dataset, "WindowCenter"), _number(dataset, "WindowWidth")
    if centre is None or width is None:
        return None
    function = str(dataset.get("VOILUTFunction") or "LINEAR").strip().upper()
    if function not in {"LINEAR", "LINEAR_EXACT", "SIGMOID"}:
        function = "LINEAR"
    # PS3.3 C.11.2.1.2.1: at least 1 for LINEAR, above 0 for the others.
    if width <= 0 or (function == "LINEAR" and width < 1):
        return None
    return Window(centre=centre, width=width, function=function)


def _voi_lut(dataset: Dataset, *, signed: bool) -> LookupTable | None:
    """First VOI LUT, its entries divided by the largest that its bits allow."""
    return _first_lut(dataset, "VOILUTSequence", signed=signed, normalised=True)


def _first_lut(
    dataset: Dataset, keyword: str, *, signed: bool, normalised: bool = False
) -> LookupTable | None:
    try:
        item = dataset[keyword].value[0]
        count, first, bits = (int(number) for number in item.LUTDescriptor)
        entries = _lut_entries(item.LUTData, count or 2**16)
    except PARSE_ERRORS:
        return None
    if entries is None or not 1 <= bits <= 16:  # noqa: PLR2004 - bits of an entry
        return None
    is_signed = signed or int(dataset.get("PixelRepresentation") or 0) == 1
    if first >= _SIGNED_LIMIT and is_signed:
        first -= 2**16  # read as unsigned because the header does not state the VR
    if normalised:
        largest = max(2**bits - 1, float(entries.max()))
        entries = entries / largest
    return LookupTable(first_mapped=first, entries=entries)


def _lut_entries(data: bytes | int | Sequence[int], count: int) -> Values | None:
    """Entries of a LUT, which may be bytes, words, or words that hold two bytes."""
    if isinstance(data, bytes):
        words = data
    elif isinstance(data, int):
        return np.array([data], np.float64) if count == 1 else None
    else:
        numbers = np.asarray(data, np.int64)
        if len(numbers) >= count:
            return (numbers[:count] % 2**16).astype(np.float64)
        words = (numbers % 2**16).astype("<u2").tobytes()
    if len(words) >= 2 * count:
        return np.frombuffer(words, "<u2", count).astype(np.float64)
    if len(words) >= count:
        return np.frombuffer(words, np.uint8, count).astype(np.float64)
    return None


def _padding(dataset: Dataset) -> tuple[float, float] | None:
    value = _number(dataset, "PixelPaddingValue")
    if value is None:
        return None
    limit = _number(dataset, "PixelPaddingRangeLimit")
    other = value if limit is None else limit
    return min(value, other), max(value, other)


def _number(dataset: Dataset, keyword: str) -> float | None:
    """First value of an element as a finite number."""
    try:
        value = dataset.get(keyword)
        if value is None or value == "":
            return None
        number = float(value[0]) if hasattr(value, "__getitem__") else float(value)
    except PARSE_ERRORS:
        return None
    return number if np.isfinite(number) else None


def _ratio(dataset: Dataset, keyword: str) -> float | None:
    """First value over second: row over column spacing, or vertical over horizontal aspect."""
    try:
        vertical, horizontal = (float(number) for number in dataset[keyword].value)
        ratio = vertical / horizontal
    except PARSE_ERRORS:
        return None
    return ratio if 1 / _MAXIMUM_ASPECT <= ratio <= _MAXIMUM_ASPECT else None
