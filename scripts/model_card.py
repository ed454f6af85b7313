"""The model card: every number in it is computed from the splits handed in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from evaluation import (
    Split,
    advantage,
    brier_score,
    discrimination,
    expected_calibration_error,
    share_at_least,
)
from map_check import DeletionResult

from imaging_node.inference.calibration import BetaCalibration

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt


@dataclass(frozen=True, slots=True, kw_only=True)
class CardFigures:
    """What the card is computed from; thresholds are probabilities."""

    validation: Split
    paediatric_test: Split
    adult_test: Split
    calibration: BetaCalibration
    operating_point: float
    undetermined_from: float
    deletion: DeletionResult

    def probabilities(self, split: Split) -> npt.NDArray[np.float64]:
        """Calibrated probabilities of a split, shape (n,)."""
        return np.array([self.calibration.probability(float(logit)) for logit in split.pooled])


def write_card(path: Path, figures: CardFigures) -> None:
    """Write the card as Markdown."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        TEMPLATE.format(
            advantage=advantage(
                figures.paediatric_test,
                figures.paediatric_test.pooled,
                figures.paediatric_test.logits[0],
            ),
            discrimination=_discrimination_table(figures),
            calls=_calls_table(figures),
            calibration=_calibration_table(figures),
            operating_point=figures.operating_point,
            undetermined_from=figures.undetermined_from,
            validation_images=len(figures.validation.truth),
            validation_positives=int(figures.validation.truth.sum()),
            deletion=figures.deletion,
            deletion_verdict=DELETION_VERDICTS[figures.deletion.is_passed],
        ),
        encoding="utf-8",
    )


def _named_splits(figures: CardFigures) -> list[tuple[str, Split]]:
    adults = figures.adult_test
    return [
        ("children, validation (thresholds were chosen here)", figures.validation),
        ("**children, test**", figures.paediatric_test),
        ("adults (NIH), test: outside the intended use", adults),
        ("adults, PA only", adults.only("PA")),
        ("adults, AP only", adults.only("AP")),
    ]


def _size(split: Split) -> str:
    positives = int(split.truth.sum())
    patients = len(set(split.patients))
    return f"{len(split.truth)} images ({positives} with pneumonia), {patients} patients"


def _table(head: str, rows: list[str]) -> str:
    columns = head.count("|") + 1
    return "\n".join([f"| {head} |", "|" + "---|" * columns, *(f"| {row} |" for row in rows)])


def _discrimination_table(figures: CardFigures) -> str:
    rows = [
        f"{name} | {_size(split)} | {discrimination(split, split.logits[0])}"
        f" | {discrimination(split, split.logits[1])} | {discrimination(split, split.pooled)}"
        for name, split in _named_splits(figures)
    ]
    return _table("split | size | CNN | ViT | pair", rows)


def _calls_table(figures: CardFigures) -> str:
    rows = []
    for name, split in _named_splits(figures):
        probabilities = figures.probabilities(split)
        present, lower = figures.operating_point, figures.undetermined_from
        called = share_at_least(split, probabilities, present, truth=1)
        false = share_at_least(split, probabilities, present, truth=0)
        absent_despite = float((probabilities[split.truth == 1] < lower).mean())
        undetermined = float(((probabilities >= lower) & (probabilities < present)).mean())
        rows.append(
            f"{name} | {called}"
            f" | {1 - false.value:.3f} ({1 - false.high:.3f} to {1 - false.low:.3f})"
            f" | {undetermined:.1%} | {absent_despite:.1%}"
        )
    return _table(
        "split | sensitivity of present | specificity of present | undetermined"
        " | pneumonia called absent",
        rows,
    )


def _calibration_table(figures: CardFigures) -> str:
    rows = []
    for name, split in _named_splits(figures):
        probabilities = figures.probabilities(split)
        rows.append(
            f"{name} | {split.truth.mean():.3f} | {probabilities.mean():.3f}"
            f" | {brier_score(probabilities, split.truth):.3f}"
            f" | {expected_calibration_error(probabilities, split.truth):.3f}"
        )
    return _table(
        "split | share with pneumonia | mean probability | Brier score"
        " | expected calibration error (10 bins)",
        rows,
    )


DELETION_VERDICTS = {
    True: "The test is passed; the small numbers also say how little of a score hangs on one\n"
    "place, and that another film's map does nearly as well where anatomy is alike.",
    False: "The test is **not passed**: the bundle declares its maps `unverified`.",
}

TEMPLATE = """\
# chest_xray_pneumonia 0.1.0

**Research only. Not a medical device. Not for diagnosis.** It scores one finding, Pneumonia,
on frontal chest radiographs of children of 1 to 5 years. A score below the threshold is not
a normal radiograph: nothing but pneumonia was learned.

## What it is
Two small networks whose logits are averaged, then calibrated once:

| member | shape | parameters |
|---|---|---|
| CNN | MONAI DenseNet, growth 16, blocks 3-6-12-10 | 0.63 M |
| ViT | four stride-2 convolutions, six transformer blocks of width 160, mean over tokens | 1.77 M |

Input: P-Values, stretched to 224 x 224 without regard to the aspect ratio (the training
pictures had lost theirs), 0.5-99.5 percentile to [0, 1], (x - 0.5) / 0.25. Weights are
stored as float16, computed as float32.

## Whom it is for
Modality CR or DX, views PA and AP, age from 1 to below 6 years, presentation images of at
least 128 x 128 pixels. An absent age, view or body part is accepted and the report says so.
Computed-radiography, digital X-ray and Secondary Capture objects are accepted, at most four
images a study; the image with the highest probability answers.

## Trained on
- Kermany, Zhang, Goldbaum: Labeled Optical Coherence Tomography (OCT) and Chest X-Ray Images
  for Classification, Mendeley Data, doi:10.17632/rscbjbr9sj.2, CC BY 4.0. One hospital
  (Guangzhou), AP films, normal against bacterial or viral pneumonia; the copy used was
  squashed to 224 x 224. Split by patient; patient identities come from file names and are
  approximate.
- Looked at, never trained on: a subset of NIH ChestX-ray14, provided by the NIH Clinical
  Center (Wang et al., ChestX-ray8, CVPR 2017), text-mined labels, adults.

AdamW, cosine schedule, weights averaged over steps, both classes weighted equally; rotation,
shift, anisotropic zoom that crops the border (letters are burned in there), gamma, contrast,
blur, noise. No flips: laterality is information. The average with the lowest validation loss
is shipped. The test splits chose nothing: no network, no weight, no threshold.

## How well it ranks
AUROC with 95 % intervals from 2,000 bootstrap draws of whole patients.

{discrimination}

Pair minus CNN alone on the children's test films: {advantage}. What the second
member adds here is not rank but a second opinion of another shape, shown as the spread.

The children's test films come from another part of the same collection and are harder than
its validation films. The adult rows show how far the model carries outside its use. The
prevalence there is artificial and differs between the views, so that the rows per view are
the ones to read.

## How it calls
Present from p = {operating_point:.3f}: the lowest threshold that keeps a specificity of
97.5 % on the validation split. Undetermined from p = {undetermined_from:.3f}: the highest
threshold that keeps a sensitivity of 99 % there. Below: absent. A site may set its own
operating point; the undetermined band then begins where the bundle says, or vanishes when
the site's point lies lower.

{calls}

Pneumonia called present suggests the reading priority `urgent`: in a child it can become
dangerous within hours, and a false alarm costs one study read early. Nothing is ever lowered.

## What a probability means
Beta calibration of the pooled logit on the {validation_images} validation films,
{validation_positives} of them with pneumonia. The reported interval is the 95 % interval of
that curve (delta method): it speaks of films like the validation films and of their high
share of pneumonia, and knows nothing of a new hospital. Where pneumonia is rarer the
probability is too high. The spread is the standard deviation of the two members and says
how far they agree.

{calibration}

## What a map may be said to show
"Areas that raised the model's score; not a lesion outline." The map of a finding is the
class activation map that both graphs put out: its mean, plus the members' averaged biases,
is the pooled logit exactly. Captum gives the same map at the pinned layers, and tests hold it to a
Pearson correlation of 0.999: `LayerGradCam` at `net.class_layers.relu` (CNN; at
`net.features.norm5` it would differ) and `LayerGradientXActivation` at `norm` (ViT). Such maps are
coarse (7 x 7 and 14 x 14 fields), localise worse than radiologists and can point at what
merely accompanies a disease. Nothing may be measured on them.

Deletion test on {deletion.images} validation films with pneumonia, a tenth of each film blurred:

| blurred where | mean fall of the pooled logit |
|---|---|
| the film's own map is highest | {deletion.own:.2f} |
| a random map of the CNN's grid is highest | {deletion.random:.2f} |
| another film's map is highest | {deletion.foreign:.2f} |
| the film's own map is lowest | {deletion.lowest:.2f} |

The own map beats the random one by at least {deletion.least_gain:.3f} (lower end of the 95 %
bootstrap interval of the mean difference). {deletion_verdict}

## Self-test
Three synthetic images, drawn by a seeded formula, must get their known answers on every machine
before the bundle is used: logits within 0.02, probabilities within 0.01, map values within 0.1.

## Limits
- One hospital, one age group, two classes: no other disease was in the training set, and a
  film with another disease gets a pneumonia score all the same.
- Films squashed to squares, of unknown devices, with burned-in letters.
- Children under one year, adolescents, adults, lateral films: refused by eligibility.
- A published model trained on these films fell to AUROC 0.54 on another hospital's children.
  Measure it at your site before you believe it.

## Licence
Apache-2.0 for the files of this bundle; the data keep their own licences, above.
"""
