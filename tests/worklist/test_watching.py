"""Alarms are seen in words, and a click is taken from this page only."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from imaging_node.domain.watching import (
    DriftAlarm,
    FindingReport,
    Performance,
    Proportion,
    ReferenceSource,
    SubgroupRow,
    WatchedModel,
)
from imaging_node.worklist.watching import comes_from_own_page
from tests.worklist.test_page import MARKUP, NOW, QUERIES, RAW, ROWS, WATCHING, client

if TYPE_CHECKING:
    from fastapi.testclient import TestClient
    from httpx import Response

    from imaging_node.worklist.watching import Verdict

SCANNER = f"ACME {MARKUP}"
ALARMS = tuple(
    DriftAlarm(
        id=number, model="chest", model_digest=f"sha256:{'a' * 64}", quantity=quantity,
        group_kind=kind, group_value=value, statistic="cusum_up", value=20.1, threshold=20.1,
        raised_at=NOW, raised_after=140, cleared_at=None,
        scanner_name=SCANNER if kind == "scanner" else "",
    )
    for number, (quantity, kind, value) in enumerate(
        [("input_mean", "scanner", "3"), ("probability:Pneumonia", "all", "")]
    )
)  # fmt: skip


def stream(recent: float) -> dict[str, object]:
    statistics = {"cusum_up": [20.1, 20.1], "ks": [0.1, 0.2]}
    return {"recent": recent, "reference": 0.1, "statistics": statistics}


STREAMS = {
    "input_mean": stream(0.4),
    "refused": stream(0.02),
    "not_eligible": stream(0.3),
    "disagreement": stream(0.05),
    "positive:Pneumonia": stream(0.2),
    "undetermined:Pneumonia": stream(0.07),
}
MODEL = WatchedModel(
    model="chest",
    model_digest=f"sha256:{'a' * 64}",
    reference_source=ReferenceSource.BUNDLE,
    studies=340,
    baseline_left=0,
    updated_at=NOW,
    groups=[
        {"kind": "all", "value": "", "studies": 340, "streams": STREAMS},
        {"kind": "scanner", "value": "3", "studies": 100, "streams": STREAMS},
        {"kind": "view", "value": "PA", "studies": 0, "streams": {}},
    ],
)
FIGURES = Performance(
    labelled=50, final=0, undetermined=2, positive_predictive_value=Proportion(40, 50),
    sensitivity=None, specificity=None, negative_predictive_value=None,
)  # fmt: skip
FEW = replace(FIGURES, labelled=7, positive_predictive_value=Proportion(6, 7))
REPORT = FindingReport(
    model="chest", model_digest=MODEL.model_digest, label="Pneumonia", performance=FIGURES,
    subgroups=(SubgroupRow(attribute="sex", value="F", performance=FEW),),
)  # fmt: skip
DRIFTING = replace(
    WATCHING,
    alarms=lambda: ALARMS,
    recent_alarms=lambda: ALARMS,
    models=lambda: (MODEL,),
    reports=lambda: (REPORT,),
    scanner_names=lambda: {3: SCANNER},
)
OWN = {"origin": "http://127.0.0.1:8080", "host": "127.0.0.1:8080"}


class Clicks:
    """The page of a node, and what was clicked on it."""

    def __init__(self) -> None:
        self.taken: list[Verdict] = []
        self.page: TestClient = client(watching=replace(WATCHING, give_verdict=self.taken.append))

    def click(self, path: str, **headers: str) -> Response:
        answer: Response = self.page.post(path, headers=OWN | headers, follow_redirects=False)
        return answer


def test_a_band_says_what_changed_what_it_means_and_what_to_do() -> None:
    text = client(watching=DRIFTING).get("/").text
    band = text[text.index('class="drift"') : text.index("</section>")]
    for expected in (
        "What chest sees has changed",
        "scores of Pneumonia",
        "brightness of the images of scanner 3 (ACME",
        "Read its results with more caution",
        "imaging-node watch status",
    ):
        assert expected in band
    assert "drift" not in client().get("/").text


def test_the_models_page_shows_rates_alarms_and_figures_and_hides_small_groups() -> None:
    text = client(watching=DRIFTING).get("/watching").text
    for expected in (
        "340 studies",
        "0.200",
        "was 0.100",
        "0.80 (0.67 to 0.89), 40 of 50",
        "not known",
        "fewer than 30",
        "verification bias",
        "after 140 studies",
    ):
        assert expected in text
    assert "6 of 7" not in text
    assert "<img src=x" not in text
    assert not re.search(r"<script|<style|\sstyle=|\son\w+=\"", text)


def test_metrics_name_scanners_by_number_only() -> None:
    text = client(watching=DRIFTING).get("/metrics").text
    for line in (
        'imaging_node_drift_alarms{digest="aaaaaaaaaaaa",model="chest"} 2.0',
        (
            'imaging_node_drift_alarm{digest="aaaaaaaaaaaa",group="scanner 3",model="chest",'
            'quantity="input_mean",statistic="cusum_up"} 1.0'
        ),
        (
            'imaging_node_positive_rate{digest="aaaaaaaaaaaa",finding="Pneumonia",'
            'group="scanner 3",model="chest"} 0.2'
        ),
        (
            'imaging_node_drift{digest="aaaaaaaaaaaa",model="chest",quantity="input_mean",'
            'statistic="ks"} 0.5'
        ),
        'imaging_node_watched_studies{digest="aaaaaaaaaaaa",model="chest"} 340.0',
    ):
        assert line in text
    assert "ACME" not in text


def test_one_click_agrees_or_disagrees_with_a_call() -> None:
    clicks = Clicks()
    answer = clicks.click("/studies/study-token-2/1/findings/0/agree")
    clicks.click("/studies/study-token-2/1/findings/0/disagree")
    clicks.click("/studies/study-token-5/1/findings/0/agree")
    clicks.click("/studies/study-token-5/1/findings/0/disagree")

    assert (answer.status_code, answer.headers["location"]) == (303, "/studies/study-token-2")
    assert [(each.called, each.agrees, each.is_present) for each in clicks.taken] == [
        ("present", True, True),
        ("present", False, False),
        ("absent", True, False),
        ("absent", False, True),
    ]
    assert {each.study_instance_uid for each in clicks.taken} == {f"{RAW}.2", f"{RAW}.5"}


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/studies/study-token-4/1/findings/0/agree", 409),  # undetermined: nothing to agree with
        ("/studies/study-token-2/2/findings/0/agree", 409),  # answered anew meanwhile
        ("/studies/study-token-2/1/findings/7/agree", 409),
        ("/studies/study-token-2/1/findings/-1/agree", 409),
        ("/studies/study-token-8/1/findings/0/agree", 409),
        ("/studies/nobody/1/findings/0/agree", 404),
        ("/studies/study-token-2/1/findings/0/delete", 404),
        ("/studies/study-token-2/x/findings/0/agree", 422),
    ],
)
def test_a_click_that_fits_no_call_changes_nothing(path: str, status: int) -> None:
    clicks = Clicks()
    assert clicks.click(path).status_code == status
    assert clicks.taken == []


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": ""},
        {"origin": "http://127.0.0.1:3000"},
        {"origin": "http://evil.example", "host": "evil.example"},  # a name led to this address
        {"origin": "file://127.0.0.1:8080"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": "http://[::1", "host": "[::1"},
    ],
    ids=str,
)
def test_a_foreign_page_cannot_speak_for_a_reader(headers: dict[str, str]) -> None:
    clicks = Clicks()
    answer = clicks.click("/studies/study-token-2/1/findings/0/agree", **headers)
    assert answer.status_code == 403
    assert clicks.taken == []


@pytest.mark.parametrize(
    ("origin", "host", "names"),
    [
        ("http://127.0.0.1:8080", "127.0.0.1:8080", ()),
        ("http://localhost:8080", "localhost:8080", ()),
        ("http://[::1]:8080", "[::1]:8080", ()),
        ("https://AI.hospital.example", "127.0.0.1:8080", ("ai.hospital.example",)),
    ],
)
def test_the_nodes_own_page_may_by_address_or_by_a_name_that_the_site_gave(
    origin: str, host: str, names: tuple[str, ...]
) -> None:
    assert comes_from_own_page({"origin": origin, "host": host}, names)
    assert not comes_from_own_page({"host": host}, names)


def test_buttons_stand_beside_calls_and_show_what_was_said() -> None:
    said = replace(WATCHING, verdicts=lambda _: {"Pneumonia": (True, "present")})
    text = client(watching=said).get("/studies/study-token-2").text
    assert text.count('method="post"') == 2
    assert 'action="/studies/study-token-2/1/findings/0/agree"' in text
    assert re.search(r"<button aria-pressed=\"true\">✓ Agree", text)
    assert "A reader said: present" in text
    assert 'method="post"' not in client().get("/studies/study-token-4").text
    assert 'method="post"' not in client().get("/studies/study-token-6").text
    policy = client().get("/studies/study-token-2").headers
    assert "form-action 'self'" in policy["content-security-policy"]
    # Under "no-referrer" a browser sends `Origin: null` with its own forms.
    assert policy["referrer-policy"] == "same-origin"


def test_no_other_path_takes_a_post() -> None:
    page = client()
    for path in ("/", "/studies/study-token-2", "/watching", "/deliveries", "/api/worklist"):
        assert page.post(path, headers=OWN).status_code == 405
    assert len(ROWS) == len(QUERIES.worklist())
