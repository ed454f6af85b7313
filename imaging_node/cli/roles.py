"""`serve`, and each role alone."""

from __future__ import annotations

import typer

from imaging_node.cli.options import (
    ConfigOption,
    DeviceOption,
    ListeningDescriptorOption,
    ReceiverNameOption,
    ScorerNameOption,
    SupervisorOption,
)
from imaging_node.settings import load_settings


def serve(config: ConfigOption = None) -> None:
    """Run the whole node: listener, scorer, sender and worklist page.

    Prints one line when it is ready. SIGTERM or Ctrl-C drains it: running work is finished,
    nothing acknowledged is lost.
    """
    from imaging_node.node.serve import Node

    settings = load_settings(config)
    raise typer.Exit(Node(settings, config).run(lambda line: print(line, flush=True)))  # noqa: T201 - the ready line


def receive(
    config: ConfigOption = None,
    supervisor_pid: SupervisorOption = None,
    name: ReceiverNameOption = "receive",
    listening_descriptor: ListeningDescriptorOption = None,
) -> None:
    """Run the DICOM listener alone: C-ECHO, C-STORE and storage commitment."""
    from imaging_node.node.receive import run_receive

    raise typer.Exit(
        run_receive(
            load_settings(config),
            supervisor_pid=supervisor_pid,
            name=name,
            listening_descriptor=listening_descriptor,
        )
    )


def score(
    config: ConfigOption = None,
    supervisor_pid: SupervisorOption = None,
    name: ScorerNameOption = "score",
    device: DeviceOption = None,
) -> None:
    """Run the scorer alone: it takes complete studies from the state directory."""
    from imaging_node.node.score import run_score

    run_score(load_settings(config), supervisor_pid=supervisor_pid, name=name, device_id=device)


def deliver(config: ConfigOption = None, supervisor_pid: SupervisorOption = None) -> None:
    """Run the sender alone: it sends waiting results to the destinations."""
    from imaging_node.node.deliver import run_deliver

    run_deliver(load_settings(config), supervisor_pid=supervisor_pid)


def web(config: ConfigOption = None, supervisor_pid: SupervisorOption = None) -> None:
    """Run the worklist page alone, with /healthz, /readyz and /metrics."""
    from imaging_node.node.web import run_web

    run_web(load_settings(config), config=config, supervisor_pid=supervisor_pid)
