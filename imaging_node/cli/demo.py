"""`demo`: the whole node at work on this machine, in a minute."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from imaging_node.cli.options import ConfigOption
from imaging_node.settings import load_settings


def demo(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="PATH", help="Your own DICOM files; none: synthetic studies.", exists=True
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Folder for the SRs and captures.", file_okay=False)
    ] = Path("demo-output"),
    config: ConfigOption = None,
) -> None:
    """Start a node and a PACS on loopback, send studies, show every answer.

    Exit status 0 only if every study was answered.
    """
    from rich.console import Console

    from imaging_node.demonstration.demo import run_demo
    from imaging_node.demonstration.table import print_results

    settings = load_settings(config)
    rows = run_demo(paths or [], out, settings, say=lambda line: typer.echo(line, err=True))
    is_answered = print_results(Console(), rows, is_synthetic=not paths)
    typer.echo(f"SRs and captures are in {out}")
    if not is_answered:
        raise typer.Exit(1)
