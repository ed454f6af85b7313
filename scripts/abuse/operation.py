"""Faults 43, 44 and 47: wrong settings, a stop under load, a second node."""

from __future__ import annotations

import signal
import stat
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import yaml

from abuse.fault import Fault
from abuse.ground import Ground, UnexpectedError, expect
from abuse.sending import (
    SUCCESS,
    association,
    ct_slice,
    send_command,
    store,
)
from imaging_node.demonstration.local_node import free_ports
from imaging_node.settings import free_environment
from imaging_node.store.content_digest import digest_of
from imaging_node.store.listings import list_instances
from tests.dicom.listening import data_pdu, value

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tests.dicom.listening import RawPeer

_SENDERS = 6
_LOAD_S = 2.0
_STOP_WITHIN_S = 30.0
_GOES_ON_S = 4.0
_REFUSE_WITHIN_S = 20.0
_REJECTED, _DRAINING = b"\x03", (2, 3, 1)


def _serve(config: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Start a node that must refuse to.

    Raises:
        UnexpectedError: It serves.
    """
    try:
        return subprocess.run(
            [sys.executable, "-m", "imaging_node", "serve", "--config", str(config)],
            capture_output=True,
            text=True,
            check=False,
            timeout=_REFUSE_WITHIN_S,
            env=free_environment(**variables),
        )
    except subprocess.TimeoutExpired:
        raise UnexpectedError(f"it did not refuse to start within {_REFUSE_WITHIN_S:g} s") from None


def _expect_refusal(done: subprocess.CompletedProcess[str], what: str, *words: str) -> None:
    expect(done.returncode == 1, f"{what}: exit status {done.returncode}")
    lines = done.stderr.strip().splitlines()
    expect(len(lines) == 1, f"{what}: {len(lines)} lines on standard error")
    missing = [each for each in words if each not in lines[0]]
    expect(not missing, f"{what}: the message does not name {missing}: {lines[0][:200]}")


def _wrong_settings(ground: Ground) -> str:
    port, web = free_ports(2)
    folder = ground.folder / "wrong"
    folder.mkdir()
    sound: Mapping[str, Any] = {
        "state_directory": str(folder / "state"),
        "dicom": {"port": port},
        "web": {"port": web},
    }
    cases: tuple[tuple[str, Mapping[str, Any], tuple[str, ...]], ...] = (
        ("unknown section", {"dicm": {}}, ("dicm",)),
        ("unknown key", {"dicom": {"prot": 104}}, ("dicom.prot",)),
        ("wrong type", {"dicom": {"port": "high"}}, ("dicom.port", "high")),
        ("impossible value", {"dicom": {"max_associations": 0}}, ("dicom.max_associations",)),
        ("open without TLS", {"dicom": {"host": "0.0.0.0"}}, ("allow_plaintext",)),  # noqa: S104 - refused
        (
            "host bits in a range",
            {"dicom": {"callers": [{"ae_title": "A", "address": "10.0.0.1/8"}]}},
            ("dicom.callers",),
        ),
        ("unknown destination", {"destinations": ["pasc"]}, ("pasc",)),
        ("no such certificate", {"dicom": {"tls": _tls(folder, "absent")}}, ("dicom.tls",)),
    )
    for name, changes, words in cases:
        config = folder / "node.yaml"
        config.write_text(yaml.safe_dump({**sound, **changes}), encoding="utf-8")
        _expect_refusal(_serve(config), name, *words)
    expect(not (folder / "state" / "node.sqlite").exists(), "a refused start made a database")
    config.write_text("dicom: {port: [", encoding="utf-8")
    _expect_refusal(_serve(config), "no YAML", "node.yaml")
    return f"{len(cases) + 1} refused, exit 1, one line each that names the setting"


def _tls(folder: Path, name: str) -> dict[str, str]:
    return {each: str(folder / f"{name}.{each}.pem") for each in ("certificate", "key", "ca")}


def _readable_key(ground: Ground) -> str:
    """The private key of the node, readable by everybody on the machine."""
    key = ground.folder / "node.key.pem"
    [port, web] = free_ports(2)
    settings = yaml.safe_load(ground.node.config.read_text(encoding="utf-8"))
    settings["state_directory"] = str(ground.folder / "other-state")
    settings["dicom"]["port"], settings["web"]["port"] = port, web
    config = ground.folder / "readable.yaml"
    config.write_text(yaml.safe_dump(settings), encoding="utf-8")
    before = stat.S_IMODE(key.stat().st_mode)
    key.chmod(0o644)
    try:
        _expect_refusal(_serve(config), "key readable by everybody", "key")
    finally:
        key.chmod(before)
    return "refused, exit 1, one line that names the key"


def _second_node(ground: Ground) -> str:
    dicom, web = free_ports(2)
    done = _serve(
        ground.node.config,
        IMAGING_NODE__DICOM__PORT=str(dicom),
        IMAGING_NODE__WEB__PORT=str(web),
    )
    _expect_refusal(done, "second node", "another node")
    expect(ground.node.process.poll() is None, "the first node ended")
    return "exit 1, one line, the first goes on"


class _Load:
    """Owns senders that send as fast as they are answered, until they are told to stop."""

    def __init__(self, ground: Ground) -> None:
        self.acknowledged: dict[str, bytes] = {}
        self.refusals: list[tuple[int, ...]] = []
        self.is_over = threading.Event()
        self._ground = ground

    def send(self, number: int) -> None:
        """Slices of one study over one association after the other."""
        study = ct_slice().study_instance_uid
        while not self.is_over.is_set():
            with suppress(OSError, UnexpectedError, AssertionError):
                self._send_some(study, f"127.0.0.{10 + number}")

    def _send_some(self, study: str, source: str) -> None:
        with association(self._ground, [ct_slice().kind], source=source) as peer:
            for _ in range(50):
                if self.is_over.is_set():
                    return
                each = ct_slice(study, pixels=bytes(100_000))
                if store(peer, each) == SUCCESS:
                    self.acknowledged[each.sop_instance_uid] = each.dataset

    def ask(self) -> None:
        """New associations; what they are answered is noted."""
        while not self.is_over.is_set():
            with (
                suppress(OSError),
                self._ground.call(source="127.0.0.9", limit_s=3) as peer,
            ):
                answer = peer.associate()
                if answer[:1] == _REJECTED:
                    self.refusals.append(tuple(answer[7:10]))
            time.sleep(0.05)

    def send_slowly(self, is_begun: threading.Event) -> int:
        """One instance that was begun before the stop and ends seconds after it."""
        instance = ct_slice(pixels=bytes(200_000))
        with self._ground.call(source="127.0.0.8") as peer:
            peer.associate()
            send_command(peer, instance)
            status = self._trickle(peer, instance.dataset, is_begun)
        if status == SUCCESS:
            self.acknowledged[instance.sop_instance_uid] = instance.dataset
        return status

    @staticmethod
    def _trickle(peer: RawPeer, dataset: bytes, is_begun: threading.Event) -> int:
        step = len(dataset) // 20 + 1
        for begin in range(0, len(dataset), step):
            is_last = begin + step >= len(dataset)
            fragment = dataset[begin : begin + step]
            peer.send(data_pdu(value(fragment, is_command=False, is_last=is_last)))
            is_begun.set()
            time.sleep((_LOAD_S + _GOES_ON_S) / 20)  # a slow link
        return peer.status()


def _stop_under_load(ground: Ground) -> str:
    load = _Load(ground)
    is_begun = threading.Event()
    with ThreadPoolExecutor(_SENDERS + 2) as pool:
        try:
            slow = pool.submit(load.send_slowly, is_begun)
            jobs = [pool.submit(load.send, number) for number in range(_SENDERS)]
            jobs.append(pool.submit(load.ask))
            expect(is_begun.wait(5), "the slow transfer did not begin")
            time.sleep(_LOAD_S)
            before = len(load.acknowledged)
            begun_s = time.monotonic()
            ground.node.process.send_signal(signal.SIGTERM)
            status = slow.result(timeout=_STOP_WITHIN_S)
            code = ground.node.process.wait(timeout=_STOP_WITHIN_S)
            seconds = time.monotonic() - begun_s
        finally:
            load.is_over.set()
    for job in jobs:
        job.result()
    expect(before > 0, "nothing was acknowledged before the stop")
    expect(status == SUCCESS, f"the transfer under way was answered {status:04X}")
    expect(code == 0, f"exit status {code}")
    expect(seconds <= _STOP_WITHIN_S, f"{seconds:.0f} s")
    others = set(load.refusals) - {_DRAINING}
    expect(load.refusals and not others, f"new associations: {sorted(set(load.refusals))}")
    _expect_kept(ground, load.acknowledged)
    return (
        f"exit 0 after {seconds:.1f} s, transfer under way 0000, {len(load.refusals)} RJ 2/3/1,"
        f" {len(load.acknowledged)} acknowledged and kept"
    )


def _expect_kept(ground: Ground, acknowledged: Mapping[str, bytes]) -> None:
    known = {
        each.sop_instance_uid: each.digest
        for study in ground.studies()
        for each in list_instances(ground.database, study)
    }
    files = {path.stem: path for path in ground.kept_files()}
    for uid, dataset in acknowledged.items():
        expect(uid in known, "an acknowledged instance is not in the database")
        content = files[known[uid]].read_bytes()
        expect(digest_of(content) == known[uid], "a kept file is not what was received")
        expect(content.endswith(dataset), "a kept file is not what was sent")


OPERATION_FAULTS = (
    Fault(
        number="43a",
        what="typing slips in the settings",
        expected="exit 1, one line that names the setting",
        commit=_wrong_settings,
        is_sampled=False,
    ),
    Fault(
        number="47",
        what="a second node on the state directory",
        expected="exit 1, one line, the first goes on",
        commit=_second_node,
    ),
)
KEY_FAULTS = (
    Fault(
        number="43b",
        what="private key readable by everybody",
        expected="exit 1, one line that names it",
        commit=_readable_key,
        is_sampled=False,
    ),
)
STOP_FAULTS = (
    Fault(
        number="44",
        what="SIGTERM under load",
        expected="RJ 2/3/1, transfers finish, exit 0 within 30 s, nothing lost",
        commit=_stop_under_load,
        is_sampled=False,
        answers_echo=False,
    ),
)
