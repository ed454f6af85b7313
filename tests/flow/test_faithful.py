"""What lossy compression has taken too much of is not scored; what says nothing of it is."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from imaging_node.dicom.headers import read_header
from imaging_node.domain.errors import NotAnalysedError
from imaging_node.domain.finding import NotAnalysedReason
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
            dataset.LossyImageCompressionRatio = stated.split("\\")

    payload = film(change=state)
    path = tmp_path / "film.dcm"
    path.write_bytes(payload)
    begin = payload.index(b"DICM") + 4
    meta = int.from_bytes(payload[begin + 8 : begin + 12], "little")
    header = read_header(payload[begin + 12 + meta :], transfer_syntax_uid="1.2.840.10008.1.2.1")
    return replace(header.image, path=path, **changes)  # type: ignore[arg-type]  # by the caller


@pytest.mark.parametrize("stated", ["", "7.2", "3\\24.9"])
def test_no_or_mild_compression_is_scored(tmp_path: Path, stated: str) -> None:
    require_faithful(image(tmp_path, stated), LIMIT)


@pytest.mark.parametrize("stated", ["26", "4\\30.5"])
def test_the_strongest_stated_ratio_decides(tmp_path: Path, stated: str) -> None:
    with pytest.raises(NotAnalysedError) as refusal:
        require_faithful(image(tmp_path, stated), LIMIT)
    assert refusal.value.reason is NotAnalysedReason.COMPRESSION
    require_faithful(image(tmp_path, stated), None)


def test_a_file_that_is_far_too_small_for_its_image_need_not_say_so(tmp_path: Path) -> None:
    shrunk = image(tmp_path, transfer_syntax_uid=JPEG, rows=4000, columns=4000)
    with pytest.raises(NotAnalysedError):
        require_faithful(shrunk, LIMIT)
    require_faithful(replace(shrunk, transfer_syntax_uid="1.2.840.10008.1.2.1"), LIMIT)
