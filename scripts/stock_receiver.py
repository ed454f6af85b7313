"""What most Python receivers are: pynetdicom's own acceptor, each instance written as it came."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # made at run time

if TYPE_CHECKING:
    from pynetdicom.events import Event

_MAXIMUM_PDU_BYTES = 131072


def main(port: int, folder: Path, ae_title: str) -> None:
    """Listen until killed; nothing is fsynced and nothing is noted in a database."""
    logging.disable(logging.CRITICAL)
    folder.mkdir()

    def store(event: Event) -> int:
        request = event.request
        assert isinstance(request, C_STORE)  # EVT_C_STORE
        path = folder / f"{request.AffectedSOPInstanceUID}.dcm"
        path.write_bytes(event.encoded_dataset())
        return 0x0000

    entity = AE(ae_title)
    entity.maximum_pdu_size = _MAXIMUM_PDU_BYTES
    entity.maximum_associations = 64
    entity.add_supported_context(Verification)
    for context in AllStoragePresentationContexts:
        entity.add_supported_context(str(context.abstract_syntax))
    entity.start_server(("127.0.0.1", port), evt_handlers=[(evt.EVT_C_STORE, store)])


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
