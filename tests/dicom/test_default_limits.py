"""The node's default limits of memory and time let through what they are meant to let through."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEG2000Lossless

from imaging_node.dicom.decoding import DecodingPool
from imaging_node.settings import Settings
from tests.dicom.synthetic_sources import add_pixels, radiograph, write

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def pool() -> Iterator[DecodingPool]:
    scoring = Settings().scoring
    opened = DecodingPool(
        processes=1,
        memory_limit_bytes=scoring.decoder_memory_mib * 2**20,
        time_limit_s=scoring.decode_limit_s,
    )
    yield opened
    opened.close()


def test_the_largest_film_decodes_as_jpeg_2000(pool: DecodingPool, tmp_path: Path) -> None:
    # A mammography detector of 28 megapixels. Stripes take the memory of a real picture's
    # coefficients and a quarter of its time.
    stored = np.zeros((5928, 4728), np.uint16)
    stored[::64] = 4095
    data = radiograph()
    add_pixels(data, stored)
    data.compress(JPEG2000Lossless, generate_instance_uid=False)
    path = tmp_path / "largest.dcm"
    data.save_as(path, enforce_file_format=True)

    assert pool.decode(path, "1.2.3").p_values.shape == stored.shape
    assert pool.starts == 1


def test_a_deflated_dataset_decodes_up_to_its_limit(pool: DecodingPool, tmp_path: Path) -> None:
    limit_bytes = Settings().decoding.max_inflated_mib * 2**20
    data = radiograph()
    data.Rows, data.NumberOfFrames = 4096, 8
    row_bytes = (limit_bytes - 2**16) // (8 * 4096)
    data.Columns = row_bytes // 2
    data.PixelData = bytes(8 * 4096 * row_bytes)
    path = write(data, tmp_path / "deflated.dcm", DeflatedExplicitVRLittleEndian)

    decoded = pool.decode(path, "1.2.3", frame=8)
    assert decoded.p_values.shape == (4096, data.Columns)
    assert pool.starts == 1
