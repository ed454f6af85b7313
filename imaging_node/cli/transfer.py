"""`echo` and `send`: talk to a peer by hand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from imaging_node.cli.options import ConfigOption
from imaging_node.domain.errors import UnknownRecordError
from imaging_node.settings import PeerSettings, Settings, load_settings

if TYPE_CHECKING:
    from collections.abc import Sequence

_ADDRESS = re.compile(r"(?P<ae_title>[^@]{1,16})@(?P<host>.+):(?P<port>\d{1,5})")


def echo(
    peer: Annotated[str, typer.Argument(help="A configured name, or AE_TITLE@HOST:PORT.")],
    config: ConfigOption = None,
) -> None:
    """Ask a peer whether it answers (C-ECHO)."""
    from imaging_node.dicom.sender import Caller, verify_peer

    settings = load_settings(config)
    found = find_peer(peer, settings)
    verify_peer(
        found, Caller(ae_title=settings.dicom.ae_title, timeout_s=settings.delivery.timeout_s)
    )
    typer.echo(f"{found.ae_title} at {found.host}:{found.port} answers")


def send(
    paths: Annotated[
        list[Path], typer.Argument(metavar="PATH", help="DICOM files and folders.", exists=True)
    ],
    to: Annotated[str, typer.Option("--to", help="A configured name, or AE_TITLE@HOST:PORT.")],
    config: ConfigOption = None,
) -> None:
    """Send files to a peer (C-STORE); folders are walked, other files are skipped and counted."""
    from imaging_node.cli.progress import progress_bar
    from imaging_node.dicom.sender import Caller
    from imaging_node.flow.sending import find_files, send_files

    settings = load_settings(config)
    files = find_files(paths)
    with progress_bar("sending", total=len(files)) as advance:
        outcome = send_files(
            files,
            find_peer(to, settings),
            Caller(ae_title=settings.dicom.ae_title, timeout_s=settings.delivery.timeout_s),
            advance=advance,
        )
    typer.echo(
        f"{outcome.stored} stored, {len(outcome.refused)} refused,"
        f" {outcome.skipped} skipped (no DICOM file)"
    )
    for status, count in _counted(outcome.refused):
        typer.echo(f"refused with {status}: {count}", err=True)
    if outcome.refused or not outcome.stored:
        raise typer.Exit(1)


def find_peer(peer: str, settings: Settings) -> PeerSettings:
    """The peer that the user means.

    Raises:
        UnknownRecordError: It is neither configured nor an address.
    """
    if peer in settings.peers:
        return settings.peers[peer]
    address = _ADDRESS.fullmatch(peer)
    if not address or not 1 <= int(address["port"]) <= 65535:  # noqa: PLR2004 - TCP ports
        raise UnknownRecordError(
            f"there is no peer {peer!r}: name one of {', '.join(sorted(settings.peers))},"
            " or give AE_TITLE@HOST:PORT"
        )
    return PeerSettings(
        ae_title=address["ae_title"], host=address["host"], port=int(address["port"])
    )


def _counted(statuses: Sequence[str]) -> list[tuple[str, int]]:
    return sorted({status: statuses.count(status) for status in statuses}.items())
