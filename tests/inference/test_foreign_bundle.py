"""A bundle from elsewhere is code: it is read as bytes until somebody answers for exactly these."""

from __future__ import annotations

import json
import pickle
from typing import TYPE_CHECKING

import pytest
import torch

from imaging_node.domain.errors import BundleError
from imaging_node.inference.foreign_bundle import (
    INITIAL_STATE,
    ForeignBundle,
    install_foreign,
    load_foreign,
)
from imaging_node.inference.foreign_declaration import SiteChoices, read_site_choices
from imaging_node.inference.foreign_files import UntrustedCodeError, read_foreign_files
from tests.inference.zoo_bundles import density_like, spleen_like, threshold

if TYPE_CHECKING:
    from pathlib import Path

TRAP = "from pathlib import Path\nPath({marker!r}).write_text('it ran')\n"


def _hash(source: Path) -> str:
    return read_foreign_files(source).trust_hash


def _installed(source: Path, zoo: Path, site: SiteChoices | None = None) -> ForeignBundle:
    return install_foreign(source, zoo, trust_code=_hash(source), site=site).bundle


def test_without_the_hash_nothing_runs_and_the_refusal_tells_what_code_there_is(
    tmp_path: Path,
) -> None:
    marker = tmp_path / "ran"
    source = density_like(tmp_path / "density")
    (source / "scripts" / "__init__.py").write_text(TRAP.format(marker=str(marker)))
    config = json.loads((source / "configs" / "inference.json").read_text())
    config["trap"] = f"$open({str(marker)!r}, 'w').close()"
    (source / "configs" / "inference.json").write_text(json.dumps(config))
    for given in (None, "", "0" * 64, _hash(source)[:-1], _hash(source).upper()):
        with pytest.raises(UntrustedCodeError) as caught:
            install_foreign(source, tmp_path / "zoo", trust_code=given)
        assert caught.value.trust_hash == _hash(source)
        assert _hash(source) in str(caught.value)
        assert "scripts/network.py" in str(caught.value)
        assert "expressions" in str(caught.value)
    assert not (tmp_path / "zoo").exists()
    _installed(source, tmp_path / "zoo")  # taking it over runs nothing either
    assert not marker.exists()


@pytest.mark.parametrize(
    "name", ["configs/inference.json", "scripts/network.py", "models/model.pt", "docs/README.md"]
)
def test_the_hash_is_of_every_file_and_its_path(name: str, tmp_path: Path) -> None:
    source = density_like(tmp_path / "density")
    before = _hash(source)
    path = source / name
    content = path.read_bytes()
    path.write_bytes(content + b"\n")
    assert _hash(source) != before
    path.write_bytes(content)
    assert _hash(source) == before
    path.rename(path.with_name("other"))
    assert _hash(source) != before


def test_what_is_installed_has_no_pickle_and_starts_as_a_shadow(tmp_path: Path) -> None:
    source = spleen_like(tmp_path / "spleen")
    done = install_foreign(source, tmp_path / "zoo", trust_code=_hash(source))
    assert done.state == INITIAL_STATE == "shadow"
    assert done.left_out == ("models/model.pt", "models/model.ts")
    kept = {
        path.relative_to(done.bundle.directory).as_posix()
        for path in done.bundle.directory.rglob("*")
        if path.is_file()
    }
    assert kept == {
        *("LICENSE", "docs/README.md", "configs/inference.json", "configs/metadata.json"),
        *("configs/imaging_node.json", "models/model.safetensors", "manifest.json"),
    }
    assert load_foreign(done.bundle.directory) == done.bundle
    assert list((tmp_path / "zoo").iterdir()) == [done.bundle.directory]
    with pytest.raises(BundleError, match="already"):
        install_foreign(source, tmp_path / "zoo", trust_code=_hash(source))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("scripts/network.py", b"# other code\n"),
        ("scripts/__pycache__/network.cpython-311.pyc", b"compiled"),
        ("scripts/.hidden.py", b""),
        ("configs/inference.json", b"{}"),
        ("configs/imaging_node.json", b"{}"),
        ("models/model.safetensors", b"other"),
        ("manifest.json", b"{}"),
    ],
)
def test_a_file_changed_or_added_after_trust_is_refused(
    name: str, content: bytes, tmp_path: Path
) -> None:
    bundle = _installed(density_like(tmp_path / "density"), tmp_path / "zoo")
    path = bundle.directory / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    with pytest.raises(BundleError):
        load_foreign(bundle.directory)


def test_a_manifest_written_anew_does_not_make_other_code_the_trusted_one(tmp_path: Path) -> None:
    bundle = _installed(density_like(tmp_path / "density"), tmp_path / "zoo")
    code = bundle.directory / "scripts" / "network.py"
    code.write_text("# other code\n")
    manifest_path = bundle.directory / "manifest.json"
    manifest = json.loads(manifest_path.read_text())
    changed = read_foreign_files(bundle.directory).hashes["scripts/network.py"]
    manifest["files"]["scripts/network.py"] = changed
    manifest_path.write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="not the file that was trusted"):
        load_foreign(bundle.directory)
    manifest["foreign"]["source_files"]["scripts/network.py"] = changed
    manifest_path.write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="hash that was trusted"):
        load_foreign(bundle.directory)


class _Program:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("raise SystemExit('a pickle ran')",))


def _torchscript(path: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)


def _program(path: Path) -> None:
    path.write_bytes(pickle.dumps({"weight": _Program()}))


def _whole_network(path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), path)


def _no_tensors(path: Path) -> None:
    torch.save({"epoch": 3}, path)


def _nothing(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("write", [_torchscript, _program, _whole_network, _no_tensors, _nothing])
def test_weights_that_are_a_program_are_refused(write: object, tmp_path: Path) -> None:
    assert callable(write)
    source = spleen_like(tmp_path / "spleen")
    write(source / "models" / "model.pt")
    with pytest.raises(BundleError):
        _installed(source, tmp_path / "zoo")
    assert not (tmp_path / "zoo" / "spleen").exists()


def test_links_are_refused(tmp_path: Path) -> None:
    source = spleen_like(tmp_path / "spleen")
    (source / "docs" / "link").symlink_to("/etc/passwd")
    with pytest.raises(BundleError, match="link"):
        read_foreign_files(source)


def test_unknown_names_get_a_local_code_and_site_codes_are_taken_as_they_are(
    tmp_path: Path,
) -> None:
    source = threshold(tmp_path / "seg", labels={"0": "background", "1": "Left kidney (tumor)"})
    (label,) = _installed(source, tmp_path / "zoo").labels
    assert (label.concept.scheme, label.concept.value) == ("99RADINFER", "left-kidney-tumor")
    assert label.category.scheme == "99RADINFER"
    site = read_site_choices(
        json.dumps(
            {
                "name": "kidney",
                "body_parts": ["abdomen"],
                "labels": {
                    "Left kidney (tumor)": {
                        "concept": {
                            "value": "126880001",
                            "scheme": "SCT",
                            "meaning": "Kidney neoplasm",
                        }
                    }
                },
            }
        )
    )
    bundle = _installed(source, tmp_path / "zoo", site)
    assert bundle.identity.name == "kidney"
    assert bundle.declaration.body_parts == ("ABDOMEN",)
    assert bundle.labels[0].concept.value == "126880001"


def test_a_class_that_means_normal_is_never_reported(tmp_path: Path) -> None:
    bundle = _installed(density_like(tmp_path / "density"), tmp_path / "zoo")
    assert [each.name for each in bundle.labels] == ["A", "B", "C"]
    assert bundle.declaration.output_channels == 4
    only_normal = density_like(tmp_path / "none", labels={"0": "Normal", "1": "no finding"})
    with pytest.raises(BundleError):
        _installed(only_normal, tmp_path / "zoo")


def test_eligibility_is_read_from_the_metadata(tmp_path: Path) -> None:
    spleen = _installed(threshold(tmp_path / "seg", is_yaml=True), tmp_path / "zoo").declaration
    assert (spleen.task, spleen.spatial_dimensions, spleen.modalities) == (
        "segmentation",
        3,
        ("CT",),
    )
    assert spleen.inference == "configs/inference.yaml"
    density = _installed(density_like(tmp_path / "density"), tmp_path / "zoo").declaration
    assert (density.task, density.spatial_dimensions, density.modalities) == (
        *("classification", 2),
        ("MG",),
    )
    assert density.input_channels == 3


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("inputs", "image", "num_channels"), 4),
        (("inputs", "image", "spatial_shape"), [96, 96]),
        (("inputs", "image", "modality"), "ultrasound"),
        (("inputs", "other"), {}),
        (("outputs", "pred", "channel_def"), {"0": "same", "1": "same"}),
        (("outputs", "pred", "channel_def"), {"0": "one thing", "1": "one-thing"}),
        (("outputs", "pred", "num_channels"), 0),
        (("outputs",), {}),
    ],
)
def test_what_the_node_cannot_feed_or_tell_is_refused_before_it_is_trusted(
    path: tuple[str, ...], value: object, tmp_path: Path
) -> None:
    source = threshold(tmp_path / "seg")
    metadata = json.loads((source / "configs" / "metadata.json").read_text())
    place = metadata["network_data_format"]
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    (source / "configs" / "metadata.json").write_text(json.dumps(metadata))
    with pytest.raises(BundleError) as caught:
        install_foreign(source, tmp_path / "zoo", trust_code=None)
    assert not isinstance(caught.value, UntrustedCodeError)
