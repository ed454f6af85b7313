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

from imaging_node.dicom.codecs import choose_codecs
from imaging_node.dicom.confinement import end_with, leave_network
from imaging_node.dicom.decoder_process import serve
from imaging_node.dicom.decoding_budget import DecodingBudget

if TYPE_CHECKING:
    from collections.abc import Mapping

PROCESS_TITLE: Final = "imaging-node: decoders"
READY: Final = b"ready"
FORK: Final = b"fork"
PID_BYTES: Final = 4


def main(
    *, parent_pid: int, control: int, memory_limit_bytes: int, budget: Mapping[str, int]
) -> None:
    """Fork a decoder for each request until the parent ends.

    Args:
        control: Descriptor of a socket: a request brings one end of the new decoder's own
            socket, the answer is its process id and a descriptor of it.
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
        pid = os.fork()
        if pid == 0:
            requests.close()
            _become_decoder(
                descriptors[0],
                parent_pid=own_pid,
                memory_limit_bytes=memory_limit_bytes,
                budget=allowed,
            )
        os.close(descriptors[0])
        process = os.pidfd_open(pid)
        socket.send_fds(requests, [pid.to_bytes(PID_BYTES, "little")], [process])
        os.close(process)


def _become_decoder(
    link: int, *, parent_pid: int, memory_limit_bytes: int, budget: DecodingBudget
) -> None:
    """Never return, whatever happens; what is printed goes nowhere once an image can be seen."""
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        serve(
            socket.socket(fileno=link),
            parent_pid=parent_pid,
            memory_limit_bytes=memory_limit_bytes,
            budget=budget,
        )
    except BaseException:  # noqa: BLE001 - the top of the process, and codecs panic with any kind
        traceback.print_exc()
    finally:
        os._exit(1)
