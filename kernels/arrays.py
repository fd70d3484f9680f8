"""What every kernel takes, plain torch tensors on one device, nothing of stores or body files; and the votes' contract.

The contract of the votes, the same for every backend; those of contacts and skinning are in ``chorus.kernels.contacts`` and
``chorus.kernels.skinning``::

    count_votes(field, images, group, weight=None, *, depth=None, num_groups, out=None) -> (num, den)
                                                                     with ``depth``: -> (num, den, num_hidden, den_hidden)

    field       VoxelField with V voxels                 images  VoteImages, I of them
    group       (I,) integers in 0 .. num_groups - 1     weight  (I,) uint8, how often each image counts; None for once
    num_groups  G                                        out     counts to add to, from ``empty_counts``; None for new ones
    depth       ``chorus.kernels.depth.BodyDepth`` of the I images, on any device, or None

``num[g, v]`` is how many images of group g have voxel v on the mask, ``den[g, v]`` how many have it inside the image
(each image counted ``weight`` times), int32 of shape (G, V); counts are added to ``out`` where it is given. For image k and
voxel centre x with skinning weights w_j(x) (Eq. 5, 6)::

    x_k    = sum_j w_j(x) B_j(theta_k) x            B_j = A_j(zero -> theta) A_j(zero -> rest)^-1
    (u, v) = (K (R x_k + t))[:2] / z                 pixel (column, row) = (floor u, floor v)

and the voxel counts in ``den`` where z > 0 and the pixel lies in [0, W) x [0, H), in ``num`` where the mask's bit is set
there too. The float64 reference also says how many votes lie so close to a pixel edge that float32 may decide otherwise
(``reference.vote_band``); a backend may differ by that many, count for count. Within one backend the counts are the same
bits for every order, batch, split and number of threads, and with culling on or off.

With ``depth``, ``num_hidden`` and ``den_hidden`` say which part of ``num`` and ``den`` the body hides: votes whose voxel lies
farther than the body in the vote's pixel, by more than a margin (``chorus.kernels.depth``). ``num`` and ``den`` are the same
bits with and without it. ``reference.hidden_band`` says how many hidden votes float32 may decide otherwise: those of
``vote_band``, and those within float32's reach of that limit.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from chorus.kernels.depth import BodyDepth

MAX_TOTAL_WEIGHT = 2**31 - 1
"""Largest sum of image weights in one call: counts are int32."""


@dataclass(frozen=True)
class Lattice:
    """A box of V = NX NY NZ voxels; voxel (i, j, k) has flat index (i NY + j) NZ + k. ValueError where it has none.

    shape    (NX, NY, NZ)
    origin   centre of voxel (0, 0, 0) in metres
    spacing  distance of neighbouring centres in metres
    """

    shape: tuple[int, int, int]
    origin: tuple[float, float, float]
    spacing: float

    def __post_init__(self) -> None:
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise ValueError(f"lattice.shape: expected three positive numbers, got {self.shape}")
        if not self.spacing > 0:
            raise ValueError(f"lattice.spacing: expected a positive length, got {self.spacing}")

    @property
    def num_voxels(self) -> int:
        return self.shape[0] * self.shape[1] * self.shape[2]

    def centres(self, dtype: torch.dtype = torch.float64, device: torch.device | str = "cpu") -> Tensor:
        """Voxel centres, (V, 3) metres."""
        axes = [
            start + self.spacing * torch.arange(n, dtype=dtype, device=device)
            for start, n in zip(self.origin, self.shape, strict=True)
        ]
        return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, 3)


def cube(resolution: int, extent: float) -> Lattice:
    """The lattice of N^3 voxels in a cube centred at the origin, ``extent`` metres wide; N = ``resolution``."""
    spacing = extent / resolution
    return Lattice((resolution,) * 3, ((0.5 - resolution / 2) * spacing,) * 3, spacing)


@dataclass(frozen=True, eq=False)
class VoxelField:
    """A lattice of V = NX NY NZ voxels with sparse skinning weights, and the skeleton they refer to.

    shape         (NX, NY, NZ); voxel (i, j, k) has flat index (i NY + j) NZ + k
    origin        centre of voxel (0, 0, 0) in metres, person frame
    spacing       distance of neighbouring centres in metres
    offset        (V + 1,) int64; the entries of voxel v are offset[v] .. offset[v + 1] - 1
    joint         (E,) int32; joint of each entry
    weight        (E,) float32; skinning weight of each entry; those of a voxel sum to 1
    rest_joints   (J, 3) float64; joints in the zero pose, metres
    parents       (J,) int32; -1 for the root; a parent comes before its children
    rest_inverse  (J, 4, 4) float64; A_j(zero -> rest)^-1
    """

    shape: tuple[int, int, int]
    origin: tuple[float, float, float]
    spacing: float
    offset: Tensor
    joint: Tensor
    weight: Tensor
    rest_joints: Tensor
    parents: Tensor
    rest_inverse: Tensor

    @property
    def lattice(self) -> Lattice:
        """The voxels alone."""
        return Lattice(self.shape, self.origin, self.spacing)

    @property
    def num_voxels(self) -> int:
        return self.shape[0] * self.shape[1] * self.shape[2]

    @property
    def num_joints(self) -> int:
        return len(self.parents)

    def to(self, device: torch.device | str) -> VoxelField:
        """The field with its tensors on a device; itself where they are there."""
        if self.weight.device == torch.device(device):
            return self
        return VoxelField(
            self.shape,
            self.origin,
            self.spacing,
            self.offset.to(device),
            self.joint.to(device),
            self.weight.to(device),
            self.rest_joints.to(device),
            self.parents.to(device),
            self.rest_inverse.to(device),
        )

    def centres(self, dtype: torch.dtype = torch.float64) -> Tensor:
        """Voxel centres, (V, 3) metres."""
        return self.lattice.centres(dtype, self.weight.device)

    def dense_weights(self, dtype: torch.dtype = torch.float64) -> Tensor:
        """Skinning weights, (V, J), zeros included."""
        dense = torch.zeros(self.num_voxels, self.num_joints, dtype=dtype, device=self.weight.device)
        voxel = torch.repeat_interleave(
            torch.arange(self.num_voxels, device=self.weight.device), self.offset[1:] - self.offset[:-1]
        )
        dense[voxel, self.joint.long()] = self.weight.to(dtype)
        return dense


@dataclass(frozen=True, eq=False)
class VoteImages:
    """I images: poses, cameras and packed masks (the format of ``chorus.kernels.masks``).

    poses  (I, J, 3) float32 axis-angle in radians; row 0 zero
    R      (I, 3, 3) float64; x_cam = R x + t, OpenCV axes
    t      (I, 3) float64 metres
    K      (I, 3, 3) float64 pixels
    size   (I, 2) int32 height, width
    box    (I, 4) int32 x0, y0, x1, y1, half open; all zero for an empty mask
    start  (I,) int64 first word of each mask
    words  (T,) int32, the bit patterns of the uint32 words
    """

    poses: Tensor
    R: Tensor
    t: Tensor
    K: Tensor
    size: Tensor
    box: Tensor
    start: Tensor
    words: Tensor

    def __len__(self) -> int:
        return len(self.poses)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> VoteImages:
        """The images with their tensors on a device."""
        return VoteImages(*(getattr(self, f.name).to(device, non_blocking=non_blocking) for f in fields(self)))

    def __getitem__(self, rows: slice | Tensor) -> VoteImages:
        """A selection of the images; mask words are shared."""
        return VoteImages(
            self.poses[rows],
            self.R[rows],
            self.t[rows],
            self.K[rows],
            self.size[rows],
            self.box[rows],
            self.start[rows],
            self.words,
        )


def empty_counts(field: VoxelField, num_groups: int, device: torch.device | str, *, hidden: bool = False) -> tuple[Tensor, ...]:
    """Zero (num, den), int32 (G, V): what ``out`` of a ``count_votes`` call takes; with ``hidden``, four for one with depth."""
    shape, number = (num_groups, field.num_voxels), 4 if hidden else 2
    if torch.device(device).type == "cpu":
        # numpy asks for huge pages: ten times faster to touch for the first time than torch's.
        return tuple(torch.from_numpy(np.zeros(shape, np.int32)) for _ in range(number))
    return tuple(torch.zeros(shape, dtype=torch.int32, device=device) for _ in range(number))


def check_call(
    field: VoxelField,
    images: VoteImages,
    group: Tensor,
    image_weight: Tensor | None,
    num_groups: int,
    out: tuple[Tensor, ...] | None = None,
    depth: BodyDepth | None = None,
) -> None:
    """Raise ValueError where the arguments of a ``count_votes`` call do not fit together."""
    n = len(images)
    check_images(field, images)
    if group.shape != (n,) or group.dtype.is_floating_point or group.dtype == torch.bool:
        raise ValueError(f"group: expected integers of shape ({n},), got {group.dtype} of shape {tuple(group.shape)}")
    if n and not (int(group.min()) >= 0 and int(group.max()) < num_groups):
        raise ValueError(f"group: expected indices 0 .. {num_groups - 1}, got {int(group.min())} .. {int(group.max())}")
    total = n
    if image_weight is not None:
        if image_weight.dtype != torch.uint8 or image_weight.shape != (n,):
            raise ValueError(
                f"weight: expected uint8 of shape ({n},), got {image_weight.dtype} of shape {tuple(image_weight.shape)}"
            )
        total = int(image_weight.sum(dtype=torch.int64))
    if total > MAX_TOTAL_WEIGHT:
        raise ValueError(f"weight: expected a sum of at most {MAX_TOTAL_WEIGHT} in one call, got {total}; split it")
    if depth is not None:
        check_depth(images, depth)
    wanted = 2 if depth is None else 4
    if out is not None and len(out) != wanted:
        raise ValueError(f"out: expected {wanted} tensors {'without' if depth is None else 'with'} depth, got {len(out)}")
    # A kernel writes where it is told to: outputs that are too small would be memory of somebody else.
    for counts in out or ():
        if counts.dtype != torch.int32 or counts.shape != (num_groups, field.num_voxels):
            raise ValueError(
                f"out: expected int32 of shape ({num_groups}, {field.num_voxels}), "
                f"got {counts.dtype} of shape {tuple(counts.shape)}"
            )
    if out is not None and len({counts.device for counts in out}) > 1:
        raise ValueError(f"out: expected tensors on one device, got {', '.join(str(counts.device) for counts in out)}")


def check_depth(images: VoteImages, depth: BodyDepth) -> None:
    """Raise ValueError where a body's depths do not fit the images."""
    if len(depth) != len(images):
        raise ValueError(f"depth: expected that of {len(images)} images, got that of {len(depth)}")
    wrong = depth.problem()
    if wrong is not None:
        raise ValueError(wrong)


def check_images(field: VoxelField, images: VoteImages) -> None:
    """Raise ValueError where tensors of images do not fit one another, or the field's body."""
    n = len(images)
    if images.poses.shape != (n, field.num_joints, 3):
        raise ValueError(
            f"images.poses: expected shape ({n}, {field.num_joints}, 3), the field's body has {field.num_joints} "
            f"joints; got {tuple(images.poses.shape)}"
        )
    for name, shape in (("R", (3, 3)), ("t", (3,)), ("K", (3, 3)), ("size", (2,)), ("box", (4,)), ("start", ())):
        found = tuple(getattr(images, name).shape)
        if found != (n, *shape):
            raise ValueError(f"images.{name}: expected shape {(n, *shape)}, one a pose; got {found}")
    if images.words.ndim != 1:
        raise ValueError(f"images.words: expected one dimension, got shape {tuple(images.words.shape)}")
    for tensor in fields(images):
        device = getattr(images, tensor.name).device
        if device != images.poses.device:
            raise ValueError(f"images.{tensor.name}: expected it on {images.poses.device}, as the poses are; got {device}")
