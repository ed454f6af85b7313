"""Fixtures for every room."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture(scope="session")
def dicom_tool() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a DICOM tool by name; skip when it is not installed, fail if CI is "true"."""

    def run(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        if shutil.which(name) is None:
            reason = f"{name} is not installed (Debian: dcmtk, dicom3tools)"
            if os.environ.get("CI") == "true":
                pytest.fail(reason)
            pytest.skip(reason)
        return subprocess.run(
            [name, *(str(argument) for argument in arguments)],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=60,
            check=False,
        )

    return run
