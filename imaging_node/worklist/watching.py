"""What the page shows of watched models, and the one thing that its readers may change."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import RedirectResponse

from imaging_node.domain.finding import Presence
from imaging_node.domain.watching import DriftAlarm, FindingReport, WatchedModel

if TYPE_CHECKING:
    from imaging_node.domain.records import WorklistRow
    from imaging_node.worklist.queries import WorklistQueries

AGREE, DISAGREE = "agree", "disagree"
_SEE_OTHER, _FORBIDDEN, _NOT_FOUND, _CONFLICT = 303, 403, 404, 409


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a reader said of one call.

    Attributes:
        token: Of the study.
        is_present: What the finding is, by the reader.
        called: The call that stood there.
        address: IP address of the reader's machine, or of the proxy.
    """

    token: str
    study_instance_uid: str
    generation: int
    label: str
    agrees: bool
    is_present: bool
    called: str
    address: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchingQueries:
    """Callables about watched models, from several threads.

    Attributes:
        alarms: Those that are on.
        recent_alarms: Those, and the last ones that ended.
        models: Every model that is watched.
        reports: How often models were right.
        scanner_names: By number.
        verdicts: What readers said last of a study, by label: present or not, and the call then.
        give_verdict: Records one; the only thing that the page changes.
        names: Host names under which clicks are taken, beside localhost and addresses.
    """

    alarms: Callable[[], Sequence[DriftAlarm]]
    recent_alarms: Callable[[], Sequence[DriftAlarm]]
    models: Callable[[], Sequence[WatchedModel]]
    reports: Callable[[], Sequence[FindingReport]]
    scanner_names: Callable[[], Mapping[int, str]]
    verdicts: Callable[[str], Mapping[str, tuple[bool, str]]]
    give_verdict: Callable[[Verdict], None]
    names: tuple[str, ...]


def add_verdicts(app: FastAPI, queries: WorklistQueries, watching: WatchingQueries) -> None:
    """Let readers agree or disagree with a call: one click, and the last one counts."""

    @app.post("/studies/{token}/{generation}/findings/{index}/{verdict}", include_in_schema=False)
    def give_verdict(
        token: str, generation: int, index: int, verdict: str, request: Request
    ) -> Response:
        if not comes_from_own_page(request.headers, watching.names):
            raise HTTPException(
                _FORBIDDEN,
                "not taken: the click did not come from this page, or under a name that is not in"
                " web.names",
            )
        row = queries.study(token)
        if row is None or verdict not in (AGREE, DISAGREE):
            raise HTTPException(_NOT_FOUND, "no such study")
        called = _call(row, generation, index)
        agrees = verdict == AGREE
        watching.give_verdict(
            Verdict(
                token=token,
                study_instance_uid=row.study.study_instance_uid,
                generation=generation,
                label=row.findings[index].label,
                agrees=agrees,
                is_present=agrees == (called is Presence.PRESENT),
                called=called.value,
                address=request.client.host if request.client else "",
            )
        )
        return RedirectResponse(f"/studies/{row.token}", status_code=_SEE_OTHER)


def _call(row: WorklistRow, generation: int, index: int) -> Presence:
    """The call that a click speaks of."""
    if row.study.generation != generation or not 0 <= index < len(row.findings):
        raise HTTPException(
            _CONFLICT, "not taken: the study was answered anew; look at its page again"
        )
    called = row.findings[index].presence
    if called is Presence.UNDETERMINED:
        raise HTTPException(_CONFLICT, "not taken: the model called neither present nor absent")
    return called


def comes_from_own_page(headers: Mapping[str, str], names: Sequence[str]) -> bool:
    """Whether a request that changes something was made by a page of this node.

    The page has no login, so a foreign page in a reader's browser must not be able to speak for
    the reader: its requests carry its own `Origin`, which every browser sends with a POST. A
    foreign name that was made to lead to this address would be its own origin: only names that
    the site gave are taken, and addresses, which nobody can redirect.
    """
    try:
        origin = urlsplit(headers.get("origin", ""))
        name = (origin.hostname or "").lower()
    except ValueError:
        return False
    if origin.scheme not in ("http", "https") or not name:
        return False
    if headers.get("sec-fetch-site", "same-origin") != "same-origin":
        return False
    if name in {each.lower() for each in names}:
        return True  # perhaps through a proxy, which asks under another name
    is_local = name == "localhost" or _is_address(name)
    return is_local and origin.netloc.lower() == headers.get("host", "").lower()


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
