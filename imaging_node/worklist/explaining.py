"""The button on a study's page that asks for one more look at a finding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import RedirectResponse

from imaging_node.domain.explanation import ExplanationMethod
from imaging_node.worklist.watching import comes_from_own_page

if TYPE_CHECKING:
    from imaging_node.domain.records import WorklistRow
    from imaging_node.worklist.queries import WorklistQueries

METHOD_NAMES: Final = {
    ExplanationMethod.INTEGRATED_GRADIENTS: "Integrated Gradients",
    ExplanationMethod.GRADIENT_SHAP: "GradientShap",
    ExplanationMethod.OCCLUSION: "Occlusion",
    ExplanationMethod.GRAD_CAM: "Grad-CAM",
}
_SEE_OTHER, _FORBIDDEN, _NOT_FOUND, _BUSY = 303, 403, 404, 503


class ExplanationState(StrEnum):
    """What has become of an explanation that a reader asked for."""

    NONE = "none"
    DRAWING = "drawing"
    READY = "ready"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedExplanation:
    """One finding of one answer, by one method.

    Attributes:
        token: Of the study.
        index: Place of the finding in the answer.
        model, model_digest: Whose finding it is; "" where the answer does not say.
    """

    token: str
    generation: int
    index: int
    label: str
    method: ExplanationMethod
    model: str = ""
    model_digest: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplanationQueries:
    """Callables about explanations, from several threads.

    Attributes:
        is_possible: Whether this node can explain at all.
        names: Host names under which clicks are taken, beside localhost and addresses.
    """

    is_possible: bool
    state: Callable[[AskedExplanation], ExplanationState]
    ask: Callable[[AskedExplanation], bool]
    picture: Callable[[AskedExplanation], bytes | None]
    names: tuple[str, ...]


def explanations_of(
    row: WorklistRow, explaining: ExplanationQueries
) -> dict[int, list[tuple[AskedExplanation, ExplanationState]]]:
    """Every method for every evaluated finding of a study, by the finding's place."""
    if not explaining.is_possible or not row.study.state.is_final:
        return {}
    return {
        index: [
            (asked, explaining.state(asked))
            for method in ExplanationMethod
            for asked in [_asked(row, index, method)]
        ]
        for index, score in enumerate(row.findings)
        if score.probability is not None
    }


def add_explanations(
    app: FastAPI, queries: WorklistQueries, explaining: ExplanationQueries
) -> None:
    """Let readers ask for an explanation, and look at it."""

    def find(token: str, generation: int, index: int, method: str) -> AskedExplanation:
        row = queries.study(token)
        is_there = (
            row is not None
            and explaining.is_possible
            and method in METHOD_NAMES
            and row.study.generation == generation
            and 0 <= index < len(row.findings)
        )
        if row is None or not is_there:
            raise HTTPException(_NOT_FOUND, "no such finding or method; look at the page again")
        return _asked(row, index, ExplanationMethod(method))

    path = "/studies/{token}/{generation}/findings/{index}/explanations/{method}"

    @app.post(path, include_in_schema=False)
    def ask(token: str, generation: int, index: int, method: str, request: Request) -> Response:
        if not comes_from_own_page(request.headers, explaining.names):
            raise HTTPException(_FORBIDDEN, "not taken: the click did not come from this page")
        if not explaining.ask(find(token, generation, index, method)):
            raise HTTPException(_BUSY, "another explanation is being drawn; try again later")
        return RedirectResponse(f"/studies/{token}", status_code=_SEE_OTHER)

    @app.get(f"{path}.png", include_in_schema=False)
    def picture(token: str, generation: int, index: int, method: str) -> Response:
        drawn = explaining.picture(find(token, generation, index, method))
        if drawn is None:
            raise HTTPException(_NOT_FOUND, "not drawn yet")
        return Response(drawn, media_type="image/png")


def _asked(row: WorklistRow, index: int, method: ExplanationMethod) -> AskedExplanation:
    return AskedExplanation(
        token=row.token,
        generation=row.study.generation,
        index=index,
        label=row.findings[index].label,
        method=method,
        model=row.findings[index].model,
        model_digest=row.findings[index].model_digest,
    )
