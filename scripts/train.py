"""Train one member of chest_xray_pneumonia on the paediatric radiographs, on CPU cores.

    python scripts/train.py cnn --checkpoints DIR
    python scripts/train.py vit --checkpoints DIR

A run that was killed continues from its last epoch. `scripts/build_bundle.py` turns the two
best checkpoints into the bundle. The test split is never read here. Letting the CNN teach the
transformer for eight more epochs was tried and validated no better.
"""

from __future__ import annotations

import argparse
import csv
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from imaging_node.inference.networks import (
    DenseNetShape,
    MappedDenseNet,
    MappedTransformer,
    TransformerShape,
)
from imaging_node.inference.preprocessing import Preprocessing, resize_to_grid, stretch_percentiles

if TYPE_CHECKING:
    from imaging_node.domain.finding import FloatImage

DEFAULT_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
LABEL_SMOOTHING = 0.02
AVERAGING_DECAY = 0.996
PREPROCESSING = Preprocessing(
    rows=224,
    columns=224,
    resize="stretch",
    lower_percentile=0.5,
    upper_percentile=99.5,
    mean=0.5,
    standard_deviation=0.25,
)
ByteImages = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What differs between the members. Learning rate and decay are AdamW's."""

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float


RECIPES = {
    "cnn": Recipe(epochs=14, batch_size=16, learning_rate=1.5e-3, weight_decay=0.02),
    "vit": Recipe(epochs=14, batch_size=16, learning_rate=5e-4, weight_decay=0.05),
}


def build_network(member: str) -> nn.Module:
    """An untrained member on the model grid of `PREPROCESSING`."""
    if member == "cnn":
        return MappedDenseNet(DenseNetShape())
    return MappedTransformer(TransformerShape(image_size=PREPROCESSING.rows))


def index_rows(data: Path, source: str, split: str) -> list[dict[str, str]]:
    """Rows of the index whose Pneumonia label is known; blank means unknown, never absent."""
    with (data / "chest_radiographs" / "index.csv").open(encoding="utf-8", newline="") as index:
        return [
            row
            for row in csv.DictReader(index)
            if row["source"] == source and row["split"] == split and row["Pneumonia"] in {"0", "1"}
        ]


def read_p_values(data: Path, row: dict[str, str]) -> FloatImage:
    """One picture of the index as P-Values in [0, 1]."""
    grey = cv2.imread(str(data / "chest_radiographs" / row["path"]), cv2.IMREAD_GRAYSCALE)
    if grey is None:
        raise SystemExit(f"{row['path']}: cannot be read as a picture; check --data")
    return np.asarray(grey / 255, np.float32)


def load_split(data: Path, source: str, split: str) -> tuple[ByteImages, npt.NDArray[np.float32]]:
    """Images stretched to the model grid, (n, rows, columns), and Pneumonia as 0 or 1, (n,)."""
    rows = index_rows(data, source, split)
    images = np.empty((len(rows), PREPROCESSING.rows, PREPROCESSING.columns), np.uint8)
    for image, row in zip(images, rows, strict=True):
        resized = resize_to_grid(
            read_p_values(data, row), PREPROCESSING.rows, PREPROCESSING.columns
        )
        stretched = stretch_percentiles(
            resized, PREPROCESSING.lower_percentile, PREPROCESSING.upper_percentile
        )
        image[:] = np.round(stretched * 255).astype(np.uint8)
    return images, np.array([float(row["Pneumonia"]) for row in rows], np.float32)


def to_input(images: torch.Tensor) -> torch.Tensor:
    """Standardise images in [0, 1]."""
    return (images - PREPROCESSING.mean) / PREPROCESSING.standard_deviation


def augment(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Move, zoom and re-expose a batch of shape (n, 1, rows, columns), values in [0, 1].

    The zoom crops the border at random, so that letters burned into it teach nothing. No
    flips: laterality is information.
    """
    count = images.shape[0]

    def uniform(low: float, high: float, *shape: int) -> torch.Tensor:
        return torch.rand(count, *shape, generator=generator) * (high - low) + low

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
    if torch.rand((), generator=generator) < 0.25:  # noqa: PLR2004 - one batch in four is blurred
        moved = nn.functional.avg_pool2d(moved, 3, stride=1, padding=1, count_include_pad=False)
    exposed = moved.clamp_min(1e-4) ** uniform(-0.45, 0.45, 1, 1, 1).exp()
    contrasted = exposed * uniform(0.75, 1.25, 1, 1, 1) + uniform(-0.12, 0.12, 1, 1, 1)
    noise = torch.randn(images.shape, generator=generator) * uniform(0, 0.03, 1, 1, 1)
    return (contrasted + noise).clamp(0, 1)


def area_under_curve(scores: npt.NDArray[np.float64], truth: npt.NDArray[np.float32]) -> float:
    """AUROC as the share of pairs in order; ties count a half."""
    positive, negative = np.sort(scores[truth == 1]), np.sort(scores[truth == 0])
    below = np.searchsorted(negative, positive, "left").sum()
    upto = np.searchsorted(negative, positive, "right").sum()
    return float((below + upto) / (2 * len(positive) * len(negative)))


@torch.inference_mode()
def predict(network: nn.Module, images: ByteImages) -> npt.NDArray[np.float64]:
    """Logits of the first finding, shape (n,)."""
    network.eval()
    batches = torch.split(torch.from_numpy(images), 32)
    return np.concatenate(
        [network(to_input(batch[:, None].float() / 255))[0][:, 0].numpy() for batch in batches]
    ).astype(np.float64)


def average_into(averaged: nn.Module, network: nn.Module, decay: float) -> None:
    """Exponential moving average of weights and batch-norm statistics, in place."""
    current = network.state_dict()
    for name, value in averaged.state_dict().items():
        if value.dtype.is_floating_point:
            value.lerp_(current[name], 1 - decay)
        else:
            value.copy_(current[name])


def loss_of(logits: torch.Tensor, truth: torch.Tensor, prevalence: float) -> torch.Tensor:
    """Cross-entropy in which both classes weigh the same, with smoothed labels."""
    weight = torch.where(truth > 0, 0.5 / prevalence, 0.5 / (1 - prevalence))
    smoothed = truth * (1 - 2 * LABEL_SMOOTHING) + LABEL_SMOOTHING
    return nn.functional.binary_cross_entropy_with_logits(logits, smoothed, weight=weight)


class Run:
    """One member's training state, on disk after every epoch.

    The network itself is trained; what is validated and kept is its moving average.
    """

    def __init__(self, member: str, checkpoints: Path, *, epochs: int, seed: int) -> None:
        torch.manual_seed(seed)
        self.epochs, self.recipe = epochs, RECIPES[member]
        self.last = checkpoints / f"{member}.last.pt"
        self.best = checkpoints / f"{member}.best.pt"
        self.generator = torch.Generator().manual_seed(seed)
        self.network, self.averaged = build_network(member), build_network(member)
        self.averaged.load_state_dict(self.network.state_dict())
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(),
            lr=self.recipe.learning_rate,
            weight_decay=self.recipe.weight_decay,
        )
        self.epoch, self.best_loss = 0, math.inf
        if self.last.exists():
            state = torch.load(self.last, weights_only=True)
            self.network.load_state_dict(state["network"])
            self.averaged.load_state_dict(state["averaged"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.generator.set_state(state["generator"])
            self.epoch, self.best_loss = state["epoch"] + 1, state["best_loss"]

    def save(self, validation_loss: float) -> None:
        """Keep the finished epoch, and its average when it validates best so far."""
        is_best = validation_loss < self.best_loss
        self.best_loss = min(self.best_loss, validation_loss)
        averaged = self.averaged.state_dict()
        state = {
            "network": self.network.state_dict(),
            "averaged": averaged,
            "optimiser": self.optimiser.state_dict(),
            "generator": self.generator.get_state(),
            "epoch": self.epoch,
            "best_loss": self.best_loss,
        }
        torch.save(state, self.last)
        if is_best:
            torch.save({"averaged": averaged, "epoch": self.epoch}, self.best)

    def train_epoch(
        self, images: ByteImages, truth: npt.NDArray[np.float32], prevalence: float
    ) -> float:
        """One pass over the training split; the mean loss."""
        self.network.train()
        size = self.recipe.batch_size
        steps, total = len(images) // size, 0.0
        order = torch.randperm(len(images), generator=self.generator).numpy()
        for step in range(steps):
            done = self.epoch * steps + step
            self.set_learning_rate(done, steps)
            chosen = order[step * size : (step + 1) * size]
            batch = torch.from_numpy(images[chosen])[:, None].float() / 255
            augmented = to_input(augment(batch, self.generator))
            # bfloat16 and channels-last halve an epoch on a CPU that has them.
            with torch.autocast("cpu", torch.bfloat16):
                inputs = augmented.to(memory_format=torch.channels_last)
                logits = self.network(inputs)[0][:, 0]
            loss = loss_of(logits.float(), torch.from_numpy(truth[chosen]), prevalence)
            self.optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
            self.optimiser.step()
            decay = min(AVERAGING_DECAY, (1 + done) / (10 + done))
            average_into(self.averaged, self.network, decay)
            total += float(loss.detach())
        return total / steps

    def set_learning_rate(self, done: int, steps: int) -> None:
        """One epoch of warming up, then a cosine down to a two-hundredth."""
        warm = min(1.0, (done + 1) / steps)
        rate = warm * 0.5 * (1 + math.cos(math.pi * done / (self.epochs * steps)))
        for group in self.optimiser.param_groups:
            group["lr"] = self.recipe.learning_rate * max(rate, 0.005)


def train(run: Run, data: Path) -> None:
    """Train one member to the end, printing one line an epoch."""
    images, truth = load_split(data, "kermany", "train")
    validation_images, validation_truth = load_split(data, "kermany", "val")
    prevalence = float(truth.mean())
    while run.epoch < run.epochs:
        started = time.monotonic()
        loss = run.train_epoch(images, truth, prevalence)
        logits = predict(run.averaged, validation_images)
        validation_loss = float(
            loss_of(
                torch.from_numpy(logits), torch.from_numpy(validation_truth).double(), prevalence
            )
        )
        run.save(validation_loss)
        run.epoch += 1
        print(
            f"{run.last.name} epoch {run.epoch}/{run.epochs} train {loss:.4f}"
            f" validation {validation_loss:.4f}"
            f" AUROC {area_under_curve(logits, validation_truth):.4f}"
            f" {time.monotonic() - started:.0f} s",
            flush=True,
        )


def main() -> None:
    """Read the arguments and train."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("member", choices=sorted(RECIPES))
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA)
    parser.add_argument("--checkpoints", type=Path, required=True)
    parser.add_argument("--epochs", type=int, help="default: the member's recipe")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=20)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    cv2.setNumThreads(1)
    arguments.checkpoints.mkdir(parents=True, exist_ok=True)
    run = Run(
        arguments.member,
        arguments.checkpoints,
        epochs=arguments.epochs or RECIPES[arguments.member].epochs,
        seed=arguments.seed,
    )
    train(run, arguments.data)


if __name__ == "__main__":
    main()
