"""The promises of the node, checked on what a crash and a restart have left.

I1 conservation: what was acknowledged is in a delivered result or visibly failed.
I2 bytes: what is kept is what was sent.
I3 identity: no SOP Instance UID was sent with two contents.
I4 uniqueness: one SR for each version of a study.
I5 durability: nothing was acknowledged before it was durable.
"""

from __future__ import annotations

import sqlite3
from collections import Counter, defaultdict
from contextlib import closing
from hashlib import sha256
from typing import TYPE_CHECKING

from crash.films import dataset_bytes
from imaging_node.store.content_digest import digest_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from pathlib import Path

    from crash.films import SentInstance
    from imaging_node.dicom.pacs import StoredByPacs

_KEY_BYTES = 32


def check(
    state: Path,
    files: Sequence[SentInstance],
    acknowledged: Collection[str],
    stored: Sequence[StoredByPacs],
    *,
    may_decline: bool = False,
) -> list[str]:
    """Every broken promise, at quiescence.

    Args:
        state: The state directory; no process uses it any more.
        files: All that the sender has.
        acknowledged: SOP Instance UIDs that it need not send again.
        stored: What the PACS was sent, in order.
        may_decline: A study may also have ended as not analysed: its worker was killed so often
            that the node took it for the cause.
    """
    with closing(sqlite3.connect(state / "node.sqlite")) as connection:
        connection.row_factory = sqlite3.Row
        [integrity] = connection.execute("PRAGMA integrity_check").fetchone()
        if integrity != "ok":
            return [f"the database is damaged: {integrity[:80]}"]
        return [
            *_conservation(connection, files, acknowledged, stored, may_decline=may_decline),
            *_bytes(connection, state, files, acknowledged),
            *_identity(connection, state, stored),
            *_uniqueness(connection, stored),
            *_key(state),
        ]


def missing(acknowledged: Collection[str], kept: Collection[str]) -> list[str]:
    """I5: what was acknowledged before the crash and is not kept after it."""
    lost = sorted(set(acknowledged) - set(kept))
    return [f"I5: acknowledged and not kept: {uid}" for uid in lost]


def _conservation(
    connection: sqlite3.Connection,
    files: Sequence[SentInstance],
    acknowledged: Collection[str],
    stored: Sequence[StoredByPacs],
    *,
    may_decline: bool,
) -> Iterator[str]:
    states = {row["study_instance_uid"]: row for row in connection.execute("SELECT * FROM studies")}
    parked = connection.execute("SELECT count(*) FROM deliveries WHERE state != 'delivered'")
    [undelivered] = parked.fetchone()
    if undelivered:
        yield f"I1: {undelivered} objects were not delivered"
    for each in files:
        uid = each.sop_instance_uid
        if uid not in acknowledged:
            yield f"I1: the node refused to the end: {uid}"
            continue
        study = states.get(each.study_instance_uid)
        expected = "done" if each.is_scored else "not_applicable"
        is_declined = may_decline and study is not None and study["state"] == "not_analysed"
        if not is_declined and (study is None or study["state"] != expected):
            found = "no row" if study is None else f"{study['state']} ({study['reason']})"
            yield f"I1: the study of {uid} ended as {found}, not {expected}"
            continue
        reports = [
            report.payload
            for report in stored
            if report.is_report and report.study_instance_uid == each.study_instance_uid
        ]
        # The latest SR names all instances of its study as evidence.
        if not reports or uid.encode() not in reports[-1]:
            yield f"I1: no delivered report names {uid}"
        has_capture = any(
            other.study_instance_uid == each.study_instance_uid and not other.is_report
            for other in stored
        )
        if each.is_scored and not is_declined and not has_capture:
            yield f"I1: no capture was delivered for {uid}"


def _bytes(
    connection: sqlite3.Connection,
    state: Path,
    files: Sequence[SentInstance],
    acknowledged: Collection[str],
) -> Iterator[str]:
    for each in files:
        rows = connection.execute(
            "SELECT digest FROM instances WHERE sop_instance_uid = ?", (each.sop_instance_uid,)
        ).fetchall()
        if len(rows) > 1:
            yield f"I2: {len(rows)} contents of {each.sop_instance_uid}, one was sent"
        if each.sop_instance_uid not in acknowledged:
            continue
        for row in rows:
            content = _spooled(state, row["digest"])
            if content is None or not content.endswith(each.content):
                yield f"I2: the file of {each.sop_instance_uid} is not what was sent"


def _identity(
    connection: sqlite3.Connection, state: Path, stored: Sequence[StoredByPacs]
) -> Iterator[str]:
    contents = defaultdict(set)
    for each in stored:
        contents[each.sop_instance_uid].add(sha256(dataset_bytes(each.payload)).hexdigest())
    recorded = {
        row["sop_instance_uid"]: row["digest"]
        for row in connection.execute("SELECT * FROM objects")
    }
    for uid, digests in contents.items():
        if len(digests) > 1:
            yield f"I3: {uid} was sent with {len(digests)} contents"
        if uid not in recorded:
            yield f"I3: {uid} was sent and is not recorded"
            continue
        content = _spooled(state, recorded[uid])
        if content is None or sha256(dataset_bytes(content)).hexdigest() not in digests:
            yield f"I3: {uid} was sent with another content than is kept"


def _uniqueness(connection: sqlite3.Connection, stored: Sequence[StoredByPacs]) -> Iterator[str]:
    answers = Counter(
        (row["study_instance_uid"], row["generation"], row["model"])
        for row in connection.execute("SELECT * FROM results")
    )
    for (study, generation, _), count in answers.items():
        if count > 1:
            yield f"I4: {count} reports of version {generation} of {study}"
    sent = {each.sop_instance_uid for each in stored if each.is_report}
    if len(sent) != sum(answers.values()):
        yield f"I4: {len(sent)} reports were sent, {sum(answers.values())} are recorded"


def _key(state: Path) -> Iterator[str]:
    """The key of the pseudonyms: with another one no token could be followed over a restart."""
    key = state / "hash.key"
    if not key.exists() or key.stat().st_size != _KEY_BYTES:
        yield "the key of the pseudonyms was lost"


def _spooled(state: Path, digest: str) -> bytes | None:
    path = state / "spool" / digest[:2] / f"{digest}.dcm"
    content = path.read_bytes() if path.exists() else b""
    return content if digest_of(content) == digest else None
