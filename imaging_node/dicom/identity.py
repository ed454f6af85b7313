"""Unique identifiers that the node derives: the same answer always has the same names.

A UID is "2.25." and the integer of a version 5 UUID (PS3.5 B.2) over a canonical JSON text.
The namespace and the seeds are frozen: changing them would give new names to old answers.
"""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Final

from imaging_node import __version__

if TYPE_CHECKING:
    from imaging_node.domain.finding import ModelIdentity
    from imaging_node.domain.result_object import ObjectKind, ResultContext

_NAMESPACE: Final = uuid.UUID("6f1c2d5e-0b7a-4f0e-9c55-3a1d8e7b42c6")
_SEED_VERSION: Final = 1


def _derived_uid(kind: str, **seed: str | int | list[str]) -> str:
    """Name of whatever `kind` and `seed` describe; at most 44 characters."""
    text = json.dumps(
        {"v": _SEED_VERSION, "kind": kind, **seed},
        sort_keys=True,
        separators=(",", ":"),
        ensure_ascii=True,
    )
    return f"2.25.{uuid.uuid5(_NAMESPACE, text).int}"


IMPLEMENTATION_CLASS_UID: Final = _derived_uid("implementation")
IMPLEMENTATION_VERSION_NAME: Final = f"IMGNODE_{__version__}"[:16]  # SH, PS3.7 D.3.3.2
INSTANCE_CREATOR_UID: Final = _derived_uid("instance-creator")


def device_observer_uid(ae_title: str) -> str:
    """The installation that observed (TID 1004)."""
    return _derived_uid("node", ae_title=ae_title)


def model_device_uid(model_digest: str) -> str:
    """The weights that scored: a new UID after each training (Contributing Equipment)."""
    return _derived_uid("model", model=model_digest)


def tracking_uid(study_instance_uid: str, topic: str) -> str:
    """Tracking Unique Identifier of one finding of a study, the same in every revision."""
    return _derived_uid("tracking", study=study_instance_uid, finding=topic)


def series_uid(study_instance_uid: str, model: ModelIdentity, kind: ObjectKind) -> str:
    """Series of one kind of object, made by one version of a model for one study."""
    return _derived_uid("series", study=study_instance_uid, model=model.digest, object=kind.value)


def instance_uid(
    study_instance_uid: str,
    context: ResultContext,
    model: ModelIdentity,
    *,
    sop_class_uid: str,
    finding: str,
) -> str:
    """One result object.

    Args:
        study_instance_uid: Study that the object belongs to.
        context: Source instances, settings digest and revision of the answer.
        model: Model that answered.
        sop_class_uid: Class of the object: a fallback class makes another instance.
        finding: Label shown by a capture, or the kind of a report.
    """
    return _derived_uid(
        "instance",
        study=study_instance_uid,
        sources=sorted(context.source_sop_instance_uids),
        model=model.digest,
        settings=context.settings_digest,
        sop_class=sop_class_uid,
        finding=finding,
        revision=context.revision,
    )


def dimension_organization_uid(sop_instance_uid: str) -> str:
    """Dimension Organization UID of one segmentation (PS3.3 C.7.6.17)."""
    return _derived_uid("dimensions", instance=sop_instance_uid)
