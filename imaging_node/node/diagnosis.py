"""What `doctor` looks at: runtime, codecs, decoders, bundles, disk, certificates and peers."""

from __future__ import annotations

import platform
import shutil
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING

from imaging_node import confinement
from imaging_node.dicom.codecs import decodable_syntaxes
from imaging_node.dicom.decoder_trial import try_decoder
from imaging_node.dicom.sender import Caller, verify_peer
from imaging_node.domain.errors import (
    ImagingNodeError,
    OperatorError,
    SettingsError,
    TemporaryError,
)
from imaging_node.inference.providers import execution_providers
from imaging_node.node.certificates import expiring, named_certificates
from imaging_node.node.installed import bundle_states
from imaging_node.node.models import verify_bundle
from imaging_node.node.wiring import now

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imaging_node.settings import Settings

_RUNTIMES = ("onnxruntime", "onnxruntime-gpu")
_PEER_TIMEOUT_S = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One thing that was looked at.

    Attributes:
        is_sound: As it should be.
        is_fault: The node would not work; neither sound nor fault is worth a note.
    """

    what: str
    found: str
    is_sound: bool = True
    is_fault: bool = False


def examine(settings: Settings) -> list[Observation]:
    """Look at everything the node needs."""
    return [
        *_runtime(),
        *_codecs(),
        _confinement(settings),
        *_bundles(settings),
        *_disk(settings),
        *_certificates(settings),
        *_peers(settings),
    ]


def _runtime() -> Iterator[Observation]:
    installed = [
        f"{name} {version}" for name in _RUNTIMES if (version := _version(name)) is not None
    ]
    if len(installed) > 1:
        yield Observation(
            what="model runtime",
            found=f"{' and '.join(installed)}: the one installed last hides the other;"
            " uninstall both, then install one",
            is_sound=False,
            is_fault=True,
        )
        return
    yield Observation(what="model runtime", found=installed[0])
    yield Observation(what="execution providers", found=", ".join(execution_providers()))
    openvino = _version("openvino")
    if openvino is not None:
        yield Observation(what="OpenVINO", found=openvino)


def _codecs() -> Iterator[Observation]:
    for name, is_decodable in decodable_syntaxes().items():
        yield Observation(
            what=f"codec {name}",
            found="decodable" if is_decodable else "no decoder: studies end not analysed",
            is_sound=is_decodable,
        )


def _confinement(settings: Settings) -> Observation:
    """Of the decoders: where the kernel refuses the filter, none starts; without one, they do."""
    what = "confinement of decoders"
    try:
        try_decoder(memory_limit_bytes=settings.scoring.decoder_memory_mib * 1024 * 1024)
    except TemporaryError:
        return Observation(
            what=what,
            found="no decoder starts, so no image is decoded and studies wait; standard error says"
            " why, and the kernel must take a system-call filter (seccomp)",
            is_sound=False,
            is_fault=True,
        )
    if not confinement.has_filter():
        return Observation(
            what=what,
            found=f"there is no system-call filter for {platform.machine()}: images are decoded"
            " without, and one that takes its decoder over reaches what the node's user does",
            is_sound=False,
        )
    return Observation(
        what=what,
        found="system-call filter: no network, no program, no other process, no file to write",
    )


def _bundles(settings: Settings) -> Iterator[Observation]:
    for row, _ in bundle_states(settings):
        what = f"bundle {row.bundle}"
        try:
            found = verify_bundle(
                row.bundle,
                settings,
                manifest_digest=row.manifest_digest,
                trusted_code=row.trusted_code,
            )
        except OperatorError as error:
            yield Observation(
                what=what, found=str(error), is_sound=False, is_fault=row.state.may_answer
            )
        else:
            yield Observation(what=what, found=f"{row.state}, {found}")


def _disk(settings: Settings) -> Iterator[Observation]:
    folder = settings.state_directory.absolute()
    while not folder.exists():
        folder = folder.parent
    free_mib = shutil.disk_usage(folder).free // (1024 * 1024)
    needed_mib = settings.spool.min_free_bytes // (1024 * 1024)
    is_enough = free_mib > needed_mib
    yield Observation(
        what="disk of the state directory",
        found=f"{free_mib} MiB free, instances are refused under {needed_mib} MiB",
        is_sound=is_enough,
        is_fault=not is_enough,
    )


def _certificates(settings: Settings) -> Iterator[Observation]:
    try:
        certificates = named_certificates(settings)
    except SettingsError as error:
        yield Observation(what="certificates", found=str(error), is_sound=False, is_fault=True)
        return
    warned = expiring(certificates, now())
    for each in certificates:
        is_over = each.expires_at <= now()
        yield Observation(
            what=each.setting,
            found=f"{'expired' if is_over else 'expires'} on {each.expires_at:%Y-%m-%d}",
            is_sound=each not in warned,
            is_fault=is_over,
        )


def _peers(settings: Settings) -> Iterator[Observation]:
    caller = Caller(ae_title=settings.dicom.ae_title, timeout_s=_PEER_TIMEOUT_S)
    for name, peer in settings.peers.items():
        try:
            verify_peer(peer, caller)
        except ImagingNodeError as error:
            yield Observation(what=f"peer {name}", found=str(error), is_sound=False)
        else:
            yield Observation(what=f"peer {name}", found="answers C-ECHO")


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
