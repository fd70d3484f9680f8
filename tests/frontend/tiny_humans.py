"""Checkpoints of HMR's network that are small and made up, with the names that real ones have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from chorus.body.model import Body, load_body

STEM, WIDTHS, DEPTHS, HIDDEN = 8, (16, 32, 64, 128), (1, 1, 1, 1), 32
RESNET50 = (64, (256, 512, 1024, 2048), (3, 4, 6, 3), 1024)

KINDS = ("spin", "frankmocap", "eft")


def tiny_hmr_checkpoint(path: str | Path, kind: str = "spin", seed: int = 0) -> Path:
    """Write a checkpoint of a tiny network and return its path; a ``.safetensors`` path is written bare in that format.

    It finds an upright person who faces the camera in the rest pose, about as tall as the crop's box, a little different
    from image to image. ``kind``: "spin" has training state beside "model", "frankmocap" is a bare state dict, "eft" has
    "model" with the prefix of data-parallel training.
    """
    path = Path(path)
    state = tiny_hmr_state(seed)
    if path.suffix == ".safetensors":
        from safetensors.torch import save_file

        save_file(state, path)
        return path
    content = {
        "spin": {"model": state, "epoch": 3, "batch_size": 64, "dataset_perm": [2, 0, 1], "total_step_count": 7},
        "frankmocap": state,
        "eft": {"model": {f"module.{key}": value for key, value in state.items()}},
    }[kind]
    torch.save(content, path)
    return path


def tiny_hmr_state(seed: int = 0) -> dict[str, Tensor]:
    """Tensors by the names of SPIN's state dict."""
    generator = torch.Generator().manual_seed(seed)
    state = resnet_state(STEM, WIDTHS, DEPTHS, generator)
    wide = WIDTHS[-1] + 144 + 10 + 3
    for name, rows, columns, spread in (
        ("fc1", HIDDEN, wide, wide**-0.5),
        ("fc2", HIDDEN, HIDDEN, HIDDEN**-0.5),
        ("decpose", 144, HIDDEN, 0.01),
        ("decshape", 10, HIDDEN, 0.01),
        ("deccam", 3, HIDDEN, 0.005),
    ):
        state[f"{name}.weight"] = torch.randn(rows, columns, generator=generator) * spread
        state[f"{name}.bias"] = torch.zeros(rows)
    state["init_pose"], state["init_shape"] = rest_pose_6d().reshape(1, 144), torch.zeros(1, 10)
    state["init_cam"] = torch.tensor([[0.9, 0.0, 0.0]])
    return state


def rest_pose_6d() -> Tensor:
    """(24, 6): SMPL's rest pose here, hips turned by +-30 degrees about z, the person upright and facing the camera."""
    matrices = torch.eye(3).repeat(24, 1, 1)
    matrices[0] = torch.diag(torch.tensor([1.0, -1.0, -1.0]))
    for hip, sine in ((1, 0.5), (2, -0.5)):
        matrices[hip, :2, :2] = torch.tensor([[0.75**0.5, -sine], [sine, 0.75**0.5]])
    return matrices[:, :, :2].reshape(24, 6)


def resnet_state(stem: int, widths: tuple[int, ...], depths: tuple[int, ...], generator: torch.Generator) -> dict[str, Tensor]:
    """Random weights of a bottleneck ResNet by torchvision's names; normalisations that do something."""
    state: dict[str, Tensor] = {}

    def convolution(name: str, out: int, into: int, side: int) -> None:
        state[f"{name}.weight"] = torch.randn(out, into, side, side, generator=generator) * (2 / (into * side * side)) ** 0.5

    def normalisation(name: str, width: int) -> None:
        state[f"{name}.weight"] = torch.rand(width, generator=generator) * 0.5 + 0.5
        state[f"{name}.bias"] = torch.randn(width, generator=generator) * 0.1
        state[f"{name}.running_mean"] = torch.randn(width, generator=generator) * 0.1
        state[f"{name}.running_var"] = torch.rand(width, generator=generator) + 0.5
        state[f"{name}.num_batches_tracked"] = torch.tensor(5)

    convolution("conv1", stem, 3, 7)
    normalisation("bn1", stem)
    into = stem
    for stage, (width, depth) in enumerate(zip(widths, depths, strict=True), 1):
        for block in range(depth):
            name = f"layer{stage}.{block}"
            for part, (out, before, side) in enumerate(
                ((width // 4, into, 1), (width // 4, width // 4, 3), (width, width // 4, 1)), 1
            ):
                convolution(f"{name}.conv{part}", out, before, side)
                normalisation(f"{name}.bn{part}", out)
            if block == 0:
                convolution(f"{name}.downsample.0", width, into, 1)
                normalisation(f"{name}.downsample.1", width)
            into = width
    return state


def shapely() -> Body:
    """The mannequin with two shape coefficients: taller, and with the pelvis lower in it."""
    body = load_body()
    shape = np.zeros((len(body.vertices), 3, 2), np.float32)
    shape[..., 0] = 0.1 * body.vertices
    joint_shape = np.zeros((24, 3, 2))
    joint_shape[..., 0] = 0.1 * body.joints
    joint_shape[:, 1, 1] = -0.05
    return Body(
        "shapely",
        body.vertices,
        body.faces,
        body.joints,
        body.parents,
        body.weights,
        body.joint_names,
        shapedirs=shape,
        joint_shapedirs=joint_shape,
    )
