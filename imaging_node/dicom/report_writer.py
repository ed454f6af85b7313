"""Reports whose trees are encoded directly, as long as that gives the bytes that are built."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from imaging_node.dicom.encoded_content import content_shape, encoded_content
from imaging_node.dicom.encoding import PARSE_ERRORS
from imaging_node.dicom.report import build_report, built_content
from imaging_node.telemetry import Event, log

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from imaging_node.dicom.source import SourceHeader
    from imaging_node.domain.finding import StudyResult
    from imaging_node.domain.result_object import ResultContext, ResultObject

    Content = Callable[
        [Sequence[SourceHeader], StudyResult, ResultContext, Sequence[ResultObject]],
        dict[int, bytes],
    ]

_MOST_SHAPES = 4096
_CHECK_EVERY = 500


class ReportWriter:
    """Writes reports; knows for which shapes of tree the direct way has been held to account.

    The first tree of each shape, and every so many trees after it, is also built with highdicom.
    Where the two differ, the built tree is sent, and its shape is built from then on.
    """

    def __init__(
        self, *, encode: Content = encoded_content, check_every: int = _CHECK_EVERY
    ) -> None:
        """Start with no shape proven.

        Args:
            encode: The direct way.
            check_every: Trees of all shapes between two that are built as well; 0: only the
                first of each shape.
        """
        self._encode = encode
        self._check_every = check_every
        self._lock = threading.Lock()
        self._is_same: dict[tuple[object, ...], bool] = {}
        self._written = 0

    def write(
        self,
        *,
        sources: Sequence[SourceHeader],
        result: StudyResult,
        context: ResultContext,
        captures: Sequence[ResultObject],
    ) -> ResultObject:
        """The report that `build_report` makes from the same arguments; many threads may call.

        Raises:
            As `build_report`.
        """
        return build_report(
            sources=sources,
            result=result,
            context=context,
            captures=captures,
            content=self._content,
        )

    def _content(
        self,
        sources: Sequence[SourceHeader],
        result: StudyResult,
        context: ResultContext,
        captures: Sequence[ResultObject],
    ) -> dict[int, bytes]:
        shape = content_shape(sources, result, captures)
        with self._lock:
            self._written += 1
            is_due = self._check_every > 0 and self._written % self._check_every == 0
            is_same = self._is_same.get(shape) if shape is not None else False
        if shape is None or is_same is False:
            return built_content(sources, result, context, captures)
        encoded: dict[int, bytes] | None
        try:
            encoded = self._encode(sources, result, context, captures)
        except PARSE_ERRORS:
            encoded = None  # whether there is a report at all is the builder's to say
        if encoded is not None and is_same and not is_due:
            return encoded
        built = built_content(sources, result, context, captures)
        self._note(shape, is_same=encoded == built)
        return built

    def _note(self, shape: tuple[object, ...], *, is_same: bool) -> None:
        with self._lock:
            if shape not in self._is_same and len(self._is_same) >= _MOST_SHAPES:
                # More shapes than any site has: prove them again, but for those given up.
                self._is_same = {each: False for each, was in self._is_same.items() if not was}
            self._is_same[shape] = is_same and self._is_same.get(shape, True)
        if not is_same:
            log(Event.REPORT_SHAPE_GIVEN_UP, count=1)
