"""The accept loop: whatever happens to one connection, the next one is taken."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.dicom.listening import (
    VERIFICATION,
    RawPeer,
    Seen,
    data_pdu,
    echo_command,
    listening,
    value,
)

if TYPE_CHECKING:
    from pathlib import Path

    from imaging_node.dicom.negotiation import Caller

LITTLE = "1.2.840.10008.1.2.1"


class Unwritable(list["tuple[Caller, str]"]):
    """A list that nothing can be added to."""

    def append(self, _: object) -> None:
        raise RuntimeError("a defect of ours")


def test_a_defect_met_while_turning_a_caller_away_does_not_end_the_listener(
    tmp_path: Path,
) -> None:
    seen = Seen(refused=Unwritable())
    with listening(tmp_path, seen, max_associations=1) as running:
        with RawPeer(running.port) as first:
            assert first.associate([(VERIFICATION, LITTLE)])[0] == 2
            with RawPeer(running.port) as second:
                assert second.pdu() == b""
            first.send(data_pdu(value(echo_command(), is_command=True)))
            assert first.status() == 0x0000
            first.send(b"\x05\0\0\0\0\4\0\0\0\0")
            assert first.pdu()[0] == 6
        running.listener.await_end(10)
        with RawPeer(running.port) as third:
            assert third.associate([(VERIFICATION, LITTLE)])[0] == 2

    assert seen.counters.snapshot()["thread_failures_total"] == 1
