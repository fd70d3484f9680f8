"""The simulated world: repeatable, its masks where its objects are, its truth what it should be."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from scipy import ndimage

from chorus.body.model import Body, load_body
from chorus.cli import main
from chorus.errors import InputError, MismatchError
from chorus.simulate.images import (
    DEMO,
    WORLDS,
    CameraDistribution,
    MaskNoise,
    SimulatedBatch,
    World,
    _DrawnBody,
    _further_stream,
    _streams,
    image_key,
    simulate,
    true_occupancy,
    write_world,
)
from chorus.simulate.objects import KINDS, OBJECTS, SIZE_SPREAD, Shape, joint_index
from chorus.simulate.scene import carrier, posed
from chorus.store import StoreWriter, open_store


@pytest.fixture(scope="module")
def body() -> Body:
    return load_body()


def small(world: World, **changes: Any) -> World:
    return replace(world, **({"image_sizes": ((160, 160),)} | changes))


def batch(world: World, count: int, body: Body, seed: int = 3, **how: Any) -> SimulatedBatch:
    (only,) = simulate(world, count, seed, body, batch_size=max(count, 1), **how)
    return only


def dense(packed: Any) -> list[np.ndarray]:
    return [packed.unpack(i) for i in range(len(packed))]


def row(given: SimulatedBatch, i: int) -> list[bytes]:
    """Everything about one image, as bytes."""
    images, persons = given.images, given.person_masks
    arrays = [
        images.masks.unpack(i),
        persons.unpack(i),
        images.poses[i],
        images.keys[i],
        images.prompts[i],
        images.cameras.R[i],
        images.cameras.t[i],
        images.cameras.K[i],
        images.cameras.image_size[i],
        given.views[i],
        given.seeds[i],
        given.status[i],
        *(given.scores[name][i] for name in sorted(given.scores)),
    ]
    return [np.asarray(a).tobytes() for a in arrays]


def grid(n: int, low: Any = -1.5, high: Any = 1.5) -> np.ndarray:
    axes = [np.linspace(lo, hi, n) for lo, hi in zip(np.broadcast_to(low, 3), np.broadcast_to(high, 3), strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1)


@pytest.mark.parametrize("kind", KINDS)
def test_mesh_and_inside_test_agree(kind: str) -> None:
    rng = np.random.default_rng(1)
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    turn[:, 0] *= np.linalg.det(turn)
    shape = Shape(kind, np.array([0.3, 0.5, 0.2]), np.array([0.1, -0.2, 0.3]), turn)
    vertices, faces = shape.mesh()
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    assert {tuple(e) for e in edges} == {tuple(e[::-1]) for e in edges}  # closed, consistently wound
    assert len({tuple(e) for e in edges}) == len(edges)
    a, b, c = (vertices[faces[:, i]] - shape.centre for i in range(3))
    volume = np.einsum("fi,fi->", a, np.cross(b, c)) / 6
    share = {"box": 8.0, "ellipsoid": 4 / 3 * np.pi, "cylinder": 2 * np.pi}[kind]
    assert volume == pytest.approx(share * shape.half.prod(), rel=0.01)  # positive: outward
    points = shape.centre + rng.uniform(-0.7, 0.7, (40_000, 3))
    assert shape.contains(points).mean() * 1.4**3 == pytest.approx(share * shape.half.prod(), rel=0.05)
    assert shape.contains(shape.centre + 0.999 * (vertices - shape.centre)).all()
    assert not shape.contains(shape.centre + 1.02 * (vertices - shape.centre)).any()
    assert shape.contains(points.reshape(200, 200, 3)).shape == (200, 200)


@pytest.mark.parametrize("name", WORLDS)
def test_images_depend_on_seed_and_index_alone(name: str, body: Body) -> None:
    world = small(WORLDS[name], image_sizes=((160, 160), (120, 200)))
    whole = batch(world, 9, body, workers=1)
    parts = list(simulate(world, 9, 3, body, batch_size=4, workers=3))
    assert [len(p) for p in parts] == [4, 4, 1]
    again = [row(p, i) for p in parts for i in range(len(p))]
    assert again == [row(whole, i) for i in range(9)]
    (late,) = simulate(world, 2, 3, body, start=5)
    assert [row(late, i) for i in range(2)] == again[5:7]
    other = batch(world, 9, body, seed=4)
    assert not set(map(tuple, again)) & {tuple(row(other, i)) for i in range(9)}
    assert len({tuple(r) for r in again}) == 9
    assert [k.decode() for k in whole.images.keys] == [f"{name}-3-{i:07d}" for i in range(9)]


def test_what_is_rounded_was_rounded_before_drawing(body: Body) -> None:
    cameras = batch(small(WORLDS["ball"]), 5, body).images.cameras
    for array in (cameras.R, cameras.t, cameras.K):
        np.testing.assert_array_equal(array, array.astype(np.float32))


def test_poses(body: Body) -> None:
    poses = batch(small(WORLDS["ball"], image_sizes=((16, 16),)), 150, body).images.poses
    off = poses[:, 1:] - body.rest_pose[1:]
    assert (poses[:, 0] == 0).all()
    np.testing.assert_allclose(off.mean(0), 0, atol=0.1)
    np.testing.assert_allclose(off.std(0), 0.25, rtol=0.25)
    carried = batch(small(WORLDS["surfboard-carried"], image_sizes=((16, 16),), pose_noise=0.0), 40, body).images.poses
    hips = carried[:, joint_index(body, "left_hip")]
    assert set(np.round(hips[:, 0], 3).tolist()) == set(np.float32([-0.3, 0, 0.3]).tolist())
    np.testing.assert_allclose(carried[:, joint_index(body, "right_shoulder"), 2], 1.25)


@pytest.mark.parametrize("name", WORLDS)
def test_masks_lie_where_the_object_is(name: str, body: Body) -> None:
    """Points in the solids, moved by the body's bone transforms, projected by Cameras.project, fall on the mask."""
    world = small(WORLDS[name], image_sizes=((256, 256),), occlusion=False, mask_noise=MaskNoise())
    given = batch(world, 8, body)
    kind = OBJECTS[world.object_class]
    bones = body.bone_transforms(given.images.poses)
    rng, seen = np.random.default_rng(0), 0
    for i, mask in enumerate(dense(given.images.masks)):
        shapes = kind.draw(_streams(world, 3, i)[0], body)
        other_hand = _further_stream(world, 3, i).random() < world.mirrored
        if other_hand:
            shapes = tuple(shape.mirrored() for shape in shapes)
        mirrored = {"left_hand": "right_hand", "right_hand": "left_hand"}
        bone = bones[i, joint_index(body, mirrored[kind.joint] if other_hand else kind.joint)]
        if kind.other_joint is not None:
            bone = carrier(kind, body, *posed(body, given.images.poses[i].astype(np.float64)))[:3]
        corners = np.concatenate([s.mesh()[0] for s in shapes])
        points = rng.uniform(corners.min(0), corners.max(0), (60_000, 3))
        points = points[np.logical_or.reduce([s.contains(points) for s in shapes])]
        assert len(points) > 500
        uv, z = given.images.cameras[i : i + 1].project(points @ bone[:, :3].T + bone[:, 3])
        assert (z > 0).all()
        column, line = np.floor(uv[0]).astype(int).T
        on = (column >= 0) & (column < 256) & (line >= 0) & (line < 256)
        grown = ndimage.binary_dilation(mask, np.ones((3, 3)))
        assert grown[line[on], column[on]].all()
        # ... and the mask is no larger than the points: every pixel well inside has points near.
        hit = np.zeros_like(mask)
        hit[line[on], column[on]] = True
        missed = mask & ~ndimage.binary_dilation(hit, iterations=6)  # close to the camera points lie apart
        assert missed.sum() <= 0.001 * mask.sum()
        seen += on.sum()
    assert seen > 1000


def test_person_masks_are_the_posed_body(body: Body) -> None:
    given = batch(WORLDS["ball"], 6, body)
    posed = body.posed_vertices(given.images.poses)
    spread = np.random.default_rng(0).dirichlet(np.ones(3), (5, len(body.faces)))  # points on the skin: 5 a face
    for i, mask in enumerate(dense(given.person_masks)):
        skin = np.einsum("kfc,fca->kfa", spread, posed[i][body.faces]).reshape(-1, 3)
        uv, _ = given.images.cameras[i : i + 1].project(skin)
        column, line = np.floor(uv[0]).astype(int).T
        on = (column >= 0) & (column < 512) & (line >= 0) & (line < 512)
        # Fingers thinner than a pixel miss the pixel centres, so a few points have no pixel of the mask beside them.
        assert ndimage.binary_dilation(mask, np.ones((3, 3)))[line[on], column[on]].mean() > 0.999
        hit = np.zeros_like(mask)
        hit[line[on], column[on]] = True
        assert (ndimage.binary_dilation(hit, iterations=4) >= mask).all()


def test_fast_skinning_is_the_bodys(body: Body) -> None:
    pose = batch(small(WORLDS["hat"]), 1, body).images.poses
    vertices, transforms, joints = _DrawnBody(body).pose(pose[0])
    np.testing.assert_allclose(vertices, body.posed_vertices(pose)[0], atol=1e-6)
    np.testing.assert_allclose((transforms @ body.rest_inverse)[:, :3], body.bone_transforms(pose)[0], atol=1e-12)
    np.testing.assert_allclose(joints, body.posed_joints(pose)[0], atol=1e-12)


def test_occlusion_only_removes_pixels(body: Body) -> None:
    free = batch(small(WORLDS["backpack"]), 24, body)
    hidden = batch(small(WORLDS["backpack"].occluded()), 24, body)
    np.testing.assert_array_equal(free.images.poses, hidden.images.poses)
    np.testing.assert_array_equal(free.images.cameras.R, hidden.images.cameras.R)
    removed = 0
    for i in range(24):
        whole, part = free.images.masks.unpack(i), hidden.images.masks.unpack(i)
        person, visible = free.person_masks.unpack(i), hidden.person_masks.unpack(i)
        assert (whole >= part).all()
        assert (person >= visible).all()
        assert not (part & visible).any()
        np.testing.assert_array_equal(part | visible, whole | person)  # a pixel goes to one of the two, never to none
        assert hidden.scores["object_visible"][i] == pytest.approx(part.sum() / max(whole.sum(), 1))
        removed += (whole & ~part).sum()
    assert removed > 1000
    # From in front a backpack is behind the body, from behind it is not.
    front, back = (hidden.scores["object_visible"][hidden.views == v].mean() for v in ("front view", "back view"))
    assert front < 0.6 < 0.9 < back


def azimuths(world: World, body: Body, count: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    drawn = [world.cameras.draw(rng, body.rest_vertices[::50], (512, 512)) for _ in range(count)]
    centres = np.array([-R.T @ t for R, t, _ in drawn])
    return np.arctan2(centres[:, 2], centres[:, 0])


def test_azimuths_are_even_or_biased(body: Body) -> None:
    even = azimuths(WORLDS["hat"], body, 600)
    counts = np.histogram(even, 12, (-np.pi, np.pi))[0]
    assert counts.min() > 25
    biased = azimuths(WORLDS["hat"].biased(), body, 600)
    few = batch(small(WORLDS["hat"].biased(), image_sizes=((8, 8),)), 40, body)
    assert (few.views == "front view").mean() > 0.6
    inside = np.abs(biased - np.pi / 2) <= np.pi / 6 + 1e-6
    assert inside.mean() == pytest.approx(0.8, abs=0.06)
    outside = np.histogram(biased[~inside], 4, (-np.pi, np.pi))[0]
    assert outside.min() >= 5


def test_cameras_frame_the_person(body: Body) -> None:
    world = small(WORLDS["hat"], image_sizes=((200, 200),), cameras=CameraDistribution(look_at=0.0, roll=0.0))
    given = batch(world, 60, body)
    box = given.person_masks.box
    fill = (box[:, 3] - box[:, 1]) / 200
    assert 0.36 < fill.min() < 0.5
    assert 0.75 < fill.max() <= 1.0
    cameras = given.images.cameras
    np.testing.assert_allclose(cameras.K[:, 0, 0], 1.167 * 200, rtol=1e-6)
    assert (np.linalg.norm(cameras.centres, axis=1) > 1.9).all()
    assert (cameras.R[:, 1, 1] < 0).all()  # upright: the image's down is the person's down
    left = batch(replace(world, cameras=replace(world.cameras, sector_share=1.0, sector=(0.0, 0.1))), 4, body)
    assert left.views.tolist() == ["left side view"] * 4
    # Seen from the person's left, forward (+z) is on the left of the image.
    assert (left.images.cameras.R[:, 0, 2] < -0.9).all()


def test_differing_sizes(body: Body) -> None:
    sizes = ((120, 200), (200, 120), (77, 131))
    given = batch(replace(WORLDS["backpack"], image_sizes=sizes), 30, body)
    assert {tuple(s) for s in given.images.masks.size.tolist()} == set(sizes)
    np.testing.assert_array_equal(given.images.masks.size, given.person_masks.size)
    assert [m.shape for m in dense(given.images.masks)] == [tuple(s) for s in given.images.cameras.image_size.tolist()]
    assert (given.images.masks.areas() > 0).mean() > 0.8


def test_images_without_the_object_say_so(body: Body) -> None:
    near = replace(WORLDS["ball"].cameras, fill=(3.0, 3.0), closest=0.3)  # close-ups, mostly of the trunk
    given = batch(small(WORLDS["ball"], cameras=near), 40, body)
    empty = given.images.masks.areas() == 0
    assert 5 < empty.sum() < 40
    np.testing.assert_array_equal(given.status == "no object", empty & (given.status != "no person"))
    np.testing.assert_array_equal(given.scores["object_count"] == 0, empty)
    assert (given.images.masks.box[empty] == 0).all()
    assert (given.scores["overlap"][empty] == 0).all()


def test_scores_are_what_a_filter_would_judge(body: Body) -> None:
    given = batch(small(WORLDS["backpack"]), 30, body)
    for i in range(30):
        a, b = given.images.masks.box[i], given.person_masks.box[i]
        across = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None)
        assert given.scores["overlap"][i] == pytest.approx(across.prod() / (a[2:] - a[:2]).prod())
    assert all(v.dtype == np.float32 and v.min() >= 0 and v.max() <= 1 for v in given.scores.values())
    assert given.scores["keypoint_left_hip"].min() > 0.7  # the trunk is in every image
    near = replace(WORLDS["backpack"].cameras, fill=(4.0, 4.0), closest=0.3)
    assert batch(small(WORLDS["backpack"], cameras=near), 30, body).scores["keypoint_left_shoulder"].min() < 0.3


def test_mask_noise(body: Body) -> None:
    rng = np.random.default_rng(0)
    mask = np.zeros((120, 150), bool)
    mask[30:90, 100:150] = True
    assert MaskNoise().apply(mask, rng) is mask
    empty = np.zeros((20, 20), bool)
    assert not MaskNoise(2.0, 3, 1.0).apply(empty, rng).any()
    depth = ndimage.distance_transform_edt(np.pad(mask, ((0, 0), (0, 9)), "edge"))[:, :150]
    away = ndimage.distance_transform_edt(~mask)
    areas = set()
    for _ in range(20):
        noisy = MaskNoise(morph=2).apply(mask, rng)
        assert noisy[depth > 3].all()
        assert not noisy[away > 3].any()
        areas.add(int(noisy.sum()))
    assert areas <= {60 * 50, 62 * 51, 64 * 52, 58 * 49, 56 * 48, 58 * 50, 56 * 50}
    assert len(areas) == 5
    jittered = MaskNoise(boundary=1.5).apply(mask, rng)
    changed = jittered != mask
    assert 20 < changed.sum() < 800
    assert not changed[(depth > 9) | (away > 9)].any()
    dropped = MaskNoise(drop=1.0).apply(mask, rng)
    assert (mask >= dropped).all()
    assert 0 < (mask & ~dropped).sum() < mask.sum()
    noisy_world = small(WORLDS["hat"])
    exact, noisy = batch(replace(noisy_world, mask_noise=MaskNoise()), 8, body), batch(noisy_world, 8, body)
    np.testing.assert_array_equal(exact.images.cameras.R, noisy.images.cameras.R)
    assert any((a != b).any() for a, b in zip(dense(exact.images.masks), dense(noisy.images.masks), strict=True))


def test_truth_of_the_ball_is_its_volume(body: Body) -> None:
    hand = body.rest_joints[joint_index(body, "right_hand")] + [0, -0.15, 0]
    n, half = 32, 0.3
    edge = 2 * half / n
    centres = grid(n, hand - half + edge / 2, hand + half - edge / 2)
    truth = true_occupancy(WORLDS["ball"], centres, 0, 1000, body)
    assert truth.dtype == np.float32
    assert truth.min() == 0
    assert truth.max() == 1
    # The mean over the variants of (4/3) pi r^3, r = 0.13 m (1 +- d) uniformly.
    d = SIZE_SPREAD
    expected = 4 / 3 * np.pi * 0.13**3 * ((1 + d) ** 4 - (1 - d) ** 4) / (8 * d)
    assert truth.sum(dtype=np.float64) * edge**3 == pytest.approx(expected, rel=0.04)
    core = (truth >= 0.5).sum() * edge**3
    assert core == pytest.approx(4 / 3 * np.pi * 0.13**3, rel=0.15)
    radius = np.linalg.norm(centres - hand, axis=-1)
    assert (truth[radius < 0.05] > 0.9).all()


@pytest.mark.parametrize("name", OBJECTS)
def test_truth_lies_in_the_grid_and_at_the_right_place(name: str, body: Body) -> None:
    # As people hold it: in the rest pose the hands are further apart than what both hold is wide.
    world = next(w for w in WORLDS.values() if w.object_class == name)
    centres = grid(48, -1.5 + 1 / 32, 1.5 - 1 / 32)
    truth = true_occupancy(world, centres, 0, 60, body)
    # A racket points everywhere, so that no place has it in half of the images.
    level = 0.5 * float(truth.max()) if name == "racket" else 0.5
    assert 0 <= truth.min() < level <= truth.max() <= 1
    assert not truth[[0, -1]].any()
    assert not truth[:, [0, -1]].any()
    assert not truth[:, :, [0, -1]].any()
    x, y, z = centres[truth >= level].mean(0)
    place = {
        "ball": x < -0.6,
        "ball-at-foot": x > 0.2 and y < -0.5 and z > 0,
        "backpack": z < -0.1 and abs(x) < 0.05,
        "hat": y > 0.6,
        "racket": x < -0.6,
        "glove": abs(x) < 0.1 and y > 0.3,  # on either hand
        "board-fixed-to-hand": x < -0.6,
        "board-under-arm": -0.4 < x < -0.1 and y > -0.2,
        "board-stood-on": y < -0.6,
        "bar-in-hands": abs(x) < 0.1 and y > 0.3,  # as much at either hand, and nothing between them
        "box-in-hands": abs(x) < 0.1 and y > 0.3,
        "bicycle-beside": x < -0.4 and y < -0.2,
    }
    assert place[name]
    np.testing.assert_array_equal(truth, true_occupancy(world, centres, 0, 60, body))


def test_worlds_are_simple_values() -> None:
    assert pickle.loads(pickle.dumps(WORLDS)) == WORLDS
    assert len({w.category for w in DEMO}) == 1
    assert len({w.prompt for w in DEMO}) == 2
    for name in ("ball", "backpack", "board"):  # the worlds of the table: nothing made easier
        world = WORLDS[name]
        assert world.pose_noise == 0.25
        assert world.key_poses == ({},)
        assert world.image_sizes == ((512, 512),)
        assert world.biased().cameras.sector_share == 0.8


def test_write_world(body: Body, tmp_path: Path) -> None:
    worlds = [small(w) for w in DEMO]
    calls: list[tuple[int, int]] = []
    path = tmp_path / "ball.chorus"
    counts = write_world(path, worlds, 21, 5, body, batch_size=4, progress=lambda *now: calls.append(now))
    assert sum(counts.values()) == 21
    assert calls[-1] == (21, 21)
    assert calls == sorted(calls)
    store = open_store(path)
    assert len(store) == 21
    assert store.category == "sports ball"
    assert store.body_hash == body.hash
    assert set(np.asarray(store.rows["prompt"]).tolist()) == {w.prompt for w in worlds}
    expected = {image_key(w, 5, i) for w, n in zip(worlds, (11, 10), strict=True) for i in range(n)}
    assert {k.decode() for k in np.asarray(store.rows["key"]).tolist()} == expected
    given = batch(worlds[0], 11, body, seed=5)
    rows = store.select(prompt=worlds[0].prompt, status=None if (given.status != "complete").any() else "complete")
    back = store.batch(rows)
    order = np.argsort(back.keys)
    for i, at in enumerate(order):
        np.testing.assert_array_equal(back.masks.unpack(at), given.images.masks.unpack(i))
    np.testing.assert_array_equal(back.cameras.R[order], given.images.cameras.R)
    np.testing.assert_array_equal(back.poses[order], given.images.poses)
    assert write_world(path, worlds, 23, 5, body) == {"already there": 21, "complete": 2}
    assert len(open_store(path)) == 23


def test_a_store_holds_the_images_of_one_run(body: Body, tmp_path: Path) -> None:
    path, worlds = tmp_path / "ball.chorus", [small(w) for w in DEMO]
    write_world(path, worlds, 4, 5, body)
    before = open_store(path).id
    sector = replace(worlds[0], cameras=CameraDistribution(sector_share=0.5))
    for others, seed, says in (
        (worlds, 6, "simulated with seed 6, got .* of seed 5"),
        (worlds[:1], 5, f"the worlds {worlds[0].name}, got .* of the worlds {worlds[0].name}, {worlds[1].name}"),
        ([w.biased() for w in worlds], 5, "-biased, got"),
        ([sector, worlds[1]], 5, "worlds of these names with other settings"),
    ):
        with pytest.raises(MismatchError, match=says):
            write_world(path, others, 6, seed, body)
    assert open_store(path).id == before
    with StoreWriter(tmp_path / "photos", category="sports ball", body_hash=body.hash, person_masks=True):
        pass
    with pytest.raises(MismatchError, match="made by other means"):
        write_world(tmp_path / "photos", worlds, 6, 5, body)
    result = CliRunner().invoke(main, ["simulate", "-o", str(path), "--seed", "3"])
    assert result.exit_code == 2
    assert "expected a new store or one simulated with seed 3" in result.stderr


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: World("a", "a", "spoon", "a"), "object_class: expected one of"),
        (lambda: World("a", "a", "ball", "a", pose_noise=-1), "pose_noise"),
        (lambda: World("a", "a", "ball", "a", image_sizes=()), "at least one each"),
        (lambda: World("a", "a", "ball", "a", image_sizes=((0, 5),)), "image_sizes"),
        (lambda: CameraDistribution(sector_share=1.2), "sector_share"),
        (lambda: CameraDistribution(fill=(0.9, 0.4)), "fill"),
        (lambda: MaskNoise(drop=2), "mask_noise"),
        (lambda: simulate(WORLDS["ball"], -1), "num_images"),
        (lambda: simulate(WORLDS["ball"], 1, -1), "seed"),
        (lambda: simulate(WORLDS["ball"], 1, batch_size=0), "batch_size"),
        (lambda: simulate(replace(WORLDS["ball"], key_poses=({"tail": (0, 0, 0)},)), 1), "'tail'"),
        (lambda: true_occupancy(WORLDS["ball"], np.zeros((4, 3))), "centres"),
        (lambda: true_occupancy(WORLDS["ball"], np.zeros((1, 1, 1, 3)), variants=0), "variants"),
        (lambda: write_world("x", [], 3), "worlds: expected at least one"),
        (lambda: write_world("x", [WORLDS["ball"], WORLDS["hat"]], 3), "one category"),
        (lambda: write_world("x", [DEMO[0], DEMO[0]], 3), "differing names"),
    ],
)
def test_bad_input_is_named(make: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        make()
