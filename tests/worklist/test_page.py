"""The page shows every study in its order, escapes what it was sent, tells machines the truth."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from fastapi.testclient import TestClient

from imaging_node.domain.finding import FindingScore
from imaging_node.domain.lifecycle import DeliveryState, StudyState
from imaging_node.domain.priority import ReadingPriority
from imaging_node.domain.records import (
    CaptureReference,
    DeliveryRecord,
    QuarantinedInstance,
    RoleStatus,
    StudyRecord,
    WorkCounts,
    WorklistRow,
)
from imaging_node.worklist.page import create_app
from imaging_node.worklist.queries import WorklistQueries
from imaging_node.worklist.watching import WatchingQueries

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
PNG = b"\x89PNG\r\n\x1a\nnot a real picture"
MARKUP = "<img src=x onerror=alert(1)>\"'&"
RAW = "1.2.840.99999.17"


def score(probability: float | None, label: str = "Pneumonia") -> FindingScore:
    interval = None
    if probability is not None:
        interval = (max(0.0, probability - 0.08), min(1.0, probability + 0.06))
    return FindingScore(
        label=label,
        probability=probability,
        interval=interval,
        operating_point=0.6,
        undetermined_from=0.35,
    )


def row(
    rank: int,
    *,
    accession_number: str = "",
    state: StudyState = StudyState.DONE,
    reason: str = "",
    priority: ReadingPriority = ReadingPriority.ROUTINE,
    why: str = "as ordered",
    findings: tuple[FindingScore, ...] = (),
    remarks: tuple[str, ...] = (),
    captures: int = 0,
    delivered: int = 0,
    parked: int = 0,
) -> WorklistRow:
    received_at = NOW - timedelta(minutes=7 * rank)
    return WorklistRow(
        study=StudyRecord(
            study_instance_uid=f"{RAW}.{rank}",
            accession_number=accession_number or f"PH000{rank}",
            state=state,
            reason=reason,
            generation=1,
            priority=priority,
            received_at=received_at,
            finished_at=received_at + timedelta(seconds=8) if state.is_final else None,
            instances=1,
            study_at=received_at - timedelta(minutes=3) if rank % 3 else None,
        ),
        token=f"study-token-{rank}",
        rank=rank,
        priority_reason=why,
        findings=findings,
        remarks=remarks,
        captures=tuple(
            CaptureReference(token=f"capture-token-{rank}-{each}", label="Pneumonia")
            for each in range(captures)
        ),
        deliveries={DeliveryState.DELIVERED: delivered, DeliveryState.PARKED: parked},
    )


ROWS = (
    row(
        1,
        priority=ReadingPriority.STAT,
        why="ordered STAT",
        findings=(score(0.97),),
        captures=1,
        delivered=2,
    ),
    row(
        2,
        priority=ReadingPriority.URGENT,
        why="Pneumonia present, p=0.91",
        findings=(score(0.91),),
        captures=1,
        delivered=1,
        parked=1,
        remarks=(
            "Eligibility rule waived by the site: age.",
            "Operating point of Pneumonia set by the site: 0.60.",
        ),
    ),
    row(
        3,
        accession_number=MARKUP,
        state=StudyState.NOT_ANALYSED,
        reason="not a frontal view",
        delivered=1,
    ),
    row(4, findings=(score(0.52),), delivered=1),
    row(5, findings=(score(0.04),), delivered=1),
    row(6, state=StudyState.FAILED, reason="given up after 5 attempts"),
    row(7, state=StudyState.NOT_APPLICABLE, reason="modality CT"),
    row(8, state=StudyState.SCORING),
)
DELIVERIES = tuple(
    DeliveryRecord(
        id=each.rank,
        study_instance_uid=each.study.study_instance_uid,
        sop_instance_uid=f"{RAW}.77.{each.rank}",
        sop_class_uid="1.2.840.10008.5.1.4.1.1.88.34",
        destination="pacs",
        state=DeliveryState.PARKED if each.rank == 2 else DeliveryState.DELIVERED,
        attempts=1,
        last_status="A900" if each.rank == 2 else "0000",
        next_attempt_at=None,
    )
    for each in ROWS[:5]
)


QUARANTINED = (
    QuarantinedInstance(
        study_instance_uid=f"{RAW}.5",
        sop_instance_uid=f"{RAW}.5.1",
        sop_class_uid="1.2.840.10008.5.1.4.1.1.1.1",
        accession_number=MARKUP,
        reason="the study is known for another patient",
        digest="a" * 64,
        calling_ae_title="CT1",
        received_at=NOW,
    ),
    QuarantinedInstance(
        study_instance_uid="",
        sop_instance_uid="",
        sop_class_uid="",
        accession_number="",
        reason="row damaged",
        digest="",
        calling_ae_title="",
        received_at=None,
    ),
)


def role(name: str, *, age_s: float = 1.0, pid: int = 41) -> RoleStatus:
    return RoleStatus(
        role=name,
        pid=pid,
        started_at=NOW - timedelta(hours=1),
        heartbeat_at=NOW - timedelta(seconds=age_s),
        counters={'instances_total{status="0x0000"}': 12.0} if name == "receive" else {},
    )


QUERIES = WorklistQueries(
    worklist=lambda: tuple(reversed(ROWS)),
    study=lambda token: next((each for each in ROWS if each.token == token), None),
    capture_png=lambda token: PNG if token == "capture-token-1-0" else None,  # noqa: S105 - no secret
    deliveries=lambda: DELIVERIES,
    quarantined=lambda: QUARANTINED,
    roles=lambda: (role("receive"), role("score"), role("deliver")),
    counts=lambda: WorkCounts(
        studies={StudyState.DONE: 4, StudyState.SCORING: 1},
        deliveries={DeliveryState.PARKED: 1},
        oldest_waiting_s=56 * 60.0,
        oldest_delivery_s=0.0,
        quarantined_instances=2,
    ),
    is_database_writable=lambda: True,
    required_roles=("receive", "score", "deliver"),
    now=lambda: NOW,
)


WATCHING = WatchingQueries(
    alarms=tuple,
    recent_alarms=tuple,
    models=tuple,
    reports=tuple,
    scanner_names=dict,
    verdicts=lambda _: {},
    give_verdict=lambda _: None,
    names=(),
)


def client(queries: WorklistQueries = QUERIES, watching: WatchingQueries = WATCHING) -> TestClient:
    return TestClient(create_app(queries, watching))


PAGES = ("/", "/deliveries", "/watching", *(f"/studies/{each.token}" for each in ROWS))


def table_row(text: str, rank: int) -> str:
    """Markup of one study in the worklist."""
    rows: list[str] = re.findall(r"<tr class=.*?</tr>", text, flags=re.DOTALL)
    return rows[rank - 1]


def test_rows_stand_in_the_order_of_their_rank() -> None:
    text = client().get("/").text
    assert re.findall(r'href="/studies/study-token-(\d)"', text) == list("12345678")


@pytest.mark.parametrize("page", PAGES)
def test_markup_in_received_values_is_shown_and_never_run(page: str) -> None:
    text = client().get(page).text
    assert "<img src=x" not in text
    assert "onerror=alert(1)>" not in text
    if page in {"/", "/deliveries", "/studies/study-token-3"}:
        assert "&lt;img src=x onerror=alert(1)&gt;" in text


@pytest.mark.parametrize("page", [*PAGES, "/captures/capture-token-1-0.png", "/readyz", "/nowhere"])
def test_every_answer_forbids_foreign_content_storing_and_framing(page: str) -> None:
    headers = client().get(page).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert headers["cache-control"] == "no-store"
    assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("page", PAGES)
def test_pages_need_nothing_that_the_policy_forbids(page: str) -> None:
    text = client().get(page).text
    assert not re.search(r"<script|<style|\sstyle=|\son\w+=\"|(?:src|href)=\"(?!/)", text)


@pytest.mark.parametrize("page", PAGES)
def test_no_address_holds_a_uid_or_an_accession_number(page: str) -> None:
    addresses = re.findall(r'(?:href|src)="([^"]*)"', client().get(page).text)
    assert addresses
    assert not any(RAW in each or "PH000" in each or "onerror" in each for each in addresses)


@pytest.mark.parametrize("rank", [3, 6])
def test_a_study_without_analysis_has_its_own_badge_and_reason_and_no_call(rank: int) -> None:
    study = ROWS[rank - 1].study
    for shown in (
        table_row(client().get("/").text, rank),
        client().get(f"/studies/study-token-{rank}").text,
    ):
        assert "badge refused" in shown
        assert study.reason in shown
        assert "says nothing about the patient" in shown
        assert not re.search(r"normal|Absent|p = ", shown, flags=re.IGNORECASE)


def test_nothing_on_the_worklist_is_called_normal_and_all_is_marked_unverified() -> None:
    text = client().get("/").text
    assert "normal" not in text.lower()
    assert "AI output, not verified, not for diagnosis" in text


def test_a_finding_shows_its_call_probability_and_interval_in_words() -> None:
    shown = table_row(client().get("/").text, 2)
    for expected in (
        "Present",
        "p = 0.91",
        "0.83 to 0.97",
        "Pneumonia present",
        "waived",
        "parked",
    ):
        assert expected in shown
    assert "Undetermined" in table_row(client().get("/").text, 4)
    assert "Absent" in table_row(client().get("/").text, 5)


def test_quarantined_instances_are_counted_and_shown_with_their_reason_and_sender() -> None:
    text = client().get("/").text
    section = text[text.index('id="quarantine"') :]
    assert '<b>2</b> <a href="/#quarantine">quarantined instances</a>' in text
    assert "the study is known for another patient" in section
    assert "CT1" in section
    assert section.index("row damaged") < section.index("another patient")
    none = replace(
        QUERIES,
        quarantined=tuple,
        counts=lambda: replace(QUERIES.counts(), quarantined_instances=0),
    )
    assert "uarantine" not in client(none).get("/").text


def test_captures_are_served_by_token_and_unknown_tokens_are_not_found() -> None:
    page = client()
    assert page.get("/captures/capture-token-1-0.png").content == PNG
    for unknown in ("/captures/nobody.png", "/studies/nobody", "/studies/..%2f..%2fetc%2fpasswd"):
        assert page.get(unknown).status_code == 404
    assert "Back to the worklist" in page.get("/studies/x", headers={"accept": "text/html"}).text


def test_rows_for_programs_carry_what_the_page_shows() -> None:
    rows = client().get("/api/worklist").json()
    assert [each["rank"] for each in rows] == list(range(1, 9))
    assert rows[1]["findings"][0]["presence"] == "present"
    assert rows[2]["state"] == "not_analysed"


def test_ready_when_every_role_reports_and_the_database_is_writable() -> None:
    answer = client().get("/readyz")
    assert (answer.status_code, answer.json()) == (200, {"ready": True, "missing": []})
    assert client().get("/healthz").status_code == 200


@pytest.mark.parametrize(
    ("queries", "missing"),
    [
        (replace(QUERIES, roles=lambda: (role("receive"), role("score"))), "deliver: never"),
        (
            replace(
                QUERIES, roles=lambda: (role("receive"), role("score"), role("deliver", age_s=10))
            ),
            "deliver: last reported 10 s ago",
        ),
        (replace(QUERIES, is_database_writable=lambda: False), "database: not writable"),
    ],
)
def test_not_ready_says_what_is_missing_while_the_page_stays_alive(
    queries: WorklistQueries, missing: str
) -> None:
    answer = client(queries).get("/readyz")
    assert answer.status_code == 503
    assert any(each.startswith(missing) for each in answer.json()["missing"])
    assert client(queries).get("/healthz").status_code == 200
    assert missing in client(queries).get("/").text


def test_one_live_process_of_a_role_is_enough() -> None:
    roles = (role("receive"), role("score", age_s=99, pid=7), role("score"), role("deliver"))
    assert client(replace(QUERIES, roles=lambda: roles)).get("/readyz").status_code == 200


def test_metrics_hold_every_state_and_the_counters_of_the_roles_and_nothing_of_a_patient() -> None:
    text = client().get("/metrics").text
    for line in (
        'imaging_node_studies{state="done"} 4.0',
        'imaging_node_studies{state="failed"} 0.0',
        'imaging_node_deliveries{state="parked"} 1.0',
        "imaging_node_oldest_waiting_seconds 3360.0",
        "imaging_node_quarantined_instances 2.0",
        "imaging_node_ready 1.0",
        'imaging_node_instances_total{pid="41",role="receive",status="0x0000"} 12.0',
    ):
        assert line in text
    assert RAW not in text
    assert "PH000" not in text
