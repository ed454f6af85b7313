"""Train both chest bundles from public images, on a GPU if there is one, else on CPU cores.

    python scripts/train_chest_xray.py --checkpoints DIR --signing-key KEY.pem
    python scripts/train_chest_xray.py --checkpoints DIR --signing-key KEY.pem --build
    python scripts/train_chest_xray.py --evaluate

The first takes hours on two cores, the second builds bundles from what is trained, the third prints
the tables of the cards once more, from the shipped weights.

A run that was stopped continues from its last hundred steps. On one machine the same command gives
the same weights; on another one, or on a GPU, sums are made in another order: AUROC may differ by
0.01, single logits by more. The test splits are never read while training.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import cv2
import torch
from chest_xray.build import build
from chest_xray.bundles import PLANS
from chest_xray.images import DEFAULT_DATA
from chest_xray.recheck import recheck
from chest_xray.recipe import MEMBERS
from chest_xray.run import train_member

from imaging_node.inference.signing import read_private_key

REPOSITORY = Path(__file__).resolve().parents[1]
# Returned to the system after every step, the tensors' pages cost as much as the arithmetic:
# half of the processor time was the kernel's without this, a twentieth with it.
KEPT_HEAP = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**34),
    "MALLOC_TOP_PAD_": str(2**28),
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}


def train_members(checkpoints: Path, data: Path, bundle: str | None) -> None:
    """Train the members side by side, each in a process of its own with one thread."""
    command = [sys.executable, __file__, "--checkpoints", str(checkpoints), "--data", str(data)]
    if bundle is not None:
        command += ["--bundle", bundle]
    environment = os.environ | KEPT_HEAP
    children = [
        subprocess.Popen([*command, "--member", member], env=environment) for member in MEMBERS
    ]
    endings = [child.wait() for child in children]
    if any(endings):
        raise SystemExit("training ended early; start it again to continue")


def main() -> None:
    """Read the arguments and do what they say."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA)
    parser.add_argument("--zoo", type=Path, default=REPOSITORY / "model_zoo")
    parser.add_argument("--checkpoints", type=Path, help="where training keeps its state")
    parser.add_argument("--signing-key", type=Path, help="private key that signs, PEM")
    parser.add_argument("--member", choices=MEMBERS, help="train only this one, and build nothing")
    parser.add_argument("--build", action="store_true", help="train nothing")
    parser.add_argument("--evaluate", action="store_true", help="reprint the cards' tables")
    parser.add_argument(
        "--bundle", choices=[plan.id for plan in PLANS], help="train and build only this one"
    )
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    # One thread adds in one order: the same run gives the same weights on the same machine.
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(mode=True, warn_only=True)
    plans = [plan for plan in PLANS if arguments.bundle in (None, plan.id)]
    if arguments.evaluate:
        differences = [recheck(plan, arguments.data, arguments.zoo) for plan in plans]
        raise SystemExit(1 if any(differences) else 0)
    if arguments.checkpoints is None:
        parser.error("--checkpoints is needed to train or to build")
    arguments.checkpoints.mkdir(parents=True, exist_ok=True)
    if arguments.member:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        train_member(
            arguments.member,
            arguments.checkpoints,
            arguments.data,
            device,
            tasks={plan.task for plan in plans},
        )
        return
    if arguments.signing_key is None:
        parser.error("--signing-key is needed to build; scripts/sign_bundle.py makes one")
    signing_key = read_private_key(arguments.signing_key)
    if not arguments.build:
        train_members(arguments.checkpoints, arguments.data, arguments.bundle)
    for plan in plans:
        build(
            plan,
            arguments.checkpoints,
            arguments.data,
            arguments.zoo,
            licence=REPOSITORY / "LICENSE",
            signing_key=signing_key,
        )


if __name__ == "__main__":
    main()
