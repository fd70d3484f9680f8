"""With all stages played by the world, the store is the simulated one; and their outputs fit one another and the contracts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

import chorus
from chorus.errors import InputError
from chorus.frontend import simulated
from chorus.frontend.pipeline import Pipeline, Stages
from chorus.frontend.registry import KINDS, make, stages
from chorus.frontend.simulated import (
    SimulatedDetector,
    SimulatedHumans,
    SimulatedImages,
    SimulatedKeypoints,
    SimulatedPrompts,
)
from chorus.frontend.stages import PERSON, Human, ImageRequest, Picture, Runtime
from chorus.keypoints import COCO_KEYPOINTS
from chorus.simulate.images import image_key, write_world
from chorus.simulate.worlds import WORLDS
from chorus.store import StoreWriter, open_store

BODY = chorus.load_body()
SIZE = (112, 112)


def worlds() -> list[chorus.simulate.worlds.World]:
    """Two ways to meet a ball, from so near that some images show no ball and parts of the person are outside."""
    near = replace(WORLDS["ball-held"].cameras, fill=(0.6, 3.0), closest=0.8, look_at=0.4)
    return [replace(WORLDS[name], image_sizes=(SIZE,), cameras=near) for name in ("ball-held", "ball-kicked")]


@pytest.fixture
def near_worlds(monkeypatch: pytest.MonkeyPatch) -> list[chorus.simulate.worlds.World]:
    made = worlds()
    monkeypatch.setattr(simulated, "WORLDS", {world.name: world for world in made})
    simulated.truth.cache_clear()
    yield made
    simulated.truth.cache_clear()


def test_all_oracles_give_the_simulated_store(tmp_path: Path, near_worlds: list[chorus.simulate.worlds.World]) -> None:
    count = 80
    write_world(tmp_path / "true.chorus", near_worlds, count, 0, BODY)
    true = open_store(tmp_path / "true.chorus")
    wanted = [ImageRequest(image_key(world, 0, i), world.prompt, "", i) for world in near_worlds for i in range(count // 2)]
    made = Stages(SimulatedImages(BODY, SIZE), SimulatedDetector(BODY), SimulatedKeypoints(BODY), SimulatedHumans(BODY))
    with StoreWriter(tmp_path / "made.chorus", category="sports ball", body_hash=BODY.hash, person_masks=True) as writer:
        pipeline = Pipeline(made, "sports ball", BODY, person_masks=True)
        pipeline.run([wanted[i : i + 16] for i in range(0, count, 16)], writer)
    store = open_store(tmp_path / "made.chorus")

    def rows(of: chorus.store.Store, keys: list[bytes]) -> np.ndarray:
        place = {key: i for i, key in enumerate(of.rows["key"].tolist())}
        return np.array([place[key] for key in keys])

    keys = sorted(true.rows["key"].tolist())
    assert sorted(store.rows["key"].tolist()) == keys
    ours, theirs = rows(store, keys), rows(true, keys)
    for column in ("prompt", "status", "size"):
        assert np.array_equal(store.rows[column][ours], true.rows[column][theirs]), column
    complete = true.rows["status"][theirs] == "complete"
    assert 0 < (~complete).sum() < 0.7 * count
    ours, theirs = ours[complete], theirs[complete]
    # nothing is lost on the way: not a bit of a mask, not a digit of a pose or a camera
    for column in ("R", "t", "K", "pose", "box", "person_box"):
        assert np.array_equal(store.rows[column][ours], true.rows[column][theirs]), column
    for a, b in (
        (store.batch(ours).masks, true.batch(theirs).masks),
        (store.person_masks(ours), true.person_masks(theirs)),
    ):
        assert all(np.array_equal(a.unpack(i), b.unpack(i)) for i in range(len(ours)))
    for score in ("person_count", "object_count", "person_confidence", "object_confidence", "overlap"):
        assert np.array_equal(store.rows[f"score/{score}"][ours], true.rows[f"score/{score}"][theirs]), score
    outside = 0
    for name in ("left_shoulder", "right_shoulder", "left_hip", "right_hip"):
        a, b = store.rows[f"score/keypoint_{name}"][ours], true.rows[f"score/keypoint_{name}"][theirs]
        x, y = store.rows["score/keypoints"][ours].reshape(-1, 17, 3)[:, COCO_KEYPOINTS.index(name), :2].T
        inside = (x >= 0) & (x < SIZE[1]) & (y >= 0) & (y < SIZE[0])
        assert np.array_equal(a[inside], b[inside])
        assert (a[~inside] == 0).all()
        assert (b[~inside] <= 0.3).all()
        outside += np.count_nonzero(~inside)
    assert outside > 0
    field = chorus.CanonicalField(BODY, 16)
    a, b = chorus.aggregate(store, field, filter="none"), chorus.aggregate(true, field)
    assert np.array_equal(a.num_counts, b.num_counts)
    assert np.array_equal(a.den_counts, b.den_counts)


def pictures(count: int = 12, name: str = "ball") -> list[Picture]:
    asked = [ImageRequest(f"k{i}", WORLDS[name].prompt, "", i) for i in range(count)]
    return [p for p in SimulatedImages(BODY, (160, 160)).images(asked) if isinstance(p, Picture)]


def test_boxes_masks_keypoints_and_cameras_are_on_one_plane() -> None:
    shown = pictures()
    found = SimulatedDetector(BODY).detect(shown, "ball")
    keypoints = SimulatedKeypoints(BODY).keypoints(shown, np.stack([f.of(PERSON).boxes[0] for f in found]))
    humans = SimulatedHumans(BODY).humans(shown, np.zeros((len(shown), 4), np.float32))
    for picture, instances, points, human in zip(shown, found, keypoints, humans, strict=True):
        assert isinstance(human, Human)
        for mask, box in zip(instances.masks, instances.boxes, strict=True):
            rows, columns = np.nonzero(mask)
            assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert (picture.pixels[instances.of("ball").masks[0]] == simulated.OBJECT_COLOUR).all()
        assert human.camera is not None
        uv, _ = human.camera.project(BODY.posed_joints(human.pose[None]))
        for name in ("left_shoulder", "right_hip", "left_ankle"):
            point = points[COCO_KEYPOINTS.index(name), :2]
            assert np.abs(uv[0, BODY.joint_names.index(name)] - point).max() < 1e-3
        # the orientation turns the person's frame into the camera's axes
        assert np.abs(Rotation.from_rotvec(human.orientation).as_matrix() - human.camera.R[0]).max() < 1e-6  # float32
        hip = points[COCO_KEYPOINTS.index("left_hip"), :2]
        x0, y0, x1, y1 = instances.of(PERSON).boxes[0]
        assert x0 - 1 <= hip[0] <= x1 + 1 or not 0 <= hip[0] < 160
        assert y0 - 1 <= hip[1] <= y1 + 1 or not 0 <= hip[1] < 160


def test_fitted_cameras_agree_with_the_true_ones(tmp_path: Path) -> None:
    world = WORLDS["ball"]
    wanted = [ImageRequest(f"k{i}", world.prompt, "", i) for i in range(24)]
    cameras = {}
    for name in ("known", "fitted"):
        made = Stages(
            SimulatedImages(BODY, (256, 256)), SimulatedDetector(BODY), SimulatedKeypoints(BODY), SimulatedHumans(BODY, name)
        )
        with StoreWriter(tmp_path / f"{name}.chorus", category="ball", body_hash=BODY.hash) as writer:
            Pipeline(made, "ball", BODY, calibration={"method": "levenberg-marquardt"}).run([wanted], writer)
        store = open_store(tmp_path / f"{name}.chorus")
        assert set(store.rows["status"].tolist()) == {"complete"}
        cameras[name] = store
    turned = Rotation.from_matrix(cameras["known"].rows["R"].astype(float)).inv() * Rotation.from_matrix(
        cameras["fitted"].rows["R"].astype(float)
    )
    assert np.degrees(turned.magnitude()).max() < 2
    assert np.isnan(cameras["known"].rows["residual_px"]).all()
    assert (cameras["fitted"].rows["residual_px"] < 0.7).all()


def test_every_kind_has_a_simulated_stage_and_two_more() -> None:
    for kind in KINDS:
        names = [info.name for info in stages(kind)]
        assert "simulated" in names
        assert len(names) >= 3, (kind, names)
        for info in stages(kind):
            assert info.licence, info
            assert info.weights, info


def test_simulated_stages_are_made_by_name() -> None:
    runtime = Runtime(body=BODY)
    both = [WORLDS[name].prompt for name in ("ball-held", "ball-kicked")]
    assert make("prompts", "simulated", runtime).prompts("sports ball", 5) == both
    assert make("images", "simulated", Runtime(body=BODY, options={"size": "96"})).size == (96, 96)
    for kind in ("detector", "keypoints", "humans"):
        make(kind, "simulated", runtime)
    with pytest.raises(InputError, match=r"--humans: expected one of .*simulated.*; got 'nobody'"):
        make("humans", "nobody", runtime)
    with pytest.raises(InputError, match="expected no model"):
        make("detector", "simulated=x", runtime)
    with pytest.raises(InputError, match=r"--set humans\.camera: expected known or fitted"):
        make("humans", "simulated", Runtime(body=BODY, options={"camera": "new"}))
    with pytest.raises(InputError, match=r"--set images.colour: expected one of this stage's options \(size\)"):
        make("images", "simulated", Runtime(body=BODY, options={"colour": "red"}))
    with pytest.raises(InputError, match=r"category: expected one that is simulated .*'piano'"):
        SimulatedPrompts().prompts("piano", 3)
    with pytest.raises(InputError, match="prompt: expected that of a simulated world"):
        SimulatedImages(BODY).images([ImageRequest("k", "a person plays the piano", "", 0)])
