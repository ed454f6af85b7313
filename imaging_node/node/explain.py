"""The `explain` command's composition: a process of its own, in the lowest lane of the machine."""

from __future__ import annotations

import os
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
    from imaging_node.domain.explanation import ExplanationMethod
    from imaging_node.flow.explaining import ExplainedFinding
    from imaging_node.inference.bundle import Bundle
    from imaging_node.settings import Settings

# What the node scores comes first: an explanation costs a hundred scores.
_NICENESS = 15


def explain_study(
    settings: Settings, study: str, label: str, method: ExplanationMethod
) -> ExplainedFinding:
    """Explain one finding of a study that this node scored.

    Args:
        settings: The node's.
        study: Study Instance UID, or the token that stands in the log and on the page.
        label: Of the finding.

    Raises:
        BundleError: The bundle cannot be explained by Captum.
        UnknownRecordError: There is no such study, finding or answer, or the bundle that
            answered is gone.
    """
    os.nice(_NICENESS)
    database, spool, pseudonyms = open_state(settings)
    try:
        uid = find_study(database, pseudonyms, study) or study
        rows = list_worklist(database, pseudonyms, now=now(), study_instance_uid=uid)
        scores = {score.label: score for row in rows for score in row.findings}
        if label not in scores:
            known = ", ".join(sorted(scores)) or "none"
            raise UnknownRecordError(f"no finding {label!r} of this study; there are: {known}")
        bundle = _bundle_that_answered(settings, answering_digests(database, uid), label)
        decoder = open_decoders(settings)
        try:
            return explain_finding(
                uid,
                scores[label],
                method,
                bundle=bundle,
                database=database,
                spool=spool,
                decoder=decoder,
            )
        finally:
            decoder.close()
    finally:
        database.close()


def _bundle_that_answered(settings: Settings, digests: set[str], label: str) -> Bundle:
    """The bundle behind a study's report, whatever its state is by now."""
    trusted = trusted_keys(settings.model_keys)
    for place in installed_bundles(settings).values():
        try:
            bundle = load_bundle(place.directory, trusted)
        except BundleError:
            continue  # it draws nothing; `models list` shows its fault
        is_it = bundle.identity.digest in digests
        if is_it and label in {finding.label for finding in bundle.findings}:
            return bundle
    raise UnknownRecordError(
        f"the bundle that answered with {label!r} is not installed any more, or is damaged;"
        " score the study again to explain its new answer"
    )
