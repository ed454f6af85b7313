"""Listings as tables for people and as JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from imaging_node.domain.finding import FindingScore

_FILE_WIDTH = 220


def plain(value: object) -> Any:  # noqa: ANN401 - what json takes
    """A domain object as JSON's own types; times in ISO 8601, findings with their call."""
    if is_dataclass(value) and not isinstance(value, type):
        row = {each.name: plain(getattr(value, each.name)) for each in fields(value)}
        if isinstance(value, FindingScore):
            row["presence"] = str(value.presence)
        return row
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Enum | Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [plain(each) for each in value]
    return value


def print_json(value: object) -> None:
    """One JSON document on standard output."""
    Console(highlight=False, soft_wrap=True).print(
        json.dumps(plain(value), indent=1, ensure_ascii=True), markup=False
    )


def print_rows(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """A table of the named columns; text from datasets is shown, never interpreted."""
    table = Table(box=None, header_style="bold")
    for column in columns:
        table.add_column(column.replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*(_cell(row.get(column)) for column in columns))
    # Where no terminal says how wide it is, rows stay on their lines for grep and less.
    is_terminal = Console().is_terminal
    console = Console(markup=False, highlight=False, width=None if is_terminal else _FILE_WIDTH)
    console.print(table)
    if not rows:
        console.print("(none)")


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, list):
        return ", ".join(_cell(each) for each in value)
    if isinstance(value, str):
        return "".join(each if each.isprintable() else "?" for each in value)
    return str(value)
