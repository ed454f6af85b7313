"""`models`: the bundles there are, what they claim, and what was done to them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from imaging_node.cli.options import ConfigOption, JsonOption
from imaging_node.cli.printing import plain, print_json, print_rows
from imaging_node.domain.errors import BundleError, OperatorError
from imaging_node.settings import load_settings

if TYPE_CHECKING:
    from imaging_node.domain.model_state import ModelRow
    from imaging_node.inference.bundle import Bundle
    from imaging_node.node.installed import InstalledBundle
    from imaging_node.settings import Settings

models = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="List, show, verify, add, change and compare model bundles.",
)
BundleArgument = Annotated[
    str, typer.Argument(metavar="BUNDLE", help="A bundle: its id, or id@version.")
]
_LISTED = (
    "name", "kind", "version", "state", "share", "findings", "signer", "fault", "description",
)  # fmt: skip
_HISTORY = (
    "changed_at", "bundle", "action", "former", "state", "share", "changed_by", "reason", "digest",
)  # fmt: skip


@models.command("list")
def list_models(config: ConfigOption = None, *, as_json: JsonOption = False) -> None:
    """List the bundles: name, version, state, signer, findings, and what is wrong with one."""
    from imaging_node.node.installed import bundle_states

    settings = load_settings(config)
    rows = [_listed(row, place, settings) for row, place in bundle_states(settings)]
    if as_json:
        print_json(rows)
    else:
        print_rows(rows, _LISTED)
    # A broken bundle that answers nobody is shown, and no reason to fail.
    broken = [row for row in rows if row["fault"] and row["state"] in ("primary", "canary")]
    if broken:
        raise BundleError(broken[0]["fault"])


@models.command("show")
def show_model(
    bundle: BundleArgument, config: ConfigOption = None, *, as_json: JsonOption = False
) -> None:
    """Show a bundle: state, digests, eligibility, operating points, its card with all metrics."""
    from imaging_node.cli.foreign_models import show_foreign
    from imaging_node.node.foreign_models import is_foreign_row
    from imaging_node.node.installed import bundle_states, find_bundle, installed_bundles

    settings = load_settings(config)
    place = find_bundle(installed_bundles(settings), bundle)
    [row] = [each for each, _ in bundle_states(settings) if each.bundle == place.bundle]
    if is_foreign_row(row, place):
        show_foreign(row, place, as_json=as_json)
        return
    loaded = _load(place, settings)
    shown = _shown(row, loaded)
    card = loaded.card.read_text(encoding="utf-8")
    if as_json:
        print_json(
            shown
            | {"eligibility": plain(loaded.eligibility), "findings": _points(loaded), "card": card}
        )
        return
    scalars = shown | plain(loaded.eligibility)
    print_rows([{"what": key, "value": value} for key, value in scalars.items()], ("what", "value"))
    print_rows(_points(loaded), ("label", "operating_point", "undetermined_from"))
    typer.echo(f"\n{card}")


@models.command("history")
def show_history(
    bundle: Annotated[
        str, typer.Argument(metavar="[BUNDLE]", help="A bundle, or an id for all its versions.")
    ] = "",
    config: ConfigOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Show who changed which model when, to what, and why."""
    from imaging_node.node.wiring import open_state
    from imaging_node.store.model_states import list_changes

    database, _, _ = open_state(load_settings(config))
    rows = [plain(each) for each in list_changes(database, bundle)]
    if as_json:
        print_json(rows)
    else:
        print_rows(rows, _HISTORY)


@models.command("verify")
def verify_models(
    names: Annotated[list[str] | None, typer.Argument(help="Bundles; none: all of them.")] = None,
    config: ConfigOption = None,
    *,
    in_service: Annotated[
        bool, typer.Option("--in-service", help="Instead: the node's own that are primary.")
    ] = False,
) -> None:
    """Check signature and every file of the bundles, and run their golden cases.

    A foreign bundle is hashed against what was trusted; nothing of it is run. One that is refused
    does not keep the others from being checked.
    """
    from imaging_node.domain.model_state import ModelState
    from imaging_node.node.installed import bundle_states, find_bundle, installed_bundles
    from imaging_node.node.models import verify_bundle

    settings = load_settings(config)
    rows = {row.bundle: row for row, _ in bundle_states(settings)}
    chosen = names or list(rows)
    if in_service:
        # A node serves without a foreign bundle that is refused, and starts without it.
        chosen = [
            row.bundle
            for row in rows.values()
            if row.state is ModelState.PRIMARY and not row.trusted_code
        ]
    refused: list[OperatorError] = []
    for name in chosen:
        known = name
        try:
            if name not in rows and "@" in name:
                known = find_bundle(installed_bundles(settings), name).bundle
            row = rows.get(known)
            verified = verify_bundle(
                known,
                settings,
                manifest_digest=row.manifest_digest if row else "",
                trusted_code=row.trusted_code if row else "",
            )
        except OperatorError as error:
            refused.append(error)
            typer.echo(f"{name}: refused: {error}")
        else:
            typer.echo(f"{name}: {verified}")
    if refused:
        raise refused[0]


def _load(place: InstalledBundle, settings: Settings) -> Bundle:
    from imaging_node.inference.bundle import load_bundle
    from imaging_node.inference.trust import trusted_keys

    return load_bundle(place.directory, trusted_keys(settings.model_keys))


def _listed(row: ModelRow, place: InstalledBundle | None, settings: Settings) -> dict[str, Any]:
    from imaging_node.cli.foreign_models import listed_foreign
    from imaging_node.node.foreign_models import is_foreign_row

    if is_foreign_row(row, place):
        return listed_foreign(row, place)
    fault = row.fault
    loaded = None
    try:
        if place is None:
            fault = f"there is no bundle {row.bundle!r}"
        else:
            loaded = _load(place, settings)
    except BundleError as error:
        fault = str(error)
    identity = loaded.identity if loaded else None
    return {
        "name": row.bundle,
        "kind": "signed",
        "version": identity.version if identity else "",
        "state": row.state.value,
        "share": row.share,
        "findings": [finding.label for finding in loaded.findings] if loaded else [],
        "digest": identity.digest if identity else "",
        "signer": str(loaded.signer) if loaded else "",
        "maps_verified": bool(loaded and loaded.explanation_verified),
        "used": row.state.may_answer,
        "fault": fault,
        "description": loaded.description if loaded else "",
    }


def _shown(row: ModelRow, loaded: Bundle) -> dict[str, Any]:
    return {
        "bundle": row.bundle,
        "version": loaded.identity.version,
        "manufacturer": loaded.identity.manufacturer,
        "description": loaded.description,
        "state": row.state.value,
        "share": row.share,
        "fault": row.fault,
        "model_digest": loaded.identity.digest,
        "manifest_digest": loaded.manifest_digest,
        "signer": str(loaded.signer),
        "maps_verified": loaded.explanation_verified,
    }


def _points(loaded: Bundle) -> list[dict[str, Any]]:
    return [
        {
            "label": each.label,
            "operating_point": each.operating_point,
            "undetermined_from": each.undetermined_from,
        }
        for each in loaded.findings
    ]
