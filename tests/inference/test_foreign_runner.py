"""A foreign bundle that misbehaves ends in a coded "not analysed", and reaches nothing."""

from __future__ import annotations

import ctypes
import json
import platform
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from imaging_node.domain.errors import BundleError, NotAnalysedError
from imaging_node.domain.finding import NotAnalysedReason
from imaging_node.inference.foreign_bundle import ForeignBundle, install_foreign, load_foreign
from imaging_node.inference.foreign_files import read_foreign_files, sha256_of
from imaging_node.inference.foreign_runner import (
    ForeignLimits,
    ForeignOutput,
    _require_answer,
    run_foreign,
)
from tests.inference.zoo_bundles import density_like, threshold

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

PATIENT = "Mueller_Juergen"
LIMITS = ForeignLimits(time_limit_s=200, memory_limit_bytes=4 * 2**30)
INFERER = """
import ctypes, json, os, socket, subprocess, sys, threading, time
import numpy as np
import torch


def found(name):
    frame = sys._getframe()
    while frame is not None:
        if name in frame.f_locals:
            return frame.f_locals[name]
        frame = frame.f_back
    raise LookupError(name)


class Inferer:
    def __call__(self, inputs, network):
        {body}
        return network(inputs)
"""
REFUSED = """
        secret = {secret!r}
        actions = [
            lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM),
            lambda: socket.socketpair(),
            lambda: os.fork(),
            lambda: subprocess.run(["/bin/true"]),
            lambda: os.execv("/bin/true", ["/bin/true"]),
            lambda: os.kill(os.getppid(), 0),
            lambda: open(secret + ".new", "w"),
            lambda: open(secret, "r+"),
            lambda: os.unlink(secret),
            lambda: os.mkdir(secret + ".folder"),
            lambda: open({reading!r}).read(),
            lambda: os.listdir({listing!r}),
        ]
        for number, action in enumerate(actions):
            try:
                action()
            except OSError:
                continue
            raise SystemExit(f"action {{number}} was allowed")
        raise RuntimeError("all refused")
"""
# Every other thread is made to try, by a signal whose handler runs in it.
OTHER_THREADS = """
        torch.set_num_threads(2)
        torch.ones(512, 512) @ torch.ones(512, 512)
        library, seen = ctypes.CDLL(None), []
        def attempt(_):
            for action in (
                lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM),
                lambda: os.kill(os.getppid(), 0),
                lambda: open({secret!r}, "r+"),
                lambda: open({reading!r}).read(),
            ):
                try:
                    action()
                except OSError:
                    continue
                seen.append("allowed")
            seen.append(threading.get_native_id())
        handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(attempt)
        library.signal(10, handler)
        others = [int(each) for each in os.listdir("/proc/self/task") if int(each) != os.getpid()]
        for each in others:
            library.syscall({tgkill}, os.getpid(), each, 10)
        ends = time.monotonic() + 60
        while len(set(seen) & set(others)) < len(others) and time.monotonic() < ends:
            time.sleep(0.01)
        answered = set(seen) == set(others) and others
        raise RuntimeError("all refused" if answered else f"{{seen}} of {{others}}")
"""


def _bundle(tmp_path: Path, body: str, changes: dict[str, object] | None = None) -> ForeignBundle:
    source = threshold(
        tmp_path / "evil",
        scripts={"evil.py": INFERER.format(body=body)},
        changes={"inferer": {"_target_": "scripts.evil.Inferer"}, **(changes or {})},
    )
    trust_code = read_foreign_files(source).trust_hash
    return install_foreign(source, tmp_path / "zoo", trust_code=trust_code).bundle


def _run(
    bundle: ForeignBundle, limits: ForeignLimits = LIMITS, said: list[str] | None = None
) -> ForeignOutput:
    said = [] if said is None else said
    return run_foreign(
        bundle,
        np.full((4, 6, 5), 500, np.float32),
        np.eye(4),
        trust_code=bundle.trust_hash,
        limits=limits,
        explain=said.append,
    )


def _failure(bundle: ForeignBundle, limits: ForeignLimits = LIMITS) -> tuple[str, str]:
    said: list[str] = []
    with pytest.raises(NotAnalysedError) as caught:
        _run(bundle, limits, said)
    return caught.value.reason.name, "".join(said)


def _has_landlock() -> bool:
    version: int = ctypes.CDLL(None).syscall(444, None, 0, 1)
    return version >= 1


def test_the_same_inferer_without_mischief_answers(tmp_path: Path) -> None:
    """What the other tests stand on: their failures are the mischief's."""
    output = _run(_bundle(tmp_path, "pass"))
    assert output.masks is not None
    assert output.masks.shape == (1, 4, 6, 5)
    assert (output.masks == 1).all()
    # The process is gone; the labels are what it left, and no copy of them.
    assert not output.masks.flags.writeable


@pytest.mark.parametrize("threads", [1, 2])
def test_network_processes_and_files_are_out_of_reach(threads: int, tmp_path: Path) -> None:
    secret = tmp_path / "spool"
    secret.write_text("a patient")
    # Without Landlock in the kernel files can be read, as by a decoder.
    reading = str(secret) if _has_landlock() else "/nonexistent"
    listing = str(tmp_path) if _has_landlock() else "/nonexistent"
    body = REFUSED.format(secret=str(secret), reading=reading, listing=listing)
    reason, said = _failure(_bundle(tmp_path, body), replace(LIMITS, threads=threads))
    assert (reason, said) == ("SOFTWARE", "inference: RuntimeError: RuntimeError: all refused")
    assert secret.read_text() == "a patient"


def test_no_other_thread_reaches_what_the_first_one_may_not(tmp_path: Path) -> None:
    secret = tmp_path / "spool"
    secret.write_text("a patient")
    body = OTHER_THREADS.format(
        secret=str(secret),
        reading=str(secret) if _has_landlock() else "/nonexistent",
        tgkill={"x86_64": 234, "aarch64": 131}[platform.machine()],
    )
    failure = _failure(_bundle(tmp_path, body), replace(LIMITS, threads=2))
    assert failure == ("SOFTWARE", "inference: RuntimeError: RuntimeError: all refused")
    assert secret.read_text() == "a patient"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (
            "found('masks')[...] = 200; found('peer').send(b'{\"done\": true}'); os._exit(0)",
            NotAnalysedReason.MODEL_OUTPUT,
        ),
        ("found('peer').send(b'\\x80\\x04N.'); time.sleep(1000)", NotAnalysedReason.SOFTWARE),
        ("found('peer').send(b'[' * 60000); time.sleep(1000)", NotAnalysedReason.SOFTWARE),
        (
            "found('peer').send(json.dumps({'failed': 'a', 'error': 'b'}).encode()); os._exit(0)",
            NotAnalysedReason.SOFTWARE,
        ),
        ("os.abort()", NotAnalysedReason.SOFTWARE),
        ("bytearray(2**36)", NotAnalysedReason.SOFTWARE),
        ("return network(inputs)[..., :3]", NotAnalysedReason.SOFTWARE),
        (
            "return network(inputs)[:, :1].repeat(1, 5, 1, 1, 1) * float('nan')",
            NotAnalysedReason.MODEL_OUTPUT,
        ),
    ],
    ids=[
        "labels",
        "pickle",
        "nonsense",
        "a step of its own",
        "abort",
        "memory",
        "shape",
        "channels",
    ],
)
def test_what_is_no_answer_never_becomes_one(
    body: str, reason: NotAnalysedReason, tmp_path: Path
) -> None:
    keep: dict[str, object] = {"_target_": "Compose", "transforms": []}
    changes: dict[str, object] = {"postprocessing": keep} if "repeat" in body else {}
    assert _failure(_bundle(tmp_path, body, changes))[0] == reason.name


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ({"refused": f"{PATIENT} {'x' * 60000}"}, "ended without an answer"),
        ({"refused": ["files"]}, "ended without an answer"),
        ({"refused": "files"}, "a file was changed, added or removed since it was installed"),
        ({"failed": "output", "error": PATIENT}, "its output (an error of its own)"),
        ({"failed": "output", "error": "x\n" * 20000}, "its output (an error of its own)"),
        ({"failed": ["output"], "error": "ValueError"}, "ended without an answer"),
        ({"failed": "output", "error": "ValueError"}, "its output (ValueError)"),
        ({"failed": "inference", "error": "OutOfMemoryError"}, "(OutOfMemoryError)"),
    ],
)
def test_no_word_of_a_bundle_becomes_one_of_the_node(
    message: dict[str, object], said: str, tmp_path: Path
) -> None:
    """What its code can write to the socket is read as if nobody honest had written it."""
    with pytest.raises((BundleError, NotAnalysedError)) as caught:
        _require_answer(message, _bundle(tmp_path, "pass"), None)
    sentence = str(caught.value)
    assert said in sentence
    assert PATIENT not in sentence
    assert "\n" not in sentence
    assert len(sentence) < 200


def test_a_volume_that_the_node_has_no_room_for_beside_the_process_is_not_handed_over(
    tmp_path: Path,
) -> None:
    voxels = 4 * 6 * 5
    limits = replace(LIMITS, memory_limit_bytes=voxels * 10 - 1)
    bundle = _bundle(tmp_path, "pass")
    begun = time.monotonic()
    assert _failure(bundle, limits) == ("TOO_MANY", "")
    assert time.monotonic() - begun < 5  # no process was started


def test_a_bundle_that_sleeps_or_spins_for_ever_is_given_up(tmp_path: Path) -> None:
    limits = ForeignLimits(time_limit_s=45)
    bundle = _bundle(
        tmp_path,
        "threading.Thread(target=time.sleep, args=(9e9,)).start()\n        while True: pass",
    )
    begun = time.monotonic()
    assert _failure(bundle, limits) == ("SOFTWARE", "")
    assert time.monotonic() - begun < 75


def test_a_bundle_changed_after_it_was_loaded_is_not_run(tmp_path: Path) -> None:
    bundle = _bundle(tmp_path, "pass")
    (bundle.directory / "scripts" / "evil.py").write_text("# other code\n")
    with pytest.raises(BundleError, match="changed"):
        _run(bundle)
    with pytest.raises(BundleError, match="another hash"):
        run_foreign(
            bundle, np.zeros((4, 6, 5), np.float32), np.eye(4), trust_code="0" * 64, limits=LIMITS
        )


def test_a_bundle_declared_otherwise_after_it_was_loaded_is_not_run(tmp_path: Path) -> None:
    bundle = _bundle(tmp_path, "pass")
    declared = bundle.directory / "configs" / "imaging_node.json"
    declared.write_text(declared.read_text().replace("dense", "loose"))
    manifest = bundle.directory / "manifest.json"
    listed = json.loads(manifest.read_text())
    listed["files"]["configs/imaging_node.json"] = sha256_of(declared)
    manifest.write_text(json.dumps(listed))
    assert load_foreign(bundle.directory).trust_hash == bundle.trust_hash
    with pytest.raises(BundleError, match="changed"):
        _run(bundle)


def test_scores_come_from_a_network_in_scripts_and_loaders_are_never_made(tmp_path: Path) -> None:
    source = density_like(tmp_path / "density")
    trust_code = read_foreign_files(source).trust_hash
    bundle = install_foreign(source, tmp_path / "zoo", trust_code=trust_code).bundle
    image = np.tile(np.linspace(0, 255, 40, dtype=np.float32), (1, 30, 1))
    output = run_foreign(bundle, image, np.eye(4), trust_code=trust_code, limits=LIMITS)
    # The mean of the scaled image is 0.5 in each of three channels; weights are tenths.
    logits = 0.5 * np.array([0.0 + 0.1 + 0.2, 0.3 + 0.4 + 0.5, 0.6 + 0.7 + 0.8])
    assert output.scores == pytest.approx(1 / (1 + np.exp(-logits)), abs=0.01)
    assert output.masks is None
