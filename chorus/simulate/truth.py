"""The truth of a simulated world: which voxels of the rest pose its object occupies, computed without images."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chorus.errors import check_array, check_kind, check_whole
from chorus.simulate.objects import OBJECTS, Shape, joint_index
from chorus.simulate.scene import carrier, draw_pose, posed
from chorus.simulate.worlds import World

if TYPE_CHECKING:
    from chorus.body.model import Body


def true_occupancy(
    world: World, centres: Any, seed: int = 0, variants: int = 2000, body: Body | None = None
) -> NDArray[np.float32]:
    """The share of an object class's random variants that occupy each voxel centre, in the canonical frame.

    centres (Nx, Ny, Nz, 3) metres in the rest-pose person frame -> (Nx, Ny, Nz) float32 in 0..1. The true voxels of a
    world are those where this is >= 0.5. The variants are drawn independently of the images'. Raises InputError for another
    shape and fewer than one variant.

    An object on one joint lies in the rest pose as it is drawn. Where the hand changes (``World.mirrored``), each place has
    the share of the images that have the object there, and the larger of the two counts: a voxel is true where half of the
    variants are, in either hand. An object held in both hands has no place in the rest pose, whose hands are further apart.
    A voxel x belongs to the hand a that is nearer in the rest pose and moves with it, B_a x: it is occupied where that lies
    in the object as it is held, in a random pose of the world.
    """
    points = check_array("centres", centres, ("Nx", "Ny", "Nz", 3), np.float64)
    check_kind("world", world, World)
    check_whole("variants", variants, 1)
    check_whole("seed", seed, 0)
    if body is None:
        from chorus.body.model import load_body

        body = load_body()
    kind = OBJECTS[world.object_class]
    rng = np.random.default_rng([seed, zlib.crc32(f"truth|{world.object_class}".encode())])
    if kind.other_joint is not None:
        return _held_in_both(world, points, rng, variants, body)
    drawn = [kind.draw(rng, body) for _ in range(variants)]
    places = []
    if world.mirrored < 1:
        places.append(drawn)
    if world.mirrored > 0:
        places.append([tuple(shape.mirrored() for shape in shapes) for shapes in drawn])
    shares: NDArray[np.float32] = np.maximum.reduce([_share(points, place) for place in places])
    return shares


def _share(points: NDArray[np.float64], drawn: Sequence[Sequence[Shape]]) -> NDArray[np.float32]:
    corners = np.concatenate([shape.mesh()[0] for shapes in drawn for shape in shapes])
    near = ((points >= corners.min(0) - 0.01) & (points <= corners.max(0) + 0.01)).all(-1)
    candidates = points[near]
    hits = np.zeros(len(candidates), np.int64)
    for shapes in drawn:
        hits += np.logical_or.reduce([shape.contains(candidates) for shape in shapes])
    share = np.zeros(points.shape[:3], np.float32)
    share[near] = hits / len(drawn)
    return share


def _held_in_both(
    world: World, points: NDArray[np.float64], rng: np.random.Generator, variants: int, body: Body
) -> NDArray[np.float32]:
    kind = OBJECTS[world.object_class]
    assert kind.other_joint is not None
    hands = [joint_index(body, name) for name in (kind.joint, kind.other_joint)]
    flat = points.reshape(-1, 3)
    right, left = (np.linalg.norm(flat - body.rest_joints[hand], axis=1) for hand in hands)
    owned = [(voxels, flat[voxels].T.copy()) for voxels in (np.flatnonzero(right <= left), np.flatnonzero(right > left))]
    hits = np.zeros(len(flat), np.int64)
    for _ in range(variants):
        shapes = kind.draw(rng, body)
        if rng.random() < world.mirrored:
            shapes = tuple(shape.mirrored() for shape in shapes)
        transforms, joints = posed(body, draw_pose(world, body, rng).astype(np.float64))
        to_object = np.linalg.inv(carrier(kind, body, transforms, joints))
        corners = np.concatenate([shape.mesh()[0] for shape in shapes])
        for hand, (voxels, xyz) in zip(hands, owned, strict=True):
            moved = to_object @ transforms[hand] @ body.rest_inverse[hand]
            around = (corners - moved[:3, 3]) @ moved[:3, :3]  # a rigid transform's inverse
            low, high = around.min(0) - 0.01, around.max(0) + 0.01
            within = [(axis >= lowest) & (axis <= highest) for axis, lowest, highest in zip(xyz, low, high, strict=True)]
            near = voxels[within[0] & within[1] & within[2]]
            local = flat[near] @ moved[:3, :3].T + moved[:3, 3]
            hits[near] += np.logical_or.reduce([shape.contains(local) for shape in shapes])
    return (hits / variants).astype(np.float32).reshape(points.shape[:3])
