"""Every test that answers a row of the threat model exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = (ROOT / "docs" / "threat-model.md").read_text()
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
ROW = re.compile(r"^\| [STRIDE] \| .*\|$", re.MULTILINE)


def missing(document: str) -> list[str]:
    """Tests that the document names and that are not there."""
    absent = []
    for path, name in NAMED.findall(document):
        file = ROOT / path
        tree = ast.parse(file.read_text()) if file.is_file() else ast.Module([], [])
        tests = {each.name for each in tree.body if isinstance(each, ast.FunctionDef)}
        if not name.startswith("test_") or name not in tests:
            absent.append(f"{path}::{name}")
    return absent


def test_every_test_that_answers_a_threat_exists() -> None:
    assert missing(DOCUMENT) == []


def test_every_threat_has_a_control_and_a_test_that_answers_it() -> None:
    rows = ROW.findall(DOCUMENT)
    assert len(rows) >= 30
    for row in rows:
        _, _, threat, control, answers, _ = row.split("|")
        assert threat.strip()
        assert control.strip()
        assert NAMED.search(answers), row
    assert {row[2] for row in rows} == set("STRIDE")


def test_a_test_that_is_gone_would_be_noticed() -> None:
    row = "| S | a | b | `tests/test_threat_model.py::test_gone`, `tests/nowhere.py::test_x` |"
    assert missing(row) == ["tests/test_threat_model.py::test_gone", "tests/nowhere.py::test_x"]


def test_every_document_that_is_linked_exists() -> None:
    links = re.findall(r"\]\(([\w./-]+\.md)\)", DOCUMENT)
    assert links
    assert [each for each in links if not (ROOT / "docs" / each).is_file()] == []
