from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from pydicom.dataset import Dataset

from imaging_node.dicom.pixels import pixel_aspect, read_transform, to_p_values
from imaging_node.domain.errors import NotAnalysedError
from imaging_node.domain.finding import FloatImage, NotAnalysedReason

if TYPE_CHECKING:
    from collections.abc import Sequence


def _header(**elements: object) -> Dataset:
    dataset = Dataset()
    dataset.PhotometricInterpretation, dataset.PixelRepresentation = "MONOCHROME2", 0
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset


def _p_values(
    stored: Sequence[Sequence[float]], dtype: str = "u2", **elements: object
) -> FloatImage:
    return to_p_values(np.array(stored, dtype), read_transform(_header(**elements)))


def _lut(first: int, bits: int, data: list[int]) -> list[Dataset]:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [len(data), first % 65536, bits])
    item.add_new("LUTData", "US", data)
    return [item]


def test_a_linear_window_is_the_standards_own_formula() -> None:
    # PS3.3 C.11.2.1.2.1, c=2048 w=4096: 0 at 0, 1 at 4095.
    found = _p_values([[0, 4095, 2047, 5000]], WindowCenter=2048, WindowWidth=4096)
    assert found == pytest.approx(np.array([[0, 1, 2047 / 4095, 1]]), abs=1e-6)


def test_a_window_of_width_one_is_a_threshold() -> None:
    found = _p_values([[9, 10, 11]], WindowCenter=10, WindowWidth=1)
    assert found.tolist() == [[0, 1, 1]]


def test_the_other_functions_have_their_own_formulas() -> None:
    exact = _p_values(
        [[0, 50, 100]], WindowCenter=50, WindowWidth=100, VOILUTFunction="LINEAR_EXACT"
    )
    assert exact == pytest.approx(np.array([[0, 0.5, 1]]))
    sigmoid = _p_values([[50, 75]], WindowCenter=50, WindowWidth=100, VOILUTFunction="SIGMOID")
    assert sigmoid == pytest.approx(np.array([[0.5, 1 / (1 + np.exp(-1))]]), abs=1e-6)


def test_the_first_of_several_windows_counts() -> None:
    found = _p_values([[0, 100]], WindowCenter=[50, 5000], WindowWidth=[101, 9000])
    assert found == pytest.approx(np.array([[0, 1]]), abs=0.01)


def test_rescale_comes_before_the_window() -> None:
    found = _p_values(
        [[0, 100]], RescaleSlope=2, RescaleIntercept=-100, WindowCenter=0.5, WindowWidth=201
    )
    assert found == pytest.approx(np.array([[0, 1]]))


def test_a_modality_lut_replaces_the_rescale() -> None:
    found = _p_values(
        [[0, 1, 2, 9]],
        ModalityLUTSequence=_lut(1, 16, [10, 20]),
        WindowCenter=15.5,
        WindowWidth=11,
    )
    assert found.tolist() == [[0, 0, 1, 1]]


def test_a_voi_lut_serves_where_there_is_no_legal_window() -> None:
    found = _p_values([[0, 1, 2]], VOILUTSequence=_lut(0, 8, [0, 51, 255]), WindowWidth=0)
    assert found == pytest.approx(np.array([[0, 0.2, 1]]))


def test_a_signed_lut_starts_below_zero() -> None:
    found = _p_values(
        [[-2, 0]], "i2", PixelRepresentation=1, VOILUTSequence=_lut(-2, 8, [0, 128, 255])
    )
    assert found == pytest.approx(np.array([[0, 1]]))


def test_percentiles_serve_where_the_header_says_nothing_and_padding_is_black() -> None:
    stored = [*([[each] for each in range(1, 1001)]), *([[60000]] * 5000)]
    found = _p_values(stored, PixelPaddingValue=60000)
    assert found[1000:].max() == 0
    assert found[499, 0] == pytest.approx(0.5, abs=0.01)
    assert (found[:4].max(), found[996:1000].min()) == (0, 1)


@pytest.mark.parametrize("voi", [{}, {"WindowCenter": 500, "WindowWidth": 1000}])
def test_monochrome1_is_the_negative_of_monochrome2(voi: dict[str, float]) -> None:
    stored = np.arange(1000, dtype=np.uint16).reshape(20, 50)
    two = to_p_values(stored, read_transform(_header(**voi)))
    one = to_p_values(
        stored, read_transform(_header(PhotometricInterpretation="MONOCHROME1", **voi))
    )
    assert one == pytest.approx(1 - two, abs=1e-6)


def test_a_constant_image_is_left_to_the_quality_gates() -> None:
    assert _p_values([[7, 7]]).tolist() == [[0, 0]]


@pytest.mark.parametrize("dtype", ["u1", "i2", ">u2", "u4", "f4", "f8"])
def test_every_kind_of_number_gives_float32_between_0_and_1(dtype: str) -> None:
    found = _p_values([[0, 100], [50, 25]], dtype, WindowCenter=50, WindowWidth=100)
    assert found.dtype == np.float32
    assert found == pytest.approx(np.array([[0.005, 1], [0.505, 0.2525]]), abs=0.01)


def test_wide_integers_do_not_need_a_table() -> None:
    found = _p_values([[0, 2**31], [2**30, 0]], "u4")
    assert found == pytest.approx(np.array([[0, 1], [0.5, 0]]), abs=0.02)


@pytest.mark.parametrize(
    ("stored", "reason"),
    [
        (np.zeros((0, 5)), NotAnalysedReason.TOO_SMALL),
        (np.zeros((2, 3, 4)), NotAnalysedReason.MULTI_FRAME),
        (np.array([[np.nan]]), NotAnalysedReason.UNDECODABLE),
        (np.array([[np.inf]]), NotAnalysedReason.UNDECODABLE),
    ],
)
def test_what_is_no_image_has_its_reason(stored: np.ndarray, reason: NotAnalysedReason) -> None:
    with pytest.raises(NotAnalysedError) as caught:
        to_p_values(stored, read_transform(_header()))
    assert caught.value.reason is reason


def test_the_shape_of_a_pixel_comes_from_the_first_spacing_that_makes_sense() -> None:
    assert pixel_aspect(_header(ImagerPixelSpacing=[0.2, 0.25])) == pytest.approx(0.8)
    assert pixel_aspect(_header(PixelSpacing=[0, 0], PixelAspectRatio=[4, 5])) == 0.8
    assert pixel_aspect(_header(PixelSpacing=[1000, 0.001])) == 1
    assert pixel_aspect(_header()) == 1
