"""`python -m imaging_node` and the `imaging-node` command."""

from __future__ import annotations

import sys

from imaging_node.cli import app
from imaging_node.domain.errors import ImagingNodeError


def main() -> None:
    """Run a command; a foreseen error is one line on standard error and exit status 1."""
    try:
        app()
    except ImagingNodeError as error:
        print(f"imaging-node: {error}", file=sys.stderr)  # noqa: T201 - the command's own output
        sys.exit(1)


if __name__ == "__main__":
    main()
