"""Who is dead, and what a second node is told."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from imaging_node.domain.errors import StorageError
from imaging_node.node.serve import require_free_port
from imaging_node.node.wiring import is_dead, worker_name


def test_this_process_is_alive_and_an_ended_one_is_dead() -> None:
    mine = worker_name("score")
    host, _pid, began = mine.rsplit(":", 2)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()

    assert not is_dead(mine)
    assert is_dead(f"{host}:{ended.pid}:{began}")


def test_a_process_id_used_again_is_not_mistaken_for_the_dead_worker() -> None:
    host, pid, _ = worker_name("score").rsplit(":", 2)

    assert is_dead(f"{host}:{pid}:1.0")


def test_nothing_is_concluded_about_another_host() -> None:
    assert not is_dead("score@elsewhere:1:1.0")


def test_a_port_in_use_is_named_with_its_setting() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(StorageError, match=rf"port {port}.*dicom\.port"):
            require_free_port("127.0.0.1", port, "dicom.port")
    require_free_port("127.0.0.1", port, "dicom.port")
