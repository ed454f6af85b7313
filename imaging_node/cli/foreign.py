"""`foreign`: bundles of the MONAI Model Zoo, which are code and run only when trusted."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from imaging_node.cli.options import ConfigOption
from imaging_node.cli.printing import print_json
from imaging_node.settings import load_settings

foreign = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Try bundles of the MONAI Model Zoo. They are code: each needs your trust.",
)

BundleArgument = Annotated[
    Path,
    typer.Argument(metavar="BUNDLE|ZIP", help="Folder or zip of a bundle.", exists=True),
]
SiteOption = Annotated[
    Path | None,
    typer.Option(
        "--site",
        help="JSON file: codes of labels, body parts, and what the metadata leave out.",
        exists=True,
        dir_okay=False,
    ),
]


@foreign.command("inspect")
def inspect(bundle: BundleArgument, site: SiteOption = None) -> None:
    """Print what a bundle would be taken for, its code, and the hash to trust; run nothing."""
    from imaging_node.inference.foreign_declaration import (
        SiteChoices,
        derive_declaration,
        read_site_choices,
    )
    from imaging_node.inference.foreign_files import read_foreign_files
    from imaging_node.inference.foreign_weights import find_weights
    from imaging_node.inference.unpacking import folder_of

    choices = read_site_choices(site.read_text(encoding="utf-8")) if site else SiteChoices()
    with folder_of(bundle) as folder:
        files = read_foreign_files(folder)
        declaration = derive_declaration(files, weights=find_weights(files), site=choices)
        expressions = files.expressions
    print_json(
        {
            "trust_code": files.trust_hash,
            "files": len(files.hashes),
            "expressions": expressions,
            "code": files.code,
            "declaration": declaration.model_dump(mode="json"),
        }
    )


@foreign.command("run")
def run(
    bundle: BundleArgument,
    paths: Annotated[
        list[Path], typer.Argument(metavar="PATH", help="Files of one study.", exists=True)
    ],
    out: Annotated[Path, typer.Option(help="Folder for the results.", file_okay=False)],
    trust_code: Annotated[
        str | None,
        typer.Option("--trust-code", help="Hash of the bundle, from `foreign inspect`."),
    ] = None,
    site: SiteOption = None,
    time_limit_s: Annotated[
        float, typer.Option(min=1, help="Seconds until the bundle is given up.")
    ] = 600.0,
    memory_limit_mib: Annotated[
        int, typer.Option(min=256, help="Memory of the bundle above what its libraries take.")
    ] = 16384,
    threads: Annotated[int, typer.Option(min=1, help="Threads that it computes with.")] = 1,
    config: ConfigOption = None,
) -> None:
    """Have a bundle answer for one study; write a structured report, and a segmentation if any."""
    from imaging_node.flow.sending import find_files
    from imaging_node.inference.foreign_declaration import SiteChoices, read_site_choices
    from imaging_node.inference.foreign_runner import ForeignLimits
    from imaging_node.inference.unpacking import folder_of
    from imaging_node.node.foreign import run_on_files

    with folder_of(bundle) as folder:
        done = run_on_files(
            folder,
            find_files(paths),
            out,
            load_settings(config),
            trust_code=trust_code,
            site=read_site_choices(site.read_text(encoding="utf-8")) if site else SiteChoices(),
            limits=ForeignLimits(
                time_limit_s=time_limit_s,
                memory_limit_bytes=memory_limit_mib * 2**20,
                threads=threads,
            ),
            explain=lambda words: typer.echo(f"the bundle said: {ascii(words)[1:-1]}", err=True),
        )
    result = done.result
    typer.echo(f"{result.status}{''.join(f'; {each.value}' for each in result.reasons)}")
    for finding in result.findings:
        if finding.voxels is not None:
            told = f"{finding.voxels} voxels, {finding.volume_mm3:.0f} mm3"
        else:
            told = "nothing" if finding.score is None else f"uncalibrated score {finding.score:.6g}"
        typer.echo(f"{finding.label.name}: {told}")
    for remark in result.remarks:
        typer.echo(remark)
    for path in done.files:
        typer.echo(str(path))
