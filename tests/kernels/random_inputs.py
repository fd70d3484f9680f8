"""Random small inputs for vote kernels: fields, skeletons, cameras and masks, easy and nasty."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from chorus.kernels.arrays import VoteImages, VoxelField
from chorus.kernels.depth import BodyDepth, pack_depth
from chorus.kernels.kinematics import relative_transforms
from chorus.kernels.masks import PackedMasks
from chorus.kernels.reference import votes as reference_votes


def random_rotation(rng: np.random.Generator) -> NDArray[np.float64]:
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    q *= np.sign(np.diag(r))
    return q * np.linalg.det(q)


def random_field(rng: np.random.Generator, shape: tuple[int, int, int], joints: int, extent: float = 3.0) -> VoxelField:
    """Weights of 1 to 3 joints, in patches so that some bricks have one joint only."""
    spacing = extent / max(shape)
    origin = tuple((0.5 - n / 2) * spacing for n in shape)
    V = int(np.prod(shape))
    ijk = np.stack(np.unravel_index(np.arange(V), shape), -1)
    dense = np.zeros((V, joints), np.float32)
    dense[:, 0] = 1.0
    if joints > 1:
        blended = ijk[:, 0] >= shape[0] // 2
        chosen = rng.integers(0, joints, (V, 2))
        amount = rng.random((V, 2)).astype(np.float32)
        rows = np.flatnonzero(blended)
        for c in range(2):
            np.add.at(dense, (rows, chosen[rows, c]), amount[rows, c])
    dense /= dense.sum(1, keepdims=True)
    voxel, joint = np.nonzero(dense)
    offset = np.concatenate([[0], np.cumsum(np.bincount(voxel, minlength=V))])
    rest_joints = np.concatenate([np.zeros((1, 3)), rng.normal(0, 0.3, (joints - 1, 3))])
    parents = np.array([-1, *(int(rng.integers(0, j)) for j in range(1, joints))])
    rest_pose = np.zeros((1, joints, 3))
    rest_pose[0, 1:] = rng.normal(0, 0.3, (joints - 1, 3))
    parents_t, rest_t = torch.tensor(parents, dtype=torch.int32), torch.tensor(rest_joints)
    rest = relative_transforms(torch.tensor(rest_pose), rest_t, parents_t)[0]
    return VoxelField(
        shape=shape,
        origin=origin,
        spacing=spacing,
        offset=torch.tensor(offset, dtype=torch.int64),
        joint=torch.tensor(joint, dtype=torch.int32),
        weight=torch.tensor(dense[voxel, joint]),
        rest_joints=rest_t,
        parents=parents_t,
        rest_inverse=torch.linalg.inv(rest),
    )


def to_images(
    poses: NDArray[np.float64],
    R: NDArray[np.float64],
    t: NDArray[np.float64],
    K: NDArray[np.float64],
    masks: PackedMasks,
) -> VoteImages:
    return VoteImages(
        poses=torch.tensor(poses, dtype=torch.float32),
        R=torch.tensor(R, dtype=torch.float64),
        t=torch.tensor(t, dtype=torch.float64),
        K=torch.tensor(K, dtype=torch.float64),
        size=torch.from_numpy(masks.size),
        box=torch.from_numpy(masks.box),
        start=torch.from_numpy(masks.start),
        words=torch.from_numpy(masks.words.view(np.int32)),
    )


def random_mask(rng: np.random.Generator, kind: str, height: int, width: int) -> NDArray[np.bool_]:
    mask = np.zeros((height, width), bool)
    if kind == "full":
        mask[:] = True
    elif kind == "one pixel":
        mask[rng.integers(height), rng.integers(width)] = True
    elif kind == "corners":
        mask[[0, 0, -1, -1], [0, -1, 0, -1]] = True
    elif kind == "borders":
        mask[[0, -1]] = True
        mask[:, [0, -1]] = True
    elif kind == "blob":
        y, x = np.ogrid[:height, :width]
        cy, cx = rng.random(2) * (height, width)
        ry, rx = (0.05 + 0.4 * rng.random(2)) * (height, width)
        mask |= ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1
    elif kind == "noise":
        mask |= rng.random((height, width)) < 0.4
    elif kind != "empty":
        raise ValueError(kind)
    return mask


MASK_KINDS = ("empty", "full", "one pixel", "corners", "borders", "blob", "noise")


def random_images(
    rng: np.random.Generator,
    field: VoxelField,
    count: int,
    *,
    distance: tuple[float, float] = (2.0, 6.0),
    kinds: tuple[str, ...] = MASK_KINDS,
    sizes: tuple[tuple[int, int], ...] = ((64, 64), (33, 47), (120, 80), (16, 200)),
    zoom: tuple[float, float] = (0.5, 2.5),
) -> VoteImages:
    """Cameras from any side at ``distance`` of the origin (metres; 0 puts voxels behind the camera)."""
    J = field.num_joints
    poses = rng.normal(0, 0.4, (count, J, 3))
    poses[:, 0] = 0
    chosen = [sizes[rng.integers(len(sizes))] for _ in range(count)]
    R = np.stack([random_rotation(rng) for _ in range(count)]).reshape(-1, 3, 3)
    t = rng.normal(0, 0.3, (count, 3))
    t[:, 2] = rng.uniform(*distance, count)
    K = np.zeros((count, 3, 3))
    K[:, 2, 2] = 1
    for i, (h, w) in enumerate(chosen):
        K[i, 0, 0] = K[i, 1, 1] = w * rng.uniform(*zoom)
        K[i, 0, 1] = rng.normal(0, 2)
        K[i, :2, 2] = w * rng.uniform(0.3, 0.7), h * rng.uniform(0.3, 0.7)
    masks = PackedMasks.pack(random_mask(rng, kinds[rng.integers(len(kinds))], h, w) for h, w in chosen)
    return to_images(poses, R, t, K, masks)


def add_masks(images: VoteImages, masks: list[NDArray[np.bool_]], K: NDArray[np.float64]) -> VoteImages:
    """The same images with these masks and intrinsics."""
    return to_images(images.poses.numpy(), images.R.numpy(), images.t.numpy(), K, PackedMasks.pack(masks))


def adversarial_world(rng: np.random.Generator, count: int = 32) -> tuple[VoxelField, VoteImages]:
    """A world made to break a culling bound.

    Weights that jump between neighbouring voxels, joints that carry them far apart, cameras in, at and far from the grid,
    focal lengths up to tele; then the image is moved so that some voxel falls just inside or outside a border, and the mask
    is drawn around voxels: one pixel under an extreme one, all but one, exactly those that voxels meet.
    """
    J, shape = int(rng.integers(1, 7)), tuple(int(n) for n in rng.integers(1, 13, 3))
    spacing = float(rng.choice([0.004, 0.03125, 0.0625, 0.1, 0.7]))
    scale = spacing * max(shape)
    field = random_field(rng, shape, J, extent=scale)
    V = field.num_voxels
    weights = {
        0: np.eye(J)[rng.integers(0, J, V)],
        1: rng.dirichlet(np.ones(J), V),
        2: np.eye(J)[np.zeros(V, int)],
        3: rng.random((V, J)) * (rng.random((V, J)) < 0.3) + 1e-6,
    }[int(rng.integers(4))]
    field = with_weights(field, weights / weights.sum(1, keepdims=True), joint_scale=scale * rng.choice([1.0, 6.0]))
    R = np.stack([random_rotation(rng) for _ in range(count)])
    t = rng.normal(0, 0.2 * scale, (count, 3))
    t[:, 2] = np.choose(
        rng.integers(0, 3, count),
        [rng.uniform(-0.2, 1.2, count) * scale, rng.uniform(0.5, 4, count) * scale, rng.uniform(1, 50, count)],
    )
    size = rng.integers(1, 130, (count, 2)).astype(np.int32)
    focal = size.max(1) * 10 ** rng.uniform(-0.5, 1.3, count)
    focal[rng.random(count) < 0.1] = 18000
    K = np.zeros((count, 3, 3))
    K[:, 2, 2] = 1
    K[:, 0, 0], K[:, 1, 1] = focal, focal * 10 ** rng.normal(0, 0.1, count)
    K[:, 0, 1] = rng.normal(0, 1, count) * (rng.random(count) < 0.5)
    K[:, :2, 2] = size[:, ::-1] * rng.normal(0.5, 0.3, (count, 2))
    poses = rng.normal(0, rng.choice([0.1, 0.5, 1.5]), (count, J, 3))
    poses[:, 0] = 0
    bare = PackedMasks.pack(np.zeros(s, bool) for s in size)
    images = to_images(poses, R, t, K, bare)
    uv, z = (a.numpy() for a in reference_votes.project(field, images, field.dense_weights(), field.centres()))
    masks = []
    for i, (h, w) in enumerate(size.tolist()):
        seen = uv[i][z[i] > 1e-4]
        if len(seen) and rng.random() < 0.8:
            at = seen[rng.integers(len(seen))]
            low, high = rng.uniform(-0.1, 0.6), rng.uniform(-0.1, 0.6)
            column, row = rng.uniform(0, w), rng.uniform(0, h)
            places = [(low, row), (w - high, row), (column, low), (column, h - high), (column, row), (column, row)]
            move = np.array(places[rng.integers(6)]) - at
            if np.abs(move).max() < 3e4:
                K[i, :2, 2] += move
                seen = seen + move
        pixel = np.floor(seen[((seen >= 0) & (seen < (w, h))).all(1)]).astype(int)
        mask = np.zeros((h, w), bool)
        kind = int(rng.integers(4))
        if len(pixel) == 0 or kind == 3:
            mask[:] = kind % 2
        elif kind == 2:
            mask[pixel[:, 1], pixel[:, 0]] = True
        else:
            extreme = [pixel[:, 0].argmin(), pixel[:, 0].argmax(), pixel[:, 1].argmin(), pixel[:, 1].argmax()]
            u, v = pixel[extreme[rng.integers(4)]]
            mask[v, u] = True
        masks.append(~mask if rng.random() < 0.3 else mask)
    return field, add_masks(images, masks, K)


def with_weights(field: VoxelField, dense: NDArray[np.float64], joint_scale: float = 1.0) -> VoxelField:
    """The field with other weights (V, J), its joints brought nearer or farther, and the zero pose as its rest pose."""
    voxel, joint = np.nonzero(dense)
    return replace(
        field,
        offset=torch.tensor(np.concatenate([[0], np.cumsum(np.bincount(voxel, minlength=len(dense)))])),
        joint=torch.tensor(joint, dtype=torch.int32),
        weight=torch.tensor(dense[voxel, joint], dtype=torch.float32),
        rest_joints=field.rest_joints * joint_scale,
        rest_inverse=torch.eye(4, dtype=torch.float64).repeat(field.num_joints, 1, 1),
    )


def one_voxel() -> VoxelField:
    """A voxel at the origin, rigid with the only joint, which is there too."""
    return VoxelField(
        shape=(1, 1, 1),
        origin=(0.0, 0.0, 0.0),
        spacing=0.5,
        offset=torch.tensor([0, 1]),
        joint=torch.zeros(1, dtype=torch.int32),
        weight=torch.ones(1),
        rest_joints=torch.zeros(1, 3, dtype=torch.float64),
        parents=torch.tensor([-1], dtype=torch.int32),
        rest_inverse=torch.eye(4, dtype=torch.float64)[None],
    )


def pictures(t: list[tuple[float, float, float]], mask: np.ndarray, K: np.ndarray | None = None) -> VoteImages:
    """The voxel at the origin seen by cameras with identity rotation: it is at t in their frame."""
    n = len(t)
    K = np.tile([[8.0, 0, 4], [0, 8, 4], [0, 0, 1]], (n, 1, 1)) if K is None else K
    R = np.tile(np.eye(3), (n, 1, 1))
    return to_images(np.zeros((n, 1, 3)), R, np.array(t, float), K, PackedMasks.pack([mask] * n))


DEPTH_KINDS = ("none", "wall", "blob", "noise", "slope", "far", "near")


def random_depth(rng: np.random.Generator, field: VoxelField, images: VoteImages, margin: float = 0.06) -> BodyDepth:
    """Depths among those of the voxels: walls, blobs, noise and slopes, wholly in front, wholly behind, or of no body."""
    _, z = reference_votes.project(field, images, field.dense_weights(), field.centres())
    maps, shifts = [], []
    for i, (height, width) in enumerate(images.size.tolist()):
        shift = int(rng.integers(0, 5))
        shape = ((height - 1) >> shift) + 1, ((width - 1) >> shift) + 1
        low, high = (float(x) for x in (z[i].min(), z[i].max()))
        middle = z[i, rng.integers(z.shape[1])].item() - margin
        kind = DEPTH_KINDS[rng.integers(len(DEPTH_KINDS))]
        cells = np.full(shape, np.inf)
        if kind == "noise":
            cells = rng.uniform(low, high + 1e-3, shape)
            cells[rng.random(shape) < 0.3] = np.nan
        elif kind == "slope":
            cells = middle + np.linspace(low - high, high - low, shape[1]) * np.ones(shape)
        elif kind == "blob":
            cells = np.where(random_mask(rng, "blob", *shape), middle, np.inf)
        elif kind != "none":
            cells[:] = {"wall": middle, "far": high + 1.0, "near": low - 1.0}[kind]
        maps.append(cells)
        shifts.append(shift)
    return pack_depth(maps, shifts, margin)
