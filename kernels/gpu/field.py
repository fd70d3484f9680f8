"""Fields as the Triton votes read them, and the devices that they run on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
import triton
from numpy.typing import NDArray
from torch import Tensor

from chorus.kernels.arrays import VoxelField
from chorus.kernels.bricks import SIDE, VOXELS, Bricks, cut_into_bricks
from chorus.kernels.gpu.arguments import BrickArrays, Packs, Shape, Skeleton

PACK = 4
"""Joints in a pack of the matrix kernel."""


@dataclass(frozen=True)
class Launch:
    """Bricks that one kernel takes.

    selected   (N,) int32
    num_packs  packs of four joints of each, for the matrix kernel; 0 for the lattice kernel
    one_joint  whether all have one joint, for the lattice kernel
    """

    selected: Tensor
    num_packs: int = 0
    packs: Packs | None = None
    one_joint: bool = False


class FieldOnDevice:
    """A field as the kernels read it: bricks with their joints by falling mean weight, and what each kernel needs of them.

    ``bricks.selected`` names all bricks; a launch of some replaces it.
    """

    def __init__(self, field: VoxelField, device: torch.device) -> None:
        cut = _by_weight(cut_into_bricks(field.to("cpu")))
        self.device = device
        self.num_bricks = len(cut)
        self.joint_counts = np.diff(cut.joint_offset)
        reach = max(
            abs(edge)
            for first, count in zip(field.origin, field.shape, strict=True)
            for edge in (first, first + field.spacing * (count + SIDE))
        )
        self.operand_scale = _operand_scale(reach)
        self.skeleton = Skeleton(
            joints=field.rest_joints.to(device, torch.float64).contiguous(),
            parents=field.parents.to(device, torch.int32).contiguous(),
            rest_inverse=field.rest_inverse.to(device, torch.float64).contiguous(),
            reach=reach,
        )
        self.bricks = BrickArrays(
            selected=torch.arange(len(cut), dtype=torch.int32, device=device),
            first=self._tensor(cut.first),
            centre=self._tensor(cut.centre),
            joint_offset=self._tensor(cut.joint_offset.astype(np.int32)),
            joint=self._tensor(cut.joint),
            mean=self._tensor(cut.mean),
            variation=self._tensor(cut.variation),
            weight=self._tensor(cut.weight),
            shape=Shape.of(field.shape),
            spacing=float(field.spacing),
        )
        self.cut = cut
        self._origin, self._spacing = np.array(field.origin), field.spacing  # not the field, which would never be let go
        self._launches: dict[str, list[Launch]] = {}

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

    @property
    def num_joints(self) -> int:
        return len(self.skeleton.parents)

    def launches(self, variant: str) -> list[Launch]:
        """Which kernel takes which bricks."""
        found = self._launches.get(variant)
        if found is None:
            one = self.joint_counts == 1
            lattice = {"lattice": np.ones_like(one), "tensor": np.zeros_like(one), "auto": one}[variant]
            found = [
                Launch(self._tensor(np.flatnonzero(rows).astype(np.int32)), one_joint=is_one)
                for rows, is_one in ((lattice & one, True), (lattice & ~one, False))
                if rows.any()
            ]
            num_packs = -(-self.joint_counts // PACK)
            for count in np.unique(num_packs[~lattice]):
                rows = np.flatnonzero(~lattice & (num_packs == count))
                joints, operand = _operand(self.cut, self._origin, self._spacing, self.skeleton.reach, rows, int(count))
                packs = Packs(self._tensor(joints), self._tensor(operand), float(count))
                found.append(Launch(self._tensor(rows.astype(np.int32)), int(count), packs))
            self._launches[variant] = found
        return found


def _by_weight(cut: Bricks) -> Bricks:
    """The bricks with the joints of each by falling mean weight."""
    brick = np.repeat(np.arange(len(cut)), np.diff(cut.joint_offset))
    order = np.lexsort((-cut.mean, brick))
    return Bricks(
        cut.first,
        cut.centre,
        cut.joint_offset,
        cut.joint[order],
        cut.mean[order],
        cut.spread[order],
        cut.variation,
        cut.weight.reshape(-1, VOXELS)[order].ravel(),
    )


def _operand_scale(reach: float) -> float:
    """The power of two by which the matrix kernel's operands are scaled; no voxel has a coordinate beyond ``reach`` metres."""
    return float(2.0 ** (12 - np.ceil(np.log2(max(reach, 1.0)))))


def _operand(
    cut: Bricks, origin: NDArray[np.float64], spacing: float, reach: float, rows: NDArray[np.intp], packs: int
) -> tuple[NDArray[np.int32], NDArray[np.float16]]:
    """Joints (B, 4 packs) and w_j (x, y, z, 1) as high and low parts (B, packs, 2, 16, 64) of the bricks ``rows``.

    Scaled by a power of two, the same for the whole field, that keeps the largest value below 2^13.
    """
    slot = np.arange(PACK * packs)
    count = np.diff(cut.joint_offset)[rows]
    used = slot < count[:, None]
    entry = cut.joint_offset[rows][:, None] + np.where(used, slot, 0)
    joints = cut.joint[entry]
    lattice = np.indices((SIDE,) * 3).reshape(3, -1)
    scale = _operand_scale(reach)
    operand = np.empty((len(rows), packs, 2, 4 * PACK, VOXELS), np.float16)
    for begin in range(0, len(rows), 4096):  # bounds the float64 copies
        piece = slice(begin, begin + 4096)
        weight = np.where(used[piece, :, None], cut.weight.reshape(-1, VOXELS)[entry[piece]], 0.0).astype(np.float64)
        at = cut.first[rows[piece]][:, :, None] + lattice
        place = origin[:, None] + spacing * at
        homogeneous = np.concatenate([place, np.ones_like(place[:, :1])], 1) * scale
        value = (weight[:, :, None] * homogeneous[:, None]).reshape(-1, packs, 4 * PACK, VOXELS)
        high = value.astype(np.float16)
        operand[piece, :, 0], operand[piece, :, 1] = high, (value - high).astype(np.float16)
    return joints, operand


_on_device: WeakKeyDictionary[VoxelField, dict[torch.device, FieldOnDevice]] = WeakKeyDictionary()


def field_on_device(field: VoxelField, device: torch.device) -> FieldOnDevice:
    """The field on a device, made once and kept as long as the field lives."""
    kept = _on_device.setdefault(field, {})
    if device not in kept:
        kept[device] = FieldOnDevice(field, device)
    return kept[device]


def interpreted() -> bool:
    """Whether Triton's interpreter runs the kernels, on the CPU (TRITON_INTERPRET=1 before the first import)."""
    return bool(triton.knobs.runtime.interpret)


def working_device(home: torch.device, images: torch.device) -> torch.device:
    """Where to work: with the result, else with the images, else on the current GPU."""
    for device in (home, images):
        if device.type == "cuda" or interpreted():
            return device
    if not torch.cuda.is_available():
        raise RuntimeError("the triton backend needs a GPU, and PyTorch sees none; the numba backend runs on the CPU")
    return torch.device("cuda", torch.cuda.current_device())


def capability(device: torch.device) -> tuple[int, int] | None:
    """Compute capability of an NVIDIA device; None for any other."""
    return torch.cuda.get_device_capability(device) if use_ptx(device) else None


def use_ptx(device: torch.device) -> bool:
    return device.type == "cuda" and torch.version.hip is None
