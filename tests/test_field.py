"""The canonical field against Eq. 4, 9, 10, smoothing and sparsification written out with loops; its cache; its warp."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial import KDTree

from chorus import field as module
from chorus.body.model import Body, load_body
from chorus.errors import InputError
from chorus.field import (
    ALGORITHM,
    CanonicalField,
    FieldParameters,
    cache_folder,
    default_smoothing_steps,
    extend_weights,
    voxel_centres,
)


@pytest.fixture(scope="module")
def body() -> Body:
    return load_body()


@pytest.fixture(scope="module")
def field(body: Body) -> CanonicalField:
    return CanonicalField(body, 24, cache=False)


def small_body(seed: int = 0) -> Body:
    """40 vertices around two hips and a pelvis, weights of all joints."""
    rng = np.random.default_rng(seed)
    joints = np.array([[0, 0, 0], [0.2, -0.1, 0], [-0.2, -0.1, 0]])
    vertices = joints[rng.integers(0, 3, 40)] + rng.normal(0, 0.25, (40, 3))
    weights = rng.dirichlet([0.3, 0.3, 0.3], 40)
    faces = rng.integers(0, 40, (20, 3))
    return Body("three joints", vertices, faces, joints, [-1, 0, 0], weights, ["pelvis", "left_hip", "right_hip"])


def field_slowly(body: Body, N: int, extent: float, k: int, tau: float, s: float, steps: int) -> np.ndarray:
    """The definition: one voxel after the other, in float64."""
    J = body.num_joints
    w = np.zeros((N, N, N, J))
    d_min = np.zeros((N, N, N))
    pelvis = np.eye(J)[0]
    for index in np.ndindex(N, N, N):
        x = (np.array(index) + 0.5) * extent / N - extent / 2
        d = np.sqrt(((body.rest_vertices - x) ** 2).sum(1))
        nearest = sorted(range(len(d)), key=lambda i: d[i])[:k]
        total, amount = np.zeros(J), 0.0
        for i in nearest:  # Eq. 4
            total += body.weights[i] / d[i]
            amount += 1 / d[i]
        d_min[index] = d[nearest[0]]
        alpha = max((tau - d_min[index]) / (tau + d_min[index]), 0.0) ** s  # Eq. 10
        w[index] = alpha * total / amount + (1 - alpha) * pelvis  # Eq. 9
    for _ in range(steps):
        old = w.copy()
        for i, j, k_ in np.ndindex(N, N, N):
            if 0 in (i, j, k_) or N - 1 in (i, j, k_):
                continue
            around = old[i - 1, j, k_] + old[i + 1, j, k_] + old[i, j - 1, k_] + old[i, j + 1, k_]
            around = around + old[i, j, k_ - 1] + old[i, j, k_ + 1]
            w[i, j, k_] = 0.7 * old[i, j, k_] + 0.3 * around / 6
        w[d_min > tau] = pelvis
        w /= w.sum(-1, keepdims=True)
    w[w < 1e-6] = 0
    return w / w.sum(-1, keepdims=True)


@pytest.mark.parametrize(
    ("N", "extent", "k", "tau", "s", "steps"),
    [
        (8, 2.0, 5, 0.5, 0.25, 3),
        (8, 2.0, 1, 0.4, 0.5, 0),
        (7, 1.1, 40, 0.8, 0.25, 6),
        (9, 3.0, 7, 0.3, 1.0, 20),
        (1, 1.0, 3, 1, 1, 2),
        (7, 1.5, 6, 0.6, 0.25, 60),
    ],
)
def test_against_the_definition(N: int, extent: float, k: int, tau: float, s: float, steps: int) -> None:
    body = small_body()
    field = CanonicalField(body, N, extent, k=k, tau=tau, s=s, smoothing_steps=steps, cache=False)
    expected = field_slowly(body, N, extent, k, tau, s, steps)
    assert field.weights.shape == (N, N, N, 3)
    assert field.weights.dtype == np.float32
    assert np.abs(field.weights - expected).max() < 2e-6
    # The sparse arrays hold the same: sorted by voxel, nothing below the threshold, every voxel has an entry.
    a = field.arrays
    counts = np.diff(a.offset.numpy())
    assert (counts >= 1).all()
    assert a.offset[-1] == len(a.joint) == len(a.weight)
    assert float(a.weight.min()) >= 0.99e-6
    assert abs(counts.sum() - (expected > 0).sum()) <= 0.01 * counts.sum()  # float32 decides otherwise at 1e-6 itself


def test_smoothing_reaches_the_grid_only_inside(body: Body) -> None:
    """The outermost voxels keep what Eq. 9 gives them; all others are smoothed."""
    small = small_body()
    rough = CanonicalField(small, 6, 0.9, k=5, smoothing_steps=0, cache=False).weights
    smooth = CanonicalField(small, 6, 0.9, k=5, smoothing_steps=4, cache=False).weights
    border = np.ones((6, 6, 6), bool)
    border[1:-1, 1:-1, 1:-1] = False
    assert np.allclose(rough[border], smooth[border], atol=1e-6)
    assert (np.abs(rough[~border] - smooth[~border]).max(-1) > 1e-4).all()


def test_a_voxel_on_a_vertex_takes_its_weights() -> None:
    small = small_body(1)
    p = FieldParameters(4, 2.0, k=6, smoothing_steps=0)
    centre = voxel_centres(4, 2.0)[1, 2, 3]
    vertices = small.rest_vertices.copy()
    vertices[17] = centre
    weights = extend_weights(vertices, small.weights, p)[1, 2, 3]
    assert np.allclose(weights, small.weights[17], atol=1e-7)  # alpha is 1 at distance 0
    # Of two vertices in one place either may be nearest, but no weight is lost to 0 / 0.
    vertices[18] = centre
    both = extend_weights(vertices, small.weights, p)
    assert np.isfinite(both).all()
    assert any(np.allclose(both[1, 2, 3], small.weights[v], atol=1e-7) for v in (17, 18))


def test_centres_and_geometry(field: CanonicalField) -> None:
    assert field.centres.shape == (24, 24, 24, 3)
    assert field.centres.dtype == np.float32
    assert np.allclose(field.centres[0, 5, 23], (np.array([0, 5, 23]) + 0.5) * 3 / 24 - 1.5)
    assert np.allclose(field.arrays.centres().numpy().reshape(24, 24, 24, 3), field.centres, atol=1e-6)
    assert field.arrays.shape == (24, 24, 24)
    assert field.arrays.spacing == 0.125


def test_far_voxels_move_with_the_pelvis_alone(body: Body, field: CanonicalField) -> None:
    distance, _ = KDTree(body.rest_vertices).query(field.centres.reshape(-1, 3))
    weights = field.weights.reshape(-1, 24)
    far = distance > 0.8
    assert 0.1 < far.mean() < 0.9
    assert (weights[far] == np.eye(24, dtype=np.float32)[0]).all()
    assert np.abs(weights.sum(1) - 1).max() < 1e-6
    assert weights.min() >= 0
    assert weights[~far, 0].max() <= 1
    assert (weights[distance < 0.05, 1:].sum(1) > 0.2).mean() > 0.5


def test_without_canonicalization_all_is_rigid(body: Body) -> None:
    field = CanonicalField(body, 5, canonicalize=False, cache=False)
    assert (field.weights == np.eye(24, dtype=np.float32)[0]).all()
    assert len(field.arrays.weight) == 125
    pose = np.random.default_rng(0).normal(0, 1, (24, 3))
    pose[0] = 0
    assert np.allclose(field.warp(pose), field.centres, atol=1e-6)
    assert field.hash != CanonicalField(body, 5, cache=False).hash


def test_the_rest_pose_moves_nothing(body: Body, field: CanonicalField) -> None:
    assert np.abs(field.warp(body.rest_pose) - field.centres).max() < 1e-6
    zero = field.warp(np.zeros((24, 3)))
    assert np.linalg.norm(zero - field.centres, axis=-1).max() > 0.1  # the legs come together


def test_voxels_near_the_surface_follow_the_posed_mesh(body: Body) -> None:
    """A voxel near a vertex is moved as the vertex is, to within what smoothing and blending cost."""
    field = CanonicalField(body, 48, cache=False)
    rng = np.random.default_rng(3)
    points = field.centres.reshape(-1, 3)
    distance, vertex = KDTree(body.rest_vertices).query(points)
    near = distance < 0.03
    assert near.sum() > 200
    for _ in range(3):
        pose = rng.normal(0, 0.25, (24, 3))
        pose[0] = 0
        moved = field.warp(pose).reshape(-1, 3)[near]
        mesh = body.posed_vertices(pose[None])[0][vertex[near]]
        off = np.linalg.norm(moved - mesh, axis=1)
        still = np.linalg.norm(points[near] - mesh, axis=1)
        assert np.median(off) < 0.04
        assert np.quantile(off, 0.95) < 0.15
        assert np.median(off) < 0.4 * np.median(still)


def test_warp_is_equation_5(body: Body, field: CanonicalField) -> None:
    pose = np.random.default_rng(4).normal(0, 0.4, (24, 3))
    pose[0] = 0
    B = body.bone_transforms(pose[None])[0]
    moved = field.warp(pose)
    for index in [(0, 0, 0), (12, 13, 11), (10, 5, 12), (17, 15, 11)]:
        x = np.append(field.centres[index], 1)
        assert np.allclose(moved[index], sum(w * (b @ x) for w, b in zip(field.weights[index], B, strict=True)), atol=1e-9)


@pytest.mark.parametrize(("resolution", "near"), [(24, 0.03), (96, 0.012)])
def test_diffusion_length_does_not_depend_on_the_resolution(body: Body, resolution: int, near: float) -> None:
    """At other resolutions the weights are those of 48^3, smoothed as far in metres; ``near`` is the mean difference allowed.

    A coarse grid cannot do better than its voxels; without scaling the steps, 96^3 is twice as far from 48^3.
    """
    assert default_smoothing_steps(3.0 / 48) == 30
    assert default_smoothing_steps(3.0 / 96) == 120
    assert default_smoothing_steps(3.0 / 24) == 8
    assert default_smoothing_steps(3.0) == 1
    paper = CanonicalField(body, 48, cache=False)
    other = CanonicalField(body, resolution, cache=False)
    fine, coarse = (paper, other) if resolution < 48 else (other, paper)
    n = coarse.resolution
    halved = fine.weights.reshape(n, 2, n, 2, n, 2, -1).mean((1, 3, 5))
    distance, _ = KDTree(body.rest_vertices).query(coarse.centres.reshape(-1, 3))
    inside = (distance < 0.75).reshape(n, n, n)
    difference = np.abs(halved - coarse.weights).sum(-1)[inside] / 2  # share of the weight that sits elsewhere
    print(f"{resolution}^3 against 48^3: mean {difference.mean():.4f}, 99 % {np.quantile(difference, 0.99):.3f}")
    assert difference.mean() < near


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"resolution": 0}, "resolution: expected an integer >= 1, got 0"),
        ({"resolution": -3}, "resolution: expected an integer >= 1"),
        ({"resolution": 4.5}, "resolution: expected an integer >= 1, got 4.5"),
        ({"extent": 0}, "extent: expected a positive number"),
        ({"extent": np.nan}, "extent: expected a positive number, got nan"),
        ({"extent": np.inf}, "extent: expected a positive number, got inf"),
        ({"tau": -1}, "tau: expected a positive number"),
        ({"s": 0.0}, "s: expected a positive number"),
        ({"k": 0}, "k: expected an integer >= 1"),
        ({"k": 41}, "k: expected at most the body's 40 vertices, got 41"),
        ({"k": 2.5}, "k: expected an integer"),
        ({"smoothing_steps": -1}, "smoothing_steps: expected an integer >= 0"),
        ({"resolution": True}, "resolution: expected an integer"),
    ],
)
def test_parameters_are_checked(change: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=re.escape(words)):
        CanonicalField(small_body(), **{"resolution": 4, "cache": False, "k": 3, **change})


def test_hash_is_of_the_body_and_every_parameter() -> None:
    base: dict[str, Any] = {"resolution": 4, "extent": 2.0, "k": 3, "tau": 0.5, "s": 0.5, "smoothing_steps": 2, "cache": False}
    changes: list[dict[str, Any]] = [
        {},
        {"resolution": 5},
        {"extent": 2.1},
        {"k": 4},
        {"tau": 0.6},
        {"s": 0.4},
        {"smoothing_steps": 3},
        {"canonicalize": False},
    ]
    hashes = [CanonicalField(small_body(), **{**base, **change}).hash for change in changes]
    hashes.append(CanonicalField(small_body(1), **base).hash)
    assert len(set(hashes)) == len(hashes)
    assert CanonicalField(small_body(), **base).hash == hashes[0]
    assert CanonicalField(small_body(), **{**base, "extent": 2, "resolution": np.int64(4)}).hash == hashes[0]  # 2 is 2.0
    assert ALGORITHM == 2


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CHORUS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "fields"


def equal(a: CanonicalField, b: CanonicalField) -> bool:
    return all(np.array_equal(getattr(a.arrays, n), getattr(b.arrays, n)) for n in ("offset", "joint", "weight"))


def test_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = CanonicalField(small_body(), 6, k=3, cache=False)
    assert cache_folder() == cache.parent
    assert not cache.exists()
    made = CanonicalField(small_body(), 6, k=3)
    assert [f.name for f in cache.iterdir()] == [f"{made.hash}.npz"]
    monkeypatch.setattr(module, "_sparse_weights", lambda *_: pytest.fail("made again"))
    found = CanonicalField(small_body(), 6, k=3)
    assert equal(fresh, made)
    assert equal(fresh, found)
    with pytest.raises(pytest.fail.Exception):
        CanonicalField(small_body(), 6, k=4)  # another field is not found under this name


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "nonsense", "pickle", "missing array", "folder"])
def test_a_damaged_cache_costs_time_only(cache: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    made = CanonicalField(small_body(), 6, k=3)
    path = cache / f"{made.hash}.npz"
    whole = path.read_bytes()
    if damage == "cut":
        path.write_bytes(whole[: len(whole) // 2])
    elif damage == "flip":
        path.write_bytes(whole[:3000] + bytes([whole[3000] ^ 1]) + whole[3001:])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "nonsense":
        path.write_bytes(b"PK\x03\x04" + bytes(range(256)))
    elif damage == "pickle":
        np.savez(path, offset=np.array([object()]), joint=np.zeros(1), weight=np.zeros(1))
    elif damage == "missing array":
        np.savez(path, offset=made.arrays.offset.numpy())
    else:
        path.unlink()
        path.mkdir()
    assert equal(CanonicalField(small_body(), 6, k=3), made)
    assert "could not be read" in caplog.text
    assert len(list(cache.iterdir())) == 1  # nothing is left behind
    if damage != "folder":  # and the file is whole again
        caplog.clear()
        assert equal(CanonicalField(small_body(), 6, k=3), made)
        assert not caplog.text


def test_an_unwritable_cache_is_said_and_survived(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("CHORUS_CACHE", str(tmp_path / "file"))
    assert CanonicalField(small_body(), 4, k=3).weights.shape == (4, 4, 4, 3)
    assert "not cached" in caplog.text or "could not be read" in caplog.text


RACE = """
import sys
from chorus.body.model import load_body
from chorus.field import CanonicalField
body = load_body()
body.rest_vertices
print("ready", flush=True)
sys.stdin.readline()
field = CanonicalField(body, 16)
print(float(field.arrays.weight.sum()), len(field.arrays.weight))
"""


def test_processes_race_for_the_cache(body: Body, cache: Path) -> None:
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=dict(os.environ)
        )
        for _ in range(2)
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    answers = [racer.communicate(timeout=120)[0] for racer in racers]
    field = CanonicalField(body, 16, cache=False)
    assert answers == [f"{float(field.arrays.weight.sum())} {len(field.arrays.weight)}\n"] * 2
    assert [f.name for f in cache.iterdir()] == [f"{field.hash}.npz"]


PEAK = """
import time
from chorus.body.model import load_body
from chorus.field import CanonicalField
def peak():  # of this program alone; ru_maxrss would begin at that of the process that started it
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
body = load_body()
CanonicalField(body, 16, smoothing_steps=60, cache=False)
before = peak()
began = time.perf_counter()
CanonicalField(body, 128, cache=False)
print(time.perf_counter() - began, (peak() - before) / 1e6)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_fine_grids_take_little_memory(body: Body) -> None:
    """The dense weights of 128^3 voxels alone would be 201 MB, and the steps of the smoothing need them twice."""
    CanonicalField(body, 16, smoothing_steps=60, cache=False)  # compiled here, or compiling would be the peak there
    done = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True, env=dict(os.environ))
    seconds, peak = (float(x) for x in done.stdout.split())
    print(f"128^3: {seconds:.2f} s, {peak:.0f} MB more than before")
    assert 50 < peak < 400
