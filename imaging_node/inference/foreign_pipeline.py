"""A foreign bundle's own pipeline with its file loaders and savers bypassed.

Only the runner's process imports this. What MONAI's evaluator does with one image is done here
without its dataset, engine and handlers: preprocessing, inferer, postprocessing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from monai.bundle.config_parser import ConfigParser
from monai.data.meta_tensor import MetaTensor
from monai.inferers.inferer import SimpleInferer
from monai.transforms.compose import Compose
from monai.transforms.spatial.array import SpatialResample
from safetensors.torch import load_file

from imaging_node.domain.foreign_result import ForeignTask
from imaging_node.inference.foreign_declaration import METADATA_NAME

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from imaging_node.domain.volume import Matrix
    from imaging_node.inference.foreign_bundle import ForeignBundle

STEPS: Final = (
    *("configuration", "weights", "preprocessing", "inference", "postprocessing", "output"),
)

_NETWORK_KEYS: Final = ("network_def", "network", "net", "model")
_PREPROCESSING_KEYS: Final = ("preprocessing", "pre_transforms", "pre_processing")
_POSTPROCESSING_KEYS: Final = ("postprocessing", "post_transforms", "post_processing")
_INFERER_KEYS: Final = ("inferer", "inferrer")
# Without the endings "d", "D" and "Dict" that MONAI's dictionary transforms have.
_LOADERS: Final = frozenset({"LoadImage"})
_FILES: Final = frozenset({"LoadImage", "SaveImage", "SaveClassification", "WriteFileMapping"})
_DISCRETE: Final = frozenset({"AsDiscrete"})
_PREDICTION: Final = "pred"
_IMAGE: Final = "image"
# LPS to RAS: DICOM's axes to those of MONAI's readers.
_LPS_TO_RAS: Final = np.diag([-1.0, -1.0, 1.0, 1.0])


class OutputError(Exception):
    """The network's answer is not what the bundle declares."""


def prepare() -> None:
    """Load what is loaded late, in one thread: others would not be bound by what follows."""
    torch.set_num_threads(1)
    torch.set_num_interop_threads(1)
    torch.set_grad_enabled(False)
    torch.nn.functional.conv3d(torch.ones(1, 1, 4, 4, 4), torch.ones(1, 1, 1, 1, 1))
    ConfigParser({"probe": {"_target_": "monai.transforms.EnsureType"}}).get_parsed_content("probe")


def use_threads(count: int) -> None:
    """Compute with more threads once the process is confined: they start as it is by then."""
    torch.set_num_threads(count)


@dataclass(frozen=True, slots=True)
class _Grid:
    """Where voxels lie, noted before code of a bundle can change what it is handed.

    Attributes:
        shape: (columns, rows, slices), or (columns, rows).
        affine: From voxels to RAS coordinates in millimetres.
    """

    shape: tuple[int, ...]
    affine: torch.Tensor

    @classmethod
    def of(cls, given: MetaTensor) -> _Grid:
        shape = tuple(int(size) for size in given.meta["spatial_shape"])
        return cls(shape, given.affine.double().clone())

    def is_of(self, tensor: MetaTensor) -> bool:
        """True when its voxels, after one dimension of channels, lie here to a micrometre."""
        return tuple(tensor.shape[1:]) == self.shape and torch.allclose(
            tensor.affine.double(), self.affine, atol=1e-3
        )


class Pipeline:
    """One bundle in this process; `step` says where it is, for who reads why it failed."""

    def __init__(self, bundle: ForeignBundle) -> None:
        self._bundle = bundle
        self._declaration = bundle.declaration
        self.step = STEPS[0]

    def run(
        self, voxels: npt.NDArray[np.float32], affine: Matrix, masks: npt.NDArray[np.uint8]
    ) -> list[float]:
        """Answer for one image or volume.

        Args:
            voxels: Shape (slices, rows, columns).
            affine: From (column, row, slice, 1) to DICOM's patient coordinates in millimetres.
            masks: Filled for a segmentation, shape (planes, slices, rows, columns): labels in
                one plane, or a plane a label where labels overlap.

        Returns:
            Scores of a classification, one a label; empty for a segmentation.
        """
        parser, loader = self._parsed()
        network = self._network(parser)
        preprocessing = _optional(parser, _PREPROCESSING_KEYS)
        if preprocessing is None:
            raise OutputError("there is no `preprocessing`")
        inferer = _optional(parser, _INFERER_KEYS) or SimpleInferer()
        postprocessing = _optional(parser, _POSTPROCESSING_KEYS) or Compose([])
        key = _key(loader)
        self.step = "preprocessing"
        given = self._given(voxels, affine, loader)
        source = _Grid.of(given)
        image = (data := preprocessing({key: given}))[key]
        is_segmentation = self._declaration.task is ForeignTask.SEGMENTATION
        if is_segmentation and not isinstance(image, MetaTensor):
            # Its answer would be laid over the source as if nothing had been turned or resampled.
            raise OutputError("the preprocessed image does not say on which grid it is")
        self.step = "inference"
        batch = torch.as_tensor(image).unsqueeze(0)
        prediction = inferer(batch, network)
        if isinstance(prediction, (list, tuple)):
            prediction = prediction[0]  # deep supervision: the first is the answer
        if not isinstance(prediction, torch.Tensor):
            raise OutputError(f"the network answers with {type(prediction).__name__}")
        if is_segmentation and prediction.shape[2:] != batch.shape[2:]:
            # It would be laid over the image by the image's own affine, in the wrong place.
            raise OutputError("the network answers on another grid than it was given")
        self.step = "postprocessing"
        plain = prediction.as_tensor() if isinstance(prediction, MetaTensor) else prediction
        prediction = MetaTensor(
            plain[0],
            meta=dict(image.meta) if isinstance(image, MetaTensor) else None,
        )
        done = postprocessing({**data, _PREDICTION: prediction})[_PREDICTION]
        self.step = "output"
        if not is_segmentation:
            return self._scores(done)
        self._fill(_on_source(done, image, source), masks)
        return []

    def _parsed(self) -> tuple[ConfigParser, dict[str, Any]]:
        """The configuration without what touches files, and the loader that was in it."""
        directory = self._bundle.directory
        parser = ConfigParser()
        parser.read_config(str(directory / self._declaration.inference))
        parser.read_meta(str(directory / METADATA_NAME))
        dropped = _FILES
        if self._declaration.task is ForeignTask.CLASSIFICATION:
            dropped = dropped | _DISCRETE  # a call that was made already leaves no score
        removed: list[dict[str, Any]] = []
        config = _without(parser.get(), dropped, removed)
        config["bundle_root"] = str(directory)
        if "device" in config:
            config["device"] = "$torch.device('cpu')"
        parser.set(config)
        loaders = [each for each in removed if _word(each) in _LOADERS]
        return parser, loaders[0] if loaders else {}

    def _network(self, parser: ConfigParser) -> torch.nn.Module:
        network = _optional(parser, _NETWORK_KEYS)
        if not isinstance(network, torch.nn.Module):
            raise OutputError("there is no network under `network_def`")
        self.step = "weights"
        weights = load_file(self._bundle.directory / self._declaration.weights)
        network.load_state_dict(weights)
        return network.eval()

    def _given(
        self, voxels: npt.NDArray[np.float32], affine: Matrix, loader: dict[str, Any]
    ) -> MetaTensor:
        """What the bundle's own loader would have read from the same image.

        MONAI's readers index by column, row and slice, and turn DICOM's axes into RAS.
        """
        is_flat = self._declaration.spatial_dimensions == 2  # noqa: PLR2004 - dimensions
        array = voxels[0].T if is_flat else voxels.transpose(2, 1, 0)
        shape = array.shape
        channel: float = math.nan  # MONAI's word for "no channel"
        if loader.get("ensure_channel_first") or not loader:
            array = np.repeat(array[None], self._declaration.input_channels, axis=0)
            channel = 0
        elif self._declaration.input_channels > 1:
            array = np.repeat(array[..., None], self._declaration.input_channels, axis=-1)
            channel = -1
        matrix = np.eye(3) if is_flat else _LPS_TO_RAS @ affine
        return MetaTensor(
            torch.from_numpy(np.ascontiguousarray(array)),
            affine=torch.from_numpy(matrix),
            meta={
                "original_affine": matrix,
                "affine": torch.from_numpy(matrix),
                "spatial_shape": np.array(shape),
                "original_channel_dim": channel,
                "space": "RAS",
                "filename_or_obj": "image",
            },
        )

    def _scores(self, done: object) -> list[float]:
        values = torch.as_tensor(done).double().flatten()
        if len(values) != self._declaration.output_channels:
            raise OutputError(
                f"{len(values)} scores where {self._declaration.output_channels} are declared"
            )
        return [float(values[each.channel]) for each in self._declaration.labels]

    def _fill(self, answer: npt.NDArray[np.generic], masks: npt.NDArray[np.uint8]) -> None:
        declared, labels = self._declaration.output_channels, self._declaration.labels
        on_slices = answer.transpose(0, 3, 2, 1)
        if len(on_slices) == 1:
            values = on_slices[0]
            largest = max(1, declared - 1)
            if not np.isin(values, np.arange(largest + 1)).all():
                raise OutputError(f"the label map holds other values than 0 to {largest}")
            for place, label in enumerate(labels, start=1):
                # The only channel of a network is 1 in its own label map.
                masks[0][values == (label.channel if declared > 1 else 1)] = place
            return
        if len(on_slices) != declared:
            raise OutputError(f"{len(on_slices)} channels where {declared} are declared")
        if not np.isin(on_slices, (0, 1)).all():
            raise OutputError("the channels hold other values than 0 and 1")
        planes = on_slices[[label.channel for label in labels]]
        if (planes.sum(axis=0) <= 1).all():
            for place, plane in enumerate(planes, start=1):
                masks[0][plane == 1] = place
        elif len(masks) == len(labels) > 1:
            masks[...] = planes
        else:
            raise OutputError("more labels overlap than the node keeps apart")


def _on_source(done: object, image: MetaTensor, source: _Grid) -> npt.NDArray[np.generic]:
    """The answer on the source's voxels.

    Args:
        done: What postprocessing made.
        image: What the network was given.
        source: Of what preprocessing was given.

    Returns:
        Shape (channels, columns, rows, slices).

    Raises:
        OutputError: It is not certain where the answer lies.
    """
    if not isinstance(done, torch.Tensor):
        raise OutputError(f"the answer is a {type(done).__name__}")
    if done.ndim != len(source.shape) + 1:
        raise OutputError(f"the answer has {done.ndim} dimensions, with channels")
    if not isinstance(done, MetaTensor):
        # Without a grid of its own it can only be on the one that the network saw.
        if tuple(done.shape[1:]) != source.shape or not source.is_of(image):
            raise OutputError("the answer is on another grid, and does not say which")
        return done.numpy()
    if not source.is_of(done):
        resample = SpatialResample(mode="nearest", padding_mode="zeros")
        done = resample(done, dst_affine=source.affine, spatial_size=source.shape)
    array: npt.NDArray[np.generic] = torch.as_tensor(done).numpy()
    return array


def _without(value: Any, dropped: frozenset[str], removed: list[dict[str, Any]]) -> Any:  # noqa: ANN401 - JSON
    """A configuration without the named transforms, wherever a list of them stands."""
    if isinstance(value, dict):
        return {name: _without(each, dropped, removed) for name, each in value.items()}
    if not isinstance(value, list):
        return value
    kept = []
    for each in value:
        if isinstance(each, dict) and _word(each) in dropped:
            removed.append(each)
        else:
            kept.append(_without(each, dropped, removed))
    return kept


def _word(transform: dict[str, Any]) -> str:
    """Name of a transform without module and without the ending of dictionary transforms."""
    word = str(transform.get("_target_", "")).rpartition(".")[2]
    for ending in ("Dict", "D", "d"):
        if word.removesuffix(ending) in _FILES | _DISCRETE:
            return word.removesuffix(ending)
    return word


def _key(loader: dict[str, Any]) -> str:
    keys = loader.get("keys", _IMAGE)
    if isinstance(keys, list) and keys:
        keys = keys[0]
    return keys if isinstance(keys, str) and keys[:1] not in "@$%" else _IMAGE


def _optional(parser: ConfigParser, names: Sequence[str]) -> Any:  # noqa: ANN401 - of the bundle
    for name in names:
        if name in parser.get():
            return parser.get_parsed_content(name)
    return None
