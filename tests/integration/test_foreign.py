"""A bundle of the zoo on a running node: trusted, tried in shadow, promoted, and heard."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from pydicom import dcmread

from imaging_node.demonstration.local_node import LocalNode
from tests.dicom.synthetic_series import ct_series
from tests.inference.zoo_bundles import threshold
from tests.integration.answers import await_answers, command
from tests.integration.films import send_paths
from tests.integration.test_models import await_served, kept, models, sent

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

    Tool = Callable[..., subprocess.CompletedProcess[str]]

VERSION = "0.5.9"
_LIMIT_S = 300.0


def _series(folder: Path, name: str) -> tuple[list[Path], str]:
    hounsfield = np.zeros((5, 12, 10), np.int16)
    hounsfield[1:3, 2:5, 4:9] = 400
    paths = ct_series(folder / name, hounsfield, name=name)
    return paths, str(dcmread(paths[0], stop_before_pixels=True).StudyInstanceUID)


@pytest.mark.slow
@pytest.mark.timeout(1200)  # many commands, each a process
def test_a_trusted_bundle_is_tried_promoted_and_its_objects_reach_the_pacs(
    tmp_path: Path, dicom_tool: Tool
) -> None:
    bundle = threshold(tmp_path / "threshold")
    site = tmp_path / "site.json"
    site.write_text('{"name": "bones"}')
    with LocalNode(tmp_path, {"study": {"quiet_period_s": 1}}) as node:
        refused = command(node, "models", "add", str(bundle), "--site", str(site))
        assert refused.returncode == 1
        trust_code = refused.stderr.partition("--trust-code ")[2].split()[0]
        models(node, "add", str(bundle), "--site", str(site), "--trust-code", trust_code)
        await_served(node, VERSION, "shadow")
        paths, uid = _series(tmp_path, "first")
        assert send_paths(node, paths).stored == len(paths)
        [result] = kept(node, uid)
        assert [each.voxels for each in result.labels] == [30]
        rows = await_answers(node, [uid], limit_s=_LIMIT_S)
        assert rows[uid]["state"] == "not_applicable"
        assert sent(node, uid) == []

        models(node, "promote", "bones")
        await_served(node, VERSION, "primary")
        paths, uid = _series(tmp_path, "second")
        assert send_paths(node, paths).stored == len(paths)
        rows = await_answers(node, [uid], limit_s=_LIMIT_S)
        assert (rows[uid]["state"], rows[uid]["findings"]) == ("done", [])
        objects = {str(each.Modality): each for each in sent(node, uid)}
        assert objects.keys() == {"SEG", "SR"}
        referenced = {
            str(each.value)
            for each in objects["SR"].iterall()
            if each.keyword == "ReferencedSOPInstanceUID"
        }
        assert objects["SEG"].SOPInstanceUID in referenced
        for name, each in objects.items():
            path = tmp_path / f"{name}.dcm"
            each.save_as(path, enforce_file_format=True)
            checked = dicom_tool("dciodvfy", "-new", path)
            assert "Error" not in checked.stdout + checked.stderr
