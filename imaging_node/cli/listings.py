"""`studies`, `deliveries` and `worklist`: what the node has done and what is left."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from imaging_node.cli.options import ConfigOption, JsonOption
from imaging_node.cli.printing import plain, print_json, print_rows
from imaging_node.domain.errors import IntegrityError, UnknownRecordError
from imaging_node.domain.records import QuarantinedInstance
from imaging_node.settings import load_settings

if TYPE_CHECKING:
    from imaging_node.store.database import Database

studies = typer.Typer(
    invoke_without_command=True, rich_markup_mode=None, help="List studies, or look into one."
)
deliveries = typer.Typer(
    invoke_without_command=True,
    rich_markup_mode=None,
    help="List results on their way to the destinations, or send one again.",
)

# No state of a study: nothing moves an instance out of it.
QUARANTINED = "quarantined"
_STUDY_COLUMNS = (
    "accession_number", "state", "reason", "priority", "generation", "instances", "received_at",
    "finished_at", "study_instance_uid",
)  # fmt: skip
_INSTANCE_COLUMNS = ("sop_instance_uid", "sop_class_uid", "digest", "received_at")
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
    from imaging_node.store.quarantine import list_quarantined

    database, _, _ = open_state(load_settings(config))
    rows = [
        *(plain(record) for record in list_studies(database, now=now())),
        *(_quarantine_row(each) for each in list_quarantined(database)),
    ]
    if as_json:
        print_json(rows)
    else:
        print_rows(rows, _STUDY_COLUMNS)


@studies.command("show")
def show_study(
    uid: Annotated[str, typer.Argument(help="Study Instance UID.")],
    config: ConfigOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Show one study: state, instances, findings, result objects and deliveries."""
    from imaging_node.node.wiring import now, open_state
    from imaging_node.store.listings import list_deliveries, list_worklist
    from imaging_node.store.quarantine import list_quarantined

    database, _, pseudonyms = open_state(load_settings(config))
    rows = list_worklist(database, pseudonyms, now=now(), study_instance_uid=uid)
    quarantined = [
        _quarantine_row(each) for each in list_quarantined(database, study_instance_uid=uid)
    ]
    if not rows and not quarantined:
        raise UnknownRecordError(
            "there is no study with this UID; `imaging-node studies` lists those there are"
        )
    shown: dict[str, Any] = {"study_instance_uid": uid, "state": QUARANTINED, "instances": []}
    if rows:
        [row] = rows
        shown = plain(row.study) | {
            "rank": row.rank,
            "priority_reason": row.priority_reason,
            "findings": plain(row.findings),
            "remarks": plain(row.remarks),
            **_contents(database, uid),
            "deliveries": plain(
                [each for each in list_deliveries(database) if each.study_instance_uid == uid]
            ),
        }
    shown["quarantined"] = quarantined
    if as_json:
        print_json([shown])
        return
    scalars = {key: value for key, value in shown.items() if not isinstance(value, list)}
    print_rows([{"what": key, "value": value} for key, value in scalars.items()], ("what", "value"))
    print_rows(shown["instances"], _INSTANCE_COLUMNS)
    if quarantined:
        print_rows(quarantined, ("state", "reason", *_INSTANCE_COLUMNS))
    if rows:
        print_rows(shown["findings"], ("label", "presence", "probability", "interval", "spread"))
        print_rows(shown["deliveries"], _DELIVERY_COLUMNS)
        for remark in row.remarks:
            typer.echo(remark)


def _contents(database: Database, uid: str) -> dict[str, Any]:
    """Instances and result objects of a study; none when the rows that name them are damaged."""
    from imaging_node.store.listings import list_instances, list_objects

    try:
        return {
            "instances": plain(list_instances(database, uid)),
            "objects": plain(list_objects(database, uid)),
        }
    except IntegrityError as error:
        return {"instances": [], "objects": [], "damage": str(error)}


def _quarantine_row(record: QuarantinedInstance) -> dict[str, Any]:
    """A quarantined instance among studies: the same keys, and what names the instance."""
    row: dict[str, Any] = plain(record)
    return row | {
        "state": QUARANTINED,
        "generation": None,
        "priority": None,
        "instances": 1,
        "finished_at": None,
    }


@studies.command("retry")
def retry(
    uid: Annotated[str, typer.Argument(help="Study Instance UID.")], config: ConfigOption = None
) -> None:
    """Score an ended study again; its new report names the one before."""
    from imaging_node.node.wiring import now, open_state
    from imaging_node.store.claims import retry_study

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
    delivery_id: Annotated[
        int | None, typer.Argument(metavar="[ID]", help="Number of the delivery.")
    ] = None,
    parked: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Instead: all that is parked for this destination."),
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Send a parked or waiting result again now, or all that is parked for a destination."""
    from imaging_node.node.wiring import now, open_state
    from imaging_node.store.deliveries import requeue_delivery, requeue_parked

    if (delivery_id is None) == (parked is None):
        raise typer.BadParameter("give the number of a delivery, or --parked and a destination")
    settings = load_settings(config)
    database, _, _ = open_state(settings)
    if delivery_id is not None:
        requeue_delivery(database, delivery_id, now=now())
        typer.echo("queued")
    elif parked in settings.peers:
        typer.echo(f"{requeue_parked(database, parked, now=now())} queued")
    else:
        raise UnknownRecordError(
            f"there is no peer {parked!r}: name one of {', '.join(sorted(settings.peers))}"
        )


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
