"""Starts one decoder as scoring would, to find out whether this machine lets it."""

from __future__ import annotations

from imaging_node.dicom.decoder import Decoder
from imaging_node.dicom.decoding_budget import DecodingBudget
from imaging_node.dicom.forking import ForkServer
from imaging_node.domain.errors import TemporaryError


def try_decoder(*, memory_limit_bytes: int) -> None:
    """Start a decoder up to where it would take a file, and end it.

    What keeps it from starting is printed on standard error by the process that failed.

    Raises:
        TemporaryError: It did not start, or not as confined as it must be on this machine.
    """
    budget = DecodingBudget()
    try:
        server = ForkServer(memory_limit_bytes=memory_limit_bytes, budget=budget)
    except OSError as error:
        raise TemporaryError("No decoder process can be started", is_counted=False) from error
    try:
        Decoder(server, frame_limit_samples=budget.frame_samples).kill()
    finally:
        server.close()
