"""Print what the image gates of every bundle let through and refuse, kind by kind.

    python scripts/gate_table.py [--bundle ID]

Films of the test split must pass; whatever is no upright frontal chest film must not, although
its header would say so. Ends with 1 when a kind of image, for itself, is judged worse than wanted.
Needs the public images (`--data`).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from chest_xray.bundles import PLANS
from chest_xray.gate_judging import gates_table, judge_gates
from chest_xray.images import DEFAULT_DATA
from chest_xray.trained import splits_of

from imaging_node.inference.bundle import load_bundle

REPOSITORY = Path(__file__).resolve().parents[1]


def main() -> int:
    """Read the arguments and judge; 1 when something is judged worse than wanted."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA)
    parser.add_argument("--zoo", type=Path, default=REPOSITORY / "model_zoo")
    parser.add_argument("--bundle", choices=[plan.id for plan in PLANS], help="only this one")
    arguments = parser.parse_args()
    faults = []
    for plan in PLANS:
        if arguments.bundle in (None, plan.id):
            splits = splits_of(plan, arguments.data)
            figures = judge_gates(
                load_bundle(arguments.zoo / plan.id),
                splits["test"],
                splits["other"],
                arguments.data,
            )
            print(f"\n## {plan.id}\n\n{gates_table(figures)}")
            faults += [f"{plan.id}: {name}" for name in figures.faults]
    for fault in faults:
        print(f"worse than wanted: {fault}", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
