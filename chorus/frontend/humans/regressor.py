"""The network of HMR and its descendants: ResNet-50 features, and a head that corrects a mean pose three times.

Checkpoints hold the names of torchvision's ResNet-50 (conv1, bn1, layer1.0.conv1, ...) beside those of the head (fc1, fc2,
decpose, decshape, deccam, init_pose, init_shape, init_cam); the backbone is transformers' ResNetModel, whose names differ.
Depths and widths are read off the checkpoint's shapes.
"""

from __future__ import annotations

import logging
import os
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from chorus.errors import InputError
from chorus.frontend.stage_info import FRONTEND_EXTRA

ITERATIONS = 3
"""Corrections of the mean pose; what the checkpoints are trained with."""

_NAMES = (
    (re.compile(r"^head\."), ""),
    (re.compile(r"^backbone\.embedder\.embedder\.convolution\."), "conv1."),
    (re.compile(r"^backbone\.embedder\.embedder\.normalization\."), "bn1."),
)
_BLOCK = re.compile(
    r"^backbone\.encoder\.stages\.(\d+)\.layers\.(\d+)\.(?:layer\.(\d+)|shortcut)\.(convolution|normalization)\."
)
_OURS = re.compile(r"(conv1|bn1|layer\d+|fc1|fc2|decpose|decshape|deccam)\.|init_(pose|shape|cam)$")
"""Names of this network's tensors, and of those that variants of it would have; any other tensor in a checkpoint is ignored."""

_HOW_TO_CONVERT = (
    "python -c \"import torch; c = torch.load('IN', map_location='cpu', weights_only=False); "
    "torch.save(dict(c.get('model', c)), 'OUT')\""
)


class Head(nn.Module):
    """Features (n, F) -> 6D rotations (n, 6 J), shape coefficients (n, B), camera s, tx, ty (n, 3).

    There is no nonlinearity between fc1 and fc2, only dropout: in evaluation each correction is an affine map.
    """

    init_pose: Tensor
    init_shape: Tensor
    init_cam: Tensor

    def __init__(self, features: int, hidden: int, pose: int, shape: int, camera: int = 3) -> None:
        super().__init__()
        self.fc1 = nn.Linear(features + pose + shape + camera, hidden)
        self.drop1 = nn.Dropout()
        self.fc2 = nn.Linear(hidden, hidden)
        self.drop2 = nn.Dropout()
        self.decpose = nn.Linear(hidden, pose)
        self.decshape = nn.Linear(hidden, shape)
        self.deccam = nn.Linear(hidden, camera)
        for name, count in (("init_pose", pose), ("init_shape", shape), ("init_cam", camera)):
            self.register_buffer(name, torch.zeros(1, count))

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Three corrections of the mean, each from the features and the current estimate."""
        n = len(features)
        pose, shape, camera = (b.expand(n, -1) for b in (self.init_pose, self.init_shape, self.init_cam))
        for _ in range(ITERATIONS):
            hidden = self.drop1(self.fc1(torch.cat([features, pose, shape, camera], 1)))
            hidden = self.drop2(self.fc2(hidden))
            pose, shape, camera = pose + self.decpose(hidden), shape + self.decshape(hidden), camera + self.deccam(hidden)
        return pose, shape, camera


class Regressor(nn.Module):
    """Crops (n, 3, 224, 224), normalised as ImageNet's -> the outputs of ``Head``, in float32 for any dtype of the backbone."""

    def __init__(self, backbone: nn.Module, head: Head) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features = self.backbone(crops).pooler_output.flatten(1)
        pose, shape, camera = self.head(features.float())
        return pose, shape, camera


def rotations_from_6d(values: Any) -> NDArray[np.float64]:
    """Rotations (..., 3, 3) float64 of the 6D representation (..., 6), by Gram-Schmidt.

    The six numbers, as (3, 2), are two columns: the first is normalised; the second is made orthogonal to it and normalised;
    the third is their cross product. NaN where the two are parallel or zero.
    """
    pairs = np.asarray(values, np.float64).reshape(*np.shape(values)[:-1], 3, 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        first = pairs[..., 0] / np.linalg.norm(pairs[..., 0], axis=-1, keepdims=True)
        rest = pairs[..., 1] - (first * pairs[..., 1]).sum(-1, keepdims=True) * first
        length = np.linalg.norm(rest, axis=-1, keepdims=True)
        # Of parallel columns rounding leaves a remainder without a meaningful direction.
        length = np.where(length > 1e-9 * np.linalg.norm(pairs[..., 1], axis=-1, keepdims=True), length, np.nan)
        second = rest / length
    return np.stack([first, second, np.cross(first, second)], -1)


def load_regressor(path: str | os.PathLike[str]) -> Regressor:
    """The network with a checkpoint's weights, in float32 on the CPU, in evaluation mode.

    InputError for files that cannot be read without running what is in them, and for another architecture, with the key, what
    was expected and what came. ImportError where transformers (or, for .safetensors, safetensors) is missing.
    """
    state = read_checkpoint(path)
    try:
        return build_regressor(state)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Tensors by name from .safetensors or what torch.save wrote: bare or under "model" or "state_dict", "module." cut off.

    InputError for files that hold more than tensors or are damaged; nothing in a file is run.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: expected a checkpoint, a file that exists")
    content: Any
    if path.suffix == ".safetensors":
        try:
            from safetensors import SafetensorError
            from safetensors.torch import load_file
        except ImportError:
            raise ImportError(f"{path}: needs safetensors: {FRONTEND_EXTRA}") from None
        try:
            content = load_file(path)
        except (SafetensorError, OSError, ValueError) as error:
            raise InputError(f"{path}: expected a .safetensors file, got a damaged or foreign one ({error})") from None
    else:
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            told = re.search(r"WeightsUnpickler error: ([^\n]{1,160}?)(?: was not an allowed global|\n|$)", str(error))
            what = told[1] if told else "not a pickle of torch"
            raise InputError(
                f"{path}: expected a checkpoint of tensors alone, which can be read without running code from it; got more "
                f"than that, or no checkpoint ({what}). If you trust where it came from, convert it: {_HOW_TO_CONVERT}"
            ) from None
        except (OSError, RuntimeError, EOFError, ValueError, KeyError, IndexError, AttributeError, TypeError) as error:
            raise InputError(f"{path}: expected a checkpoint, got a damaged or foreign file ({str(error)[:160]})") from None
    for name in ("model", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
    if not isinstance(content, Mapping) or not content:
        raise InputError(f"{path}: expected tensors by name, got {type(content).__name__}")
    state: dict[str, Tensor] = {}
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise InputError(f"{path}: expected tensors by name, got {type(value).__name__} under {key!r}")
        state[key.removeprefix("module.")] = value
    return state


def build_regressor(state: Mapping[str, Tensor]) -> Regressor:
    """The network that a checkpoint's tensors (name -> tensor) belong to, with these weights, in float32, in evaluation mode.

    InputError for another architecture: tensors missing, of other shapes, not finite, or too many; ImportError without
    transformers.
    """
    try:
        from transformers import ResNetConfig, ResNetModel
    except ImportError:
        raise ImportError(f"humans hmr: needs transformers: {FRONTEND_EXTRA}") from None
    depths, widths = [], []
    for stage in range(1, 5):
        blocks = {int(m[1]) for key in state if (m := re.match(rf"layer{stage}\.(\d+)\.", key))}
        depths.append(max(len(blocks), 1))
        widths.append(_shape(state, f"layer{stage}.0.conv3.weight", 4)[0])
    stem = _shape(state, "conv1.weight", 4)[0]
    pose, hidden = _shape(state, "decpose.weight", 2)
    shape = _shape(state, "decshape.weight", 2)[0]
    if 0 in (stem, *widths, pose, hidden, shape) or pose % 6 or any(w % 4 for w in widths):
        raise InputError(
            "expected a bottleneck ResNet (widths that 4 divides) and 6 numbers a joint, got conv1.weight, "
            f"layer*.0.conv3.weight and decpose.weight with {stem}, {widths} and {pose} rows"
        )
    config = ResNetConfig(embedding_size=stem, hidden_sizes=widths, depths=depths)
    with torch.device("meta"):  # initial weights would only be thrown away
        model = Regressor(ResNetModel(config), Head(widths[-1], hidden, pose, shape))
    weights = {}
    used = set()
    for key, wanted in model.state_dict().items():
        name = checkpoint_name(key)
        used.add(name)
        found = state.get(name)
        if key.endswith("num_batches_tracked"):  # counts training steps; old checkpoints have none, and nothing here uses it
            weights[key] = torch.zeros((), dtype=torch.int64)
            continue
        got = "none" if found is None else f"{tuple(found.shape)}"
        if found is None or found.shape != wanted.shape:
            raise InputError(f"{name}: expected a tensor of shape {tuple(wanted.shape)}, got {got}; another architecture?")
        weights[key] = found.detach().to("cpu", torch.float32, copy=True)
        if not torch.isfinite(weights[key]).all():
            raise InputError(f"{name}: expected finite numbers, got some that are not")
    extra = sorted(set(state) - used)
    unknown = [key for key in extra if _OURS.match(key)]
    if unknown:
        shown = tuple(state[unknown[0]].shape)
        raise InputError(f"{unknown[0]}: expected no such tensor in this network, got shape {shown}; another architecture?")
    if extra:
        logging.getLogger(__name__).info("not used of the checkpoint: %s", ", ".join(extra))
    model.load_state_dict(weights, assign=True)
    return model.eval()


def checkpoint_name(key: str) -> str:
    """The name in a checkpoint of a tensor of ``Regressor``, named ``key`` there."""
    for pattern, name in _NAMES:
        if pattern.match(key):
            return pattern.sub(name, key)
    found = _BLOCK.match(key)
    if found is None:
        raise InputError(f"{key}: expected a name of the backbone; is this transformers older than 5?")
    stage, block, part, kind = found.groups()
    names = ("downsample.0", "downsample.1") if part is None else (f"conv{int(part) + 1}", f"bn{int(part) + 1}")
    name = names[kind == "normalization"]
    return f"layer{int(stage) + 1}.{block}.{name}.{key[found.end() :]}"


def _shape(state: Mapping[str, Tensor], name: str, dimensions: int) -> tuple[int, ...]:
    """The shape of a tensor that the network's size is read off."""
    found = state.get(name)
    if found is None or found.ndim != dimensions:
        got = "none" if found is None else f"shape {tuple(found.shape)}"
        raise InputError(f"{name}: expected a tensor of {dimensions} dimensions, got {got}; another architecture?")
    return tuple(found.shape)
