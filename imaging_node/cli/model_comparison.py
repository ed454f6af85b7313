"""`models compare`: two bundles on the same studies, before one takes the other's place."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from imaging_node.cli.options import ConfigOption, JsonOption
from imaging_node.cli.printing import plain, print_json, print_rows
from imaging_node.cli.progress import progress_bar
from imaging_node.settings import load_settings

if TYPE_CHECKING:
    from imaging_node.domain.comparison import Discrimination, FindingComparison

_COLUMNS = (
    "finding", "studies", "mean_shift", "shift_deviation", "largest_shift", "newly_present",
    "no_longer_present", "other_calls", "auroc",
)  # fmt: skip


def compare(
    first: Annotated[str, typer.Argument(metavar="A", help="A bundle: its id, or id@version.")],
    second: Annotated[str, typer.Argument(metavar="B", help="The bundle to hold against it.")],
    on: Annotated[
        list[Path] | None, typer.Option("--on", help="DICOM files and folders.", exists=True)
    ] = None,
    last: Annotated[
        float | None,
        typer.Option("--last", min=0.001, help="Instead: the node's studies of so many days."),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            help="CSV of final labels: study_instance_uid, finding, present (0 or 1).",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    config: ConfigOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Compare two bundles: shifts, flips, AUROC with labels, order of the worklist.

    Nothing is sent or changed. Scores that the node kept from shadow are used again.
    """
    if bool(on) == (last is not None):
        raise typer.BadParameter("give either --on PATH or --last DAYS")
    from imaging_node.flow.sending import find_files
    from imaging_node.node.comparison import compare_models

    found = compare_models(
        load_settings(config),
        (first, second),
        files=find_files(on) if on else [],
        days=last or 0,
        labels=labels,
        progress=progress_bar,
    )
    if as_json:
        print_json(found)
        return
    typer.echo(
        f"{found.both} studies scored by both, {found.only_first} by {first} alone,"
        f" {found.only_second} by {second} alone, {found.neither} by neither"
    )
    print_rows([_row(each) for each in found.findings], _COLUMNS)
    order = found.worklist
    typer.echo(
        f"worklist: {order.earlier} studies more urgent, {order.later} less; {order.moved} change"
        f" their rank, {order.swapped_pairs} of {order.pairs} pairs change places"
    )


def _row(finding: FindingComparison) -> dict[str, Any]:
    return {
        **plain(finding),
        "finding": finding.label,
        "auroc": _auroc(finding.discrimination),
    }


def _auroc(found: Discrimination | None) -> str:
    if found is None:
        return "no labels"
    interval = "" if found.interval is None else " ({:+.3f} to {:+.3f})".format(*found.interval)
    return (
        f"{found.first:.3f} -> {found.second:.3f}, {found.difference:+.3f}{interval},"
        f" {found.positives} of {found.studies} positive"
    )
