"""Rows about models for the tests."""

from __future__ import annotations

from typing import Any

from imaging_node.domain.finding import AnalysisStatus, FindingScore
from imaging_node.domain.model_state import ModelAction, ModelChange, ModelRow, ModelState
from imaging_node.domain.priority import ReadingPriority
from imaging_node.store.shadow_results import ShadowResult
from tests.store.arriving import NOON

BUNDLE = "chest@0.2.0"
DIGEST = f"sha256:{'a' * 64}"


def model_row(bundle: str = BUNDLE, **changes: Any) -> ModelRow:  # noqa: ANN401 - the row's own fields
    return ModelRow(
        **{
            "bundle": bundle,
            "name": bundle.partition("@")[0],
            "state": ModelState.SHADOW,
            "share": 1.0,
            "manifest_digest": DIGEST,
            "replaced": "",
            "fault": "",
            "changed_at": NOON,
            **changes,
        }
    )


def model_change(bundle: str = BUNDLE, **changes: Any) -> ModelChange:  # noqa: ANN401 - same
    return ModelChange(
        **{
            "bundle": bundle,
            "action": ModelAction.ADD,
            "former": None,
            "state": ModelState.SHADOW,
            "share": 1.0,
            "digest": DIGEST,
            "reason": "first try",
            "changed_by": "operator",
            "changed_at": NOON,
            **changes,
        }
    )


def shadow_result(**changes: Any) -> ShadowResult:  # noqa: ANN401 - same
    return ShadowResult(
        **{
            "study_instance_uid": "1.2.3",
            "generation": 1,
            "model": "chest",
            "version": "0.2.0",
            "model_digest": DIGEST,
            "settings_digest": DIGEST,
            "is_delivered": False,
            "status": AnalysisStatus.COMPLETE,
            "reason": "",
            "findings": (
                FindingScore(
                    label="Pneumonia",
                    probability=0.25,
                    interval=(0.125, 0.5),
                    operating_point=0.75,
                    undetermined_from=0.5,
                    sop_instance_uid="1.2.3.1",
                ),
            ),
            "priority": ReadingPriority.ROUTINE,
            "duration_ms": 120,
            "recorded_at": NOON,
            **changes,
        }
    )
