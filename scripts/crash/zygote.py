"""A process that has imported everything and forks a node whenever it is told to."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Self

from imaging_node.settings import free_environment

if TYPE_CHECKING:
    from crash.life import Orders

_SCRIPTS = Path(__file__).resolve().parents[1]
_ENTRY = "from crash.zygote import serve; serve()"


class Zygote:
    """Owns the process, with the library of faults preloaded; one node at a time."""

    def __init__(self, library: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _ENTRY],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=free_environment(
                PYTHONPATH=f"{_SCRIPTS.parent}:{_SCRIPTS}:{':'.join(sys.path)}",
                LD_PRELOAD=str(library),
                # A fork takes no threads along: the libraries must not have any.
                OPENBLAS_NUM_THREADS="1",
                OMP_NUM_THREADS="1",
            ),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stdin.close()  # type: ignore[union-attr]  # PIPE
        self._process.wait()

    def fork(self, orders: Orders) -> int:
        """Begin a life; returns its process id."""
        return self._ask(json.dumps(asdict(orders), default=str))

    def await_end(self) -> int:
        """Exit status of the life that was begun; negative: the signal that ended it."""
        return self._answer()

    def _ask(self, line: str) -> int:
        assert self._process.stdin is not None  # PIPE
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> int:
        assert self._process.stdout is not None  # PIPE
        return int(self._process.stdout.readline())


def serve() -> None:
    """Fork for every line on standard input; say the process id, then the exit status."""
    from crash.life import begin  # noqa: PLC0415 - the parent needs none of what it imports

    gc.collect()
    gc.freeze()  # keeps the forks from copying what they only look at
    answers = sys.stdout
    sys.stdout = sys.stderr
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            os._exit(begin(line))
        answers.write(f"{pid}\n")
        answers.flush()
        _, status = os.waitpid(pid, 0)
        answers.write(f"{os.waitstatus_to_exitcode(status)}\n")
        answers.flush()
