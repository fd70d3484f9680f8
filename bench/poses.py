"""``python -m bench.poses [-o FILE]``: poses fitted to the landmarks of simulated people.

Poses a second, all at once and one by one, and the angle by which each joint is off, with landmarks as noisy as BlazePose's.
Photographs are compared by ``chorus evaluate photos``.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from bench.harness.landmarks import IMAGE, joint_errors, people
from bench.harness.report import load, write_record
from chorus.body.model import Body, load_body
from chorus.keypoints import LAYOUTS
from chorus.pose_fit import PoseFit, fit_poses

PIXELS, METRES = 4.0, 0.03
"""Noise of simulated landmarks on each axis: what BlazePose's are off by on photographs, of people some 250 px tall."""


def simulated(body: Body, count: int, rounds: int) -> dict[str, Any]:
    """Rates and errors on simulated people."""
    found: dict[str, Any] = {"people": count, "noise_px": PIXELS, "noise_m": METRES}
    size = np.full((count, 2), IMAGE)
    for layout in LAYOUTS:
        made = people(body, count, layout, pixels=PIXELS, metres=METRES)
        world = made.world if layout == "blazepose-33" else None

        def fit(rows: slice, layout: str = layout, made: Any = made, world: Any = world) -> PoseFit:
            space = None if world is None else world[rows]
            return fit_poses(body, made.landmarks[rows], size[rows], layout=layout, world=space)

        fit(slice(0, 2))
        seconds, alone = [], []
        for _ in range(rounds):
            began = time.perf_counter()
            fitted = fit(slice(None))
            seconds.append(time.perf_counter() - began)
            began = time.perf_counter()
            for i in range(min(16, count)):
                fit(slice(i, i + 1))
            alone.append(time.perf_counter() - began)
        off = joint_errors(fitted.poses, made.poses)
        turned = joint_errors(fitted.orientation[:, None], Rotation.from_matrix(made.cameras.R).as_rotvec()[:, None])
        found[layout] = {
            "poses_per_second": round(count / min(seconds), 1),
            "one_by_one_per_second": round(min(16, count) / min(alone), 1),
            "steps": float(fitted.iterations.mean()),
            "converged": float(fitted.converged.mean()),
            "orientation_degrees": round(float(np.median(turned)), 1),
            "joint_degrees": {
                name: {
                    "median": round(float(np.median(off[:, j])), 1),
                    "said": round(float(np.degrees(np.median(fitted.joint_std[:, j]))), 1),
                }
                for j, name in enumerate(body.joint_names)
                if j and np.isfinite(fitted.joint_std[:, j]).all()
            },
        }
    return found


def main(arguments: list[str] | None = None) -> int:
    """Measure, and print the record."""
    parser = argparse.ArgumentParser(prog="python -m bench.poses", description=__doc__)
    parser.add_argument("--people", type=int, default=128, help="simulated people (128)")
    parser.add_argument("--rounds", type=int, default=3, help="times that they are fitted; the least time counts (3)")
    parser.add_argument("-o", "--output", type=Path, help="JSON file to write the record to")
    options = parser.parse_args(arguments)
    if min(options.people, options.rounds) < 1:
        parser.error("--people, --rounds: expected at least 1")
    body = load_body()
    found: dict[str, Any] = {"load_before": load(), "simulated": simulated(body, options.people, options.rounds)}
    print(json.dumps(found, indent=1))
    if options.output is not None:
        write_record(options.output, found, f"python -m bench.poses --people {options.people} --rounds {options.rounds}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
