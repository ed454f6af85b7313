"""Is this an upright frontal chest film at all? Asked of a tiny network, before the models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import cv2
import numpy as np
import onnxruntime
from pydantic import BaseModel, ConfigDict, Field

from imaging_node.domain.errors import BundleError
from imaging_node.domain.finding import FloatImage, NotAnalysedReason
from imaging_node.inference.film_measures import Refusal

if TYPE_CHECKING:
    import numpy.typing as npt

KINDS: Final = ("frontal", "turned", "inverted", "lateral", "other")
"""What the network tells apart, in the order of its outputs."""

_REASONS: Final = {
    "turned": NotAnalysedReason.ROTATED,
    "inverted": NotAnalysedReason.INVERTED,
    "lateral": NotAnalysedReason.VIEW,
    "other": NotAnalysedReason.BODY_PART,
}


class DeclaredFilmGate(BaseModel):
    """The network and where it refuses.

    Attributes:
        file: ONNX graph `image` (n, 1, size, size) -> `logits` (n, kinds), kinds as in `KINDS`.
        image_size: Rows and columns of its input.
        minimum_frontal_probability: Lowest softmax probability of "frontal" that passes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str = Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_./-]*$")
    image_size: int = Field(ge=16, le=512)
    minimum_frontal_probability: float = Field(ge=0, le=1)


class FilmGate:
    """Owns the network's session; threads may share it."""

    def __init__(self, declared: DeclaredFilmGate, model: bytes, *, place: str) -> None:
        """Open the network on one thread of its caller.

        Args:
            declared: The bundle's.
            model: The graph, weights embedded.
            place: Bundle and file, for the error.

        Raises:
            BundleError: The graph cannot be loaded.
        """
        self._declared = declared
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(
                model, options, providers=["CPUExecutionProvider"]
            )
        except (RuntimeError, ValueError) as error:
            raise BundleError(f"{place}: ONNX Runtime cannot load it") from error

    def probabilities(self, stretched: FloatImage) -> dict[str, float]:
        """Softmax probability of each kind.

        Args:
            stretched: The film on the model grid, between its percentiles, in [0, 1].
        """
        logits = self._session.run(
            ["logits"], {"image": film_input(stretched, self._declared.image_size)[np.newaxis]}
        )[0][0].astype(np.float64)
        shares = np.exp(logits - logits.max())
        return dict(zip(KINDS, (shares / shares.sum()).tolist(), strict=True))

    def check(self, probabilities: dict[str, float]) -> list[Refusal]:
        """The refusal, if "frontal" is not probable enough."""
        frontal = probabilities["frontal"]
        if frontal >= self._declared.minimum_frontal_probability:
            return []
        kind = max(KINDS[1:], key=probabilities.__getitem__)
        return [Refusal(reason=_REASONS[kind], detail=f"{kind}, p(frontal) {frontal:.2g}")]


def film_input(stretched: FloatImage, size: int) -> npt.NDArray[np.float32]:
    """The gate's input, shape (1, size, size), from a film on the model grid in [0, 1]."""
    small = cv2.resize(
        np.ascontiguousarray(stretched, np.float32), (size, size), interpolation=cv2.INTER_AREA
    )
    return np.asarray((small - 0.5) / 0.25, np.float32)[np.newaxis]
