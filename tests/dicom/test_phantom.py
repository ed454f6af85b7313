"""The synthetic patients: plausible, reproducible, valid, and broken only where they should be."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
import pydicom
import pytest

from imaging_node.dicom.phantom import DEMO_STUDIES, PhantomStudy, phantom_dataset
from imaging_node.dicom.thorax import Opacity, render_chest

if TYPE_CHECKING:
    from pathlib import Path

    from imaging_node.domain.finding import FloatImage

STUDIES = {study.name: study for study in DEMO_STUDIES}
RIGHT_LOWER = Opacity(centre_mm=(-44, 5, 140), radii_mm=(20, 30, 20), density=0.95)


@pytest.fixture(scope="module")
def pictures() -> dict[str, FloatImage]:
    return {study.name: study.picture() for study in DEMO_STUDIES}


@pytest.fixture(scope="module")
def files(pictures: dict[str, FloatImage]) -> dict[str, bytes]:
    buffers = {study.name: BytesIO() for study in DEMO_STUDIES}
    for study in DEMO_STUDIES:
        dataset = phantom_dataset(study, picture=pictures[study.name])
        dataset.save_as(buffers[study.name], enforce_file_format=True)
    return {name: buffer.getvalue() for name, buffer in buffers.items()}


def _zone(picture: FloatImage, x_mm: tuple[float, float], z_mm: tuple[float, float]) -> float:
    """Mean P-Value of a rectangle in the chest's own millimetres, through shutters and all."""
    left, right = (int(x * 4 + 450 - 40) for x in x_mm)
    top, bottom = (int(z * 4 - 68) for z in z_mm)
    return float(picture[top:bottom, left:right].mean())


def test_lungs_are_dark_and_heart_liver_and_spine_are_bright() -> None:
    picture = render_chest(seed=1)
    lungs = [_zone(picture, (-60, -35), (90, 140)), _zone(picture, (50, 62), (100, 135))]
    solids = [
        _zone(picture, (10, 40), (140, 165)),
        _zone(picture, (-60, -20), (205, 230)),
        _zone(picture, (-6, 6), (100, 200)),
    ]
    assert max(lungs) + 0.15 < min(solids)
    assert picture.dtype == np.float32
    assert picture.min() >= 0
    assert picture.max() <= 1


def test_an_opacity_whitens_its_own_lung_and_not_the_other() -> None:
    clear, sick = render_chest(seed=5), render_chest(seed=5, opacities=(RIGHT_LOWER,))
    here, there = ((-58, -34), (125, 152)), ((40, 62), (90, 120))
    assert _zone(sick, *here) > _zone(clear, *here) + 0.06
    assert abs(_zone(sick, *there) - _zone(clear, *there)) < 0.02


def test_the_same_seed_gives_the_same_child_and_another_seed_another() -> None:
    first = render_chest(seed=4)
    assert np.array_equal(first, render_chest(seed=4))
    assert not np.array_equal(first, render_chest(seed=5))


def test_a_run_is_reproducible_and_another_run_is_another_study() -> None:
    hand = STUDIES["hand"]
    assert hand.part_10() == hand.part_10()
    uids = {
        pydicom.dcmread(BytesIO(hand.part_10(run=run))).StudyInstanceUID for run in ("", "a", "b")
    }
    assert len(uids) == 3
    assert all(uid.startswith("2.25.") and len(uid) <= 64 for uid in uids)


def test_every_phantom_but_the_undecodable_one_decodes_to_the_picture(
    files: dict[str, bytes], pictures: dict[str, FloatImage]
) -> None:
    for name, payload in files.items():
        dataset = pydicom.dcmread(BytesIO(payload))
        if name == "undecodable":
            with pytest.raises((RuntimeError, ValueError)):
                _ = dataset.pixel_array
            continue
        largest = 2**dataset.BitsStored - 1
        shown = dataset.pixel_array / largest
        if dataset.PhotometricInterpretation == "MONOCHROME1":
            shown = 1 - shown
        assert np.abs(shown - pictures[name]).max() < 0.06, name


def test_patients_are_recognisably_synthetic_and_never_share_an_identity(
    files: dict[str, bytes],
) -> None:
    headers = [pydicom.dcmread(BytesIO(each), stop_before_pixels=True) for each in files.values()]
    assert all(str(header.PatientName).startswith("PHANTOM^") for header in headers)
    for keyword in ("PatientID", "AccessionNumber", "StudyInstanceUID", "SOPInstanceUID"):
        assert len({header[keyword].value for header in headers}) == len(headers)
    assert {header.PatientAge for header in headers} == {"004Y"}
    assert {header.ViewPosition for header in headers} == {"AP", "LL", "PA"}


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dicom3tools is not installed")
@pytest.mark.parametrize("study", DEMO_STUDIES, ids=lambda study: study.name)
def test_dciodvfy_finds_no_error(
    study: PhantomStudy, files: dict[str, bytes], tmp_path: Path
) -> None:
    path = tmp_path / "phantom.dcm"
    path.write_bytes(files[study.name])
    found = subprocess.run(
        ["dciodvfy", "-new", str(path)], capture_output=True, text=True, check=False
    )
    assert "Error" not in found.stderr + found.stdout


def test_an_ordered_priority_stands_in_the_request_attributes() -> None:
    study = replace(STUDIES["hand"], ordered_priority="STAT")
    header = pydicom.dcmread(BytesIO(study.part_10()), stop_before_pixels=True)
    assert header.RequestAttributesSequence[0].RequestedProcedurePriority == "STAT"
