"""What an operator decides about watching: done, then audited with whoever did it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imaging_node.flow.label_import import ImportOutcome, import_labels
from imaging_node.flow.watching import accept_stream, return_to_bundle
from imaging_node.node.configuration_audit import acting_user, audit_configuration
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
    accepted = accept_stream(database, model, studies=studies, now=now())
    _audit(settings, f"model {model} {accepted.model_digest[:23]} watched: alarms ended, compared"
           f" with its newest {studies} studies from now on")  # fmt: skip
    return studies


def accept_bundles_reference(settings: Settings, database: Database, model: str) -> None:
    """Compare a model with what its bundle declares again, as if nothing had been accepted.

    Raises:
        UnknownRecordError, StorageError: As `return_to_bundle`.
    """
    watched = return_to_bundle(database, model, now=now())
    _audit(settings, f"model {model} {watched.model_digest[:23]} watched: alarms ended, compared"
           " with its bundle's reference from now on")  # fmt: skip


def take_labels(settings: Settings, database: Database, path: Path) -> ImportOutcome:
    """Import final labels; raises as `import_labels`."""
    outcome = import_labels(database, path, now=now())
    _audit(settings, f"final labels imported: {outcome.lines} labels, {outcome.news} of them news")
    return outcome


def _audit(settings: Settings, words: str) -> None:
    audit_configuration(settings, _ROLE, [(now(), acting_user(), words)])
