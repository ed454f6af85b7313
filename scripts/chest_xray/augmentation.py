"""What a film may look like otherwise without meaning anything else."""

from __future__ import annotations

import torch
from torch import nn

_BLURRED_SHARE = 0.25


def augment(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Move, zoom and re-expose a batch of shape (n, 1, rows, columns), values in [0, 1].

    The zoom crops the border at random, so that letters burned into it teach nothing. No
    flips: laterality is information. Random numbers are drawn on the CPU, so that a run on
    another device sees the same films.
    """
    count, device = images.shape[0], images.device

    def uniform(low: float, high: float, *shape: int) -> torch.Tensor:
        drawn = torch.rand(count, *shape, generator=generator) * (high - low) + low
        return drawn.to(device)

    angle = uniform(-0.17, 0.17)
    scale = uniform(0.78, 1.08, 1) * uniform(0.93, 1.07, 2)
    cosine, sine = angle.cos(), angle.sin()
    shift = uniform(-0.09, 0.09, 2)
    matrix = torch.stack(
        [
            torch.stack([scale[:, 0] * cosine, -scale[:, 1] * sine, shift[:, 0]], 1),
            torch.stack([scale[:, 0] * sine, scale[:, 1] * cosine, shift[:, 1]], 1),
        ],
        1,
    )
    grid = nn.functional.affine_grid(matrix, list(images.shape), align_corners=False)
    moved = nn.functional.grid_sample(images, grid, align_corners=False)
    if torch.rand((), generator=generator) < _BLURRED_SHARE:
        moved = nn.functional.avg_pool2d(moved, 3, stride=1, padding=1, count_include_pad=False)
    exposed = moved.clamp_min(1e-4) ** uniform(-0.45, 0.45, 1, 1, 1).exp()
    contrasted = exposed * uniform(0.75, 1.25, 1, 1, 1) + uniform(-0.12, 0.12, 1, 1, 1)
    noise = torch.randn(images.shape, generator=generator).to(device)
    return (contrasted + noise * uniform(0, 0.03, 1, 1, 1)).clamp(0, 1)
