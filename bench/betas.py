"""``python -m bench.betas``: what each image's own shape coefficients would gain in the votes (A.4 keeps them in the fit).

Simulated people of varied builds (``--spread``) hold, wear or kick something; their true coefficients are known. Votes are
cast with the template's joints, as the project does, in the true cameras and in cameras fitted to the template (which take up
a part of the build: people of another stature seem nearer or further away); and with the joints of the image's own build, also
with each voxel at its place beside its joint. All against the truth, with people of one build as the bound. IoU at the best
threshold.
"""

from __future__ import annotations

import argparse
import copy
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from chorus.body.model import Body, load_body
from chorus.camera.fit import fit_cameras
from chorus.evaluate.intervals import t_interval
from chorus.evaluate.worlds import iou_curve
from chorus.field import CanonicalField
from chorus.images import ImageBatch
from chorus.occupancy.aggregation import aggregate
from chorus.occupancy.counts import Occupancy
from chorus.simulate.images import WORLDS, World, _further_stream, simulate, true_occupancy
from chorus.simulate.shapes import draw_shape, with_shapes

VARIANTS = ("one build", "template", "template, fitted cameras", "own joints", "own joints, attached")


def true_betas(world: World, seed: int, count: int, shaped: Body) -> NDArray[np.float64]:
    """The coefficients that ``simulate`` has drawn for the first images of a world, (I, b)."""
    drawn = []
    for index in range(count):
        rng = _further_stream(world, seed, index)
        rng.random()  # which hand
        drawn.append(draw_shape(shaped, world.shape_spread, rng))
    return np.stack(drawn)


def with_build(field: CanonicalField, joints: NDArray[np.float64], *, attached: bool) -> CanonicalField:
    """A field whose votes move by the joints (J, 3) of another build; ``attached``: a voxel moves with its joints first."""
    shift = joints - field.body.joints
    inverse = np.array(field.body.rest_inverse)
    if attached:
        inverse[:, :3, 3] += shift
    own = copy.copy(field)
    own.arrays = replace(field.arrays, rest_joints=torch.tensor(joints), rest_inverse=torch.tensor(inverse))
    return own


def votes(images: ImageBatch, field: CanonicalField, joints: NDArray[np.float64], *, attached: bool) -> Occupancy:
    """Votes of images whose people have joints (I, J, 3) of their own."""
    parts = [
        aggregate(images[np.array([i])], with_build(field, joints[i], attached=attached), backend="reference")
        for i in range(len(images))
    ]
    summed: dict[str, Any] = {
        name: np.sum([getattr(part, name) for part in parts], 0)
        for name in ("num_counts", "den_counts", "group_totals", "group_images")
    }
    return replace(parts[0], **summed, counted=None)


def fitted_to_template(images: ImageBatch, shaped: Body, betas: NDArray[np.float64]) -> ImageBatch:
    """The images with cameras that bring the template's joints to where the people's own are, as a fit without shape does."""
    cameras, poses = images.cameras, images.poses.astype(np.float64)
    at = np.einsum("iab,ijb->ija", cameras.R, shaped.posed_joints(poses, betas)) + cameras.t[:, None]
    targets = np.einsum("iab,ijb->ija", cameras.K, at)
    fit = fit_cameras(
        shaped.posed_joints(poses),
        targets[..., :2] / targets[..., 2:],
        image_size=cameras.image_size,
        R0=cameras.R,
        t0=cameras.t,
        focal0=cameras.K[:, 0, 0],
        fit_focal=False,
        method="levenberg-marquardt",
        stop_px=0.0,
        iterations=100,
    )
    return ImageBatch(images.masks, fit.cameras, images.poses, images.keys, prompts=images.prompts, warn=False)


def scores(world: World, spread: float, images: int, seed: int, field: CanonicalField) -> list[float]:
    """Best IoU of each of VARIANTS."""
    body, shaped = field.body, with_shapes(field.body)
    assert shaped.joint_shapedirs is not None
    truth = true_occupancy(world, field.centres, variants=400, body=body) >= 0.5
    varied = world.with_shapes(spread) if hasattr(world, "with_shapes") else replace(world, shape_spread=spread)
    found = []
    for one in (world, varied):
        batches = list(simulate(one, images, seed, body, batch_size=images))
        kept = batches[0].images[np.flatnonzero(batches[0].status == "complete")]
        found.append(aggregate(kept, field, backend="reference"))
    rows = np.flatnonzero(batches[0].status == "complete")
    betas = true_betas(varied, seed, images, shaped)[rows]
    joints = body.joints + np.einsum("jcb,ib->ijc", shaped.joint_shapedirs[..., : betas.shape[1]], betas)
    found.append(aggregate(fitted_to_template(kept, shaped, betas), field, backend="reference"))
    found += [votes(kept, field, joints, attached=attached) for attached in (False, True)]
    return [float(iou_curve(occupancy.probability, truth).max()) for occupancy in found]


def main(arguments: list[str] | None = None) -> int:
    """Print a table: a row a world, IoU by variant, mean over seeds."""
    parser = argparse.ArgumentParser(prog="python -m bench.betas", description=__doc__)
    parser.add_argument("--world", action="append", help="default: ball-held, hat, surfboard-carried, ball-kicked")
    parser.add_argument("--spread", type=float, default=1.0)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--resolution", type=int, default=32)
    given = parser.parse_args(arguments)
    field = CanonicalField(load_body(), given.resolution)
    print("| world | " + " | ".join(VARIANTS) + " | attached less fitted |\n|---|" + "---|" * (len(VARIANTS) + 1))
    for name in given.world or ("ball-held", "hat", "surfboard-carried", "ball-kicked"):
        each = np.array([scores(WORLDS[name], given.spread, given.images, seed, field) for seed in range(given.seeds)])
        mean, half = t_interval(tuple((each[:, 4] - each[:, 2]).tolist()))
        shown = " | ".join(f"{value:.3f}" for value in each.mean(0))
        print(f"| {name} | {shown} | {mean:+.3f} ± {half:.3f} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
