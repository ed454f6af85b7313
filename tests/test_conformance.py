"""The conformance statement says what the code does."""

from __future__ import annotations

import re

import conformance_tables
import pytest

from imaging_node.dicom import statuses
from imaging_node.dicom.commitment import (
    FAILURE_OTHER_CLASS,
    FAILURE_PROCESSING,
    FAILURE_UNKNOWN_INSTANCE,
)

STATEMENT = conformance_tables.STATEMENT.read_text()


def test_every_table_is_as_the_code_has_it_now() -> None:
    assert conformance_tables.filled(STATEMENT) == STATEMENT


def test_a_changed_or_missing_table_would_be_noticed() -> None:
    changed = STATEMENT.replace("| 2/3/1 | transient |", "| 2/3/1 | permanent |")
    assert conformance_tables.filled(changed) == STATEMENT != changed

    with pytest.raises(ValueError, match="must be marked once"):
        conformance_tables.filled(STATEMENT.replace("<!-- table: limits -->", ""))
    with pytest.raises(KeyError, match="no table is called"):
        conformance_tables.filled(STATEMENT.replace("table: limits", "table: wishes"))


def test_every_status_that_the_code_knows_is_in_a_table() -> None:
    known = {
        value
        for name, value in vars(statuses).items()
        if name.startswith("STATUS_") and isinstance(value, int)
    }
    described = {
        each.code
        for table in (
            statuses.STORAGE_STATUSES,
            statuses.VERIFICATION_STATUSES,
            statuses.COMMITMENT_STATUSES,
        )
        for each in table
    }
    assert known == described


def test_every_uid_in_a_table_has_a_name() -> None:
    tables = conformance_tables.tables()
    for name in ("image-classes", "all-classes", "transfer-syntaxes"):
        rows = [row.split(" | ") for row in tables[name].splitlines()[2:]]
        assert rows
        assert [row for row in rows if "1.2.840" in row[0]] == []


def test_failure_reasons_and_result_classes_stand_in_the_text() -> None:
    for reason in (FAILURE_PROCESSING, FAILURE_UNKNOWN_INSTANCE, FAILURE_OTHER_CLASS):
        assert f"| {reason:04X} |" in STATEMENT


def test_every_document_that_is_linked_exists() -> None:
    folder = conformance_tables.STATEMENT.parent
    links = re.findall(r"\]\(([\w./-]+\.md)\)", STATEMENT)
    assert links
    assert [each for each in links if not (folder / each).is_file()] == []
