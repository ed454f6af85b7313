"""Rules of the house that no linter knows: length of modules, names, reasons of exceptions."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDERS = ("imaging_node", "tests", "scripts")
SUFFIXES = (".py", ".c")
MAXIMUM_LINES = 400
# Names that say nothing about what is inside.
EMPTY_WORDS = frozenset(
    {"util", "utils", "helper", "helpers", "manager", "managers", "handler", "handlers", "misc"}
)
_DEFINITION = re.compile(r"^\s*(?:class|def|async def)\s+(\w+)")
_WORD = re.compile(r"[A-Z]?[a-z]+")
_EXCEPTION = re.compile(r"#\s*(noqa|type:\s*ignore)\b(.*)")
_EXCEPTION_WITH_REASON = re.compile(
    r"#\s*(noqa:\s*[A-Z]+\d+(,\s*[A-Z]+\d+)*|type:\s*ignore\[[\w-]+(,\s*[\w-]+)*\])\s*(-|#)\s+\S"
)


def violations(root: Path) -> Iterator[str]:
    """Every broken rule below `root`, as "file:line: what to do"."""
    for folder in FOLDERS:
        files = (path for path in (root / folder).rglob("*") if path.suffix in SUFFIXES)
        for path in sorted(files):
            lines = path.read_text(encoding="utf-8").splitlines()
            name = path.relative_to(root)
            if len(lines) > MAXIMUM_LINES:
                yield f"{name}:{len(lines)}: more than {MAXIMUM_LINES} lines; split the file"
            if EMPTY_WORDS & set(path.stem.split("_")):
                yield f"{name}:1: name the module after its one idea"
            for number, line in enumerate(lines, start=1):
                yield from (f"{name}:{number}: {what}" for what in _broken_in(line))


def _broken_in(line: str) -> Iterator[str]:
    definition = _DEFINITION.match(line)
    if definition and EMPTY_WORDS & {word.lower() for word in _WORD.findall(definition[1])}:
        yield f"say what {definition[1]} is or returns"
    if _EXCEPTION.search(line) and not _EXCEPTION_WITH_REASON.search(line):
        yield "an exception from a gate names the rule and its reason"


def main() -> int:
    """Print what is broken; 1 if anything is."""
    root = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    broken = list(violations(root))
    for each in broken:
        print(each)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
