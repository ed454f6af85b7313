"""Everything that may refuse an image before its scores are believed, as one question."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from imaging_node.domain.errors import NotAnalysedError
from imaging_node.inference.film_gate import FilmGate
from imaging_node.inference.film_measures import Refusal, check_film, measure_film

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from imaging_node.inference.bundle import Bundle
    from imaging_node.inference.preprocessing import GriddedImage

GatePolicy = Literal["refuse", "report"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GateVerdict:
    """What the gates found of one image.

    Attributes:
        refusals: The plainest first; empty when the image is what the model was made for.
        quantities: Every measured value by name, for whoever watches the model.
    """

    refusals: tuple[Refusal, ...] = ()
    quantities: dict[str, float]

    def followed_by(self, other: GateVerdict) -> GateVerdict:
        """Both verdicts as one."""
        return GateVerdict(
            refusals=(*self.refusals, *other.refusals),
            quantities=self.quantities | other.quantities,
        )

    def enforce(self) -> None:
        """Raise the first refusal.

        Raises:
            NotAnalysedError: With the refusal's reason.
        """
        for refusal in self.refusals:
            raise NotAnalysedError(
                f"image gate: {refusal.reason}: {refusal.detail}", reason=refusal.reason
            )


class Gates:
    """Owns a bundle's gates; threads may share them."""

    def __init__(self, bundle: Bundle) -> None:
        self._limits = bundle.film_limits
        self._familiarity = bundle.familiarity
        self._film_gate = (
            FilmGate(
                bundle.film_gate,
                bundle.film_gate_model,
                place=f"bundle {bundle.identity.name}: {bundle.film_gate.file}",
            )
            if bundle.film_gate is not None
            else None
        )

    def look(self, image: GriddedImage) -> GateVerdict:
        """Judge a film by its pixels."""
        measures = measure_film(image.grid)
        refusals = check_film(measures, self._limits)
        if self._film_gate is not None:
            kinds = self._film_gate.probabilities(image.stretched)
            refusals += self._film_gate.check(kinds)
            measures["frontal_probability"] = kinds["frontal"]
        return GateVerdict(refusals=tuple(refusals), quantities=measures)

    def compare(self, features: npt.NDArray[np.float32]) -> GateVerdict:
        """Judge an image by the model's features of it, shape (d,)."""
        if self._familiarity is None:
            return GateVerdict(quantities={})
        distances = self._familiarity.distances(features)
        return GateVerdict(refusals=tuple(self._familiarity.check(distances)), quantities=distances)
