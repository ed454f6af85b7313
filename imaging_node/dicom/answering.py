"""What a peer's response status asks of us: done, try again, or let an operator look."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from imaging_node.dicom.command_set import STATUS
from imaging_node.domain.errors import PeerRefusedError, PeerUnavailableError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imaging_node.dicom.requestor import Message

STATUS_SUCCESS: Final = 0x0000
# PS3.7 C.5: processing failure, and resource limitation; PS3.4 B.2.3: A7xx out of resources.
_STATUS_TEMPORARY: Final = (0x0110, 0x0213, *range(0xA700, 0xA800))


def require_success(answer: Message, *, warnings: Sequence[int] = ()) -> str:
    """The status of a response, as four hexadecimal digits.

    Raises:
        PeerUnavailableError: It says to try later, or there is none.
        PeerRefusedError: Any other failure, known or unknown.
    """
    try:
        status = answer.command.number(STATUS)
    except ValueError:
        raise PeerUnavailableError("the peer answered no status", status="no answer") from None
    text = f"{status:04X}"
    if status == STATUS_SUCCESS or status in warnings:
        return text
    if status in _STATUS_TEMPORARY:
        raise PeerUnavailableError(f"the peer answered {text}: try again later", status=text)
    raise PeerRefusedError(f"the peer refused with {text}; see its log", status=text)
