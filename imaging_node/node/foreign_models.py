"""Foreign bundles among the models: verified against what was granted, and served with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imaging_node.domain.errors import BundleError
from imaging_node.flow.foreign_analysis import ForeignModel
from imaging_node.flow.lineup import ServedForeign
from imaging_node.inference.bundle_files import MANIFEST_NAME, digest_of_manifest
from imaging_node.inference.foreign_bundle import is_foreign, load_foreign
from imaging_node.inference.foreign_runner import ForeignLimits
from imaging_node.node.installed import effective_rows, installed_bundles
from imaging_node.telemetry import Event, log

if TYPE_CHECKING:
    from collections.abc import Container

    from imaging_node.domain.model_state import ModelRow, ModelState
    from imaging_node.inference.foreign_bundle import ForeignBundle
    from imaging_node.node.installed import InstalledBundle
    from imaging_node.settings import Settings
    from imaging_node.store.model_states import ModelDecisions


def is_foreign_row(row: ModelRow, place: InstalledBundle | None) -> bool:
    """True for a bundle that was granted trust, and for files that would need it."""
    return bool(row.trusted_code) or (place is not None and is_foreign(place.directory))


def load_granted(
    place: InstalledBundle, *, manifest_digest: str, trusted_code: str
) -> ForeignBundle:
    """A foreign bundle whose every byte is what an operator answers for on this node.

    Raises:
        BundleError: A file is another one, or nobody granted trust.
    """
    bundle = load_foreign(place.directory)
    if not trusted_code:
        raise BundleError(
            f"bundle {place.bundle} is code that nobody answers for on this node; add it with"
            " `imaging-node models add PATH --trust-code HASH`"
        )
    if bundle.trust_hash != trusted_code:
        raise BundleError(
            f"bundle {place.bundle} is other code than was trusted; remove it and add it again"
        )
    if installed_digest(place) != manifest_digest:
        raise BundleError(
            f"bundle {place.bundle}: manifest.json: is not the one that was added; remove the"
            " bundle and add it again"
        )
    return bundle


def installed_digest(place: InstalledBundle) -> str:
    """SHA-256 over the manifest of an installed bundle.

    Raises:
        BundleError: It cannot be read.
    """
    try:
        return digest_of_manifest((place.directory / MANIFEST_NAME).read_bytes())
    except OSError as error:
        raise BundleError(f"bundle {place.bundle}: {MANIFEST_NAME}: cannot be read") from error


def verify_foreign(place: InstalledBundle, *, manifest_digest: str, trusted_code: str) -> str:
    """Hash a foreign bundle again; one line that says what was checked, raises as `load_granted`.

    Nothing of it is run: it brings no golden cases.
    """
    bundle = load_granted(place, manifest_digest=manifest_digest, trusted_code=trusted_code)
    return (
        f"version {bundle.identity.version}, foreign {bundle.declaration.task}, trusted code"
        f" {bundle.trust_hash}, {len(bundle.files)} files as trusted; no golden cases, nothing run"
    )


def serve_foreign(
    settings: Settings, decisions: ModelDecisions, *, states: Container[ModelState]
) -> tuple[tuple[ServedForeign, ...], dict[str, str]]:
    """The foreign bundles that the decisions ask for; what serves is all that could be loaded.

    A foreign bundle that is refused is a fault of its own: the node serves without it.

    Args:
        states: Those that are loaded.

    Returns:
        What serves; and for every foreign bundle looked at why it was refused, "" if not.
    """
    installed = installed_bundles(settings)
    scoring = settings.scoring
    limits = ForeignLimits(
        time_limit_s=scoring.foreign_limit_s,
        memory_limit_bytes=scoring.foreign_memory_mib * 2**20,
        threads=scoring.foreign_threads,
    )
    serving: list[ServedForeign] = []
    faults: dict[str, str] = {}
    for row in effective_rows(settings, decisions, installed):
        place = installed.get(row.bundle)
        if row.state not in states or not is_foreign_row(row, place):
            continue
        try:
            if place is None:
                raise BundleError(f"bundle {row.bundle}: its folder is missing; add it again")  # noqa: TRY301 - a fault like the others
            bundle = load_granted(
                place, manifest_digest=row.manifest_digest, trusted_code=row.trusted_code
            )
        except BundleError as error:
            faults[row.bundle] = str(error)
            log(Event.MODEL_REFUSED, model=row.bundle, state=row.state, reason=str(error))
        else:
            faults[row.bundle] = ""
            model = ForeignModel(bundle=bundle, trust_code=row.trusted_code, limits=limits)
            serving.append(
                ServedForeign(model=model, bundle=row.bundle, state=row.state, share=row.share)
            )
    return tuple(serving), faults
