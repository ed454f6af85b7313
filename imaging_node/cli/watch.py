"""`watch`: how models fare here, and what readers say of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from imaging_node.cli.options import ConfigOption, JsonOption
from imaging_node.cli.printing import plain, print_json, print_rows
from imaging_node.settings import load_settings

watch = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="See how models fare on this node's studies, and give final labels.",
)
labels = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Final labels of studies.")
watch.add_typer(labels, name="labels")


@watch.command("status")
def status(config: ConfigOption = None, *, as_json: JsonOption = False) -> None:
    """Show what is watched, and the alarms."""
    from imaging_node.node.wiring import open_state
    from imaging_node.store.watches import list_alarms, list_watched

    database, _, _ = open_state(load_settings(config))
    models, alarms = list_watched(database), list_alarms(database)
    if as_json:
        print_json({"models": models, "alarms": alarms})
        return
    print_rows(
        [
            plain(each)
            | {
                "compared_with": str(each.reference_source),
                "alarms": sum(
                    alarm.model_digest == each.model_digest and alarm.cleared_at is None
                    for alarm in alarms
                ),
            }
            for each in models
        ],
        ("model", "studies", "compared_with", "baseline_left", "alarms", "updated_at"),
    )
    print_rows(
        [plain(each) | {"group": each.group} for each in alarms],
        ("model", "quantity", "group", "scanner_name", "statistic", "value", "threshold",
         "raised_at", "raised_after", "cleared_at"),
    )  # fmt: skip


@watch.command("report")
def report(config: ConfigOption = None, *, as_json: JsonOption = False) -> None:
    """Show how often models were right, in the studies that somebody labelled, by subgroup."""
    from imaging_node.domain.watching import VERIFICATION_NOTE
    from imaging_node.flow.performance import finding_reports
    from imaging_node.node.wiring import open_state
    from imaging_node.store.labels import labelled_cases

    database, _, _ = open_state(load_settings(config))
    rows = [
        {"model": each.model, "model_digest": each.model_digest, "finding": each.label} | figures
        for each in finding_reports(labelled_cases(database))
        for figures in (
            _figures("all", "", each.performance, hides_few=False),
            *(
                _figures(row.attribute, row.value, row.performance, hides_few=True)
                for row in each.subgroups
            ),
        )
    ]
    if as_json:
        print_json({"note": VERIFICATION_NOTE, "rows": rows})
        return
    for row in rows:
        row |= {name: _words(row[name]) for name in _FIGURES}
    print_rows(rows, ("model", "finding", "of", "value", "labelled", "final", *_FIGURES))
    typer.echo(VERIFICATION_NOTE)


@watch.command("accept")
def accept(
    model: Annotated[str, typer.Argument(help="Bundle name.")],
    config: ConfigOption = None,
    *,
    bundle: Annotated[
        bool, typer.Option("--bundle", help="Go back to what the bundle declares instead.")
    ] = False,
) -> None:
    """Compare a model with its newest studies here from now on: what its alarms say is known."""
    from imaging_node.node.watch_changes import accept_bundles_reference, accept_newest
    from imaging_node.node.wiring import open_state
    from imaging_node.telemetry import configure_logging

    configure_logging("watch")
    settings = load_settings(config)
    database, _, _ = open_state(settings)
    if bundle:
        accept_bundles_reference(settings, database, model)
        typer.echo(f"{model} is compared with its bundle's reference from now on; alarms ended")
        return
    studies = accept_newest(settings, database, model)
    typer.echo(f"{model} is compared with its last {studies} studies from now on; alarms ended")


@labels.command("import")
def import_labels(
    file: Annotated[
        Path,
        typer.Argument(
            help="CSV: study_instance_uid or accession_number, finding, present (0 or 1)."
        ),
    ],
    config: ConfigOption = None,
) -> None:
    """Take over final labels; exit status 1 when lines were left out."""
    from imaging_node.node.watch_changes import take_labels
    from imaging_node.node.wiring import open_state
    from imaging_node.telemetry import configure_logging

    configure_logging("watch")
    settings = load_settings(config)
    database, _, _ = open_state(settings)
    outcome = take_labels(settings, database, file)
    typer.echo(f"{outcome.lines} labels, {outcome.news} of them news")
    for fault in outcome.faults:
        typer.echo(fault, err=True)
    if outcome.faults:
        raise typer.Exit(1)


_FIGURES = (
    "positive_predictive_value", "sensitivity", "specificity", "negative_predictive_value",
)  # fmt: skip


def _figures(of: str, value: str, performance: Any, *, hides_few: bool) -> dict[str, Any]:  # noqa: ANN401 - imported in its command
    from imaging_node.domain.watching import FEWEST_SHOWN

    few = f"fewer than {FEWEST_SHOWN}"
    row: dict[str, Any] = {"of": of, "value": value}
    for name in ("labelled", "final", "undetermined"):
        count = getattr(performance, name)
        row[name] = few if hides_few and performance.labelled < FEWEST_SHOWN else count
    for name in _FIGURES:
        share = getattr(performance, name)
        if share is None:
            row[name] = None
        elif hides_few and not share.is_shown:
            row[name] = few
        else:
            row[name] = {
                "value": share.value,
                "interval": share.interval,
                "successes": share.successes,
                "n": share.n,
            }
    return row


def _words(figure: object) -> object:
    if not isinstance(figure, dict) or figure["value"] is None:
        return figure if isinstance(figure, str) else "not known"
    low, high = figure["interval"]
    return f"{figure['value']:.2f} ({low:.2f} to {high:.2f}), n {figure['n']}"
