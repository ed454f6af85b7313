"""`models add`: check a bundle, and take it into shadow.

A signed one is unpacked, its golden cases are run, and recent studies are looked at. A foreign one
is code: it is taken over by the hash that an operator answers for, and nothing of it is run.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING

from imaging_node.domain.errors import BundleError
from imaging_node.flow.dry_run import DryRun, would_take
from imaging_node.inference.bundle import METADATA_NAME, VERSION_MARK, load_bundle
from imaging_node.inference.bundle_files import read_json
from imaging_node.inference.foreign_bundle import install_foreign, is_foreign
from imaging_node.inference.foreign_declaration import SiteChoices
from imaging_node.inference.trust import trusted_keys
from imaging_node.inference.unpacking import unpack
from imaging_node.node.foreign_models import installed_digest, verify_foreign
from imaging_node.node.installed import (
    InstalledBundle,
    added_directory,
    declared,
    installed_bundles,
    model_settings,
)
from imaging_node.node.model_changes import audited_changes, note_added
from imaging_node.node.models import verify_place
from imaging_node.node.wiring import now

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from imaging_node.settings import Settings
    from imaging_node.store.database import Database
    from imaging_node.store.spool import Spool

DRY_RUN_DAYS = 30
_IDENTIFIER = re.compile(r"[a-z0-9_]{1,64}")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """A bundle that was taken.

    Attributes:
        verified: One line that says what was checked.
        dry_run: Which recent studies it would have taken; None for a foreign one.
        left_out: Files of a foreign one that were not taken over.
    """

    place: InstalledBundle
    verified: str
    dry_run: DryRun | None = None
    left_out: tuple[str, ...] = ()


def add_bundle(
    source: Path,
    settings: Settings,
    database: Database,
    spool: Spool,
    *,
    reason: str,
    trust_code: str | None = None,
    site: SiteChoices | None = None,
) -> Admission:
    """Take a bundle from a folder or a zip archive; it serves in shadow from then on.

    A bundle of the MONAI zoo, which says nothing to this node, is foreign: it is taken for the
    hash alone.

    Args:
        trust_code: Of exactly a foreign one's files, by which an operator answers for its code.
        site: What the site says of a foreign one.

    Raises:
        UntrustedCodeError: It is foreign, and there is no hash, or another; the message tells it,
            and what code there is.
        BundleError: It is not taken; nothing is left of it.
        SettingsError: The site's settings for its name do not fit it.
        StorageError: It could not be recorded, and nothing is left of it; or it is taken, and the
            audit log did not take that.
    """
    with _incoming(settings) as incoming:
        folder = source.absolute()
        if not source.is_dir():
            # A foreign bundle without a name of its own takes the archive's.
            folder = incoming / "unpacked" / source.stem
            folder.parent.mkdir(mode=0o700)
            unpack(source, folder)
        if _is_foreign(folder):
            return _take_foreign(
                folder,
                incoming,
                settings,
                database,
                trust_code=trust_code,
                site=site or SiteChoices(),
                reason=reason,
            )
        if trust_code is not None or site is not None:
            raise _refused(source, "--trust-code and --site are for foreign bundles; it is none")
        if source.is_dir():
            folder = incoming / "unpacked"
            unpack(source, folder)
        return _take_signed(source, folder, incoming, settings, database, spool, reason=reason)


def _is_foreign(folder: Path) -> bool:
    """True for a MONAI bundle that says nothing to this node."""
    try:
        metadata = read_json(folder, METADATA_NAME, (folder / METADATA_NAME).read_bytes())
    except (OSError, BundleError):
        return False
    return "imaging_node" not in metadata


def _take_signed(
    source: Path,
    unpacked: Path,
    incoming: Path,
    settings: Settings,
    database: Database,
    spool: Spool,
    *,
    reason: str,
) -> Admission:
    bundle = _name_for(source, unpacked, settings)
    unpacked.rename(incoming / bundle)
    tried = InstalledBundle(bundle=bundle, directory=incoming / bundle, is_added=True)
    verified = verify_place(tried, settings)
    loaded = load_bundle(tried.directory, trusted_keys(settings.model_keys))
    dry_run = would_take(
        database,
        spool,
        loaded.eligibility,
        frozenset(model_settings(settings, bundle).waive),
        since=now() - timedelta(days=DRY_RUN_DAYS),
    )
    place = _move_in(tried, settings, database, digest=loaded.manifest_digest, reason=reason)
    return Admission(place=place, verified=verified, dry_run=dry_run)


def _take_foreign(
    folder: Path,
    incoming: Path,
    settings: Settings,
    database: Database,
    *,
    trust_code: str | None,
    site: SiteChoices,
    reason: str,
) -> Admission:
    done = install_foreign(folder, incoming / "taken", trust_code=trust_code, site=site)
    bundle, trusted_code = done.bundle.declaration.id, done.bundle.trust_hash
    # Of all bundles with one id one is primary: a foreign one never takes another's place.
    if bundle in {each.name for each in installed_bundles(settings).values()}:
        raise _refused(
            folder,
            f"there is a bundle {bundle!r} already; remove that one, or give this one another"
            " `name` in the file of --site",
        )
    tried = InstalledBundle(bundle=bundle, directory=done.bundle.directory, is_added=True)
    digest = installed_digest(tried)
    verified = verify_foreign(tried, manifest_digest=digest, trusted_code=trusted_code)
    place = _move_in(
        tried, settings, database, digest=digest, reason=reason, trusted_code=trusted_code
    )
    return Admission(place=place, verified=verified, left_out=done.left_out)


@contextmanager
def _incoming(settings: Settings) -> Iterator[Path]:
    """A folder beside the added bundles, gone at the end."""
    folder = added_directory(settings)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    incoming = folder / f".incoming-{secrets.token_hex(8)}"
    incoming.mkdir(mode=0o700)
    try:
        yield incoming
    finally:
        shutil.rmtree(incoming)


def _move_in(
    tried: InstalledBundle,
    settings: Settings,
    database: Database,
    *,
    digest: str,
    reason: str,
    trusted_code: str = "",
) -> InstalledBundle:
    """Put a checked bundle in its place, and record it, or neither; then tell the auditor."""
    folder = added_directory(settings)
    _make_durable(tried.directory)
    place = replace(tried, directory=folder / tried.bundle)
    with audited_changes(settings) as tell:
        tried.directory.rename(place.directory)
        is_recorded = False
        try:
            changes = note_added(
                database, place, digest=digest, reason=reason, trusted_code=trusted_code
            )
            is_recorded = True
        finally:
            if not is_recorded:
                shutil.rmtree(place.directory)
        _fsync(folder)
        tell(changes)
    return place


def _name_for(source: Path, unpacked: Path, settings: Settings) -> str:
    """The folder's name, once the metadata name an id and a version that are not there yet."""
    try:
        metadata = read_json(unpacked, METADATA_NAME, (unpacked / METADATA_NAME).read_bytes())
    except OSError as error:
        raise _refused(source, f"it has no {METADATA_NAME}; it is no MONAI bundle") from error
    key = metadata.get("imaging_node")
    if not isinstance(key, dict):
        raise _refused(source, "its metadata say nothing under imaging_node that could be read")
    name, version = str(key.get("id", "")), str(metadata.get("version", ""))
    if not _IDENTIFIER.fullmatch(name) or not _VERSION.fullmatch(version):
        raise _refused(source, f"{name!a} {version!a} is no id and version of a bundle")
    bundle = f"{name}{VERSION_MARK}{version}"
    installed = installed_bundles(settings)
    same = installed.get(name)
    if same is not None and is_foreign(same.directory):
        raise _refused(
            source,
            f"there is a foreign bundle {name!r} already; remove that one, and add it again under"
            " another `name` in the file of --site",
        )
    if bundle in installed or (same is not None and declared(same.directory)[0] == version):
        raise _refused(
            source, f"{bundle} is installed already; a changed bundle needs another version"
        )
    return bundle


def _refused(source: Path, fault: str) -> BundleError:
    return BundleError(f"cannot add {source.name}: {fault}")


def _make_durable(directory: Path) -> None:
    for path in (*directory.rglob("*"), directory):
        _fsync(path)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
