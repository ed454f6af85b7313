"""Certificates that end: the node warns 30 days before and does not start after."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from imaging_node.domain.errors import SettingsError
from imaging_node.node.certificates import (
    NamedCertificate,
    expiring,
    named_certificates,
    require_valid_certificates,
    warn_of_expiry,
)
from imaging_node.node.diagnosis import examine
from imaging_node.settings import Settings
from tests.dicom.certificates import authority, certificate

if TYPE_CHECKING:
    from pathlib import Path

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
END = datetime(2031, 5, 6, 7, 8, 9, tzinfo=UTC)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A node whose own certificate ends before the one it shows its PACS."""
    hospital = authority(tmp_path, "hospital", not_after=END + timedelta(days=700))
    ours = certificate(tmp_path, hospital, "ours", not_after=END)
    there = certificate(tmp_path, hospital, "there", not_after=END + timedelta(days=20))
    return Settings.model_validate(
        {
            "state_directory": tmp_path / "state",
            "spool": {"min_free_bytes": 0},
            "dicom": {"tls": ours.model_dump()},
            "peers": {
                "pacs": {
                    "ae_title": "PACS", "host": "127.0.0.1", "port": 1, "tls": there.model_dump()
                },
                "ris": {"ae_title": "RIS", "host": "127.0.0.1", "port": 1},
            },
        }
    )  # fmt: skip


def named(days: float) -> NamedCertificate:
    return NamedCertificate(setting=f"in {days}", expires_at=NOON + timedelta(days=days))


def test_what_ends_within_thirty_days_is_warned_of_the_first_end_first() -> None:
    known = [named(400), named(29.9), named(30), named(-3), named(1)]

    assert expiring(known, NOON) == [named(-3), named(1), named(29.9)]


def test_every_certificate_of_the_settings_is_known_by_its_setting(settings: Settings) -> None:
    assert {each.setting: each.expires_at for each in named_certificates(settings)} == {
        "dicom.tls.certificate": END,
        "dicom.tls.ca": END + timedelta(days=700),
        "peers.pacs.tls.certificate": END + timedelta(days=20),
        "peers.pacs.tls.ca": END + timedelta(days=700),
    }


@pytest.mark.parametrize(
    ("before", "warned"),
    [
        (timedelta(days=31), []),
        (timedelta(days=29), ["dicom.tls.certificate"]),
        (timedelta(days=5), ["dicom.tls.certificate", "peers.pacs.tls.certificate"]),
    ],
)
def test_the_log_names_the_setting_and_the_day(
    settings: Settings, capsys: pytest.CaptureFixture[str], before: timedelta, warned: list[str]
) -> None:
    warn_of_expiry(settings, END - before)

    said = "".join(capsys.readouterr())
    assert said.count("certificate expires soon") == len(warned)
    assert all(f"{each} expires on 2031-05-" in said for each in warned)


def test_a_node_starts_until_its_first_certificate_ends_and_not_after(settings: Settings) -> None:
    require_valid_certificates(settings, END - timedelta(seconds=1))

    with pytest.raises(SettingsError, match=r"dicom\.tls\.certificate expired on 2031-05-06"):
        require_valid_certificates(settings, END)


def test_a_certificate_that_cannot_be_read_is_a_refusal_a_warning_and_a_fault(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    tls = settings.peers["pacs"].tls
    assert tls is not None
    tls.key.unlink()

    with pytest.raises(SettingsError, match=r"peers\.pacs\.tls\.key"):
        require_valid_certificates(settings, NOON)
    warn_of_expiry(settings, NOON)
    assert "peers.pacs.tls.key" in "".join(capsys.readouterr())
    [seen] = [each for each in examine(settings) if each.what == "certificates"]
    assert seen.is_fault


def test_doctor_tells_until_when_every_certificate_serves(settings: Settings) -> None:
    seen = {each.what: each for each in examine(settings)}

    assert seen["dicom.tls.certificate"].found == "expires on 2031-05-06"
    assert seen["dicom.tls.certificate"].is_sound
