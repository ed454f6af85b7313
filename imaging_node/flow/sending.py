"""Send files to a peer by hand: as they are, grouped so that each association takes them."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from imaging_node.dicom.file_format import read_kind
from imaging_node.dicom.sender import MAXIMUM_CONTEXTS, Caller, open_storage
from imaging_node.domain.errors import PeerRefusedError, RejectedInstanceError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from imaging_node.settings import PeerSettings


@dataclass(slots=True)
class SendingOutcome:
    """What became of the files.

    Attributes:
        refused: The peer's status, one for each refused file.
        skipped: Files that are no DICOM files.
    """

    stored: int = 0
    skipped: int = 0
    refused: list[str] = field(default_factory=list)


def find_files(paths: Sequence[Path]) -> list[Path]:
    """All regular files at and below `paths`, in a reproducible order; links are not followed."""
    found: set[Path] = set()
    for path in paths:
        if path.is_dir():
            for folder, _, names in os.walk(path):
                found.update(Path(folder) / name for name in names)
        else:
            found.add(path)
    return sorted(each for each in found if each.is_file() and not each.is_symlink())


def send_files(
    files: Sequence[Path], peer: PeerSettings, caller: Caller, *, advance: Callable[[], None]
) -> SendingOutcome:
    """Send every DICOM file among `files`.

    Raises:
        PeerUnavailableError: The peer cannot be reached or stopped answering.
        PeerRefusedError: It takes no association from this node.
    """
    outcome = SendingOutcome()
    kinds: dict[Path, tuple[str, str]] = {}
    for path in files:
        try:
            kinds[path] = read_kind(path)
        except RejectedInstanceError:
            outcome.skipped += 1
            advance()
    wanted = sorted(set(kinds.values()))
    for begin in range(0, len(wanted), MAXIMUM_CONTEXTS):
        contexts = wanted[begin : begin + MAXIMUM_CONTEXTS]
        with open_storage(peer, caller, contexts) as association:
            for path in (path for path, kind in kinds.items() if kind in contexts):
                sop_class_uid, transfer_syntax_uid = kinds[path]
                try:
                    association.store(
                        path,
                        sop_class_uid=sop_class_uid,
                        transfer_syntax_uid=transfer_syntax_uid,
                    )
                except PeerRefusedError as error:
                    outcome.refused.append(error.status)
                else:
                    outcome.stored += 1
                advance()
    return outcome
