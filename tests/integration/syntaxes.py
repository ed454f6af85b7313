"""One small synthetic film in each transfer syntax, most of them made by DCMTK's own tools."""

from __future__ import annotations

import subprocess
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from pydicom import dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000, UID, JPEG2000Lossless

from tests.integration.films import film, picture

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pydicom.dataset import Dataset

    from imaging_node.domain.finding import FloatImage

# By DCMTK: tool, its option, and storescu's option that proposes the syntax.
BY_DCMTK = {
    "1.2.840.10008.1.2": ("dcmconv", "+ti", "-xi"),
    "1.2.840.10008.1.2.1": ("dcmconv", "+te", "-xe"),
    "1.2.840.10008.1.2.2": ("dcmconv", "+tb", "-xb"),
    "1.2.840.10008.1.2.1.99": ("dcmconv", "+td", "-xd"),
    "1.2.840.10008.1.2.4.50": ("dcmcjpeg", "+eb", "-xy"),
    "1.2.840.10008.1.2.4.51": ("dcmcjpeg", "+ee", "-xx"),
    "1.2.840.10008.1.2.4.57": ("dcmcjpeg", "+el", ""),  # storescu has no proposal for it
    "1.2.840.10008.1.2.4.70": ("dcmcjpeg", "+e1", "-xs"),
    "1.2.840.10008.1.2.4.80": ("dcmcjpls", "+el", "-xt"),
    "1.2.840.10008.1.2.4.81": ("dcmcjpls", "+en", "-xu"),
    "1.2.840.10008.1.2.5": ("dcmcrle", "", "-xr"),
}
BY_PYDICOM = {"1.2.840.10008.1.2.4.90": "-xv", "1.2.840.10008.1.2.4.91": "-xw"}
# Nothing that is installed encodes these. The listener never decodes: any fragment will do.
MADE_UP = ("1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.4.202", "1.2.840.10008.1.2.4.203")

OF_STORESCU = {
    **{syntax: proposal for syntax, (_, _, proposal) in BY_DCMTK.items() if proposal},
    **BY_PYDICOM,
}
OF_DCMTK = (*BY_DCMTK, *BY_PYDICOM)
ALL = (*OF_DCMTK, *MADE_UP)


def write_all(folder: Path, tool_path: Callable[[str], str]) -> dict[str, Path]:
    """A file in each syntax, by its UID; each is a study of its own."""
    return {syntax: write(folder, syntax, tool_path) for syntax in ALL}


def write(
    folder: Path,
    syntax: str,
    tool_path: Callable[[str], str],
    image: FloatImage | None = None,
) -> Path:
    """A file in one syntax; of `image`, P-Values, if there is one."""
    plain, made = folder / f"plain-{syntax}.dcm", folder / f"{syntax}.dcm"
    # Baseline JPEG has eight bits; the others keep the film's twelve or sixteen.
    eight_bits = syntax in ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.91")
    change = to_eight_bits if eight_bits else None
    plain.write_bytes(film(run=syntax, change=change, image=image))
    if syntax in BY_DCMTK:
        tool, option, _ = BY_DCMTK[syntax]
        never_a_new_uid = ["+un"] if tool in ("dcmcjpeg", "dcmcjpls") else []
        subprocess.run(
            [tool_path(tool), *([option] if option else []), *never_a_new_uid, plain, made],
            check=True,
        )
    else:
        dataset = dcmread(plain)
        if syntax == JPEG2000Lossless:
            dataset.compress(JPEG2000Lossless, generate_instance_uid=False)
        elif syntax == JPEG2000:
            dataset.compress(JPEG2000, j2k_cr=[10], generate_instance_uid=False)
        else:
            dataset.PixelData = encapsulate([b"\xff\x4f\xff\x51" + bytes(1000)])
            dataset["PixelData"].VR = "OB"
            dataset.file_meta.TransferSyntaxUID = UID(syntax)
        dataset.save_as(made, enforce_file_format=True)
    assert dcmread(made, stop_before_pixels=True).file_meta.TransferSyntaxUID == syntax
    return made


def write_captured(folder: Path, tool_path: Callable[[str], str]) -> Path:
    """A Secondary Capture that DCMTK's img2dcm makes of a JPEG file: no pixel is decoded."""
    image, template, made = (folder / name for name in ("c.jpg", "c.dcm", "captured.dcm"))
    Image.fromarray((picture(3, 64) * 255).astype(np.uint8)).save(image)
    template.write_bytes(film(run="captured"))
    subprocess.run(
        [tool_path("img2dcm"), "--study-from", template, image, made],
        check=True,
        capture_output=True,
    )
    return made


def to_eight_bits(dataset: Dataset) -> None:
    """Keep the upper bits of each pixel."""
    pixels = dataset.pixel_array >> (dataset.BitsStored - 8)
    dataset.PixelData = pixels.astype(np.uint8).tobytes()
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7


def instance_uid(content: bytes) -> str:
    """SOP Instance UID of a file."""
    return str(dcmread(BytesIO(content), stop_before_pixels=True).SOPInstanceUID)
