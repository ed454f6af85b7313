"""Real senders, every transfer syntax they can send: what arrives is kept byte for byte.

Where the sender encodes anew, what was sent is what DCMTK's storescp got of the same sender and
wrote bit by bit.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pynetdicom import AE, _config

from imaging_node.dicom.sender import Caller, verify_peer
from imaging_node.dicom.transfer_syntaxes import UNCOMPRESSED
from imaging_node.domain.errors import PeerRefusedError
from imaging_node.settings import PeerSettings
from tests.integration import syntaxes
from tests.integration.receiving import KeepingPeer, Kept, ReceiveRole, dataset_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parents[2]
NODE = "IMAGING_NODE"
LITTLE = "1.2.840.10008.1.2.1"
DX = "1.2.840.10008.5.1.4.1.1.1.1"
CAPTURED = "captured"


@pytest.fixture(scope="module")
def samples(
    tmp_path_factory: pytest.TempPathFactory, tool_path: Callable[[str], str]
) -> dict[str, Path]:
    return syntaxes.write_all(tmp_path_factory.mktemp("samples"), tool_path)


@pytest.fixture(scope="module")
def listener(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReceiveRole]:
    with ReceiveRole(tmp_path_factory.mktemp("receive")) as running:
        yield running


def send_to_both(
    folder: Path, storescp: str, sent: dict[str, tuple[list[str], Path]]
) -> tuple[dict[str, Kept], dict[str, Kept]]:
    """What the node and DCMTK's storescp keep of the same commands, each with its file."""
    with ReceiveRole(folder) as node, KeepingPeer(folder / "kept", storescp) as peer:
        for options, path in sent.values():
            for port in (node.port, peer.port):
                subprocess.run([*options, "-aec", NODE, "127.0.0.1", str(port), path], check=True)
        kept = node.kept(), peer.kept()
    uids = {syntax: syntaxes.instance_uid(path.read_bytes()) for syntax, (_, path) in sent.items()}
    assert kept[0].keys() == kept[1].keys() == set(uids.values())
    return (
        {syntax: kept[0][uid] for syntax, uid in uids.items()},
        {syntax: kept[1][uid] for syntax, uid in uids.items()},
    )


@pytest.fixture(scope="module")
def of_storescu(
    tmp_path_factory: pytest.TempPathFactory,
    samples: dict[str, Path],
    tool_path: Callable[[str], str],
) -> tuple[dict[str, Kept], dict[str, Kept]]:
    folder = tmp_path_factory.mktemp("storescu")
    storescu = tool_path("storescu")
    sent = {
        syntax: ([storescu, "-R", proposal], samples[syntax])
        for syntax, proposal in syntaxes.OF_STORESCU.items()
    }
    sent[CAPTURED] = ([storescu, "-R", "-xy"], syntaxes.write_captured(folder, tool_path))
    return send_to_both(folder, tool_path("storescp"), sent)


@pytest.mark.parametrize("syntax", syntaxes.OF_STORESCU)
def test_storescu_sends_every_syntax_it_can(
    of_storescu: tuple[dict[str, Kept], dict[str, Kept]], syntax: str
) -> None:
    at_node, at_peer = of_storescu
    assert at_node[syntax] == at_peer[syntax]
    assert at_node[syntax].transfer_syntax_uid == syntax


def test_a_capture_that_img2dcm_made_is_kept_as_it_came(
    of_storescu: tuple[dict[str, Kept], dict[str, Kept]],
) -> None:
    at_node, at_peer = of_storescu
    assert at_node[CAPTURED] == at_peer[CAPTURED]


@pytest.fixture(scope="module")
def of_dcmsend(
    tmp_path_factory: pytest.TempPathFactory,
    samples: dict[str, Path],
    tool_path: Callable[[str], str],
) -> tuple[dict[str, Kept], dict[str, Kept]]:
    command = [tool_path("dcmsend"), "--decompress-never"]
    sent = {syntax: (command, samples[syntax]) for syntax in syntaxes.OF_DCMTK}
    return send_to_both(tmp_path_factory.mktemp("dcmsend"), tool_path("storescp"), sent)


@pytest.mark.parametrize("syntax", syntaxes.OF_DCMTK)
def test_dcmsend_sends_every_syntax_it_can(
    of_dcmsend: tuple[dict[str, Kept], dict[str, Kept]], syntax: str
) -> None:
    at_node, at_peer = of_dcmsend
    assert at_node[syntax] == at_peer[syntax]
    # It proposes every uncompressed syntax for an uncompressed file, and leaves the choice to us.
    expected = LITTLE if syntax in UNCOMPRESSED else syntax
    assert at_node[syntax].transfer_syntax_uid == expected


@pytest.fixture(scope="module")
def of_pynetdicom(
    tmp_path_factory: pytest.TempPathFactory, samples: dict[str, Path]
) -> dict[str, Kept]:
    with (
        pytest.MonkeyPatch.context() as patch,
        ReceiveRole(tmp_path_factory.mktemp("pynetdicom")) as listener,
    ):
        # It then sends what lies in the file.
        patch.setattr(_config, "STORE_SEND_CHUNKED_DATASET", True)
        entity = AE(ae_title="SENDER")
        for syntax in samples:
            entity.add_requested_context(DX, syntax)
        association = entity.associate("127.0.0.1", listener.port, ae_title=NODE)
        statuses = [association.send_c_store(path).Status for path in samples.values()]
        association.release()
        assert set(statuses) == {0x0000}
        return listener.kept()


@pytest.mark.parametrize("syntax", syntaxes.ALL)
def test_pynetdicom_sends_a_file_as_it_is_in_every_syntax(
    of_pynetdicom: dict[str, Kept], samples: dict[str, Path], syntax: str
) -> None:
    content = samples[syntax].read_bytes()
    kept = of_pynetdicom[syntaxes.instance_uid(content)]
    assert kept == Kept(syntax, dataset_of(content))


@pytest.mark.parametrize("combined", [[], ["+C"]], ids=["a context a syntax", "all in one context"])
def test_storescu_may_propose_all_its_syntaxes_at_once(
    listener: ReceiveRole,
    samples: dict[str, Path],
    tool_path: Callable[[str], str],
    combined: list[str],
) -> None:
    plain = samples[LITTLE]
    subprocess.run(
        [
            tool_path("storescu"),
            *combined,
            "-xs",
            "-aec",
            NODE,
            "127.0.0.1",
            str(listener.port),
            plain,
        ],
        check=True,
    )
    assert syntaxes.instance_uid(plain.read_bytes()) in listener.kept()


def test_echoscu_is_answered_and_another_called_ae_title_is_not(
    listener: ReceiveRole, tool_path: Callable[[str], str]
) -> None:
    command = [tool_path("echoscu"), "127.0.0.1", str(listener.port), "-aec"]
    subprocess.run([*command, NODE], check=True)
    refused = subprocess.run([*command, "OTHER"], capture_output=True, text=True, check=False)

    assert refused.returncode != 0
    assert "Called AE Title Not Recognized" in refused.stderr


def test_ipv6_callers_are_served_and_told_apart_by_their_range(tmp_path: Path) -> None:
    callers = [
        {"ae_title": "SIX", "address": "::1/128"},
        {"ae_title": "NEAR", "address": "fe80::/10"},
    ]
    with ReceiveRole(tmp_path, host="::1", callers=callers) as listener:
        node = PeerSettings(ae_title=NODE, host="::1", port=listener.port)
        verify_peer(node, Caller(ae_title="SIX", timeout_s=10))

        with pytest.raises(PeerRefusedError, match="1/1/3"):
            verify_peer(node, Caller(ae_title="NEAR", timeout_s=10))

    said = listener.log.read_text()
    assert '"status": "1/1/3"' in said
    assert '"address": "::1"' in said


@pytest.fixture(scope="module")
def orthanc(
    tmp_path_factory: pytest.TempPathFactory,
    samples: dict[str, Path],
    tool_path: Callable[[str], str],
) -> dict[str, Any]:
    for tool in ("Orthanc", "unshare", "storescp"):
        tool_path(tool)
    folder = tmp_path_factory.mktemp("orthanc")
    [sample_folder] = {path.parent for path in samples.values()}
    own_user = [] if os.geteuid() == 0 else ["--map-root-user"]
    round_ = subprocess.run(
        [
            "unshare", "--net", *own_user,
            sys.executable, "-m", "tests.integration.store_round", str(folder), str(sample_folder),
        ],
        capture_output=True, text=True, check=False, cwd=ROOT,
        env={**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin"},
    )  # fmt: skip
    assert round_.returncode == 0, round_.stderr[-2000:]
    found: dict[str, Any] = json.loads(round_.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("syntax", syntaxes.OF_DCMTK)
def test_orthanc_stores_to_the_node_in_every_syntax_it_keeps(
    orthanc: dict[str, Any], syntax: str
) -> None:
    assert orthanc[syntax] == {"sent": True, "is_the_same": True, "syntax": syntax}
