"""What must hold before anything is timed. Each gate raises WrongResult; a benchmark that raises has no figure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import KDTree
from torch import Tensor

from chorus.body.model import Body
from chorus.camera.cameras import Cameras
from chorus.field import SPARSIFY_BELOW, CanonicalField, FieldParameters, voxel_centres
from chorus.images import ImageBatch
from chorus.kernels.arrays import VoteImages, VoxelField
from chorus.kernels.masks import words_in_box
from chorus.kernels.reference.votes import count_votes as reference_votes
from chorus.kernels.reference.votes import hidden_band, vote_band
from chorus.kernels.skinning import RELAXATION

if TYPE_CHECKING:
    from bench.harness.crowds import Crowd


class Workload(Protocol):
    """Images to vote with: ``bench.harness.workloads.VoteWorkload``, ``bench.harness.crowds.Crowd``."""

    @property
    def images(self) -> VoteImages: ...

    @property
    def group(self) -> Tensor: ...

    @property
    def num_groups(self) -> int: ...

    def __len__(self) -> int: ...

    def rows(self, rows: slice | NDArray[np.intp]) -> Workload: ...


Counts = tuple[Tensor, ...]
CastVotes = Callable[[Workload], Counts]
FIELD_TOLERANCE = 2e-5
"""Of a weight: float32 against float64, and the weights below 1e-6 that sparsification drops."""


class WrongResult(AssertionError):
    """What is to be timed gives a wrong answer."""


def check_within_band(counts: Counts, expected: Counts, band: Tensor, name: str, names: Sequence[str] = ("num", "den")) -> None:
    """Counts may differ from the float64 reference by the votes that float32 may decide otherwise, no more."""
    for what, have, want in zip(names, counts, expected, strict=True):
        excess = (have.long() - want.long()).abs() - band.long()
        if int(excess.max()) > 0:
            raise WrongResult(
                f"{name}: {what} differs from the float64 reference by more than the contract allows in "
                f"{int((excess > 0).sum()):,} of {excess.numel():,} counts"
            )


def crop(field: VoxelField, first: tuple[int, int, int], shape: tuple[int, int, int]) -> tuple[VoxelField, Tensor]:
    """A box of a field's voxels as a field, and the flat indices of its voxels in the whole."""
    device = field.weight.device
    x, y, z = (torch.arange(f, min(f + n, N), device=device) for f, n, N in zip(first, shape, field.shape, strict=True))
    NY, NZ = field.shape[1:]
    voxels = ((x[:, None, None] * NY + y[:, None]) * NZ + z).reshape(-1)
    length = (field.offset[1:] - field.offset[:-1])[voxels]
    offset = torch.cat([length.new_zeros(1), length.cumsum(0)])
    entries = torch.repeat_interleave(field.offset[:-1][voxels] - offset[:-1], length)
    entries += torch.arange(len(entries), device=device)
    x0, y0, z0 = (o + f * field.spacing for o, f in zip(field.origin, first, strict=True))
    part = replace(
        field,
        shape=(len(x), len(y), len(z)),
        origin=(x0, y0, z0),
        offset=offset,
        joint=field.joint[entries],
        weight=field.weight[entries],
    )
    return part, voxels


CHECKED_SIDE = 64
"""Voxels along a side of the boxes checked of large fields: all their voxels in float64 would take minutes and gigabytes."""


def checked_parts(field: VoxelField) -> list[tuple[VoxelField, Tensor]]:
    """What the float64 reference is asked of a field: everything; of a large one the box in its middle and its last corner."""
    if max(field.shape) <= 1.5 * CHECKED_SIDE:
        return [crop(field, (0, 0, 0), field.shape)]
    middle = [(n - CHECKED_SIDE) // 2 for n in field.shape]
    corner = [n - CHECKED_SIDE // 2 for n in field.shape]
    side = (CHECKED_SIDE,) * 3
    return [crop(field, (f[0], f[1], f[2]), side) for f in (middle, corner)]


def check_votes(contenders: dict[str, CastVotes], field: VoxelField, workload: Workload, subset: int) -> None:
    """Every contender against the float64 reference on ``subset`` images, spread evenly over the workload.

    The reference runs where the images are. Of fields beyond 96^3 two boxes of voxels are checked, see ``checked_parts``.
    """
    rows = np.unique(np.linspace(0, len(workload) - 1, subset).astype(np.intp))
    some = workload.rows(rows)
    counts = {name: cast(some) for name, cast in contenders.items()}
    for name, (num, den) in counts.items():
        if int(num.sum()) == 0 or int(den.sum()) == 0:
            raise WrongResult(f"{name}: no vote was cast; the workload checks nothing")
    for part, voxels in checked_parts(field):
        expected = reference_votes(part, some.images, some.group, num_groups=some.num_groups, batch=1)
        band = vote_band(part, some.images, some.group, num_groups=some.num_groups, batch=1)
        for name, (num, den) in counts.items():
            check_within_band((num[:, voxels], den[:, voxels]), expected, band, name)


def check_hidden(contenders: dict[str, CastVotes], field: VoxelField, workload: Crowd, subset: int) -> None:
    """As ``check_votes``, of votes with the body's depth: all four counts, and hidden ones are no more than all."""
    some = workload.rows(np.unique(np.linspace(0, len(workload) - 1, subset).astype(np.intp)))
    if some.depth is None:
        raise WrongResult("hidden votes: the workload has no depth")
    how: dict[str, Any] = {"num_groups": some.num_groups}
    expected = reference_votes(field, some.images, some.group, depth=some.depth, batch=1, **how)
    band = vote_band(field, some.images, some.group, batch=1, **how)
    hidden = hidden_band(field, some.images, some.group, depth=some.depth, **how)
    for name, cast in contenders.items():
        counts = cast(some)
        if len(counts) != 4 or int(counts[2].sum()) == 0 or bool((counts[2] > counts[0]).any() | (counts[3] > counts[1]).any()):
            raise WrongResult(f"{name}: expected hidden counts, some of all; none were counted, or more than all")
        check_within_band(counts[:2], expected[:2], band, name)
        check_within_band(counts[2:], expected[2:], hidden, name, ("num_hidden", "den_hidden"))


def check_adds_up(cast: CastVotes, workload: Workload, name: str) -> Counts:
    """The counts of the whole workload, bit for bit the sum of those of two pieces; returned."""
    whole = cast(workload)
    split = len(workload) // 3
    if split:
        pieces = cast(workload.rows(slice(0, split))), cast(workload.rows(slice(split, None)))
        names = ("num", "den", "num_hidden", "den_hidden")[: len(whole)]
        for what, have, *parts in zip(names, whole, *pieces, strict=True):
            if not torch.equal(have, parts[0] + parts[1]):
                raise WrongResult(f"{name}: {what} of all images is not the sum over two pieces of them")
    return whole


def plain_weights(body: Body, parameters: FieldParameters) -> NDArray[np.float64]:
    """Eq. 4, 9, 10 and the smoothing as they are written, for every voxel and joint in numpy, float64 (V, J)."""
    p = parameters
    N, J = p.resolution, body.num_joints
    points = voxel_centres(N, p.extent).reshape(-1, 3)
    tree = KDTree(body.rest_vertices)
    weights = np.empty((len(points), J))
    nearest = np.empty(len(points))
    vertex_weights = body.weights.astype(np.float64)
    for first in range(0, len(points), 20_000):
        rows = slice(first, first + 20_000)
        d, index = (np.asarray(found) for found in tree.query(points[rows], k=p.k, workers=-1))
        nearest[rows] = d[:, 0]
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.where(d[:, :1] > 0, 1 / d, np.arange(p.k) == 0)
        share /= share.sum(1, keepdims=True)
        alpha = np.maximum((p.tau - d[:, 0]) / (p.tau + d[:, 0]), 0) ** p.s
        weights[rows] = alpha[:, None] * np.einsum("vk,vkj->vj", share, vertex_weights[index])
        weights[rows, 0] += 1 - alpha
    grid, far = weights.reshape(N, N, N, J), (nearest > p.tau).reshape(N, N, N)
    pelvis = np.eye(J)[0]
    inner = (slice(1, -1),) * 3
    for _ in range(p.smoothing_steps):
        around = np.zeros((N - 2,) * 3 + (J,))
        for axis in range(3):
            for shift in (slice(0, -2), slice(2, None)):
                around += grid[tuple(shift if a == axis else slice(1, -1) for a in range(3))]
        new = grid.copy()
        new[inner] = (1 - RELAXATION) * grid[inner] + RELAXATION / 6 * around
        new[far] = pelvis
        grid = new / new.sum(-1, keepdims=True)
    weights = np.where(grid.reshape(-1, J) < SPARSIFY_BELOW, 0, grid.reshape(-1, J))
    return np.asarray(weights / weights.sum(1, keepdims=True))


def check_field(field: CanonicalField, plain: NDArray[np.float64] | None = None) -> None:
    """Weights are weights, and are the plain computation's where that is given."""
    weights = field.weights.reshape(field.resolution**3, -1)
    if not (np.isfinite(weights).all() and weights.min() >= 0 and np.abs(weights.sum(1) - 1).max() < 1e-5):
        raise WrongResult(f"{field}: weights are not all in 0..1 with a sum of 1")
    if plain is not None:
        off = float(np.abs(weights - plain).max())
        if not off < FIELD_TOLERANCE:
            raise WrongResult(f"{field}: weights differ from the plain computation by {off:.2g}")


def check_same_images(read: list[ImageBatch], written: ImageBatch) -> None:
    """What was read is what was written, image by image, bit for bit."""
    n = sum(len(batch) for batch in read)
    if n != len(written):
        raise WrongResult(f"store: wrote {len(written)} images, read {n}")
    row = 0
    for batch in read:
        expected = written[row : row + len(batch)]
        if batch.keys.tolist() != expected.keys.tolist():
            raise WrongResult(f"store: other keys from row {row} on")
        for name, have, want in (
            ("box", batch.masks.box, expected.masks.box),
            ("poses", batch.poses, expected.poses),
            *((name, getattr(batch.cameras, name), getattr(_stored(expected.cameras), name)) for name in ("R", "t", "K")),
        ):
            if not np.array_equal(have, want):
                raise WrongResult(f"store: {name} differ from row {row} on")
        for i, count in enumerate(words_in_box(expected.masks.box)):
            have, want = (m.words[m.start[i] : m.start[i] + count] for m in (batch.masks, expected.masks))
            if not np.array_equal(have, want):
                raise WrongResult(f"store: the mask of row {row + i} differs")
        row += len(batch)


def _stored(cameras: Cameras) -> Cameras:
    """Cameras as a store keeps them, in float32."""
    R, t, K = (getattr(cameras, name).astype(np.float32) for name in ("R", "t", "K"))
    return Cameras(R, t, K, cameras.image_size)
