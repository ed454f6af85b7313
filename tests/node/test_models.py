"""Settings that must fit the bundles."""

from __future__ import annotations

import pytest

from imaging_node.domain.errors import SettingsError
from imaging_node.node.models import load_models
from imaging_node.settings import Settings


def test_a_triage_rule_for_a_finding_that_no_bundle_has_is_refused() -> None:
    rule = {"finding": "Pneumonai", "priority": "stat"}
    settings = Settings.model_validate({"priority": {"rules": [rule]}})

    with pytest.raises(SettingsError, match=r"'Pneumonai'.*Pneumonia"):
        load_models(settings)
