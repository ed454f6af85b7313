"""Which models serve now, which of them answers a study, and when one may be let go."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from imaging_node.domain.model_state import ModelState, is_in_share
from imaging_node.flow.analysis import ConfiguredModel
from imaging_node.flow.foreign_analysis import ForeignModel

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """A loaded model and what is done with its scores.

    Attributes:
        bundle: Name of its folder.
        share: Of the studies that a canary answers, in (0, 1].
    """

    model: ConfiguredModel
    bundle: str
    state: ModelState
    share: float = 1.0

    @property
    def name(self) -> str:
        """The bundle's id: of all that share it, one answers a study."""
        return self.model.bundle.identity.name


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedForeign:
    """A foreign bundle that serves; nothing of it is loaded between its answers.

    Attributes:
        bundle: Name of its folder, which is its id.
        share: Of the studies that a canary answers, in (0, 1].
    """

    model: ForeignModel
    bundle: str
    state: ModelState
    share: float = 1.0

    def answers(self, study_instance_uid: str) -> bool:
        """Whether what it says of a study leaves the node."""
        if self.state is ModelState.CANARY:
            return is_in_share(study_instance_uid, self.share)
        return self.state is ModelState.PRIMARY


def candidates(
    models: Sequence[ServedModel], study_instance_uid: str, *, attempts: int
) -> list[tuple[ServedModel, ...]]:
    """For each model name, who answers this study: the first, or the next if that one fails.

    Args:
        attempts: Claims of the study so far. Only the first is a canary's: what ended a worker
            may have been the canary.
    """
    turns = []
    for name in dict.fromkeys(each.name for each in models if each.state.may_answer):
        own = [each for each in models if each.name == name]
        primary = [each for each in own if each.state is ModelState.PRIMARY]
        canary = [
            _on_trial(each, primary)
            for each in own
            if each.state is ModelState.CANARY
            and is_in_share(study_instance_uid, each.share)
            and (attempts <= 1 or not primary)
        ]
        if canary or primary:
            turns.append((*canary, *primary))
    return turns


def _on_trial(canary: ServedModel, primary: Sequence[ServedModel]) -> ServedModel:
    """The canary with a remark that every answer of it carries."""
    version = canary.model.bundle.identity.version
    instead = "".join(f" instead of {each.model.bundle.identity.version}" for each in primary)
    remark = f"Version {version} on trial: it answers {canary.share:.3g} of all studies{instead}."
    model = replace(canary.model, remarks=(*canary.model.remarks, remark))
    return replace(canary, model=model)


@dataclass(slots=True, eq=False)
class _Generation:
    """The models between two changes, and how many studies are at work with them."""

    models: tuple[ServedModel, ...]
    foreign: tuple[ServedForeign, ...] = ()
    holds: int = 0


class Hold:
    """Keeps the models of one moment loaded until it is released; a context manager."""

    def __init__(self, lineup: Lineup, generation: _Generation) -> None:
        self._lineup = lineup
        self._generation = generation
        self.models = generation.models
        self.foreign = generation.foreign

    def again(self) -> Hold:
        """A second hold of the same models, to be released by itself."""
        return self._lineup._held(self._generation)  # noqa: SLF001 - the two are one thing

    def release(self) -> None:
        """Let them go; once for each hold."""
        self._lineup._release(self._generation)  # noqa: SLF001 - same

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class Lineup:
    """Owns the models of a process; a change never takes one away from a study at work."""

    def __init__(
        self, models: Sequence[ServedModel], foreign: Sequence[ServedForeign] = ()
    ) -> None:
        self._lock = threading.Lock()
        self._current = _Generation(tuple(models), tuple(foreign))
        self._generations = [self._current]

    @property
    def models(self) -> tuple[ServedModel, ...]:
        """Those that serve the next study."""
        return self._current.models

    @property
    def foreign(self) -> tuple[ServedForeign, ...]:
        """Foreign bundles that serve the next study."""
        return self._current.foreign

    def hold(self) -> Hold:
        """Take the models for one study."""
        with self._lock:
            current = self._current
            current.holds += 1
        return Hold(self, current)

    def change(self, models: Sequence[ServedModel], foreign: Sequence[ServedForeign] = ()) -> None:
        """Serve the next study with these; those that are gone are unloaded after their last."""
        with self._lock:
            self._current = _Generation(tuple(models), tuple(foreign))
            self._generations.append(self._current)
        self._unload_unused()

    def _held(self, generation: _Generation) -> Hold:
        with self._lock:
            generation.holds += 1
        return Hold(self, generation)

    def _release(self, generation: _Generation) -> None:
        with self._lock:
            generation.holds -= 1
        self._unload_unused()

    def _unload_unused(self) -> None:
        with self._lock:
            ended = [
                each for each in self._generations if each is not self._current and not each.holds
            ]
            if not ended:
                return
            self._generations = [each for each in self._generations if each not in ended]
            kept = {id(served.model.scorer) for each in self._generations for served in each.models}
            leaving = {
                id(served.model.scorer): served.model.scorer
                for each in ended
                for served in each.models
            }
        for number, scorer in leaving.items():
            if number not in kept:
                scorer.unload()
