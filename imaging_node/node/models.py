"""Load the bundles that the settings name, verified and ready to score."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from imaging_node.dicom.terminology import term
from imaging_node.domain.errors import SettingsError
from imaging_node.flow.analysis import ConfiguredModel, settings_digest
from imaging_node.inference.batching import LAUNCHES_IN_FLIGHT, Batcher
from imaging_node.inference.bundle import default_bundle_directory, find_bundles, load_bundle
from imaging_node.inference.scorer import Scorer
from imaging_node.settings import ModelSettings

if TYPE_CHECKING:
    from pathlib import Path

    from imaging_node.settings import Settings
    from imaging_node.telemetry import Counters


def bundle_directory(settings: Settings) -> Path:
    """Folder of the bundles."""
    return settings.model_directory or default_bundle_directory()


def load_models(
    settings: Settings, counters: Counters | None = None
) -> tuple[ConfiguredModel, ...]:
    """Verify and load every configured bundle, golden cases included; they share launches.

    Raises:
        BundleError: A bundle is missing, damaged or answers its golden cases wrongly.
        SettingsError: A setting does not fit its bundle.
    """
    batcher = _open_batcher(settings, counters)
    models = tuple(_load(model, settings, batcher) for model in settings.models)
    labels = {finding.label for model in models for finding in model.bundle.findings}
    for rule in settings.priority.rules:
        if rule.finding not in labels:
            raise SettingsError(
                f"priority.rules: no configured bundle has a finding {rule.finding!r};"
                f" there are {', '.join(sorted(labels))}"
            )
    return models


def _open_batcher(settings: Settings, counters: Counters | None = None) -> Batcher:
    threads = _threads(settings)
    return Batcher(
        launch_budget_ms=settings.scoring.launch_budget_ms,
        in_flight=min(threads, LAUNCHES_IN_FLIGHT),
        counters=counters,
    )


def _threads(settings: Settings) -> int:
    return settings.scoring.threads or os.cpu_count() or 1


def _load(model: ModelSettings, settings: Settings, batcher: Batcher) -> ConfiguredModel:
    directory = bundle_directory(settings) / model.name
    if not directory.is_dir():
        raise SettingsError(
            f"models: there is no bundle {model.name!r} in {bundle_directory(settings)};"
            " see `imaging-node models list`"
        )
    bundle = load_bundle(directory)
    for finding in bundle.findings:
        term(finding.label)  # a finding without a coded term could not be reported
    scorer = Scorer(
        bundle,
        batcher,
        threads=max(1, _threads(settings) // batcher.in_flight),
        site_operating_points=model.operating_points,
    )
    own = {finding.label: finding.operating_point for finding in bundle.findings}
    return ConfiguredModel(
        scorer=scorer,
        waived=frozenset(model.waive),
        remarks=tuple(
            f"Operating point set by the site: {label} {point:g} (bundle: {own[label]:g})."
            for label, point in sorted(model.operating_points.items())
        ),
        settings_digest=settings_digest(model.operating_points, frozenset(model.waive)),
    )


def bundle_names(settings: Settings) -> list[str]:
    """Names of all bundles there are."""
    return [directory.name for directory in find_bundles(bundle_directory(settings))]


def verify_bundle(name: str, settings: Settings) -> str:
    """Check one bundle's files and golden cases, with the site's settings for it if there are.

    Returns:
        One line that says what was checked.

    Raises:
        BundleError: Naming the bundle and the file at fault.
        SettingsError: There is no such bundle, or its settings do not fit it.
    """
    wanted = next((model for model in settings.models if model.name == name), None)
    model = _load(wanted or ModelSettings(name=name), settings, _open_batcher(settings))
    model.scorer.close()
    bundle = model.bundle
    return (
        f"version {bundle.identity.version}, {len(bundle.files)} files as signed off,"
        f" {len(bundle.golden)} golden cases answered on {', '.join(model.scorer.providers)}"
    )
