"""Explanations that readers ask for on the page: one at a time, each in a process of its own."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from imaging_node.settings import free_environment
from imaging_node.telemetry import Event, log
from imaging_node.worklist.explaining import AskedExplanation, ExplanationState

if TYPE_CHECKING:
    from pathlib import Path

_KEPT_PICTURES = 500
# They show a patient's film, and nobody looks at one again after so long.
_KEPT_S = 30 * 86400.0
_KEPT_FAILURES = 500
_LIMIT_S = 1800.0
_DIGEST_LENGTH = 12
_NEEDED = ("torch", "captum")
# How a command of ours begins the one line that says what it foresaw; nothing else of what it
# writes is known to be free of patients' data.
_OWN_WORDS = "imaging-node: "
_LONGEST_ERROR = 300


class Explanations:
    """Owns the folder of pictures and the one process that draws the next.

    The pictures are no part of any report; they may be deleted at any time.
    """

    def __init__(self, folder: Path, config: Path | None, *, limit_s: float = _LIMIT_S) -> None:
        """Use a folder of the state directory, and remove what is too old or unfinished there.

        Args:
            folder: Made when the first picture is asked for.
            config: Settings file of this node; None: the built-in settings.
            limit_s: Longest time that one picture may take.
        """
        self._folder = folder
        self._arguments = [] if config is None else ["--config", str(config)]
        self._limit_s = limit_s
        self._lock = threading.Lock()
        self._running: AskedExplanation | None = None
        # A dict, because it keeps its order: the oldest are forgotten first.
        self._failed: dict[AskedExplanation, None] = {}
        with suppress(OSError):  # a full or read-only disk must not keep the page away
            for part in folder.glob("*.part"):
                part.unlink(missing_ok=True)
            self._forget_old()

    @property
    def is_possible(self) -> bool:
        """Whether the libraries that explain are installed."""
        return all(importlib.util.find_spec(name) is not None for name in _NEEDED)

    def state(self, asked: AskedExplanation) -> ExplanationState:
        """What has become of an explanation."""
        with self._lock:
            if self._path(asked).is_file():
                return ExplanationState.READY
            if self._running == asked:
                return ExplanationState.DRAWING
            return ExplanationState.FAILED if asked in self._failed else ExplanationState.NONE

    def ask(self, asked: AskedExplanation) -> bool:
        """Start drawing what is not drawn yet; False when another one is being drawn."""
        with suppress(OSError):
            self._forget_old()
        with self._lock:
            if self._path(asked).is_file():
                return True
            if self._running is not None:
                return self._running == asked
            self._running = asked
            self._failed.pop(asked, None)
        thread = threading.Thread(target=self._draw, args=(asked,), name="explanation", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # no thread is to be had
            self._end(asked, is_drawn=False)
            log(Event.EXPLANATION_FAILED, study=asked.token, reason=type(error).__name__)
        return True

    def picture(self, asked: AskedExplanation) -> bytes | None:
        """The picture, once it is drawn."""
        path = self._path(asked)
        return path.read_bytes() if path.is_file() else None

    def _path(self, asked: AskedExplanation) -> Path:
        # Whose finding it is, because a database that was restored counts generations again.
        model = asked.model_digest.removeprefix("sha256:")[:_DIGEST_LENGTH]
        parts = (asked.token, str(asked.generation), str(asked.index), model, asked.method)
        return self._folder / f"{'-'.join(part for part in parts if part)}.png"

    def _draw(self, asked: AskedExplanation) -> None:
        part = self._path(asked).with_suffix(".part")
        is_drawn = False
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            ended = self._run(asked, part)
            if ended.returncode == 0 and part.is_file():
                part.replace(self._path(asked))
                is_drawn = True
            else:
                log(
                    Event.EXPLANATION_FAILED,
                    study=asked.token,
                    model=asked.model,
                    status=ended.returncode,
                    reason=_own_error(ended.stderr),
                )
            self._forget_old()
        except (subprocess.TimeoutExpired, OSError) as error:
            log(Event.EXPLANATION_FAILED, study=asked.token, reason=type(error).__name__)
        finally:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            self._end(asked, is_drawn=is_drawn)

    def _run(self, asked: AskedExplanation, part: Path) -> subprocess.CompletedProcess[bytes]:
        command = [
            sys.executable, "-m", "imaging_node", "explain", asked.token,
            "--finding", asked.label, "--method", asked.method, "--out", str(part),
            *(("--model", asked.model) if asked.model else ()), *self._arguments,
        ]  # fmt: skip
        return subprocess.run(  # noqa: S603 - our own command, its words from closed lists
            command,
            check=False,
            capture_output=True,
            timeout=self._limit_s,
            env=free_environment(),
        )

    def _end(self, asked: AskedExplanation, *, is_drawn: bool) -> None:
        with self._lock:
            self._running = None
            if not is_drawn:
                self._failed[asked] = None
                for oldest in list(self._failed)[:-_KEPT_FAILURES]:
                    del self._failed[oldest]

    def _forget_old(self) -> None:
        drawn = sorted((path.stat().st_mtime, path) for path in self._folder.glob("*.png"))
        too_many = len(drawn) - _KEPT_PICTURES
        for place, (drawn_at, path) in enumerate(drawn):
            if place < too_many or drawn_at < time.time() - _KEPT_S:
                path.unlink(missing_ok=True)


def _own_error(written: bytes) -> str:
    """What our command said of its failure; "" when the last line is not its own."""
    last = written.decode("utf-8", "replace").strip().rpartition("\n")[2]
    return last.removeprefix(_OWN_WORDS)[:_LONGEST_ERROR] if last.startswith(_OWN_WORDS) else ""
