"""The socket that all receivers of a node accept from."""

from __future__ import annotations

import socket

from imaging_node.domain.errors import StorageError

_BACKLOG = 256


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens on `host` and `port`.

    Raises:
        StorageError: The port cannot be bound.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(_BACKLOG)
    except OSError as error:
        listening.close()
        raise StorageError(
            f"cannot listen for DICOM on {host}:{port} ({error.strerror});"
            " free the port or change dicom.port"
        ) from error
    return listening
