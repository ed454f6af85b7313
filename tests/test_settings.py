"""Settings that could not work refuse to start, and say what would be right."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import settings_reference
import yaml

from imaging_node.domain.errors import SettingsError
from imaging_node.domain.priority import ReadingPriority
from imaging_node.settings import Settings, load_settings

if TYPE_CHECKING:
    from pathlib import Path


def loaded(tmp_path: Path, content: object) -> Settings:
    path = tmp_path / "node.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return load_settings(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"dicm": {}}, "dicm: unknown setting"),
        ({"dicom": {"prot": 1}}, "known here: ae_title, allow_plaintext"),
        ({"dicom": {"port": "many"}}, "dicom.port: 'many'"),
        ({"dicom": {"port": 70000}}, "65535"),
        ({"dicom": {"ae_title": "A" * 17}}, "dicom.ae_title"),
        ({"dicom": {"ae_title": "A\\B"}}, "dicom.ae_title"),
        ({"destinations": ["nowhere"]}, "'nowhere' is not among the peers (pacs)"),
        ({"models": []}, "models"),
        ({"models": ["a", "a"]}, "models"),
        ({"models": [{"name": "a", "waive": ["everything"]}]}, "waive"),
        ({"models": [{"name": "a", "operating_points": {"x": 2}}]}, "operating_points"),
        ({"database": {"url": "mysql://x"}}, "database.url"),
        ({"study": {"quiet_period_s": -1}}, "study.quiet_period_s"),
        ({"dicom": {"host": "192.0.2.1"}}, "dicom.allow_plaintext"),
        ({"dicom": {"callers": [{"ae_title": "A", "address": "10.0.0.1/8"}]}}, "host bits"),
        (
            {
                "dicom": {
                    "callers": [{"ae_title": "A", "address": "::1", "certificate_sha256": "a" * 64}]
                }
            },
            "dicom.tls",
        ),
        ({"dicom": {"user_identity": "require"}}, "dicom.users"),
        ({"delivery": {"retry_first_s": 9, "retry_max_s": 3}}, "delivery: "),
        ({"peers": {"pacs": {"ae_title": "A", "host": "h"}}}, "peers.pacs.port"),
        ("- a list", "must hold keys"),
        ("a: [", "is no YAML, line"),
    ],
)
def test_what_cannot_work_is_refused_with_the_key_and_what_would_be_right(
    tmp_path: Path, content: object, said: str
) -> None:
    with pytest.raises(SettingsError) as refused:
        loaded(tmp_path, content)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    "dicom",
    [
        {"host": "127.0.0.1"},
        {"host": "::1"},
        {"host": "0.0.0.0", "allow_plaintext": True},  # noqa: S104 - checked, not bound
        {"host": "192.0.2.1", "tls": {"certificate": "a", "key": "b", "ca": "c"}},
        {"host": "127.0.0.1", "tls": {"certificate": None, "key": None, "ca": None}},
    ],
)
def test_loopback_or_tls_or_a_stated_decision_lets_the_listener_start(
    tmp_path: Path, dicom: dict[str, Any]
) -> None:
    assert loaded(tmp_path, {"dicom": dicom}).dicom.host == dicom["host"]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"absent\.yaml"):
        load_settings(tmp_path / "absent.yaml")


def test_the_environment_overrides_the_file_key_by_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMAGING_NODE__DICOM__PORT", "104")
    monkeypatch.setenv("IMAGING_NODE__PEERS__PACS__HOST", "pacs.example")

    settings = loaded(tmp_path, {"dicom": {"ae_title": "MINE", "port": 11113}})

    assert (settings.dicom.ae_title, settings.dicom.port) == ("MINE", 104)
    assert (settings.peers["pacs"].host, settings.peers["pacs"].port) == ("pacs.example", 11113)


@pytest.mark.parametrize("variable", ["IMAGING_NODE__DICM__PORT", "IMAGING_NODE__DICOM__PROT"])
def test_a_variable_that_sets_nothing_is_refused(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "1")

    with pytest.raises(SettingsError, match=r"no such setting|unknown setting"):
        load_settings()


def test_the_file_named_by_the_environment_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "named.yaml").write_text("dicom: {ae_title: NAMED}")
    monkeypatch.setenv("IMAGING_NODE_CONFIG", str(tmp_path / "named.yaml"))

    assert load_settings().dicom.ae_title == "NAMED"


def test_a_model_is_a_name_or_an_object(tmp_path: Path) -> None:
    settings = loaded(
        tmp_path, {"models": ["a", {"name": "b", "operating_points": {"x": 0.5}, "waive": ["age"]}]}
    )

    assert [model.name for model in settings.models] == ["a", "b"]
    assert settings.models[1].operating_points == {"x": 0.5}


def test_priorities_by_sender_are_words_of_the_worklist(tmp_path: Path) -> None:
    settings = loaded(tmp_path, {"priority": {"calling_ae_titles": {"ED": "stat"}}})

    assert settings.priority.calling_ae_titles == {"ED": ReadingPriority.STAT}


def test_the_reference_names_every_setting_and_is_up_to_date() -> None:
    assert settings_reference.MARKDOWN.read_text() == settings_reference.markdown()
    assert settings_reference.YAML.read_text() == settings_reference.commented_yaml()
    assert load_settings(settings_reference.YAML) == load_settings()


def test_the_reference_test_would_notice_a_missing_key() -> None:
    whole: dict[str, Any] = yaml.safe_load(settings_reference.commented_yaml())
    named = {".".join(entry.path) for entry in settings_reference.entries()}

    assert {f"scoring.{key}" for key in whole["scoring"]} <= named
    assert set(whole) == {name for name in named if "." not in name} == set(Settings.model_fields)


def test_an_environment_variable_that_is_no_json_is_refused_in_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("IMAGING_NODE__DESTINATIONS", "pacs")
    with pytest.raises(SettingsError, match=r'destinations.*\["pacs"\]'):
        load_settings()
