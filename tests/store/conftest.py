"""A real SQLite database and a real spool for every test of the store."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from imaging_node.store.database import Database, open_database
from imaging_node.store.spool import Spool

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = open_database(f"sqlite:///{tmp_path / 'node.sqlite'}")
    yield opened
    opened.close()


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool", min_free_bytes=0)
