"""Each gate of scripts/check turns red on a planted violation."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TOOLS = Path(sys.executable).parent


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the package and its rules, to plant violations in."""
    shutil.copytree(
        ROOT / "imaging_node",
        tmp_path / "imaging_node",
        ignore=shutil.ignore_patterns("__pycache__", "model_zoo"),
    )
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def _refusal(*command: str, where: Path) -> str:
    """What a gate says when it refuses; fails the test when it does not."""
    done = subprocess.run(command, cwd=where, capture_output=True, text=True, check=False)
    assert done.returncode != 0, f"{command[0]} let it pass"
    return done.stdout + done.stderr


def _plant(tree: Path, name: str, code: str) -> None:
    (tree / name).write_text(f'"""Planted."""\n\n{code}', encoding="utf-8")


def test_ruff_refuses_an_unused_import(tree: Path) -> None:
    _plant(tree, "imaging_node/domain/planted.py", "import json\n")
    said = _refusal(str(TOOLS / "ruff"), "check", "--no-cache", ".", where=tree)
    assert "planted.py" in said
    assert "F401" in said


def test_ruff_refuses_another_format(tree: Path) -> None:
    _plant(tree, "imaging_node/domain/planted.py", "NAMES = [ 'one' ]\n")
    said = _refusal(str(TOOLS / "ruff"), "format", "--check", "--no-cache", ".", where=tree)
    assert "planted.py" in said


def test_mypy_refuses_a_wrong_type_and_a_missing_one(tree: Path) -> None:
    code = 'COUNT: int = "three"\n\n\ndef nothing(a):\n    """Nothing."""\n'
    _plant(tree, "imaging_node/domain/planted.py", code)
    command = ("mypy", "--cache-dir", str(tree / "cache"), "imaging_node/domain/planted.py")
    said = _refusal(str(TOOLS / command[0]), *command[1:], where=tree)
    assert "[assignment]" in said
    assert "[no-untyped-def]" in said


@pytest.mark.parametrize(
    ("module", "line", "contract"),
    [
        ("domain/planted.py", "import imaging_node.flow", "imports point one way"),
        ("dicom/planted.py", "import imaging_node.store", "imports point one way"),
        ("worklist/planted.py", "import pydicom", "only dicom knows DICOM libraries"),
        ("flow/planted.py", "import onnxruntime", "only inference knows model libraries"),
    ],
)
def test_import_linter_refuses_a_wall_moved(
    tree: Path, module: str, line: str, contract: str
) -> None:
    _plant(tree, f"imaging_node/{module}", f"{line}\n")
    said = _refusal(str(TOOLS / "lint-imports"), "--no-cache", where=tree)
    assert f"{contract} BROKEN" in said
    assert "planted" in said


@pytest.mark.parametrize(
    ("module", "code", "complaint"),
    [
        ("domain/planted.py", "A = 1\n" * 399, "more than 400 lines"),
        ("domain/planted.c", "int a;\n" * 401, "more than 400 lines"),
        ("domain/file_utils.py", "A = 1\n", "one idea"),
        ("domain/planted.py", "class StudyManager:\n    pass\n", "StudyManager"),
        ("domain/planted.py", "import os  # no" + "qa: F401\n", "its reason"),
        ("domain/planted.py", "A = b()  # type: ig" + "nore[x]\n", "its reason"),
    ],
)
def test_house_rules_refuse(tree: Path, module: str, code: str, complaint: str) -> None:
    rules = ROOT / "scripts" / "house_rules.py"
    _plant(tree, f"imaging_node/{module}", code)
    said = _refusal(sys.executable, str(rules), str(tree), where=tree)
    assert any(module in line and complaint in line for line in said.splitlines())


@pytest.mark.parametrize(("promised", "exit_status"), [("true", 1), ("", 0)])
def test_a_missing_tool_fails_the_test_only_where_it_was_promised(
    tmp_path: Path, promised: str, exit_status: int
) -> None:
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path)
    (tmp_path / "test_planted.py").write_text(
        "import pytest\n\n\n"
        '@pytest.mark.skipif(True, reason="storescu is not installed")\n'
        "def test_with_a_tool() -> None: ...\n",
        encoding="utf-8",
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "."],
        cwd=tmp_path,
        env={**os.environ, "CI": promised},
        capture_output=True,
        check=False,
    )
    assert done.returncode == exit_status
