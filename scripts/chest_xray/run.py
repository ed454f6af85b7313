"""One leg of one member's training: resumable, and the same every time on the same machine."""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from chest_xray.augmentation import augment
from chest_xray.evaluation import area_under_curve
from chest_xray.images import (
    PREPROCESSING,
    ByteImages,
    Labels,
    load_images,
    load_labels,
    read_index,
    select,
)
from chest_xray.pretraining import drawing_network
from chest_xray.recipe import (
    LABELS,
    LEGS,
    SEED,
    SOURCES,
    WEIGHT_DECAY,
    Leg,
    Task,
    build_network,
)

if TYPE_CHECKING:
    from collections.abc import Collection

    from imaging_node.inference.networks import MappedDenseNet, MappedTransformer

LABEL_SMOOTHING = 0.02
AVERAGING_DECAY = 0.996
SAVED_EVERY_STEPS = 100
_WARMING_STEPS = 50
_MOST_WEIGHT = 5.0
State = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class LegFiles:
    """Where a leg keeps its state while it runs and its result when it is done."""

    state: Path
    result: Path


def leg_files(checkpoints: Path, member: str, number: int) -> LegFiles:
    """Files of the leg `number` of a member, counted from 0."""
    task = LEGS[member][number].task
    stem = f"{member}.{number}.{task}"
    return LegFiles(state=checkpoints / f"{stem}.state.pt", result=checkpoints / f"{stem}.pt")


def train_member(
    member: str, checkpoints: Path, data: Path, device: torch.device, *, tasks: Collection[Task]
) -> None:
    """Run every leg of a member that `tasks` need and that has not ended yet."""
    for number, leg in enumerate(LEGS[member]):
        files = leg_files(checkpoints, member, number)
        if leg.task not in {Task.PRETRAINING, *tasks}:
            continue
        if files.result.exists():
            read_result(checkpoints, member, number)
        else:
            start = _start_of(member, number, checkpoints)
            LegRun(member, leg, files, start, device=device, seed=SEED + number).run(data)


def read_result(checkpoints: Path, member: str, number: int) -> dict[str, Any]:
    """What the leg `number` of a member left: `averaged`, the weights, and `seconds`.

    Raises:
        SystemExit: It was trained by another recipe than today's.
    """
    files, leg = leg_files(checkpoints, member, number), LEGS[member][number]
    result: dict[str, Any] = torch.load(files.result, weights_only=True)
    _require_same(files.result, result, leg)
    return result


def _require_same(path: Path, kept: dict[str, Any], leg: Leg) -> None:
    """Refuse weights of another recipe: the card would tell of one that never ran."""
    if kept.get("leg") != _written(leg):
        raise SystemExit(
            f"{path.name} was trained by another recipe than today's; delete it, and the legs"
            " after it, or give another --checkpoints"
        )


def _written(leg: Leg) -> str:
    return json.dumps(asdict(leg), sort_keys=True)


def _start_of(member: str, number: int, checkpoints: Path) -> State | None:
    """Weights that a leg begins with: of the leg before it of its task, else of pretraining."""
    task = LEGS[member][number].task
    earlier = [
        index
        for index, leg in enumerate(LEGS[member][:number])
        if leg.task in (task, Task.PRETRAINING)
    ]
    if not earlier:
        return None
    averaged: State = read_result(checkpoints, member, earlier[-1])["averaged"]
    return averaged


def take_over(network: MappedDenseNet | MappedTransformer, weights: State) -> None:
    """Load weights of another leg: positions of another grid are resized, another head is left."""
    own = network.state_dict()
    taken = {}
    for name, value in weights.items():
        if name == "position" and value.shape != own[name].shape:
            taken[name] = resize_positions(value, own[name].shape[1])
        elif name in own and value.shape == own[name].shape:
            taken[name] = value
    network.load_state_dict(own | taken)


def resize_positions(positions: torch.Tensor, count: int) -> torch.Tensor:
    """Positions (1, n, width) of a square grid for another square grid of `count` tokens."""
    before, after = math.isqrt(positions.shape[1]), math.isqrt(count)
    grid = positions.reshape(1, before, before, -1).permute(0, 3, 1, 2)
    resized = nn.functional.interpolate(grid, (after, after), mode="bicubic", align_corners=False)
    return resized.permute(0, 2, 3, 1).reshape(1, count, -1)


class LegRun:
    """Owns a leg's networks, its optimiser and its files.

    The network itself is trained; what is kept is the moving average of its weights.
    """

    def __init__(
        self,
        member: str,
        leg: Leg,
        files: LegFiles,
        start: State | None,
        *,
        device: torch.device,
        seed: int,
    ) -> None:
        torch.manual_seed(seed)
        self.member, self.leg, self.files, self.device = member, leg, files, device
        self.generator = torch.Generator().manual_seed(seed)
        labels = max(1, len(LABELS[leg.task]))
        self.network = build_network(member, labels, leg.image_size)
        if start is not None:
            take_over(self.network, start)
        self.trained: nn.Module = self.network
        if leg.task is Task.PRETRAINING:
            self.trained = drawing_network(self.network)
        self.averaged = build_network(member, labels, leg.image_size).to(device)
        self.averaged.load_state_dict(self.network.state_dict())
        self.trained.to(device)
        for parameter in self.trained.parameters():
            # Convolutions of a CPU are faster on it.
            if parameter.ndim == 4:  # noqa: PLR2004 - images of filters
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        self.optimiser = torch.optim.AdamW(
            self.trained.parameters(),
            lr=leg.learning_rate,
            weight_decay=WEIGHT_DECAY[member],
            fused=True,
        )
        self.step, self.seconds, self.loss = 0, 0.0, 0.0
        if files.state.exists():
            state = torch.load(files.state, weights_only=True, map_location=device)
            _require_same(files.state, state, leg)
            self.trained.load_state_dict(state["trained"])
            self.averaged.load_state_dict(state["averaged"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.generator.set_state(state["generator"].cpu())
            self.step, self.seconds, self.loss = state["step"], state["seconds"], state["loss"]

    def run(self, data: Path) -> None:
        """Train to the leg's end and write its result."""
        index, leg = read_index(data), self.leg
        source, labels = SOURCES[leg.task], LABELS[leg.task]
        chosen = select(index, source=source, split="train", labels=labels)
        images = load_images(data, chosen, leg.image_size)
        truth = load_labels(chosen, labels)
        steps = round(leg.epochs * len(images) / leg.batch_size)
        started = time.monotonic() - self.seconds
        while self.step < steps:
            loss = self._train_step(images, truth, steps)
            self.loss += 0.02 * (loss - self.loss) if self.step else loss
            self.step += 1
            self.seconds = time.monotonic() - started
            if self.step % SAVED_EVERY_STEPS == 0:
                self._save()
                self._print(f"step {self.step}/{steps}")
        result = {
            "leg": _written(leg),
            "averaged": self.averaged.state_dict(),
            "seconds": self.seconds,
        }
        part = self.files.result.with_suffix(".part")
        torch.save(result, part)
        part.replace(self.files.result)
        self.files.state.unlink(missing_ok=True)
        self._print(f"done {steps} steps{self._validated(data)}")

    def _train_step(self, images: ByteImages, truth: Labels, steps: int) -> float:
        self._set_learning_rate(steps)
        self.trained.train()
        # Every epoch has an order of its own that a resumed run finds again.
        size, per_epoch = self.leg.batch_size, len(images) // self.leg.batch_size
        epoch, place = divmod(self.step, per_epoch)
        order = np.random.default_rng((SEED, epoch)).permutation(len(images))
        chosen = order[place * size : (place + 1) * size]
        batch = torch.from_numpy(images[chosen])[:, None].to(self.device).float() / 255
        inputs = to_input(augment(batch, self.generator))
        inputs = inputs.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cuda", torch.bfloat16, enabled=self.device.type == "cuda"):
            if self.leg.task is Task.PRETRAINING:
                loss = self.trained(inputs, self.generator)
            else:
                wanted = torch.from_numpy(truth[chosen]).to(self.device)
                shares = torch.from_numpy(truth.mean(0)).to(self.device)
                loss = loss_of(self.trained(inputs)[0].float(), wanted, shares)
        self.optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self.trained.parameters(), 1.0)
        self.optimiser.step()
        decay = min(AVERAGING_DECAY, (1 + self.step) / (10 + self.step))
        average_into(self.averaged, self.network, decay)
        return float(loss.detach())

    def _set_learning_rate(self, steps: int) -> None:
        leg = self.leg
        cosine = 0.5 * (1 + math.cos(math.pi * self.step / steps))
        rate = leg.last_learning_rate + (leg.learning_rate - leg.last_learning_rate) * cosine
        for group in self.optimiser.param_groups:
            group["lr"] = rate * min(1.0, (self.step + 1) / _WARMING_STEPS)

    def _save(self) -> None:
        state = {
            "leg": _written(self.leg),
            "trained": self.trained.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "generator": self.generator.get_state(),
            "step": self.step,
            "seconds": self.seconds,
            "loss": self.loss,
        }
        part = self.files.state.with_suffix(".part")
        torch.save(state, part)
        part.replace(self.files.state)

    def _validated(self, data: Path) -> str:
        """For whoever watches; nothing is chosen by it."""
        labels = LABELS[self.leg.task]
        if not labels:
            return ""
        chosen = select(read_index(data), source=SOURCES[self.leg.task], split="val", labels=labels)
        images = load_images(data, chosen, self.leg.image_size)
        logits = predict(self.averaged, images, self.device)
        truth = load_labels(chosen, labels)
        areas = [
            area_under_curve(logits[:, each], truth[:, each])
            for each in range(len(labels))
            if 0 < truth[:, each].mean() < 1
        ]
        return f", mean validation AUROC {np.mean(areas):.4f}"

    def _print(self, what: str) -> None:
        leg = self.leg
        print(
            f"{self.member} {leg.task} {leg.image_size}: {what}, loss {self.loss:.4f},"
            f" {self.seconds:.0f} s",
            flush=True,
        )


def to_input(images: torch.Tensor) -> torch.Tensor:
    """Standardise images in [0, 1]."""
    return (images - PREPROCESSING.mean) / PREPROCESSING.standard_deviation


@torch.inference_mode()
def predict(
    network: nn.Module, images: ByteImages, device: torch.device
) -> npt.NDArray[np.float64]:
    """Logits, shape (n, findings)."""
    network.eval()
    parts = [
        network(to_input(batch[:, None].to(device).float() / 255))[0].cpu().numpy()
        for batch in torch.split(torch.from_numpy(images), 32)
    ]
    return np.concatenate(parts).astype(np.float64)


def average_into(averaged: nn.Module, network: nn.Module, decay: float) -> None:
    """Exponential moving average of weights and batch-norm statistics, in place."""
    pairs = list(zip(averaged.state_dict().values(), network.state_dict().values(), strict=True))
    moving = [(kept, new) for kept, new in pairs if kept.dtype.is_floating_point]
    torch._foreach_lerp_([kept for kept, _ in moving], [new for _, new in moving], 1 - decay)
    for kept, new in pairs:
        if not kept.dtype.is_floating_point:
            kept.copy_(new)


def loss_of(logits: torch.Tensor, truth: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    """Cross-entropy with smoothed labels in which the classes weigh alike.

    Args:
        logits, truth: Shape (n, findings).
        shares: Of positives in the training split, shape (findings,). A class rarer than one
            in ten weighs five times at most: single films must not steer the whole network.
    """
    weight = torch.where(
        truth > 0,
        (0.5 / shares).clamp(max=_MOST_WEIGHT),
        (0.5 / (1 - shares)).clamp(max=_MOST_WEIGHT),
    )
    smoothed = truth * (1 - 2 * LABEL_SMOOTHING) + LABEL_SMOOTHING
    return nn.functional.binary_cross_entropy_with_logits(logits, smoothed, weight=weight)
