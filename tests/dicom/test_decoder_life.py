"""What happens to decoder processes, and what that costs images and the node."""

from __future__ import annotations

import errno
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import psutil
import pytest
from pydicom.uid import JPEG2000Lossless

from imaging_node.dicom.decoder import Decoder, DecoderEndedError, DecoderReadingError, Request
from imaging_node.dicom.decoding import DecodingPool
from imaging_node.domain.errors import IntegrityError, NotAnalysedError, TemporaryError
from imaging_node.domain.finding import NotAnalysedReason
from tests.dicom.synthetic_sources import radiograph, write

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
MEBIBYTE = 2**20


@contextmanager
def opened(*, memory_mib: int = 512, time_limit_s: float = 10) -> Iterator[DecodingPool]:
    pool = DecodingPool(
        processes=1, memory_limit_bytes=memory_mib * MEBIBYTE, time_limit_s=time_limit_s
    )
    try:
        yield pool
    finally:
        pool.close()


@pytest.fixture
def film(tmp_path: Path) -> Path:
    return write(radiograph(), tmp_path / "plain.dcm")


@pytest.fixture
def heavy_film(tmp_path: Path) -> Path:
    """A film whose decompression takes seconds, and hundreds of megabytes."""
    data = radiograph(rows=1500, columns=1500)
    data.compress(JPEG2000Lossless, generate_instance_uid=False)
    data.save_as(tmp_path / "heavy.dcm", enforce_file_format=True)
    return tmp_path / "heavy.dcm"


def _pid(pool: DecodingPool) -> int:
    (decoder,) = pool._all
    return decoder.process.pid


def _refusal(pool: DecodingPool, path: Path) -> NotAnalysedReason:
    with pytest.raises(NotAnalysedError) as caught:
        pool.decode(path, "1.2.3")
    return caught.value.reason


def _is_gone(pid: int) -> bool:
    until = time.monotonic() + 5
    while psutil.pid_exists(pid) and time.monotonic() < until:
        time.sleep(0.01)
    return not psutil.pid_exists(pid)


def test_a_decoder_that_hangs_is_killed_and_its_file_decodes_in_another(film: Path) -> None:
    with opened(time_limit_s=4) as pool:
        pool.decode(film, "1.2.3")
        first = _pid(pool)
        os.kill(first, signal.SIGSTOP)
        begun = time.monotonic()
        assert pool.decode(film, "1.2.3").p_values.shape == (64, 48)
        assert time.monotonic() - begun < 4
        assert _is_gone(first)
        assert pool.starts == 2


def test_a_decoder_killed_at_work_costs_no_image(heavy_film: Path) -> None:
    with opened() as pool:
        killing = threading.Thread(target=_kill_first_at_work, args=(pool,))
        killing.start()
        assert pool.decode(heavy_film, "1.2.3").p_values.shape == (1500, 1500)
        killing.join()
        assert pool.starts == 2


def _kill_first_at_work(pool: DecodingPool) -> None:
    until = time.monotonic() + 30
    while not pool._all and time.monotonic() < until:
        time.sleep(0.001)
    os.kill(_pid(pool), signal.SIGKILL)


def test_an_image_over_the_memory_limit_is_tried_twice_and_spoils_no_other(
    heavy_film: Path, film: Path
) -> None:
    with opened(memory_mib=8) as pool:
        assert _refusal(pool, heavy_film) is NotAnalysedReason.UNDECODABLE
        assert pool.starts == 2
        assert pool.decode(film, "1.2.3").p_values.shape == (64, 48)


def test_an_image_over_the_time_limit_is_tried_twice_within_it(heavy_film: Path) -> None:
    with opened(time_limit_s=0.1) as pool:
        begun = time.monotonic()
        pool._fork()  # so that the imports are not counted
        started = time.monotonic()
        assert _refusal(pool, heavy_film) is NotAnalysedReason.UNDECODABLE
        assert time.monotonic() - started < 2
        assert pool.starts == 3
        assert started - begun < 60


def test_a_refusal_is_final_and_the_process_goes_on(film: Path, tmp_path: Path) -> None:
    data = radiograph()
    data.NumberOfFrames = 2
    several = write(data, tmp_path / "several.dcm")
    with opened() as pool:
        assert _refusal(pool, several) is NotAnalysedReason.MULTI_FRAME
        pool.decode(film, "1.2.3")
        assert pool.starts == 1


def test_a_decoder_killed_while_idle_costs_no_image(film: Path) -> None:
    with opened() as pool:
        pool.decode(film, "1.2.3")
        first = _pid(pool)
        os.kill(first, signal.SIGKILL)
        assert _is_gone(first)
        assert pool.decode(film, "1.2.3").p_values.shape == (64, 48)


def test_a_killed_fork_server_costs_no_image(film: Path) -> None:
    with opened() as pool:
        pool.decode(film, "1.2.3")
        server, decoder = pool._server, _pid(pool)
        assert server is not None
        os.kill(server.pid, signal.SIGKILL)
        assert _is_gone(decoder)
        assert pool.decode(film, "1.2.3").p_values.shape == (64, 48)


def test_a_fork_that_fails_ends_no_decoder_at_work(film: Path) -> None:
    with opened() as pool:
        pool.decode(film, "1.2.3")
        first, server = _pid(pool), pool._server
        assert server is not None
        # So many descriptors that it cannot take the new decoder's socket, or open its process.
        _, hard = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (4, hard))
        with pytest.raises(TemporaryError) as caught:
            pool._fork()
        assert not caught.value.is_counted
        assert server.is_alive
        pool.decode(film, "1.2.3")
        assert _pid(pool) == first
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (hard, hard))
        pool._fork()


def test_a_node_without_descriptors_ends_no_decoder_at_work(
    film: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(*_: object) -> None:
        raise OSError(errno.EMFILE, "none left")

    with opened() as pool:
        pool.decode(film, "1.2.3")
        first = _pid(pool)
        with monkeypatch.context() as patching:
            patching.setattr(socket, "socketpair", none_left)
            with pytest.raises(TemporaryError) as caught:
                pool._fork()
        assert not caught.value.is_counted
        pool.decode(film, "1.2.3")
        assert _pid(pool) == first


def test_a_fork_server_that_ends_under_an_image_is_not_held_against_it(film: Path) -> None:
    def end_server(decoder: Decoder, _: Request, *, deadline: float) -> None:
        assert deadline
        os.kill(decoder._server.pid, signal.SIGKILL)
        assert _is_gone(decoder.process.pid)
        raise DecoderEndedError

    with opened() as pool:
        with pytest.raises(TemporaryError) as caught:
            pool._ask(Request(path=film), end_server)
        assert not caught.value.is_counted
        pool.decode(film, "1.2.3")


def test_decoders_outlive_the_thread_that_first_needed_them(film: Path) -> None:
    with opened() as pool:
        thread = threading.Thread(target=pool.decode, args=(film, "1.2.3"))
        thread.start()
        thread.join()
        first = _pid(pool)
        pool.decode(film, "1.2.3")
        assert _pid(pool) == first


def test_a_closed_pool_asks_to_try_later_and_leaves_no_process(film: Path) -> None:
    with opened() as pool:
        pool.decode(film, "1.2.3")
        decoder, server = _pid(pool), pool._server
        assert server is not None
    assert _is_gone(decoder)
    assert _is_gone(server.pid)
    with pytest.raises(TemporaryError):
        pool.decode(film, "1.2.3")


def test_a_killed_node_leaves_no_decoder_behind(film: Path) -> None:
    code = (
        "import pathlib, sys, time\n"
        "from imaging_node.dicom.decoding import DecodingPool\n"
        "pool = DecodingPool(processes=1, memory_limit_bytes=2**29, time_limit_s=10)\n"
        f"pool.decode(pathlib.Path({str(film)!r}), '1.2.3')\n"
        "print('ready', flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=ROOT)
    assert parent.stdout is not None
    assert parent.stdout.readline() == b"ready\n"
    started = psutil.Process(parent.pid).children(recursive=True)
    titles = {each.cmdline()[0] for each in started}
    assert titles == {"imaging-node: decode", "imaging-node: decoders"}
    parent.kill()
    parent.communicate()
    _, alive = psutil.wait_procs(started, timeout=5)
    assert not [each for each in alive if each.status() != psutil.STATUS_ZOMBIE]


def test_pixels_stay_as_they_were_while_anyone_looks_at_them(film: Path, tmp_path: Path) -> None:
    inverse = radiograph()
    inverse.PhotometricInterpretation = "MONOCHROME1"
    other = write(inverse, tmp_path / "inverse.dcm")
    with opened() as pool:
        kept = pool.decode(film, "1.2.3").p_values[:]
        before = kept.copy()
        for _ in range(5):
            pool.decode(other, "1.2.4")
        assert np.array_equal(kept, before)
    assert np.array_equal(kept, before)


def test_thousands_of_images_leave_no_memory_and_no_descriptor_behind(film: Path) -> None:
    own = psutil.Process()
    with opened() as pool:
        for _ in range(200):
            pool.decode(film, "1.2.3")
        descriptors, memory = own.num_fds(), own.memory_info().rss
        for _ in range(2000):
            pool.decode(film, "1.2.3")
        assert own.num_fds() <= descriptors + 4
        assert own.memory_info().rss - memory < 8 * MEBIBYTE


def test_a_whole_series_held_takes_few_descriptors(film: Path) -> None:
    own = psutil.Process()
    with opened() as pool:
        pool.decode(film, "1.2.3")
        before = own.num_fds()
        held = [pool.decode(film, "1.2.3").p_values for _ in range(200)]
        assert own.num_fds() - before < 30
        assert all(np.array_equal(each, held[0]) for each in held)


def test_a_file_that_cannot_be_read_is_tried_again_and_not_held_against_its_image(
    film: Path, tmp_path: Path
) -> None:
    # Its first page can be read by nobody: EIO, in the decoder as in the node.
    (tmp_path / "unreadable.dcm").symlink_to("/proc/self/mem")
    with opened() as pool:
        for ask in (lambda path: pool.decode(path, "1.2.3"), pool.count_frames):
            with pytest.raises(TemporaryError, match="check the disk") as caught:
                ask(tmp_path / "unreadable.dcm")
            assert not caught.value.is_counted
        pool.decode(film, "1.2.3")


def test_a_page_that_cannot_be_read_is_not_held_against_the_image_whose_decoders_it_ends(
    tmp_path: Path,
) -> None:
    def end(decoder: Decoder, _: Request, *, deadline: float) -> None:
        assert deadline
        os.kill(decoder.process.pid, signal.SIGBUS)
        raise DecoderEndedError

    (tmp_path / "unreadable.dcm").symlink_to("/proc/self/mem")
    with opened() as pool:
        with pytest.raises(TemporaryError) as caught:
            pool._ask(Request(path=tmp_path / "unreadable.dcm"), end)
        assert not caught.value.is_counted


def test_a_decoder_without_descriptors_costs_no_image(film: Path) -> None:
    with opened() as pool:
        pool.decode(film, "1.2.3")
        first = _pid(pool)
        _, hard = resource.prlimit(first, resource.RLIMIT_NOFILE)
        resource.prlimit(first, resource.RLIMIT_NOFILE, (3, hard))
        assert pool.decode(film, "1.2.3").p_values.shape == (64, 48)
        assert _pid(pool) != first


def test_decoders_that_cannot_read_what_the_node_can_do_not_try_for_ever(film: Path) -> None:
    def say_so(_: Decoder, __: Request, *, deadline: float) -> None:
        assert deadline
        raise DecoderReadingError

    with opened() as pool:
        with pytest.raises(TemporaryError) as caught:
            pool._ask(Request(path=film), say_so)
        assert caught.value.is_counted


def test_a_file_that_goes_while_it_is_decoded_is_told_to_be_gone(film: Path) -> None:
    def decode_too_late(decoder: Decoder, request: Request, *, deadline: float) -> float:
        film.unlink(missing_ok=True)
        return decoder.decode(request, deadline=deadline)[1]

    with opened() as pool, pytest.raises(IntegrityError):
        pool._ask(Request(path=film), decode_too_late)
