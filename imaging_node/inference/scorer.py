"""The one door to a bundle: a decoded image in, calibrated scores and maps out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2

from imaging_node.domain.finding import FindingScore, SaliencyMap
from imaging_node.inference.bundle import Bundle
from imaging_node.inference.ensemble import combine_images, score_findings, site_thresholds
from imaging_node.inference.gates import GatePolicy, Gates, GateVerdict
from imaging_node.inference.outputs import MemberOutputs
from imaging_node.inference.preprocessing import bring_to_grid, standardise
from imaging_node.inference.quality import check_quality
from imaging_node.inference.reference import reference_at_site
from imaging_node.inference.saliency import ensemble_map, map_on_source

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from imaging_node.domain.image import DecodedImage
    from imaging_node.inference.batching import Batcher
    from imaging_node.inference.opening import OpenedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageAnalysis:
    """One scored image; small, for the maps stay on their grids until they are asked for.

    Attributes:
        scores: One per finding, in the bundle's order.
        source_shape: Rows and columns of the image.
    """

    bundle: Bundle
    sop_instance_uid: str
    source_shape: tuple[int, int]
    scores: tuple[FindingScore, ...]
    outputs: MemberOutputs
    verdict: GateVerdict

    def map_for(self, label: str) -> SaliencyMap:
        """Where the score of `label` came from, on the source image.

        Raises:
            KeyError: The bundle has no such finding.
        """
        return map_on_source(
            self.grid_map_for(label).values,
            label=label,
            sop_instance_uid=self.sop_instance_uid,
            source_shape=self.source_shape,
        )

    def grid_map_for(self, label: str) -> SaliencyMap:
        """The same on the model grid, which covers the whole image: all that a picture needs.

        Raises:
            KeyError: The bundle has no such finding.
        """
        labels = [finding.label for finding in self.bundle.findings]
        if label not in labels:
            raise KeyError(label)
        index = labels.index(label)
        return SaliencyMap(
            label=label,
            sop_instance_uid=self.sop_instance_uid,
            values=ensemble_map(
                [maps[index] for maps in self.outputs.maps],
                [member.weight for member in self.bundle.members],
                self.bundle.preprocessing.rows,
                self.bundle.preprocessing.columns,
            ),
        )


class Scorer:
    """The door to one bundle; many threads may score at once.

    Attributes:
        opened: The model, and where and in which precision it runs.
        batcher: Runs the launches of this bundle and of those that share it.
        monitoring: What its stream is compared with, by the bundle and the site; None: by neither.
    """

    def __init__(
        self,
        bundle: Bundle,
        opened: OpenedModel,
        batcher: Batcher,
        *,
        site_operating_points: Mapping[str, float],
        gate_policy: GatePolicy = "refuse",
        name: str = "",
    ) -> None:
        """Give the model to the batcher.

        Args:
            bundle: As loaded and verified.
            opened: Its model.
            batcher: Takes over the launches.
            site_operating_points: By label, each in [0, 1]; see `ensemble.site_thresholds`.
            gate_policy: "report" scores also what the gates would refuse, and says so; blank
                images are refused all the same.
            name: By which the batcher tells its models apart; "" for the bundle's.

        Raises:
            SettingsError: An operating point is impossible.
        """
        self.bundle = bundle
        self.opened = opened
        self.batcher = batcher
        self.thresholds = site_thresholds(bundle.findings, site_operating_points)
        self.gate_policy = gate_policy
        self.monitoring = bundle.monitoring and reference_at_site(
            bundle.monitoring,
            own_points=site_operating_points.keys(),
            are_gates_enforced=gate_policy == "refuse",
        )
        self._gates = Gates(bundle)
        # Threads belong to the launches; resizing beside them must not multiply.
        cv2.setNumThreads(1)
        self._name = name or bundle.identity.name
        batcher.add_model(self._name, opened.model)

    def score(
        self, image: DecodedImage, lane: int, *, deadline_s: float = math.inf, owner: str = ""
    ) -> ImageAnalysis:
        """Score one image; blocks until its launch is done.

        Args:
            image: P-Values in [0, 1].
            lane: `lanes.STAT`, `ROUTINE` or `ARCHIVE`.
            deadline_s, owner: As in `Batcher.submit`.

        Raises:
            NotAnalysedError: Refused by a gate, or MODEL_OUTPUT or SOFTWARE from the model.
            TemporaryError: The scorer is closing.
        """
        check_quality(image.p_values, self.bundle.quality_gates)
        gridded = bring_to_grid(image.p_values, self.bundle.preprocessing)
        verdict = self._gates.look(gridded)
        if self.gate_policy == "refuse":
            verdict.enforce()
        outputs = self.batcher.submit(
            self._name,
            standardise(gridded.stretched, self.bundle.preprocessing),
            lane,
            deadline_s=deadline_s,
            owner=owner,
        ).result()
        verdict = verdict.followed_by(self._gates.compare(outputs.features))
        if self.gate_policy == "refuse":
            verdict.enforce()
        rows, columns = image.p_values.shape
        return ImageAnalysis(
            bundle=self.bundle,
            sop_instance_uid=image.sop_instance_uid,
            source_shape=(rows, columns),
            scores=score_findings(
                outputs.logits,
                members=self.bundle.members,
                findings=self.bundle.findings,
                thresholds=self.thresholds,
                sop_instance_uid=image.sop_instance_uid,
            ),
            outputs=outputs,
            verdict=verdict,
        )

    def combine(self, analyses: Sequence[ImageAnalysis]) -> tuple[FindingScore, ...]:
        """Answer of a study with at least one scored image, in the bundle's order.

        The image with the highest probability answers for each finding; each score names
        its image, whose `map_for` belongs to it.
        """
        return combine_images([analysis.scores for analysis in analyses])

    def unload(self) -> None:
        """Let the model go, once nobody scores with it; the batcher serves the others on."""
        self.batcher.remove_model(self._name)

    def close(self) -> None:
        """Answer what waits, then end the launches of all that share them; safe to repeat."""
        self.batcher.close()
