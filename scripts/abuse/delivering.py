"""Faults 9 to 14: destinations that are down, busy, choosy, slow or not who they say."""

from __future__ import annotations

import ssl
import time
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from abuse.fault import Fault
from abuse.ground import Ground, expect, running, wait_until
from abuse.scenes import HONEST_PARTY, as_mapping
from abuse.sending import SUCCESS, await_ended, chest_film, store_alone
from imaging_node.domain.lifecycle import DeliveryState
from imaging_node.telemetry import Event
from tests.dicom.certificates import authority, certificate
from tests.dicom.fault_proxy import Fault as Spoiling
from tests.dicom.fault_proxy import FaultProxy
from tests.dicom.storage_peer import StoragePeer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from imaging_node.domain.records import DeliveryRecord

RETRY_FIRST_S, RETRY_MAX_S, TIMEOUT_S = 0.2, 1.6, 2.0
_SETTLED_S = 1.5
_FILMS = 3
_BUSY = (0xA700, 0x0110, 0x0213)
_REFUSING = (0xA900, 0xC000, 0x0122, 0x0124)
_WARNING = (0xB000, 0xB006, 0xB007)
_SPOILED = {
    "replies eaten": Spoiling(kind="eat replies", after_bytes=1),
    "reset": Spoiling(kind="reset", after_bytes=3000),
    "swallowed": Spoiling(kind="swallow", after_bytes=3000),
    "slow": Spoiling(kind="slow", bytes_per_second=400_000),
}


@contextmanager
def _delivering(
    folder: Path,
    peers: Mapping[str, StoragePeer],
    proxies: Mapping[str, FaultProxy],
    settings: Mapping[str, Mapping[str, Any]],
) -> Iterator[Ground]:
    changes = {
        "study": {"quiet_period_s": 0.5},
        "delivery": {
            "retry_first_s": RETRY_FIRST_S,
            "retry_max_s": RETRY_MAX_S,
            "timeout_s": TIMEOUT_S,
        },
        "peers": settings,
        "destinations": ["pacs", *settings],
    }
    with running(folder, dicom={}, changes=changes, honest=HONEST_PARTY) as ground:
        ground.peers, ground.proxies = peers, proxies
        yield ground


def _named(peers: Mapping[str, StoragePeer]) -> dict[str, dict[str, Any]]:
    return {name: _address(peer.port) for name, peer in peers.items()}


def _address(port: int, **more: object) -> dict[str, Any]:
    return {"ae_title": "PEER", "host": "127.0.0.1", "port": port, **more}


@contextmanager
def choosy_peers(folder: Path) -> Iterator[Ground]:
    """Destinations by the status that they answer, one that is down, one that takes no class."""
    with ExitStack() as opened:
        peers = {
            name: opened.enter_context(StoragePeer())
            for name in (
                "down", "busy", *map(_hex, _REFUSING), *map(_hex, _WARNING)
            )
        }  # fmt: skip
        peers["classless"] = opened.enter_context(StoragePeer(sop_class_uids=["1.2.840.10008.1.1"]))
        with _delivering(folder, peers, {}, _named(peers)) as ground:
            yield ground


@contextmanager
def spoiled_peers(folder: Path) -> Iterator[Ground]:
    """Destinations behind a network that spoils what is said, until it is healed."""
    with ExitStack() as opened:
        peers, proxies = {}, {}
        for name, spoiling in _SPOILED.items():
            key = name.replace(" ", "_")
            peers[key] = opened.enter_context(StoragePeer())
            proxies[key] = opened.enter_context(
                FaultProxy(("127.0.0.1", peers[key].port), spoiling)
            )
            proxies[key].heal()
        settings = {name: _address(proxy.port) for name, proxy in proxies.items()}
        with _delivering(folder, peers, proxies, settings) as ground:
            yield ground


@contextmanager
def expired_peer(folder: Path) -> Iterator[Ground]:
    """A destination whose certificate has ended; the node's own ends in ten days."""
    folder.mkdir(exist_ok=True)
    root = authority(folder, "authority")
    today = datetime.now(UTC)
    theirs = certificate(folder, root, "peer", not_after=today - timedelta(days=1))
    ours = certificate(folder, root, "node", not_after=today + timedelta(days=10))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(theirs.certificate, theirs.key)
    with StoragePeer(tls=context) as peer:
        settings = {"expired": _address(peer.port, tls=as_mapping(ours))}
        with _delivering(folder, {"expired": peer}, {}, settings) as ground:
            yield ground


def _hex(status: int) -> str:
    return f"{status:04x}"


def _answer_films(ground: Ground, count: int = 1) -> list[str]:
    """Have films scored; the UIDs of their studies."""
    studies = []
    for _ in range(count):
        film = chest_film()
        status = store_alone(ground, film)
        expect(status == SUCCESS, f"a film was answered {status:04X}")
        studies.append(film.study_instance_uid)
    for each in studies:
        await_ended(ground, each)
    return studies


def _rows(ground: Ground, destination: str, studies: Sequence[str]) -> list[DeliveryRecord]:
    return [each for each in ground.deliveries(destination) if each.study_instance_uid in studies]


def _await_state(
    ground: Ground,
    destination: str,
    studies: Sequence[str],
    state: DeliveryState,
    *,
    limit_s: float = 30.0,
) -> list[DeliveryRecord]:
    wait_until(
        lambda: (
            (rows := _rows(ground, destination, studies))
            and all(each.state is state for each in rows)
        ),
        limit_s=limit_s,
        what=f"{destination}: every object {state.value}",
    )
    return _rows(ground, destination, studies)


def _expect_one_content(peer: StoragePeer, rows: Sequence[DeliveryRecord], name: str) -> int:
    """Each object of `rows` arrived, however often, always with the same bytes; most arrivals."""
    for each in rows:
        contents = peer.datasets.get(each.sop_instance_uid, [])
        expect(contents, f"{name}: an object never arrived")
        expect(len(set(contents)) == 1, f"{name}: one UID with {len(set(contents))} contents")
    return max(len(peer.datasets[each.sop_instance_uid]) for each in rows)


def _down(ground: Ground) -> str:
    """Down for as long as the longest wait takes many times over: a day would be no other."""
    peer = ground.peers["down"]
    port = peer.port
    peer.close()
    studies = _answer_films(ground, _FILMS)
    outbox = len(_rows(ground, "down", studies))
    time.sleep(8 * RETRY_MAX_S)  # in which the longest wait comes several times
    rows = _rows(ground, "down", studies)
    states = {each.state.value for each in rows}
    expect(states == {"waiting"}, f"objects are {states}")
    attempts = max(each.attempts for each in rows)
    waits_s = _waits_s(ground, "down")
    expect(max(waits_s) <= RETRY_MAX_S + 1, f"a wait of {max(waits_s):.1f} s")
    expect(max(waits_s) > RETRY_MAX_S - 0.1, f"waits grow to {max(waits_s):.1f} s only")
    expect(attempts <= 16, f"{attempts} attempts")  # noqa: PLR2004 - 3 short, 8 long ones
    with StoragePeer(port=port) as back:
        rows = _await_state(ground, "down", studies, DeliveryState.DELIVERED)
        most = _expect_one_content(back, rows, "down")
    expect(most == 1, f"one object arrived {most} times")
    return (
        f"{outbox} objects waited, {attempts} attempts, waits up to {max(waits_s):.1f} s with"
        f" retry_max_s {RETRY_MAX_S}, all delivered once after it was back"
    )


def _waits_s(ground: Ground, destination: str) -> list[float]:
    """Seconds between the attempts for each object, as logged."""
    moments: dict[str, list[datetime]] = {}
    for each in ground.events(Event.DELIVERY_RETRY):
        if each["destination"] == destination:
            moments.setdefault(each["instance"], []).append(
                datetime.fromisoformat(each["timestamp"])
            )
    return [
        (later - earlier).total_seconds()
        for each in moments.values()
        for earlier, later in pairwise(each)
    ]


def _busy(ground: Ground) -> str:
    peer = ground.peers["busy"]
    peer.status = _BUSY[0]
    studies = _answer_films(ground)
    for status in _BUSY:
        peer.status = status
        wait_until(
            lambda status=status: all(  # type: ignore[misc]  # bound now
                each.last_status == f"{status:04X}" for each in _rows(ground, "busy", studies)
            ),
            limit_s=20,
            what=f"{status:04X} is tried again",
        )
    peer.status = SUCCESS
    rows = _await_state(ground, "busy", studies, DeliveryState.DELIVERED)
    most = _expect_one_content(peer, rows, "busy")
    expect(most == 1, f"one object arrived {most} times")
    return f"tried again after A700, 0110 and 0213, then {len(rows)} delivered once each"


def _refusing(ground: Ground) -> str:
    names = [_hex(each) for each in _REFUSING]
    for name, status in zip(names, _REFUSING, strict=True):
        ground.peers[name].status = status
    studies = _answer_films(ground)
    objects = 0
    for name in names:
        rows = _await_state(ground, name, studies, DeliveryState.PARKED)
        objects += len(rows)
        wrong = [each for each in rows if each.attempts != 1 or each.last_status != name.upper()]
        expect(not wrong, f"{name}: {[(each.attempts, each.last_status) for each in wrong]}")
    before = {name: ground.peers[name].associations for name in names}
    time.sleep(_SETTLED_S)  # in which a hot loop would show
    after = {name: ground.peers[name].associations for name in names}
    expect(before == after, "a peer that refused is called again")
    alarms = sum(each["destination"] in names for each in ground.events(Event.DELIVERY_PARKED))
    expect(alarms == objects, f"{alarms} alarms for {objects} objects")
    return f"{objects} objects parked after one attempt each, logged, not called again"


def _warning(ground: Ground) -> str:
    for each in _WARNING:
        ground.peers[_hex(each)].status = each
    studies = _answer_films(ground)
    for each in _WARNING:
        rows = _await_state(ground, _hex(each), studies, DeliveryState.DELIVERED)
        statuses = {row.last_status for row in rows}
        expect(statuses == {f"{each:04X}"}, f"{each:04X} was noted as {statuses}")
    return "delivered, B000, B006 and B007 noted"


def _classless(ground: Ground) -> str:
    studies = _answer_films(ground)
    rows = _await_state(ground, "classless", studies, DeliveryState.PARKED)
    reasons = {each.last_status for each in rows}
    expect(all(reasons) and len(reasons) == 1, f"reasons {reasons}")
    return f"parked: {reasons.pop()}"


def _spoiled(ground: Ground) -> str:
    for name, spoiling in _SPOILED.items():
        ground.proxies[name.replace(" ", "_")].spoil(spoiling)
    studies = _answer_films(ground)
    seen = []
    for name in _SPOILED:
        key = name.replace(" ", "_")
        if name != "slow":
            wait_until(
                lambda key=key: all(  # type: ignore[misc]  # bound now
                    each.attempts for each in _rows(ground, key, studies)
                ),
                limit_s=20,
                what=f"{name}: tried",
            )
            states = {each.state for each in _rows(ground, key, studies)}
            expect(states == {DeliveryState.WAITING}, f"{name}: {states}")
        ground.proxies[key].heal()
        rows = _await_state(ground, key, studies, DeliveryState.DELIVERED)
        most = _expect_one_content(ground.peers[key], rows, name)
        seen.append(f"{name} arrived {most}x")
    return ", ".join(seen) + ", always the same bytes, all delivered"


def _expired(ground: Ground) -> str:
    studies = _answer_films(ground)
    wait_until(
        lambda: all(each.last_status for each in _rows(ground, "expired", studies)),
        limit_s=20,
        what="the peer was called",
    )
    rows = _rows(ground, "expired", studies)
    reasons = {each.last_status for each in rows}
    expect(not ground.peers["expired"].datasets, "something was sent all the same")
    expect(not {each.state for each in rows} & {DeliveryState.DELIVERED}, "it counts as delivered")
    expect(any("certificate" in each.lower() or "tls" in each.lower() for each in reasons),
           f"the reason is {reasons}")  # fmt: skip
    warned = [each["reason"] for each in ground.events(Event.CERTIFICATE_EXPIRES)]
    expect(any("peers.expired.tls.certificate" in each for each in warned), f"warned of {warned}")
    states = sorted({each.state.value for each in rows})
    return f"{', '.join(states)}: {reasons.pop()}; own certificate's end in 10 d is logged"


CHOOSY_FAULTS = (
    Fault(
        number="9",
        what="destination down",
        expected="outbox grows, waits bounded, all delivered once",
        commit=_down,
        is_sampled=False,
    ),
    Fault(
        number="10",
        what="destination A700, 0110, 0213",
        expected="tried again, no duplicates",
        commit=_busy,
        is_sampled=False,
    ),
    Fault(
        number="11",
        what="destination A900, C000, 0122, 0124",
        expected="parked visible, alarm, no hot loop",
        commit=_refusing,
    ),
    Fault(
        number="12",
        what="destination B000, B006, B007",
        expected="delivered, warning noted",
        commit=_warning,
    ),
    Fault(
        number="14a",
        what="destination accepts no context",
        expected="parked with its reason",
        commit=_classless,
    ),
)
SPOILED_FAULTS = (
    Fault(
        number="13",
        what="replies eaten, reset, swallowed, slow network",
        expected="sent again, one UID never with two contents",
        commit=_spoiled,
        is_sampled=False,
    ),
)
EXPIRED_FAULTS = (
    Fault(
        number="14b",
        what="destination's certificate expired",
        expected="nothing sent, reason visible, own end warned of",
        commit=_expired,
        is_sampled=False,
    ),
)
