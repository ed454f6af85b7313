"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        help="Settings file (YAML). Default: IMAGING_NODE_CONFIG, else the built-in settings.",
        dir_okay=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
SupervisorOption = Annotated[
    int | None,
    typer.Option("--supervisor-pid", hidden=True, help="Process of `serve` to end with."),
]
ReceiverNameOption = Annotated[
    str, typer.Option("--name", hidden=True, help="Name of this process among several receivers.")
]
ScorerNameOption = Annotated[
    str, typer.Option("--name", hidden=True, help="Name of this process among several scorers.")
]
DeviceOption = Annotated[
    int | None, typer.Option("--device", hidden=True, help="GPU of this process.")
]
ListeningDescriptorOption = Annotated[
    int | None,
    typer.Option(
        "--listening-descriptor", hidden=True, help="Socket that `serve` has opened for receivers."
    ),
]
