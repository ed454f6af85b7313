"""Figures about a model are those of the labels, and no more than the labels can tell."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from imaging_node.domain.errors import OperatorError
from imaging_node.domain.watching import FEWEST_SHOWN, LabelledCase, LabelSource, Proportion
from imaging_node.flow.label_import import import_labels
from imaging_node.flow.performance import finding_reports, performance
from imaging_node.store.database import open_database
from imaging_node.store.labels import (
    GivenLabel,
    labelled_cases,
    last_verdicts,
    record_labels,
)
from imaging_node.worklist.wording import FEWER, share
from tests.store.arriving import NOON, arriving, note
from tests.store.observing import observation, see

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from imaging_node.store.database import Database


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = open_database(f"sqlite:///{tmp_path / 'node.sqlite'}")
    yield opened
    opened.close()


def case(
    *, flagged: bool, present: bool, source: LabelSource = LabelSource.CSV, sex: str = "F"
) -> LabelledCase:
    return LabelledCase(
        model="chest", model_digest="d", label="Pneumonia", is_flagged=flagged,
        is_undetermined=False, is_present=present, source=source, sex=sex, age_band="1 to 5",
        view="PA", scanner="ACME DR",
    )  # fmt: skip


def test_final_labels_give_all_four_figures() -> None:
    cases = [
        *[case(flagged=True, present=True)] * 40,
        *[case(flagged=True, present=False)] * 10,
        *[case(flagged=False, present=True)] * 5,
        *[case(flagged=False, present=False)] * 100,
    ]
    figures = performance(cases)
    assert figures.positive_predictive_value == Proportion(40, 50)
    assert figures.sensitivity == Proportion(40, 45)
    assert figures.specificity == Proportion(100, 110)
    assert figures.negative_predictive_value == Proportion(100, 105)


def test_readers_of_flagged_studies_tell_the_predictive_value_only() -> None:
    page = LabelSource.PAGE
    cases = [
        *[case(flagged=True, present=True, source=page)] * 40,
        *[case(flagged=True, present=False, source=page)] * 10,
        *[case(flagged=False, present=False, source=page)] * 3,
    ]
    figures = performance(cases)
    assert figures.positive_predictive_value == Proportion(40, 50)
    assert figures.sensitivity is figures.specificity is figures.negative_predictive_value is None
    final = [*[case(flagged=True, present=True)] * 40]
    assert performance(final).sensitivity is None


def test_few_final_labels_of_studies_that_were_not_flagged_tell_no_sensitivity() -> None:
    flagged = [case(flagged=True, present=True)] * 40
    missed = case(flagged=False, present=True)
    few = performance([*flagged, *[missed] * (FEWEST_SHOWN - 1)])
    assert few.sensitivity is few.specificity is few.negative_predictive_value is None
    assert few.positive_predictive_value == Proportion(40, 40)

    enough = performance([*flagged, *[missed] * FEWEST_SHOWN])
    assert enough.sensitivity == Proportion(40, 70)
    assert enough.negative_predictive_value == Proportion(0, 30)


def test_subgroups_under_thirty_are_hidden_figure_by_figure() -> None:
    cases = [
        *[case(flagged=True, present=True)] * 29,
        *[case(flagged=False, present=False)] * 31,
        *[case(flagged=True, present=True, sex="M")] * 30,
    ]
    [report] = finding_reports(cases)
    of_sex = {each.value: each.performance for each in report.subgroups if each.attribute == "sex"}
    assert share(of_sex["F"].positive_predictive_value, hides_few=True) == FEWER
    assert share(of_sex["F"].specificity, hides_few=True).startswith("1.00 (0.89 to 1.00), 31 of")
    assert share(of_sex["M"].positive_predictive_value, hides_few=True).endswith("30 of 30")
    assert share(report.performance.positive_predictive_value).endswith("59 of 59")


def label(database: Database, study: str, source: LabelSource, *, present: bool) -> int:
    given = GivenLabel(study, "Pneumonia", is_present=present)
    return record_labels(database, [given], source=source, now=NOON)


def test_the_last_click_counts_and_a_final_label_outranks_every_click(
    database: Database,
) -> None:
    see(database, "1.2.3", observation(call="present"))
    assert label(database, "1.2.3", LabelSource.PAGE, present=True) == 1
    assert label(database, "1.2.3", LabelSource.PAGE, present=True) == 0  # no news
    assert label(database, "1.2.3", LabelSource.PAGE, present=False) == 1
    assert [each.is_present for each in labelled_cases(database)] == [False]
    assert last_verdicts(database, "1.2.3") == {"Pneumonia": (False, "")}

    label(database, "1.2.3", LabelSource.CSV, present=True)
    label(database, "1.2.3", LabelSource.PAGE, present=True)
    label(database, "1.2.3", LabelSource.PAGE, present=False)

    [found] = labelled_cases(database)
    assert (found.is_present, found.source) == (True, LabelSource.CSV)


def test_a_study_is_flagged_by_any_image_and_absent_only_if_all_are(database: Database) -> None:
    see(database, "1.2.1", observation(call="absent"), observation(call="present"))
    see(database, "1.2.2", observation(call="absent"), observation(call="undetermined"))
    see(database, "1.2.3", observation(call="absent"))
    for study in ("1.2.1", "1.2.2", "1.2.3"):
        label(database, study, LabelSource.CSV, present=True)

    assert [(each.is_flagged, each.is_undetermined) for each in labelled_cases(database)] == [
        (True, False),
        (False, True),
        (False, False),
    ]


@pytest.fixture
def labelled(database: Database) -> Database:
    for number in (1, 2):
        note(database, arriving(f"1.2.{number}", f"1.2.{number}.1"))
        see(database, f"1.2.{number}", observation(call="present"))
    return database


def test_labels_come_by_uid_or_accession_number_and_twice_they_are_no_news(
    labelled: Database, tmp_path: Path
) -> None:
    file = tmp_path / "labels.csv"
    file.write_text(
        "\ufeffstudy_instance_uid,finding,present,remark\n1.2.1,Pneumonia,1,x\n1.2.2,Pneumonia,0,\n"
    )
    first = import_labels(labelled, file, now=NOON)
    assert (first.lines, first.news, first.faults) == (2, 2, ())
    assert import_labels(labelled, file, now=NOON).news == 0
    assert [each.is_present for each in labelled_cases(labelled)] == [True, False]

    note(labelled, arriving("1.2.9", "1.2.9.1"))
    file.write_text("accession_number,finding,present\nACC1,Pneumonia,1\n")
    assert import_labels(labelled, file, now=NOON).faults == (
        "line 2: 3 studies have this accession number; give the UID",
    )


def test_faults_are_told_by_line_and_never_quote_a_line(labelled: Database, tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    file.write_text(
        "study_instance_uid,accession_number,finding,present\n"
        "1.2.1,,Pneumonia,yes-SECRET\n"
        "9.9.SECRET,,Pneumonia,1\n"
        "1.2.1,,SECRET,1\n"
        ",,Pneumonia,1\n"
        "1.2.2,,Pneumonia,1\n"
    )
    outcome = import_labels(labelled, file, now=NOON)
    assert outcome.news == 1
    assert [each.split(":")[0] for each in outcome.faults] == [
        "line 2", "line 3", "line 4", "line 5",
    ]  # fmt: skip
    assert "SECRET" not in "".join(outcome.faults)


def test_a_uid_and_an_accession_number_of_different_studies_are_a_fault(
    labelled: Database, tmp_path: Path
) -> None:
    note(labelled, replace(arriving("1.2.8", "1.2.8.1"), accession_number="SECRET-8"))
    file = tmp_path / "labels.csv"
    file.write_text(
        "study_instance_uid,accession_number,finding,present\n"
        "1.2.1,SECRET-8,Pneumonia,1\n"
        "1.2.1,SECRET-9,Pneumonia,1\n"
        "1.2.2,ACC1,Pneumonia,1\n"
    )
    outcome = import_labels(labelled, file, now=NOON)
    assert outcome.faults == (
        "line 2: UID and accession number disagree",
        "line 3: UID and accession number disagree",
    )
    assert (outcome.lines, outcome.news) == (1, 1)


def test_lines_that_contradict_each_other_are_faults_and_the_same_line_twice_is_none(
    labelled: Database, tmp_path: Path
) -> None:
    file = tmp_path / "labels.csv"
    file.write_text(
        "study_instance_uid,finding,present\n"
        "1.2.1,Pneumonia,1\n"
        "1.2.9,Pneumonia,1\n"
        "1.2.2,Pneumonia,1\n"
        "1.2.2,Pneumonia,1\n"
        "1.2.1,Pneumonia,0\n"
    )
    for news in (1, 0):
        outcome = import_labels(labelled, file, now=NOON)
        assert outcome.news == news
        assert [each.split(":")[0] for each in outcome.faults] == ["line 2", "line 3", "line 6"]
        assert "opposite" in outcome.faults[0]
        assert "opposite" in outcome.faults[2]
    assert [each.is_present for each in labelled_cases(labelled)] == [True]


def test_a_large_import_lets_others_write_in_between(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[int] = []
    written = sa.event.listens_for(database._engine, "commit")
    written(lambda _: held.append(1))
    monkeypatch.setattr("imaging_node.store.labels._MOST_AT_A_TIME", 40)
    given = [GivenLabel(f"1.2.{number}", "Pneumonia", is_present=True) for number in range(100)]
    given.append(GivenLabel("1.2.0", "Pneumonia", is_present=False))

    assert record_labels(database, given, source=LabelSource.CSV, now=NOON) == 101
    assert len(held) == 3
    assert record_labels(database, given[1:], source=LabelSource.CSV, now=NOON) == 0


@pytest.mark.parametrize(
    "content",
    [
        b"a,b\n1,2\n",
        b"",
        b"study_instance_uid,finding,present\n\xff\xfeSECRET,x,1\n",
        b'study_instance_uid,finding,present\n"SECRET"x,y,1\n',
    ],
)
def test_a_file_of_another_kind_is_refused_whole_and_not_quoted(
    labelled: Database, tmp_path: Path, content: bytes
) -> None:
    file = tmp_path / "labels.csv"
    file.write_bytes(content)
    with pytest.raises(OperatorError, match="cannot read the labels") as refused:
        import_labels(labelled, file, now=NOON)
    assert "SECRET" not in str(refused.value)
    assert labelled_cases(labelled) == []
    with pytest.raises(OperatorError, match="name a readable CSV file"):
        import_labels(labelled, tmp_path / "absent.csv", now=NOON)
