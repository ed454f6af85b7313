"""`config`: check, show and describe the settings."""

from __future__ import annotations

import json

import typer
import yaml

from imaging_node.cli.options import ConfigOption
from imaging_node.settings import load_settings, settings_schema

config = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Check, show and describe the settings."
)


@config.command("check")
def check(config: ConfigOption = None) -> None:
    """Say whether the settings can be used; if not, which key is wrong and what would be right.

    Bundles that the settings name are loaded and verified too.
    """
    from imaging_node.node.models import load_models

    for model in load_models(load_settings(config)):
        model.scorer.close()
    typer.echo("the settings can be used")


@config.command("show")
def show(config: ConfigOption = None) -> None:
    """Print the settings in force: file, environment and defaults together."""
    shown = load_settings(config).model_dump(mode="json")
    typer.echo(yaml.safe_dump(shown, sort_keys=False), nl=False)


@config.command("schema")
def schema(config: ConfigOption = None) -> None:
    """Print the JSON Schema of the settings file; a settings file given is checked first."""
    if config is not None:
        load_settings(config)
    typer.echo(json.dumps(settings_schema(), indent=1))
