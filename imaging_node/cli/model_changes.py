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
    from imaging_node.node.admission import Admission

ReasonOption = Annotated[
    str, typer.Option("--reason", help="Why: kept with the change; no patient data.")
]


def add(
    path: Annotated[
        Path, typer.Argument(metavar="PATH|ZIP", help="Folder or zip of a bundle.", exists=True)
    ],
    trust_code: Annotated[
        str | None,
        typer.Option(
            "--trust-code",
            help="Hash of a foreign bundle whose code you answer for; without it, it is told.",
        ),
    ] = None,
    site: Annotated[
        Path | None,
        typer.Option(
            "--site",
            help="JSON file for a foreign bundle: name, codes of labels, body parts.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    reason: ReasonOption = "",
    config: ConfigOption = None,
) -> None:
    """Check a bundle, try it on the headers of recent studies, and take it into shadow.

    A bundle of the MONAI zoo is code: it is taken for the hash of exactly its files.
    """
    from imaging_node.inference.foreign_declaration import read_site_choices
    from imaging_node.node.admission import add_bundle
    from imaging_node.node.wiring import open_state

    settings = load_settings(config)
    choices = read_site_choices(site.read_text(encoding="utf-8")) if site else None
    database, spool, _ = open_state(settings)
    admission = add_bundle(
        path, settings, database, spool, reason=reason, trust_code=trust_code, site=choices
    )
    _tell_admission(admission)


def _tell_admission(admission: Admission) -> None:
    from imaging_node.node.admission import DRY_RUN_DAYS

    typer.echo(f"{admission.place.bundle}: {admission.verified}")
    if admission.left_out:
        names = ", ".join(ascii(each)[1:-1] for each in admission.left_out)
        typer.echo(f"not taken over: {names}")
    dry_run = admission.dry_run
    if dry_run is not None:
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
