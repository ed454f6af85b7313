"""The synthetic instances that the benchmarks of sending and receiving use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from imaging_node.dicom.encoding import encode_file, encoded_elements

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """A kind of image.

    Attributes:
        instances_per_study: After so many a new study begins.
    """

    modality: str
    sop_class_uid: str
    rows: int
    columns: int
    bits_stored: int
    instances_per_study: int

    @property
    def megabytes(self) -> float:
        """Size of one instance's pixels."""
        return self.rows * self.columns * 2 / 1e6


_CT = "1.2.840.10008.5.1.4.1.1.2"
WORKLOADS = {
    "DX": Workload(
        modality="DX", sop_class_uid="1.2.840.10008.5.1.4.1.1.1.1", rows=2500, columns=2048,
        bits_stored=14, instances_per_study=1,
    ),
    "CT": Workload(
        modality="CT", sop_class_uid=_CT, rows=512, columns=512, bits_stored=12,
        instances_per_study=80,
    ),
}  # fmt: skip
SMALL = Workload(
    modality="CT", sop_class_uid=_CT, rows=64, columns=60, bits_stored=12, instances_per_study=200
)


def render(folder: Path, name: str, count: int) -> list[Path]:
    """Images of one kind, smooth with a little noise, each an instance of its own."""
    kind = WORKLOADS.get(name, SMALL)
    folder.mkdir()
    noise = np.random.default_rng(0).normal(0, 0.004, (kind.rows, kind.columns))
    y, x = np.mgrid[0 : 1 : kind.rows * 1j, 0 : 1 : kind.columns * 1j]
    picture = 0.5 + 0.25 * np.sin(6 * x) * np.cos(5 * y) + noise
    full = 1 << kind.bits_stored
    pixels = np.clip(picture * full * 0.9, 0, full - 1).astype("<u2").tobytes()
    paths = []
    for number in range(count):
        if number % kind.instances_per_study == 0:
            study, series = generate_uid(), generate_uid()
        dataset = Dataset()
        dataset.SOPClassUID = kind.sop_class_uid
        dataset.SOPInstanceUID = generate_uid()
        dataset.StudyDate, dataset.StudyTime = "20260101", "120000"
        dataset.AccessionNumber = f"B{number // kind.instances_per_study}"
        dataset.Modality = kind.modality
        dataset.PatientName = "Bench^Synthetic"
        dataset.PatientID = f"BENCH{number // kind.instances_per_study}"
        dataset.PatientBirthDate, dataset.PatientSex = "19700101", "O"
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study, series
        dataset.StudyID, dataset.SeriesNumber, dataset.InstanceNumber = "1", 1, number + 1
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.Rows, dataset.Columns = kind.rows, kind.columns
        dataset.BitsAllocated, dataset.PixelRepresentation = 16, 0
        dataset.BitsStored, dataset.HighBit = kind.bits_stored, kind.bits_stored - 1
        dataset.PixelData = pixels
        dataset["PixelData"].VR = "OW"
        path = folder / f"{number:05d}.dcm"
        path.write_bytes(
            encode_file(
                encoded_elements(dataset),
                sop_class_uid=kind.sop_class_uid,
                sop_instance_uid=dataset.SOPInstanceUID,
            )
        )
        paths.append(path)
    return paths
