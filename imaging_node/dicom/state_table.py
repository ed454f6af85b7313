"""The state table of the upper layer's acceptor side, PS3.8 9.2."""

from __future__ import annotations

from enum import Enum, IntEnum, auto
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


class State(Enum):
    """States of PS3.8 table 9-10 that an acceptor waits in; its answers are immediate."""

    AWAITING_REQUEST = "Sta2"
    DATA_TRANSFER = "Sta6"
    AWAITING_CLOSE = "Sta13"
    CLOSED = "Sta1"


class Received(IntEnum):
    """What arrived: PDU types, and what is none."""

    ASSOCIATE_RQ = 0x01
    ASSOCIATE_AC = 0x02
    ASSOCIATE_RJ = 0x03
    P_DATA = 0x04
    RELEASE_RQ = 0x05
    RELEASE_RP = 0x06
    ABORT = 0x07
    UNRECOGNISED = 0x100
    INVALID = 0x101
    CONNECTION_CLOSED = 0x102
    TIMER_EXPIRED = 0x103


class Action(Enum):
    """Actions of PS3.8 9.2.2, by their names there."""

    AE_6 = auto()
    DT_2 = auto()
    AR_2 = auto()
    AR_5 = auto()
    AA_1 = auto()
    AA_2 = auto()
    AA_3 = auto()
    AA_4 = auto()
    AA_5 = auto()
    AA_6 = auto()
    AA_7 = auto()
    AA_8 = auto()


def _row(default: Action, exceptions: Mapping[Received, Action]) -> dict[Received, Action]:
    return {event: exceptions.get(event, default) for event in Received}


# PS3.8 table 9-10, columns Sta2, Sta6 and Sta13.
STATE_TABLE: Mapping[State, Mapping[Received, Action]] = MappingProxyType(
    {
        State.AWAITING_REQUEST: _row(
            Action.AA_1,
            {
                Received.ASSOCIATE_RQ: Action.AE_6,
                Received.ABORT: Action.AA_2,
                Received.CONNECTION_CLOSED: Action.AA_5,
                Received.TIMER_EXPIRED: Action.AA_2,
            },
        ),
        State.DATA_TRANSFER: _row(
            Action.AA_8,
            {
                Received.P_DATA: Action.DT_2,
                Received.RELEASE_RQ: Action.AR_2,
                Received.ABORT: Action.AA_3,
                Received.CONNECTION_CLOSED: Action.AA_4,
            },
        ),
        State.AWAITING_CLOSE: _row(
            Action.AA_6,
            {
                Received.ASSOCIATE_RQ: Action.AA_7,
                Received.UNRECOGNISED: Action.AA_7,
                Received.INVALID: Action.AA_7,
                Received.ABORT: Action.AA_2,
                Received.CONNECTION_CLOSED: Action.AR_5,
                Received.TIMER_EXPIRED: Action.AA_2,
            },
        ),
    }
)
