"""One door: a decoded image in, scores and maps out, from many threads at once."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from imaging_node.domain.errors import NotAnalysedError, SettingsError, TemporaryError
from imaging_node.domain.finding import NotAnalysedReason
from imaging_node.domain.image import DecodedImage
from imaging_node.inference.golden import synthetic_thorax
from imaging_node.inference.lanes import ARCHIVE, ROUTINE, STAT
from imaging_node.inference.scorer import Scorer

if TYPE_CHECKING:
    from imaging_node.inference.batching import Batcher
    from imaging_node.inference.bundle import Bundle
    from imaging_node.inference.opening import OpenedModel

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "chest_radiographs"


def test_a_golden_image_gets_its_golden_probability_through_the_door(
    bundle: Bundle, scorer: Scorer
) -> None:
    case = bundle.golden[0]
    image = DecodedImage(sop_instance_uid="2.25.9", p_values=case.p_values)
    score = scorer.score(image, ROUTINE).scores[0]
    assert score.probability == pytest.approx(case.probabilities[0], abs=0.01)
    assert score.sop_instance_uid == "2.25.9"
    assert score.operating_point == bundle.findings[0].operating_point


def test_many_studies_at_once_get_the_answers_they_get_alone(scorer: Scorer) -> None:
    images = [
        DecodedImage(
            sop_instance_uid=f"2.25.{index}",
            p_values=synthetic_thorax(200, 150 + 10 * index, opacity=index / 8, seed=index),
        )
        for index in range(8)
    ]
    alone = [scorer.score(image, STAT).scores[0].probability for image in images]
    with ThreadPoolExecutor(8) as studies:
        together = list(studies.map(lambda image: scorer.score(image, ARCHIVE), images))
    assert [each.sop_instance_uid for each in together] == [f"2.25.{n}" for n in range(8)]
    found = [each.scores[0].probability for each in together]
    assert found == pytest.approx(alone, abs=1e-4)


def test_the_map_has_the_shape_of_the_source_and_belongs_to_its_image(
    scorer: Scorer, thorax: DecodedImage
) -> None:
    analysis = scorer.score(thorax, ROUTINE)
    drawn = analysis.map_for("Pneumonia")
    assert drawn.values.shape == thorax.p_values.shape
    assert drawn.values.dtype == np.float32
    assert drawn.sop_instance_uid == thorax.sop_instance_uid
    with pytest.raises(KeyError):
        analysis.map_for("Fracture")


def test_a_study_is_answered_by_its_most_suspicious_image(scorer: Scorer) -> None:
    analyses = [
        scorer.score(
            DecodedImage(
                sop_instance_uid=f"2.25.{index}",
                p_values=synthetic_thorax(256, 256, opacity=opacity, seed=1),
            ),
            ROUTINE,
        )
        for index, opacity in enumerate((0.0, 1.0))
    ]
    combined = scorer.combine(analyses)
    assert [score.label for score in combined] == ["Pneumonia"]
    assert combined[0].probability == max(each.scores[0].probability or 0 for each in analyses)


def test_a_blank_image_is_refused_before_the_model(scorer: Scorer) -> None:
    blank = DecodedImage(sop_instance_uid="2.25.1", p_values=np.zeros((300, 300), np.float32))
    with pytest.raises(NotAnalysedError) as refusal:
        scorer.score(blank, ROUTINE)
    assert refusal.value.reason is NotAnalysedReason.BLANK


def test_a_closed_scorer_says_try_again(
    bundle: Bundle, opened_model: OpenedModel, batcher: Batcher, thorax: DecodedImage
) -> None:
    closed = Scorer(bundle, opened_model, batcher, site_operating_points={}, gate_policy="report")
    closed.close()
    closed.close()
    with pytest.raises(TemporaryError):
        closed.score(thorax, ROUTINE)


def test_an_operating_point_for_an_unknown_finding_refuses_to_start(
    bundle: Bundle, opened_model: OpenedModel, batcher: Batcher
) -> None:
    with pytest.raises(SettingsError, match="Fracture"):
        Scorer(bundle, opened_model, batcher, site_operating_points={"Fracture": 0.5})


def test_serving_never_loads_a_training_library() -> None:
    program = (
        "import sys, imaging_node.inference.scorer\n"
        "print(sorted({'torch', 'monai', 'captum', 'onnx'} & set(sys.modules)))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert ran.stdout.strip() == "[]"


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no pictures at {DATA}")
def test_films_of_children_are_mostly_called_right(scorer: Scorer) -> None:
    def is_present(path: Path) -> bool:
        grey = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        assert grey is not None
        image = DecodedImage(sop_instance_uid="2.25.1", p_values=(grey / 255).astype(np.float32))
        return scorer.score(image, ARCHIVE).scores[0].is_present

    films = sorted((DATA / "kermany224").glob("*.jpg"))
    normal = [path for path in films if path.name.startswith(("IM-", "NORMAL"))][:20]
    ill = [path for path in films if "bacteria" in path.name][:20]
    assert len(normal) == len(ill) == 20
    assert sum(map(is_present, normal)) <= 6
    assert sum(map(is_present, ill)) >= 16
