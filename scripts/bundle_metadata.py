"""What the bundle says of itself: MONAI's metadata, the eligibility, the networks by name."""

from __future__ import annotations

import monai
import numpy as np
import onnx
import torch
from train import PREPROCESSING

VERSION = "0.1.0"
LABEL = "Pneumonia"
MONAI_SCHEMA = (
    "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/"
    "meta_schema_20240725.json"
)
TYPES = {
    "cnn": ("MappedDenseNet", "DenseNetShape", {"findings": 1}),
    "vit": ("MappedTransformer", "TransformerShape", {"findings": 1, "image_size": 224}),
}


def network_definition(member: str) -> dict[str, object]:
    """How MONAI's ConfigParser builds the torch twin of a member."""
    network, shape, arguments = TYPES[member]
    place = "imaging_node.inference.networks"
    return {
        "_target_": f"{place}.{network}",
        "shape": {"_target_": f"{place}.{shape}", **arguments},
    }


def eligibility() -> dict[str, object]:
    """Frontal chest radiographs of children of the ages that the pair was trained on."""
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
        "minimum_age_years": 1,
        "maximum_age_years": 6,
        "accepts_absent_age": True,
        "minimum_rows": 128,
        "minimum_columns": 128,
        "presentation_intents": ["FOR PRESENTATION"],
        "maximum_images": 4,
    }  # fmt: skip


def metadata(declaration: dict[str, object]) -> dict[str, object]:
    """MONAI's metadata with our key."""
    return {
        "schema": MONAI_SCHEMA,
        "version": VERSION,
        "changelog": {VERSION: "First pair, trained on two CPU cores."},
        "monai_version": monai.__version__,
        "pytorch_version": torch.__version__.split("+")[0],
        "numpy_version": np.__version__,
        "required_packages_version": {"onnx": onnx.__version__},
        "name": "Chest X-ray pneumonia, children",
        "task": "Pneumonia on frontal chest radiographs of children of 1 to 5 years",
        "description": "CNN and vision transformer that score pneumonia on frontal chest"
        " radiographs of children of 1 to 5 years; research only, not a medical device.",
        "authors": "imaging-node project",
        "copyright": "Copyright the imaging-node project",
        "data_source": "Kermany, Zhang, Goldbaum, Mendeley Data rscbjbr9sj v2, CC BY 4.0",
        "data_type": "DICOM radiographs as P-Values",
        "image_classes": "single channel, P-Values in [0, 1], percentile-stretched, standardised",
        "label_classes": LABEL,
        "pred_classes": LABEL,
        "intended_use": "Research only. Not a medical device. Not for diagnosis.",
        "references": ["Kermany et al., Cell 172(5), 2018, doi:10.1016/j.cell.2018.02.010"],
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
                    "num_channels": 1,
                    "spatial_shape": [1],
                    "dtype": "float32",
                    "value_range": [],
                    "is_patch_data": False,
                    "channel_def": {"0": LABEL},
                }
            },
        },
        "imaging_node": declaration,
    }
