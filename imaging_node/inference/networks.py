"""The two network shapes, in torch: for training, export and Captum, never for serving.

Both answer (logits, maps) with the same exact identity: the logit of a finding is the mean
of its map plus the bias of its output unit. The map is therefore no approximation of where
a score came from; it is the score, before it was summed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from monai.networks.nets.densenet import DenseNet
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Sequence

SHALLOW_LAYER = "transition2"
"""Layer of the DenseNet behind which the shallow features are read."""

TOKEN_STRIDE = 16
"""Pixels of the input per token of the transformer, along each axis."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseNetShape:
    """A small MONAI DenseNet: about 0.6 M parameters.

    Attributes:
        findings: Output units, >= 1.
    """

    findings: int = 1
    initial_channels: int = 24
    growth_rate: int = 16
    blocks: tuple[int, ...] = (3, 6, 12, 10)
    dropout: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformerShape:
    """A vision transformer behind a convolution stem: about 1.7 M parameters.

    Attributes:
        findings: Output units, >= 1.
        image_size: Rows and columns of the square input, a multiple of `TOKEN_STRIDE`.
        width: Channels of a token, a multiple of `attention_heads`.
    """

    findings: int = 1
    image_size: int = 224
    width: int = 160
    depth: int = 6
    attention_heads: int = 5
    expansion: int = 3
    stem_channels: tuple[int, ...] = (24, 48, 96)


class MappedDenseNet(nn.Module):
    """MONAI's DenseNet with its class activation maps as second output.

    The maps are those of the feature map behind `net.class_layers.relu`. Captum pinned to
    that layer gives the same; at `net.features.norm5`, before the last ReLU, it does not.
    """

    def __init__(self, shape: DenseNetShape) -> None:
        super().__init__()
        self.net = DenseNet(
            spatial_dims=2,
            in_channels=1,
            out_channels=shape.findings,
            init_features=shape.initial_channels,
            growth_rate=shape.growth_rate,
            block_config=shape.blocks,
            dropout_prob=shape.dropout,
        )

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Score a batch of shape (n, 1, rows, columns).

        Returns:
            Logits of shape (n, findings) and maps of shape (n, findings, rows, columns) on
            the grid of the last feature map; mean(map) + bias == logit.
        """
        logits, maps, _ = self.with_features(image)
        return logits, maps

    def with_features(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The same, and what the network saw on the way: features of two depths.

        Returns:
            Logits, maps, and features of shape (n, shallow + deep channels): the means over the
            feature maps behind the second transition and the last block.
        """
        features, shallow = image, image
        for name, layer in self.net.get_submodule("features").named_children():
            features = layer(features)
            if name == SHALLOW_LAYER:
                shallow = features
        features = self.net.get_submodule("class_layers.relu")(features)
        head = self.net.get_submodule("class_layers.out")
        assert isinstance(head, nn.Linear)
        maps = nn.functional.conv2d(features, head.weight[:, :, None, None])
        pooled = torch.cat([shallow.mean((2, 3)), features.mean((2, 3))], 1)
        return maps.mean((2, 3)) + head.bias, maps, pooled


class Attention(nn.Module):
    """Multi-head self-attention written out, so that the exported graph has plain products."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query_key_value = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Mix tokens of shape (n, tokens, width) by their content."""
        batch, count, width = tokens.shape
        mixed = self.query_key_value(tokens).reshape(
            batch, count, 3, self.heads, width // self.heads
        )
        query, key, value = mixed.permute(2, 0, 3, 1, 4).unbind(0)
        weights = (query @ key.transpose(-2, -1)) * (width // self.heads) ** -0.5
        gathered = weights.softmax(-1) @ value
        projected: torch.Tensor = self.projection(
            gathered.transpose(1, 2).reshape(batch, count, width)
        )
        return projected


class TransformerBlock(nn.Module):
    """Pre-norm attention and a two-layer perceptron, each with a residual."""

    def __init__(self, width: int, heads: int, expansion: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.perceptron_norm = nn.LayerNorm(width)
        self.perceptron = nn.Sequential(
            nn.Linear(width, expansion * width), nn.GELU(), nn.Linear(expansion * width, width)
        )

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Refine tokens of shape (n, tokens, width)."""
        tokens = tokens + self.attention(self.attention_norm(tokens))
        refined: torch.Tensor = tokens + self.perceptron(self.perceptron_norm(tokens))
        return refined


def convolution_stem(channels: Sequence[int], width: int) -> nn.Sequential:
    """Stride-2 convolutions down to one token per `TOKEN_STRIDE` pixels."""
    layers: list[nn.Module] = []
    before = 1
    for after in channels:
        layers += [
            nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
        ]
        before = after
    layers.append(nn.Conv2d(before, width, 3, stride=2, padding=1))
    return nn.Sequential(*layers)


class MappedTransformer(nn.Module):
    """Transformer whose head reads every token, so that the mean over tokens is the logit.

    Captum pinned to `norm` (LayerGradientXActivation, summed over channels) gives the maps.
    """

    def __init__(self, shape: TransformerShape) -> None:
        super().__init__()
        self.side = shape.image_size // TOKEN_STRIDE
        self.stem = convolution_stem(shape.stem_channels, shape.width)
        self.position = nn.Parameter(torch.randn(1, self.side**2, shape.width) * 0.02)
        self.blocks = nn.Sequential(
            *(
                TransformerBlock(shape.width, shape.attention_heads, shape.expansion)
                for _ in range(shape.depth)
            )
        )
        self.norm = nn.LayerNorm(shape.width)
        self.head = nn.Linear(shape.width, shape.findings)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Score a batch of shape (n, 1, image_size, image_size).

        Returns:
            Logits of shape (n, findings) and maps of shape (n, findings, side, side), one
            value a token; mean(map) + bias == logit.
        """
        tokens = self.stem(image).flatten(2).transpose(1, 2) + self.position
        tokens = self.norm(self.blocks(tokens))
        evidence = nn.functional.linear(tokens, self.head.weight).transpose(1, 2)
        maps = evidence.reshape(-1, evidence.shape[1], self.side, self.side)
        return evidence.mean(2) + self.head.bias, maps
