"""Our decoders give the pixels that DCMTK gives, and that a lossless file was made of."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from pydicom.uid import JPEG2000, JPEG2000Lossless, JPEGBaseline8Bit, RLELossless

from imaging_node.dicom.codecs import decodable_syntaxes
from imaging_node.dicom.decoding import DecodingPool
from tests.dicom.synthetic_sources import radiograph, write

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
COLLECTION = ROOT.parent / "shared" / "data" / "dicom" / "cornerstone"
NAMED = "examples__test-images__CTImage.dcm_{}.dcm"
LOSSLESS = (
    "LittleEndianImplicitTransferSyntax_1.2.840.10008.1.2",
    "BigEndianExplicitTransferSyntax_1.2.840.10008.1.2.2",
    "DeflatedExplicitVRLittleEndianTransferSyntax_1.2.840.10008.1.2.1.99",
    "JPEGProcess14TransferSyntax_1.2.840.10008.1.2.4.57",
    "JPEGProcess14SV1TransferSyntax_1.2.840.10008.1.2.4.70",
    "JPEGLSLosslessTransferSyntax_1.2.840.10008.1.2.4.80",
    "JPEG2000LosslessOnlyTransferSyntax_1.2.840.10008.1.2.4.90",
    "RLELosslessTransferSyntax_1.2.840.10008.1.2.5",
)
PLAIN = "LittleEndianExplicitTransferSyntax_1.2.840.10008.1.2.1"
# Encoder, its options, decoder.
BY_DCMTK = {
    "JPEG Lossless, any prediction (.57)": ("dcmcjpeg", ["+el"], "dcmdjpeg"),
    "JPEG Lossless, first-order prediction (.70)": ("dcmcjpeg", ["+e1"], "dcmdjpeg"),
    "JPEG Extended of 12 bits (.51)": ("dcmcjpeg", ["+ee", "+bt"], "dcmdjpeg"),
    "JPEG-LS (.80)": ("dcmcjpls", ["+el"], "dcmdjpls"),
    "JPEG-LS near-lossless (.81)": ("dcmcjpls", ["+en"], "dcmdjpls"),
    "RLE (.5)": ("dcmcrle", [], "dcmdrle"),
}


@pytest.fixture(scope="module")
def pool() -> Iterator[DecodingPool]:
    opened = DecodingPool(processes=1, memory_limit_bytes=512 * 2**20, time_limit_s=10)
    yield opened
    opened.close()


def test_there_is_a_decoder_for_every_transfer_syntax_that_is_accepted() -> None:
    assert all(decodable_syntaxes().values())


# Leaves only what a decoder process removes, asks, becomes a decoder process, and looks again.
ONLY_SILENT = """
import json
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import UID
from imaging_node.dicom import codecs
from imaging_node.dicom.transfer_syntaxes import TRANSFER_SYNTAXES
for syntax, silent in codecs._SILENT.items():
    for plugin in get_decoder(syntax).available_plugins:
        if plugin != silent:
            get_decoder(syntax).remove_plugin(plugin)
def plugins():
    return [get_decoder(each).available_plugins for each in TRANSFER_SYNTAXES]
before = plugins()
foreseen = codecs.decodable_syntaxes()
assert plugins() == before
codecs.choose_codecs()
found = {UID(each).name: get_decoder(each).is_available for each in TRANSFER_SYNTAXES}
print(json.dumps([foreseen, found]))
"""


def test_a_syntax_whose_only_codec_a_decoder_removes_has_no_decoder() -> None:
    asked = subprocess.run(
        [sys.executable, "-c", ONLY_SILENT],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=True,
    )
    foreseen, found = json.loads(asked.stdout)
    assert foreseen == found
    lacking = {name for name, is_decodable in foreseen.items() if not is_decodable}
    assert lacking == {
        each.name for each in (JPEGBaseline8Bit, JPEG2000Lossless, JPEG2000, RLELossless)
    }


@pytest.mark.parametrize("syntax", BY_DCMTK)
def test_pixels_are_those_that_dcmtk_decodes(
    syntax: str, pool: DecodingPool, tmp_path: Path
) -> None:
    encoder, options, decoder = BY_DCMTK[syntax]
    if not shutil.which(encoder):
        pytest.skip(f"DCMTK's {encoder} is not installed")
    plain = write(radiograph(rows=200, columns=180), tmp_path / "plain.dcm")
    compressed, expanded = tmp_path / "compressed.dcm", tmp_path / "expanded.dcm"
    subprocess.run([encoder, *options, plain, compressed], check=True)
    subprocess.run([decoder, compressed, expanded], check=True)
    ours = pool.decode(compressed, "1.2.3").p_values
    assert np.array_equal(ours, pool.decode(expanded, "1.2.3").p_values)
    assert np.abs(ours - pool.decode(plain, "1.2.3").p_values).max() < 0.1


@pytest.mark.parametrize("syntax", LOSSLESS)
def test_one_slice_is_the_same_in_every_lossless_syntax(syntax: str, pool: DecodingPool) -> None:
    plain, compressed = (COLLECTION / NAMED.format(each) for each in (PLAIN, syntax))
    if not plain.is_file() or not compressed.is_file():
        pytest.skip("the shared collection of DICOM files is not here")
    expected = pool.decode(plain, "1.2.3").p_values
    assert np.array_equal(pool.decode(compressed, "1.2.3").p_values, expected)
