"""`models add`: unpack, check, run the golden cases, look at recent studies, take into shadow."""

from __future__ import annotations

import os
import re
import secrets
import shutil
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from imaging_node.domain.errors import BundleError
from imaging_node.flow.dry_run import DryRun, would_take
from imaging_node.inference.bundle import METADATA_NAME, VERSION_MARK, load_bundle
from imaging_node.inference.bundle_files import read_json
from imaging_node.inference.trust import trusted_keys
from imaging_node.inference.unpacking import unpack
from imaging_node.node.installed import (
    InstalledBundle,
    added_directory,
    declared,
    installed_bundles,
    model_settings,
)
from imaging_node.node.model_changes import note_added
from imaging_node.node.models import verify_place
from imaging_node.node.wiring import now

if TYPE_CHECKING:
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
        dry_run: Which recent studies it would have taken.
    """

    place: InstalledBundle
    verified: str
    dry_run: DryRun


def add_bundle(
    source: Path, settings: Settings, database: Database, spool: Spool, *, reason: str
) -> Admission:
    """Take a bundle from a folder or a zip archive; it serves in shadow from then on.

    Raises:
        BundleError: It is not taken; nothing is left of it.
        SettingsError: The site's settings for its name do not fit it.
        StorageError: It could not be recorded.
    """
    folder = added_directory(settings)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    incoming = folder / f".incoming-{secrets.token_hex(8)}"
    incoming.mkdir(mode=0o700)
    try:
        unpacked = incoming / "unpacked"
        unpack(source, unpacked)
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
        _make_durable(tried.directory)
        place = InstalledBundle(bundle=bundle, directory=folder / bundle, is_added=True)
        tried.directory.rename(place.directory)
        try:
            note_added(settings, database, place, digest=loaded.manifest_digest, reason=reason)
        except BaseException:
            shutil.rmtree(place.directory)
            raise
        _fsync(folder)
    finally:
        shutil.rmtree(incoming)
    return Admission(place=place, verified=verified, dry_run=dry_run)


def _name_for(source: Path, unpacked: Path, settings: Settings) -> str:
    """The folder's name, once the metadata name an id and a version that are not there yet."""
    try:
        metadata = read_json(unpacked, METADATA_NAME, (unpacked / METADATA_NAME).read_bytes())
    except OSError as error:
        raise _refused(source, f"it has no {METADATA_NAME}; it is no MONAI bundle") from error
    key = metadata.get("imaging_node")
    if not isinstance(key, dict):
        raise _refused(source, "its metadata have no key imaging_node: it is a foreign bundle")
    name, version = str(key.get("id", "")), str(metadata.get("version", ""))
    if not _IDENTIFIER.fullmatch(name) or not _VERSION.fullmatch(version):
        raise _refused(source, f"{name!a} {version!a} is no id and version of a bundle")
    bundle = f"{name}{VERSION_MARK}{version}"
    installed = installed_bundles(settings)
    same = installed.get(name)
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
