"""What a model says about one image, and whether it can be believed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberOutputs:
    """What all members said about one image.

    Attributes:
        logits: float32, shape (members, findings).
        maps: Per member, float32, shape (findings, h, w) on that member's own grid.
    """

    logits: npt.NDArray[np.float32]
    maps: tuple[npt.NDArray[np.float32], ...]

    @property
    def is_finite(self) -> bool:
        """Whether every value is a number."""
        return bool(np.isfinite(self.logits).all()) and all(
            np.isfinite(each).all() for each in self.maps
        )


class LaunchedModel(Protocol):
    """A model that runs batches; ONNX Runtime and OpenVINO are behind it.

    Attributes:
        is_slow_at_first: Whether the first launch of a batch size builds kernels, so that it may
            take many times as long as the later ones.
    """

    is_slow_at_first: bool

    def buffer(self, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        """Memory for batches of up to shape[0] images that `predict` reads fastest."""
        ...

    def predict(self, batch: npt.NDArray[np.float32]) -> Sequence[MemberOutputs]:
        """Run a batch of shape (n, ...), several at a time; repeating it is safe.

        Returns:
            One answer per image, in order; they share no memory with `batch`.

        Raises:
            MemoryError: Fewer images at a time may run.
            DeviceLostError: Only a new process may run anything.
            NotAnalysedError: It failed otherwise; the reason is SOFTWARE.
        """
        ...


def split_outputs(
    answers: Sequence[Sequence[npt.NDArray[np.float32]]], count: int
) -> list[MemberOutputs]:
    """What the members answered for a batch of `count` images, image by image.

    Args:
        answers: Per member its logits, shape (count, findings), and maps, (count, findings, h, w).

    Raises:
        ValueError: A member answered for another number of images, or in another form.
    """
    for logits, maps in answers:
        if len(logits) != count or len(maps) != count or logits.ndim != 2 or maps.ndim != 4:  # noqa: PLR2004 - their axes
            raise ValueError(f"a member answered {logits.shape}, {maps.shape} for {count} images")
    # Copies: one answer that is kept for its map must not keep the whole batch alive.
    return [
        MemberOutputs(
            logits=np.stack([logits[index] for logits, _ in answers]),
            maps=tuple(np.array(maps[index]) for _, maps in answers),
        )
        for index in range(count)
    ]
