"""`reprocess`: files and folders through the same scoring, without a PACS."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from imaging_node.cli.options import ConfigOption
from imaging_node.cli.progress import progress_bar
from imaging_node.settings import load_settings

if TYPE_CHECKING:
    from imaging_node.flow.reprocessing import ScanOutcome


def reprocess(
    paths: Annotated[
        list[Path], typer.Argument(metavar="PATH", help="DICOM files and folders.", exists=True)
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for SRs, captures and results.jsonl.", file_okay=False),
    ] = None,
    config: ConfigOption = None,
    *,
    save_maps: Annotated[
        bool, typer.Option("--save-maps", help="Also write each finding's map as float32 .npy.")
    ] = False,
    deliver: Annotated[
        bool,
        typer.Option("--deliver", help="Instead of --out: queue the studies on the running node."),
    ] = False,
) -> None:
    """Score files and folders without a PACS.

    Killed and started again with the same arguments it continues; nothing is done twice.
    """
    if deliver == (out is not None):
        raise typer.BadParameter("give either --out DIR or --deliver")
    if deliver and save_maps:
        raise typer.BadParameter("--save-maps needs --out DIR")
    from imaging_node.flow.sending import find_files
    from imaging_node.node.archive import deliver_archive, reprocess_archive

    settings = load_settings(config)
    files = find_files(paths)
    if out is not None:
        # Results of an earlier run below the archive itself are no part of the archive.
        files = [path for path in files if not path.absolute().is_relative_to(out.absolute())]
    if out is None:
        with progress_bar("queueing", total=len(files)) as advance:
            _tell(deliver_archive(files, settings, advance=advance))
        return
    counts = reprocess_archive(
        files, settings, out, is_saving_maps=save_maps, progress=progress_bar, tell=_tell
    )
    for state, count in sorted(counts.items()):
        typer.echo(f"{state}: {count}")


def _tell(outcome: ScanOutcome) -> None:
    typer.echo(
        f"{outcome.noted} instances, {outcome.skipped} files skipped (no DICOM file, or no"
        f" study named), {outcome.refused} refused (they contradict other files)"
    )
