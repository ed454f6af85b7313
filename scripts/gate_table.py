"""Print what the image gates of every bundle let through and refuse, kind by kind.

    python scripts/gate_table.py [--bundle ID] [--films N]

Films of the test split must pass; whatever is no upright frontal chest film must not, although
its header would say so. Needs the public images (`--data`).
"""

from __future__ import annotations

import argparse
import csv
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from chest_xray.bundles import PLANS
from chest_xray.gate_fitting import enlarged, mildly_compressed
from chest_xray.images import DEFAULT_DATA, read_p_values
from chest_xray.scoring import open_graphs
from chest_xray.trained import splits_of
from PIL import Image, ImageDraw, ImageFont

from imaging_node.dicom.image_decoding import decode_file
from imaging_node.domain.errors import NotAnalysedError
from imaging_node.inference.bundle import Bundle, load_bundle
from imaging_node.inference.gates import Gates
from imaging_node.inference.preprocessing import bring_to_grid, standardise
from imaging_node.inference.quality import check_quality

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from imaging_node.domain.finding import FloatImage

REPOSITORY = Path(__file__).resolve().parents[1]
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


def print_rows(title: str, counts: dict[str, Counter[str]], *, must_pass: bool) -> float:
    """One row a kind; returns the share of all images that were judged as they must be."""
    print(f"\n| {title} | images | passed | refused as |\n|---|---|---|---|")
    right = total = 0
    for name, reasons in counts.items():
        images, passed = sum(reasons.values()), reasons[""]
        right += passed if must_pass else images - passed
        total += images
        why = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common() if reason)
        print(f"| {name} | {images} | {passed} ({passed / images:.1%}) | {why} |")
    return right / total


def count(judge: GateJudge, images: Iterable[tuple[str, FloatImage]]) -> dict[str, Counter[str]]:
    """Refusals by kind of image and reason; "" counts what passed."""
    counts: dict[str, Counter[str]] = {}
    for name, p_values in images:
        counts.setdefault(name, Counter())[judge.refusal(p_values)] += 1
    return counts


def judge_bundle(bundle: Bundle, plan_id: str, data: Path, films: int) -> tuple[float, float]:
    """Print both tables of one bundle; returns the shares passed and refused as they must be."""
    plan = next(plan for plan in PLANS if plan.id == plan_id)
    test = splits_of(plan, data)["test"]
    judge = GateJudge(bundle)
    few = [read_p_values(data, image) for image in test[:: max(1, len(test) // films)]]
    familiar = count(judge, (("test film", read_p_values(data, image)) for image in test))
    familiar |= count(judge, (("compressed about 7:1", mildly_compressed(film)) for film in few))
    familiar |= count(judge, (("and enlarged to 2500 x 2048", enlarged(film)) for film in few))
    strange = count(judge, public_strangers(data)) | count(judge, strangers_of(few))
    passed = print_rows(f"{plan_id}: must pass", familiar, must_pass=True)
    refused = print_rows(f"{plan_id}: must be refused", strange, must_pass=False)
    print(f"\n{plan_id}: {passed:.1%} passed (98 % wanted), {refused:.1%} refused (95 % wanted)")
    return passed, refused


def main() -> None:
    """Read the arguments and judge."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA)
    parser.add_argument("--zoo", type=Path, default=REPOSITORY / "model_zoo")
    parser.add_argument("--bundle", choices=[plan.id for plan in PLANS], help="only this one")
    parser.add_argument("--films", type=int, default=40, help="test films that are changed")
    arguments = parser.parse_args()
    for plan in PLANS:
        if arguments.bundle in (None, plan.id):
            judge_bundle(
                load_bundle(arguments.zoo / plan.id), plan.id, arguments.data, arguments.films
            )


if __name__ == "__main__":
    main()
