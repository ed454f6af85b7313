"""`doctor`: what this machine has, and what is missing."""

from __future__ import annotations

import typer

from imaging_node.cli.options import ConfigOption, JsonOption
from imaging_node.cli.printing import print_json, print_rows
from imaging_node.settings import load_settings


def doctor(config: ConfigOption = None, *, as_json: JsonOption = False) -> None:
    """Tell what this machine has: model runtime, codecs, decoders, disk, peers.

    Exit status 1 when something would keep the node from working.
    """
    from imaging_node.node.diagnosis import examine

    rows = examine(load_settings(config))
    if as_json:
        print_json(rows)
    else:
        print_rows(
            [
                {
                    "": "ok" if row.is_sound else "FAULT" if row.is_fault else "note",
                    "what": row.what,
                    "found": row.found,
                }
                for row in rows
            ],
            ("", "what", "found"),
        )
    if any(row.is_fault for row in rows):
        raise typer.Exit(1)
