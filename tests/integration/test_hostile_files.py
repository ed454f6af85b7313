"""All public DICOM and malformed files at a running node: it answers, and goes on."""

from __future__ import annotations

import sys
import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from imaging_node.demonstration.local_node import LocalNode
from imaging_node.dicom.file_format import read_kind, split_part10
from imaging_node.dicom.headers import read_header
from imaging_node.dicom.sender import verify_peer
from imaging_node.dicom.storage_classes import STORAGE_CLASSES
from imaging_node.dicom.transfer_syntaxes import TRANSFER_SYNTAXES
from imaging_node.domain.errors import PeerUnavailableError, RejectedInstanceError
from imaging_node.settings import PeerSettings
from tests.integration.answers import await_answers, listing
from tests.integration.conftest import wait_until
from tests.integration.films import CALLER, film, send, send_paths, study_uid
from tests.integration.memory import MemoryWatch, resident_bytes
from tests.integration.test_bad_input import store_raw

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1024 * 1024
# Files that reuse the UIDs of others are kept apart.
FINAL = {"done", "not_analysed", "not_applicable", "failed", "quarantined"}


def echo_s(node: LocalNode) -> float:
    """Seconds that a C-ECHO takes."""
    dicom = node.settings.dicom
    started = time.monotonic()
    verify_peer(PeerSettings(ae_title=dicom.ae_title, host="127.0.0.1", port=dicom.port), CALLER)
    return time.monotonic() - started


def send_whatever(node: LocalNode, path: Path) -> bool:
    """Send a file however damaged; True when the node answered Success."""
    try:
        sop_class_uid, transfer_syntax_uid = read_kind(path)
        sendable = sop_class_uid in STORAGE_CLASSES and transfer_syntax_uid in TRANSFER_SYNTAXES
    except RejectedInstanceError:
        sendable = False
    try:
        if sendable:
            return bool(send_paths(node, [path]).stored)
        dataset = path.read_bytes()[132:] or b"\0"
        return store_raw(node, "1.2.3.4", dataset, "1.2.840.10008.5.1.4.1.1.7") == 0
    except (PeerUnavailableError, AssertionError, ValueError):
        return False  # the node may end an association that breaks the rules


@pytest.mark.timeout(900)
def test_no_public_or_malformed_file_stops_the_node(tmp_path: Path, shared_data: Path) -> None:
    files = sorted(
        path
        for folder in ("dicom", "malformed")
        for path in (shared_data / folder).rglob("*")
        if path.is_file() and path.suffix != ".csv"
    )
    assert len(files) > 600
    with LocalNode(tmp_path, {"study": {"quiet_period_s": 1}}) as node:
        before_bytes = resident_bytes(node.process.pid)
        slowest_echo_s = 0.0
        accepted: set[str] = set()
        with MemoryWatch(node.process.pid) as memory:
            for number, path in enumerate(files):
                if send_whatever(node, path):
                    accepted.add(_study_uid(path))
                if number % 20 == 0:
                    slowest_echo_s = max(slowest_echo_s, echo_s(node))
            last = film()
            send(node, tmp_path, last)
            rows = await_answers(node, [*accepted - {""}, study_uid(last)], limit_s=300)
            slowest_echo_s = max(slowest_echo_s, echo_s(node))

        assert slowest_echo_s < 2
        assert rows[study_uid(last)]["state"] == "done"
        studies = listing(node, "studies")
        assert {study["state"] for study in studies} <= FINAL
        assert all(study["reason"] for study in studies if study["state"] != "done")
        wait_until(
            lambda: resident_bytes(node.process.pid) < before_bytes + 700 * MIB,
            limit_s=30,
            what="memory back within 700 MiB of where it began",
        )
        [study["state"] for study in studies]
        after_bytes = resident_bytes(node.process.pid)
        states = Counter(study["state"] for study in studies)
        sys.stdout.write(
            f"{len(files)} files, {len(studies)} studies {dict(states)},"
            f" slowest C-ECHO {slowest_echo_s:.2f} s; memory of all roles:"
            f" {before_bytes / MIB:.0f} MiB before, {memory.peak_bytes / MIB:.0f} MiB at peak,"
            f" {after_bytes / MIB:.0f} MiB after\n"
        )
        assert memory.peak_bytes < 1500 * MIB


def _study_uid(path: Path) -> str:
    transfer_syntax_uid, dataset = split_part10(path.read_bytes())
    try:
        header = read_header(dataset, transfer_syntax_uid=transfer_syntax_uid)
    except RejectedInstanceError:
        return ""
    return header.image.study_instance_uid
