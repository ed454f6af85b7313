"""Score studies with two models, or take what is kept of them, for a comparison."""

from __future__ import annotations

import csv
import math
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from imaging_node.domain.comparison import ComparedStudy, ModelView
from imaging_node.domain.errors import IntegrityError, OperatorError, TemporaryError
from imaging_node.domain.finding import AnalysisStatus
from imaging_node.domain.priority import triage
from imaging_node.flow.analysis import ConfiguredModel, Effort, analyse
from imaging_node.inference.lanes import ARCHIVE
from imaging_node.store.arrivals import read_study
from imaging_node.store.shadow_results import list_shadow_results

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from imaging_node.dicom.decoding import DecodingPool
    from imaging_node.domain.finding import FindingScore
    from imaging_node.domain.priority import TriageRule
    from imaging_node.store.cohort import CohortStudy
    from imaging_node.store.database import Database
    from imaging_node.store.spool import Spool

_LABEL_COLUMNS = ("study_instance_uid", "finding", "present")
_THREADS = 4

Kept = dict[tuple[str, int, str, str, str], tuple["FindingScore", ...]]
"""Findings by study, generation, version, model digest and settings digest.

Two versions with the same networks may take other images: their answers are their own.
"""


def kept_scores(database: Database, *, since: datetime) -> Kept:
    """What models in shadow, and the models beside them, said since then.

    A failure is no answer: such a study is scored again.
    """
    return {
        (
            each.study_instance_uid, each.generation, each.version, each.model_digest,
            each.settings_digest,
        ): each.findings
        for each in list_shadow_results(database, since=since)
        if each.status is not AnalysisStatus.NOT_ANALYSED
    }  # fmt: skip


def compare_cohort(
    cohort: Sequence[CohortStudy],
    models: tuple[ConfiguredModel, ConfiguredModel],
    *,
    database: Database,
    spool: Spool,
    decoder: DecodingPool,
    kept: Kept,
    site_rules: tuple[TriageRule, ...],
    now: datetime,
    advance: Callable[[], None],
) -> list[ComparedStudy]:
    """Both models' views of every study; what is kept is not scored again.

    A study that cannot be read, or that one model cannot score, has an empty view.
    """

    def view(study: CohortStudy, model: ConfiguredModel) -> ModelView:
        identity = model.bundle.identity
        key = (
            study.study_instance_uid, study.generation, identity.version, identity.digest,
            model.settings_digest,
        )  # fmt: skip
        findings = kept.get(key)
        if findings is None:
            findings = _score(study, model, database, spool, decoder, now)
        rules = (*model.bundle.triage_rules, *site_rules)
        return ModelView(
            findings={each.label: each for each in findings},
            priority=triage(study.ordered_priority, findings, rules).priority,
        )

    def compared(study: CohortStudy) -> ComparedStudy:
        first, second = (view(study, model) for model in models)
        advance()
        return ComparedStudy(
            study_instance_uid=study.study_instance_uid,
            patient=study.patient_digest or study.study_instance_uid,
            first=first,
            second=second,
        )

    with ThreadPoolExecutor(_THREADS) as threads:
        return list(threads.map(compared, cohort))


def _score(
    study: CohortStudy,
    model: ConfiguredModel,
    database: Database,
    spool: Spool,
    decoder: DecodingPool,
    now: datetime,
) -> tuple[FindingScore, ...]:
    effort = Effort(lane=ARCHIVE, deadline_s=math.inf, owner="compare")
    try:
        instances = read_study(database, spool, study.study_instance_uid)
        answer = analyse(instances, model, decoder, effort=effort, started_at=now)
    except (IntegrityError, TemporaryError):
        # The other studies are compared all the same.
        return ()
    if answer is None:
        return ()
    return tuple(each for each in answer.result.findings if each.probability is not None)


def read_labels(path: Path) -> Mapping[tuple[str, str], bool]:
    """Final labels: CSV with the columns `study_instance_uid`, `finding`, `present` (0 or 1).

    Returns:
        By Study Instance UID and finding.

    Raises:
        OperatorError: It cannot be read as such; the message quotes nothing of it.
    """
    labels: dict[tuple[str, str], bool] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restkey="", strict=True)
            if not set(_LABEL_COLUMNS) <= set(reader.fieldnames or ()):
                raise OperatorError(
                    f"cannot read the labels: the first line must name {', '.join(_LABEL_COLUMNS)}"
                )
            for row in reader:
                uid, finding, present = ((row.get(each) or "").strip() for each in _LABEL_COLUMNS)
                if present not in ("0", "1"):
                    raise OperatorError(
                        f"cannot read the labels: line {reader.line_num}: present must be 0 or 1"
                    )
                labels[uid, finding] = present == "1"
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise OperatorError("cannot read the labels: name a readable CSV file in UTF-8") from error
    return labels
