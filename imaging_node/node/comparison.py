"""Wire `models compare`: two bundles, and the studies of some days or of an archive."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from imaging_node.domain.comparison import ModelComparison, compare
from imaging_node.domain.errors import UnknownRecordError
from imaging_node.flow.comparing import Kept, compare_cohort, kept_scores, read_labels
from imaging_node.flow.reprocessing import scan_archive
from imaging_node.inference.foreign_bundle import is_foreign
from imaging_node.node.installed import find_bundle, installed_bundles
from imaging_node.node.models import ModelLoader
from imaging_node.node.scoring_room import open_decoders, site_rules
from imaging_node.node.wiring import now, open_state
from imaging_node.store.cohort import list_cohort
from imaging_node.store.database import open_database
from imaging_node.store.spool import Spool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from imaging_node.settings import Settings
    from imaging_node.store.cohort import CohortStudy
    from imaging_node.store.database import Database

    Progress = Callable[..., AbstractContextManager[Callable[[], None]]]


def compare_models(
    settings: Settings,
    bundles: tuple[str, str],
    *,
    files: Sequence[Path],
    days: float,
    labels: Path | None,
    progress: Progress,
) -> ModelComparison:
    """Compare two installed bundles, whatever their states; nothing is recorded or sent.

    Args:
        files: Of an archive; none: the node's own studies.
        days: How far back those go.
        labels: CSV of final labels, for the AUROC.

    Raises:
        BundleError: A bundle is refused.
        UnknownRecordError: There is no such bundle, or it is a foreign one.
        OperatorError: The labels cannot be read.
    """
    known = read_labels(labels) if labels else {}
    installed = installed_bundles(settings)
    places = [find_bundle(installed, each) for each in bundles]
    for place in places:
        if is_foreign(place.directory):
            raise UnknownRecordError(
                f"cannot compare {place.bundle}: it is a foreign bundle, which gives no calibrated"
                " scores and calls nothing; look at its segmentations in shadow instead"
            )
    with _studies(settings, files, days, progress) as (database, spool, cohort, kept):
        loader = ModelLoader(settings)
        decoder = open_decoders(settings)
        try:
            first, second = (loader.load(place) for place in places)
            with progress("comparing", total=len(cohort)) as advance:
                compared = compare_cohort(
                    cohort,
                    (first, second),
                    database=database,
                    spool=spool,
                    decoder=decoder,
                    kept=kept,
                    site_rules=site_rules(settings),
                    now=now(),
                    advance=advance,
                )
        finally:
            decoder.close()
            loader.close()
    return compare(compared, known)


@contextmanager
def _studies(
    settings: Settings, files: Sequence[Path], days: float, progress: Progress
) -> Iterator[tuple[Database, Spool, list[CohortStudy], Kept]]:
    if not files:
        database, spool, _ = open_state(settings)
        since = now() - timedelta(days=days)
        yield (
            database,
            spool,
            list_cohort(database, since=since),
            kept_scores(database, since=since),
        )
        database.close()
        return
    with tempfile.TemporaryDirectory(prefix="imaging-node-") as folder:
        # Headers only: the files stay where they lie.
        database = open_database(f"sqlite:///{Path(folder) / 'node.sqlite'}")
        with progress("reading", total=len(files)) as advance:
            scan_archive(files, database, clock=now, advance=advance)
        yield database, Spool(Path(folder) / "spool", min_free_bytes=0), list_cohort(database), {}
        database.close()
