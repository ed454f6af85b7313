"""A segmentation is laid over the image where the network saw it, or there is none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from imaging_node.inference.foreign_bundle import install_foreign
from imaging_node.inference.foreign_files import read_foreign_files
from imaging_node.inference.foreign_pipeline import OutputError, Pipeline
from tests.inference.zoo_bundles import LOADER, segmentation_config, threshold

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

SHAPE = (3, 6, 8)
DENSE = (slice(0, 1), slice(1, 3), slice(2, 7))
# Rows and columns as in most CT series: the voxels of RAS are turned twice.
AFFINE = np.diag([0.5, 0.5, 3.0, 1.0])
TURNED = {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS"}
PLAIN = {"_target_": "EnsureTyped", "track_meta": False}


def _masks(tmp_path: Path, **changes: list[dict[str, Any]]) -> npt.NDArray[np.uint8]:
    """The answer for a dense block that is symmetric about nothing."""
    source = threshold(
        tmp_path / "source",
        changes={
            name: {"_target_": "Compose", "transforms": each} for name, each in changes.items()
        },
    )
    trust_code = read_foreign_files(source).trust_hash
    bundle = install_foreign(source, tmp_path / "zoo", trust_code=trust_code).bundle
    voxels = np.zeros(SHAPE, np.float32)
    voxels[DENSE] = 500
    masks = np.zeros((1, *SHAPE), np.uint8)
    Pipeline(bundle).run(voxels, AFFINE, masks)
    return masks


def _postprocessing(*, is_inverted: bool, last: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The zoo's, with or without the step back to the source's grid."""
    transforms = segmentation_config({})["postprocessing"]["transforms"]
    kept = [each for each in transforms if is_inverted or each["_target_"] != "Invertd"]
    return [*kept, *([{**last, "keys": "pred"}] if last else [])]


def _loading(*transforms: dict[str, Any]) -> list[dict[str, Any]]:
    return [{**LOADER, "ensure_channel_first": True}, *transforms]


@pytest.mark.parametrize("is_inverted", [True, False])
def test_an_answer_that_says_its_grid_comes_back_to_the_source(
    is_inverted: bool, tmp_path: Path
) -> None:
    masks = _masks(tmp_path, postprocessing=_postprocessing(is_inverted=is_inverted, last=None))
    expected = np.zeros((1, *SHAPE), np.uint8)
    expected[(0, *DENSE)] = 1
    assert np.array_equal(masks, expected)


def test_an_image_that_lost_its_grid_in_preprocessing_gives_no_segmentation(
    tmp_path: Path,
) -> None:
    with pytest.raises(OutputError, match="does not say on which grid"):
        _masks(
            tmp_path,
            preprocessing=_loading(TURNED, {**PLAIN, "keys": "image"}),
            postprocessing=_postprocessing(is_inverted=False, last=None),
        )


def test_an_answer_that_lost_its_grid_is_not_laid_over_an_image_that_was_turned(
    tmp_path: Path,
) -> None:
    with pytest.raises(OutputError, match="does not say which"):
        _masks(tmp_path, postprocessing=_postprocessing(is_inverted=False, last=PLAIN))


def test_an_answer_without_a_grid_is_taken_where_nothing_was_turned(tmp_path: Path) -> None:
    masks = _masks(
        tmp_path,
        preprocessing=_loading({"_target_": "EnsureTyped", "keys": "image"}),
        postprocessing=_postprocessing(is_inverted=False, last=PLAIN),
    )
    assert masks[(0, *DENSE)].all()
    assert masks.sum() == 2 * 5
