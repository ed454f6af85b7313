"""A foreign bundle is taken for the hash that somebody answers for, and kept to it."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest
import typer.testing

from imaging_node.cli.app import app
from imaging_node.domain.errors import BundleError, UnknownRecordError
from imaging_node.domain.model_state import ModelState
from imaging_node.inference.foreign_declaration import SiteChoices
from imaging_node.inference.foreign_files import UntrustedCodeError, read_foreign_files
from imaging_node.node.admission import add_bundle
from imaging_node.node.comparison import compare_models
from imaging_node.node.foreign_models import serve_foreign
from imaging_node.node.installed import bundle_states
from imaging_node.node.model_changes import (
    promote_model,
    remove_model,
    roll_back_model,
    shadow_model,
)
from imaging_node.node.serving import LOADED
from imaging_node.node.wiring import open_state
from imaging_node.settings import Settings
from imaging_node.store.model_states import list_changes, read_decisions
from imaging_node.store.spool import Spool
from tests.inference.zoo_bundles import threshold
from tests.integration.other_version import NAME as SIGNED
from tests.integration.other_version import make_version
from tests.signing import write_test_key
from tests.store.auditing import read_all

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from imaging_node.store.database import Database

NAME = "bones"
SITE = SiteChoices(name=NAME)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.model_validate(
        {
            "state_directory": tmp_path / "state",
            "spool": {"min_free_bytes": 0},
            "scoring": {"provider": "cpu"},
        }
    )


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    opened, _, _ = open_state(settings)
    yield opened
    opened.close()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return threshold(tmp_path / "source")


def take(source: Path, settings: Settings, trust_code: str | None, site: SiteChoices) -> None:
    database, spool, _ = open_state(settings)
    try:
        add_bundle(
            source, settings, database, spool, trust_code=trust_code, site=site, reason="a try"
        )
    finally:
        database.close()


def add(source: Path, settings: Settings, site: SiteChoices = SITE) -> str:
    trust_code = read_foreign_files(source).trust_hash
    take(source, settings, trust_code, site)
    return trust_code


def state_of(settings: Settings, bundle: str = NAME) -> ModelState:
    return {row.bundle: row.state for row, _ in bundle_states(settings)}[bundle]


@pytest.mark.parametrize("given", [None, "0" * 64])
def test_without_its_hash_nothing_is_taken_and_the_hash_is_told(
    given: str | None, source: Path, settings: Settings, database: Database
) -> None:
    with pytest.raises(UntrustedCodeError, match=r"is code: \d+ expressions and") as refused:
        take(source, settings, given, SITE)
    assert refused.value.trust_hash == read_foreign_files(source).trust_hash
    assert f"--trust-code {refused.value.trust_hash}" in str(refused.value)
    assert list((settings.state_directory / "models").iterdir()) == []
    assert list_changes(database) == []


def test_the_grant_is_kept_audited_and_goes_with_every_state(
    source: Path, settings: Settings, database: Database
) -> None:
    trust_code = add(source, settings)
    [row] = read_decisions(database).rows
    assert (row.bundle, row.state, row.trusted_code) == (NAME, ModelState.SHADOW, trust_code)
    [change] = list_changes(database)
    assert change.reason == f"code {trust_code} trusted; a try"
    audited = [str(each) for each in read_all(settings.state_directory / "audit")]
    assert any(trust_code in each for each in audited)

    promote_model(settings, database, NAME, share=0.5, reason="")
    assert state_of(settings) is ModelState.CANARY
    roll_back_model(settings, database, NAME, reason="")
    promote_model(settings, database, f"{NAME}@0.5.9", share=None, reason="")
    assert state_of(settings) is ModelState.PRIMARY
    # The node's own model answers beside it.
    assert state_of(settings, "chest_xray_pneumonia") is ModelState.PRIMARY
    (served,), faults = serve_foreign(settings, read_decisions(database), states=LOADED)
    assert (served.model.trust_code, faults) == (trust_code, {NAME: ""})
    with pytest.raises(UnknownRecordError, match="it is primary"):
        remove_model(settings, database, NAME, reason="")
    shadow_model(settings, database, NAME, reason="")
    remove_model(settings, database, NAME, reason="")
    assert not (settings.state_directory / "models" / NAME).exists()
    assert read_decisions(database).rows == ()


def test_files_changed_since_are_neither_promoted_nor_served_whoever_hashed_them_again(
    source: Path, settings: Settings, database: Database, tmp_path: Path
) -> None:
    add(source, settings)
    installed = settings.state_directory / "models" / NAME
    script = installed / "scripts" / "more.py"
    script.parent.mkdir(exist_ok=True)
    script.write_text("pass\n")
    with pytest.raises(BundleError, match="added or removed"):
        promote_model(settings, database, NAME, share=None, reason="")
    served, faults = serve_foreign(settings, read_decisions(database), states=LOADED)
    assert served == ()
    assert "added or removed" in faults[NAME]

    # Another bundle in its place, whole in itself, is still not the one that was trusted.
    other = Settings.model_validate(
        {**settings.model_dump(), "state_directory": tmp_path / "other"}
    )
    add(threshold(tmp_path / "changed", above=7), other)
    installed.rename(tmp_path / "former")
    (other.state_directory / "models" / NAME).rename(installed)
    with pytest.raises(BundleError, match="other code than was trusted"):
        promote_model(settings, database, NAME, share=None, reason="")


def test_it_never_takes_the_place_of_a_model_of_the_node(
    source: Path, settings: Settings, database: Database
) -> None:
    taken = SiteChoices(name="chest_xray_pneumonia")
    with pytest.raises(BundleError, match="there is a bundle 'chest_xray_pneumonia' already"):
        add(source, settings, taken)
    add(source, settings)
    with pytest.raises(BundleError, match="there is a bundle 'bones' already"):
        add(source, settings)
    assert [row.bundle for row in read_decisions(database).rows] == [NAME]


def test_a_model_of_the_node_is_not_added_under_the_name_of_a_foreign_one(
    source: Path, settings: Settings, database: Database, tmp_path: Path
) -> None:
    none = tmp_path / "none"
    none.mkdir()
    empty = settings.model_copy(
        update={"model_directory": none, "model_keys": (write_test_key(tmp_path),)}
    )
    trust_code = add(source, empty, SiteChoices(name=SIGNED))
    with pytest.raises(BundleError, match=f"there is a foreign bundle '{SIGNED}' already"):
        add_bundle(
            make_version(tmp_path / "made", "9.0.0"),
            empty,
            database,
            Spool(tmp_path / "spool", min_free_bytes=0),
            reason="",
        )
    [row] = read_decisions(database).rows
    assert (row.bundle, row.trusted_code) == (SIGNED, trust_code)


def test_files_that_merely_lie_there_are_granted_nothing(
    source: Path, settings: Settings, tmp_path: Path
) -> None:
    add(source, settings)
    (settings.state_directory / "models").rename(tmp_path / "zoo")
    named = settings.model_copy(
        update={
            "state_directory": tmp_path / "new",
            "model_directory": tmp_path / "zoo",
            "models": Settings.model_validate({"models": [NAME]}).models,
        }
    )
    opened, _, _ = open_state(named)
    assert state_of(named) is ModelState.RETIRED
    with pytest.raises(BundleError, match="nobody answers for"):
        promote_model(named, opened, NAME, share=None, reason="")
    opened.close()


def test_it_cannot_be_compared_and_that_is_said(source: Path, settings: Settings) -> None:
    add(source, settings)
    with pytest.raises(UnknownRecordError, match="cannot compare bones: it is a foreign bundle"):
        compare_models(
            settings,
            ("chest_xray_pneumonia", NAME),
            files=[],
            days=1,
            labels=None,
            progress=lambda *_, **__: pytest.fail("it was begun"),
        )


def test_the_commands_know_it(source: Path, tmp_path: Path, settings: Settings) -> None:
    config = tmp_path / "node.yaml"
    config.write_text(
        f"state_directory: {settings.state_directory}\nspool: {{min_free_bytes: 0}}\n"
    )
    site = tmp_path / "site.json"
    site.write_text(SITE.model_dump_json())
    runner = typer.testing.CliRunner()

    def models(*arguments: object) -> typer.testing.Result:
        return runner.invoke(app, ["models", *map(str, arguments), "--config", str(config)])

    trust_code = read_foreign_files(source).trust_hash
    refused = models("add", source)
    assert isinstance(refused.exception, UntrustedCodeError)
    # As the zoo hands it out.
    archive = shutil.make_archive(str(tmp_path / "bones"), "zip", source.parent, source.name)
    inspected = runner.invoke(app, ["foreign", "inspect", archive])
    assert json.loads(inspected.output)["trust_code"] == trust_code
    assert json.loads(inspected.output)["declaration"]["id"] == "bones"
    added = models("add", archive, "--trust-code", trust_code, "--site", site)
    assert added.exit_code == 0, added.output
    assert f"bones: version 0.5.9, foreign segmentation, trusted code {trust_code}" in added.output
    listed = models("list")
    assert listed.exit_code == 0, listed.output
    assert "foreign" in listed.output
    assert "trusted code" in listed.output
    shown = models("show", NAME)
    assert trust_code in shown.output
    assert "dense" in shown.output
    verified = models("verify", NAME)
    assert "files as trusted" in verified.output
    (settings.state_directory / "models" / NAME / "configs" / "metadata.json").write_text("{}")
    assert isinstance(models("verify", NAME).exception, BundleError)
    # A broken one in shadow is shown, and fails nothing.
    broken = models("list", "--json")
    assert broken.exit_code == 0
    assert "since it was installed" in broken.output


def test_a_refused_foreign_bundle_does_not_keep_the_node_from_starting(
    source: Path, settings: Settings, database: Database, tmp_path: Path
) -> None:
    add(source, settings)
    promote_model(settings, database, NAME, share=None, reason="")
    (settings.state_directory / "models" / NAME / "more.py").write_text("pass")
    config = tmp_path / "node.yaml"
    config.write_text(
        f"state_directory: {settings.state_directory}\nspool: {{min_free_bytes: 0}}\n"
    )
    # What `serve` asks before it starts anything.
    asked = ["models", "verify", "--in-service", "--config", str(config)]
    started = typer.testing.CliRunner().invoke(app, asked)
    assert started.exit_code == 0, started.output
    assert "chest_xray_pneumonia: version" in started.output
