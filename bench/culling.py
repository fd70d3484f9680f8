"""``python -m bench.culling [--resolution N] [--images I] [--bricks B]``: what the Triton culling leaves to do, without a GPU.

Runs ``gpu.culling`` in Triton's interpreter on images of the vote workload and a random sample of the mannequin's bricks, and
prints which share of brick-image pairs goes to which list, by the brick's number of joints, beside what the CPU kernel settles.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings

os.environ["TRITON_INTERPRET"] = "1"  # before any kernel is imported

import numpy as np
import torch
from numpy.typing import NDArray

from bench.harness.workloads import vote_workload
from chorus.body.model import load_body
from chorus.field import CanonicalField
from chorus.kernels.cpu import votes as cpu
from chorus.kernels.stats import CullingStats

LISTS = ("mask's bit alone", "both tests", "border test alone", "settled outside", "settled inside")


def shares(resolution: int, num_images: int, num_bricks: int) -> tuple[NDArray[np.float64], NDArray[np.int64], float]:
    """Of B sampled bricks: shares of their images by list, (B, 5); joints, (B,); and the share that the CPU kernel settles."""
    from chorus.kernels.gpu.arguments import Counts
    from chorus.kernels.gpu.field import field_on_device
    from chorus.kernels.gpu.passes import prepare_passes
    from chorus.kernels.gpu.votes import cull_bricks

    body = load_body()
    field = CanonicalField(body, resolution).arrays
    work = vote_workload(body, num_images)
    stats = CullingStats()
    cpu.count_votes(field, work.images, work.group, num_groups=work.num_groups, stats=stats)
    here = torch.device("cpu")
    plan = field_on_device(field, here)
    some = np.sort(np.random.default_rng(0).choice(plan.num_bricks, min(num_bricks, plan.num_bricks), replace=False))
    bricks = torch.from_numpy(some.astype(np.int32))
    found = np.zeros((len(some), 5))
    for pass_ in prepare_passes(plan, work.images, torch.zeros(num_images, dtype=torch.int64), None, here):
        lists = pass_.new_lists(len(some))
        counts = Counts(*torch.zeros(2, 1, field.num_voxels, dtype=torch.int32))
        cull_bricks(plan, pass_, lists, counts, cull=True, weighted=False, selected=bricks)
        found[:, :4] += lists.lengths.sum(1).numpy()
    found[:, 4] = num_images - found.sum(1)
    return found / num_images, plan.joint_counts[some], stats.decided / stats.pairs


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.culling", description=__doc__)
    parser.add_argument("--resolution", type=int, default=48)
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--bricks", type=int, default=300)
    options = parser.parse_args()
    warnings.simplefilter("ignore", RuntimeWarning)  # of the interpreter, where a depth is 0
    share, joints, settled = shares(options.resolution, options.images, options.bricks)
    print(f"{options.resolution}^3, {options.images} images, {len(share)} bricks of {joints.mean():.1f} joints on average")
    width = max(map(len, LISTS))
    for name, column in zip(LISTS, share.T, strict=True):
        one, more = column[joints == 1].mean(), column[joints > 1].mean()
        print(f"{name:<{width}}  {column.mean():6.1%}   one joint {one:6.1%}   more {more:6.1%}")
    done = share[:, 3:].sum(1).mean()
    print(f"settled without projecting a voxel: {done:.1%}; by the CPU kernel's tighter bound {settled:.1%}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
