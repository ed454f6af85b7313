"""The commands: arguments and printing only."""

from imaging_node.cli.app import app

__all__ = ["app"]
