from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from imaging_node.dicom.decoding import DecodingPool
from imaging_node.domain.errors import IntegrityError, NotAnalysedError
from imaging_node.domain.finding import NotAnalysedReason
from tests.dicom.synthetic_sources import radiograph, write

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pydicom.dataset import Dataset
    from pydicom.uid import UID

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data"
MEGABYTE = 2**20


@pytest.fixture(scope="module")
def pool() -> Iterator[DecodingPool]:
    opened = DecodingPool(processes=2, memory_limit_bytes=1024 * MEGABYTE, time_limit_s=10)
    yield opened
    opened.close()


def _refusal(pool: DecodingPool, path: Path) -> NotAnalysedReason:
    with pytest.raises(NotAnalysedError) as caught:
        pool.decode(path, "1.2.3")
    return caught.value.reason


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGLSLossless])
def test_compression_changes_no_pixel(syntax: UID, pool: DecodingPool, tmp_path: Path) -> None:
    plain = pool.decode(write(radiograph(), tmp_path / "plain.dcm"), "1.2.3")
    data = radiograph()
    data.compress(syntax, generate_instance_uid=False)
    data.save_as(tmp_path / "compressed.dcm", enforce_file_format=True)
    found = pool.decode(tmp_path / "compressed.dcm", "1.2.3")
    assert found.sop_instance_uid == "1.2.3"
    assert np.array_equal(found.p_values, plain.p_values)


def test_a_deflated_file_decodes(pool: DecodingPool, tmp_path: Path) -> None:
    path = write(radiograph(), tmp_path / "deflated.dcm", DeflatedExplicitVRLittleEndian)
    assert pool.decode(path, "1.2.3").p_values.shape == (64, 48)


def test_bits_that_are_no_sample_are_ignored(pool: DecodingPool, tmp_path: Path) -> None:
    plain = pool.decode(write(radiograph(), tmp_path / "plain.dcm"), "1.2.3")
    data = radiograph()
    stored = np.frombuffer(data.PixelData, "<u2") | 0xF000
    data.PixelData = stored.astype("<u2").tobytes()
    found = pool.decode(write(data, tmp_path / "overlay.dcm"), "1.2.3")
    assert np.array_equal(found.p_values, plain.p_values)


def _without_pixels(data: Dataset) -> None:
    del data.PixelData


def _colour(data: Dataset) -> None:
    data.SamplesPerPixel, data.PhotometricInterpretation = 3, "RGB"


def _multi_frame(data: Dataset) -> None:
    data.NumberOfFrames = 2


def _zero_size(data: Dataset) -> None:
    data.Rows = 0


def _truncated(data: Dataset) -> None:
    data.PixelData = data.PixelData[:100]


def _too_large(data: Dataset) -> None:
    data.Rows = data.Columns = 65535


def _run_length_bomb(data: Dataset) -> None:
    data.Rows = data.Columns = 10_000
    data.file_meta.TransferSyntaxUID = RLELossless
    data.PixelData = encapsulate([b"\x02\0\0\0" + b"\0" * 60 + b"\x81\0" * 100])


def _jpeg_2000_bomb(data: Dataset) -> None:
    size = b"\0\x29\0\0" + (60_000).to_bytes(4, "big") * 2 + b"\0" * 8
    data.file_meta.TransferSyntaxUID = JPEG2000Lossless
    data.PixelData = encapsulate([b"\xff\x4f\xff\x51" + size + b"\0" * 100])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_without_pixels, NotAnalysedReason.NO_PIXELS),
        (_colour, NotAnalysedReason.PHOTOMETRIC),
        (_multi_frame, NotAnalysedReason.MULTI_FRAME),
        (_zero_size, NotAnalysedReason.TOO_SMALL),
        (_truncated, NotAnalysedReason.UNDECODABLE),
        (_too_large, NotAnalysedReason.UNDECODABLE),
        (_run_length_bomb, NotAnalysedReason.UNDECODABLE),
        (_jpeg_2000_bomb, NotAnalysedReason.UNDECODABLE),
    ],
)
def test_what_cannot_be_decoded_has_its_reason(
    change: Callable[[Dataset], None], reason: NotAnalysedReason, pool: DecodingPool, tmp_path: Path
) -> None:
    data = radiograph()
    change(data)
    if data.file_meta.TransferSyntaxUID.is_encapsulated:
        data["PixelData"].VR, data["PixelData"].is_undefined_length = "OB", True
    path = write(data, tmp_path / "odd.dcm", data.file_meta.TransferSyntaxUID)
    assert _refusal(pool, path) is reason


def test_a_file_that_is_gone_is_not_the_images_fault(pool: DecodingPool, tmp_path: Path) -> None:
    with pytest.raises(IntegrityError):
        pool.decode(tmp_path / "nothing.dcm", "1.2.3")


def _outcome(pool: DecodingPool, path: Path) -> str:
    try:
        image = pool.decode(path, "1.2.3")
    except NotAnalysedError as error:
        return error.reason.name
    assert image.p_values.dtype == np.float32
    assert 0 <= image.p_values.min() <= image.p_values.max() <= 1
    return "decoded"


@pytest.mark.parametrize("folder", ["dicom", "malformed"])
def test_every_file_of_the_collection_decodes_or_has_a_reason(
    folder: str, pool: DecodingPool, record_property: Callable[[str, object], None]
) -> None:
    if not (DATA / folder).is_dir():
        pytest.skip("the shared collection of DICOM files is not here")
    paths = [path for path in sorted((DATA / folder).rglob("*")) if path.is_file()]
    with ThreadPoolExecutor(2) as threads:
        outcomes = list(threads.map(lambda path: _outcome(pool, path), paths))
    record_property(folder, str(Counter(outcomes)))  # shown in a JUnit report
    # Radiographs in JPEG, JPEG Extended with 12 bits, JPEG-LS and JPEG 2000.
    radiographs = [
        outcome
        for path, outcome in zip(paths, outcomes, strict=True)
        if path.parent.name in {"pydicom-data", "pylibjpeg-data"}
        and path.name.split("__")[-1].startswith(("RG1_", "RG2_", "RG3_"))
    ]
    assert set(radiographs) == ({"decoded"} if folder == "dicom" else set())
