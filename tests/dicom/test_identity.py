from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from imaging_node.dicom import identity
from imaging_node.domain.finding import ModelIdentity
from imaging_node.domain.result_object import NodeIdentity, ObjectKind, ResultContext

MODEL = ModelIdentity(name="m", version="1", manufacturer="x", digest="sha256:" + "0" * 64)
NODE = NodeIdentity(
    ae_title="NODE", manufacturer="x", model_name="x", software_version="1", serial_number="1"
)
CONTEXT = ResultContext(
    node=NODE,
    source_sop_instance_uids=("1.2.3", "1.2.4"),
    settings_digest="sha256:" + "1" * 64,
    revision=0,
    predecessor=None,
    series_started_at=lambda _: datetime(2026, 1, 1, tzinfo=UTC),
)


def _instance(
    context: ResultContext = CONTEXT,
    model: ModelIdentity = MODEL,
    study: str = "1.2",
    sop_class_uid: str = "1.2.840.10008.5.1.4.1.1.88.34",
    finding: str = "report",
) -> str:
    return identity.instance_uid(
        study, context, model, sop_class_uid=sop_class_uid, finding=finding
    )


def test_names_never_change_between_releases() -> None:
    assert {
        "instance": _instance(),
        "report series": identity.series_uid("1.2", MODEL, ObjectKind.REPORT),
        "tracking": identity.tracking_uid("1.2", "Pneumonia"),
        "node": identity.device_observer_uid("NODE"),
        "model": identity.model_device_uid(MODEL.digest),
        "implementation": identity.IMPLEMENTATION_CLASS_UID,
        "creator": identity.INSTANCE_CREATOR_UID,
    } == {
        "instance": "2.25.60726224858129329521440438917446648635",
        "report series": "2.25.241198887979174082638853780447225028075",
        "tracking": "2.25.299804962897551414267591877197883684161",
        "node": "2.25.161324637416766940136872520459125362320",
        "model": "2.25.24275664898029812679432147377476661318",
        "implementation": "2.25.87759292968814171596617822987213541495",
        "creator": "2.25.13911226536313064781097309513972618361",
    }


def test_the_order_of_the_sources_does_not_name_another_answer() -> None:
    turned = replace(CONTEXT, source_sop_instance_uids=("1.2.4", "1.2.3"))
    assert _instance(turned) == _instance()


def test_each_part_of_the_seed_names_another_answer() -> None:
    names = [
        _instance(),
        _instance(replace(CONTEXT, source_sop_instance_uids=("1.2.3",))),
        _instance(replace(CONTEXT, settings_digest="sha256:2")),
        _instance(replace(CONTEXT, revision=1)),
        _instance(model=replace(MODEL, digest="sha256:3")),
        _instance(study="1.3"),
        _instance(sop_class_uid="1.2.840.10008.5.1.4.1.1.88.33"),
        _instance(finding="Pneumonia"),
    ]
    assert len(set(names)) == len(names)


def test_the_node_that_answers_and_its_series_start_do_not_name_the_answer() -> None:
    elsewhere = replace(
        CONTEXT,
        node=replace(NODE, serial_number="2"),
        series_started_at=lambda _: datetime(2027, 1, 1, tzinfo=UTC),
    )
    assert _instance(elsewhere) == _instance()


@pytest.mark.parametrize("kind", list(ObjectKind))
def test_every_kind_has_a_series_of_its_own(kind: ObjectKind) -> None:
    others = [each for each in ObjectKind if each is not kind]
    series = identity.series_uid("1.2", MODEL, kind)
    assert series not in {identity.series_uid("1.2", MODEL, other) for other in others}
    assert series.startswith("2.25.")
    assert len(series) <= 44


def test_the_version_name_fits_its_short_string() -> None:
    assert len(identity.IMPLEMENTATION_VERSION_NAME) <= 16
