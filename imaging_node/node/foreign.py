"""Wire `foreign`: one bundle of the MONAI zoo on the files of one study, without a PACS."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from imaging_node.dicom.decoding import DecodingPool
from imaging_node.dicom.file_format import split_part10
from imaging_node.dicom.headers import read_header
from imaging_node.domain.errors import RejectedInstanceError, StorageError, UnknownRecordError
from imaging_node.domain.foreign_result import ForeignResult
from imaging_node.domain.result_object import ResultContext
from imaging_node.domain.study import Study
from imaging_node.flow.foreign_analysis import ForeignModel, analyse_foreign
from imaging_node.flow.foreign_answering import foreign_objects
from imaging_node.inference.foreign_bundle import install_foreign, is_foreign, load_foreign
from imaging_node.node.wiring import node_identity, now
from imaging_node.store.content_digest import digest_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from imaging_node.domain.study import ImageInstance
    from imaging_node.inference.foreign_bundle import ForeignBundle
    from imaging_node.inference.foreign_declaration import SiteChoices
    from imaging_node.inference.foreign_runner import ForeignLimits
    from imaging_node.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignRun:
    """What `run_on_files` did.

    Attributes:
        files: Written result objects, the report last.
        skipped: Files that are no DICOM images of others.
    """

    result: ForeignResult
    files: tuple[Path, ...]
    skipped: int


def run_on_files(
    directory: Path,
    files: Sequence[Path],
    out: Path,
    settings: Settings,
    *,
    trust_code: str | None,
    site: SiteChoices,
    limits: ForeignLimits,
    explain: Callable[[str], None],
) -> ForeignRun:
    """Have a bundle answer for the files of one study, and write its result objects to `out`.

    Args:
        directory: A bundle as its author made it, or an installed one.
        site: What the site says of a bundle that is not installed.
        explain: Told what the bundle's own code said when it failed.

    Raises:
        BundleError: The bundle is not one that was trusted, or not one that can be run.
        UnknownRecordError: The files are of no study, of several, or of none that it is for.
        StorageError: `out` cannot be written.
    """
    with _bundle(directory, trust_code, site) as bundle:
        study, skipped = _read_study(files)
        model = ForeignModel(bundle=bundle, trust_code=trust_code or "", limits=limits)
        started_at = now()
        decoder = DecodingPool(
            processes=settings.scoring.decoders,
            memory_limit_bytes=settings.scoring.decoder_memory_mib * 1024 * 1024,
            time_limit_s=settings.scoring.decode_limit_s,
        )
        try:
            answer = analyse_foreign(study, model, decoder, started_at=started_at, explain=explain)
        finally:
            decoder.close()
    if answer is None:
        wanted = ", ".join(bundle.declaration.modalities)
        raise UnknownRecordError(f"the bundle is for {wanted}, of which the study has no image")
    context = ResultContext(
        node=node_identity(settings),
        source_sop_instance_uids=tuple(each.sop_instance_uid for each in study.instances),
        settings_digest=model.settings_digest,
        revision=0,
        predecessor=None,
        series_started_at=lambda _series_instance_uid: started_at,
    )
    written = []
    try:
        out.mkdir(parents=True, exist_ok=True)
        for each in foreign_objects(answer, context):
            path = out / f"{each.kind}.dcm"
            path.write_bytes(each.payload)
            written.append(path)
    except OSError as error:
        raise StorageError(
            f"cannot write to {out} ({error.strerror}); name a folder that you may write"
        ) from error
    return ForeignRun(result=answer.result, files=tuple(written), skipped=skipped)


@contextmanager
def _bundle(directory: Path, trust_code: str | None, site: SiteChoices) -> Iterator[ForeignBundle]:
    """An installed bundle, or one that is installed for as long as it is needed."""
    if is_foreign(directory):
        yield load_foreign(directory)
        return
    with tempfile.TemporaryDirectory(prefix="imaging-node-foreign-") as folder:
        yield install_foreign(
            directory.absolute(), Path(folder), trust_code=trust_code, site=site
        ).bundle


def _read_study(files: Sequence[Path]) -> tuple[Study, int]:
    images: dict[str, ImageInstance] = {}
    patients: set[str] = set()
    skipped = 0
    for path in files:
        try:
            payload = path.read_bytes()
            transfer_syntax_uid, dataset = split_part10(payload)
            header = read_header(dataset, transfer_syntax_uid=transfer_syntax_uid)
        except (RejectedInstanceError, OSError):
            skipped += 1
            continue
        if header.is_own_result:
            skipped += 1
            continue
        patients.add(header.patient_digest)
        images[header.image.sop_instance_uid] = replace(
            header.image, path=path.absolute(), digest=digest_of(payload)
        )
    studies = {each.study_instance_uid for each in images.values()}
    if len(studies) != 1 or len(patients) != 1:
        raise UnknownRecordError(
            f"the files belong to {len(studies)} studies of {len(patients)} patients;"
            " name those of one study"
        )
    return Study(study_instance_uid=studies.pop(), instances=tuple(images.values())), skipped
