"""Which images of a study a model may score."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from imaging_node.domain.finding import NotAnalysedReason
from imaging_node.domain.study import Eligibility, Study, select_images
from tests.store.arriving import arriving

if TYPE_CHECKING:
    from imaging_node.domain.study import ImageInstance

RULES = Eligibility(
    modalities=("CR", "DX"),
    sop_class_uids=("1.2.840.10008.5.1.4.1.1.1.1",),
    body_parts=("CHEST",),
    accepts_absent_body_part=True,
    view_positions=("PA", "AP"),
    accepts_absent_view=True,
    photometric_interpretations=("MONOCHROME1", "MONOCHROME2"),
    minimum_age_years=1,
    maximum_age_years=6,
    accepts_absent_age=True,
    minimum_rows=128,
    minimum_columns=128,
    presentation_intents=("FOR PRESENTATION",),
    maximum_images=2,
)
FILM = arriving().image


def study(*images: ImageInstance) -> Study:
    return Study(study_instance_uid="1.2.3", instances=images)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"body_part": "HAND"}, NotAnalysedReason.BODY_PART),
        ({"view_position": "LL"}, NotAnalysedReason.VIEW),
        ({"patient_age_years": 6.0}, NotAnalysedReason.AGE),
        ({"patient_age_years": 0.9}, NotAnalysedReason.AGE),
        ({"sop_class_uid": "1.2"}, NotAnalysedReason.SOP_CLASS),
        ({"presentation_intent": "FOR PROCESSING"}, NotAnalysedReason.NOT_FOR_PRESENTATION),
        ({"has_pixel_data": False}, NotAnalysedReason.NO_PIXELS),
        ({"number_of_frames": 2}, NotAnalysedReason.MULTI_FRAME),
        ({"photometric_interpretation": "RGB"}, NotAnalysedReason.PHOTOMETRIC),
        ({"rows": 100}, NotAnalysedReason.TOO_SMALL),
    ],
)
def test_an_image_that_breaks_a_rule_is_refused_with_its_reason(
    change: dict[str, Any], reason: NotAnalysedReason
) -> None:
    selection = select_images(study(replace(FILM, **change)), RULES)

    assert selection.applicable
    assert selection.images == ()
    assert [each for _, each in selection.refused] == [reason]


@pytest.mark.parametrize("modality", ["CT", "MR", "MG", ""])
def test_another_modality_is_not_meant_for_the_model(modality: str) -> None:
    assert not select_images(study(replace(FILM, modality=modality)), RULES).applicable


@pytest.mark.parametrize(
    "unsaid", [{"body_part": ""}, {"view_position": ""}, {"patient_age_years": None}]
)
def test_what_the_header_does_not_say_is_the_bundles_decision_and_is_told(
    unsaid: dict[str, Any],
) -> None:
    film = replace(FILM, **unsaid)
    strict = replace(
        RULES, accepts_absent_body_part=False, accepts_absent_view=False, accepts_absent_age=False
    )

    accepted = select_images(study(film), RULES)
    assert len(accepted.images) == 1
    assert len(accepted.remarks) == 1
    assert select_images(study(film), strict).images == ()


def test_a_waived_rule_is_not_applied_and_is_told() -> None:
    selection = select_images(
        study(replace(FILM, patient_age_years=60.0)), RULES, frozenset({"age"})
    )

    assert len(selection.images) == 1
    assert selection.remarks == ("Eligibility rule waived by the site: age.",)


def test_images_beyond_the_models_maximum_are_not_passed_over_in_silence() -> None:
    films = [replace(FILM, sop_instance_uid=f"1.2.3.{number}") for number in range(3)]

    selection = select_images(study(*films), RULES)

    assert len(selection.images) == 2
    assert [reason for _, reason in selection.refused] == [NotAnalysedReason.TOO_MANY]


def test_the_selection_does_not_depend_on_the_order_of_arrival() -> None:
    films = [replace(FILM, sop_instance_uid=f"1.2.3.{number}") for number in range(3)]

    assert select_images(study(*films), RULES) == select_images(study(*films[::-1]), RULES)
