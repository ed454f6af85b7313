"""What an operator decides about watching: done and audited with whoever did it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imaging_node.flow.label_import import ImportOutcome, import_labels
from imaging_node.flow.watching import accept_stream, return_to_bundle
from imaging_node.node.configuration_audit import acting_user, audited_configuration
from imaging_node.node.wiring import now

if TYPE_CHECKING:
    from pathlib import Path

    from imaging_node.settings import Settings
    from imaging_node.store.database import Database

_ROLE = "watch"


def accept_newest(settings: Settings, database: Database, model: str) -> int:
    """Compare a model with its newest studies here from now on; returns with how many.

    Raises:
        UnknownRecordError, StorageError: As `accept_stream`.
    """
    studies = settings.watching.reference_studies
    with audited_configuration(settings, _ROLE) as tell:
        accepted = accept_stream(database, model, studies=studies, now=now())
        words = (
            f"model {model} {accepted.model_digest[:23]} watched: alarms ended, compared with its"
            f" newest {studies} studies from now on"
        )
        tell([(now(), acting_user(), words)])
    return studies


def accept_bundles_reference(settings: Settings, database: Database, model: str) -> None:
    """Compare a model with what its bundle declares again, as if nothing had been accepted.

    Raises:
        UnknownRecordError, StorageError: As `return_to_bundle`.
    """
    with audited_configuration(settings, _ROLE) as tell:
        watched = return_to_bundle(database, model, now=now())
        words = (
            f"model {model} {watched.model_digest[:23]} watched: alarms ended, compared with its"
            " bundle's reference from now on"
        )
        tell([(now(), acting_user(), words)])


def take_labels(settings: Settings, database: Database, path: Path) -> ImportOutcome:
    """Import final labels; raises as `import_labels`."""
    with audited_configuration(settings, _ROLE) as tell:
        outcome = import_labels(database, path, now=now())
        words = f"final labels imported: {outcome.lines} labels, {outcome.news} of them news"
        tell([(now(), acting_user(), words)])
    return outcome
