"""Events and counts come from closed lists."""

from __future__ import annotations

import io
import json
import warnings
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import structlog

from imaging_node.telemetry import (
    Counters,
    Event,
    Metric,
    Pseudonyms,
    configure_logging,
    log,
    read_or_create_key,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    with warnings.catch_warnings():
        configure_logging("test", stream=stream)
        yield stream
    structlog.reset_defaults()


def test_an_event_is_one_json_line(written: io.StringIO) -> None:
    log(Event.STUDY_ENDED, study="abc", state="done", seconds=0.5)

    [line] = written.getvalue().splitlines()
    row = json.loads(line)
    assert (row["event"], row["study"], row["state"]) == ("study ended", "abc", "done")


def test_a_line_goes_out_in_one_call_so_that_roles_never_write_into_each_others() -> None:
    class Unbuffered(io.StringIO):
        def __init__(self) -> None:
            super().__init__()
            self.calls: list[str] = []

        def write(self, text: str) -> int:
            self.calls.append(text)
            return len(text)

    stream = Unbuffered()
    with warnings.catch_warnings():
        configure_logging("test", stream=stream)
        log(Event.STUDY_ENDED, study="abc")
    structlog.reset_defaults()

    [line] = stream.calls
    assert line.endswith("}\n")


def test_an_event_cannot_carry_what_is_not_on_the_list() -> None:
    with pytest.raises(ValueError, match="patient_name"):
        log(Event.STUDY_ENDED, patient_name="X")


def test_a_line_break_in_a_value_does_not_make_a_second_line(written: io.StringIO) -> None:
    log(Event.STUDY_RETRY, reason='a\n{"event": "forged"}')

    assert len(written.getvalue().splitlines()) == 1


def test_a_log_that_cannot_be_written_does_not_stop_the_work() -> None:
    with Path("/dev/full").open("w", encoding="utf-8", buffering=1) as full:
        with warnings.catch_warnings():
            configure_logging("test", stream=full)
            log(Event.STUDY_ENDED, study="abc")
        structlog.reset_defaults()
        with suppress(OSError):
            full.close()  # what is left in its buffer cannot be written either


def test_a_token_is_stable_on_one_node_and_different_on_another(tmp_path: Path) -> None:
    here = Pseudonyms(read_or_create_key(tmp_path / "key"))
    again = Pseudonyms(read_or_create_key(tmp_path / "key"))
    elsewhere = Pseudonyms(read_or_create_key(tmp_path / "other"))

    assert here.token("1.2.3") == again.token("1.2.3") != elsewhere.token("1.2.3")
    assert "1.2.3" not in here.token("1.2.3")
    assert (tmp_path / "key").stat().st_mode & 0o077 == 0


def test_counts_are_kept_by_label() -> None:
    counters = Counters()
    counters.add(Metric.INSTANCES, status="0x0000")
    counters.add(Metric.INSTANCES, status="0x0000")
    counters.add(Metric.INSTANCES, status="0xA700")

    assert counters.snapshot() == {
        'instances_total{status="0x0000"}': 2,
        'instances_total{status="0xA700"}': 1,
    }
