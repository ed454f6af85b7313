"""Settings that must fit the bundles."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from imaging_node.domain.errors import SettingsError
from imaging_node.flow.analysis import settings_digest
from imaging_node.node.models import load_models, verify_bundle
from imaging_node.node.serve import Node
from imaging_node.settings import Settings
from imaging_node.settings.work import ScoringSettings


def test_a_triage_rule_for_a_finding_that_no_bundle_has_is_refused() -> None:
    rule = {"finding": "Pneumonai", "priority": "stat"}
    settings = Settings.model_validate({"priority": {"rules": [rule]}})

    with pytest.raises(SettingsError, match=r"'Pneumonai'.*Pneumonia"):
        load_models(settings)


def test_verifying_says_where_and_in_which_precision_the_golden_cases_were_answered() -> None:
    line = verify_bundle("chest_xray_pneumonia", Settings(scoring=ScoringSettings(provider="cpu")))
    assert line.endswith("golden cases answered on CPUExecutionProvider, f32")


def test_a_reduced_precision_is_part_of_the_settings_digest_and_f32_changes_nothing() -> None:
    plain = settings_digest({"Pneumonia": 0.5}, frozenset())
    assert settings_digest({"Pneumonia": 0.5}, frozenset(), precision="f32") == plain
    assert settings_digest({"Pneumonia": 0.5}, frozenset(), precision="bf16") != plain


def test_a_provider_that_cannot_compute_so_refuses_to_start() -> None:
    settings = Settings(scoring=ScoringSettings(provider="cpu", precision="bf16"))
    with pytest.raises(SettingsError, match=r"scoring\.precision"):
        load_models(settings)


@pytest.mark.parametrize("devices", [(0, 0), (0, 1)])
def test_several_devices_need_a_provider_with_gpus_and_different_numbers(
    devices: tuple[int, ...],
) -> None:
    with pytest.raises(ValidationError, match="devices"):
        ScoringSettings(provider="cpu", devices=devices)


def test_each_gpu_has_a_score_process_of_its_own() -> None:
    settings = Settings(scoring=ScoringSettings(provider="cuda", devices=(2, 5)))
    node = Node(settings, None)
    scorers = [name for role, name in node._names() if role == "score"]
    assert scorers == ["score", "score-2"]
    assert [node._device_id(name) for name in scorers] == [2, 5]
