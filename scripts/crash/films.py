"""What the sender of a trial has: a film that is scored, and two slices that no model is for."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydicom import dcmread
from pydicom.uid import UID, CTImageStorage

from imaging_node.dicom.phantom import DEMO_STUDIES, phantom_dataset

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

# Long enough to be written in several pieces, past the page cache and at its end through it.
_SIDE = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class SentInstance:
    """One file of the sender.

    Attributes:
        content: The dataset's bytes as they are sent.
        is_scored: Whether a model is meant for its study.
    """

    study_instance_uid: str
    sop_instance_uid: str
    path: Path
    content: bytes
    is_scored: bool


class FilmMaker:
    """Owns the pictures; each trial gets studies of its own, quickly."""

    def __init__(self) -> None:
        rows, columns = np.mgrid[0:_SIDE, 0:_SIDE] / _SIDE
        picture = (0.5 + 0.4 * np.sin(6 * columns) * np.cos(4 * rows)).astype(np.float32)
        self._film = phantom_dataset(DEMO_STUDIES[0], run="crash", picture=picture)
        self._slice = phantom_dataset(DEMO_STUDIES[5], run="crash", picture=picture[::4, ::4])
        self._slice.Modality = "CT"
        self._slice.SOPClassUID = CTImageStorage
        self._slice.file_meta.MediaStorageSOPClassUID = CTImageStorage

    def make(self, folder: Path, number: int) -> list[SentInstance]:
        """The files of one trial, in the order they are sent."""
        scored, other = f"2.25.{number}1", f"2.25.{number}2"
        return [
            _save(self._slice, folder / "slice-1.dcm", other, f"{other}.1", is_scored=False),
            _save(self._film, folder / "film.dcm", scored, f"{scored}.1", is_scored=True),
            _save(self._slice, folder / "slice-2.dcm", other, f"{other}.2", is_scored=False),
        ]

    def film(self, folder: Path, number: int) -> SentInstance:
        """A film that is a study of its own."""
        study = f"2.25.{number}1"
        return _save(self._film, folder / f"film-{number}.dcm", study, f"{study}.1", is_scored=True)


def _save(
    template: Dataset, path: Path, study: str, instance: str, *, is_scored: bool
) -> SentInstance:
    dataset = deepcopy(template)
    dataset.StudyInstanceUID = study
    dataset.SeriesInstanceUID = f"{study}.0"
    dataset.SOPInstanceUID = instance
    dataset.file_meta.MediaStorageSOPInstanceUID = UID(instance)
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    path.write_bytes(buffer.getvalue())
    return SentInstance(
        study_instance_uid=study,
        sop_instance_uid=instance,
        path=path,
        content=dataset_bytes(buffer.getvalue()),
        is_scored=is_scored,
    )


def dataset_bytes(part10: bytes) -> bytes:
    """What follows the file meta information of a Part 10 file."""
    stream = BytesIO(part10)
    meta = dcmread(stream, stop_before_pixels=True, specific_tags=[]).file_meta
    # Preamble, "DICM", and the group length element with what it counts (PS3.10 7.1).
    return part10[128 + 4 + 12 + int(meta.FileMetaInformationGroupLength) :]
