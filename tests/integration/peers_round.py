"""One round with real peers, inside a network namespace of its own; prints what it found.

Run by `test_peers.py` under `unshare --net`: Debian's Orthanc listens on every address whatever
it is told, and here there is no other address.
"""

from __future__ import annotations

import fcntl
import json
import socket
import struct
import subprocess
import sys
import time
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
from PIL import Image
from pydicom import dcmread

from imaging_node.demonstration.local_node import LocalNode, free_ports
from imaging_node.dicom.phantom import phantom_dataset
from tests.integration.answers import await_answers
from tests.integration.films import CLEAR, picture

if TYPE_CHECKING:
    from collections.abc import Iterator

FILMS = 20
_SIOCSIFFLAGS = 0x8914
_UP_AND_RUNNING = 0x41


def bring_loopback_up() -> None:
    """What `ip link set lo up` does; a new namespace has its loopback down."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sh22x", b"lo", _UP_AND_RUNNING)
        fcntl.ioctl(control, _SIOCSIFFLAGS, request)


def start_orthanc(folder: Path, dicom_port: int, http_port: int) -> subprocess.Popen[bytes]:
    config = folder / "orthanc.json"
    config.write_text(
        json.dumps(
            {
                "Name": "test", "DicomAet": "ORTHANC", "DicomPort": dicom_port,
                "HttpPort": http_port, "StorageDirectory": str(folder / "orthanc"),
                "IndexDirectory": str(folder / "orthanc"), "RemoteAccessAllowed": False,
                "AuthenticationEnabled": False, "DicomCheckCalledAet": False,
            }
        )
    )  # fmt: skip
    process = subprocess.Popen(
        ["Orthanc", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            httpx.get(f"http://127.0.0.1:{http_port}/system")
        except httpx.TransportError:
            time.sleep(0.2)
        else:
            return process
    raise SystemExit("Orthanc did not start")


def write_films(folder: Path, data: Path | None) -> list[Path]:
    """Films as DX files: of the public test split when it is there, else drawn."""
    if data is None:
        pictures: Iterator[Any] = (picture(seed, 224) for seed in range(FILMS))
        others: list[Path] = []
    else:
        radiographs = data / "chest_radiographs"
        rows = (radiographs / "index.csv").read_text().splitlines()
        test = [row.split(",") for row in rows if ",kermany," in row and ",test," in row]
        step = len(test) // FILMS
        pictures = (
            np.asarray(Image.open(data / "chest_radiographs" / row[0]).convert("L"), np.float32)
            / 255
            for row in test[::step][:FILMS]
        )
        others = sorted((data / "dicom" / "chest").glob("*.dcm"))
        others += sorted((data / "dicom" / "pylibjpeg-data").glob("*.dcm"))
    films = []
    for number, values in enumerate(pictures):
        path = folder / f"film-{number:02d}.dcm"
        phantom = replace(CLEAR, number=number + 1)
        phantom_dataset(phantom, run=f"{number}", picture=values).save_as(
            path, enforce_file_format=True
        )
        films.append(path)
    return [*films, *others]


def storescu(node: LocalNode, path: Path) -> int:
    """Send one file with DCMTK in its own transfer syntax."""
    dicom = node.settings.dicom
    proposals = {
        "1.2.840.10008.1.2": "-xi", "1.2.840.10008.1.2.1": "-xe", "1.2.840.10008.1.2.4.50": "-xy",
        "1.2.840.10008.1.2.4.51": "-xx", "1.2.840.10008.1.2.4.57": "-xs",
        "1.2.840.10008.1.2.4.70": "-xs", "1.2.840.10008.1.2.4.80": "-xt",
        "1.2.840.10008.1.2.4.81": "-xu", "1.2.840.10008.1.2.4.90": "-xv",
        "1.2.840.10008.1.2.4.91": "-xw", "1.2.840.10008.1.2.5": "-xr",
    }  # fmt: skip
    syntax = str(dcmread(path, stop_before_pixels=True).file_meta.TransferSyntaxUID)
    return subprocess.run(
        ["storescu", proposals[syntax], "-aec", dicom.ae_title, "127.0.0.1", str(dicom.port),
         str(path)],
        check=False, capture_output=True,
    ).returncode  # fmt: skip


def main(folder: Path, data: Path | None) -> None:
    bring_loopback_up()
    scp_port, orthanc_port, http_port = free_ports(3)
    (folder / "storescp").mkdir()
    films = write_films(folder, data)
    scp = subprocess.Popen(
        ["storescp", "--output-directory", str(folder / "storescp"), str(scp_port)]
    )
    orthanc = start_orthanc(folder, orthanc_port, http_port)
    peers = {
        "storescp": {"ae_title": "STORESCP", "host": "127.0.0.1", "port": scp_port},
        "orthanc": {"ae_title": "ORTHANC", "host": "127.0.0.1", "port": orthanc_port},
    }
    changes = {
        "study": {"quiet_period_s": 1},
        "peers": peers,
        "destinations": ["storescp", "orthanc"],
    }
    try:
        with LocalNode(folder, changes) as node:
            refused = [path.name for path in films if storescu(node, path)]
            uids = {str(dcmread(path, stop_before_pixels=True).StudyInstanceUID) for path in films}
            rows = await_answers(node, uids, limit_s=180)
            received = [
                dcmread(path, stop_before_pixels=True) for path in (folder / "storescp").iterdir()
            ]
            base = f"http://127.0.0.1:{http_port}"
            stored = [
                dcmread(BytesIO(httpx.get(f"{base}/instances/{each}/file").content))
                for each in httpx.get(f"{base}/instances").json()
            ]
    finally:
        scp.terminate()
        orthanc.terminate()
        scp.wait()
        orthanc.wait()
    sys.stdout.write(
        json.dumps(
            {
                "refused": refused,
                "rows": [rows[uid] for uid in uids],
                "storescp": sorted((str(d.StudyInstanceUID), str(d.SOPClassUID)) for d in received),
                "orthanc": sorted((str(d.StudyInstanceUID), str(d.SOPClassUID)) for d in stored),
            }
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
