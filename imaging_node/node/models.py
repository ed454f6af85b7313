"""Load the bundles that the settings name, verified and ready to score."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from imaging_node.dicom.terminology import term
from imaging_node.domain.errors import ImagingNodeError, SettingsError
from imaging_node.flow.analysis import ConfiguredModel, settings_digest
from imaging_node.inference.batching import Batcher
from imaging_node.inference.bundle import default_bundle_directory, find_bundles, load_bundle
from imaging_node.inference.engine_cache import describe_gpu, engine_folder
from imaging_node.inference.execution import Execution, choose_provider, share_threads
from imaging_node.inference.opening import open_model
from imaging_node.inference.scorer import Scorer
from imaging_node.inference.trust import trusted_keys
from imaging_node.settings import ModelSettings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from imaging_node.settings import Settings
    from imaging_node.telemetry import Counters


def bundle_directory(settings: Settings) -> Path:
    """Folder of the bundles."""
    return settings.model_directory or default_bundle_directory()


def load_models(
    settings: Settings, counters: Counters | None = None, *, device_id: int | None = None
) -> tuple[ConfiguredModel, ...]:
    """Verify and load every configured bundle, golden cases included; they share launches.

    Args:
        settings: As read.
        counters: Where launches are counted.
        device_id: GPU of this process; None: the first of `scoring.devices`.

    Raises:
        BundleError: A bundle is missing, damaged or answers its golden cases wrongly.
        SettingsError: A setting does not fit its bundle.
    """
    execution = _execution(settings, device_id)
    batcher = _open_batcher(settings, execution, counters)
    with _closed_on_failure(batcher):
        models = tuple(_load(model, settings, execution, batcher) for model in settings.models)
    labels = {finding.label for model in models for finding in model.bundle.findings}
    for rule in settings.priority.rules:
        if rule.finding not in labels:
            raise SettingsError(
                f"priority.rules: no configured bundle has a finding {rule.finding!r};"
                f" there are {', '.join(sorted(labels))}"
            )
    return models


def _execution(settings: Settings, device_id: int | None) -> Execution:
    scoring = settings.scoring
    in_flight, threads = share_threads(scoring.threads or os.cpu_count() or 1)
    return Execution(
        provider=choose_provider(scoring.provider),
        threads=threads,
        in_flight=in_flight,
        device_id=scoring.devices[0] if device_id is None else device_id,
    )


def _open_batcher(
    settings: Settings, execution: Execution, counters: Counters | None = None
) -> Batcher:
    return Batcher(
        launch_budget_ms=settings.scoring.launch_budget_ms,
        launch_limit_s=settings.scoring.launch_limit_s,
        in_flight=execution.in_flight,
        counters=counters,
    )


@contextmanager
def _closed_on_failure(batcher: Batcher) -> Iterator[None]:
    try:
        yield
    except ImagingNodeError:
        batcher.close()
        raise


def _load(
    model: ModelSettings, settings: Settings, execution: Execution, batcher: Batcher
) -> ConfiguredModel:
    directory = bundle_directory(settings) / model.name
    if not directory.is_dir():
        raise SettingsError(
            f"models: there is no bundle {model.name!r} in {bundle_directory(settings)};"
            " see `imaging-node models list`"
        )
    bundle = load_bundle(directory, trusted_keys(settings.model_keys))
    for finding in bundle.findings:
        term(finding.label)  # a finding without a coded term could not be reported
    if execution.provider == "tensorrt":
        folder = engine_folder(
            settings.state_directory,
            model_digest=bundle.identity.digest,
            gpu=describe_gpu(execution.device_id),
        )
        execution = replace(execution, engine_folder=folder)
    opened = open_model(bundle, execution, settings.scoring.precision)
    precision = opened.execution.named_precision
    scorer = Scorer(bundle, opened, batcher, site_operating_points=model.operating_points)
    own = {finding.label: finding.operating_point for finding in bundle.findings}
    return ConfiguredModel(
        scorer=scorer,
        waived=frozenset(model.waive),
        remarks=(
            *(
                f"Operating point set by the site: {label} {point:g} (bundle: {own[label]:g})."
                for label, point in sorted(model.operating_points.items())
            ),
            # What is exact needs no remark, wherever it runs.
            *([] if precision == "f32" else [f"Computed in reduced precision ({precision})."]),
        ),
        settings_digest=settings_digest(
            model.operating_points, frozenset(model.waive), precision=precision
        ),
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
    execution = _execution(settings, None)
    batcher = _open_batcher(settings, execution)
    with _closed_on_failure(batcher):
        model = _load(wanted or ModelSettings(name=name), settings, execution, batcher)
    model.scorer.close()
    bundle, opened = model.bundle, model.scorer.opened
    refusal = f" (not in {opened.refusal})" if opened.refusal else ""
    return (
        f"version {bundle.identity.version}, {len(bundle.files)} files as signed off,"
        f" {len(bundle.golden)} golden cases answered on {opened.runs_on}{refusal}"
    )
