"""What the image gates of a bundle let through and refuse, kind by kind."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from chest_xray.gate_fitting import enlarged, mildly_compressed
from chest_xray.images import read_p_values
from chest_xray.scoring import open_graphs
from imaging_node.dicom.image_decoding import decode_file
from imaging_node.domain.errors import NotAnalysedError
from imaging_node.inference.gates import Gates
from imaging_node.inference.preprocessing import bring_to_grid, standardise
from imaging_node.inference.quality import check_quality

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from chest_xray.images import IndexedImage
    from imaging_node.domain.finding import FloatImage
    from imaging_node.inference.bundle import Bundle

CHANGED_FILMS = 40
LEAST_PASSED = 0.98
LEAST_REFUSED = 0.95
SEED = 5
_CHEST_FILES = ("chest/",)
_CHEST_PARTS = frozenset({"CHEST"})
_ANIMAL = ("DX", "THORAX")


class GateJudge:
    """Owns a bundle's graphs and gates, and asks them as the scorer does."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._gates = Gates(bundle)
        self._sessions = open_graphs([member.model for member in bundle.members])

    def refusal(self, p_values: FloatImage) -> str:
        """Why an image is refused; "" when it passes."""
        try:
            check_quality(p_values, self._bundle.quality_gates)
            gridded = bring_to_grid(p_values, self._bundle.preprocessing)
            self._gates.look(gridded).enforce()
            batch = standardise(gridded.stretched, self._bundle.preprocessing)[np.newaxis]
            features = [
                each[0]
                for session in self._sessions
                for each in session.run(None, {"image": batch})[2:]
            ]
            self._gates.compare(np.concatenate(features)).enforce()
        except NotAnalysedError as error:
            return str(error.reason)
        return ""


def covered_by_text(film: FloatImage) -> FloatImage:
    """Lines of white writing all over a film."""
    picture = Image.fromarray(np.round(film * 255).astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    size = max(9, picture.height // 18)
    font = ImageFont.load_default(size)
    for row in range(0, picture.height, int(size * 1.3)):
        draw.text((2, row), "AP SUPINE 82 kV 4.0 mAs  WARD 7  PORTABLE  " * 3, 255, font)
    return np.asarray(np.asarray(picture) / 255, np.float32)


def strangers_of(films: Iterable[FloatImage]) -> Iterator[tuple[str, FloatImage]]:
    """What a film becomes when it is turned, inverted, written over or replaced."""
    random = np.random.default_rng(SEED)
    changes: dict[str, Callable[[FloatImage], FloatImage]] = {
        "turned a quarter left": lambda film: np.rot90(film, 1).copy(),
        "turned a quarter right": lambda film: np.rot90(film, 3).copy(),
        "upside down": lambda film: film[::-1, ::-1].copy(),
        "inverted": lambda film: (1 - film).astype(np.float32),
        "covered by writing": covered_by_text,
        "blank": lambda film: np.full_like(film, 0.5),
        "saturated": lambda film: np.clip(film * 6, 0, 1),
        "noise": lambda film: random.random(film.shape, np.float32),
        "noise, smooth": lambda film: np.asarray(
            cv2.GaussianBlur(random.random(film.shape, np.float32), (0, 0), 6), np.float32
        ),
    }
    for film in films:
        for name, change in changes.items():
            yield name, change(film)


def public_strangers(data: Path) -> Iterator[tuple[str, FloatImage]]:
    """First frames of the public DICOM files that show no chest film of a person."""
    with (data / "dicom" / "index.csv").open(encoding="utf-8", newline="") as index:
        rows = list(csv.DictReader(index))
    for row in rows:
        is_chest = row["path"].startswith(_CHEST_FILES) or row["body"] in _CHEST_PARTS
        if is_chest or not row["photometric"].startswith("MONOCHROME"):
            continue
        try:
            pixels, _ = decode_file(data / "dicom" / row["path"], frame=1)
        except NotAnalysedError:
            continue
        is_animal = (row["modality"], row["body"]) == _ANIMAL
        yield "animal thorax" if is_animal else f"{row['modality'] or 'no modality'} object", pixels


def count(judge: GateJudge, images: Iterable[tuple[str, FloatImage]]) -> dict[str, Counter[str]]:
    """Refusals by kind of image and reason; "" counts what passed."""
    counts: dict[str, Counter[str]] = {}
    for name, p_values in images:
        counts.setdefault(name, Counter())[judge.refusal(p_values)] += 1
    return counts


@dataclass(frozen=True, slots=True, kw_only=True)
class GateFigures:
    """Refusals by kind and reason.

    Attributes:
        familiar: Of films that the bundle is for: they must pass.
        strange: Of what is no upright frontal chest film: it must be refused.
        outside: Of the other source's films, which only their headers could tell: told, not
            judged.
    """

    familiar: Mapping[str, Counter[str]]
    strange: Mapping[str, Counter[str]]
    outside: Mapping[str, Counter[str]]

    @property
    def passed(self) -> float:
        """Share of the familiar that pass, in [0, 1]."""
        return _share(self.familiar.values())

    @property
    def refused(self) -> float:
        """Share of the strange that are refused, in [0, 1]."""
        return 1 - _share(self.strange.values())

    @property
    def faults(self) -> list[str]:
        """What is judged worse than wanted: the own films together, others each kind for itself."""
        low = [] if self.passed >= LEAST_PASSED else ["the bundle's own films"]
        high = [name for name, each in self.strange.items() if _share([each]) > 1 - LEAST_REFUSED]
        return low + high


def judge_gates(
    bundle: Bundle, test: Sequence[IndexedImage], other: Sequence[IndexedImage], data: Path
) -> GateFigures:
    """Ask a bundle's gates about its test films, what they become, and all public strangers."""
    judge = GateJudge(bundle)
    every = max(1, len(test) // CHANGED_FILMS)
    few = [read_p_values(data, image) for image in test[::every]]
    familiar = count(judge, (("test film", read_p_values(data, image)) for image in test))
    familiar |= count(judge, (("compressed about 7:1", mildly_compressed(film)) for film in few))
    familiar |= count(judge, (("and enlarged to 2500 x 2048", enlarged(film)) for film in few))
    return GateFigures(
        familiar=familiar,
        strange=count(judge, public_strangers(data)) | count(judge, strangers_of(few)),
        outside=count(judge, (("the other source", read_p_values(data, each)) for each in other)),
    )


def gates_table(figures: GateFigures) -> str:
    """One row a kind, in Markdown."""
    wanted = (
        (figures.familiar, f">= {LEAST_PASSED:.0%} pass"),
        (figures.strange, f">= {LEAST_REFUSED:.0%} refused"),
        (figures.outside, "told, not required"),
    )
    rows = []
    for counts, want in wanted:
        for name, reasons in counts.items():
            images, passed = sum(reasons.values()), reasons[""]
            why = ", ".join(
                f"{reason} {number}" for reason, number in sorted(reasons.items()) if reason
            )
            rows.append(
                f"| {name} | {images} | {passed} ({passed / images:.1%}) | {why} | {want} |"
            )
    head = ["| kind | images | passed | refused as | wanted |", "|---|---|---|---|---|"]
    told = (
        f"Together: {figures.passed:.1%} of the bundle's own films pass,"
        f" {figures.refused:.1%} of all others are refused."
    )
    return "\n".join([*head, *rows, "", told])


def _share(counts: Iterable[Counter[str]]) -> float:
    each = list(counts)
    return sum(reasons[""] for reasons in each) / sum(reasons.total() for reasons in each)
