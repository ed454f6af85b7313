"""Bundles as the MONAI Model Zoo lays them out, written here with small weights of known effect."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import torch
import yaml
from monai.networks.nets.unet import UNet
from safetensors.torch import save_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SPLEEN_LABELS = {"0": "background", "1": "spleen"}
LOADER = {"_target_": "LoadImaged", "keys": "image"}
SAVER = {"_target_": "SaveImaged", "keys": "pred", "output_dir": "@output_dir"}


def metadata(
    *,
    task: str,
    dimensions: int,
    labels: Mapping[str, str],
    modality: str,
    channels: int = 1,
    kind: str = "segmentation",
) -> dict[str, Any]:
    """`metadata.json` in the zoo's form."""
    shape = [32] * dimensions
    return {
        "schema": "https://github.com/Project-MONAI/MONAI-extra-test-data",
        "version": "0.5.9",
        "changelog": {"0.5.9": "written for a test"},
        "monai_version": "1.4.0",
        "pytorch_version": "2.4.0",
        "numpy_version": "1.24.4",
        "task": task,
        "description": "Random or planted weights; of no use",
        "authors": "Nobody",
        "copyright": "Nobody",
        "network_data_format": {
            "inputs": {
                "image": {
                    "type": "image",
                    "format": "hounsfield" if modality == "CT" else "magnitude",
                    "modality": modality,
                    "num_channels": channels,
                    "spatial_shape": shape,
                    "dtype": "float32",
                    "value_range": [0, 1],
                    "is_patch_data": dimensions == 3,
                    "channel_def": {"0": "image"},
                }
            },
            "outputs": {
                "pred": {
                    "type": "image" if kind == "segmentation" else "probabilities",
                    "format": kind,
                    "num_channels": len(labels),
                    "spatial_shape": shape,
                    "dtype": "float32",
                    "value_range": [0, 1],
                    "is_patch_data": dimensions == 3,
                    "channel_def": dict(labels),
                }
            },
        },
    }


def segmentation_config(network: Mapping[str, Any], **changes: object) -> dict[str, Any]:
    """`inference.json` with the keys and the order of the zoo's CT segmentations."""
    preprocessing = [
        LOADER,
        {"_target_": "EnsureChannelFirstd", "keys": "image"},
        {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS"},
        {"_target_": "Spacingd", "keys": "image", "pixdim": [1.5, 1.5, 2.0], "mode": "bilinear"},
        {
            "_target_": "ScaleIntensityRanged",
            "keys": "image",
            "a_min": -57,
            "a_max": 164,
            "b_min": 0,
            "b_max": 1,
            "clip": True,
        },
        {"_target_": "EnsureTyped", "keys": "image"},
    ]
    config = {
        "imports": ["$import glob", "$import os"],
        "bundle_root": ".",
        "output_dir": "$@bundle_root + '/eval'",
        "dataset_dir": "/workspace/data/Task09_Spleen",
        "datalist": "$list(sorted(glob.glob(@dataset_dir + '/imagesTs/*.nii.gz')))",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "network_def": dict(network),
        "network": "$@network_def.to(@device)",
        "preprocessing": {"_target_": "Compose", "transforms": preprocessing},
        "dataset": {
            "_target_": "Dataset",
            "data": "$[{'image': i} for i in @datalist]",
            "transform": "@preprocessing",
        },
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1},
        "inferer": {
            "_target_": "SlidingWindowInferer",
            "roi_size": [32, 32, 32],
            "sw_batch_size": 2,
            "overlap": 0.25,
        },
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "Activationsd", "keys": "pred", "softmax": True},
                {
                    "_target_": "Invertd",
                    "keys": "pred",
                    "transform": "@preprocessing",
                    "orig_keys": "image",
                    "nearest_interp": False,
                    "to_tensor": True,
                },
                {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
                SAVER,
            ],
        },
        "checkpointloader": {
            "_target_": "CheckpointLoader",
            "load_path": "$@bundle_root + '/models/model.pt'",
            "load_dict": {"model": "@network"},
        },
        "initialize": ["$monai.utils.set_determinism(seed=123)"],
        "run": ["$@evaluator.run()"],
    }
    return {**config, **changes}


def spleen_like(folder: Path) -> Path:
    """A 3D segmentation of CT: a U-Net with random weights, as a state dict."""
    network = {
        "_target_": "UNet",
        "spatial_dims": 3,
        "in_channels": 1,
        "out_channels": 2,
        "channels": [4, 8, 16],
        "strides": [2, 2],
        "num_res_units": 1,
        "norm": "batch",
    }
    torch.manual_seed(5)
    net = UNet(3, 1, 2, channels=(4, 8, 16), strides=(2, 2), num_res_units=1, norm="batch")
    _write(
        folder,
        metadata(
            task="Decathlon spleen segmentation", dimensions=3, labels=SPLEEN_LABELS, modality="CT"
        ),
        segmentation_config(network),
    )
    torch.save(net.state_dict(), folder / "models" / "model.pt")
    (folder / "models" / "model.ts").write_bytes(b"no program, and never read")
    return folder


def threshold(
    folder: Path,
    *,
    above: float = 100.0,
    labels: Mapping[str, str] | None = None,
    is_yaml: bool = False,
    scripts: Mapping[str, str] | None = None,
    changes: Mapping[str, object] | None = None,
) -> Path:
    """A 3D segmentation of CT whose answer is known: a 1x1x1 convolution labels HU above a number.

    It keeps the source's grid (no Spacingd), so that the answer is exact.
    """
    network = {"_target_": "torch.nn.Conv3d", "in_channels": 1, "out_channels": 2, "kernel_size": 1}
    preprocessing = {
        "_target_": "Compose",
        "transforms": [
            {**LOADER, "ensure_channel_first": True},
            {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS"},
            {"_target_": "EnsureTyped", "keys": "image"},
        ],
    }
    config = segmentation_config(network, **{"preprocessing": preprocessing, **(changes or {})})
    labels = labels or {"0": "background", "1": "dense"}
    _write(
        folder,
        metadata(task="Threshold segmentation", dimensions=3, labels=labels, modality="CT"),
        config,
        is_yaml=is_yaml,
    )
    weights = {
        "weight": torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1, 1),
        "bias": torch.tensor([0.0, -above]),
    }
    save_file(weights, folder / "models" / "model.safetensors")
    for name, text in (scripts or {}).items():
        path = folder / "scripts" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


def density_like(folder: Path, *, labels: Mapping[str, str] | None = None) -> Path:
    """A 2D classification with a network and a list of images in `scripts/`, which it imports."""
    labels = labels or {"0": "A", "1": "B", "2": "C", "3": "normal"}
    config = {
        "import": ["$import glob", "$import os", "$import scripts.createList"],
        "bundle_root": ".",
        "model_dir": "$@bundle_root + '/models'",
        "data": {
            "_target_": "scripts.createList.CreateImageLabelList",
            "filename": "./configs/sample_image_data.json",
        },
        "test_imagelist": "$@data.create_dataset('Test')[0]",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "network_def": {"_target_": "scripts.network.Brightness", "classes": len(labels)},
        "network": "$@network_def.to(@device)",
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                LOADER,
                {"_target_": "EnsureChannelFirstd", "keys": "image"},
                {"_target_": "ScaleIntensityd", "keys": "image", "minv": 0.0, "maxv": 1.0},
                {"_target_": "Resized", "keys": "image", "spatial_size": [32, 32]},
            ],
        },
        "inferer": {"_target_": "SimpleInferer"},
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "Activationsd", "keys": "pred", "sigmoid": True},
                {"_target_": "AsDiscreted", "keys": "pred", "threshold": 0.5},
            ],
        },
        "evaluating": ["$@evaluator.run()"],
    }
    _write(
        folder,
        metadata(
            task="Breast density classification",
            dimensions=2,
            labels=labels,
            modality="MG" if "A" in labels.values() else "X-ray",
            channels=3,
            kind="classification",
        ),
        config,
    )
    scripts = folder / "scripts"
    scripts.mkdir()
    (scripts / "__init__.py").write_text("")
    (scripts / "createList.py").write_text(
        "class CreateImageLabelList:\n"
        "    def __init__(self, filename):\n"
        "        raise RuntimeError('a list of files is no part of an answer')\n"
    )
    (scripts / "network.py").write_text(
        "import torch\n\n\n"
        "class Brightness(torch.nn.Module):\n"
        "    def __init__(self, classes):\n"
        "        super().__init__()\n"
        "        self.head = torch.nn.Linear(3, classes)\n\n"
        "    def forward(self, image):\n"
        "        return self.head(image.mean(dim=(2, 3)))\n"
    )
    weights = {
        "head.weight": torch.arange(3 * len(labels)).float().reshape(len(labels), 3) / 10,
        "head.bias": torch.zeros(len(labels)),
    }
    torch.save({"model": weights}, folder / "models" / "model.pt")
    return folder


def _write(
    folder: Path, described: dict[str, Any], config: dict[str, Any], *, is_yaml: bool = False
) -> None:
    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    (folder / "docs").mkdir()
    (folder / "docs" / "README.md").write_text("# A bundle for tests\n")
    (folder / "LICENSE").write_text("None\n")
    (folder / "configs" / "metadata.json").write_text(json.dumps(described, indent=4))
    if is_yaml:
        (folder / "configs" / "inference.yaml").write_text(yaml.safe_dump(config))
    else:
        (folder / "configs" / "inference.json").write_text(json.dumps(config, indent=4))
