"""A reader asks a running node for one more look at a finding, and an operator does."""

from __future__ import annotations

import json
import re
from io import BytesIO
from typing import TYPE_CHECKING

import httpx
import numpy as np
import pytest
from PIL import Image

from imaging_node.demonstration.local_node import LocalNode
from tests.integration.answers import await_answers, command
from tests.integration.conftest import wait_until
from tests.integration.films import film, send, study_uid
from tests.integration.other_version import NAME, NAMESAKE, make_zoo
from tests.signing import write_test_key

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("captum", reason="the extra torch is not installed")

_LIMIT_S = 300.0


def opened_picture(png: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Pixels of a PNG, shape (rows, columns, 3)."""
    with Image.open(BytesIO(png)) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB"), np.float32)


@pytest.mark.slow
@pytest.mark.timeout(1200)  # several commands and a torch process, on a busy machine too
def test_a_finding_is_explained_on_the_page_and_by_the_command_and_nothing_of_it_is_sent(
    tmp_path: Path,
) -> None:
    changes = {
        "study": {"quiet_period_s": 0.2},
        "model_directory": str(make_zoo(tmp_path / "zoo")),
        "model_keys": [str(write_test_key(tmp_path))],
        "models": [{"name": name, "gates": "report"} for name in (NAME, NAMESAKE)],
    }
    with LocalNode(tmp_path, changes) as node:
        payload = film()
        uid = study_uid(payload)
        assert send(node, tmp_path, payload).stored == 1
        await_answers(node, [uid], limit_s=_LIMIT_S)
        sent = len(node.pacs.stored)
        assert sent >= 2

        origin = f"http://127.0.0.1:{node.settings.web.port}"
        with httpx.Client(base_url=origin, timeout=60) as reader:
            [row] = reader.get("/api/worklist").json()
            assert [each["model"] for each in row["findings"]] == [NAME, NAMESAKE]
            text = reader.get(row["page"]).text
            # The second finding's: of the same name, from the other model.
            _, button = re.findall(r'action="([^"]+/explanations/grad_cam)"', text)

            clicked = reader.post(button, headers={"origin": origin})
            assert (clicked.status_code, clicked.headers["location"]) == (303, row["page"])
            assert "being drawn" in reader.get(row["page"]).text
            link = f'<a href="{button}.png">'
            wait_until(
                lambda: "being drawn" not in reader.get(row["page"]).text,
                limit_s=_LIMIT_S,
                what="the picture is drawn",
            )
            assert link in reader.get(row["page"]).text, node.log.read_text()[-2000:]
            answer = reader.get(f"{button}.png")
        assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
        drawn = opened_picture(answer.content)
        assert min(drawn.shape[:2]) >= 256
        assert drawn.std() > 10
        # Evidence is coloured, the film is grey.
        assert np.ptp(drawn, axis=2).max() > 20
        assert [each.suffix for each in (tmp_path / "state/explanations").iterdir()] == [".png"]

        token = row["page"].rpartition("/")[2]
        asked = ["explain", token, "--finding", "Pneumonia", "--method", "grad_cam"]
        refused = command(node, *asked)
        assert refused.returncode == 1
        assert f"({NAMESAKE}, {NAME}); choose one by --model" in refused.stderr
        out = tmp_path / "explained.png"
        explained = command(node, *asked, "--model", NAMESAKE, "--out", str(out), "--json")
        assert explained.returncode == 0, explained.stderr
        [said] = json.loads(explained.stdout)
        assert (said["finding"], said["model"]["name"]) == ("Pneumonia", NAMESAKE)
        again = opened_picture(out.read_bytes())
        assert again.shape == drawn.shape
        assert np.abs(again - drawn).mean() < 0.5

        assert len(node.pacs.stored) == sent
        assert "explanation could not be drawn" not in node.log.read_text()
