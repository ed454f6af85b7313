"""The tables of what is watched: how models fare here, not what they answered.

No checksums: a damaged row shifts a statistic of hundreds by one study and is left out when it
cannot be read; no patient's answer is ever made from these, and they are removed by age.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    String,
    Table,
    UniqueConstraint,
)

from imaging_node.store.schema import Moment, metadata

scanners = Table(
    "scanners",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String, nullable=False, unique=True),
)

observations = Table(
    "observations",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("model", String, nullable=False),
    Column("model_digest", String, nullable=False),
    Column("study_instance_uid", String, nullable=False),
    Column("sop_instance_uid", String, nullable=False),
    Column("observed_at", Moment, nullable=False),
    Column("scanner_id", Integer, nullable=False),
    Column("view_position", String, nullable=False),
    Column("sex", String, nullable=False),
    Column("age_band", String, nullable=False),
    Column("outcome", String, nullable=False),
    Column("is_eligible", Boolean, nullable=False),
    Column("numbers", String, nullable=False),
    # An image that is answered again by the same model is the same image.
    UniqueConstraint("sop_instance_uid", "model_digest"),
    # No number comes twice, even once all rows have aged out: watching goes on behind the last one.
    sqlite_autoincrement=True,
)
Index("observations_by_study", observations.c.study_instance_uid)

watched_models = Table(
    "watched_models",
    metadata,
    Column("model_digest", String, primary_key=True),
    Column("model", String, nullable=False),
    Column("reference_source", String, nullable=False),
    Column("studies", Integer, nullable=False),
    Column("baseline_left", Integer, nullable=False),
    Column("seen_id", Integer, nullable=False),
    Column("state", LargeBinary, nullable=False),
    Column("summary", JSON, nullable=False),
    Column("updated_at", Moment, nullable=False),
)

alarms = Table(
    "alarms",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("model", String, nullable=False),
    Column("model_digest", String, nullable=False),
    Column("quantity", String, nullable=False),
    Column("group_kind", String, nullable=False),
    Column("group_value", String, nullable=False),
    Column("statistic", String, nullable=False),
    Column("value", Float, nullable=False),
    Column("threshold", Float, nullable=False),
    Column("raised_at", Moment, nullable=False),
    Column("raised_after", Integer, nullable=False),
    Column("cleared_at", Moment),
)
Index("alarms_by_model", alarms.c.model_digest, alarms.c.cleared_at)

# Never changed: the last row of a study, finding and source counts, those before are the history.
labels = Table(
    "labels",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("study_instance_uid", String, nullable=False),
    Column("label", String, nullable=False),
    Column("source", String, nullable=False),
    Column("is_present", Boolean, nullable=False),
    Column("called", String, nullable=False),
    Column("given_at", Moment, nullable=False),
)
Index("labels_by_study", labels.c.study_instance_uid)
