"""A test that could not run for want of a DICOM tool is a failure where the tools were promised."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With CI=true, fail a test skipped because something "is not installed"."""
    report = yield
    if report.skipped and os.environ.get("CI") == "true" and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2]
        if "is not installed" in reason:
            report.outcome = "failed"
            report.longrepr = f"{reason}\nWith CI=true this test must run."
    return report
