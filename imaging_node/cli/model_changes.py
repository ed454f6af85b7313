"""`models add`, `shadow`, `promote`, `rollback`, `remove`: a running node follows by itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from imaging_node.cli.models import BundleArgument
from imaging_node.cli.options import ConfigOption
from imaging_node.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imaging_node.domain.model_state import ModelChange

ReasonOption = Annotated[
    str, typer.Option("--reason", help="Why: kept with the change; no patient data.")
]


def add(
    path: Annotated[
        Path, typer.Argument(metavar="PATH|ZIP", help="Folder or zip of a bundle.", exists=True)
    ],
    reason: ReasonOption = "",
    config: ConfigOption = None,
) -> None:
    """Check a bundle, try it on the headers of recent studies, and take it into shadow."""
    from imaging_node.node.admission import DRY_RUN_DAYS, add_bundle
    from imaging_node.node.wiring import open_state

    settings = load_settings(config)
    database, spool, _ = open_state(settings)
    admission = add_bundle(path, settings, database, spool, reason=reason)
    dry_run = admission.dry_run
    typer.echo(f"{admission.place.bundle}: {admission.verified}")
    typer.echo(
        f"{dry_run} of the last {DRY_RUN_DAYS} days"
        f" ({dry_run.meant} of its modality, {dry_run.meant - dry_run.taken} of them refused)"
    )
    typer.echo(
        f"in shadow; `imaging-node models promote {admission.place.bundle} --share 0.1` lets it"
        " answer a tenth of the studies"
    )


def shadow(bundle: BundleArgument, reason: ReasonOption = "", config: ConfigOption = None) -> None:
    """Let a bundle be scored and compared, never delivered."""
    from imaging_node.node.model_changes import shadow_model
    from imaging_node.node.wiring import open_state

    settings = load_settings(config)
    database, _, _ = open_state(settings)
    _tell(shadow_model(settings, database, bundle, reason=reason))


def promote(
    bundle: BundleArgument,
    share: Annotated[
        float | None,
        typer.Option(
            min=0.000001,
            max=1,
            help="Canary: it answers this share of the studies. Without it: primary.",
        ),
    ] = None,
    reason: ReasonOption = "",
    config: ConfigOption = None,
) -> None:
    """Let a bundle answer studies: a share of them, or all."""
    from imaging_node.node.model_changes import promote_model
    from imaging_node.node.wiring import open_state

    settings = load_settings(config)
    database, _, _ = open_state(settings)
    _tell(promote_model(settings, database, bundle, share=share, reason=reason))


def rollback(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A bundle's id.")],
    reason: ReasonOption = "",
    config: ConfigOption = None,
) -> None:
    """Take the last promotion back: a canary to shadow, else the former primary returns."""
    from imaging_node.node.model_changes import roll_back_model
    from imaging_node.node.wiring import open_state

    settings = load_settings(config)
    database, _, _ = open_state(settings)
    _tell(roll_back_model(settings, database, name, reason=reason))


def remove(bundle: BundleArgument, reason: ReasonOption = "", config: ConfigOption = None) -> None:
    """Remove a bundle that answers nobody; one of the package is only retired."""
    from imaging_node.node.model_changes import remove_model
    from imaging_node.node.wiring import open_state

    settings = load_settings(config)
    database, _, _ = open_state(settings)
    _tell(remove_model(settings, database, bundle, reason=reason))


def _tell(changes: Sequence[ModelChange]) -> None:
    from imaging_node.domain.model_state import ModelState

    for change in changes:
        share = f" for {change.share:g} of the studies" if change.state is ModelState.CANARY else ""
        typer.echo(
            f"{change.bundle}: {change.former or 'new'} -> {change.state or 'removed'}{share}"
        )
