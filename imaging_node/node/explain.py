"""The `explain` command's composition: a process of its own, in the lowest lane of the machine."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

from imaging_node.domain.errors import BundleError, UnknownRecordError
from imaging_node.flow.explaining import explain_finding
from imaging_node.inference.bundle import load_bundle
from imaging_node.inference.trust import trusted_keys
from imaging_node.node.installed import installed_bundles
from imaging_node.node.scoring_room import open_decoders
from imaging_node.node.wiring import now, open_state
from imaging_node.store.cohort import answering_digests
from imaging_node.store.listings import find_study, list_worklist

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imaging_node.domain.explanation import ExplanationMethod
    from imaging_node.domain.finding import FindingScore
    from imaging_node.flow.explaining import ExplainedFinding
    from imaging_node.inference.bundle import Bundle
    from imaging_node.settings import Settings

# What the node scores comes first: an explanation costs a hundred scores.
_NICENESS = 15


def explain_study(
    settings: Settings,
    study: str,
    label: str,
    method: ExplanationMethod,
    *,
    model: str | None = None,
) -> ExplainedFinding:
    """Explain one finding of a study that this node scored.

    Args:
        settings: The node's.
        study: Study Instance UID, or the token that stands in the log and on the page.
        label: Of the finding.
        model: Name of the bundle whose finding is meant; None where only one has it.

    Raises:
        BundleError: The bundle cannot be explained by Captum, or does not give the answer that
            it should explain.
        UnknownRecordError: There is no such study, finding or answer, several models answered,
            or the bundle that answered is gone.
    """
    os.nice(_NICENESS)
    database, spool, pseudonyms = open_state(settings)
    try:
        uid = find_study(database, pseudonyms, study) or study
        rows = list_worklist(database, pseudonyms, now=now(), study_instance_uid=uid)
        score = meant_finding([score for row in rows for score in row.findings], label, model)
        bundle = bundle_that_answered(settings, score, answering_digests(database, uid))
        decoder = open_decoders(settings)
        try:
            return explain_finding(
                uid, score, method, bundle=bundle, database=database, spool=spool, decoder=decoder
            )
        finally:
            decoder.close()
    finally:
        database.close()


def meant_finding(findings: Sequence[FindingScore], label: str, model: str | None) -> FindingScore:
    """The one finding of an answer that somebody means.

    Raises:
        UnknownRecordError: There is none, or more than one.
    """
    of_label = [each for each in findings if each.label == label]
    if not of_label:
        known = ", ".join(sorted({each.label for each in findings})) or "none"
        raise UnknownRecordError(f"no finding {label!r} of this study; there are: {known}")
    # An answer of before 0.4 does not say whose it is.
    meant = [each for each in of_label if model in (None, each.model) or not each.model]
    if len(meant) == 1:
        return replace(meant[0], model=meant[0].model or model or "")
    models = ", ".join(sorted({each.model or "not stated" for each in of_label}))
    if meant:
        raise UnknownRecordError(
            f"several models scored {label!r} of this study ({models}); choose one by --model"
        )
    raise UnknownRecordError(f"{model} did not score {label!r} of this study; there are: {models}")


def bundle_that_answered(settings: Settings, score: FindingScore, digests: set[str]) -> Bundle:
    """The bundle behind a study's finding, whatever its state is by now.

    Args:
        digests: Of all models that answered, for a finding that does not say whose it is.

    Raises:
        UnknownRecordError: It is not installed, or nobody can say which it was.
    """
    trusted = trusted_keys(settings.model_keys)
    wanted = {score.model_digest} if score.model_digest else digests
    found: dict[str, Bundle] = {}
    for place in installed_bundles(settings).values():
        try:
            bundle = load_bundle(place.directory, trusted)
        except BundleError:
            continue  # it draws nothing; `models list` shows its fault
        is_it = bundle.identity.digest in wanted and score.model in ("", bundle.identity.name)
        if is_it and score.label in {finding.label for finding in bundle.findings}:
            found.setdefault(bundle.identity.digest, bundle)
    if not found:
        raise UnknownRecordError(
            f"the bundle that answered with {score.label!r} is not installed any more, or is"
            " damaged; score the study again to explain its new answer"
        )
    if len(found) > 1:
        raise UnknownRecordError(
            f"nobody can say which of several bundles answered with {score.label!r}; score the"
            " study again to explain its new answer"
        )
    return next(iter(found.values()))
