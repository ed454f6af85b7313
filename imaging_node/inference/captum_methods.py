"""Explanations by Captum on demand: other views of one score, in a process of their own.

torch and Captum load here and nowhere in service. The networks are the bundle's declared torch
twins with the very weights of its graphs, so that what is explained is what answered.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from captum.attr import GradientShap, IntegratedGradients, Occlusion
from torch import nn

from imaging_node.domain.errors import BundleError
from imaging_node.domain.explanation import ExplanationMethod
from imaging_node.domain.finding import FloatImage
from imaging_node.inference.captum_check import captum_map, load_weights
from imaging_node.inference.networks import (
    DenseNetShape,
    MappedDenseNet,
    MappedTransformer,
    TransformerShape,
)
from imaging_node.inference.saliency import ensemble_map

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from imaging_node.inference.bundle import Bundle
    from imaging_node.inference.preprocessing import ModelInput

INFERENCE_CONFIG = "configs/inference.json"

_PLACE = "imaging_node.inference.networks."
_DEFINITIONS = ("network_def", "second_network_def")
_STEPS = 32
_BATCH = 4
_WINDOW_SHARE = 8
_SHAP_SAMPLES = 16
_SHAP_BLURS = (9, 31, 61)
_SMOOTHING_PIXELS = 9
_SEED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """One method's view of one score.

    Attributes:
        values: Evidence on the model grid, float32, shape (rows, columns); positive raised it.
        logit: Pooled logit of the image.
        baseline_logit: Of what the image was compared with; None where the method compares
            with nothing.
        incompleteness: |sum of evidence - (logit - baseline logit)|, in logits, where the method
            promises that they are equal; else None.
    """

    values: FloatImage
    logit: float
    baseline_logit: float | None = None
    incompleteness: float | None = None


class PooledLogit(nn.Module):
    """Weighted mean of the members' logits for one finding."""

    def __init__(
        self, members: Sequence[nn.Module], weights: Sequence[float], finding: int
    ) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.weights = tuple(weights)
        self.finding = finding

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Pooled logits (n,) of a batch (n, 1, rows, columns)."""
        logits = [
            weight * member(image)[0][:, self.finding]
            for member, weight in zip(self.members, self.weights, strict=True)
        ]
        return torch.stack(logits).sum(0)


def open_twins(bundle: Bundle) -> list[nn.Module]:
    """The members as torch networks with the weights of the bundle's graphs.

    Only the project's own network classes are built: nothing of a bundle is evaluated.

    Raises:
        BundleError: The bundle declares no such networks, or its weights do not fit them.
    """
    config = json.loads((bundle.directory / INFERENCE_CONFIG).read_text(encoding="utf-8"))
    twins: list[nn.Module] = []
    for key, member in zip(_DEFINITIONS, bundle.members, strict=False):
        twin = _build(bundle, config.get(key))
        try:
            load_weights(twin, member.model)
        except RuntimeError as error:
            raise _refused(bundle, f"the weights of {member.name} do not fit {key}") from error
        twins.append(twin)
    if len(twins) != len(bundle.members):
        raise _refused(bundle, f"has {len(bundle.members)} members, {len(twins)} networks")
    return twins


def explain(
    bundle: Bundle,
    twins: Sequence[nn.Module],
    image: ModelInput,
    finding: int,
    method: ExplanationMethod,
) -> Explanation:
    """Explain the pooled logit of one finding for one image.

    Args:
        bundle: Whose members `twins` are.
        twins: As from `open_twins`.
        image: Model input, shape (1, rows, columns).
        finding: Its place in the bundle's order.
        method: Integrated Gradients and GradientShap compare with a black film and with blurred
            copies of the film; occlusion with grey windows.
    """
    weights = [member.weight for member in bundle.members]
    network = PooledLogit(twins, weights, finding).eval()
    batch = torch.from_numpy(np.ascontiguousarray(image[np.newaxis]))
    with torch.inference_mode():
        logit = float(network(batch))
    if method is ExplanationMethod.GRAD_CAM:
        drawn = [
            captum_map(twin, member, image, finding)
            for twin, member in zip(twins, bundle.members, strict=True)
        ]
        # Captum spreads the logit's gradient over the places of the map; the mean undoes it.
        maps = [each * each.size for each in drawn]
        return Explanation(values=ensemble_map(maps, weights, *image.shape[1:]), logit=logit)
    by_method = {
        ExplanationMethod.INTEGRATED_GRADIENTS: _integrated_gradients,
        ExplanationMethod.GRADIENT_SHAP: _gradient_shap,
        ExplanationMethod.OCCLUSION: _occlusion,
    }
    return by_method[method](network, batch, logit)


def _integrated_gradients(network: nn.Module, batch: torch.Tensor, logit: float) -> Explanation:
    black = torch.full_like(batch, float(batch.min()))
    with torch.inference_mode():
        baseline = float(network(black))
    evidence = IntegratedGradients(network).attribute(
        batch, baselines=black, n_steps=_STEPS, internal_batch_size=_BATCH
    )
    total = float(evidence.sum())
    return Explanation(
        values=_smoothed(evidence),
        logit=logit,
        baseline_logit=baseline,
        incompleteness=abs(total - (logit - baseline)),
    )


def _gradient_shap(network: nn.Module, batch: torch.Tensor, logit: float) -> Explanation:
    film = batch[0, 0].numpy()
    blurred = np.stack([cv2.blur(film, (pixels, pixels)) for pixels in _SHAP_BLURS])[:, np.newaxis]
    baselines = torch.from_numpy(blurred)
    torch.manual_seed(_SEED)
    np.random.seed(_SEED)  # noqa: NPY002 - the generator that Captum draws its baselines from
    evidence = torch.zeros_like(batch)
    for _ in range(_SHAP_SAMPLES // _BATCH):
        evidence += GradientShap(network).attribute(
            batch, baselines=baselines, n_samples=_BATCH, stdevs=0.05
        )
    with torch.inference_mode():
        baseline = float(network(baselines).mean())
    return Explanation(
        values=_smoothed(evidence * _BATCH / _SHAP_SAMPLES), logit=logit, baseline_logit=baseline
    )


def _occlusion(network: nn.Module, batch: torch.Tensor, logit: float) -> Explanation:
    window = batch.shape[-1] // _WINDOW_SHARE
    with torch.inference_mode():
        evidence = Occlusion(network).attribute(
            batch,
            sliding_window_shapes=(1, window, window),
            strides=(1, window // 2, window // 2),
            baselines=float(batch.mean()),
            perturbations_per_eval=_BATCH,
        )
    return Explanation(values=np.asarray(evidence[0, 0].numpy(), np.float32), logit=logit)


def _smoothed(evidence: torch.Tensor) -> FloatImage:
    """Evidence of single pixels as areas that an eye can read; the sum stays."""
    values = evidence[0, 0].detach().numpy().astype(np.float32)
    kernel = (_SMOOTHING_PIXELS, _SMOOTHING_PIXELS)
    return np.asarray(cv2.blur(values, kernel), np.float32)


def _build(bundle: Bundle, definition: Mapping[str, object] | None) -> nn.Module:
    builders = {"MappedDenseNet": MappedDenseNet, "MappedTransformer": MappedTransformer}
    shapes = {"DenseNetShape": DenseNetShape, "TransformerShape": TransformerShape}
    target = str((definition or {}).get("_target_", ""))
    shape = (definition or {}).get("shape")
    if not isinstance(shape, dict) or target.removeprefix(_PLACE) not in builders:
        raise _refused(bundle, f"{INFERENCE_CONFIG} names no network of this product")
    arguments = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in shape.items()
        if name != "_target_"
    }
    shape_class = shapes.get(str(shape.get("_target_", "")).removeprefix(_PLACE))
    if shape_class is None:
        raise _refused(bundle, f"{INFERENCE_CONFIG} names no shape of this product")
    try:
        network: nn.Module = builders[target.removeprefix(_PLACE)](shape_class(**arguments))
    except (TypeError, ValueError) as error:
        raise _refused(bundle, f"{INFERENCE_CONFIG}: the shape does not fit: {error}") from error
    return network.eval()


def _refused(bundle: Bundle, fault: str) -> BundleError:
    return BundleError(f"bundle {bundle.identity.name}: cannot be explained by Captum: {fault}")
