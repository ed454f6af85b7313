"""What a model says about one image, and whether it can be believed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Sequence

OUTPUTS = ("logits", "maps", "features")
"""What a member's graph answers, in this order; the last one is optional."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberOutputs:
    """What all members said about one image.

    Attributes:
        logits: float32, shape (members, findings).
        maps: Per member, float32, shape (findings, h, w) on that member's own grid.
        features: Of the members that give them, one after the other, float32, shape (d,).
    """

    logits: npt.NDArray[np.float32]
    maps: tuple[npt.NDArray[np.float32], ...]
    features: npt.NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))

    @property
    def is_finite(self) -> bool:
        """Whether every value is a number."""
        return all(np.isfinite(each).all() for each in (self.logits, self.features, *self.maps))


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
        answers: Per member its logits, shape (count, findings), maps, (count, findings, h, w),
            and features, (count, d), if it gives any.

    Raises:
        ValueError: A member answered for another number of images, or in another form.
    """
    for logits, maps, *more in answers:
        shapes = [each.shape for each in (logits, maps, *more)]
        axes = [len(shape) for shape in shapes]
        if axes not in ([2, 4], [2, 4, 2]) or any(shape[0] != count for shape in shapes):
            raise ValueError(f"a member answered {shapes} for {count} images")
    # Copies: one answer that is kept for its map must not keep the whole batch alive.
    return [
        MemberOutputs(
            logits=np.stack([answer[0][index] for answer in answers]),
            maps=tuple(np.array(answer[1][index]) for answer in answers),
            features=np.concatenate(
                [
                    np.empty(0, np.float32),
                    *(each[index] for answer in answers for each in answer[2:]),
                ]
            ),
        )
        for index in range(count)
    ]
