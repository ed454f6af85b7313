"""Images that are no upright frontal chest film, drawn by formula: for the gates to learn from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt

from imaging_node.dicom.hand import render_hand
from imaging_node.dicom.thorax import render_chest

if TYPE_CHECKING:
    from collections.abc import Callable

FloatArray = npt.NDArray[np.float32]
_RENDERED_CHESTS = 16
_RENDERED_HANDS = 32
_FONTS = (cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_COMPLEX)


def rendered(kind: str, size: int) -> list[FloatArray]:
    """Synthetic films on a square grid: "frontal" and "lateral" chests, or "hand"s."""
    count = _RENDERED_HANDS if kind == "hand" else _RENDERED_CHESTS
    pictures = []
    for seed in range(1000, 1000 + count):
        if kind == "hand":
            picture = render_hand(seed=seed)
        else:
            picture = render_chest(seed=seed, axis="lateral" if kind == "lateral" else "frontal")
        pictures.append(stretched(resized(picture, (size, size))))
    return pictures


def resized(image: FloatArray, shape: tuple[int, ...]) -> FloatArray:
    """An image on another grid of (rows, columns)."""
    return np.asarray(cv2.resize(image, shape[::-1], interpolation=cv2.INTER_AREA), np.float32)


def stretched(image: npt.NDArray[np.floating]) -> FloatArray:
    """Between its half percentiles, as a film reaches the gate."""
    low, high = np.percentile(image, (0.5, 99.5))
    return np.asarray(np.clip((image - low) / max(high - low, 1e-6), 0, 1), np.float32)


def shuffled(film: FloatArray, random: np.random.Generator) -> FloatArray:
    """The film's parts in another order."""
    parts = int(random.integers(2, 6))
    side = film.shape[0] // parts
    pieces = [
        film[row * side : (row + 1) * side, column * side : (column + 1) * side]
        for row in range(parts)
        for column in range(parts)
    ]
    order = random.permutation(len(pieces))
    rows = [
        np.concatenate([pieces[each] for each in order[row * parts : (row + 1) * parts]], 1)
        for row in range(parts)
    ]
    return resized(np.concatenate(rows), film.shape)


def part_of(film: FloatArray, random: np.random.Generator) -> FloatArray:
    """A detail of the film, enlarged."""
    side = int(film.shape[0] * random.uniform(0.2, 0.42))
    row, column = random.integers(0, film.shape[0] - side, 2)
    return resized(film[row : row + side, column : column + side], film.shape)


def tiled(film: FloatArray, random: np.random.Generator) -> FloatArray:
    """Several small copies side by side, as in a summary or a film of several views."""
    rows, columns = ((1, 2), (2, 1), (2, 2), (3, 3))[random.integers(4)]
    return resized(np.tile(film, (rows, columns)), film.shape)


def texture(film: FloatArray, random: np.random.Generator) -> FloatArray:
    """Noise of some roughness, from clouds to snow."""
    frequency = np.hypot(*np.meshgrid(*[np.fft.fftfreq(film.shape[0])] * 2))
    spectrum = np.fft.fft2(random.normal(size=film.shape)) / (frequency + 0.01) ** random.uniform(
        0, 2.2
    )
    return stretched(np.fft.ifft2(spectrum).real)


def slice_like(film: FloatArray, random: np.random.Generator) -> FloatArray:
    """Ellipses within ellipses on black, as in a cross-section."""
    size = film.shape[0]
    image = np.zeros(film.shape, np.float32)
    centre = (size // 2 + int(random.integers(-6, 7)), size // 2 + int(random.integers(-6, 7)))
    outer = (int(size * random.uniform(0.28, 0.48)), int(size * random.uniform(0.28, 0.48)))
    cv2.ellipse(image, centre, outer, 0, 0, 360, float(random.uniform(0.3, 0.9)), -1)
    if random.random() < 0.6:  # noqa: PLR2004 - more often than not a ring of bone
        cv2.ellipse(image, centre, outer, 0, 0, 360, 1.0, int(random.integers(2, 8)))
    for _ in range(random.integers(1, 9)):
        inner = (int(random.integers(2, outer[0] // 2)), int(random.integers(2, outer[1] // 2)))
        place = (
            centre[0] + int(random.normal(0, outer[0] / 2.5)),
            centre[1] + int(random.normal(0, outer[1] / 2.5)),
        )
        turn = float(random.uniform(0, 180))
        cv2.ellipse(image, place, inner, turn, 0, 360, float(random.uniform(0, 1)), -1)
    blurred = np.asarray(cv2.GaussianBlur(image, (0, 0), random.uniform(0.6, 2.5)), np.float32)
    return stretched(blurred + random.normal(0, random.uniform(0, 0.06), film.shape))


def page(film: FloatArray, random: np.random.Generator) -> FloatArray:
    """Lines of writing, on plain ground or all over the film."""
    size = film.shape[0]
    on_film = random.random() < 0.5  # noqa: PLR2004 - half of them
    ground = film if on_film else np.full(film.shape, random.uniform(0, 0.3), np.float32)
    image = np.round(ground * 255).astype(np.uint8)
    height = random.uniform(0.25, 0.6)
    letters = np.array(list("ABCDEFGHKLMNOPRSTUVXYZ0123456789 "))
    for row in np.arange(8, size, int(34 * height)):
        line = "".join(random.choice(letters, 40))
        font = _FONTS[random.integers(len(_FONTS))]
        cv2.putText(image, line, (int(random.integers(0, 20)), int(row)), font, height, 255, 1)
    written = (image / 255).astype(np.float32)
    is_black_on_white = not on_film and random.random() < 0.3  # noqa: PLR2004 - as paper is
    return 1 - written if is_black_on_white else written


STRANGERS: tuple[Callable[[FloatArray, np.random.Generator], FloatArray], ...] = (
    shuffled, part_of, tiled, texture, slice_like, page,
)  # fmt: skip


def turned(film: FloatArray, random: np.random.Generator) -> FloatArray:
    """By a quarter, a half or three quarters, or by any angle that is no mere tilt."""
    if random.random() < 0.6:  # noqa: PLR2004 - mostly whole quarters
        return np.ascontiguousarray(np.rot90(film, int(random.integers(1, 4))))
    size = film.shape[0]
    angle = float(random.uniform(35, 325))
    matrix = cv2.getRotationMatrix2D((size / 2, size / 2), angle, 1.0)
    return cv2.warpAffine(film, matrix, film.shape[::-1]).astype(np.float32)


def inverted(film: FloatArray, _random: np.random.Generator) -> FloatArray:
    """White for black."""
    return (1 - film).astype(np.float32)
