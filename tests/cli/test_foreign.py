"""`foreign`: what a bundle is, before and after it is trusted."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
from pydicom import dcmread

from tests.dicom.synthetic_series import ct_series
from tests.dicom.synthetic_sources import radiograph, write
from tests.inference.zoo_bundles import threshold

if TYPE_CHECKING:
    from pathlib import Path


def _foreign(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "imaging_node", "foreign", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_inspect_tells_the_hash_that_run_asks_for(tmp_path: Path) -> None:
    bundle = threshold(tmp_path / "bundle")
    series = tmp_path / "ct"
    ct_series(series, np.zeros((4, 8, 8), np.int16))
    told = json.loads(_foreign("inspect", bundle).stdout)
    assert told["declaration"]["labels"][0]["name"] == "dense"
    for given in ((), ("--trust-code", "0" * 64)):
        refused = _foreign("run", bundle, series, "--out", tmp_path / "out", *given)
        assert refused.returncode == 1
        assert f"--trust-code {told['trust_code']}" in refused.stderr
    assert not (tmp_path / "out").exists()


def test_files_of_two_studies_and_of_no_use_are_refused(tmp_path: Path) -> None:
    bundle = threshold(tmp_path / "bundle")
    trust_code = json.loads(_foreign("inspect", bundle).stdout)["trust_code"]
    files = [write(radiograph(name), tmp_path / f"{name}.dcm") for name in ("one", "two")]
    for paths, words in ((files, "2 studies"), (files[:1], "the bundle is for CT")):
        done = _foreign(
            "run", bundle, *paths, "--out", tmp_path / "out", "--trust-code", trust_code
        )
        assert done.returncode == 1
        assert words in done.stderr


@pytest.mark.slow
def test_a_trusted_bundle_writes_a_segmentation_and_its_report(tmp_path: Path) -> None:
    hounsfield = np.zeros((5, 12, 10), np.int16)
    hounsfield[1:3, 2:5, 4:9] = 400
    ct_series(tmp_path / "ct", hounsfield)
    bundle = threshold(tmp_path / "bundle", is_yaml=True)
    trust_code = json.loads(_foreign("inspect", bundle).stdout)["trust_code"]
    site = tmp_path / "site.json"
    code = {"value": "272673000", "scheme": "SCT", "meaning": "Bone"}
    site.write_text(json.dumps({"name": "bones", "labels": {"dense": {"concept": code}}}))
    done = _foreign(
        *("run", bundle, tmp_path / "ct", "--out", tmp_path / "out"),
        *("--trust-code", trust_code, "--site", site),
    )
    assert done.returncode == 0, done.stderr
    assert "dense: 30 voxels" in done.stdout
    segmentation = dcmread(tmp_path / "out" / "segmentation.dcm")
    (segment,) = segmentation.SegmentSequence
    assert segment.SegmentedPropertyTypeCodeSequence[0].CodeValue == "272673000"
    assert dcmread(tmp_path / "out" / "report.dcm").SeriesDescription == "AI findings bones 0.5.9"
