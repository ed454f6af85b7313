"""Storage commitment with Orthanc, both ways, in a network namespace; prints what came of it.

Run by `test_commitment_peers.py` under `unshare --net`, as `peers_round.py` is.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
from pydicom import dcmread

from imaging_node.demonstration.local_node import LocalNode, free_ports
from tests.integration.answers import await_answers, listing
from tests.integration.films import film
from tests.integration.peers_round import bring_loopback_up

LIMIT_S = 60


def start_orthanc(
    folder: Path, dicom_port: int, http_port: int, node_port: int
) -> subprocess.Popen[bytes]:
    config = folder / "orthanc.json"
    config.write_text(
        json.dumps(
            {
                "Name": "test", "DicomAet": "ORTHANC", "DicomPort": dicom_port,
                "HttpPort": http_port, "StorageDirectory": str(folder / "orthanc"),
                "IndexDirectory": str(folder / "orthanc"), "RemoteAccessAllowed": False,
                "AuthenticationEnabled": False,
                "DicomModalities": {"node": ["IMAGING_NODE", "127.0.0.1", node_port]},
            }
        )
    )  # fmt: skip
    process = subprocess.Popen(
        ["Orthanc", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    await_that(lambda: is_up(http_port), "Orthanc did not start")
    return process


def is_up(http_port: int) -> bool:
    try:
        httpx.get(f"http://127.0.0.1:{http_port}/system")
    except httpx.TransportError:
        return False
    return True


def await_that(holds: Any, otherwise: str) -> None:  # noqa: ANN401 - any callable
    deadline = time.monotonic() + LIMIT_S
    while not holds():
        if time.monotonic() > deadline:
            raise SystemExit(otherwise)
        time.sleep(0.2)


def ask_commitment(base: str, instances: list[list[str]]) -> dict[str, Any]:
    """What Orthanc was told after it asked the node."""
    asked = httpx.post(
        f"{base}/modalities/node/storage-commitment", json={"DicomInstances": instances}, timeout=30
    )
    asked.raise_for_status()
    path = asked.json()["Path"]
    report: dict[str, Any] = {}

    def is_reported() -> bool:
        report.update(httpx.get(f"{base}{path}").json())
        return bool(report["Status"] != "Pending")

    await_that(is_reported, f"no report: {report}")
    return report


def main(folder: Path) -> None:
    bring_loopback_up()
    node_port, orthanc_port, http_port = free_ports(3)
    base = f"http://127.0.0.1:{http_port}"
    orthanc = start_orthanc(folder, orthanc_port, http_port, node_port)
    changes = {
        "study": {"quiet_period_s": 1},
        "dicom": {"host": "127.0.0.1", "port": node_port},
        "peers": {
            "orthanc": {
                "ae_title": "ORTHANC", "host": "127.0.0.1", "port": orthanc_port,
                "storage_commitment": True,
            }
        },
        "destinations": ["orthanc"],
    }  # fmt: skip
    try:
        with LocalNode(folder, changes) as node:
            payload = film()
            header = dcmread(BytesIO(payload), stop_before_pixels=True)
            uploaded = httpx.post(f"{base}/instances", content=payload).json()["ID"]
            httpx.post(f"{base}/modalities/node/store", content=uploaded).raise_for_status()
            kept = [str(header.SOPClassUID), str(header.SOPInstanceUID)]
            reports = [
                ask_commitment(base, [kept]),
                ask_commitment(
                    base,
                    [kept, [kept[0], "1.2.3.4"], ["1.2.840.10008.5.1.4.1.1.2", kept[1]]],
                ),
            ]
            await_answers(node, {str(header.StudyInstanceUID)}, limit_s=LIMIT_S)
            deliveries: list[dict[str, Any]] = []

            def are_delivered() -> bool:
                deliveries[:] = listing(node, "deliveries")
                return bool(deliveries) and all(each["state"] == "delivered" for each in deliveries)

            await_that(are_delivered, f"not delivered: {deliveries}")
            log = node.log.read_text()
    finally:
        orthanc.terminate()
        orthanc.wait()
    sys.stdout.write(json.dumps({"reports": reports, "deliveries": deliveries, "log": log}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
