"""`studies`, `deliveries` and `worklist`: what the node has done and what is left."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

import typer

from imaging_node.cli.options import ConfigOption, JsonOption
from imaging_node.cli.printing import plain, print_json, print_rows
from imaging_node.domain.errors import UnknownRecordError
from imaging_node.settings import load_settings

studies = typer.Typer(
    invoke_without_command=True, rich_markup_mode=None, help="List studies, or look into one."
)
deliveries = typer.Typer(
    invoke_without_command=True,
    rich_markup_mode=None,
    help="List results on their way to the destinations, or send one again.",
)

_STUDY_COLUMNS = (
    "accession_number", "state", "reason", "priority", "generation", "instances", "received_at",
    "finished_at", "study_instance_uid",
)  # fmt: skip
_DELIVERY_COLUMNS = (
    "id", "destination", "state", "attempts", "last_status", "next_attempt_at", "sop_instance_uid",
)  # fmt: skip


@studies.callback()
def list_all_studies(
    context: typer.Context, config: ConfigOption = None, *, as_json: JsonOption = False
) -> None:
    """List studies, or look into one."""
    if context.invoked_subcommand is not None:
        return
    from imaging_node.node.wiring import now, open_state
    from imaging_node.store.listings import list_studies

    database, _, _ = open_state(load_settings(config))
    records = list_studies(database, now=now())
    if as_json:
        print_json(records)
    else:
        print_rows([plain(record) for record in records], _STUDY_COLUMNS)


@studies.command("show")
def show_study(
    uid: Annotated[str, typer.Argument(help="Study Instance UID.")],
    config: ConfigOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Show one study: state, findings, result objects and deliveries."""
    from imaging_node.node.wiring import now, open_state
    from imaging_node.store.listings import list_deliveries, list_objects, list_worklist

    database, _, pseudonyms = open_state(load_settings(config))
    rows = list_worklist(database, pseudonyms, now=now(), study_instance_uid=uid)
    if not rows:
        raise UnknownRecordError(
            "there is no study with this UID; `imaging-node studies` lists those there are"
        )
    [row] = rows
    shown = plain(row.study) | {
        "rank": row.rank,
        "priority_reason": row.priority_reason,
        "findings": plain(row.findings),
        "remarks": plain(row.remarks),
        "objects": plain(list_objects(database, uid)),
        "deliveries": plain(
            [each for each in list_deliveries(database) if each.study_instance_uid == uid]
        ),
    }
    if as_json:
        print_json([shown])
        return
    scalars = {key: value for key, value in shown.items() if not isinstance(value, list)}
    print_rows([{"what": key, "value": value} for key, value in scalars.items()], ("what", "value"))
    print_rows(shown["findings"], ("label", "presence", "probability", "interval", "spread"))
    print_rows(shown["deliveries"], _DELIVERY_COLUMNS)
    for remark in row.remarks:
        typer.echo(remark)


@studies.command("retry")
def retry(
    uid: Annotated[str, typer.Argument(help="Study Instance UID.")], config: ConfigOption = None
) -> None:
    """Score an ended study again; its new report names the one before."""
    from imaging_node.node.wiring import now, open_state
    from imaging_node.store.studies import retry_study

    database, _, _ = open_state(load_settings(config))
    retry_study(database, uid, now=now())
    typer.echo("queued")


@deliveries.callback()
def list_all_deliveries(
    context: typer.Context, config: ConfigOption = None, *, as_json: JsonOption = False
) -> None:
    """List results on their way to the destinations, or send one again."""
    if context.invoked_subcommand is not None:
        return
    from imaging_node.node.wiring import open_state
    from imaging_node.store.listings import list_deliveries

    database, _, _ = open_state(load_settings(config))
    records = list_deliveries(database)
    if as_json:
        print_json(records)
    else:
        print_rows([plain(record) for record in records], _DELIVERY_COLUMNS)


@deliveries.command("requeue")
def requeue(
    delivery_id: Annotated[int, typer.Argument(metavar="ID", help="Number of the delivery.")],
    config: ConfigOption = None,
) -> None:
    """Send a parked or waiting result again now."""
    from imaging_node.node.wiring import now, open_state
    from imaging_node.store.deliveries import requeue_delivery

    database, _, _ = open_state(load_settings(config))
    requeue_delivery(database, delivery_id, now=now())
    typer.echo("queued")


def worklist(config: ConfigOption = None, *, as_json: JsonOption = False) -> None:
    """List the studies in the order in which they should be read."""
    from imaging_node.node.wiring import now, open_state
    from imaging_node.store.listings import list_worklist

    settings = load_settings(config)
    database, _, pseudonyms = open_state(settings)
    since = now() - timedelta(hours=settings.web.worklist_hours)
    rows = [
        plain(row.study)
        | {
            "rank": row.rank,
            "priority_reason": row.priority_reason,
            "findings": plain(row.findings),
            "remarks": plain(row.remarks),
        }
        for row in list_worklist(database, pseudonyms, now=now(), received_since=since)
    ]
    if as_json:
        print_json(rows)
        return
    for row in rows:
        row["called"] = ", ".join(
            f"{each['label']} {each['presence']} p={each['probability']:.2f}"
            for each in row["findings"]
        )
    print_rows(
        rows,
        ("rank", "accession_number", "priority", "priority_reason", "state", "called", "reason"),
    )
