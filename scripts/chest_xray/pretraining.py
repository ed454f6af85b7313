"""Learning from films without labels: draw what was covered."""

from __future__ import annotations

import torch
from torch import nn

from imaging_node.inference.networks import (
    TOKEN_STRIDE,
    MappedDenseNet,
    MappedTransformer,
    TransformerBlock,
)

FEATURE_STRIDE = 32
_COVERED_SHARE = {FEATURE_STRIDE: 0.6, TOKEN_STRIDE: 0.75}
_DECODER_WIDTH = 128
_DECODER_HEADS = 4


def patches_of(images: torch.Tensor, side: int) -> torch.Tensor:
    """Cut a batch (n, 1, rows, columns) into patches (n, patches, side * side), row by row."""
    return nn.functional.unfold(images, side, stride=side).transpose(1, 2)


def cover(
    images: torch.Tensor, side: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Choose patches at random and paint them grey.

    Returns:
        The images with 0 where they were covered; whether each patch is, (n, patches); and the
        patches of each image in random order, of which the last ones were covered.
    """
    count, _, rows, columns = images.shape
    patches = (rows // side) * (columns // side)
    order = torch.rand(count, patches, generator=generator).argsort(1).to(images.device)
    visible = patches - round(patches * _COVERED_SHARE[side])
    covered = torch.ones(count, patches, dtype=torch.bool, device=images.device)
    covered.scatter_(1, order[:, :visible], value=False)
    grid = covered.reshape(count, 1, rows // side, columns // side).to(images.dtype)
    hidden = nn.functional.interpolate(grid, (rows, columns), mode="nearest")
    return images * (1 - hidden), covered, order


def drawing_loss(
    drawn: torch.Tensor, images: torch.Tensor, covered: torch.Tensor, side: int
) -> torch.Tensor:
    """Mean squared error over covered patches, each standardised by its own mean and deviation."""
    wanted = patches_of(images, side)
    wanted = (wanted - wanted.mean(-1, keepdim=True)) / (wanted.std(-1, keepdim=True) + 0.05)
    return ((drawn - wanted) ** 2).mean(-1)[covered].mean()


class DrawingDenseNet(nn.Module):
    """The CNN draws each covered patch from its last feature map."""

    def __init__(self, network: MappedDenseNet) -> None:
        super().__init__()
        self.network = network
        head = network.net.get_submodule("class_layers.out")
        assert isinstance(head, nn.Linear)
        self.draw = nn.Conv2d(head.in_features, FEATURE_STRIDE**2, 1)

    def forward(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """The loss of a batch (n, 1, rows, columns), both multiples of `FEATURE_STRIDE`."""
        shown, covered, _ = cover(images, FEATURE_STRIDE, generator)
        features = self.network.net.get_submodule("features")(shown)
        features = self.network.net.get_submodule("class_layers.relu")(features)
        drawn = self.draw(features).flatten(2).transpose(1, 2)
        return drawing_loss(drawn, images, covered, FEATURE_STRIDE)


class DrawingTransformer(nn.Module):
    """The transformer sees a quarter of the tokens; a small decoder draws the others.

    He et al., Masked Autoencoders Are Scalable Vision Learners, CVPR 2022.
    """

    def __init__(self, network: MappedTransformer) -> None:
        super().__init__()
        self.network = network
        width = network.head.in_features
        self.narrow = nn.Linear(width, _DECODER_WIDTH)
        self.mask = nn.Parameter(torch.zeros(1, 1, _DECODER_WIDTH))
        self.position = nn.Parameter(torch.randn(1, network.side**2, _DECODER_WIDTH) * 0.02)
        self.decoder = nn.Sequential(
            *(TransformerBlock(_DECODER_WIDTH, _DECODER_HEADS, 2) for _ in range(2)),
            nn.LayerNorm(_DECODER_WIDTH),
            nn.Linear(_DECODER_WIDTH, TOKEN_STRIDE**2),
        )

    def forward(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """The loss of a batch (n, 1, rows, columns) on the network's own grid."""
        shown, covered, order = cover(images, TOKEN_STRIDE, generator)
        tokens = self.network.stem(shown).flatten(2).transpose(1, 2) + self.network.position
        visible = int((~covered[0]).sum())
        kept = order[:, :visible, None].expand(-1, -1, tokens.shape[2])
        seen = self.network.norm(self.network.blocks(tokens.gather(1, kept)))
        narrow = self.narrow(seen)
        full = self.mask.expand(len(images), tokens.shape[1], -1).clone()
        full = full.scatter(1, order[:, :visible, None].expand(-1, -1, _DECODER_WIDTH), narrow)
        drawn = self.decoder(full + self.position)
        return drawing_loss(drawn, images, covered, TOKEN_STRIDE)


def drawing_network(network: MappedDenseNet | MappedTransformer) -> nn.Module:
    """A network that learns to draw, around one that will learn to score."""
    if isinstance(network, MappedDenseNet):
        return DrawingDenseNet(network)
    return DrawingTransformer(network)
