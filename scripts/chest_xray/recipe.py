"""Which networks are trained on what, in which order and for how long."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from imaging_node.inference.networks import (
    DenseNetShape,
    MappedDenseNet,
    MappedTransformer,
    TransformerShape,
)

PNEUMONIA_LABELS = ("Pneumonia",)
FINDINGS_LABELS = (
    "Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia",
    "Pneumothorax", "Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening",
    "Hernia",
)  # fmt: skip
MEMBERS = ("cnn", "vit")
SEED = 20


class Task(StrEnum):
    """What a network learns; the later two start from what the first one learned."""

    PRETRAINING = "pretraining"
    PNEUMONIA = "pneumonia"
    FINDINGS = "findings"


SOURCES = {Task.PRETRAINING: None, Task.PNEUMONIA: "kermany", Task.FINDINGS: "nih"}
LABELS: dict[Task, tuple[str, ...]] = {
    Task.PRETRAINING: (),
    Task.PNEUMONIA: PNEUMONIA_LABELS,
    Task.FINDINGS: FINDINGS_LABELS,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Leg:
    """A stretch of training on one grid, from where the leg before it of its task ended.

    Attributes:
        image_size: Rows and columns.
        epochs: Passes over the training split, fractions allowed.
        learning_rate: AdamW's at the start; it falls to `last_learning_rate` along a cosine.
    """

    task: Task
    image_size: int
    epochs: float
    learning_rate: float
    last_learning_rate: float
    batch_size: int = 16


LEGS: dict[str, tuple[Leg, ...]] = {
    "cnn": (
        Leg(
            task=Task.PRETRAINING,
            image_size=96,
            epochs=1,
            learning_rate=1e-3,
            last_learning_rate=3e-4,
        ),
        Leg(
            task=Task.PNEUMONIA,
            image_size=128,
            epochs=3,
            learning_rate=1.2e-3,
            last_learning_rate=4e-4,
        ),
        Leg(
            task=Task.PNEUMONIA,
            image_size=128,
            epochs=1,
            learning_rate=4e-4,
            last_learning_rate=1e-5,
        ),
        Leg(
            task=Task.FINDINGS,
            image_size=128,
            epochs=10,
            learning_rate=8e-4,
            last_learning_rate=1e-5,
        ),
    ),
    "vit": (
        Leg(
            task=Task.PRETRAINING,
            image_size=224,
            epochs=3,
            learning_rate=8e-4,
            last_learning_rate=1e-4,
            batch_size=32,
        ),
        Leg(
            task=Task.PNEUMONIA,
            image_size=128,
            epochs=5,
            learning_rate=5e-4,
            last_learning_rate=2e-4,
        ),
        Leg(
            task=Task.PNEUMONIA,
            image_size=128,
            epochs=1,
            learning_rate=2e-4,
            last_learning_rate=1e-5,
        ),
        Leg(
            task=Task.FINDINGS,
            image_size=128,
            epochs=20,
            learning_rate=4e-4,
            last_learning_rate=1e-5,
        ),
    ),
}
WEIGHT_DECAY = {"cnn": 0.02, "vit": 0.05}


def shape_of(member: str, findings: int, image_size: int) -> DenseNetShape | TransformerShape:
    """DenseNet-121, or a transformer of six blocks behind a convolution stem."""
    if member == "cnn":
        return DenseNetShape(
            findings=findings, initial_channels=64, growth_rate=32, blocks=(6, 12, 24, 16)
        )
    return TransformerShape(
        findings=findings,
        image_size=image_size,
        width=256,
        depth=6,
        attention_heads=8,
        expansion=4,
        stem_channels=(32, 64, 128),
    )


def build_network(
    member: str, findings: int, image_size: int
) -> MappedDenseNet | MappedTransformer:
    """An untrained member for images of `image_size` rows and columns."""
    shape = shape_of(member, findings, image_size)
    if isinstance(shape, DenseNetShape):
        return MappedDenseNet(shape)
    return MappedTransformer(shape)
