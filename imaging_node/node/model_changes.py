"""Change the state of models: decided on what is so now, verified, recorded, audited."""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from imaging_node.domain.errors import SettingsError
from imaging_node.domain.model_state import (
    ModelAction,
    ModelChange,
    ModelRow,
    ModelState,
    promoted,
    require_removable,
    rolled_back,
    shadowed,
)
from imaging_node.inference.bundle_files import MANIFEST_NAME, digest_of_manifest
from imaging_node.node.configuration_audit import acting_user, audited_configuration
from imaging_node.node.installed import (
    InstalledBundle,
    effective_rows,
    find_bundle,
    installed_bundles,
    name_of,
)
from imaging_node.node.models import verify_place
from imaging_node.node.wiring import now
from imaging_node.store.model_states import read_decisions, record_changes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from imaging_node.flow.lineup import Lineup
    from imaging_node.settings import Settings
    from imaging_node.store.database import Database

    Decide = Callable[[Sequence[ModelRow]], list[ModelRow]]


def promote_model(
    settings: Settings, database: Database, said: str, *, share: float | None, reason: str
) -> list[ModelChange]:
    """Make a bundle primary, or canary for a share of the studies, once it passes every check.

    Args:
        said: Name of its folder, or "<id>@<version>".
        share: Of all studies, in (0, 1]; None and 1 make it primary.

    Raises:
        BundleError: It is not what was signed or added, or answers its golden cases wrongly.
        UnknownRecordError: There is no such bundle, or it is what is asked for already.
        StorageError: Somebody else changed models at the same moment, the audit log cannot be
            opened, and nothing was changed; or the change is made, and could not be audited.
    """
    bundle = find_bundle(installed_bundles(settings), said).bundle
    return _change(
        settings,
        database,
        ModelAction.PROMOTE,
        lambda rows: promoted(rows, bundle, share),
        reason=reason,
    )


def shadow_model(
    settings: Settings, database: Database, said: str, *, reason: str
) -> list[ModelChange]:
    """Let a bundle be compared only; raises as `promote_model`."""
    bundle = find_bundle(installed_bundles(settings), said).bundle
    return _change(
        settings,
        database,
        ModelAction.SHADOW,
        lambda rows: shadowed(rows, bundle),
        reason=reason,
    )


def roll_back_model(
    settings: Settings, database: Database, said: str, *, reason: str
) -> list[ModelChange]:
    """Take the last step up of a model back; raises as `promote_model`."""
    return _change(
        settings,
        database,
        ModelAction.ROLLBACK,
        lambda rows: rolled_back(rows, name_of(said)),
        reason=reason,
    )


def stop_model(
    settings: Settings,
    database: Database,
    bundle: str,
    *,
    state: ModelState,
    reason: str,
    changed_by: str,
) -> list[ModelChange]:
    """Let the node itself take a bundle out of service, without looking into it.

    Args:
        state: SHADOW or RETIRED.
        changed_by: The part of the node that decided it.

    Raises:
        StorageError: It could not be recorded.
    """

    def decide(rows: Sequence[ModelRow]) -> list[ModelRow]:
        return [
            replace(each, state=state, share=1.0)
            for each in rows
            if each.bundle == bundle and each.state is not state
        ]

    return _change(
        settings, database, ModelAction.STOP, decide, reason=reason, changed_by=changed_by
    )


def demote_model(
    settings: Settings, database: Database, lineup: Lineup, name: str, digest: str, reason: str
) -> bool:
    """Move all that answers under a name to shadow, as the stop rule decided.

    Versions with the same networks have one digest: a primary and its canary may both answer.

    Args:
        lineup: Of the process that watched it.
        digest: Of the model that the decision is about.

    Returns:
        False when that model does not answer any more.

    Raises:
        StorageError: It could not be recorded.
    """
    answering = [
        each.bundle
        for each in lineup.models
        if each.state.may_answer
        and (each.name, each.model.bundle.identity.digest) == (name, digest)
    ]
    changes = [
        change
        for bundle in answering
        for change in stop_model(
            settings,
            database,
            bundle,
            state=ModelState.SHADOW,
            reason=reason,
            changed_by="stop rule",
        )
    ]
    return bool(changes)


def remove_model(
    settings: Settings, database: Database, said: str, *, reason: str
) -> list[ModelChange]:
    """Forget a bundle that nothing needs, and delete the files of one that was added.

    One that came with the package is retired; its files are the package's.

    Raises:
        UnknownRecordError: There is no such bundle, or something needs it.
        SettingsError: The settings name it: the node would not start without it.
    """
    installed = installed_bundles(settings)
    decisions = read_decisions(database)
    rows = effective_rows(settings, decisions, installed)
    known = {row.bundle for row in rows}
    bundle = said if said in known else find_bundle(installed, said).bundle
    row = require_removable(rows, bundle)
    place = installed.get(bundle)
    if place is not None and not place.is_added:
        retired = [replace(row, state=ModelState.RETIRED)]
        return _change(settings, database, ModelAction.REMOVE, lambda _: retired, reason=reason)
    if bundle in {each.name for each in settings.models}:
        raise SettingsError(
            f"cannot remove {bundle}: the settings name it under `models`, and the node would not"
            " start without it; take it out there first"
        )
    change = _describe(row, None, ModelAction.REMOVE, reason, acting_user(), installed)
    with audited_changes(settings) as tell:
        record_changes(database, [change], [], removed=[bundle], revision=decisions.revision)
        try:
            if place is not None:
                shutil.rmtree(place.directory)
        finally:
            tell([change])
    return [change]


def note_added(
    database: Database,
    place: InstalledBundle,
    *,
    digest: str,
    reason: str,
    trusted_code: str = "",
) -> list[ModelChange]:
    """Record a bundle whose files are in place: in shadow until somebody promotes it.

    Who calls it tells the auditor, once what was recorded is not taken back any more.

    Args:
        trusted_code: Hash of the foreign bundle that whoever runs this answers for.

    Raises:
        StorageError: Somebody else changed models at the same moment, or nothing was recorded.
    """
    decisions = read_decisions(database)
    row = ModelRow(
        bundle=place.bundle,
        name=place.name,
        state=ModelState.SHADOW,
        share=1.0,
        manifest_digest=digest,
        replaced="",
        fault="",
        changed_at=now(),
        trusted_code=trusted_code,
    )
    installed = {place.bundle: place}
    if trusted_code:
        # History and audit name the grant: the digest beside it is that of the copy.
        reason = f"code {trusted_code} trusted; {reason}"
    change = _describe(None, row, ModelAction.ADD, reason, acting_user(), installed)
    record_changes(database, [change], [row], revision=decisions.revision)
    return [change]


def _change(
    settings: Settings,
    database: Database,
    action: ModelAction,
    decide: Decide,
    *,
    reason: str,
    changed_by: str = "",
) -> list[ModelChange]:
    decisions = read_decisions(database)
    installed = installed_bundles(settings)
    rows = {row.bundle: row for row in effective_rows(settings, decisions, installed)}
    wanted = [replace(each, changed_at=now(), fault="") for each in decide(list(rows.values()))]
    for row in wanted:
        former = rows[row.bundle].state
        if row.state.may_answer or (row.state.is_loaded and not former.is_loaded):
            place = find_bundle(installed, row.bundle)
            verify_place(
                place,
                settings,
                manifest_digest=row.manifest_digest,
                trusted_code=row.trusted_code,
            )
    who = changed_by or acting_user()
    changes = [_describe(rows[row.bundle], row, action, reason, who, installed) for row in wanted]
    if changes:
        with audited_changes(settings) as tell:
            record_changes(database, changes, wanted, revision=decisions.revision)
            tell(changes)
    return changes


def _describe(
    former: ModelRow | None,
    row: ModelRow | None,
    action: ModelAction,
    reason: str,
    changed_by: str,
    installed: Mapping[str, InstalledBundle],
) -> ModelChange:
    known = row or former
    assert known is not None  # something changed
    return ModelChange(
        bundle=known.bundle,
        action=action,
        former=former.state if former else None,
        state=row.state if row else None,
        share=row.share if row else 1.0,
        digest=known.manifest_digest or _digest_of(installed.get(known.bundle)),
        reason=reason,
        changed_by=changed_by,
        changed_at=now(),
    )


def _digest_of(place: InstalledBundle | None) -> str:
    try:
        return digest_of_manifest((place.directory / MANIFEST_NAME).read_bytes()) if place else ""
    except OSError:
        return ""


@contextmanager
def audited_changes(settings: Settings) -> Iterator[Callable[[Sequence[ModelChange]], None]]:
    """`audited_configuration` for changes of models."""
    with audited_configuration(settings, "models") as tell:
        yield lambda changes: tell(
            (each.changed_at, each.changed_by, _words(each)) for each in changes
        )


def _words(change: ModelChange) -> str:
    share = f" for {change.share:g}" if change.state is ModelState.CANARY else ""
    return (
        f"model {change.bundle} {change.action}: {change.former or 'none'} ->"
        f" {change.state or 'none'}{share}, {change.digest[:23]}; {change.reason}"
    )
