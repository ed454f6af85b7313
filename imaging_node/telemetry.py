"""PHI-free events and counters, both from closed word lists.

An event is one JSON line on standard error. Names, identifiers and UIDs of patients, studies
and instances never appear: a keyed hash stands for a UID.
"""

from __future__ import annotations

import hmac
import logging
import os
import secrets
import sys
import threading
import traceback
import warnings
from collections import Counter
from contextlib import suppress
from enum import StrEnum
from hashlib import sha256
from typing import TYPE_CHECKING, TextIO

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType


class Event(StrEnum):
    """Everything the node can say in its log."""

    ROLE_STARTED = "role started"
    ROLE_STOPPED = "role stopped"
    ROLE_DIED = "role died, will be restarted"
    ROLE_FAILED = "role failed"
    THREAD_FAILED = "thread failed"
    NODE_READY = "node ready"
    NODE_STOPPING = "node stopping"
    INSTANCE_ACCEPTED = "instance accepted"
    INSTANCE_DUPLICATE = "instance received again"
    INSTANCE_CHANGED = "instance received again with other bytes"
    OWN_RESULT_RETURNED = "own result came back, nothing to do"
    INSTANCE_REFUSED = "instance refused"
    ASSOCIATION_REFUSED = "association refused"
    ASSOCIATION_BROKEN = "association broken off"
    INSTANCE_QUARANTINED = "instance quarantined: its identity conflicts"
    STORAGE_LOW = "intake refuses: free space, inodes or queue beyond their limit"
    STORAGE_BACK = "intake accepts again"
    DURABILITY_LOST = "an fsync failed: the role stops and recovers"
    STUDY_CLAIMED = "study claimed"
    STUDY_ENDED = "study ended"
    STUDY_RESULT_DROPPED = "stale result dropped"
    STUDY_HANGS = "study hangs, the role ends itself"
    LAUNCH_FAULTY = "launch hangs or lost the accelerator, the role ends itself"
    PRECISION_REFUSED = "reduced precision not used"
    MODEL_SERVES = "model serves"
    MODEL_REFUSED = "model refused, what served before serves on"
    MODEL_STOPPED = "model taken out because of its launch"
    SHADOW_SKIPPED = "too many studies wait for models in shadow, one is not compared"
    STUDY_RETRY = "study will be tried again"
    REPORT_SHAPE_GIVEN_UP = "report encoded otherwise than highdicom builds it, built one is sent"
    CLAIMS_RELEASED = "claims of a dead worker released"
    COMMITMENT_ASKED = "storage commitment asked"
    COMMITMENT_IGNORED = "storage commitment report without effect"
    COMMITMENT_WANTED = "peer asks for storage commitment"
    COMMITMENT_REFUSED = "request for storage commitment refused"
    COMMITMENT_REPORTED = "storage commitment reported"
    COMMITMENT_REPORT_RETRY = "storage commitment will be reported again"
    COMMITMENT_REPORT_PARKED = "storage commitment report parked"
    CERTIFICATE_EXPIRES = "certificate expires soon"
    DELIVERY_DONE = "object delivered"
    DELIVERY_RETRY = "object will be sent again"
    DELIVERY_PARKED = "object parked"
    DATABASE_FAILED = "database failed"
    STATE_RECOVERED = "state directory verified and cleaned"
    PARTS_REMOVED = "unfinished files removed"
    FILES_REMOVED = "files that no row names removed"
    FILES_RESCUED = "files newer than the database moved to the folder of rescued files"
    FILES_MISSING = "kept files are missing"
    ROWS_DAMAGED = "rows are not what was written, set aside"
    DRIFT_BEGAN = "model watched: a change was noticed"
    DRIFT_ENDED = "model watched: a change is over"
    NEWCOMER_SEEN = "model watched: a scanner or view appeared that was not there before"
    REFERENCE_TAKEN = "model watched: the first studies here are its reference"
    REFERENCE_ACCEPTED = "model watched: the newest studies here are its reference"
    REFERENCE_RETURNED = "model watched: its bundle's reference counts again"
    WATCH_STATE_LOST = "model watched: what was known is unreadable, watching begins anew"
    STOP_RULE_ACTED = "stop rule moved a model to shadow"
    FOREIGN_FAILED = "foreign bundle failed: its own answer is missing or not analysed"
    EXPLANATION_FAILED = "explanation could not be drawn"
    VERDICT_GIVEN = "reader agreed or disagreed with a finding"
    LABELS_IMPORTED = "final labels imported"
    AUDIT_NOT_WRITTEN = "audit log cannot be written, events wait in memory"
    AUDIT_WRITTEN = "audit log is written again"
    AUDIT_LOST = "audit events lost"
    AUDIT_DAMAGED = "damaged lines of the audit log skipped"
    AUDIT_NOT_SHIPPED = "audit messages cannot be shipped, they wait in the log"
    AUDIT_SHIPPED = "audit messages are shipped again"


class Metric(StrEnum):
    """Everything a role counts; the metrics endpoint puts `imaging_node_` before each name."""

    INSTANCES = "instances_total"
    ASSOCIATIONS = "associations_total"
    REFUSED_ASSOCIATIONS = "associations_refused_total"
    ACCEPT_FAILURES = "accept_failures_total"
    THREAD_FAILURES = "thread_failures_total"
    STUDIES = "studies_ended_total"
    DELIVERIES = "deliveries_total"
    SCORED_IMAGES = "images_scored_total"
    MODELS = "models_loaded_total"
    SHADOW_RESULTS = "shadow_results_total"
    SHADOW_SKIPPED = "shadow_skipped_total"
    LAUNCHES = "launches_total"
    LAUNCHED_IMAGES = "launched_images_total"


# Fields an event may carry: nothing here can hold text that came from a dataset.
FIELDS = frozenset(
    {
        "role", "pid", "exit_code", "wait_s", "study", "instance", "status", "reason", "state",
        "generation", "attempts", "priority", "model", "images", "seconds", "destination",
        "objects", "error", "where", "count", "address", "port", "ae_title", "page", "version",
        "bytes", "transfer_syntax", "quantity", "group", "statistic", "value", "threshold",
    }
)  # fmt: skip


class Pseudonyms:
    """Keyed hashes that stand for UIDs in logs, URLs and file names."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def token(self, uid: str) -> str:
        """16 hex digits, the same for the same UID on this node, meaningless elsewhere."""
        return hmac.new(self._key, uid.encode(), sha256).hexdigest()[:16]


def read_or_create_key(path: Path) -> bytes:
    """The node's hash key of 32 bytes, created once and readable by its user only.

    It is durable before it is used: with another key after a power failure no token of the
    log could be followed to its study.
    """
    if not path.exists():
        scratch = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
        scratch.touch(mode=0o600)
        try:
            with scratch.open("wb") as file:
                file.write(secrets.token_bytes(32))
                file.flush()
                os.fsync(file.fileno())
            path.hardlink_to(scratch)  # atomic, and the first of several roles wins
        except FileExistsError:
            pass
        finally:
            scratch.unlink()
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    return path.read_bytes()


class Counters:
    """Counts of one role process, by metric name and labels; safe among threads."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def add(self, metric: Metric, amount: float = 1, **labels: str) -> None:
        """Count `amount` more of `metric` with `labels`, whose values come from closed lists."""
        text = ",".join(f'{name}="{value}"' for name, value in sorted(labels.items()))
        with self._lock:
            self._counts[f"{metric}{{{text}}}" if text else str(metric)] += amount  # type: ignore[assignment]  # Counter is typed for int only

    def snapshot(self) -> dict[str, float]:
        """All counts so far."""
        with self._lock:
            return dict(self._counts)


def log(event: Event, /, **fields: object) -> None:
    """Write one event; lost when it cannot be written, because the work goes on without.

    Raises:
        ValueError: A field is not in the closed list.
    """
    unknown = set(fields) - FIELDS
    if unknown:
        raise ValueError(f"event {event.name} may not carry {sorted(unknown)}")
    with suppress(OSError):  # a full disk, or a reader that is gone
        structlog.get_logger().info(str(event), **fields)


def configure_logging(role: str, *, stream: TextIO = sys.stderr) -> None:
    """Send events as JSON lines to `stream` and silence what libraries would print.

    Libraries quote element values in their messages and warnings: none of them may speak.
    """
    structlog.configure(
        processors=[
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=lambda: _LineLogger(stream),
        cache_logger_on_first_use=True,
    )
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    sys.excepthook = _say_what_failed(role)
    threading.excepthook = lambda failure: log(
        Event.THREAD_FAILED,
        role=role,
        error=failure.exc_type.__name__,
        where=place_of(failure.exc_traceback),
    )


class _LineLogger:
    """Writes each line with its end in one call: all roles write to one stream.

    Past the stream's buffer, whose lock the threads of associations would wait for.
    """

    def __init__(self, stream: TextIO) -> None:
        try:
            descriptor = stream.fileno()
        except OSError:  # it lies in memory
            self._write: Callable[[str], object] = stream.write
        else:
            self._write = lambda line: os.write(descriptor, line.encode())

    def info(self, line: str) -> None:
        self._write(f"{line}\n")


def _say_what_failed(
    role: str,
) -> Callable[[type[BaseException], BaseException, TracebackType | None], None]:
    def hook(kind: type[BaseException], _: BaseException, trace: TracebackType | None) -> None:
        log(Event.ROLE_FAILED, role=role, error=kind.__name__, where=place_of(trace))

    return hook


def place_of(trace: TracebackType | None) -> str:
    """Module and line where an exception was raised: its text may quote a dataset."""
    frames = traceback.extract_tb(trace)
    if not frames:
        return "unknown"
    last = frames[-1]
    return f"{last.filename.rsplit('/', 2)[-2]}/{last.filename.rsplit('/', 1)[-1]}:{last.lineno}"
