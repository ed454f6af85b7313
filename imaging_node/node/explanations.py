"""Explanations that readers ask for on the page: one at a time, each in a process of its own."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

from imaging_node.settings import free_environment
from imaging_node.telemetry import Event, log
from imaging_node.worklist.explaining import AskedExplanation, ExplanationState

if TYPE_CHECKING:
    from pathlib import Path

_KEPT_PICTURES = 500
_LIMIT_S = 1800.0
_DIGEST_LENGTH = 12
_NEEDED = ("torch", "captum")


class Explanations:
    """Owns the folder of pictures and the one process that draws the next.

    The pictures are no part of any report; they may be deleted at any time.
    """

    def __init__(self, folder: Path, config: Path | None) -> None:
        """Use a folder of the state directory.

        Args:
            folder: Made when the first picture is asked for.
            config: Settings file of this node; None: the built-in settings.
        """
        self._folder = folder
        self._arguments = [] if config is None else ["--config", str(config)]
        self._lock = threading.Lock()
        self._running: AskedExplanation | None = None
        self._failed: set[AskedExplanation] = set()

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
        """Start drawing; False when another one is being drawn."""
        with self._lock:
            if self._running is not None or self._path(asked).is_file():
                return self._running is None
            self._running = asked
            self._failed.discard(asked)
        threading.Thread(target=self._draw, args=(asked,), name="explanation", daemon=True).start()
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
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        command = [
            sys.executable, "-m", "imaging_node", "explain", asked.token,
            "--finding", asked.label, "--method", asked.method, "--out", str(part),
            *(("--model", asked.model) if asked.model else ()), *self._arguments,
        ]  # fmt: skip
        is_drawn = False
        try:
            ended = subprocess.run(  # noqa: S603 - our own command, its words from closed lists
                command,
                check=False,
                capture_output=True,
                timeout=_LIMIT_S,
                env=free_environment(),
            )
            is_drawn = ended.returncode == 0 and part.is_file()
            if is_drawn:
                part.replace(self._path(asked))
                self._forget_old()
        except (subprocess.TimeoutExpired, OSError) as error:
            log(Event.EXPLANATION_FAILED, study=asked.token, reason=type(error).__name__)
        finally:
            with self._lock:
                self._running = None
                if not is_drawn:
                    self._failed.add(asked)
        if not is_drawn:
            log(Event.EXPLANATION_FAILED, study=asked.token, reason=asked.method)

    def _forget_old(self) -> None:
        pictures = sorted(self._folder.glob("*.png"), key=lambda each: each.stat().st_mtime)
        for path in pictures[:-_KEPT_PICTURES]:
            path.unlink(missing_ok=True)
