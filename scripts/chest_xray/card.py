"""The model card: every number in it is computed from the splits handed in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chest_xray.explanation_checks import (
    LARGEST_INCOMPLETENESS,
    LARGEST_RANDOM_CORRELATION,
    LEAST_AGREEMENT,
    LEAST_DELETION_SHARE,
    ExplanationChecks,
)
from chest_xray.recipe import LEGS, MEMBERS
from chest_xray.tables import TABLES, Evaluated, is_shadow
from imaging_node.domain.proportion import wilson_interval

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from chest_xray.bundles import BundlePlan
    from chest_xray.trained import Trained

WATTS_PER_CORE = 10.0
ROUNDING = 1e-5


def write_card(
    path: Path,
    evaluated: Evaluated,
    trained: Trained,
    checks: ExplanationChecks,
    pictures: Sequence[str],
    gates: str = "",
) -> None:
    """Write the card as Markdown.

    Args:
        pictures: Names of the plots beside the card.
        gates: As from `gates_table`; it needs a signed bundle, which needs a card.
    """
    plan = evaluated.plan
    labels = ", ".join(label.replace("_", " ") for label in trained.labels)
    dropped = [label for label in plan.labels if label not in trained.labels]
    path.write_text(
        TEMPLATE.format(
            plan=plan,
            labels=labels,
            dropped=_dropped(plan, dropped),
            parameters=_parameters(trained),
            legs=_legs(plan),
            cost=_cost(trained),
            state=_STATES[is_shadow(evaluated)],
            shared=_SHARED_LIMITS,
            own_limits=_OWN_LIMITS[plan.source],
            choices=_CHOICES[plan.source],
            approximately=_APPROXIMATELY[plan.source],
            explanation=explanation_table(checks),
            gates=gates,
            pictures="\n".join(f"![{name.removesuffix('.png')}]({name})" for name in pictures),
            **{name: table(evaluated) for name, table in TABLES.items()},
        ),
        encoding="utf-8",
    )


def _dropped(plan: BundlePlan, dropped: Sequence[str]) -> str:
    if not dropped:
        return ""
    words = ", ".join(label.replace("_", " ") for label in dropped)
    return (
        f" The networks were trained on {len(plan.labels)} labels; {words} are not reported:"
        f" fewer than {plan.least_positives} films of the calibration split show them, too few to"
        " say what a probability means."
    )


def _parameters(trained: Trained) -> str:
    words = {
        "cnn": "MONAI DenseNet-121 (growth 32, blocks 6-12-24-16)",
        "vit": "four stride-2 convolutions, six transformer blocks of width 256, mean over tokens",
    }
    rows = [
        f"| {member} | {words[member]}"
        f" | {sum(each.numel() for each in network.parameters()) / 1e6:.2f} M |"
        for member, network in trained.networks.items()
    ]
    return "\n".join(["| member | shape | parameters |", "|---|---|---|", *rows])


def _legs(plan: BundlePlan) -> str:
    rows = [
        f"| {member} | {leg.task} | {leg.image_size} | {leg.epochs:g} | {leg.batch_size}"
        f" | {leg.learning_rate:g} to {leg.last_learning_rate:g} |"
        for member in MEMBERS
        for leg in LEGS[member]
        if leg.task in (plan.task, LEGS[member][0].task)
    ]
    head = "| member | task | grid | epochs | batch | learning rate |"
    return "\n".join([head, "|---|---|---|---|---|---|", *rows])


def _cost(trained: Trained) -> str:
    hours = sum(trained.seconds.values()) / 3600
    each = ", ".join(
        f"{member} {seconds / 60:.0f} min" for member, seconds in trained.seconds.items()
    )
    return (
        f"{each}, each on one CPU core that it shared with other work; pretraining is counted in"
        f" full. At {WATTS_PER_CORE:g} W a core that is {hours * WATTS_PER_CORE / 1000:.3f} kWh, an"
        " estimate: nothing was metered."
    )


def explanation_table(checks: ExplanationChecks) -> str:
    """What was found of the maps, and what was wanted."""
    boxes = (
        f"{checks.hits} of {checks.boxes} ({checks.chance:.0%} by chance)"
        if checks.boxes
        else "none of these films has a box for a reported finding"
    )
    verdict = "passed" if checks.is_passed else "**not passed: captures say so**"
    films = checks.deletion_films
    blurred = f"own map beats random maps when a tenth is blurred, {films} flagged films"
    low, high = wilson_interval(checks.deletion_share * films, films)
    interval = f"{checks.deletion_share:.0%} ({low:.0%} to {high:.0%})"
    is_rounding = checks.incompleteness < ROUNDING
    rows = (
        (
            "agreement with Captum at the pinned layers, least",
            f"{checks.agreement:.6f}",
            f">= {LEAST_AGREEMENT}",
        ),
        (
            "completeness, largest difference of the map's sum from the logit",
            f"below {ROUNDING:.0e}" if is_rounding else f"{checks.incompleteness:.1e}",
            f"<= {LARGEST_INCOMPLETENESS:.0e}",
        ),
        (
            "mean size of the correlation with maps of random heads",
            f"{checks.random_correlation:.2f} (by chance {checks.chance_correlation:.2f})",
            f"< {LARGEST_RANDOM_CORRELATION}",
        ),
        (blurred, interval, f">= {LEAST_DELETION_SHARE:.0%}"),
        ("peak inside a radiologist's box", boxes, "told, not required"),
    )
    head = ["| check | found | wanted |", "|---|---|---|"]
    table = "\n".join([*head, *(f"| {' | '.join(row)} |" for row in rows)])
    return f"{table}\n\nTogether: {verdict}."


_STATES = {
    True: "It is shipped as `shadow`: scored and compared where a site adds it, never delivered"
    " until somebody promotes it.",
    False: "It is shipped ready to answer.",
}
_CHOICES = {
    "kermany": """The calibration split chose one thing: a further half epoch at
224 x 224 was tried, left the CNN lower there (AUROC 0.994 instead of 0.998) and was dropped, for
costing three times as much. **The test split was looked at once before training ended**: without
the last leg, of annealing, the pair stood at AUROC 0.963 there, and the leg was put back. The
figures of the test split below are therefore a little too good.""",
    "nih": """Neither the calibration nor the test split chose a network, a weight or
a leg.""",
}
_APPROXIMATELY = {
    "kermany": ", as far as file names tell patients (approximate: the same number occurs with"
    " bacterial and viral pneumonia in different splits)",
    "nih": "",
}
_OWN_LIMITS = {
    "kermany": """- One hospital, one age group, two classes: no other disease was in the training
  set, and a film with another disease gets a pneumonia score all the same.
- The films were squashed to squares by their source; devices are unknown; letters are burned in.
- The test films come from another part of the same collection than the calibration films, and are
  harder: what the thresholds promise for films like the calibration films does not hold there (see
  the table of calls).
- A film without a stated age is taken: that of an adult gets a score which means nothing (see the
  rows of the other source).
- A published model trained on these films fell to AUROC 0.54 on another hospital's children.
  Measure it at your site before you believe it.""",
    "nih": """- Under a thousand training films, labels mined from reports by a program: a label is
  what a report mentioned, not what a panel saw.
- Prevalence is artificial; films without a finding are mostly AP, films with one mostly PA: a model
  may learn the view. Read the rows per view.
- Rank is far from what a reader needs; that is why it stays in the shadow.""",
}
_SHARED_LIMITS = """- No lateral film was among the training images: lateral films were learned from
  synthetic ones, and are refused by header first.
- Not a medical device. A film that is not flagged is not a normal film."""

TEMPLATE = """\
# {plan.id} {plan.version}

**Research only. Not a medical device. Not for diagnosis.** It scores {labels}
on frontal chest radiographs of {plan.people}. A score below the threshold is not a normal
radiograph: nothing but these findings was learned.{dropped}
{state}

## Intended use, and what it is not for
Putting the study that needs a look first higher on a research worklist; studying calibration,
agreement and maps. Not for: diagnosis, ruling out, other ages than {plan.people}, lateral films,
other body parts, films for processing, scans of films. Modality CR or DX, views PA and AP; an
absent age, view or body part is accepted and the report says so. At most four images a study: a
finding is present if an image is, absent only if all are; of those with the same call the one with
the highest probability answers.

## What it is
Two networks whose logits are averaged, then calibrated once:

{parameters}

Input: P-Values, stretched to 128 x 128 without regard to the aspect ratio, 0.5-99.5 percentile to
[0, 1], (x - 0.5) / 0.25. Weights are stored as float16, computed as float32.

## Trained on
{plan.data}. Split by patient{approximately}. Tested from outside on: {plan.other_data}.
Both sources without labels for pretraining: the CNN draws covered patches from its last feature
map, the transformer is a masked autoencoder. Every leg ends after its stated length, and the moving
average of its weights is taken. {choices}

{legs}

AdamW, both classes weighted alike; rotation, shift, anisotropic zoom that crops the border (letters
are burned in there), gamma, contrast, blur, noise. No flips: laterality is information.
Time and energy: {cost}

## How well it ranks
AUROC with 95 % intervals from 2,000 bootstrap draws of whole patients.

{discrimination}

What the second member adds:

{advantage}

{pictures}

## How it calls
Conformal, class-conditional: for films like the calibration films at most {plan.false_present:.1%}
of those without a finding are flagged and at most {plan.missed:.1%} of those with it are cleared,
on average over calibration splits. What lies between is left open, and so is every film over which
the members differ by more than 99 % of the calibration films did, or which one of them alone would
not clear. A site may set its own operating point.

{thresholds}

{calls}

## What a probability means
Beta calibration of the pooled logit. The reported interval is the 95 % interval of that curve: it
speaks of films like the calibration films and of their share of findings, and knows nothing of a
new hospital. The spread is the standard deviation of the two members and says how far they agree.

{calibration}

## Subgroups
{subgroups}

## Where it fails
The test films that it gets most wrong, by their names in the public collections:

{failures}

## What a map may be said to show
"Areas that raised the model's score; not a lesion outline." The map of a finding is the class
activation map that both graphs put out: its mean, plus the members' averaged biases, is the pooled
logit exactly. Such maps are coarse (4 x 4 and 8 x 8 fields), localise worse than radiologists and
can point at what merely accompanies a disease. Nothing may be measured on them.

{explanation}

## Gates
Before the scores are believed an image must carry a picture, be neither black nor white beyond
detail, not collimated or written over too far, not compressed beyond 25:1, look like an upright
frontal chest to a small network of its own, and lie near the training films in the CNN's features
at two depths. Limits come from the calibration split, its films compressed about 7:1 and enlarged
to 2048 x 2500 included. What a gate refuses is answered "not analysed" with the reason.

{gates}

## Self-test
Three synthetic images, drawn by a seeded formula, must get their known answers on every machine
before the bundle is used: logits within 0.02, probabilities within 0.01, map values within 0.1.

## Limits
{own_limits}
{shared}

## Licence
Apache-2.0 for the files of this bundle; the data keep their own licences, above.
"""
