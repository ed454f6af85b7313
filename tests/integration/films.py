"""Films that the integration tests send: synthetic patients, quickly made."""

from __future__ import annotations

import uuid
from dataclasses import replace
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from pydicom import dcmread
from pydicom.uid import UID

from imaging_node.dicom.phantom import DEMO_STUDIES, PhantomStudy, phantom_dataset
from imaging_node.dicom.sender import Caller
from imaging_node.flow.sending import SendingOutcome, send_files
from imaging_node.settings import PeerSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from pydicom.dataset import Dataset

    from imaging_node.demonstration.local_node import LocalNode
    from imaging_node.domain.finding import FloatImage

CALLER = Caller(ae_title="MODALITY", timeout_s=20.0)
CLEAR: PhantomStudy = DEMO_STUDIES[0]


def picture(seed: int = 0, side: int = 256) -> FloatImage:
    """Something with structure that costs nothing to make; shape (side, side), in [0, 1]."""
    rows, columns = np.mgrid[0:side, 0:side] / side
    noise = np.random.default_rng(seed).normal(0, 0.02, (side, side))
    body = 0.5 + 0.4 * np.sin(6 * columns + seed) * np.cos(4 * rows) + noise
    clipped: FloatImage = np.clip(body, 0, 1).astype(np.float32)
    return clipped


def film(
    run: str = "",
    change: Callable[[Dataset], None] | None = None,
    seed: int = 0,
    image: FloatImage | None = None,
) -> bytes:
    """A chest film of a synthetic child as a DICOM file, changed if so wanted.

    Args:
        image: P-Values to wrap instead of the crude thorax of `seed`.
    """
    dataset = phantom_dataset(
        replace(CLEAR, number=1),
        run=run or uuid.uuid4().hex,
        picture=picture(seed) if image is None else image,
    )
    if change is not None:
        change(dataset)
        dataset.file_meta.MediaStorageSOPInstanceUID = UID(str(dataset.SOPInstanceUID))
        dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def study_uid(payload: bytes) -> str:
    return str(dcmread(BytesIO(payload), stop_before_pixels=True).StudyInstanceUID)


def send(node: LocalNode, folder: Path, *payloads: bytes) -> SendingOutcome:
    """Send files to the node over one association."""
    files = []
    for number, payload in enumerate(payloads):
        path = folder / f"{uuid.uuid4().hex}-{number}.dcm"
        path.write_bytes(payload)
        files.append(path)
    return send_paths(node, files)


def send_paths(node: LocalNode, files: Sequence[Path]) -> SendingOutcome:
    listener = PeerSettings(
        ae_title=node.settings.dicom.ae_title, host="127.0.0.1", port=node.settings.dicom.port
    )
    return send_files(files, listener, CALLER, advance=lambda: None)
