"""The `web` role: the worklist page, health and metrics."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import TYPE_CHECKING

import uvicorn

from imaging_node.dicom.saliency_capture import capture_png
from imaging_node.domain.audit import AuditEvent, AuditKind
from imaging_node.domain.errors import IntegrityError, StorageError
from imaging_node.domain.watching import LabelSource
from imaging_node.flow.performance import finding_reports
from imaging_node.node.explanations import Explanations
from imaging_node.node.role import Role
from imaging_node.node.wiring import now, open_state
from imaging_node.store.labels import (
    GivenLabel,
    labelled_cases,
    last_verdicts,
    record_labels,
)
from imaging_node.store.listings import (
    capture_digests,
    count_work,
    find_study,
    list_deliveries,
    list_worklist,
)
from imaging_node.store.observations import scanner_names
from imaging_node.store.quarantine import list_quarantined
from imaging_node.store.role_reports import list_roles
from imaging_node.store.watches import list_alarms, list_watched
from imaging_node.telemetry import Event, log
from imaging_node.worklist.explaining import ExplanationQueries
from imaging_node.worklist.page import create_app
from imaging_node.worklist.queries import WorklistQueries
from imaging_node.worklist.watching import Verdict, WatchingQueries

if TYPE_CHECKING:
    from pathlib import Path

    from imaging_node.domain.records import WorklistRow
    from imaging_node.settings import Settings
    from imaging_node.store.audit_trail import AuditTrail
    from imaging_node.store.database import Database
    from imaging_node.store.spool import Spool
    from imaging_node.telemetry import Pseudonyms

# More than anybody reads; the page says when there are more.
ROWS_ON_THE_PAGE = 1000
# The page itself answers when it is asked; these must say that they are alive.
REQUIRED_ROLES = ("receive", "score", "deliver")


def run_web(settings: Settings, *, supervisor_pid: int | None, config: Path | None = None) -> None:
    """Serve the page until told to stop.

    Args:
        settings: As read.
        supervisor_pid: Process of `serve` that started this one.
        config: The file that they were read from.

    Raises:
        StorageError: The port or the state directory cannot be used.
    """
    with Role("web", settings, supervisor_pid=supervisor_pid) as role:
        database, spool, pseudonyms = open_state(settings)
        server = uvicorn.Server(
            uvicorn.Config(
                create_app(
                    page_queries(settings, database, spool, pseudonyms),
                    watching_queries(settings, database, role.audit),
                    explanation_queries(settings, config),
                ),
                host=settings.web.host,
                port=settings.web.port,
                log_config=None,
                access_log=False,
                server_header=False,
                lifespan="off",
                timeout_graceful_shutdown=5,
            )
        )
        # uvicorn takes signals over only in the main thread: the role keeps its own.
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        while thread.is_alive() and not server.started:
            thread.join(timeout=0.05)
        if not thread.is_alive():
            raise StorageError(
                f"cannot serve the page on {settings.web.host}:{settings.web.port};"
                " free the port or change web.port"
            )
        role.start_heartbeat(database)
        role.stopping.wait()
        server.should_exit = True
        thread.join(timeout=10)
        database.close()


def page_queries(
    settings: Settings, database: Database, spool: Spool, pseudonyms: Pseudonyms
) -> WorklistQueries:
    """What the page may ask, answered from the database and the spool."""

    def study(token: str) -> WorklistRow | None:
        uid = find_study(database, pseudonyms, token)
        if uid is None:
            return None
        rows = list_worklist(database, pseudonyms, now=now(), study_instance_uid=uid)
        return rows[0] if rows else None

    def picture(token: str) -> bytes | None:
        digest = capture_digests(database, pseudonyms).get(token)
        if digest is None:
            return None
        try:
            return capture_png(spool.read(digest))
        except IntegrityError:
            return None

    return WorklistQueries(
        worklist=lambda: list_worklist(
            database,
            pseudonyms,
            now=now(),
            limit=ROWS_ON_THE_PAGE,
            received_since=now() - timedelta(hours=settings.web.worklist_hours),
        ),
        study=study,
        capture_png=picture,
        deliveries=lambda: list_deliveries(database),
        quarantined=lambda: list_quarantined(database),
        roles=lambda: list_roles(database),
        counts=lambda: count_work(database, now=now()),
        is_database_writable=database.is_writable,
        required_roles=REQUIRED_ROLES,
        now=now,
    )


def explanation_queries(settings: Settings, config: Path | None) -> ExplanationQueries:
    """How the page asks for explanations."""
    explanations = Explanations(settings.state_directory / "explanations", config)
    return ExplanationQueries(
        is_possible=explanations.is_possible,
        state=explanations.state,
        ask=explanations.ask,
        picture=explanations.picture,
        names=settings.web.names,
    )


def watching_queries(settings: Settings, database: Database, audit: AuditTrail) -> WatchingQueries:
    """What the page may ask of watched models, and how a reader's click is kept."""

    def give_verdict(verdict: Verdict) -> None:
        news = record_labels(
            database,
            [
                GivenLabel(
                    verdict.study_instance_uid,
                    verdict.label,
                    is_present=verdict.is_present,
                    called=verdict.called,
                )
            ],
            source=LabelSource.PAGE,
            now=now(),
        )
        if not news:
            return
        words = "agreed" if verdict.agrees else "disagreed"
        log(
            Event.VERDICT_GIVEN,
            study=verdict.token,
            generation=verdict.generation,
            quantity=verdict.label,
            state=words,
        )
        audit.record(
            AuditEvent(
                kind=AuditKind.PROCEDURE_RECORD,
                occurred_at=now(),
                role="web",
                peer_address=verdict.address,
                reason=f"a reader {words} with {verdict.label} {verdict.called}",
                studies=(verdict.token,),
            )
        )

    return WatchingQueries(
        alarms=lambda: list_alarms(database, only_on=True),
        recent_alarms=lambda: list_alarms(database),
        models=lambda: list_watched(database),
        reports=lambda: finding_reports(labelled_cases(database)),
        scanner_names=lambda: scanner_names(database),
        verdicts=lambda uid: last_verdicts(database, uid),
        give_verdict=give_verdict,
        names=settings.web.names,
    )
