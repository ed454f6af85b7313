"""What a bundle says of itself: MONAI's metadata, the eligibility, the networks by name."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import monai
import numpy as np
import onnx
import torch

from chest_xray.gate_fitting import MAXIMUM_LOSSY_RATIO
from chest_xray.images import PREPROCESSING
from chest_xray.recipe import shape_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from chest_xray.bundles import BundlePlan

MONAI_SCHEMA = (
    "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/"
    "meta_schema_20240725.json"
)
NETWORKS = {"cnn": "MappedDenseNet", "vit": "MappedTransformer"}


def network_definition(member: str, findings: int) -> dict[str, object]:
    """How MONAI's ConfigParser builds the torch twin of a member."""
    place = "imaging_node.inference.networks"
    shape = shape_of(member, findings, PREPROCESSING.rows)
    return {
        "_target_": f"{place}.{NETWORKS[member]}",
        "shape": {"_target_": f"{place}.{type(shape).__name__}", **asdict(shape)},
    }


def eligibility(plan: BundlePlan) -> dict[str, object]:
    """Frontal chest radiographs of people of the ages that the pair was trained on."""
    return {
        "modalities": ["CR", "DX"],
        "sop_class_uids": [
            "1.2.840.10008.5.1.4.1.1.1",  # Computed Radiography
            "1.2.840.10008.5.1.4.1.1.1.1",  # Digital X-Ray, for presentation
            "1.2.840.10008.5.1.4.1.1.7",  # Secondary Capture
        ],
        "body_parts": [
            "CHEST", "THORAX", "LUNG", "LUNGS", "CHEST PA", "CHEST AP", "CHEST FRONTAL",
            "THORAX AP", "THORAX PA", "CHEST 1 VIEW", "TORAX", "PORT CHEST",
        ],
        "accepts_absent_body_part": True,
        "view_positions": ["PA", "AP"],
        "accepts_absent_view": True,
        "photometric_interpretations": ["MONOCHROME1", "MONOCHROME2"],
        "minimum_age_years": plan.minimum_age_years,
        "maximum_age_years": plan.maximum_age_years,
        "accepts_absent_age": True,
        "minimum_rows": 128,
        "minimum_columns": 128,
        "presentation_intents": ["FOR PRESENTATION"],
        "maximum_images": 4,
        "maximum_lossy_ratio": MAXIMUM_LOSSY_RATIO,
    }  # fmt: skip


def metadata(
    plan: BundlePlan, labels: Sequence[str], declaration: dict[str, object]
) -> dict[str, object]:
    """MONAI's metadata with our key."""
    listed = ", ".join(label.replace("_", " ") for label in labels)
    return {
        "schema": MONAI_SCHEMA,
        "version": plan.version,
        "changelog": {plan.version: plan.changes},
        "monai_version": monai.__version__,
        "pytorch_version": torch.__version__.split("+")[0],
        "numpy_version": np.__version__,
        "required_packages_version": {"onnx": onnx.__version__},
        "name": plan.title,
        "task": f"{listed} on frontal chest radiographs of {plan.people}",
        "description": f"CNN and vision transformer that score {listed} on frontal chest"
        f" radiographs of {plan.people}; research only, not a medical device.",
        "authors": "imaging-node project",
        "copyright": "Copyright the imaging-node project",
        "data_source": plan.data,
        "data_type": "DICOM radiographs as P-Values",
        "image_classes": "single channel, P-Values in [0, 1], percentile-stretched, standardised",
        "label_classes": listed,
        "pred_classes": listed,
        "intended_use": "Research only. Not a medical device. Not for diagnosis.",
        "references": [plan.data],
        "network_data_format": {
            "inputs": {
                "image": {
                    "type": "image",
                    "format": "magnitude",
                    "modality": "XR",
                    "num_channels": 1,
                    "spatial_shape": [PREPROCESSING.rows, PREPROCESSING.columns],
                    "dtype": "float32",
                    "value_range": [-2.0, 2.0],
                    "is_patch_data": False,
                    "channel_def": {"0": "image"},
                }
            },
            "outputs": {
                "pred": {
                    "type": "probabilities",
                    "format": "classes",
                    "num_channels": len(labels),
                    "spatial_shape": [1],
                    "dtype": "float32",
                    "value_range": [],
                    "is_patch_data": False,
                    "channel_def": {str(index): label for index, label in enumerate(labels)},
                }
            },
        },
        "imaging_node": declaration,
    }
