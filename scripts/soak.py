"""Soak: a node under load whose decoders and scoring role are killed at random moments."""

from __future__ import annotations

import os
import random
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import psutil
import typer
from bench_end_to_end import node_and_pacs
from bench_peers import LOOPBACK, load, require_tools
from pydicom import dcmread
from role_usage import MIB, role_processes, usage_by_role

from imaging_node.dicom.phantom import DEMO_STUDIES, PhantomStudy, phantom_dataset
from imaging_node.dicom.sender import Caller
from imaging_node.domain.lifecycle import DeliveryState, StudyState
from imaging_node.flow.sending import send_files
from imaging_node.node.wiring import now, open_state
from imaging_node.settings import PeerSettings
from imaging_node.store.listings import count_work, list_studies

if TYPE_CHECKING:
    from imaging_node.demonstration.local_node import LocalNode

DECODERS = ("decode", "decoders")
LONGEST_QUIET_S = 600.0
# Of the films that the rate asks for: a sender that died or a node that refused is no soak.
LEAST_SENT = 0.8
# Decoders that are killed twice over one film, or a worker killed four times over one study.
MOST_DECLINED = 0.01
REPORT_EVERY_S = 120.0


@dataclass(frozen=True, slots=True)
class Sent:
    """A film that the node acknowledged."""

    study: PhantomStudy
    study_instance_uid: str
    patient_id: str


class Films:
    """Owns the thread that sends a film each so many seconds, every kind in turn.

    Attributes:
        sent: Films that were acknowledged.
    """

    def __init__(self, node: LocalNode, folder: Path, per_s: float) -> None:
        self._node = node
        self._folder = folder
        self._pause_s = 1 / per_s
        self._pictures = [each.picture() for each in DEMO_STUDIES]
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._send, daemon=True)
        self.sent: list[Sent] = []

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def stop(self) -> None:
        """Return when the film under way was answered."""
        self._is_over.set()
        self._thread.join()

    def _send(self) -> None:
        dicom = self._node.settings.dicom
        listener = PeerSettings(ae_title=dicom.ae_title, host=LOOPBACK, port=dicom.port)
        caller = Caller(ae_title="SOAK", timeout_s=60)
        number, next_at = 0, time.monotonic()
        while not self._is_over.wait(max(0.0, next_at - time.monotonic())):
            next_at += self._pause_s
            index = number % len(DEMO_STUDIES)
            study = DEMO_STUDIES[index]
            dataset = phantom_dataset(
                study, run=f"{time.time_ns()}-{number}", picture=self._pictures[index]
            )
            number += 1
            path = self._folder / "film.dcm"
            dataset.save_as(path, enforce_file_format=True)
            outcome = send_files([path], listener, caller, advance=lambda: None)
            if outcome.stored == 1:
                self.sent.append(Sent(study, str(dataset.StudyInstanceUID), str(dataset.PatientID)))


def soak(
    minutes: Annotated[float, typer.Option(help="How long to send.")] = 30,
    per_s: Annotated[float, typer.Option(help="Films a second.")] = 4,
    seed: Annotated[int, typer.Option(help="Of the moments of kills.")] = 0,
    decoder_kill_s: Annotated[
        float, typer.Option(help="Longest pause between kills of a decoder.")
    ] = 4,
    score_kill_s: Annotated[
        float, typer.Option(help="Longest pause between kills of the scoring role.")
    ] = 60,
) -> None:
    """Send films, kill decoders and the scoring role, and count who got no answer."""
    require_tools("storescp")
    typer.echo(f"load before: {load()}, {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory(prefix="imaging-node-soak-") as name:
        folder = Path(name)
        with node_and_pacs(folder, quiet_period_s=0.5) as (node, pacs):
            films = Films(node, folder, per_s)
            films.start()
            kills = kill_at_random(
                node, minutes * 60, seed, decoder_kill_s=decoder_kill_s, score_kill_s=score_kill_s
            )
            films.stop()
            await_quiet(node)
            tell_usage(node)
            failures = check(node, pacs, films.sent)
            if len(films.sent) < LEAST_SENT * per_s * minutes * 60:
                failures.append(f"only {len(films.sent)} films were sent")
            if not kills["decode"] or not kills["score"]:
                failures.append("nothing was killed")
    killed = ", ".join(f"{count} of {role}" for role, count in sorted(kills.items()))
    typer.echo(f"killed: {killed}")
    typer.echo(f"load after: {load()}")
    if failures:
        raise SystemExit("; ".join(failures))


def kill_at_random(
    node: LocalNode, seconds: float, seed: int, *, decoder_kill_s: float, score_kill_s: float
) -> Counter[str]:
    """Kill until the time is over; returns how many of each role."""
    chance = random.Random(seed)  # noqa: S311 - moments of kills, reproducible on purpose
    kills: Counter[str] = Counter()
    longest_s = {"decoder": decoder_kill_s, "score": score_kill_s}
    began = time.monotonic()
    due_s = {what: chance.uniform(0, longest) for what, longest in longest_s.items()}
    report_s = 0.0
    while (elapsed_s := time.monotonic() - began) < seconds:
        if elapsed_s >= report_s:
            report_s += REPORT_EVERY_S
            tell_usage(node)
        for what, longest in longest_s.items():
            if elapsed_s >= due_s[what]:
                due_s[what] = elapsed_s + chance.uniform(0, longest)
                roles = DECODERS if what == "decoder" else (what,)
                alive = [each for each in role_processes(node.process.pid) if each[0] in roles]
                if alive:
                    role, process = chance.choice(alive)
                    kill(process)
                    kills[role] += 1
        time.sleep(0.05)
    return kills


def kill(process: psutil.Process) -> None:
    """As a failing machine or the kernel's memory killer would."""
    try:
        process.kill()
    except psutil.NoSuchProcess:
        return


def await_quiet(node: LocalNode) -> None:
    """Wait until every study has ended and every result is delivered."""
    database, _, _ = open_state(node.settings)
    deadline = time.monotonic() + LONGEST_QUIET_S
    while time.monotonic() < deadline:
        counts = count_work(database, now=now())
        ended = sum(counts.studies.get(each, 0) for each in StudyState if each.is_final)
        if ended == sum(counts.studies.values()) and not counts.deliveries.get(
            DeliveryState.WAITING
        ):
            break
        time.sleep(0.5)
    database.close()


def tell_usage(node: LocalNode) -> None:
    """One line on what the roles hold."""
    usage = usage_by_role(node.process.pid)
    cells = ", ".join(
        f"{role} {each.memory_bytes / MIB:.0f}/{each.descriptors}/{each.threads}"
        for role, each in sorted(usage.items())
    )
    typer.echo(f"{time.strftime('%H:%M:%S')} MiB/descriptors/threads: {cells}")


def check(node: LocalNode, pacs: Path, sent: list[Sent]) -> list[str]:
    """What was promised and not kept: an SR at the PACS for each film, and the right ending."""
    reports = [
        dcmread(path, specific_tags=["StudyInstanceUID", "PatientID"]) for path in pacs.glob("SR*")
    ]
    answered = Counter(str(each.StudyInstanceUID) for each in reports)
    patients = {str(each.StudyInstanceUID): str(each.PatientID) for each in reports}
    database, _, _ = open_state(node.settings)
    states = {each.study_instance_uid: each.state for each in list_studies(database, now=now())}
    database.close()
    unanswered = [each for each in sent if each.study_instance_uid not in answered]
    endings = Counter(f"{each.study.name}: {states.get(each.study_instance_uid)}" for each in sent)
    typer.echo(f"films acknowledged: {len(sent)}, without an SR at the PACS: {len(unanswered)}")
    for ending, count in sorted(endings.items()):
        typer.echo(f"  {ending}: {count}")
    failures = [f"{len(unanswered)} films got no answer"] if unanswered else []
    doubled = sum(count > 1 for count in answered.values())
    if doubled:
        failures.append(f"{doubled} studies have several reports")
    strangers = [each for each in sent if patients.get(each.study_instance_uid) != each.patient_id]
    if len(strangers) > len(unanswered):
        failures.append("a report names another patient than its film")
    declined = [
        each
        for each in sent
        if each.study.part == "chest frontal"
        and each.study.encoding != "damaged jpeg"
        and states.get(each.study_instance_uid) is not StudyState.DONE
    ]
    scored = [
        each
        for each in sent
        if (each.study.part != "chest frontal" or each.study.encoding == "damaged jpeg")
        and states.get(each.study_instance_uid) is StudyState.DONE
    ]
    typer.echo(f"films for the model that were declined all the same: {len(declined)}")
    if len(declined) > MOST_DECLINED * len(sent):
        failures.append(f"{len(declined)} good films were declined")
    if scored:
        failures.append(f"{len(scored)} films were scored that must not be")
    return failures


if __name__ == "__main__":
    typer.run(soak)
