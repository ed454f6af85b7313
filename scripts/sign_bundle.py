"""Make a key pair, or sign a bundle folder with one.

    python scripts/sign_bundle.py make-key PRIVATE.pem PUBLIC.pem
    python scripts/sign_bundle.py sign FOLDER... [--key PRIVATE.pem]

The private key stays outside the repository. A node takes the bundle once PUBLIC.pem is among its
`model_keys`. Signing writes `manifest.json` and `manifest.sig` and no other file.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from imaging_node.domain.errors import ImagingNodeError
from imaging_node.inference.bundle import load_bundle
from imaging_node.inference.signing import make_key, read_private_key, sign_bundle
from imaging_node.inference.trust import TrustedKey, key_id

KEY_VARIABLE = "IMAGING_NODE_SIGNING_KEY"


def sign_folders(folders: list[Path], key: Path) -> None:
    """Sign each, and show that a node that trusts the key takes it."""
    private = read_private_key(key)
    public = private.public_key()
    trusted = TrustedKey(key_id=key_id(public), owner=key.stem, public=public)
    for folder in folders:
        sign_bundle(folder, private)
        bundle = load_bundle(folder.resolve(), [trusted])
        print(
            f"{bundle.identity.name} {bundle.identity.version}: {len(bundle.files)} files,"
            f" {bundle.manifest_digest}, signed with key {trusted.key_id}"
        )


def main() -> int:
    """Read the arguments; 1 with one line when it cannot be done."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("make-key")
    making.add_argument("private", type=Path)
    making.add_argument("public", type=Path)
    signing = commands.add_parser("sign")
    signing.add_argument("folders", type=Path, nargs="+", metavar="FOLDER")
    signing.add_argument("--key", type=Path, help=f"private key; default: ${KEY_VARIABLE}")
    arguments = parser.parse_args()
    try:
        if arguments.command == "make-key":
            make_key(arguments.private, arguments.public)
            print(f"keep {arguments.private} to yourself; give {arguments.public} to the nodes")
            return 0
        key = arguments.key or os.environ.get(KEY_VARIABLE)
        if not key:
            parser.error(f"name the private key: --key, or the variable {KEY_VARIABLE}")
        sign_folders(arguments.folders, Path(key))
    except ImagingNodeError as error:
        print(f"sign_bundle: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
