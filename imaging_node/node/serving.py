"""From what was decided about models to those that are loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imaging_node.domain.errors import BundleError, SettingsError
from imaging_node.domain.model_state import ModelState
from imaging_node.flow.lineup import ServedModel
from imaging_node.inference.bundle_files import MANIFEST_NAME, digest_of_manifest
from imaging_node.node.foreign_models import is_foreign_row
from imaging_node.node.installed import (
    InstalledBundle,
    bundle_directory,
    effective_rows,
    installed_bundles,
)
from imaging_node.telemetry import Event, log

if TYPE_CHECKING:
    from collections.abc import Container, Sequence

    from imaging_node.domain.model_state import ModelRow
    from imaging_node.flow.analysis import ConfiguredModel
    from imaging_node.node.models import ModelLoader
    from imaging_node.settings import Settings
    from imaging_node.store.model_states import ModelDecisions

LOADED = frozenset(each for each in ModelState if each.is_loaded)


def serve_models(
    settings: Settings,
    decisions: ModelDecisions,
    loader: ModelLoader,
    *,
    former: Sequence[ServedModel] = (),
    states: Container[ModelState] = LOADED,
) -> tuple[tuple[ServedModel, ...], dict[str, str]]:
    """Load what the decisions ask for; a bundle that serves already is not loaded again.

    Foreign bundles are not among them: see `node.foreign_models`.

    Args:
        former: What serves now. When there is something, a bundle that is refused leaves the
            former primary of its name in its place.
        states: Those that are loaded.

    Returns:
        What serves from now on; and for every bundle looked at why it was refused, "" if not.

    Raises:
        BundleError: A primary is refused, and nothing serves yet.
        SettingsError: The same, because of a setting.
    """
    installed = installed_bundles(settings)
    serving: list[ServedModel] = []
    faults: dict[str, str] = {}
    for row in effective_rows(settings, decisions, installed):
        if row.state not in states or is_foreign_row(row, installed.get(row.bundle)):
            continue
        place = installed.get(row.bundle) or InstalledBundle(
            bundle=row.bundle,
            directory=bundle_directory(settings) / row.bundle,
            is_added=False,
        )
        try:
            model = _serving_already(place, former) or loader.load(
                place, manifest_digest=row.manifest_digest
            )
        except (BundleError, SettingsError) as error:
            if row.state is ModelState.PRIMARY and not former:
                raise
            faults[row.bundle] = str(error)
            log(Event.MODEL_REFUSED, model=row.bundle, state=row.state, reason=str(error))
            serving += _former_primary(row, former)
        else:
            faults[row.bundle] = ""
            serving.append(
                ServedModel(model=model, bundle=row.bundle, state=row.state, share=row.share)
            )
    return tuple(serving), faults


def _serving_already(
    place: InstalledBundle, former: Sequence[ServedModel]
) -> ConfiguredModel | None:
    try:
        manifest = (place.directory / MANIFEST_NAME).read_bytes()
    except OSError:
        return None
    digest = digest_of_manifest(manifest)
    return next(
        (
            each.model
            for each in former
            if each.bundle == place.bundle and each.model.bundle.manifest_digest == digest
        ),
        None,
    )


def _former_primary(row: ModelRow, former: Sequence[ServedModel]) -> list[ServedModel]:
    """What serves on in the place of a primary that was refused."""
    if row.state is not ModelState.PRIMARY:
        return []
    return [each for each in former if each.name == row.name and each.state is ModelState.PRIMARY]
