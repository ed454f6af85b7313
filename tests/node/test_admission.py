"""A bundle is taken whole and checked, or nothing of it is left."""

from __future__ import annotations

import json
import shutil
import zipfile
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from imaging_node.cli.app import app
from imaging_node.domain.errors import BundleError, SettingsError, StorageError, UnknownRecordError
from imaging_node.domain.model_state import ModelState
from imaging_node.flow.lineup import Lineup
from imaging_node.flow.shadowing import bundle_of_owner, shadow_owner
from imaging_node.inference.bundle import default_bundle_directory
from imaging_node.inference.bundle_files import digest_of_manifest
from imaging_node.node.admission import add_bundle
from imaging_node.node.installed import effective_rows, installed_bundles
from imaging_node.node.model_changes import (
    demote_model,
    promote_model,
    remove_model,
    roll_back_model,
    stop_model,
)
from imaging_node.node.models import ModelLoader, load_models
from imaging_node.node.serving import serve_models
from imaging_node.node.wiring import open_state
from imaging_node.settings import Settings
from imaging_node.store.model_states import list_changes, read_decisions
from tests.integration.other_version import NAME, make_version
from tests.signing import sign_again, write_test_key

if TYPE_CHECKING:
    from pathlib import Path

BUNDLE = f"{NAME}@9.0.0"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.model_validate(
        {
            "state_directory": tmp_path / "state",
            "spool": {"min_free_bytes": 0},
            "model_keys": [write_test_key(tmp_path)],
            "scoring": {"provider": "cpu"},
        }
    )


def states(settings: Settings) -> dict[str, ModelState]:
    database, _, _ = open_state(settings)
    installed = installed_bundles(settings)
    found = {
        each.bundle: each.state
        for each in effective_rows(settings, read_decisions(database), installed)
        if each.name == NAME  # the package brings another one, which is retired
    }
    database.close()
    return found


def add(settings: Settings, source: Path) -> str:
    database, spool, _ = open_state(settings)
    try:
        return str(add_bundle(source, settings, database, spool, reason="").dry_run)
    finally:
        database.close()


def refusal(settings: Settings, source: Path) -> str:
    """Why a bundle is not taken; nothing may be left of it, in no folder and no table."""
    with pytest.raises(BundleError) as refused:
        add(settings, source)
    assert list((settings.state_directory / "models").iterdir()) == []
    assert states(settings) == {NAME: ModelState.PRIMARY}
    database, _, _ = open_state(settings)
    assert list_changes(database) == []
    database.close()
    sentence = str(refused.value)
    assert "\n" not in sentence
    return sentence


def test_a_zip_is_taken_into_shadow_once_and_goes_all_the_way_up_and_back(
    settings: Settings, tmp_path: Path
) -> None:
    made = make_version(tmp_path / "made", "9.0.0")
    source = tmp_path / "bundle.zip"
    with zipfile.ZipFile(source, "w") as archive:
        for path in made.rglob("*"):
            archive.write(path, path.relative_to(made.parent))
    assert add(settings, source) == "would have taken 0 of 0 studies"
    assert states(settings) == {NAME: ModelState.PRIMARY, BUNDLE: ModelState.SHADOW}
    with pytest.raises(BundleError, match="is installed already"):
        add(settings, made)

    database, _, _ = open_state(settings)
    promote_model(settings, database, BUNDLE, share=None, reason="")
    assert states(settings) == {NAME: ModelState.RETIRED, BUNDLE: ModelState.PRIMARY}
    with pytest.raises(UnknownRecordError, match="it is primary"):
        remove_model(settings, database, BUNDLE, reason="")
    roll_back_model(settings, database, BUNDLE, reason="")
    remove_model(settings, database, BUNDLE, reason="")
    assert states(settings) == {NAME: ModelState.PRIMARY}
    assert not (settings.state_directory / "models" / BUNDLE).exists()
    database.close()


def test_a_bundle_that_nobody_trusted_signed_is_not_taken(
    settings: Settings, tmp_path: Path
) -> None:
    made = make_version(tmp_path / "made", "9.0.0", signed=False)
    assert "was changed" in refusal(settings, made)
    sign_again(made)
    strangers = settings.model_copy(update={"model_keys": ()})
    assert "does not trust" in refusal(strangers, made)
    (made / "manifest.sig").unlink()
    assert "nobody signed" in refusal(settings, made)


def test_a_bundle_that_answers_otherwise_than_it_says_is_not_taken(
    settings: Settings, tmp_path: Path
) -> None:
    made = make_version(tmp_path / "made", "9.0.0")
    path = made / "configs/metadata.json"
    metadata = json.loads(path.read_text())
    metadata["imaging_node"]["golden"][0]["probabilities"] = [0.5]
    path.write_text(json.dumps(metadata))
    sign_again(made)
    assert "golden case failed" in refusal(settings, made)


@pytest.mark.parametrize("version", ["../9", "", "9/../../x", "9 0"])
def test_a_version_that_would_be_another_folder_is_not_taken(
    settings: Settings, tmp_path: Path, version: str
) -> None:
    made = make_version(tmp_path / "made", "9.0.0")
    path = made / "configs/metadata.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": version}))
    sign_again(made)
    assert "is no id and version" in refusal(settings, made)


def test_the_version_that_came_with_the_package_is_installed_already(
    settings: Settings, tmp_path: Path
) -> None:
    made = make_version(tmp_path / "made", "0.2.1")
    assert "is installed already" in refusal(settings, made)


def test_another_bundle_in_the_place_of_the_added_one_is_refused_though_it_is_signed(
    settings: Settings, tmp_path: Path
) -> None:
    add(settings, make_version(tmp_path / "made", "9.0.0"))
    place = settings.state_directory / "models" / BUNDLE
    shutil.rmtree(place)
    make_version(tmp_path / "other", "9.0.0", operating_point=0.9).rename(place)
    database, _, _ = open_state(settings)
    with pytest.raises(BundleError, match="not the one that was added"):
        promote_model(settings, database, BUNDLE, share=None, reason="")
    database.close()


def test_a_bundle_whose_adding_was_cut_short_answers_nobody_though_the_settings_name_it(
    settings: Settings, tmp_path: Path
) -> None:
    """Its folder is in place, and the process ended before anything was recorded."""
    added = settings.state_directory / "models" / BUNDLE
    added.parent.mkdir(parents=True)
    make_version(tmp_path / "made", "9.0.0").rename(added)
    named = settings.model_copy(
        update={"models": Settings.model_validate({"models": [BUNDLE]}).models}
    )
    assert states(named)[BUNDLE] is ModelState.RETIRED


def test_a_bundle_that_the_settings_name_is_not_removed(settings: Settings, tmp_path: Path) -> None:
    add(settings, make_version(tmp_path / "made", "9.0.0"))
    named = settings.model_copy(
        update={"models": Settings.model_validate({"models": [NAME, BUNDLE]}).models}
    )
    database, _, _ = open_state(settings)
    with pytest.raises(SettingsError, match="the settings name it under `models`"):
        remove_model(named, database, BUNDLE, reason="")
    assert states(named)[BUNDLE] is ModelState.SHADOW
    promote_model(named, database, BUNDLE, share=None, reason="")
    # What checks the settings looks at what was decided.
    [checked] = load_models(named)
    assert checked.bundle.identity.version == "9.0.0"
    roll_back_model(named, database, BUNDLE, reason="")
    remove_model(settings, database, BUNDLE, reason="")
    database.close()


def test_without_an_audit_log_no_model_is_changed(settings: Settings, tmp_path: Path) -> None:
    database, spool, _ = open_state(settings)
    add(settings, make_version(tmp_path / "made", "9.0.0"))
    audit = settings.state_directory / "audit"
    shutil.rmtree(audit)
    audit.write_text("no folder")
    with pytest.raises(StorageError, match="cannot use the state directory"):
        promote_model(settings, database, BUNDLE, share=None, reason="")
    with pytest.raises(StorageError, match="cannot use the state directory"):
        remove_model(settings, database, BUNDLE, reason="")
    other = make_version(tmp_path / "made", "9.0.1")
    with pytest.raises(StorageError, match="cannot use the state directory"):
        add_bundle(other, settings, database, spool, reason="")
    assert states(settings) == {NAME: ModelState.PRIMARY, BUNDLE: ModelState.SHADOW}
    assert [each.name for each in (settings.state_directory / "models").iterdir()] == [BUNDLE]
    assert len(list_changes(database)) == 1
    database.close()


def test_a_change_that_the_audit_log_did_not_take_is_said_to_be_made_and_is(
    settings: Settings, tmp_path: Path
) -> None:
    database, spool, _ = open_state(settings)
    # Where the next lines would go: they cannot be written, as on a full disk.
    audit = settings.state_directory / "audit"
    (audit / "audit-000000000000001.log").mkdir(parents=True)
    made = make_version(tmp_path / "made", "9.0.0")
    with pytest.raises(StorageError, match="changed, but not audited"):
        add_bundle(made, settings, database, spool, reason="")
    assert states(settings) == {NAME: ModelState.PRIMARY, BUNDLE: ModelState.SHADOW}
    assert (settings.state_directory / "models" / BUNDLE / "manifest.json").is_file()
    with pytest.raises(StorageError, match="changed, but not audited"):
        remove_model(settings, database, BUNDLE, reason="")
    assert states(settings) == {NAME: ModelState.PRIMARY}
    assert not (settings.state_directory / "models" / BUNDLE).exists()
    database.close()


def test_the_stop_rule_takes_out_every_version_with_the_networks_that_it_judged(
    settings: Settings, tmp_path: Path
) -> None:
    add(settings, make_version(tmp_path / "made", "9.0.0"))
    database, _, _ = open_state(settings)
    promote_model(settings, database, BUNDLE, share=0.5, reason="")
    loader = ModelLoader(settings)
    serving, _ = serve_models(settings, read_decisions(database), loader)
    loader.close()
    [digest] = {each.model.bundle.identity.digest for each in serving}
    assert demote_model(settings, database, Lineup(serving), NAME, digest, "often wrong")
    assert states(settings) == {NAME: ModelState.SHADOW, BUNDLE: ModelState.SHADOW}
    assert not demote_model(settings, database, Lineup(serving), NAME, digest, "often wrong")
    database.close()


def test_verify_checks_what_comes_after_a_refused_bundle_and_fails_all_the_same(
    tmp_path: Path,
) -> None:
    zoo = tmp_path / "zoo"
    shutil.copytree(default_bundle_directory() / NAME, zoo / NAME)
    for name in ("a_broken_one", "another"):
        (zoo / name / "configs").mkdir(parents=True)
        (zoo / name / "configs" / "metadata.json").write_text("{}")
    config = tmp_path / "node.yaml"
    config.write_text(f"state_directory: {tmp_path / 'state'}\nmodel_directory: {zoo}\n")
    done = CliRunner().invoke(app, ["models", "verify", "--config", str(config)])
    said = {line.partition(":")[0]: line for line in done.output.splitlines()}
    assert isinstance(done.exception, BundleError)
    assert "golden cases answered" in said[NAME]
    assert "refused: bundle a_broken_one" in said["a_broken_one"]
    assert "refused: bundle another" in said["another"]


def test_the_node_itself_can_take_a_model_out_and_the_change_says_who(
    settings: Settings,
) -> None:
    database, _, _ = open_state(settings)
    digest = digest_of_manifest((default_bundle_directory() / NAME / "manifest.json").read_bytes())
    for again in (1, 0):
        changes = stop_model(
            settings,
            database,
            bundle_of_owner(shadow_owner(NAME)),
            state=ModelState.RETIRED,
            reason="its launch hung",
            changed_by="score",
        )
        assert len(changes) == again
    assert states(settings) == {NAME: ModelState.RETIRED}
    [change] = list_changes(database)
    assert (change.changed_by, change.former, change.digest) == (
        "score",
        ModelState.PRIMARY,
        digest,
    )
    database.close()
    assert bundle_of_owner("a claim's token") == ""
