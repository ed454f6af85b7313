"""What lossy compression has taken too much of is not scored; what says nothing of it is."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from imaging_node.dicom.headers import read_header
from imaging_node.domain.errors import NotAnalysedError
from imaging_node.domain.finding import NotAnalysedReason
from imaging_node.domain.study import UNKNOWN_RATIO
from imaging_node.flow.analysis import require_faithful
from tests.integration.films import film

if TYPE_CHECKING:
    from pathlib import Path

    from pydicom.dataset import Dataset

    from imaging_node.domain.study import ImageInstance

LIMIT = 25.0
JPEG = "1.2.840.10008.1.2.4.50"


def image(tmp_path: Path, stated: str = "", **changes: object) -> ImageInstance:
    def state(dataset: Dataset) -> None:
        if stated:
            dataset.LossyImageCompression = "01"
            # Written as text: pydicom would refuse to write what is no decimal string.
            dataset.add_new(0x00282112, "LO", stated)

    payload = film(change=state)
    path = tmp_path / "film.dcm"
    path.write_bytes(payload)
    begin = payload.index(b"DICM") + 4
    meta = int.from_bytes(payload[begin + 8 : begin + 12], "little")
    header = read_header(payload[begin + 12 + meta :], transfer_syntax_uid="1.2.840.10008.1.2.1")
    return replace(header.image, path=path, **changes)  # type: ignore[arg-type]  # by the caller


@pytest.mark.parametrize(
    "stated", ["", "7.2", "3\\8.2", "+24", "2.4E1", "0.5\\24", "0", ".5", "24\\"]
)
def test_no_or_mild_compression_is_scored(tmp_path: Path, stated: str) -> None:
    require_faithful(image(tmp_path, stated), LIMIT)


@pytest.mark.parametrize(
    "stated", ["26", "4\\30.5", "37.5432109876543", "+40", "4.0E1", " 40 ", "4e+1", "1e9999"]
)
def test_too_strong_a_compression_is_refused_however_its_ratio_is_written(
    tmp_path: Path, stated: str
) -> None:
    with pytest.raises(NotAnalysedError) as refusal:
        require_faithful(image(tmp_path, stated), LIMIT)
    assert refusal.value.reason is NotAnalysedReason.COMPRESSION
    require_faithful(image(tmp_path, stated), None)


@pytest.mark.parametrize("stated", ["3\\24.9", "0.2\\26", "5.1\\5\\1"])
def test_successive_compressions_count_together(tmp_path: Path, stated: str) -> None:
    with pytest.raises(NotAnalysedError):
        require_faithful(image(tmp_path, stated), LIMIT)


@pytest.mark.parametrize("stated", ["strong", "4\\n/a", "-3", "nan", "inf", "1,5", "1:20"])
def test_a_stated_ratio_that_is_none_is_beyond_every_limit(tmp_path: Path, stated: str) -> None:
    with pytest.raises(NotAnalysedError, match="unknown ratio"):
        require_faithful(image(tmp_path, stated), LIMIT)
    kept = json.dumps(image(tmp_path, stated).lossy_compression_ratio, allow_nan=False)
    assert json.loads(kept) == UNKNOWN_RATIO


def test_a_file_that_is_far_too_small_for_its_image_need_not_say_so(tmp_path: Path) -> None:
    shrunk = image(tmp_path, transfer_syntax_uid=JPEG, rows=4000, columns=4000)
    with pytest.raises(NotAnalysedError):
        require_faithful(shrunk, LIMIT)
    require_faithful(replace(shrunk, transfer_syntax_uid="1.2.840.10008.1.2.1"), LIMIT)


@pytest.mark.parametrize("bits", [12, 16])
def test_an_image_of_more_than_8_bits_was_twice_as_large(tmp_path: Path, bits: int) -> None:
    read = image(tmp_path, transfer_syntax_uid=JPEG)
    assert read.bits_allocated == 16
    side = math.isqrt(18 * read.path.stat().st_size)
    require_faithful(replace(read, rows=side, columns=side, bits_allocated=8), LIMIT)
    with pytest.raises(NotAnalysedError):
        require_faithful(replace(read, rows=side, columns=side, bits_allocated=bits), LIMIT)
