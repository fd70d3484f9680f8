"""Stages replaced one at a time: a real one (tiny, random weights) among those played by the simulated world.

What does not come from the real stage must be the world's to the bit, and what does must be on the world's plane: in its types,
units, orders and frames, inside its images.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import chorus
from chorus.frontend.plan import Description
from chorus.frontend.run import Settings, fill_store
from chorus.frontend.stages import ImageRequest
from chorus.keypoints import COCO_KEYPOINTS
from chorus.simulate.worlds import WORLDS
from chorus.store import Store, open_store
from tests.frontend.tiny_diffusion import save as tiny_stable_diffusion
from tests.frontend.tiny_humans import tiny_hmr_checkpoint
from tests.frontend.tiny_vision import tiny_mask2former_that_finds, tiny_vitpose

BODY = chorus.load_body()
COUNT, SIDE = 12, 64
WORLD = WORLDS["ball-held"]
SIMULATED = dict.fromkeys(("images", "detector", "keypoints", "humans"), "simulated")


def run(path: Path, options: dict[str, str] | None = None, **replaced: str) -> Store:
    options = {"images.size": str(SIDE), **(options or {})}
    requests = [ImageRequest(f"image-{i:02d}", WORLD.prompt, "", i) for i in range(COUNT)]
    description = Description("sports ball", {**SIMULATED, **replaced}, options)
    fill_store(path, requests, description, BODY, Settings(device="cpu", batch=4))
    store = open_store(path)
    assert len(store) == COUNT
    return store


@pytest.fixture(scope="module")
def true(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return run(tmp_path_factory.mktemp("true") / "s.chorus")


def both(store: Store, true: Store) -> tuple[np.ndarray, np.ndarray]:
    """The rows that are complete in both, in the same order."""
    complete = [np.flatnonzero(s.rows["has_camera"]) for s in (store, true)]
    names = [s.rows["key"][rows] for s, rows in zip((store, true), complete, strict=True)]
    keys, a, b = np.intersect1d(*names, return_indices=True)
    assert len(keys) >= COUNT // 2
    return complete[0][a], complete[1][b]


def equal(store: Store, true: Store, rows: tuple[np.ndarray, np.ndarray], *columns: str) -> None:
    for column in columns:
        a, b = store.rows[column][rows[0]], true.rows[column][rows[1]]
        assert a.dtype == b.dtype
        assert np.array_equal(a, b, equal_nan=a.dtype.kind == "f"), column


BOXES = ("box", "score/overlap", "score/person_side", "score/object_confidence", "score/person_confidence")
CAMERA = ("R", "t", "K", "pose")


def inside(values: Any) -> None:
    assert np.isfinite(values).all()
    assert (np.abs(values) <= 4 * SIDE).all()


@pytest.mark.slow
def test_real_images(true: Store, tmp_path: Path) -> None:
    """The oracles do not look at pictures: with any pictures of the right size they say the same."""
    options = {"images.steps": "2", "images.safety": "off"}
    store = run(tmp_path / "s.chorus", options, images=f"stable-diffusion={tiny_stable_diffusion(tmp_path / 'sd')}")
    rows = both(store, true)
    equal(store, true, rows, *BOXES, *CAMERA, "size", "seed", "prompt", "status", "score/keypoints")


@pytest.mark.slow
def test_a_real_detector(true: Store, tmp_path: Path) -> None:
    store = run(tmp_path / "s.chorus", detector=f"mask2former={tiny_mask2former_that_finds(tmp_path / 'm', 'sports ball')}")
    rows = both(store, true)
    equal(store, true, rows, *CAMERA, "size", "score/keypoints", "score/person_count", "score/object_count")
    box = store.rows["box"][rows[0]]
    assert (box[:, :2] >= 0).all()
    assert (box[:, 2:] <= SIDE).all()
    assert (box[:, 2:] > box[:, :2]).all()
    masks = store.batch(rows[0]).masks
    for i in range(len(rows[0])):
        ys, xs = np.nonzero(masks.unpack(i))
        assert [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1] == box[i].tolist()
    assert ((store.rows["score/object_confidence"][rows[0]] > 0) & (store.rows["score/object_confidence"][rows[0]] <= 1)).all()
    assert (store.rows["score/person_side"][rows[0]] <= SIDE).all()


@pytest.mark.slow
def test_a_real_keypoint_estimator(true: Store, tmp_path: Path) -> None:
    store = run(tmp_path / "s.chorus", keypoints=f"vitpose={tiny_vitpose(tmp_path / 'v')}")
    rows = both(store, true)
    equal(store, true, rows, *BOXES, *CAMERA, "size")
    found = store.rows["score/keypoints"][rows[0]].reshape(-1, len(COCO_KEYPOINTS), 3)
    inside(found[..., :2])
    assert ((found[..., 2] >= 0) & (found[..., 2] <= 1)).all()
    # This one finds a standing person in any crop, so its points lie about where the world's person is: same plane, same order.
    true_points = true.rows["score/keypoints"][rows[1]].reshape(found.shape)
    for name, axis, sign in (("left_shoulder", 1, -1), ("left_ankle", 1, 1)):
        hips = found[:, COCO_KEYPOINTS.index("left_hip"), axis]
        assert (sign * (found[:, COCO_KEYPOINTS.index(name), axis] - hips) > 0).all()
    assert np.median(np.abs(found[..., :2].mean(1) - true_points[..., :2].mean(1))) < SIDE / 6


@pytest.mark.slow
def test_a_real_human_estimator(true: Store, tmp_path: Path) -> None:
    store = run(tmp_path / "s.chorus", humans=f"hmr={tiny_hmr_checkpoint(tmp_path / 'hmr.pt')}")
    rows = both(store, true)
    equal(store, true, rows, *BOXES, "size", "score/keypoints")
    assert store.rows["pose"].shape == true.rows["pose"].shape
    assert (store.rows["pose"][rows[0], 0] == 0).all()
    batch, world = store.batch(rows[0]), true.batch(rows[1])
    ours, _ = batch.cameras.project(BODY.posed_joints(batch.poses))
    theirs, _ = world.cameras.project(BODY.posed_joints(world.poses))
    # The network knows no person, but its camera comes from the person's box: the same place and about the same size.
    for joints in (ours, theirs):
        inside(joints)
    assert np.median(np.abs(ours.mean(1) - theirs.mean(1))) < SIDE / 6
    size = [np.ptp(joints[..., 1], axis=1) for joints in (ours, theirs)]
    assert 0.4 < np.median(size[0] / size[1]) < 2.5
    # Upright in the camera's axes, y down: heads above feet.
    head, foot = (BODY.joint_names.index(name) for name in ("head", "left_ankle"))
    assert (ours[:, head, 1] < ours[:, foot, 1]).mean() > 0.8
