"""DICOM tools for every room; one that is missing where it was promised is a failure."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

# Debian keeps Orthanc among the system's programs.
_TOOL_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


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


@pytest.fixture(scope="session")
def tool_path() -> Callable[[str], str]:
    """Path of a DICOM tool by name; skips when it is not installed."""

    def find(name: str) -> str:
        path = shutil.which(name, path=_TOOL_PATH)
        if path is None:
            pytest.skip(
                f"{name} is not installed"
                " (Debian: build-essential, dcmtk, dicom3tools, openssl, orthanc)"
            )
        return path

    return find


@pytest.fixture(scope="session")
def dicom_tool(tool_path: Callable[[str], str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a DICOM tool by name; skips when it is not installed."""

    def run(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [tool_path(name), *(str(argument) for argument in arguments)],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=60,
            check=False,
        )

    return run
