"""The command `imaging-node`, put together from its groups."""

from __future__ import annotations

from typing import Annotated

import typer
from setproctitle import setproctitle

from imaging_node import __version__
from imaging_node.cli import (
    archive,
    demo,
    diagnosis,
    explain,
    foreign,
    listings,
    model_changes,
    model_comparison,
    models,
    roles,
    settings,
    transfer,
    watch,
)

app = typer.Typer(
    name="imaging-node",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help=(
        "DICOM imaging inference node. A PACS routes studies to it by C-STORE; it scores them"
        " and sends back Structured Reports and saliency captures. Research use only, not a"
        " medical device."
    ),
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"imaging-node {__version__}")
        raise typer.Exit


@app.callback()
def imaging_node(
    context: typer.Context,
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Take the options of the command itself, and hide arguments that may name patients."""
    assert not version  # the callback ended the command
    setproctitle(f"imaging-node: {context.invoked_subcommand}")


app.command()(roles.serve)
app.command()(roles.receive)
app.command()(roles.score)
app.command()(roles.deliver)
app.command()(roles.web)
app.command()(demo.demo)
app.command()(transfer.echo)
app.command()(transfer.send)
app.command()(archive.reprocess)
app.add_typer(listings.studies, name="studies")
app.add_typer(listings.deliveries, name="deliveries")
app.command()(listings.worklist)
app.command()(explain.explain)
models.models.command()(model_changes.add)
models.models.command()(model_changes.shadow)
models.models.command()(model_changes.promote)
models.models.command()(model_changes.rollback)
models.models.command()(model_changes.remove)
models.models.command()(model_comparison.compare)
app.add_typer(models.models, name="models")
app.add_typer(watch.watch, name="watch")
app.add_typer(foreign.foreign, name="foreign")
app.add_typer(settings.config, name="config")
app.command()(diagnosis.doctor)
