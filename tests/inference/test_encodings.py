"""A film scores the same however it is stored: the model sees the picture, not the file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from chest_xray.images import DEFAULT_DATA, IndexedImage, read_index, read_p_values, select
from pydicom import dcmread

from imaging_node.inference.lanes import ROUTINE
from imaging_node.node.scoring_room import open_decoders
from imaging_node.settings import Settings
from tests.integration.films import film
from tests.integration.syntaxes import OF_DCMTK, to_eight_bits, write

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pydicom.dataset import Dataset

    from imaging_node.dicom.decoding import DecodingPool
    from imaging_node.domain.finding import FloatImage
    from imaging_node.inference.scorer import Scorer

FARTHEST = 0.02


@pytest.fixture(scope="module")
def films() -> list[FloatImage]:
    """Public films of calibration patients, one with and one without pneumonia."""
    if not DEFAULT_DATA.is_dir():
        pytest.skip("the public films are not here")
    val = select(read_index(DEFAULT_DATA), source="kermany", split="val", labels=("Pneumonia",))

    def first(presence: float) -> IndexedImage:
        return next(image for image in val if image.labels["Pneumonia"] == presence)

    return [read_p_values(DEFAULT_DATA, first(presence)) for presence in (1.0, 0.0)]


@pytest.fixture(scope="module")
def decoder() -> Iterator[DecodingPool]:
    pool = open_decoders(Settings())
    yield pool
    pool.close()


def score(scorer: Scorer, decoder: DecodingPool, path: Path) -> float:
    analysis = scorer.score(decoder.decode(path, "2.25.1"), ROUTINE)
    probability = analysis.scores[0].probability
    assert probability is not None
    return probability


def plain(path: Path, image: FloatImage, change: Callable[[Dataset], None] | None = None) -> Path:
    path.write_bytes(film(image=image, change=change))
    return path


@pytest.mark.parametrize("syntax", OF_DCMTK)
def test_every_transfer_syntax_gives_the_score_of_the_plain_file(
    syntax: str,
    scorer: Scorer,
    decoder: DecodingPool,
    films: list[FloatImage],
    tmp_path: Path,
    tool_path: Callable[[str], str],
) -> None:
    for image in films:
        expected = score(scorer, decoder, plain(tmp_path / "plain.dcm", image))
        found = score(scorer, decoder, write(tmp_path, syntax, tool_path, image))
        assert found == pytest.approx(expected, abs=FARTHEST)


def to_sixteen_bits(dataset: Dataset) -> None:
    pixels = dataset.pixel_array.astype(np.uint32) << (16 - dataset.BitsStored)
    factor = 2 ** (16 - dataset.BitsStored)
    dataset.PixelData = pixels.astype("<u2").tobytes()
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
    for keyword in ("WindowCenter", "WindowWidth"):
        if keyword in dataset:
            dataset[keyword].value = str(float(dataset[keyword].value) * factor)


def to_monochrome1(dataset: Dataset) -> None:
    dataset.PixelData = (2**dataset.BitsStored - 1 - dataset.pixel_array).tobytes()
    dataset.PhotometricInterpretation = "MONOCHROME1"
    dataset.PresentationLUTShape = "INVERSE"


def _store_sixteen(
    dataset: Dataset, pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint32]]
) -> None:
    dataset.PixelData = pixels.astype("<u2").tobytes()
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15


@pytest.mark.parametrize("change", [to_eight_bits, to_sixteen_bits, to_monochrome1])
def test_depth_and_photometric_interpretation_do_not_move_a_score(
    change: Callable[[Dataset], None],
    scorer: Scorer,
    decoder: DecodingPool,
    films: list[FloatImage],
    tmp_path: Path,
) -> None:
    for image in films:
        expected = score(scorer, decoder, plain(tmp_path / "plain.dcm", image))
        changed = plain(tmp_path / "changed.dcm", image, change)
        assert dcmread(changed).BitsStored in (8, 12, 16)
        assert score(scorer, decoder, changed) == pytest.approx(expected, abs=FARTHEST)
