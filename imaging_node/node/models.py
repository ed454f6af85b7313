"""Load bundles, verified and ready to score, onto this process's provider."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from imaging_node.dicom.terminology import term
from imaging_node.domain.errors import BundleError, ImagingNodeError, SettingsError
from imaging_node.domain.model_state import ModelState
from imaging_node.flow.analysis import ConfiguredModel, settings_digest
from imaging_node.inference.batching import Batcher
from imaging_node.inference.bundle import load_bundle
from imaging_node.inference.engine_cache import describe_gpu, engine_folder
from imaging_node.inference.execution import Execution, choose_provider, share_threads
from imaging_node.inference.foreign_bundle import is_foreign
from imaging_node.inference.opening import open_model
from imaging_node.inference.scorer import Scorer
from imaging_node.inference.trust import trusted_keys
from imaging_node.node.foreign_models import verify_foreign
from imaging_node.node.installed import (
    InstalledBundle,
    bundle_directory,
    find_bundle,
    installed_bundles,
    known_decisions,
    model_settings,
)
from imaging_node.node.serving import serve_models

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from imaging_node.flow.lineup import ServedModel
    from imaging_node.settings import Settings
    from imaging_node.telemetry import Counters

GATES_REPORT = "Image gates report only, by decision of the site."


class ModelLoader:
    """Owns the launches that all models of a process share, and loads models for them.

    Attributes:
        batcher: Runs the launches.
    """

    def __init__(
        self, settings: Settings, counters: Counters | None = None, *, device_id: int | None = None
    ) -> None:
        """Choose the provider and start the batcher.

        Args:
            settings: As read.
            counters: Where launches are counted.
            device_id: GPU of this process; None: the first of `scoring.devices`.

        Raises:
            SettingsError: The provider or a key of `model_keys` cannot be used.
        """
        scoring = settings.scoring
        in_flight, threads = share_threads(scoring.threads or os.cpu_count() or 1)
        self._settings = settings
        self._trusted = trusted_keys(settings.model_keys)
        self._execution = Execution(
            provider=choose_provider(scoring.provider),
            threads=threads,
            in_flight=in_flight,
            device_id=scoring.devices[0] if device_id is None else device_id,
        )
        self._loaded = 0
        self.batcher = Batcher(
            launch_budget_ms=scoring.launch_budget_ms,
            launch_limit_s=scoring.launch_limit_s,
            in_flight=in_flight,
            counters=counters,
        )

    def load(self, place: InstalledBundle, *, manifest_digest: str = "") -> ConfiguredModel:
        """Verify and load a bundle, golden cases included.

        Args:
            place: Where it is installed.
            manifest_digest: What must lie there; "" for any bundle of a trusted signer.

        Raises:
            BundleError: It is missing, damaged, another one, or answers its golden cases wrongly.
            SettingsError: A setting does not fit it.
        """
        if not place.directory.is_dir():
            raise SettingsError(
                f"models: there is no bundle {place.bundle!r} in {place.directory.parent};"
                " see `imaging-node models list`"
            )
        bundle = load_bundle(place.directory, self._trusted)
        if manifest_digest and bundle.manifest_digest != manifest_digest:
            raise BundleError(
                f"bundle {place.bundle}: manifest.json: is signed, but not the one that was added;"
                " remove the bundle and add it again"
            )
        for finding in bundle.findings:
            term(finding.label)  # a finding without a coded term could not be reported
        model = model_settings(self._settings, place.bundle)
        execution = self._execution
        if execution.provider == "tensorrt":
            folder = engine_folder(
                self._settings.state_directory,
                model_digest=bundle.identity.digest,
                gpu=describe_gpu(execution.device_id),
            )
            execution = replace(execution, engine_folder=folder)
        opened = open_model(bundle, execution, self._settings.scoring.precision)
        precision = opened.execution.named_precision
        self._loaded += 1
        scorer = Scorer(
            bundle,
            opened,
            self.batcher,
            site_operating_points=model.operating_points,
            # Two versions of one bundle may serve beside each other.
            name=f"{bundle.identity.name} {self._loaded}",
            gate_policy=model.gates,
        )
        own = {finding.label: finding.operating_point for finding in bundle.findings}
        return ConfiguredModel(
            scorer=scorer,
            waived=frozenset(model.waive),
            remarks=(
                *(
                    f"Operating point set by the site: {label} {point:g} (bundle: {own[label]:g})."
                    for label, point in sorted(model.operating_points.items())
                ),
                *([] if model.gates == "refuse" else [GATES_REPORT]),
                # What is exact needs no remark, wherever it runs.
                *([] if precision == "f32" else [f"Computed in reduced precision ({precision})."]),
            ),
            settings_digest=settings_digest(
                model.operating_points,
                frozenset(model.waive),
                precision=precision,
                gates=model.gates,
            ),
        )

    def close(self) -> None:
        """Answer what waits, then end the launches; safe to repeat."""
        self.batcher.close()


@contextmanager
def closed_on_failure(loader: ModelLoader) -> Iterator[None]:
    """End the launches when what is done with a new loader fails."""
    try:
        yield
    except ImagingNodeError:
        loader.close()
        raise


def require_findings(settings: Settings, models: Sequence[ServedModel]) -> None:
    """Refuse triage rules of the site for findings that nothing scores.

    Raises:
        SettingsError: There is such a rule.
    """
    labels = {finding.label for each in models for finding in each.model.bundle.findings}
    for rule in settings.priority.rules:
        if rule.finding not in labels:
            raise SettingsError(
                f"priority.rules: no configured bundle has a finding {rule.finding!r};"
                f" there are {', '.join(sorted(labels))}"
            )


def load_models(
    settings: Settings, counters: Counters | None = None, *, device_id: int | None = None
) -> tuple[ConfiguredModel, ...]:
    """The bundles that are primary by settings and decisions, loaded; they share launches.

    Raises:
        BundleError: A bundle is missing, damaged or answers its golden cases wrongly.
        SettingsError: A setting does not fit its bundle.
    """
    loader = ModelLoader(settings, counters, device_id=device_id)
    with closed_on_failure(loader):
        models, _ = serve_models(
            settings, known_decisions(settings), loader, states={ModelState.PRIMARY}
        )
        require_findings(settings, models)
    return tuple(each.model for each in models)


def verify_bundle(
    name: str, settings: Settings, *, manifest_digest: str = "", trusted_code: str = ""
) -> str:
    """Check one bundle's files and golden cases, with the site's settings for it if there are.

    Args:
        name: Its folder's, or "<id>@<version>".
        manifest_digest: What was added under that name; "" for any that is signed.
        trusted_code: Of a foreign bundle, the hash that was granted.

    Returns:
        One line that says what was checked.

    Raises:
        BundleError: Naming the bundle and the file at fault.
        SettingsError: There is no such bundle, or its settings do not fit it.
    """
    installed = installed_bundles(settings)
    if name not in installed and "@" not in name:
        raise SettingsError(
            f"models: there is no bundle {name!r} in {bundle_directory(settings)};"
            " see `imaging-node models list`"
        )
    return verify_place(
        find_bundle(installed, name),
        settings,
        manifest_digest=manifest_digest,
        trusted_code=trusted_code,
    )


def verify_place(
    place: InstalledBundle,
    settings: Settings,
    *,
    manifest_digest: str = "",
    trusted_code: str = "",
) -> str:
    """The same for a folder."""
    if trusted_code or is_foreign(place.directory):
        return verify_foreign(place, manifest_digest=manifest_digest, trusted_code=trusted_code)
    loader = ModelLoader(settings)
    try:
        model = loader.load(place, manifest_digest=manifest_digest)
    finally:
        loader.close()
    bundle, opened = model.bundle, model.scorer.opened
    refusal = f" (not in {opened.refusal})" if opened.refusal else ""
    return (
        f"version {bundle.identity.version}, signed by {bundle.signer}, {len(bundle.files)} files"
        f" as signed off, {len(bundle.golden)} golden cases answered on {opened.runs_on}{refusal}"
    )
