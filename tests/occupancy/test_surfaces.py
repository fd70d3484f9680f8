"""Surfaces: known volumes and places, closed whatever phi is, thresholds, files read back."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh

from chorus.body.model import Body, load_body
from chorus.camera.views import Scheme
from chorus.errors import InputError
from chorus.field import FieldParameters, default_smoothing_steps, voxel_centres
from chorus.occupancy.counts import Occupancy
from chorus.occupancy.surfaces import (
    COLOURS,
    FORMATS,
    OBJECT,
    PERSON,
    body_mesh,
    choose_threshold,
    describe,
    doubts,
    surface,
    threshold_of_mass,
    threshold_of_volume,
    write_meshes,
)

EXTENT = 3.0


def ball(radius: float, centre: Any = (0, 0, 0), resolution: int = 48) -> np.ndarray:
    """phi that falls linearly from 1 at the centre, through 0.5 at the radius, to 0."""
    distance = np.linalg.norm(voxel_centres(resolution, EXTENT) - centre, axis=-1)
    return np.clip(1 - distance / (2 * radius), 0, 1).astype(np.float32)


def box(low: tuple[int, int, int], high: tuple[int, int, int], resolution: int = 20) -> np.ndarray:
    phi = np.zeros((resolution,) * 3, np.float32)
    phi[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = 1
    return phi


def occupancy_of(phi: np.ndarray, body: Body) -> Occupancy:
    """Counts of 10,000 images that give this phi, to 1e-4."""
    N = len(phi)
    num, den, totals = np.zeros((12, N, N, N), np.int32), np.zeros((12, N, N, N), np.int32), np.zeros(12, np.int64)
    num[0], den[0], totals[0] = np.rint(10_000 * phi), 10_000, 10_000
    parameters = FieldParameters(N, EXTENT, smoothing_steps=default_smoothing_steps(EXTENT / N))
    return Occupancy(num, den, totals, totals, Scheme(), "azimuth", parameters, body.hash)


@pytest.fixture(scope="module")
def body() -> Body:
    return load_body()


@pytest.mark.parametrize(("resolution", "error"), [(48, 0.03), (96, 0.008)])
def test_a_ball_has_its_volume_area_and_place(resolution: int, error: float) -> None:
    centre, radius = np.array([0.7, -0.4, 0.2]), 0.3
    mesh = surface(ball(radius, centre, resolution), EXTENT, 0.5)
    facts = describe(mesh)
    assert facts.watertight
    assert facts.pieces == 1
    assert facts.volume_m3 == pytest.approx(4 / 3 * np.pi * radius**3, rel=error)  # positive: normals point outward
    assert facts.area_m2 == pytest.approx(4 * np.pi * radius**2, rel=error)
    assert np.allclose(mesh.center_mass, centre, atol=0.002)
    assert np.allclose(np.linalg.norm(mesh.vertices - centre, axis=1), radius, atol=0.01)


def test_axes_are_not_exchanged() -> None:
    mesh = surface(box((2, 5, 9), (4, 10, 18)), EXTENT, 0.5)
    step = EXTENT / 20
    assert np.allclose(mesh.bounds, [np.array([2, 5, 9]) * step - 1.5, np.array([4, 10, 18]) * step - 1.5])


@pytest.mark.parametrize(("low", "high"), [((0, 3, 3), (5, 9, 9)), ((15, 0, 0), (20, 5, 20)), ((0, 0, 0), (20, 20, 20))])
def test_a_box_at_the_cubes_faces_is_closed(low: Any, high: Any) -> None:
    facts = describe(surface(box(low, high), EXTENT, 0.5))
    step = EXTENT / 20
    assert facts.watertight
    assert facts.pieces == 1
    assert np.allclose([facts.low, facts.high], np.array([low, high]) * step - 1.5)
    sides = step * (np.array(high) - low)
    assert 0.93 < facts.volume_m3 / sides.prod() < 1  # the edges are cut off, half a voxel wide


@pytest.mark.parametrize("at", [(5, 5, 5), (0, 0, 0), (9, 0, 5)])
def test_one_voxel_is_an_octahedron(at: tuple[int, int, int]) -> None:
    phi = np.zeros((10, 10, 10), np.float32)
    phi[at] = 0.8
    mesh = surface(phi, 1.0, 0.4)
    centre = (np.array(at) + 0.5) / 10 - 0.5
    assert np.allclose(np.sort(np.abs(mesh.vertices - centre), 1), [0, 0, 0.05])
    assert describe(mesh).volume_m3 == pytest.approx(0.1**3 / 6)
    assert mesh.is_watertight
    # At the voxel's own value the surface is half way to the value around it, not a point.
    assert np.array_equal(surface(phi, 1.0, 0.8).vertices, mesh.vertices)
    one = surface(np.full((1, 1, 1), 0.3), 2.0, 0.3)
    assert np.allclose(one.bounds, [[-1, -1, -1], [1, 1, 1]])


@pytest.mark.parametrize("kind", ["noise", "steps", "binary", "smooth", "a plateau at the threshold"])
def test_it_is_closed_whatever_phi_is(kind: str) -> None:
    """Neighbouring cells see every combination of corners here; vertices are merged, as readers of files do."""
    from scipy.ndimage import gaussian_filter

    for seed in range(3):
        phi = np.random.default_rng(seed).random((22, 22, 22)).astype(np.float32)
        if kind == "steps":
            phi = np.round(phi * 4) / 4
        elif kind == "binary":
            phi = (phi > 0.6).astype(np.float32)
        elif kind == "smooth":
            phi = gaussian_filter(phi, 1.5)
            phi = (phi - phi.min()) / (phi.max() - phi.min())
        elif kind == "a plateau at the threshold":
            phi[5:15] = np.where(phi[5:15] > 0.3, np.float32(0.5), phi[5:15])
        for threshold in (1e-4, 0.25, 0.5, float(np.float32(0.7)), float(phi.max())):
            mesh = surface(phi, EXTENT, threshold)
            facts = describe(mesh)
            assert facts.watertight
            assert facts.volume_m3 > 0
            assert np.isfinite(mesh.vertices).all()
            assert (mesh.area_faces > 0).all()
            assert trimesh.Trimesh(mesh.vertices.astype(np.float32), mesh.faces, process=True).is_watertight


def test_exactly_the_voxels_at_or_above_the_threshold_are_inside() -> None:
    phi = (np.random.default_rng(3).integers(0, 5, (9, 9, 9)) / 4).astype(np.float32)
    mesh = surface(phi, EXTENT, 0.75)
    # A voxel's centre is inside if a ray from it along x crosses the surface an odd number of times. The grid's edges run
    # through centres, and the surface crosses an edge where one end is inside: at a vertex.
    centres = voxel_centres(9, EXTENT)
    for j in range(9):
        for k in range(9):
            line = mesh.vertices[(np.abs(mesh.vertices[:, 1:] - centres[0, j, k, 1:]) < 1e-6).all(1), 0]
            crossings = (line[None] > centres[:, j, k, :1]).sum(1)
            assert np.array_equal(crossings % 2 == 1, phi[:, j, k] >= 0.75)


def test_the_error_names_a_threshold_that_would_do() -> None:
    phi = np.zeros((12, 12, 12))
    phi[4:8, 4:8, 4:8] = 0.31
    with pytest.raises(InputError) as caught:
        surface(phi, 1.2, 0.5)
    found = re.search(r"got 0\.5 \(a threshold of ([\d.]+) encloses ([\d.]+) litres\)", str(caught.value))
    assert found is not None
    assert float(found[1]) == 0.2
    assert 1000 * surface(phi, 1.2, 0.2).volume == pytest.approx(float(found[2]), rel=1e-3)
    assert 40 < float(found[2]) < 130  # 64 voxels of a litre
    tiny = np.full((3, 3, 3), 1e-9)
    with pytest.raises(InputError, match="a threshold of 5e-10 encloses"):
        surface(tiny, 1.0, 0.5)


def test_what_is_hardly_one_object_is_doubted() -> None:
    assert doubts(1, 0.01) == ""
    assert doubts(19, 0.999) == ""
    assert doubts(138, 2.553).startswith("2,553 litres in 138 pieces are hardly one object")
    assert doubts(138, 0.01).startswith("10 litres in 138 pieces")
    assert doubts(1, 2.0).startswith("2,000 litres in 1 piece are")


def test_nothing_above_the_threshold_is_an_error() -> None:
    with pytest.raises(InputError, match=r"threshold: expected at most the highest probability, 0\.25, got 0\.5 "):
        surface(np.full((4, 4, 4), 0.25), 1.0, 0.5)
    with pytest.raises(InputError, match=r"expected at most the highest probability, 0, got 0\.5"):
        surface(np.zeros((4, 4, 4)), 1.0, 0.5)
    for call in (lambda phi: threshold_of_mass(phi, 0.5), lambda phi: threshold_of_volume(phi, 1.0, 0.1)):
        with pytest.raises(InputError, match="phi: expected some of it to be positive, got 0 everywhere"):
            call(np.zeros((4, 4, 4)))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"phi": np.zeros((4, 4, 5))}, "phi: expected shape (N, N, N), got (4, 4, 5)"),
        ({"phi": np.full((4, 4, 4), np.nan)}, "phi: expected finite numbers, got nan"),
        ({"phi": np.zeros((0, 0, 0))}, "phi: expected voxels, got none"),
        ({"threshold": 0}, "threshold: expected a positive number, got 0"),
        ({"threshold": np.nan}, "threshold: expected a positive number, got nan"),
        ({"extent": -1.0}, "extent: expected a positive number of metres, got -1.0"),
    ],
)
def test_arguments_are_checked(change: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=re.escape(words)):
        surface(**{"phi": np.ones((4, 4, 4)), "extent": 1.0, "threshold": 0.5, **change})


@pytest.mark.parametrize("share", [0.01, 0.3, 0.5, 0.9, 1.0])
def test_the_threshold_of_a_mass_is_the_largest_that_holds_it(share: float) -> None:
    for seed in range(3):
        phi = (np.random.default_rng(seed).integers(0, 40, (8, 8, 8)) / 40).astype(np.float32)
        total = phi.astype(np.float64).sum()
        held = {float(t): phi[phi >= t].astype(np.float64).sum() for t in np.unique(phi[phi > 0])}
        want = max(t for t, mass in held.items() if mass >= share * total * (1 - 1e-12))
        assert threshold_of_mass(phi, share) == want
    for wrong in (0, 1.01, -1, np.nan):
        with pytest.raises(InputError, match="mass: expected a share of the sum of phi"):
            threshold_of_mass(phi, wrong)


@pytest.mark.parametrize("litres", [5, 40, 113, 500])
def test_the_threshold_of_a_volume_encloses_it(litres: float) -> None:
    phi = ball(0.3)
    threshold = threshold_of_volume(phi, EXTENT, litres / 1000)
    assert describe(surface(phi, EXTENT, threshold)).volume_m3 == pytest.approx(litres / 1000, rel=1e-3)


def test_volumes_that_cannot_be_had() -> None:
    phi = ball(0.3)
    with pytest.raises(InputError, match=r"volume: expected at most the 1\.0\d* m\^3 around all voxels.*, got 2 m\^3"):
        threshold_of_volume(phi, EXTENT, 2.0)
    for wrong in (0, -1, np.inf, np.nan):
        with pytest.raises(InputError, match=r"volume: expected a positive number of m\^3"):
            threshold_of_volume(phi, EXTENT, wrong)
    # Two plateaus: there is no surface between the small box's and the large one's, and the nearer is taken.
    steps = np.maximum(0.5 * box((2, 2, 2), (18, 18, 18)), box((8, 8, 8), (12, 12, 12)))
    found = [describe(surface(steps, EXTENT, threshold_of_volume(steps, EXTENT, v))).volume_m3 for v in (0.3, 13.0)]
    assert 0.1 < found[0] < 0.6
    assert found[1] == pytest.approx(13.0, rel=1e-3)


def test_one_of_three_thresholds(body: Body) -> None:
    phi = ball(0.3)
    assert choose_threshold(phi, EXTENT, 0.4) == 0.4
    assert choose_threshold(phi, EXTENT, mass=0.5) == threshold_of_mass(phi, 0.5)
    assert choose_threshold(phi, EXTENT, volume=0.1) == threshold_of_volume(phi, EXTENT, 0.1)
    with pytest.raises(InputError, match="threshold, mass, volume: expected one of them, got none"):
        choose_threshold(phi, EXTENT)
    with pytest.raises(InputError, match="expected one of them, got threshold and volume"):
        choose_threshold(phi, EXTENT, 0.5, volume=0.1)
    occupancy = occupancy_of(phi, body)
    for how in ({"threshold": 0.5}, {"mass": 0.5}, {"volume": 0.05}):
        want = surface(occupancy.probability, EXTENT, choose_threshold(occupancy.probability, EXTENT, **how))
        assert np.array_equal(occupancy.mesh(**how).vertices, want.vertices)


@pytest.mark.parametrize("suffix", FORMATS)
def test_files_hold_the_meshes(suffix: str, body: Body, tmp_path: Path) -> None:
    found, person = surface(ball(0.3, (0.7, 0.1, -0.2)), EXTENT, 0.5), body_mesh(body.rest_vertices, body.faces)
    path = tmp_path / f"both{suffix}"
    path.write_text("what was there before")
    write_meshes(path, {OBJECT: found, PERSON: person})
    write_meshes(tmp_path / f"one{suffix}", {OBJECT: found})
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"both{suffix}", f"one{suffix}"]
    alone = trimesh.load(tmp_path / f"one{suffix}", force="mesh", process=False)
    assert np.allclose(alone.vertices, found.vertices, atol=1e-6)
    assert np.array_equal(alone.faces, found.faces)
    assert alone.is_watertight
    want = np.concatenate([found.vertices, person.vertices])
    if suffix == ".ply":
        both = trimesh.load(path, force="mesh", process=False)
        assert np.allclose(both.vertices, want, atol=1e-6)
        assert np.array_equal(both.faces, np.concatenate([found.faces, person.faces + len(found.vertices)]))
        colours = both.visual.vertex_colors[[0, -1], :3] / 255
        assert np.allclose(colours, [COLOURS[OBJECT], COLOURS[PERSON]], atol=0.005)
        return
    if suffix == ".obj":
        parts = read_obj(path)
        assert list(parts) == [OBJECT, PERSON]
        for name, mesh in ((OBJECT, found), (PERSON, person)):
            assert np.allclose(parts[name], mesh.triangles, atol=1e-6)
        return
    scene = trimesh.load_scene(path, process=False)
    assert set(scene.graph.nodes_geometry) == {OBJECT, PERSON}
    for name, mesh in ((OBJECT, found), (PERSON, person)):
        assert np.allclose(scene.graph[name][0], np.eye(4))
        assert np.allclose(scene.geometry[name].vertices, mesh.vertices, atol=1e-6)
        assert np.array_equal(scene.geometry[name].faces, mesh.faces)
        assert np.allclose(scene.geometry[name].visual.material.baseColorFactor[:3] / 255, COLOURS[name], atol=0.005)


@pytest.mark.parametrize("suffix", FORMATS)
def test_files_say_what_they_were_made_of(suffix: str, tmp_path: Path) -> None:
    mesh, facts = surface(ball(0.3), EXTENT, 0.5), {"threshold": 0.5, "command": ["chorus", "mesh", "a\nb ü"]}
    path = tmp_path / f"x{suffix}"
    write_meshes(path, {OBJECT: mesh}, facts)
    data = path.read_bytes()
    if suffix == ".glb":
        length = int.from_bytes(data[12:16], "little")
        kept = json.loads(data[20 : 20 + length])["scenes"][0]["extras"]["provenance"]
    else:
        start = b"comment " if suffix == ".ply" else b"# "
        kept = json.loads(next(line for line in data.splitlines() if line.startswith(start + b"{"))[len(start) :])
    assert kept == facts
    assert np.allclose(trimesh.load(path, force="mesh", process=False).vertices, mesh.vertices, atol=1e-6)


def read_obj(path: Path) -> dict[str, np.ndarray]:
    """The triangles of each object of an OBJ file, name -> (F, 3, 3)."""
    vertices: list[list[float]] = []
    faces: dict[str, list[list[int]]] = {}
    for line in path.read_text().splitlines():
        kind, *values = line.split() or [""]
        if kind == "v":
            vertices.append([float(v) for v in values[:3]])
        elif kind == "o":
            faces[values[0]] = []
        elif kind == "f":
            faces[next(reversed(faces))].append([int(v.split("/")[0]) - 1 for v in values])
    return {name: np.array(vertices)[np.array(corners)] for name, corners in faces.items()}


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mesh = surface(ball(0.3), EXTENT, 0.5)
    path = tmp_path / "x.glb"
    path.write_text("before")

    def full(_: int) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="no space left"):
            write_meshes(path, {OBJECT: mesh})
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]
    for wrong, says in (
        ("x.stl", r"a name ending in \.glb or \.ply or \.obj"),
        ("x", r"a name ending in \.glb or \.ply or \.obj"),
        ("no/x.glb", "a file in a folder that exists"),
    ):
        with pytest.raises(InputError, match=f"path: expected {says}"):
            write_meshes(tmp_path / wrong, {OBJECT: mesh})
    with pytest.raises(InputError, match="meshes: expected at least one, got none"):
        write_meshes(path, {})


@pytest.mark.parametrize("missing", ["trimesh", "skimage.measure"])
def test_what_is_missing_is_named(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=r"surfaces need trimesh and scikit-image, the extra `mesh` .*\.\[mesh\]"):
        surface(ball(0.3), EXTENT, 0.5)


def test_importing_needs_neither() -> None:
    code = "import sys, chorus.occupancy.surfaces, chorus.occupancy.counts; print({'trimesh', 'skimage'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
