"""Bare ONNX Runtime: the bundle's networks in a loop with nothing around them."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime

from imaging_node.inference.bundle import default_bundle_directory, load_bundle

if TYPE_CHECKING:
    from imaging_node.inference.bundle import Bundle

BATCHES = (1, 2, 4, 8, 16)
BUNDLE = "chest_xray_pneumonia"


@dataclass(frozen=True, slots=True, kw_only=True)
class BareRate:
    """The best that was found."""

    images_per_s: float
    batch: int
    threads: int

    @property
    def layout(self) -> str:
        """How it was reached, in words."""
        return f"batch {self.batch}, {self.threads} threads"


def bare_rate(seconds: float = 1.0) -> BareRate:
    """Images a second through all members, at the best of some batch sizes.

    Args:
        seconds: For each batch size.
    """
    threads = os.cpu_count() or 1
    found = [
        BareRate(images_per_s=_rate(batch, threads, seconds), batch=batch, threads=threads)
        for batch in BATCHES
    ]
    return max(found, key=lambda each: each.images_per_s)


@cache
def _bundle() -> Bundle:
    return load_bundle(default_bundle_directory() / BUNDLE)


@cache
def _sessions(threads: int) -> list[onnxruntime.InferenceSession]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Two networks with threads that spin take turns badly: a third of the rate.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return [
        onnxruntime.InferenceSession(each.model, options, providers=["CPUExecutionProvider"])
        for each in _bundle().members
    ]


def _rate(batch: int, threads: int, seconds: float) -> float:
    rules = _bundle().preprocessing
    shape = (batch, 1, rules.rows, rules.columns)
    images = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    sessions = _sessions(threads)
    for session in sessions:
        session.run(None, {"image": images})
    done, began = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - began) < seconds:
        for session in sessions:
            session.run(None, {"image": images})
        done += batch
    return done / elapsed
