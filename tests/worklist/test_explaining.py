"""One more look at a finding: asked for by one click of this page, one at a time, sent nowhere."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from fastapi.testclient import TestClient

from imaging_node.domain.explanation import ExplanationMethod
from imaging_node.node.explanations import Explanations
from imaging_node.worklist.explaining import AskedExplanation, ExplanationQueries
from imaging_node.worklist.page import create_app
from tests.worklist.test_page import QUERIES, ROWS, WATCHING

if TYPE_CHECKING:
    from pathlib import Path

    from httpx import Response

OWN = {"origin": "http://127.0.0.1", "host": "127.0.0.1"}
ROW, INDEX = next(
    (row, index)
    for row in ROWS
    if row.study.state.is_final
    for index, score in enumerate(row.findings)
    if score.probability is not None
)
ASKED = AskedExplanation(
    token=ROW.token,
    generation=ROW.study.generation,
    index=INDEX,
    label=ROW.findings[INDEX].label,
    method=ExplanationMethod.OCCLUSION,
)


def client(explanations: Explanations, *, is_possible: bool = True) -> TestClient:
    explaining = ExplanationQueries(
        is_possible=is_possible,
        state=explanations.state,
        ask=explanations.ask,
        picture=explanations.picture,
        names=(),
    )
    return TestClient(create_app(QUERIES, WATCHING, explaining), follow_redirects=False)


def path(method: str = ASKED.method, generation: int = ASKED.generation) -> str:
    return f"/studies/{ASKED.token}/{generation}/findings/{ASKED.index}/explanations/{method}"


def file_name(method: str) -> str:
    return f"{ASKED.token}-{ASKED.generation}-{ASKED.index}-{method}.png"


def drawn_picture(tmp_path: Path, method: ExplanationMethod) -> Path:
    """A picture in the folder as if it had been drawn."""
    picture = tmp_path / "explanations" / file_name(method)
    picture.parent.mkdir(exist_ok=True)
    picture.write_bytes(b"\x89PNG picture")
    return picture


def wait_until_drawn(explanations: Explanations, asked: AskedExplanation = ASKED) -> None:
    deadline = time.monotonic() + 120
    while explanations.state(asked).value == "drawing" and time.monotonic() < deadline:
        time.sleep(0.05)


@pytest.fixture
def explanations(tmp_path: Path) -> Explanations:
    return Explanations(tmp_path / "explanations", None)


def click(page: TestClient, where: str) -> Response:
    answer: Response = page.post(where, headers=OWN)
    return answer


def test_the_page_offers_every_method_for_a_scored_finding(explanations: Explanations) -> None:
    text = client(explanations).get(f"/studies/{ROW.token}").text
    assert all(f'action="{path(method)}"' in text for method in ExplanationMethod)


def test_a_node_without_the_libraries_offers_none(explanations: Explanations) -> None:
    page = client(explanations, is_possible=False)
    assert "/explanations/" not in page.get(f"/studies/{ROW.token}").text
    assert click(page, path()).status_code == 404


@pytest.mark.parametrize("headers", [{}, {"origin": "http://elsewhere.example"}])
def test_a_click_from_elsewhere_starts_nothing(
    explanations: Explanations, headers: dict[str, str]
) -> None:
    assert client(explanations).post(path(), headers=headers).status_code == 403
    assert explanations.state(ASKED).value == "none"


@pytest.mark.parametrize("where", [path("other"), path(generation=99)])
def test_an_unknown_method_or_an_older_answer_is_not_explained(
    explanations: Explanations, where: str
) -> None:
    assert click(client(explanations), where).status_code == 404


def test_a_study_that_this_node_does_not_have_fails_visibly_and_may_be_asked_again(
    explanations: Explanations,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("IMAGING_NODE__STATE_DIRECTORY", str(tmp_path / "state"))
    drawn = drawn_picture(tmp_path, ExplanationMethod.GRADIENT_SHAP)
    part = drawn.with_name(file_name(ASKED.method)).with_suffix(".part")
    part.write_bytes(b"half a picture")
    page = client(explanations)
    assert click(page, path()).status_code == 303
    assert click(page, path("grad_cam")).status_code == 503  # one at a time
    assert click(page, path("gradient_shap")).status_code == 303  # is there already
    assert click(page, path()).status_code == 303  # is being drawn already
    wait_until_drawn(explanations)
    assert explanations.state(ASKED).value == "failed"
    assert "failed; again" in page.get(f"/studies/{ROW.token}").text
    assert page.get(f"{path()}.png").status_code == 404
    assert not part.exists()
    said = "".join(capsys.readouterr())
    assert "no finding 'Pneumonia' of this study" in said
    assert '"status": 1' in said or "status=1" in said


def test_a_folder_that_cannot_be_made_fails_one_explanation_and_blocks_no_other(
    explanations: Explanations, tmp_path: Path
) -> None:
    (tmp_path / "explanations").write_bytes(b"in the way")
    for _ in range(2):
        assert explanations.ask(ASKED)
        wait_until_drawn(explanations)
        assert explanations.state(ASKED).value == "failed"


def test_a_drawing_that_takes_too_long_is_ended_and_leaves_nothing_behind(tmp_path: Path) -> None:
    explanations = Explanations(tmp_path / "explanations", None, limit_s=0.01)
    assert explanations.ask(ASKED)
    wait_until_drawn(explanations)
    assert explanations.state(ASKED).value == "failed"
    assert list((tmp_path / "explanations").iterdir()) == []
    assert explanations.ask(replace(ASKED, index=7))


def test_pictures_leave_after_a_month_and_unfinished_ones_at_the_start(tmp_path: Path) -> None:
    new = drawn_picture(tmp_path, ExplanationMethod.OCCLUSION)
    old = drawn_picture(tmp_path, ExplanationMethod.GRAD_CAM)
    month_ago_s = time.time() - 31 * 86400
    os.utime(old, (month_ago_s, month_ago_s))
    part = new.with_suffix(".part")
    part.write_bytes(b"half a picture")
    explanations = Explanations(tmp_path / "explanations", None, limit_s=0.01)
    assert list((tmp_path / "explanations").iterdir()) == [new]
    os.utime(new, (month_ago_s, month_ago_s))
    other = replace(ASKED, method=ExplanationMethod.GRAD_CAM)
    assert explanations.ask(other)
    assert not new.exists()
    wait_until_drawn(explanations, other)


def test_an_answer_that_names_its_model_has_a_picture_of_that_model_only(
    explanations: Explanations, tmp_path: Path
) -> None:
    folder = tmp_path / "explanations"
    folder.mkdir()
    of_model = replace(ASKED, model="first", model_digest=f"sha256:{64 * 'a'}")
    name = f"{ASKED.token}-{ASKED.generation}-{ASKED.index}-{12 * 'a'}-{ASKED.method}.png"
    (folder / name).write_bytes(b"\x89PNG picture")
    assert explanations.state(of_model).value == "ready"
    assert explanations.state(ASKED).value == "none"
    assert explanations.state(replace(of_model, model_digest=f"sha256:{64 * 'b'}")).value == "none"


def test_a_picture_that_was_drawn_is_shown(explanations: Explanations, tmp_path: Path) -> None:
    drawn_picture(tmp_path, ASKED.method)
    page = client(explanations)
    assert f'<a href="{path()}.png">' in page.get(f"/studies/{ROW.token}").text
    assert page.get(f"{path()}.png").content == b"\x89PNG picture"


def test_a_page_with_two_findings_of_one_name_says_whose_each_is() -> None:
    score = ROW.findings[INDEX]
    both = (replace(score, model="first"), replace(score, model="second"))
    queries = replace(QUERIES, study=lambda _: replace(ROW, findings=both))
    text = TestClient(create_app(queries, WATCHING)).get(f"/studies/{ROW.token}").text
    assert "By first." in text
    assert "By second." in text
    assert "By " not in TestClient(create_app(QUERIES, WATCHING)).get(f"/studies/{ROW.token}").text
