"""How `models list` and `models show` tell of foreign bundles."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from imaging_node.cli.printing import print_json, print_rows
from imaging_node.domain.errors import BundleError

if TYPE_CHECKING:
    from imaging_node.domain.model_state import ModelRow
    from imaging_node.inference.foreign_bundle import ForeignBundle
    from imaging_node.node.installed import InstalledBundle

_LABELS = ("channel", "name", "code", "meaning", "category")


def listed_foreign(row: ModelRow, place: InstalledBundle | None) -> dict[str, Any]:
    """The row of a foreign bundle, with what is wrong with it."""
    fault = row.fault
    loaded = None
    try:
        loaded = _load(row, place)
    except BundleError as error:
        fault = str(error)
    return {
        "name": row.bundle,
        "kind": "foreign",
        "version": loaded.identity.version if loaded else "",
        "state": row.state.value,
        "share": row.share,
        "findings": [each.name for each in loaded.labels] if loaded else [],
        "digest": loaded.identity.digest if loaded else "",
        "signer": "trusted code" if row.trusted_code else "",
        "maps_verified": False,
        "used": row.state.may_answer,
        "fault": fault,
        "description": f"{loaded.declaration.task}, calls nothing" if loaded else "",
    }


def show_foreign(row: ModelRow, place: InstalledBundle, *, as_json: bool) -> None:
    """Print what a foreign bundle is, and what was trusted.

    Raises:
        BundleError: It is not what was trusted.
    """
    loaded = _load(row, place)
    declaration = loaded.declaration
    shown: dict[str, Any] = {
        "bundle": row.bundle,
        "kind": "foreign",
        "version": declaration.version,
        "manufacturer": declaration.manufacturer,
        "state": row.state.value,
        "share": row.share,
        "fault": row.fault,
        "model_digest": loaded.identity.digest,
        "manifest_digest": row.manifest_digest,
        "trust_code": loaded.trust_hash,
        "signer": "trusted code",
        "task": declaration.task.value,
        "spatial_dimensions": declaration.spatial_dimensions,
        "modalities": list(declaration.modalities),
        "body_parts": list(declaration.body_parts),
        "files": len(loaded.files),
    }
    labels = [
        {
            "channel": each.channel,
            "name": each.name,
            "code": f"{each.concept.value} {each.concept.scheme}",
            "meaning": each.concept.meaning,
            "category": each.category.meaning,
        }
        for each in declaration.labels
    ]
    if as_json:
        print_json(shown | {"labels": labels})
        return
    print_rows([{"what": key, "value": value} for key, value in shown.items()], ("what", "value"))
    print_rows(labels, _LABELS)


def _load(row: ModelRow, place: InstalledBundle | None) -> ForeignBundle:
    from imaging_node.node.foreign_models import load_granted

    if place is None:
        raise BundleError(f"bundle {row.bundle}: its folder is missing; add it again")
    return load_granted(place, manifest_digest=row.manifest_digest, trusted_code=row.trusted_code)
