"""Damaged images of every transfer syntax end decoders, and nothing else."""

from __future__ import annotations

import pytest
from decoder_fuzz.campaign import run_campaign
from decoder_fuzz.seeds import synthetic_seeds

from imaging_node.dicom.transfer_syntaxes import TRANSFER_SYNTAXES
from imaging_node.settings import Settings


def test_the_seeds_cover_every_transfer_syntax_that_is_accepted() -> None:
    contents = [seed.content[:400] for seed in synthetic_seeds()]
    for syntax in TRANSFER_SYNTAXES:
        named = syntax.encode() + b"\0" * (len(syntax) % 2) + b"\x02"
        assert any(named in content for content in contents), syntax


def test_undamaged_seeds_decode() -> None:
    scoring = Settings().scoring
    whole = run_campaign(
        synthetic_seeds(),
        range(100),
        seed=1,
        processes=1,
        memory_limit_bytes=scoring.decoder_memory_mib * 2**20,
        time_limit_s=scoring.decode_limit_s,
        is_damaged=False,
    )
    assert set(whole.outcomes) == {"decoded", "refused: multi frame"}


@pytest.mark.slow
def test_no_damaged_image_costs_more_than_a_decoder() -> None:
    scoring = Settings().scoring
    campaign = run_campaign(
        synthetic_seeds(),
        range(20_000),
        seed=20261124,
        processes=2,
        memory_limit_bytes=scoring.decoder_memory_mib * 2**20,
        time_limit_s=scoring.decode_limit_s,
        seconds=150,
    )
    assert campaign.failures == []
    assert campaign.outcomes.total() >= 1000
    # Damage must reach the decoders, or nothing is shown.
    assert campaign.outcomes["decoded"] > 0
    assert campaign.outcomes["refused: undecodable"] > 0
    assert campaign.starts > 2
