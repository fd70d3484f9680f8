"""``python -m bench.poses [--coco FILE --photos FOLDER --weights PATH [--pictures FOLDER]] [-o FILE]``: fitted poses.

Simulated people: poses a second, all at once and one by one, and the angle by which each joint is off, with landmarks as
noisy as BlazePose's. With ``--coco``, annotated photographs: BlazePose and the body fitted to it against the annotated
keypoints, 2D, and with ``--pictures`` the posed body over each photograph.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from bench.harness.landmarks import IMAGE, joint_errors, people
from bench.harness.report import load, write_record
from chorus.body.model import Body, load_body
from chorus.keypoints import COCO_KEYPOINTS, COCO_OF_BLAZEPOSE, LAYOUTS
from chorus.pictures import read_picture
from chorus.pose_fit import FitOptions, PoseFit, fit_poses

PIXELS, METRES = 4.0, 0.03
"""Noise of simulated landmarks on each axis: what BlazePose's are off by on photographs, of people some 250 px tall."""
_LIMBS = slice(5, 17)  # COCO's keypoints but those of the face


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


def photographs(body: Body, coco: Path, folder: Path, weights: Path, pictures: Path | None) -> dict[str, Any]:
    """BlazePose and the fitted body on annotated photographs; errors in shares of the person's standing height in the image."""
    from chorus.frontend.blazepose.network import Network
    from chorus.frontend.blazepose.stages import MIN_PRESENCE, MIN_VISIBILITY
    from chorus.frontend.blazepose.weights import read_weights

    network, told = Network(read_weights(weights), 2), json.loads(coco.read_text())
    files = {image["id"]: image["file_name"] for image in told["images"]}
    rows, every, posed, seen = [], [], [], []
    for note in told["annotations"]:
        keypoints = np.array(note.get("keypoints", [0] * 51), np.float64).reshape(17, 3)
        known = keypoints[:, 2] > 0
        known[: _LIMBS.start] = False
        path = next((p for p in sorted(folder.glob(f"*{files[note['image_id']]}"))), None)
        if not known.any() or path is None:
            continue
        pixels = read_picture(path)
        x, y, w, h = note["bbox"]
        began = time.perf_counter()
        found = network.find(pixels, np.array([x, y, x + w, y + h]))
        points, space, chosen = found.points[None], found.world[None], FitOptions(MIN_VISIBILITY)
        fit = fit_poses(body, points, [pixels.shape[:2]], layout="blazepose-33", world=space, options=chosen)
        seconds = time.perf_counter() - began
        if found.presence < MIN_PRESENCE or fit.reasons[0]:
            rows.append({"file": path.name, "annotation": note["id"], "refused": fit.reasons[0] or "no person seen"})
            continue
        height = fit.cameras.K[0, 0, 0] * float(np.ptp(body.vertices[:, 1])) / fit.cameras.t[0, 2]
        off = np.linalg.norm(found.points[COCO_OF_BLAZEPOSE, :2] - keypoints[:, :2], axis=1)[known] / height
        body_off = np.linalg.norm(fit.landmarks_px[0, COCO_OF_BLAZEPOSE] - keypoints[:, :2], axis=1)[known] / height
        used = fit.used[0, COCO_OF_BLAZEPOSE][known]
        every.append(off)
        posed.append(body_off)
        seen.append(body_off[used])
        row = {"file": path.name, "annotation": note["id"], "height_px": round(height), "seconds": round(seconds, 2)}
        row |= {
            "landmarks_percent": round(100 * float(np.median(off)), 1),
            "posed_percent": round(100 * float(np.median(body_off)), 1),
        }
        row |= {"posed_px": round(height * float(np.median(body_off)), 1), "residual_px": round(float(fit.residual_px[0]), 1)}
        rows.append(row | {"limbs_seen": fit.limbs_seen[0].tolist()})
        if pictures is not None:
            draw(pictures / f"{path.stem}-{note['id']}.png", pixels, body, fit)
    share = {
        name: round(100 * statistics.median(np.concatenate(v).tolist()), 2)
        for name, v in (("landmarks", every), ("posed", posed), ("posed_and_seen", seen))
    }
    return {"keypoints": COCO_KEYPOINTS[_LIMBS], "median_percent_of_height": share, "people": rows}


def draw(path: Path, pixels: NDArray[np.uint8], body: Body, fit: PoseFit) -> None:
    """The photograph, and beside it the same under the posed body."""
    from PIL import Image

    from chorus.render import face_normals, render_mesh, shade

    vertices = body.posed_vertices(fit.poses[:1])[0]
    camera = fit.cameras[np.array([0])]
    _, face = render_mesh(vertices, body.faces, camera)
    lit = shade(face, face_normals(vertices, body.faces) @ camera.R[0].T * [1, -1, -1])
    over = np.where((face >= 0)[..., None], 0.25 * pixels + 0.75 * lit, pixels).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate([pixels, over], 1)).save(path)


def main(arguments: list[str] | None = None) -> int:
    """Measure, and print the record."""
    parser = argparse.ArgumentParser(prog="python -m bench.poses", description=__doc__)
    parser.add_argument("--people", type=int, default=128, help="simulated people (128)")
    parser.add_argument("--rounds", type=int, default=3, help="times that they are fitted; the least time counts (3)")
    parser.add_argument("--coco", type=Path, help="COCO annotations of people with keypoints")
    parser.add_argument("--photos", type=Path, help="folder with their photographs, by file name, whatever stands before it")
    parser.add_argument("--weights", type=Path, help="BlazePose's weights: .tflite, .task or mediapipe's wheel")
    parser.add_argument("--pictures", type=Path, help="folder for pictures of the posed bodies")
    parser.add_argument("-o", "--output", type=Path, help="JSON file to write the record to")
    options = parser.parse_args(arguments)
    if min(options.people, options.rounds) < 1:
        parser.error("--people, --rounds: expected at least 1")
    if options.coco is not None and (options.photos is None or options.weights is None):
        parser.error("--coco: expected --photos and --weights with it")
    body = load_body()
    found: dict[str, Any] = {"load_before": load(), "simulated": simulated(body, options.people, options.rounds)}
    if options.coco is not None:
        found["photographs"] = photographs(body, options.coco, options.photos, options.weights, options.pictures)
    print(json.dumps(found, indent=1))
    if options.output is not None:
        write_record(options.output, found, f"python -m bench.poses --people {options.people} --rounds {options.rounds}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
