"""`explain`: one more look at one finding of a study, by a method of Captum."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from imaging_node.cli.options import ConfigOption, JsonOption
from imaging_node.cli.printing import print_json
from imaging_node.domain.errors import OperatorError
from imaging_node.domain.explanation import ExplanationMethod
from imaging_node.settings import load_settings


def explain(
    study: Annotated[str, typer.Argument(help="Study Instance UID, or its token on the page.")],
    finding: Annotated[str, typer.Option(help="Finding, as the worklist names it.")],
    method: Annotated[ExplanationMethod, typer.Option(help="How to explain.")],
    out: Annotated[Path, typer.Option(help="PNG to write.", dir_okay=False)] = Path(
        "explanation.png"
    ),
    model: Annotated[
        str | None,
        typer.Option(help="Bundle that answered; needed when several score the finding."),
    ] = None,
    config: ConfigOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Explain one finding of a scored study as a picture; nothing is sent anywhere.

    Takes seconds to minutes of one core. Needs the extra `imaging-node[torch]`.
    """
    try:
        from imaging_node.node.explain import explain_study
    except ModuleNotFoundError as error:
        raise OperatorError(
            f"explaining needs {error.name}; install the extra: pip install 'imaging-node[torch]'"
        ) from error

    explained = explain_study(load_settings(config), study, finding, method, model=model)
    out.write_bytes(explained.png)
    found = explained.explanation
    if as_json:
        print_json(
            [
                {
                    "finding": finding,
                    "model": explained.model,
                    "method": method,
                    "logit": found.logit,
                    "baseline_logit": found.baseline_logit,
                    "incompleteness": found.incompleteness,
                    "picture": str(out),
                }
            ]
        )
    else:
        named = f"{explained.model.name} {explained.model.version}"
        typer.echo(f"{finding}, {named}, {method}: logit {found.logit:.3f}, picture in {out}")
