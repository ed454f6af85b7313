"""`models`: the bundles of the zoo, and whether they are what they claim."""

from __future__ import annotations

from typing import Annotated

import typer

from imaging_node.cli.options import ConfigOption, JsonOption
from imaging_node.cli.printing import print_json, print_rows
from imaging_node.domain.errors import UnknownRecordError
from imaging_node.settings import load_settings

models = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="List, show and verify model bundles."
)


@models.command("list")
def list_models(config: ConfigOption = None, *, as_json: JsonOption = False) -> None:
    """List the bundles: name, version, findings, and whether the settings use them."""
    from imaging_node.inference.bundle import find_bundles, load_bundle
    from imaging_node.node.models import bundle_directory

    settings = load_settings(config)
    used = {model.name for model in settings.models}
    rows = []
    for directory in find_bundles(bundle_directory(settings)):
        bundle = load_bundle(directory)
        rows.append(
            {
                "name": bundle.identity.name,
                "version": bundle.identity.version,
                "findings": [finding.label for finding in bundle.findings],
                "digest": bundle.identity.digest,
                "maps_verified": bundle.explanation_verified,
                "used": bundle.identity.name in used,
                "description": bundle.description,
            }
        )
    if as_json:
        print_json(rows)
    else:
        print_rows(rows, ("name", "version", "findings", "used", "description"))


@models.command("show")
def show_model(
    name: Annotated[str, typer.Argument(help="Bundle name.")], config: ConfigOption = None
) -> None:
    """Print a bundle's model card."""
    from imaging_node.inference.bundle import load_bundle
    from imaging_node.node.models import bundle_directory

    directory = bundle_directory(load_settings(config)) / name
    if not directory.is_dir():
        raise UnknownRecordError(f"there is no bundle {name!r}; see `imaging-node models list`")
    bundle = load_bundle(directory)
    typer.echo(bundle.card.read_text(encoding="utf-8"))


@models.command("verify")
def verify_models(
    names: Annotated[
        list[str] | None, typer.Argument(help="Bundle names; none: all bundles.")
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Check every file of the bundles against its manifest and run their golden cases."""
    from imaging_node.node.models import bundle_names, verify_bundle

    settings = load_settings(config)
    used = [model.name for model in settings.models]
    for name in names or sorted({*bundle_names(settings), *used}):
        typer.echo(f"{name}: {verify_bundle(name, settings)}")
