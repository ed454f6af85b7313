"""The worklist in a browser, and what a machine asks: health, readiness, metrics, rows as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException as StarletteHTTPException

from imaging_node.domain.lifecycle import DeliveryState
from imaging_node.domain.watching import VERIFICATION_NOTE
from imaging_node.worklist import alarm_words, wording
from imaging_node.worklist.explaining import (
    METHOD_NAMES,
    ExplanationQueries,
    add_explanations,
    explanations_of,
)
from imaging_node.worklist.metrics import metrics_text
from imaging_node.worklist.readiness import Readiness, readiness
from imaging_node.worklist.watching import add_verdicts

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from imaging_node.domain.records import DeliveryRecord, QuarantinedInstance, WorklistRow
    from imaging_node.worklist.queries import WorklistQueries
    from imaging_node.worklist.watching import WatchingQueries

_FOLDER = Path(__file__).parent
_SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; img-src 'self'; script-src 'self';"
        " base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # "no-referrer" would take the origin from our own forms; nothing links elsewhere.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_SHOWN_DELIVERIES = 500
_SHOWN_QUARANTINED = 50
_FOUND, _NOT_FOUND, _UNAVAILABLE = 200, 404, 503


def create_app(
    queries: WorklistQueries,
    watching: WatchingQueries,
    explaining: ExplanationQueries | None = None,
) -> FastAPI:
    """Build the application over queries; whoever starts it owns the socket.

    Args:
        explaining: Draws explanations on demand; None offers none.
    """
    # The interactive documentation would fetch its scripts from elsewhere.
    app = FastAPI(title="imaging-node", docs_url=None, redoc_url=None)
    app.mount("/static", StaticFiles(directory=_FOLDER / "static"), name="static")
    _guard(app)
    _add_pages(app, queries, watching, explaining)
    add_verdicts(app, queries, watching)
    if explaining is not None:
        add_explanations(app, queries, explaining)
    _add_machine_interface(app, queries, watching)
    return app


def row_as_json(row: WorklistRow) -> dict[str, Any]:
    """One worklist row for programs."""
    study = row.study
    return {
        "rank": row.rank,
        "study_instance_uid": study.study_instance_uid,
        "accession_number": study.accession_number,
        "study_at": study.study_at,
        "state": study.state,
        "reason": study.reason,
        "generation": study.generation,
        "priority": study.priority,
        "priority_reason": row.priority_reason,
        "received_at": study.received_at,
        "finished_at": study.finished_at,
        "instances": study.instances,
        "findings": [
            {
                "label": score.label,
                "model": score.model,
                "probability": score.probability,
                "interval": score.interval,
                "spread": score.spread,
                "operating_point": score.operating_point,
                "presence": score.presence,
            }
            for score in row.findings
        ],
        "remarks": row.remarks,
        "deliveries": row.deliveries,
        "page": f"/studies/{row.token}",
        "captures": [f"/captures/{each.token}.png" for each in row.captures],
    }


def _guard(app: FastAPI) -> None:
    @app.middleware("http")
    async def add_security_headers(
        request: Request, call_next: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        response = await call_next(request)
        for name, value in _SECURITY_HEADERS.items():
            response.headers[name] = value
        return response

    @app.exception_handler(StarletteHTTPException)
    async def answer_in_words(request: Request, error: StarletteHTTPException) -> Response:
        wants_page = "text/html" in request.headers.get("accept", "")
        if error.status_code == _NOT_FOUND and wants_page:
            text = _environment().get_template("not_found.html").render()
            return Response(text, status_code=_NOT_FOUND, media_type="text/html")
        return JSONResponse({"detail": error.detail}, status_code=error.status_code)


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_FOLDER / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        state_badges=wording.STATE_BADGES,
        call_badges=wording.CALL_BADGES,
        priority_badges=wording.PRIORITY_BADGES,
        delivery_badges=wording.DELIVERY_BADGES,
        duration=wording.duration,
        object_name=wording.object_name,
        clock=wording.clock,
        quarantine_badge=wording.QUARANTINE_BADGE,
        since=wording.since,
        probability=wording.probability,
        interval=wording.interval,
        share=wording.share,
        few=wording.FEWER,
        quantity_words=alarm_words.quantity_words,
        change_words=alarm_words.change_words,
        group_words=alarm_words.group_words,
        for_readers=alarm_words.FOR_READERS,
        for_operators=alarm_words.FOR_OPERATORS,
        verification_note=VERIFICATION_NOTE,
    )
    return environment


def _add_pages(
    app: FastAPI,
    queries: WorklistQueries,
    watching: WatchingQueries,
    explaining: ExplanationQueries | None,
) -> None:
    environment = _environment()

    def page(template: str, **values: object) -> Response:
        text = environment.get_template(f"{template}.html").render(
            now=queries.now(), current=template, **values
        )
        return Response(text, media_type="text/html")

    @app.get("/", include_in_schema=False)
    def worklist() -> Response:
        rows = sorted(queries.worklist(), key=lambda row: row.rank)
        counts = queries.counts()
        hidden = max(0, sum(counts.studies.values()) - len(rows))
        return page(
            "worklist",
            rows=rows,
            hidden=hidden,
            counts=counts,
            quarantined=_newest(queries.quarantined()),
            state=_state_of(queries),
            bands=alarm_words.bands(watching.alarms()),
        )

    @app.get("/watching", include_in_schema=False)
    def watching_page() -> Response:
        return page(
            "watching",
            bands=alarm_words.bands(watching.alarms()),
            models=watching.models(),
            alarms=watching.recent_alarms(),
            reports=watching.reports(),
            scanners=watching.scanner_names(),
        )

    @app.get("/studies/{token}", include_in_schema=False)
    def study(token: str) -> Response:
        row = queries.study(token)
        if row is None:
            raise HTTPException(_NOT_FOUND, "no such study")
        uid = row.study.study_instance_uid
        deliveries = [each for each in queries.deliveries() if each.study_instance_uid == uid]
        return page(
            "study",
            row=row,
            deliveries=deliveries,
            verdicts=watching.verdicts(uid),
            explanations={} if explaining is None else explanations_of(row, explaining),
            methods=METHOD_NAMES,
        )

    @app.get("/deliveries", include_in_schema=False)
    def deliveries() -> Response:
        studies = {row.study.study_instance_uid: row for row in queries.worklist()}
        records = sorted(queries.deliveries(), key=_attention)
        return page(
            "deliveries",
            deliveries=records[:_SHOWN_DELIVERIES],
            hidden=max(0, len(records) - _SHOWN_DELIVERIES),
            studies=studies,
        )

    @app.get("/captures/{token}.png", include_in_schema=False)
    def capture(token: str) -> Response:
        picture = queries.capture_png(token)
        if picture is None:
            raise HTTPException(_NOT_FOUND, "no such capture")
        return Response(picture, media_type="image/png")


def _newest(quarantined: Sequence[QuarantinedInstance]) -> list[QuarantinedInstance]:
    """Those of which nobody knows when they came first, then the newest, not too many."""
    known = [each for each in quarantined if each.received_at is not None]
    unknown = [each for each in quarantined if each.received_at is None]
    return [*unknown, *reversed(known)][:_SHOWN_QUARANTINED]


def _attention(delivery: DeliveryRecord) -> tuple[int, int]:
    """Parked first, then what is under way, then delivered; of each the newest first."""
    order = (
        DeliveryState.PARKED,
        DeliveryState.WAITING,
        DeliveryState.STORED,
        DeliveryState.DELIVERED,
    )
    return order.index(delivery.state), -delivery.id


def _state_of(queries: WorklistQueries) -> Readiness:
    return readiness(
        queries.roles(),
        required_roles=queries.required_roles,
        is_database_writable=queries.is_database_writable(),
        now=queries.now(),
    )


def _add_machine_interface(
    app: FastAPI, queries: WorklistQueries, watching: WatchingQueries
) -> None:
    @app.get("/api/worklist")
    def worklist_rows() -> list[dict[str, Any]]:
        """Every study, the one to read first first."""
        return [row_as_json(row) for row in sorted(queries.worklist(), key=lambda row: row.rank)]

    @app.get("/healthz")
    def health() -> dict[str, str]:
        """The page's process is alive; nothing else is asked."""
        return {"status": "alive"}

    @app.get("/readyz")
    def ready() -> JSONResponse:
        """200 when every required role reports and the database is writable, else 503."""
        state = _state_of(queries)
        return JSONResponse(
            {"ready": state.is_ready, "missing": list(state.missing)},
            status_code=_FOUND if state.is_ready else _UNAVAILABLE,
        )

    @app.get("/metrics")
    def metrics() -> Response:
        """Counts and ages in the Prometheus text format."""
        text = metrics_text(queries, watching, is_ready=_state_of(queries).is_ready)
        return Response(text, media_type=CONTENT_TYPE_LATEST)
