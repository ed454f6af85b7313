"""The process that decoders are forked from: it has imported every codec and touches no image.

A decoder that died costs a fork of some milliseconds instead of the half second of its imports.
It has one thread and never another, so that a fork copies all there is of it.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import traceback
from typing import TYPE_CHECKING, Final

from setproctitle import setproctitle

from imaging_node.confinement import end_with, leave_network
from imaging_node.dicom.codecs import choose_codecs
from imaging_node.dicom.decoder_process import serve
from imaging_node.dicom.decoding_budget import DecodingBudget

if TYPE_CHECKING:
    from collections.abc import Mapping

PROCESS_TITLE: Final = "imaging-node: decoders"
READY: Final = b"ready"
FORK: Final = b"fork"
FAILED: Final = b"failed"
PID_BYTES: Final = 4


def main(
    *, parent_pid: int, control: int, memory_limit_bytes: int, budget: Mapping[str, int]
) -> None:
    """Fork a decoder for each request until the parent ends.

    Args:
        control: Descriptor of a socket: a request brings one end of the new decoder's own
            socket, the answer is its process id and a descriptor of it, or `FAILED`.
        memory_limit_bytes: What a decode may allocate above the imports.
        budget: Fields of `DecodingBudget`.
    """
    setproctitle(PROCESS_TITLE)
    end_with(parent_pid)
    allowed = DecodingBudget(**budget)
    choose_codecs()
    leave_network()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel buries the dead
    gc.collect()
    gc.freeze()  # what is here stays shared with every decoder
    own_pid = os.getpid()
    requests = socket.socket(fileno=control)
    requests.send(READY)
    while True:
        message, descriptors, _, _ = socket.recv_fds(requests, len(FORK), 1)
        if message != FORK:
            return
        try:
            pid = os.fork()
        except OSError:
            # No process or memory is left for now: that ends none of those that are there.
            traceback.print_exc()
            _close_all(descriptors)
            requests.send(FAILED)
            continue
        if pid == 0:
            requests.close()
            _become_decoder(
                descriptors,
                parent_pid=own_pid,
                memory_limit_bytes=memory_limit_bytes,
                budget=allowed,
            )
        _close_all(descriptors)
        _answer(requests, pid)


def _answer(requests: socket.socket, pid: int) -> None:
    """Hand over a descriptor of the new process; without one it ends when its socket closes."""
    try:
        process = os.pidfd_open(pid)
    except OSError:
        # It ended at once, or no descriptor is left for now.
        traceback.print_exc()
        requests.send(FAILED)
        return
    try:
        socket.send_fds(requests, [pid.to_bytes(PID_BYTES, "little")], [process])
    finally:
        os.close(process)


def _close_all(descriptors: list[int]) -> None:
    for each in descriptors:
        os.close(each)


def _become_decoder(
    descriptors: list[int], *, parent_pid: int, memory_limit_bytes: int, budget: DecodingBudget
) -> None:
    """Never return, whatever happens; what is printed goes nowhere once an image can be seen."""
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        serve(
            socket.socket(fileno=descriptors[0]),
            parent_pid=parent_pid,
            memory_limit_bytes=memory_limit_bytes,
            budget=budget,
        )
    except BaseException:  # noqa: BLE001 - the top of the process, and codecs panic with any kind
        traceback.print_exc()
    finally:
        os._exit(1)
