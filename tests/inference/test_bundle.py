"""A bundle is what its manifest says, or it is not loaded."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from monai.bundle.config_parser import ConfigParser

from imaging_node.domain.errors import BundleError
from imaging_node.inference.bundle import (
    Bundle,
    default_bundle_directory,
    find_bundles,
    load_bundle,
)
from imaging_node.inference.networks import MappedDenseNet, MappedTransformer
from tests.signing import TRUSTED, sign_again

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CARD = "docs/README.md"


def change(directory: Path) -> None:
    content = bytearray((directory / "models/cnn.onnx").read_bytes())
    content[-1] ^= 1
    (directory / "models/cnn.onnx").write_bytes(content)


def remove(directory: Path) -> None:
    (directory / CARD).unlink()


def add(directory: Path) -> None:
    (directory / "scripts").mkdir()
    (directory / "scripts/extra.py").write_text("import os\n")


def hard_link(directory: Path) -> None:
    os.link(directory / CARD, directory.parent / "elsewhere")


def soft_link(directory: Path) -> None:
    (directory / CARD).rename(directory.parent / "elsewhere")
    (directory / CARD).symlink_to(directory.parent / "elsewhere")


def add_pickle(directory: Path) -> None:
    (directory / "models/model.pt").write_bytes(b"anything")


def remove_manifest(directory: Path) -> None:
    (directory / "manifest.json").unlink()


def change_manifest(directory: Path) -> None:
    path = directory / "manifest.json"
    path.write_text(path.read_text().replace("LICENSE", "LICENCE"))


def remove_signature(directory: Path) -> None:
    (directory / "manifest.sig").unlink()


def pipe(directory: Path) -> None:
    os.mkfifo(directory / "docs/pipe")


def change_metadata(directory: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the key imaging_node, and sign again."""
    path = directory / "configs/metadata.json"
    metadata = json.loads(path.read_text())
    change(metadata["imaging_node"])
    path.write_text(json.dumps(metadata))
    sign_again(directory)


@pytest.mark.parametrize(
    ("damage", "file", "word"),
    [
        (change, "models/cnn.onnx", "changed"),
        (remove, CARD, "missing"),
        (add, "scripts/extra.py", "added"),
        (hard_link, CARD, "hard-linked"),
        (soft_link, CARD, "link"),
        (add_pickle, "models/model.pt", "pickle"),
        (remove_manifest, "manifest.json", "missing"),
        (change_manifest, "manifest.sig", "does not fit the manifest"),
        (remove_signature, "manifest.sig", "nobody signed"),
        (pipe, "docs/pipe", "device"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_damage_is_refused_in_one_line_that_names_bundle_and_file(
    bundle_copy: Path, damage: Callable[[Path], None], file: str, word: str
) -> None:
    damage(bundle_copy)
    with pytest.raises(BundleError) as refusal:
        load_bundle(bundle_copy, TRUSTED)
    sentence = str(refusal.value)
    assert "\n" not in sentence
    assert f"bundle {bundle_copy.name}: {file}: " in sentence
    assert word in sentence


@pytest.mark.parametrize("key", ["space", "neighbours"])
@pytest.mark.parametrize("shape", [(), (0,), (0, 0), (1, 3), (4, 4, 4)])
def test_places_of_training_images_that_are_none_are_refused(
    bundle_copy: Path, key: str, shape: tuple[int, ...]
) -> None:
    path = bundle_copy / "configs/metadata.json"
    depths = json.loads(path.read_text())["imaging_node"]["familiarity"]["depths"]
    [name, *_] = [each[key] for each in depths if each.get(key)]
    np.save(bundle_copy / name, np.zeros(shape, np.float32))
    sign_again(bundle_copy)
    with pytest.raises(BundleError, match=f"{name}: is no "):
        load_bundle(bundle_copy, TRUSTED)


def test_a_pickle_is_refused_whatever_it_is_called_and_whoever_signed_it(bundle_copy: Path) -> None:
    (bundle_copy / "docs/notes.md").write_bytes(pickle.dumps({"harmless": True}))
    sign_again(bundle_copy)
    with pytest.raises(BundleError, match=r"docs/notes\.md: is a pickle"):
        load_bundle(bundle_copy, TRUSTED)


def test_an_array_of_objects_is_never_unpickled(bundle_copy: Path) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    (bundle_copy / "golden/clear.npy").write_bytes(buffer.getvalue())
    sign_again(bundle_copy)
    with pytest.raises(BundleError, match=r"golden/clear\.npy: is not a plain \.npy array"):
        load_bundle(bundle_copy, TRUSTED)


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        ("opperating_point", 0.5, "imaging_node.opperating_point"),
        ("golden", [], "imaging_node.golden"),
        ("id", "another_name", "another_name"),
        ("card", "../../elsewhere.md", "imaging_node.card"),
        ("card", "docs/absent.md", "docs/absent.md: is missing"),
    ],
)
def test_a_signed_bundle_with_an_impossible_declaration_is_refused(
    bundle_copy: Path,
    key: str,
    value: object,
    complaint: str,
) -> None:
    path = bundle_copy / "configs/metadata.json"
    metadata = json.loads(path.read_text())
    metadata["imaging_node"][key] = value
    path.write_text(json.dumps(metadata))
    sign_again(bundle_copy)
    with pytest.raises(BundleError) as refusal:
        load_bundle(bundle_copy, TRUSTED)
    assert complaint in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_folder_that_is_not_there_is_a_bundle_error(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="nothing_here"):
        load_bundle(tmp_path / "nothing_here")


def test_the_digest_follows_what_makes_scores_and_not_the_card(
    bundle: Bundle, bundle_copy: Path
) -> None:
    (bundle_copy / CARD).write_text("another card")
    sign_again(bundle_copy)
    assert load_bundle(bundle_copy, TRUSTED).identity == bundle.identity

    path = bundle_copy / "configs/metadata.json"
    metadata = json.loads(path.read_text())
    metadata["imaging_node"]["outputs"][0]["operating_point"]["probability"] = 0.99
    path.write_text(json.dumps(metadata))
    sign_again(bundle_copy)
    assert load_bundle(bundle_copy, TRUSTED).identity.digest != bundle.identity.digest


def test_the_shipped_bundle_is_small_and_for_children_with_frontal_films(bundle: Bundle) -> None:
    assert sum(path.stat().st_size for path in bundle.directory.rglob("*")) < 30_000_000
    assert (bundle.eligibility.minimum_age_years, bundle.eligibility.maximum_age_years) == (1, 6)
    assert set(bundle.eligibility.view_positions) == {"PA", "AP"}
    assert "Not a medical device" in bundle.card.read_text(encoding="utf-8")
    assert sum(member.weight for member in bundle.members) == pytest.approx(1)


def test_bundles_are_found_by_name_and_hidden_folders_are_not(tmp_path: Path) -> None:
    for name in ("second", "first", ".git", "_old"):
        (tmp_path / name).mkdir()
    (tmp_path / "README.md").write_text("a file is no bundle")
    assert [each.name for each in find_bundles(tmp_path)] == ["first", "second"]
    assert find_bundles(tmp_path / "absent") == ()
    assert find_bundles(default_bundle_directory())


def test_monai_reads_the_bundle_and_builds_its_networks(bundle: Bundle) -> None:
    parser = ConfigParser()
    parser.read_meta(str(bundle.directory / "configs/metadata.json"))
    parser.read_config(str(bundle.directory / "configs/inference.json"))
    parser.parse()
    assert parser["_meta_"]["imaging_node"]["id"] == bundle.identity.name
    assert isinstance(parser.get_parsed_content("network_def"), MappedDenseNet)
    assert isinstance(parser.get_parsed_content("second_network_def"), MappedTransformer)


def test_a_file_name_with_a_line_break_still_gives_one_line(bundle_copy: Path) -> None:
    shutil.copy(bundle_copy / CARD, bundle_copy / "two\nlines")
    with pytest.raises(BundleError) as refusal:
        load_bundle(bundle_copy, TRUSTED)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("schema", "complaint"),
    [(2, "imaging_node.schema is 2"), (None, "imaging_node.schema is None")],
)
def test_another_version_of_the_declaration_is_refused(
    bundle_copy: Path, schema: object, complaint: str
) -> None:
    change_metadata(bundle_copy, lambda declared: declared.update(schema=schema))
    with pytest.raises(BundleError, match=complaint):
        load_bundle(bundle_copy, TRUSTED)


def test_a_folder_may_name_the_version_but_no_other_one(bundle_copy: Path) -> None:
    right = bundle_copy.with_name("chest_xray_pneumonia@0.2.1")
    bundle_copy.rename(right)
    assert load_bundle(right).identity.version == "0.2.1"
    wrong = right.rename(right.with_name("chest_xray_pneumonia@9.0.0"))
    with pytest.raises(
        BundleError, match=r"its id is 'chest_xray_pneumonia', its version '0\.2\.1'"
    ):
        load_bundle(wrong)


def test_a_member_may_not_be_a_file_that_nobody_looked_into(bundle_copy: Path) -> None:
    (bundle_copy / "models/cnn.onnx").rename(bundle_copy / "models/cnn.data")
    change_metadata(
        bundle_copy, lambda declared: declared["members"][0].update(file="models/cnn.data")
    )
    with pytest.raises(BundleError, match=r"models/cnn\.data: is no \.onnx file"):
        load_bundle(bundle_copy, TRUSTED)


def test_a_bundle_without_the_key_is_no_bundle_of_this_node(bundle_copy: Path) -> None:
    path = bundle_copy / "configs/metadata.json"
    metadata = json.loads(path.read_text())
    del metadata["imaging_node"]
    path.write_text(json.dumps(metadata))
    sign_again(bundle_copy)
    with pytest.raises(BundleError, match="has no key imaging_node"):
        load_bundle(bundle_copy, TRUSTED)
