"""What the benchmark compares the node with: the same job, put together from tutorials.

Stock pynetdicom receives and writes a file; one thread takes one study at a time through pydicom,
torch as it comes, Captum's Grad-CAM, highdicom and an association of its own to the PACS. It keeps
no queue, fsyncs nothing and, like the node, draws a capture for a finding called present only.
"""

from __future__ import annotations

import logging
import queue
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import highdicom as hd
import numpy as np
import torch
from monai.bundle.config_parser import ConfigParser
from pydicom import dcmread
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid
from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.dimse_primitives import C_STORE

from imaging_node.inference.bundle import Bundle, default_bundle_directory, load_bundle
from imaging_node.inference.captum_check import captum_map, load_weights

if TYPE_CHECKING:
    import numpy.typing as npt
    from pydicom.dataset import Dataset
    from pynetdicom.events import Event
    from torch import nn

REPORT = "1.2.840.10008.5.1.4.1.1.88.34"


class NaiveModel:
    """The members of the bundle in torch."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        parser = ConfigParser()
        parser.read_config(str(bundle.directory / "configs/inference.json"))
        self.networks: list[nn.Module] = []
        for name, member in zip(("network_def", "second_network_def"), bundle.members, strict=True):
            network = parser.get_parsed_content(name)
            load_weights(network, member.model)
            self.networks.append(network)

    def score(self, image: npt.NDArray[np.float32]) -> float:
        """Calibrated probability of the first finding for an image of shape (1, rows, columns)."""
        with torch.no_grad():
            batch = torch.from_numpy(image[np.newaxis])
            logits = [float(network(batch)[0][0, 0]) for network in self.networks]
        weights = [member.weight for member in self.bundle.members]
        return self.bundle.findings[0].calibration.probability(float(np.dot(weights, logits)))

    def evidence(
        self, image: npt.NDArray[np.float32], shape: tuple[int, int]
    ) -> npt.NDArray[np.float32]:
        """Mean Grad-CAM of the members, in [0, 1], drawn to `shape`."""
        total = np.zeros(shape, np.float32)
        for network, member in zip(self.networks, self.bundle.members, strict=True):
            drawn = captum_map(network, member, image, finding=0)
            larger = torch.nn.functional.interpolate(
                torch.from_numpy(drawn)[None, None], size=shape, mode="bilinear"
            )
            total += larger[0, 0].numpy()
        clipped: npt.NDArray[np.float32] = np.clip(total / max(float(total.max()), 1e-6), 0, 1)
        return clipped


def prepared(dataset: Dataset, bundle: Bundle) -> tuple[npt.NDArray[np.float32], ...]:
    """P-Values of an image, and the model's input made from them."""
    values = apply_voi_lut(apply_modality_lut(dataset.pixel_array, dataset), dataset)
    grey = values.astype(np.float32)
    grey = (grey - grey.min()) / max(float(np.ptp(grey)), 1e-6)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        grey = 1 - grey
    rules = bundle.preprocessing
    small = torch.nn.functional.interpolate(
        torch.from_numpy(grey)[None, None], size=(rules.rows, rules.columns), mode="area"
    )[0].numpy()
    low, high = np.percentile(small, (rules.lower_percentile, rules.upper_percentile))
    stretched = np.clip((small - low) / max(float(high - low), 1e-6), 0, 1)
    scaled = (stretched - rules.mean) / rules.standard_deviation
    return grey, scaled.astype(np.float32)


def report(source: Dataset, probability: float, *, is_present: bool) -> Dataset:
    """A Comprehensive 3D SR by TID 1500 with one finding."""
    finding = Code("233604007", "SCT", "Pneumonia")
    presence = codes.SCT.Present if is_present else codes.SCT.Absent
    image = hd.sr.SourceImageForMeasurementGroup.from_source_image(source)
    group = hd.sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(generate_uid(), "Pneumonia"),
        algorithm_id=hd.sr.AlgorithmIdentification("naive", "1"),
        measurements=[
            hd.sr.Measurement(
                codes.DCM.Probability, round(probability, 4), Code("1", "UCUM", "no units")
            )
        ],
        qualitative_evaluations=[hd.sr.QualitativeEvaluation(finding, presence)],
        source_images=[image],
    )
    device = hd.sr.DeviceObserverIdentifyingAttributes(uid=generate_uid(), name="naive")
    content = hd.sr.MeasurementReport(
        observation_context=hd.sr.ObservationContext(
            observer_device_context=hd.sr.ObserverContext(codes.DCM.Device, device)
        ),
        procedure_reported=Code("43468-8", "LN", "XR unspecified body region"),
        imaging_measurements=[group],
        title=codes.DCM.ImagingMeasurementReport,
    )
    return hd.sr.Comprehensive3DSR(
        evidence=[source],
        content=content[0],
        series_instance_uid=generate_uid(),
        series_number=1,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        is_complete=True,
        manufacturer="bench",
        manufacturer_model_name="naive",
        device_serial_number="1",
        software_versions="1",
    )


def capture(
    source: Dataset, grey: npt.NDArray[np.float32], evidence: npt.NDArray[np.float32]
) -> Dataset:
    """A Secondary Capture of the image at its full size, with the evidence in red."""
    rgb = np.repeat(grey[..., np.newaxis], 3, axis=2)
    rgb[..., 0] = np.maximum(rgb[..., 0], evidence)
    rgb[..., 1:] *= 1 - 0.5 * evidence[..., np.newaxis]
    return hd.sc.SCImage.from_ref_dataset(
        ref_dataset=source,
        pixel_array=(rgb * 255).astype(np.uint8),
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=("L", "F"),
        series_instance_uid=generate_uid(),
        series_number=2,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="bench",
        transfer_syntax_uid=ExplicitVRLittleEndian,
    )


def answer(path: Path, model: NaiveModel, pacs_port: int) -> None:
    """Score one received file and send what came of it."""
    source = dcmread(path)
    grey, image = prepared(source, model.bundle)
    probability = model.score(image)
    is_present = probability >= model.bundle.findings[0].operating_point
    made = [report(source, probability, is_present=is_present)]
    if is_present:
        rows, columns = grey.shape
        made.insert(0, capture(source, grey, model.evidence(image, (rows, columns))))
    entity = AE("NAIVE")
    for sop_class_uid in (REPORT, SecondaryCaptureImageStorage):
        entity.add_requested_context(sop_class_uid, ExplicitVRLittleEndian)
    association = entity.associate("127.0.0.1", pacs_port)
    for each in made:
        status = association.send_c_store(each)
        if getattr(status, "Status", None) != 0:
            raise SystemExit("the PACS did not take an object of the naive node")
    association.release()


def main(port: int, folder: Path, pacs_port: int) -> None:
    """Listen until killed; says "ready" once it does."""
    logging.disable(logging.CRITICAL)
    folder.mkdir()
    model = NaiveModel(load_bundle(default_bundle_directory() / "chest_xray_pneumonia"))
    arrived: queue.Queue[Path] = queue.Queue()

    def store(event: Event) -> int:
        request = event.request
        assert isinstance(request, C_STORE)  # EVT_C_STORE
        path = folder / f"{request.AffectedSOPInstanceUID}.dcm"
        path.write_bytes(event.encoded_dataset())
        arrived.put(path)
        return 0x0000

    def work() -> None:
        while True:
            answer(arrived.get(), model, pacs_port)

    threading.Thread(target=work).start()
    entity = AE("NAIVE")
    entity.maximum_pdu_size = 131072
    for context in AllStoragePresentationContexts:
        entity.add_supported_context(str(context.abstract_syntax))
    entity.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, store)])
    print("ready", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
