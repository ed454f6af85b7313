"""Damaged images through the decoders, as the scorer sends them there."""

from __future__ import annotations

import random
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from abuse.mutation import mutated

from imaging_node.dicom.decoder import DecoderEndedError
from imaging_node.dicom.decoding import DecodingPool
from imaging_node.domain.errors import ImagingNodeError, NotAnalysedError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from decoder_fuzz.seeds import Seed

SLOWEST_S = 10.0
MOST_GROWTH_BYTES = 64 * 2**20
ENDED_TWICE = "undecodable: ended two decoders"

_MEMORY = Path("/dev/shm")  # noqa: S108 - files of our own, in a new folder there
_WARM_UP = 500
_FILE_META_END = 340
_LIKELY_HEADER_BYTES = 200


@dataclass(slots=True)
class Campaign:
    """What became of damaged images.

    Attributes:
        outcomes: How many decoded, and how many were refused, by reason.
        defects: What was neither, by kind and number.
        starts: Decoder processes started.
        slowest_s: Longest time that one image took, with the second try.
        slowest_number: Which one that was.
        grown_bytes: Memory that the process with the pool gained after a warm-up.
        seconds: Of all.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    defects: list[str] = field(default_factory=list)
    starts: int = 0
    slowest_s: float = 0.0
    slowest_number: int = -1
    grown_bytes: int = 0
    seconds: float = 0.0

    @property
    def failures(self) -> list[str]:
        """What breaks the promise; empty if nothing does."""
        broken = list(self.defects)
        if self.slowest_s > SLOWEST_S:
            broken.append(f"number {self.slowest_number} took {self.slowest_s:.1f} s")
        if self.grown_bytes > MOST_GROWTH_BYTES:
            broken.append(f"memory grew by {self.grown_bytes / 2**20:.0f} MiB")
        return broken


def damaged(
    seeds: Sequence[Seed], number: int, *, seed: int, is_damaged: bool = True
) -> tuple[bytes, int | None]:
    """Image `number` of a campaign, always the same, and the frame to ask for."""
    chance = random.Random(f"{seed}/{number}")  # noqa: S311 - repeatable
    source = chance.choice(seeds)
    content, pixels_begin = source.content, source.pixels_begin
    kind = chance.random()
    if kind < 0.35:  # noqa: PLR2004 - a third in the header, as the parser sees it
        begin, end = min(_FILE_META_END, pixels_begin), pixels_begin
    elif kind < 0.6:  # noqa: PLR2004 - a quarter in the codestream's own header
        begin, end = pixels_begin, pixels_begin + _LIKELY_HEADER_BYTES
    elif kind < 0.9:  # noqa: PLR2004 - a third anywhere behind the header
        begin, end = pixels_begin, len(content)
    else:
        begin, end = 0, len(content)
    damage = mutated(content[begin:end], chance) if is_damaged else content[begin:end]
    frame = chance.choice((None, 1, source.frames)) if source.frames > 1 else None
    return content[:begin] + damage + content[end:], frame


def run_campaign(
    seeds: Sequence[Seed],
    numbers: range,
    *,
    seed: int,
    processes: int,
    memory_limit_bytes: int,
    time_limit_s: float,
    seconds: float = float("inf"),
    is_damaged: bool = True,
    tell: Callable[[int, Campaign], None] | None = None,
) -> Campaign:
    """Decode the damaged images of these numbers, or as many of them as `seconds` allow.

    Args:
        seed: Of the whole campaign.
        processes, memory_limit_bytes, time_limit_s: Of the pool.
        is_damaged: False leaves the images whole, to see that they decode.
        tell: Called now and then with how many are done.
    """
    campaign, lock = Campaign(), threading.Lock()
    left = iter(numbers)
    own = psutil.Process()
    begun_s = time.monotonic()
    pool = DecodingPool(
        processes=processes, memory_limit_bytes=memory_limit_bytes, time_limit_s=time_limit_s
    )

    def work(path: Path) -> None:
        base_bytes: int | None = None
        while time.monotonic() - begun_s < seconds:
            with lock:
                number = next(left, None)
                done = campaign.outcomes.total()
                if done == _WARM_UP:
                    base_bytes = own.memory_info().rss
                if base_bytes is not None:
                    grown_bytes = own.memory_info().rss - base_bytes
                    campaign.grown_bytes = max(campaign.grown_bytes, grown_bytes)
                if tell and done and done % 10_000 == 0:
                    tell(done, campaign)
            if number is None:
                return
            content, frame = damaged(seeds, number, seed=seed, is_damaged=is_damaged)
            path.write_bytes(content)
            started_s = time.monotonic()
            outcome = _outcome(pool, path, frame)
            took_s = time.monotonic() - started_s
            with lock:
                campaign.outcomes[outcome] += 1
                if outcome.startswith("defect"):
                    campaign.defects.append(f"{outcome} at number {number} of seed {seed}")
                if took_s > campaign.slowest_s:
                    campaign.slowest_s, campaign.slowest_number = took_s, number

    folder = _MEMORY if _MEMORY.is_dir() else None
    try:
        with (
            tempfile.TemporaryDirectory(prefix="imaging-node-fuzz-", dir=folder) as root,
            ThreadPoolExecutor(processes) as threads,
        ):
            paths = [Path(root, f"{number}.dcm") for number in range(processes)]
            for each in [threads.submit(work, path) for path in paths]:
                each.result()
        campaign.starts = pool.starts
    finally:
        pool.close()
    campaign.seconds = time.monotonic() - begun_s
    return campaign


def _outcome(pool: DecodingPool, path: Path, frame: int | None) -> str:
    try:
        pool.decode(path, "1.2.3", frame=frame)
    except NotAnalysedError as error:
        if isinstance(error.__cause__, DecoderEndedError):
            return ENDED_TWICE
        return f"refused: {error.reason.name.lower().replace('_', ' ')}"
    except ImagingNodeError as error:
        return f"defect: {type(error).__name__}"
    except Exception as error:  # noqa: BLE001 - whatever else comes is what is looked for
        return f"defect: {type(error).__name__}"
    return "decoded"
