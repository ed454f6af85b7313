"""The tables: the contract between the roles.

A table with a column `checksum` has it kept and verified row by row; see `checksums`.
"""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    TypeDecorator,
    UniqueConstraint,
    text,
)

from imaging_node.domain.lifecycle import DeliveryState, StudyState
from imaging_node.domain.model_state import ModelState
from imaging_node.domain.priority import ReadingPriority

SCHEMA_VERSION = 3

CLAIMABLE = (StudyState.RECEIVING, StudyState.QUEUED, StudyState.SCORING)
"""States of a study that is not at its end."""


class Moment(TypeDecorator[datetime]):
    """A timezone-aware time, kept as microseconds since 1970 UTC: one clock, cheap to compare."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:  # noqa: ARG002 - SQLAlchemy's signature
        """Microseconds for the database."""
        return None if value is None else round(value.timestamp() * 1_000_000)

    def process_result_value(self, value: int | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002 - SQLAlchemy's signature
        """UTC time for the caller."""
        return None if value is None else datetime.fromtimestamp(value / 1_000_000, UTC)


metadata = MetaData()

UNSEALED = {"is_sealed": False}
"""Marks a column that its row's checksum leaves out."""


def _one_of(
    column: str, words: type[StudyState | DeliveryState | ReadingPriority | ModelState]
) -> str:
    return f"{column} in ({', '.join(repr(str(word)) for word in words)})"


node = Table(
    "node",
    metadata,
    Column("key", String, primary_key=True),
    Column("value", String, nullable=False),
)

studies = Table(
    "studies",
    metadata,
    Column("study_instance_uid", String, primary_key=True),
    Column("patient_digest", String, nullable=False),
    Column("accession_number", String, nullable=False),
    Column("study_at", Moment),
    Column("state", String, nullable=False),
    Column("reason", String, nullable=False, default=""),
    Column("generation", Integer, nullable=False, default=1),
    Column("ordered_priority", String, nullable=False),
    Column("priority", String, nullable=False),
    Column("priority_reason", String, nullable=False, default="as ordered"),
    Column("urgency", Integer, nullable=False, default=0),
    Column("is_archive", Boolean, nullable=False, default=False),
    Column("attempts", Integer, nullable=False, default=0),
    Column("due_at", Moment, nullable=False),
    Column("claim_token", String, nullable=False, default=""),
    Column("claimed_by", String, nullable=False, default=""),
    Column("received_at", Moment, nullable=False),
    Column("finished_at", Moment),
    Column("findings", JSON, nullable=False, default=list),
    Column("remarks", JSON, nullable=False, default=list),
    # Kept by triggers: a row of the study that cannot be found any more is missed. The rows
    # prove the counts, which change with every instance: the checksum leaves them out.
    Column("instances_rows", Integer, nullable=False, default=0, info=UNSEALED),
    Column("results_rows", Integer, nullable=False, default=0, info=UNSEALED),
    Column("objects_rows", Integer, nullable=False, default=0, info=UNSEALED),
    Column("checksum", Integer),
    CheckConstraint(_one_of("state", StudyState), name="study_state_is_known"),
    CheckConstraint(_one_of("priority", ReadingPriority), name="priority_is_known"),
)
Index("studies_by_accession", studies.c.accession_number)
Index("studies_by_due", studies.c.state, studies.c.due_at)
# The most urgent of any number that wait is found without looking at the others.
Index(
    "studies_by_rank",
    studies.c.is_archive,
    studies.c.urgency,
    studies.c.due_at,
    sqlite_where=text(f"state IN ({', '.join(repr(str(each)) for each in CLAIMABLE)})"),
)

instances = Table(
    "instances",
    metadata,
    # Chosen by SQLite when the row is written: not known yet to whoever computes its checksum.
    # `PRAGMA integrity_check` tells of row ids out of order.
    Column("id", Integer, primary_key=True, info=UNSEALED),
    Column("study_instance_uid", String, ForeignKey("studies.study_instance_uid"), nullable=False),
    Column("series_instance_uid", String, nullable=False),
    Column("sop_instance_uid", String, nullable=False),
    Column("sop_class_uid", String, nullable=False),
    Column("transfer_syntax_uid", String, nullable=False),
    Column("digest", String, nullable=False),
    Column("path", String, nullable=False),
    Column("header", JSON, nullable=False),
    Column("calling_ae_title", String, nullable=False),
    Column("received_at", Moment, nullable=False),
    Column("checksum", Integer),
    UniqueConstraint("study_instance_uid", "sop_instance_uid", "digest"),
)
Index("instances_by_sop", instances.c.sop_instance_uid)

results = Table(
    "results",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("study_instance_uid", String, ForeignKey("studies.study_instance_uid"), nullable=False),
    Column("generation", Integer, nullable=False),
    Column("model", String, nullable=False),
    Column("model_digest", String, nullable=False),
    Column("report_series_instance_uid", String, nullable=False),
    Column("report_sop_class_uid", String, nullable=False),
    Column("report_sop_instance_uid", String, nullable=False),
    Column("recorded_at", Moment, nullable=False),
    Column("checksum", Integer),
)
Index("results_by_study", results.c.study_instance_uid)

objects = Table(
    "objects",
    metadata,
    Column("sop_instance_uid", String, primary_key=True),
    Column("sop_class_uid", String, nullable=False),
    Column("series_instance_uid", String, nullable=False),
    Column("transfer_syntax_uid", String, nullable=False),
    Column("study_instance_uid", String, ForeignKey("studies.study_instance_uid"), nullable=False),
    Column("generation", Integer, nullable=False),
    Column("kind", String, nullable=False),
    Column("label", String, nullable=False),
    Column("digest", String, nullable=False),
    Column("recorded_at", Moment, nullable=False),
    Column("checksum", Integer),
)
Index("objects_by_study", objects.c.study_instance_uid, objects.c.generation)

series = Table(
    "series",
    metadata,
    Column("series_instance_uid", String, primary_key=True),
    Column("started_at", Moment, nullable=False),
    Column("checksum", Integer),
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("sop_instance_uid", String, ForeignKey("objects.sop_instance_uid"), nullable=False),
    Column("study_instance_uid", String, nullable=False),
    Column("destination", String, nullable=False),
    Column("state", String, nullable=False),
    Column("urgency", Integer, nullable=False, default=0),
    Column("attempts", Integer, nullable=False, default=0),
    Column("last_status", String, nullable=False, default=""),
    Column("next_attempt_at", Moment),
    Column("claimed_by", String, nullable=False, default=""),
    Column("delivered_at", Moment),
    Column("checksum", Integer),
    UniqueConstraint("sop_instance_uid", "destination"),
    CheckConstraint(_one_of("state", DeliveryState), name="delivery_state_is_known"),
)
Index("deliveries_by_due", deliveries.c.state, deliveries.c.next_attempt_at)
Index(
    "deliveries_by_rank",
    deliveries.c.destination,
    deliveries.c.urgency.desc(),
    deliveries.c.id,
    sqlite_where=text(f"state = '{DeliveryState.WAITING}'"),
)
Index("deliveries_by_study", deliveries.c.study_instance_uid)

quarantine = Table(
    "quarantine",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("study_instance_uid", String, nullable=False),
    Column("series_instance_uid", String, nullable=False),
    Column("sop_instance_uid", String, nullable=False),
    Column("sop_class_uid", String, nullable=False),
    Column("transfer_syntax_uid", String, nullable=False),
    Column("accession_number", String, nullable=False),
    Column("patient_digest", String, nullable=False),
    Column("digest", String, nullable=False),
    Column("reason", String, nullable=False),
    Column("calling_ae_title", String, nullable=False),
    Column("received_at", Moment, nullable=False),
    Column("checksum", Integer),
    UniqueConstraint("study_instance_uid", "sop_instance_uid", "digest"),
)

# Rows found not to be what was written. They stay as they are for whoever repairs them; nothing
# works on them.
damaged_rows = Table(
    "damaged_rows",
    metadata,
    Column("table_name", String, primary_key=True),
    Column("row_id", Integer, primary_key=True),
    Column("noticed_at", Moment, nullable=False),
)

transitions = Table(
    "transitions",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("subject", String, nullable=False),
    Column("state", String, nullable=False),
    Column("reason", String, nullable=False),
    Column("moved_by", String, nullable=False),
    Column("moved_at", Moment, nullable=False),
)

roles = Table(
    "roles",
    metadata,
    Column("role", String, primary_key=True),
    Column("pid", Integer, nullable=False),
    Column("started_at", Moment, nullable=False),
    Column("heartbeat_at", Moment, nullable=False),
    Column("counters", JSON, nullable=False),
)

# Storage commitment (PS3.4 Annex J): what we asked of peers, and what we owe to peers.
commitment_requests = Table(
    "commitment_requests",
    metadata,
    Column("transaction_uid", String, primary_key=True),
    Column("destination", String, nullable=False),
    Column("asked_at", Moment, nullable=False),
    Column("reported_at", Moment),
    Column("checksum", Integer),
)

commitment_items = Table(
    "commitment_items",
    metadata,
    Column("id", Integer, primary_key=True),
    Column(
        "transaction_uid",
        String,
        ForeignKey("commitment_requests.transaction_uid"),
        nullable=False,
    ),
    Column("delivery_id", Integer, ForeignKey("deliveries.id"), nullable=False),
    Column("has_failed", Boolean, nullable=False, default=False),
    Column("checksum", Integer),
    UniqueConstraint("transaction_uid", "delivery_id"),
)
Index("commitment_items_by_delivery", commitment_items.c.delivery_id)

commitment_reports = Table(
    "commitment_reports",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("calling_ae_title", String, nullable=False),
    Column("transaction_uid", String, nullable=False),
    Column("noted_at", Moment, nullable=False),
    Column("wanted", JSON, nullable=False),
    Column("failed", JSON),
    Column("state", String, nullable=False),
    Column("attempts", Integer, nullable=False, default=0),
    Column("last_status", String, nullable=False, default=""),
    Column("next_attempt_at", Moment),
    Column("claimed_by", String, nullable=False, default=""),
    Column("checksum", Integer),
    UniqueConstraint("calling_ae_title", "transaction_uid"),
    CheckConstraint(_one_of("state", DeliveryState), name="commitment_report_state_is_known"),
)
Index(
    "commitment_reports_by_due",
    commitment_reports.c.calling_ae_title,
    commitment_reports.c.state,
    commitment_reports.c.next_attempt_at,
)

# What was decided about bundles. One that no command has changed has no row: settings and the
# bundle itself say its state.
model_states = Table(
    "model_states",
    metadata,
    Column("bundle", String, primary_key=True),
    Column("name", String, nullable=False),
    Column("state", String, nullable=False),
    Column("share_ppm", Integer, nullable=False),
    Column("manifest_digest", String, nullable=False),
    Column("replaced", String, nullable=False),
    # What the scorer met; no decision, so it changes beside them.
    Column("fault", String, nullable=False, default=""),
    Column("changed_at", Moment, nullable=False),
    Column("trusted_code", String, nullable=False, default=""),
    Column("checksum", Integer),
    CheckConstraint(_one_of("state", ModelState), name="model_state_is_known"),
)

# The number of the last one is the revision that the scorer looks at.
model_changes = Table(
    "model_changes",
    metadata,
    Column("id", Integer, primary_key=True, info=UNSEALED),
    Column("bundle", String, nullable=False),
    Column("action", String, nullable=False),
    Column("former", String, nullable=False),
    Column("state", String, nullable=False),
    Column("share_ppm", Integer, nullable=False),
    Column("manifest_digest", String, nullable=False),
    Column("reason", String, nullable=False),
    Column("changed_by", String, nullable=False),
    Column("changed_at", Moment, nullable=False),
    Column("checksum", Integer),
)

# Scores that are compared and never delivered; and, beside them, those that were.
shadow_results = Table(
    "shadow_results",
    metadata,
    Column("id", Integer, primary_key=True, info=UNSEALED),
    Column("study_instance_uid", String, ForeignKey("studies.study_instance_uid"), nullable=False),
    Column("generation", Integer, nullable=False),
    Column("model", String, nullable=False),
    Column("version", String, nullable=False),
    Column("model_digest", String, nullable=False),
    Column("settings_digest", String, nullable=False),
    Column("is_delivered", Boolean, nullable=False),
    Column("status", String, nullable=False),
    Column("reason", String, nullable=False),
    Column("findings", JSON, nullable=False),
    # Of a foreign bundle, which scores nothing: volumes, or numbers on a scale of its own.
    Column("labels", JSON, nullable=False, default=list),
    Column("priority", String, nullable=False),
    Column("duration_ms", Integer, nullable=False),
    Column("recorded_at", Moment, nullable=False),
    Column("checksum", Integer),
)
Index("shadow_results_by_study", shadow_results.c.study_instance_uid)
Index("shadow_results_by_time", shadow_results.c.recorded_at)
