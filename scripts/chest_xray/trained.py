"""The members as training left them, and the images that they are judged on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from chest_xray.export import HEADS, keep_findings
from chest_xray.images import PREPROCESSING, IndexedImage, load_labels, read_index, select
from chest_xray.recipe import LABELS, LEGS, MEMBERS, build_network
from chest_xray.run import read_result
from imaging_node.inference.networks import MappedDenseNet, MappedTransformer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from chest_xray.bundles import BundlePlan


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """The members of one bundle, with only the findings that are reported.

    Attributes:
        seconds: Of training, per member, pretraining included.
    """

    labels: tuple[str, ...]
    networks: dict[str, MappedDenseNet | MappedTransformer]
    seconds: dict[str, float]


def intended(images: Sequence[IndexedImage], plan: BundlePlan) -> list[IndexedImage]:
    """Those whose age, where it is known, is the bundle's."""
    return [
        image
        for image in images
        if image.age_years is None
        or plan.minimum_age_years <= image.age_years < plan.maximum_age_years
    ]


def splits_of(plan: BundlePlan, data: Path) -> dict[str, list[IndexedImage]]:
    """Images of the bundle's splits, and the other source's test split."""
    index = read_index(data)
    return {
        "train": select(index, source=plan.source, split="train", labels=plan.labels),
        "calibration": intended(
            select(index, source=plan.source, split="val", labels=plan.labels), plan
        ),
        "test": intended(select(index, source=plan.source, split="test", labels=plan.labels), plan),
        "other": select(index, source=plan.other_source, split="test", labels=("Pneumonia",)),
    }


def read_trained(
    plan: BundlePlan, checkpoints: Path, calibration: Sequence[IndexedImage]
) -> Trained:
    """The members as the last leg of their task left them."""
    positives = load_labels(calibration, plan.labels).sum(0)
    kept = [index for index, count in enumerate(positives) if count >= plan.least_positives]
    networks, seconds = {}, {}
    for member in MEMBERS:
        legs = LEGS[member]
        last = max(index for index, leg in enumerate(legs) if leg.task is plan.task)
        network = build_network(member, len(LABELS[plan.task]), PREPROCESSING.rows)
        results = [
            read_result(checkpoints, member, index)
            for index, leg in enumerate(legs)
            if leg.task in (plan.task, legs[0].task) and index <= last
        ]
        network.load_state_dict(results[-1]["averaged"])
        keep_findings(network, member, kept)
        networks[member] = network.eval()
        seconds[member] = sum(each["seconds"] for each in results)
    return Trained(
        labels=tuple(plan.labels[index] for index in kept), networks=networks, seconds=seconds
    )


def head_of(trained: Trained, member: str) -> torch.nn.Linear:
    """A member's output layer."""
    head = trained.networks[member].get_submodule(HEADS[member])
    assert isinstance(head, torch.nn.Linear)
    return head
