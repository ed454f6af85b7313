"""What no model can score ends as a status to the sender or as a visible state, never as normal."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING

import pytest
from pydicom import dcmread
from pydicom.uid import UID, SecondaryCaptureImageStorage
from pynetdicom import AE
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import encode

from imaging_node.dicom.phantom import DEMO_STUDIES
from tests.integration.answers import await_answers
from tests.integration.films import film, send, study_uid

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pydicom.dataset import Dataset

    from imaging_node.demonstration.local_node import LocalNode


def no_pixels(dataset: Dataset) -> None:
    del dataset.PixelData


def zero_size(dataset: Dataset) -> None:
    dataset.Rows = 0
    dataset.PixelData = b""


def tiny(dataset: Dataset) -> None:
    dataset.Rows = dataset.Columns = 8
    dataset.PixelData = b"\0" * 128


def two_frames(dataset: Dataset) -> None:
    dataset.NumberOfFrames = 2
    dataset.PixelData = dataset.PixelData * 2


def truncated(dataset: Dataset) -> None:
    dataset.PixelData = dataset.PixelData[:100]


def another_body_part(dataset: Dataset) -> None:
    dataset.BodyPartExamined = "HAND"


def lateral(dataset: Dataset) -> None:
    dataset.ViewPosition = "LL"


def adult(dataset: Dataset) -> None:
    dataset.PatientAge = "061Y"


def blank(dataset: Dataset) -> None:
    dataset.PixelData = b"\0" * len(dataset.PixelData)


def for_processing(dataset: Dataset) -> None:
    dataset.PresentationIntentType = "FOR PROCESSING"
    dataset.SOPClassUID = UID("1.2.840.10008.5.1.4.1.1.1.1.1")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (no_pixels, "no pixel data"),
        (zero_size, "no pixel data"),
        (tiny, "image too small"),
        (two_frames, "several frames where one is expected"),
        (truncated, "undecodable pixels"),
        (another_body_part, "another body part"),
        (lateral, "not a frontal view"),
        (adult, "age outside the model's range"),
        (blank, "blank image"),
        (for_processing, "kind of image not accepted by the model"),
    ],
)
def test_a_film_that_cannot_be_analysed_gets_a_not_analysed_report_and_no_absent(
    node: LocalNode, tmp_path: Path, change: Callable[[Dataset], None], reason: str
) -> None:
    payload = film(change=change)
    assert send(node, tmp_path, payload).stored == 1
    uid = study_uid(payload)

    row = await_answers(node, [uid])[uid]

    assert row["state"] == "not_analysed"
    assert reason in row["reason"]
    [stored] = [each for each in node.pacs.stored if each.study_instance_uid == uid]
    report = dcmread(BytesIO(stored.payload))
    assert (report.SeriesNumber, report.CompletionFlag) == (9000, "PARTIAL")
    text = report.to_json()
    assert '"111245"' in text  # no algorithms succeeded
    assert '"272519000"' not in text  # Absent
    assert '"52101004"' not in text  # Present


def ct(dataset: Dataset) -> None:
    dataset.Modality = "CT"
    dataset.SOPClassUID = UID("1.2.840.10008.5.1.4.1.1.2")


def mammogram(dataset: Dataset) -> None:
    dataset.Modality = "MG"
    dataset.SOPClassUID = UID("1.2.840.10008.5.1.4.1.1.1.2")


@pytest.mark.parametrize("change", [ct, mammogram])
def test_a_study_no_model_is_meant_for_is_visible_and_gets_no_report(
    node: LocalNode, tmp_path: Path, change: Callable[[Dataset], None]
) -> None:
    payload = film(change=change)
    send(node, tmp_path, payload)
    uid = study_uid(payload)

    row = await_answers(node, [uid])[uid]

    assert row["state"] == "not_applicable"
    assert row["reason"]
    assert not [each for each in node.pacs.stored if each.study_instance_uid == uid]


def test_a_chest_film_wrapped_as_secondary_capture_is_meant_for_the_model(
    node: LocalNode, tmp_path: Path
) -> None:
    def wrap(dataset: Dataset) -> None:
        dataset.SOPClassUID = SecondaryCaptureImageStorage

    payload = film(change=wrap)
    send(node, tmp_path, payload)

    assert await_answers(node, [study_uid(payload)])[study_uid(payload)]["state"] == "done"


@pytest.mark.parametrize(
    "absent",
    ["PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime",
     "StudyID", "AccessionNumber", "BodyPartExamined", "ViewPosition", "PatientAge"],
)  # fmt: skip
def test_a_missing_attribute_does_not_keep_a_film_from_its_answer(
    node: LocalNode, tmp_path: Path, absent: str
) -> None:
    def remove(dataset: Dataset) -> None:
        if absent in dataset:
            del dataset[absent]
        if absent == "PatientAge":
            del dataset.PatientBirthDate

    payload = film(change=remove)
    send(node, tmp_path, payload)

    assert await_answers(node, [study_uid(payload)])[study_uid(payload)]["state"] == "done"


@pytest.mark.parametrize(
    ("character_set", "name"),
    [
        ("ISO_IR 192", "Wang^XiaoDong=王^小东"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        ("ISO_IR 100", "Äneas^Rüdiger"),
        ("ISO_IR 144", "\u0418\u0432\u0430\u043d\u043e\u0432^\u0418\u0432\u0430\u043d"),
    ],
)
def test_a_name_in_any_character_set_comes_back_as_it_was_sent(
    node: LocalNode, tmp_path: Path, character_set: str, name: str
) -> None:
    def rename(dataset: Dataset) -> None:
        dataset.SpecificCharacterSet = character_set
        dataset.PatientName = name

    payload = film(change=rename)
    send(node, tmp_path, payload)
    uid = study_uid(payload)
    await_answers(node, [uid])

    answers = [each for each in node.pacs.stored if each.study_instance_uid == uid]
    assert answers
    for stored in answers:
        assert str(dcmread(BytesIO(stored.payload)).PatientName) == name


@pytest.mark.parametrize("phantom", [each for each in DEMO_STUDIES if each.encoding != "plain"])
def test_compressed_films_are_decoded_or_end_as_undecodable(
    node: LocalNode, tmp_path: Path, phantom: object
) -> None:
    payload = phantom.part_10(run="compressed")  # type: ignore[attr-defined]  # a PhantomStudy
    send(node, tmp_path, payload)

    row = await_answers(node, [study_uid(payload)])[study_uid(payload)]

    damaged = "damaged" in phantom.encoding  # type: ignore[attr-defined]  # a PhantomStudy
    assert row["state"] == ("not_analysed" if damaged else "done")


def store_raw(node: LocalNode, instance_uid: str, dataset: bytes, sop_class_uid: str) -> int:
    """C-STORE with a command of our own making, whatever the dataset says."""
    entity = AE(ae_title="HOSTILE")
    entity.add_requested_context(sop_class_uid, "1.2.840.10008.1.2.1")
    dicom = node.settings.dicom
    association = entity.associate("127.0.0.1", dicom.port, ae_title=dicom.ae_title)
    assert association.is_established
    request = C_STORE()
    request.MessageID = 1
    request.AffectedSOPClassUID = sop_class_uid
    request._affected_sop_instance_uid = UID(instance_uid)  # the setter refuses what we send
    request.Priority = 2
    request.DataSet = BytesIO(dataset)
    association._reactor_checkpoint.clear()
    association.dimse.send_msg(request, 1)
    _, answer = association.dimse.get_msg(block=True)
    association._reactor_checkpoint.set()
    association.abort()
    assert isinstance(answer, C_STORE)
    assert answer.Status is not None
    return answer.Status


DX = "1.2.840.10008.5.1.4.1.1.1.1"


def encoded(payload: bytes) -> bytes:
    dataset = dcmread(BytesIO(payload))
    body = encode(dataset, is_implicit_vr=False, is_little_endian=True)
    assert body is not None
    return body


@pytest.mark.parametrize("uid", ["../../etc/passwd", "1.2.3\n4", "1.2.abc"])
def test_what_is_no_uid_is_refused_before_it_is_used(node: LocalNode, uid: str) -> None:
    assert store_raw(node, uid, encoded(film()), DX) == 0x0117


def test_a_dataset_that_is_not_the_commands_is_refused(node: LocalNode) -> None:
    assert store_raw(node, "1.2.3.4", encoded(film()), DX) == 0xA900


def test_a_dataset_that_cannot_be_parsed_is_refused(node: LocalNode) -> None:
    assert store_raw(node, "1.2.3.4", b"\x08\x00\x05\x00ZZ\xff\xff garbage", DX) in {
        0xC000,
        0xA900,
    }


def test_a_study_uid_with_a_path_in_it_is_refused(node: LocalNode) -> None:
    def point_elsewhere(dataset: Dataset) -> None:
        dataset.add_new(0x0020000D, "LO", "../../x")

    payload = film(change=point_elsewhere)
    instance = str(dcmread(BytesIO(payload)).SOPInstanceUID)

    assert store_raw(node, instance, encoded(payload), DX) == 0xC000


def test_another_patients_film_in_a_known_study_is_refused(node: LocalNode, tmp_path: Path) -> None:
    first = film("shared-study")

    def of_someone_else(dataset: Dataset) -> None:
        dataset.SOPInstanceUID = f"{dataset.SOPInstanceUID}.2"[:64]
        dataset.PatientID = "SOMEONE-ELSE"

    assert send(node, tmp_path, first).stored == 1
    assert send(node, tmp_path, film("shared-study", of_someone_else)).refused == ["C010"]
