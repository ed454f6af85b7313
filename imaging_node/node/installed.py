"""Which bundles are installed, and what state each is in.

Bundles that came with the package, or lie in `model_directory`, are only read. Those that
`imaging-node models add` took lie in the state directory, a folder for each version.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import make_url

from imaging_node.domain.errors import StorageError, UnknownRecordError
from imaging_node.domain.model_state import ModelRow, ModelState
from imaging_node.inference.bundle import (
    METADATA_NAME,
    VERSION_MARK,
    default_bundle_directory,
    find_bundles,
)
from imaging_node.inference.foreign_bundle import is_foreign
from imaging_node.settings import ModelSettings
from imaging_node.store.database import open_database
from imaging_node.store.model_states import NO_DECISIONS, ModelDecisions, read_decisions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from imaging_node.settings import Settings

ADDED_FOLDER = "models"
_NEVER = datetime.fromtimestamp(0, UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class InstalledBundle:
    """A folder that should hold a bundle.

    Attributes:
        bundle: Its name, "<id>" or "<id>@<version>".
        is_added: Whether `models add` put it there.
    """

    bundle: str
    directory: Path
    is_added: bool

    @property
    def name(self) -> str:
        """The bundle's id."""
        return name_of(self.bundle)


def name_of(bundle: str) -> str:
    """The id in the name of a bundle's folder."""
    return bundle.partition(VERSION_MARK)[0]


def bundle_directory(settings: Settings) -> Path:
    """Folder of the bundles that are only read."""
    return settings.model_directory or default_bundle_directory()


def added_directory(settings: Settings) -> Path:
    """Folder of the bundles that were added."""
    return settings.state_directory / ADDED_FOLDER


def installed_bundles(settings: Settings) -> dict[str, InstalledBundle]:
    """All bundles by the name of their folder."""
    found: dict[str, InstalledBundle] = {}
    for folder, is_added in (
        (added_directory(settings), True),
        (bundle_directory(settings), False),
    ):
        for path in find_bundles(folder):
            found[path.name] = InstalledBundle(bundle=path.name, directory=path, is_added=is_added)
    return dict(sorted(found.items()))


def find_bundle(installed: Mapping[str, InstalledBundle], said: str) -> InstalledBundle:
    """The bundle that an operator means: its folder's name, or "<id>@<version>".

    Raises:
        UnknownRecordError: There is none.
    """
    if said in installed:
        return installed[said]
    name, _, version = said.partition(VERSION_MARK)
    unversioned = installed.get(name)
    if unversioned is not None and version and declared(unversioned.directory)[0] == version:
        return unversioned
    raise UnknownRecordError(f"there is no bundle {said!r}; see `imaging-node models list`")


def declared(directory: Path) -> tuple[str, ModelState]:
    """Version and first state that a bundle's metadata state, before anything was verified.

    A bundle that cannot be read counts as primary: then it is loaded, and refused with its fault.
    A foreign one is retired unless somebody decided otherwise: settings grant no trust.
    """
    try:
        metadata = json.loads((directory / METADATA_NAME).read_bytes())
        if is_foreign(directory):
            return str(metadata["version"]), ModelState.RETIRED
        initial = metadata["imaging_node"].get("initial_state")
        return str(metadata["version"]), ModelState(initial or ModelState.PRIMARY)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "", ModelState.PRIMARY


def model_settings(settings: Settings, bundle: str) -> ModelSettings:
    """What the site decided about a bundle, or about all versions of it."""
    by_name = {each.name: each for each in settings.models}
    return by_name.get(bundle) or by_name.get(name_of(bundle)) or ModelSettings(name=bundle)


def read_node_decisions(settings: Settings) -> ModelDecisions:
    """What was decided, where there is a database; none is made.

    Raises:
        StorageError: The database cannot be read.
    """
    location = make_url(settings.database_url).database
    if not location or not Path(location).exists():
        return NO_DECISIONS
    database = open_database(settings.database_url, may_create=False)
    try:
        return read_decisions(database)
    finally:
        database.close()


def known_decisions(settings: Settings) -> ModelDecisions:
    """What was decided, for those who only look.

    Without a database that can be read nothing was decided: what is wrong with it, the roles say
    when they start.
    """
    try:
        return read_node_decisions(settings)
    except StorageError:
        return NO_DECISIONS


def bundle_states(settings: Settings) -> list[tuple[ModelRow, InstalledBundle | None]]:
    """Every bundle with its state and where it lies, as `known_decisions` has it."""
    decisions = known_decisions(settings)
    installed = installed_bundles(settings)
    return [
        (row, installed.get(row.bundle)) for row in effective_rows(settings, decisions, installed)
    ]


def effective_rows(
    settings: Settings, decisions: ModelDecisions, installed: Mapping[str, InstalledBundle]
) -> tuple[ModelRow, ...]:
    """The state of every bundle that is installed, named by the settings, or decided about.

    A decision counts. Without one a bundle that the settings name is what it says of itself,
    primary as a rule, unless another of its name is primary; any other is retired. So is one that
    was added: `models add` ended before it was recorded, and nobody decided anything.
    """
    decided = {row.bundle: row for row in decisions.rows}
    taken = {
        row.name
        for row in decisions.rows
        if row.state is ModelState.PRIMARY and not row.trusted_code
    }
    named = [model.name for model in settings.models]
    order = {bundle: place for place, bundle in enumerate(named)}
    bundles = sorted(
        {*named, *installed, *decided},
        key=lambda each: (
            order.get(each, order.get(name_of(each), len(order))),
            each,
        ),
    )
    return tuple(
        decided[each] if each in decided else _undecided(each, named, taken, installed)
        for each in bundles
    )


def _undecided(
    bundle: str, named: list[str], taken: set[str], installed: Mapping[str, InstalledBundle]
) -> ModelRow:
    state = ModelState.RETIRED
    place = installed.get(bundle)
    if bundle in named and not (place is not None and place.is_added):
        state = ModelState.PRIMARY
        if place is not None:
            _, state = declared(place.directory)
        if state is ModelState.PRIMARY and name_of(bundle) in taken:
            state = ModelState.RETIRED
    return ModelRow(
        bundle=bundle,
        name=name_of(bundle),
        state=state,
        share=1.0,
        manifest_digest="",
        replaced="",
        fault="",
        changed_at=_NEVER,
    )
