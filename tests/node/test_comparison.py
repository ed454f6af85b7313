"""Two bundles on the same studies: from kept scores, or from files that nobody answers."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from imaging_node.demonstration.local_node import DRAWN_FILMS_MODELS
from imaging_node.domain.errors import OperatorError
from imaging_node.flow.comparing import read_labels
from imaging_node.node.comparison import compare_models
from imaging_node.settings import Settings
from tests.integration.films import film, study_uid
from tests.integration.other_version import NAME, make_version
from tests.signing import write_test_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

BUNDLE = f"{NAME}@9.0.0"


@contextmanager
def silent(_: str, *, total: int) -> Iterator[Callable[[], None]]:  # noqa: ARG001 - a progress bar's
    yield lambda: None


def test_files_are_scored_by_both_and_nothing_is_recorded(tmp_path: Path) -> None:
    zoo = tmp_path / "zoo"
    # Calls nothing present: studies that the shipped one makes urgent stay routine.
    zoo.mkdir()
    make_version(tmp_path / "made", "9.0.0", operating_point=1.0).rename(zoo / BUNDLE)
    make_version(tmp_path / "made", "0.1.0").rename(zoo / NAME)
    settings = Settings.model_validate(
        {
            "state_directory": tmp_path / "state",
            "model_directory": zoo,
            "model_keys": [write_test_key(tmp_path)],
            "models": DRAWN_FILMS_MODELS,
            "scoring": {"provider": "cpu"},
        }
    )
    files, lines = [], ["study_instance_uid,finding,present"]
    for number in range(4):
        payload = film(seed=number)
        files.append(tmp_path / f"{number}.dcm")
        files[-1].write_bytes(payload)
        lines.append(f"{study_uid(payload)},Pneumonia,{number % 2}")
    labels = tmp_path / "labels.csv"
    labels.write_text("\n".join(lines))

    found = compare_models(
        settings, (NAME, BUNDLE), files=files, days=0, labels=labels, progress=silent
    )

    assert (found.both, found.only_first, found.only_second, found.neither) == (4, 0, 0, 0)
    [finding] = found.findings
    assert (finding.mean_shift, finding.newly_present) == (0, 0)
    assert finding.no_longer_present > 0
    assert found.worklist.later == finding.no_longer_present
    assert finding.discrimination is not None
    assert (finding.discrimination.studies, finding.discrimination.difference) == (4, 0)
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(
    "content",
    ["uid,finding,present\n1.2,x,1", "study_instance_uid,finding,present\n1.2,x,yes", "\xff"],
)
def test_labels_that_are_none_are_refused_without_a_word_of_theirs(
    tmp_path: Path, content: str
) -> None:
    path = tmp_path / "labels.csv"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(OperatorError, match="cannot read the labels") as refused:
        read_labels(path)
    assert "1.2" not in str(refused.value)
