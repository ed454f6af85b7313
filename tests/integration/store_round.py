"""Orthanc stores films to the node, in a network namespace; prints what came of it.

Run by `test_interoperability.py` under `unshare --net`, as `peers_round.py` is.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx

from imaging_node.demonstration.local_node import free_ports
from tests.integration import syntaxes
from tests.integration.commitment_round import await_that, is_up
from tests.integration.peers_round import bring_loopback_up
from tests.integration.receiving import KeepingPeer, ReceiveRole


def start_orthanc(
    folder: Path, http_port: int, modalities: dict[str, list[object]]
) -> subprocess.Popen[bytes]:
    [dicom_port] = free_ports(1)
    config = folder / "orthanc.json"
    config.write_text(
        json.dumps(
            {
                "Name": "test", "DicomAet": "ORTHANC", "DicomPort": dicom_port,
                "HttpPort": http_port, "StorageDirectory": str(folder / "orthanc"),
                "IndexDirectory": str(folder / "orthanc"), "RemoteAccessAllowed": False,
                "AuthenticationEnabled": False, "DicomModalities": modalities,
            }
        )
    )  # fmt: skip
    process = subprocess.Popen(
        ["Orthanc", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    await_that(lambda: is_up(http_port), "Orthanc did not start")
    return process


def main(folder: Path, samples: Path) -> None:
    bring_loopback_up()
    [http_port] = free_ports(1)
    base = f"http://127.0.0.1:{http_port}"
    storescp = shutil.which("storescp")
    assert storescp is not None
    found: dict[str, Any] = {}
    with ReceiveRole(folder) as listener, KeepingPeer(folder / "kept", storescp) as keeping:
        orthanc = start_orthanc(
            folder,
            http_port,
            {
                "node": ["IMAGING_NODE", "127.0.0.1", listener.port],
                "storescp": ["STORESCP", "127.0.0.1", keeping.port],
            },
        )
        try:
            sent = {
                syntax: store(base, (samples / f"{syntax}.dcm").read_bytes())
                for syntax in syntaxes.OF_DCMTK
            }
        finally:
            orthanc.terminate()
            orthanc.wait()
        at_node, at_peer = listener.kept(), keeping.kept()
    for syntax in syntaxes.OF_DCMTK:
        uid = syntaxes.instance_uid((samples / f"{syntax}.dcm").read_bytes())
        found[syntax] = {
            "sent": sent[syntax],
            "is_the_same": uid in at_node and at_node[uid] == at_peer.get(uid),
            "syntax": at_node[uid].transfer_syntax_uid if uid in at_node else "not kept",
        }
    sys.stdout.write(json.dumps(found))


def store(base: str, content: bytes) -> bool:
    """Whether Orthanc took a film and stored it to both."""
    uploaded = httpx.post(f"{base}/instances", content=content, timeout=30)
    if uploaded.is_error:
        return False
    return not any(
        httpx.post(
            f"{base}/modalities/{each}/store", content=uploaded.json()["ID"], timeout=60
        ).is_error
        for each in ("node", "storescp")
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
