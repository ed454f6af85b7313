"""Train the tiny network that asks whether an image is an upright frontal chest film at all."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from chest_xray.augmentation import augment
from chest_xray.images import ByteImages, load_images, read_index, select
from chest_xray.recipe import SEED
from chest_xray.strangers import STRANGERS, inverted, rendered, turned
from imaging_node.inference.film_gate import KINDS

if TYPE_CHECKING:
    from pathlib import Path

FILM_GATE_SIZE = 96
_CHANNELS = (16, 32, 64, 96)
_STEPS = 1400
_BATCH = 64
_LEARNING_RATE = 2e-3
_SHARES = {"frontal": 0.45, "turned": 0.14, "inverted": 0.12, "lateral": 0.09, "other": 0.2}
_RENDERED_SHARE = 0.06
_HAND_SHARE = 0.15
FloatArray = npt.NDArray[np.float32]


class FilmGateNetwork(nn.Module):
    """Four strided convolutions, their mean, and one linear layer: about 0.08 M parameters."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 1
        for after in _CHANNELS:
            layers += [
                nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(),
            ]
            before = after
        self.layers = nn.Sequential(*layers)
        # Where something lies matters: upright is a statement about places.
        side = FILM_GATE_SIZE // 2 ** len(_CHANNELS)
        self.head = nn.Sequential(
            nn.Flatten(), nn.Dropout(0.3), nn.Linear(before * side**2, len(KINDS))
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits of a batch (n, 1, size, size), one for each of `KINDS`."""
        logits: torch.Tensor = self.head(self.layers(image))
        return logits


class FilmSource:
    """Draws batches of films and of what is none."""

    def __init__(self, films: ByteImages) -> None:
        """Render the synthetic ones.

        Args:
            films: Upright frontal chests, shape (n, size, size).
        """
        self._films = films
        self._rendered = {
            kind: rendered(kind, FILM_GATE_SIZE) for kind in ("frontal", "lateral", "hand")
        }

    def batch(
        self, random: np.random.Generator, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs (n, 1, size, size) and their kinds (n,)."""
        kinds = random.choice(len(KINDS), _BATCH, p=[_SHARES[kind] for kind in KINDS])
        drawn = np.stack([self._draw(KINDS[kind], random) for kind in kinds])
        images = augment(torch.from_numpy(drawn)[:, None], generator)
        return (images - 0.5) / 0.25, torch.from_numpy(kinds)

    def _draw(self, kind: str, random: np.random.Generator) -> FloatArray:
        chosen = self._films[random.integers(len(self._films))]
        film = np.asarray(chosen / 255, np.float32)
        if kind == "lateral":
            return self._choose("lateral", random)
        if kind == "other" and random.random() < _HAND_SHARE:
            return self._choose("hand", random)
        if random.random() < _RENDERED_SHARE:
            film = self._choose("frontal", random)
        if kind == "turned":
            return turned(film, random)
        if kind == "inverted":
            return inverted(film, random)
        if kind == "other":
            return STRANGERS[random.integers(len(STRANGERS))](film, random)
        return film

    def _choose(self, kind: str, random: np.random.Generator) -> FloatArray:
        pictures = self._rendered[kind]
        return pictures[random.integers(len(pictures))]


def shrink(films: ByteImages) -> ByteImages:
    """Films of the model grid on the gate's grid, as the node shrinks them."""
    return np.stack(
        [
            cv2.resize(film, (FILM_GATE_SIZE, FILM_GATE_SIZE), interpolation=cv2.INTER_AREA)
            for film in films
        ]
    )


def train_film_gate(checkpoints: Path, data: Path) -> FilmGateNetwork:
    """Train it on the training splits of both sources, or read it if that was done."""
    torch.manual_seed(SEED)
    network = FilmGateNetwork()
    path = checkpoints / "film_gate.pt"
    if path.exists():
        network.load_state_dict(torch.load(path, weights_only=True))
        return network.eval()
    started = time.monotonic()
    films = shrink(load_images(data, select(read_index(data), split="train"), 224))
    source = FilmSource(films)
    random, generator = np.random.default_rng(SEED), torch.Generator().manual_seed(SEED)
    optimiser = torch.optim.AdamW(network.parameters(), lr=_LEARNING_RATE, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, _STEPS)
    for step in range(_STEPS):
        inputs, kinds = source.batch(random, generator)
        loss = nn.functional.cross_entropy(network(inputs), kinds, label_smoothing=0.02)
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimiser.step()
        schedule.step()
        if step % 200 == 0:
            print(f"film gate: step {step}/{_STEPS}, loss {float(loss):.3f}", flush=True)
    network.eval()
    torch.save(network.state_dict(), path)
    print(f"film gate: {time.monotonic() - started:.0f} s", flush=True)
    return network
