"""Body parts (Table 4) and interaction regions (Eq. 12)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from chorus.body.model import SMPLH_JOINTS, SMPLX_JOINTS, Body, load_body
from chorus.errors import InputError
from chorus.field import CanonicalField, voxel_centres
from chorus.votes.parts import (
    EPSILON,
    PARTS,
    SEGMENTS,
    InteractionRegions,
    body_parts,
    check_parts,
    interaction_regions,
    load_parts,
)

MIRRORED = {p: p.replace("right", "left") if p.startswith("right") else p.replace("left", "right") for p in PARTS}


@pytest.fixture(scope="module")
def body() -> Body:
    return load_body()


@pytest.fixture(scope="module")
def field(body: Body) -> CanonicalField:
    """Parts know voxel centres only: rigid weights will do and are made at once."""
    return CanonicalField(body, 48, canonicalize=False, cache=False)


@pytest.fixture(scope="module")
def regions(field: CanonicalField) -> InteractionRegions:
    return interaction_regions(field)


def one_vertex_a_joint(names: tuple[str, ...], parents: list[int]) -> Body:
    """A body with as many vertices as joints: vertex j at joint j, rigid with it."""
    joints = np.random.default_rng(0).normal(0, 0.3, (len(names), 3))
    return Body("dots", joints, np.zeros((0, 3), int), joints, parents, np.eye(len(names)), names)


# Parents of SMPL-H's and SMPL-X's joints: a trunk of 22; jaw and eyes on the head (15); fingers in threes on the wrists.
TRUNK = [-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19]


def chains(first: int) -> list[int]:
    return [
        wrist if n == 0 else first + 15 * side + 3 * f + n - 1
        for side, wrist in enumerate((20, 21))
        for f in range(5)
        for n in range(3)
    ]


def test_table_4() -> None:
    assert PARTS == (
        "rightHand",
        "leftHand",
        "rightArm",
        "leftArm",
        "rightLowerLeg",
        "leftLowerLeg",
        "rightUpperLeg",
        "leftUpperLeg",
        "rightFoot",
        "leftFoot",
        "torso",
        "face",
    )
    labels = [label for merged in SEGMENTS.values() for label in merged]
    assert len(labels) == len(set(labels)) == 23
    assert "hips" not in labels
    assert all(MIRRORED[part] in PARTS for part in PARTS)


def test_parts_of_smpl_joints() -> None:
    body = load_body()
    by_joint = one_vertex_a_joint(body.joint_names, body.parents.tolist())
    expected = {
        "rightHand": ["right_wrist", "right_hand"],
        "rightArm": ["right_shoulder", "right_elbow"],
        "rightUpperLeg": ["right_hip"],
        "rightLowerLeg": ["right_knee"],
        "rightFoot": ["right_ankle", "right_foot"],
        "torso": ["spine1", "spine2", "spine3", "left_collar", "right_collar"],
        "face": ["neck", "head"],
    }
    expected |= {MIRRORED[p]: [j.replace("right", "left") for j in js] for p, js in expected.items() if p.startswith("right")}
    found = {part: [body.joint_names[j] for j in vertices] for part, vertices in body_parts(by_joint).items()}
    assert list(found) == list(PARTS)
    assert {part: set(joints) for part, joints in found.items()} == {part: set(js) for part, js in expected.items()}


@pytest.mark.parametrize(
    ("names", "parents", "in_face"),
    [
        (SMPLH_JOINTS, TRUNK + chains(22), {"neck", "head"}),
        (SMPLX_JOINTS, [*TRUNK, 15, 15, 15, *chains(25)], {"neck", "head", "jaw", "left_eye", "right_eye"}),
    ],
)
def test_parts_go_by_names_with_fingers_and_faces(names: tuple[str, ...], parents: list[int], in_face: set[str]) -> None:
    found = {part: {names[j] for j in vertices} for part, vertices in body_parts(one_vertex_a_joint(names, parents)).items()}
    assert found["face"] == in_face
    for side in ("left", "right"):
        hand = {n for n in names if n.startswith(f"{side}_") and n[-1].isdigit()} | {f"{side}_wrist"}
        assert len(hand) == 16
        assert found[f"{side}Hand"] == hand
    assert set(names) - set().union(*found.values()) == {"pelvis"}


def test_parts_of_the_mannequin(body: Body) -> None:
    parts = body_parts(body)
    everything = np.concatenate(list(parts.values()))
    assert len(everything) == len(np.unique(everything))
    rest = np.setdiff1d(np.arange(len(body.vertices)), everything)
    assert (body.dominant_joint[rest] == 0).all()
    assert len(rest) > 0
    middle = {name: body.rest_vertices[vertices].mean(0) for name, vertices in parts.items()}
    for name, (x, _, _) in middle.items():  # +x is the person's left, +y up
        if name.startswith("left"):
            assert x > 0.05
        elif name.startswith("right"):
            assert x < -0.05
        else:
            assert abs(x) < 0.02
        np.testing.assert_allclose(middle[MIRRORED[name]], middle[name] * (-1, 1, 1), atol=0.01)
        assert len(parts[MIRRORED[name]]) == len(parts[name])
    # From the feet to the face; hands farther out than arms.
    heights = [middle[p][1] for p in ("leftFoot", "leftLowerLeg", "leftUpperLeg", "torso", "face")]
    assert heights == sorted(heights)
    assert middle["leftHand"][0] > middle["leftArm"][0] + 0.2


def by_definition(field: CanonicalField, vertices: NDArray[np.int64], epsilon: float) -> NDArray[np.bool_]:
    """Eq. 12 as it is written, over all voxels and vertices: (V,) bool."""
    centres = voxel_centres(field.resolution, field.extent).reshape(-1, 3)
    return np.asarray(cdist(centres, field.body.rest_vertices[vertices]).min(1) <= epsilon)


def test_regions_are_those_of_equation_12(body: Body) -> None:
    field = CanonicalField(body, 20, canonicalize=False, cache=False)
    for epsilon in (EPSILON, 0.3):
        regions = interaction_regions(field, epsilon=epsilon)
        assert regions.names == PARTS
        assert regions.bits.dtype == np.int32
        assert regions.bits.shape == (20**3,)
        assert regions.epsilon == epsilon
        assert regions.field_hash == field.hash
        for part, vertices in body_parts(body).items():
            np.testing.assert_array_equal(regions.voxels(part), by_definition(field, vertices, epsilon))


def test_regions_around_the_mannequin(regions: InteractionRegions, field: CanonicalField) -> None:
    centres = field.centres.reshape(-1, 3)
    for part in PARTS:
        voxels = regions.voxels(part)
        assert 50 < voxels.sum() < 1000
        mirrored = voxels.reshape(48, 48, 48)[::-1].ravel()
        differ = (mirrored != regions.voxels(MIRRORED[part])).sum()
        assert differ <= 0.05 * voxels.sum()  # the mesh is nearly its own mirror image
    torso, face = (centres[regions.voxels(p)] for p in ("torso", "face"))
    assert face[:, 1].min() > torso[:, 1].mean()
    assert centres[regions.voxels("leftFoot")][:, 1].max() < torso[:, 1].min()
    # Parts touch where they join, and only there.
    assert (regions.voxels("leftArm") & regions.voxels("leftHand")).any()
    assert (regions.voxels("torso") & regions.voxels("face")).any()
    assert not (regions.voxels("leftHand") & regions.voxels("rightHand")).any()
    assert not (regions.voxels("leftFoot") & regions.voxels("leftUpperLeg")).any()


def test_the_bound_is_included() -> None:
    """The pelvis is at the origin, and so is the middle one of 3^3 voxels of a metre."""
    dots = one_vertex_a_joint(load_body().joint_names, load_body().parents.tolist())
    field = CanonicalField(dots, 3, canonicalize=False, cache=False)
    assert (dots.rest_vertices[0] == 0).all()
    for epsilon, voxels in ((np.nextafter(1.0, 0), 1), (1.0, 7), (np.nextafter(2**0.5, 0), 7), (2**0.5, 19), (2.0, 27)):
        assert interaction_regions(field, {"pelvis": [0]}, epsilon).voxels("pelvis").sum() == voxels


def test_32_parts_use_all_bits(field: CanonicalField) -> None:
    vertices = np.linspace(0, len(field.body.vertices) - 1, 32).astype(int)
    regions = interaction_regions(field, {f"part {r}": [v] for r, v in enumerate(vertices)}, epsilon=0.06)
    for r, vertex in enumerate(vertices):
        assert regions.bit(f"part {r}") == r
        voxels = regions.voxels(f"part {r}")
        assert voxels.any()
        np.testing.assert_array_equal(voxels, by_definition(field, np.array([vertex]), 0.06))
        np.testing.assert_array_equal(regions.bits.view(np.uint32) >> np.uint32(r) & 1, voxels)
    assert (regions.bits < 0).any()
    assert not regions.bits.flags.writeable
    assert regions.has(np.array([[-(2**31), 1], [5, 0]], np.int32), "part 31").tolist() == [[True, False], [False, False]]


def test_canonicalize_does_not_move_regions(body: Body, regions: InteractionRegions) -> None:
    np.testing.assert_array_equal(interaction_regions(CanonicalField(body, 48)).bits, regions.bits)


def write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


def test_parts_from_a_file(body: Body, field: CanonicalField, tmp_path: Path) -> None:
    content = {"left palm": [5, 3, 3, 900], "nose": [4.0], "all": list(range(len(body.vertices)))}
    path = write(tmp_path / "parts.json", content)
    parts = load_parts(path, body)
    assert {name: vertices.tolist() for name, vertices in parts.items()} == content | {"left palm": [3, 5, 900], "nose": [4]}
    assert list(parts) == list(content)
    from_file, given = interaction_regions(field, path), interaction_regions(field, parts)
    assert from_file.names == given.names == tuple(content)
    np.testing.assert_array_equal(from_file.bits, given.bits)
    np.testing.assert_array_equal(given.voxels("nose"), by_definition(field, np.array([4]), EPSILON))
    assert (given.voxels("all") | ~given.voxels("nose")).all()


def test_parts_by_names_of_joints(body: Body, field: CanonicalField, tmp_path: Path) -> None:
    content = {"shin": ["left_knee"], "both wrists": ["left_wrist", "right_wrist"], "mixed": [5, "head", 3], "plain": [7]}
    parts = load_parts(write(tmp_path / "parts.json", content), body)

    def of(*joints: str) -> list[int]:
        wanted = [body.joint_names.index(joint) for joint in joints]
        return np.flatnonzero(np.isin(body.weights.argmax(1), wanted)).tolist()

    want = {
        "shin": of("left_knee"),
        "both wrists": of("left_wrist", "right_wrist"),
        "mixed": sorted({3, 5, *of("head")}),
        "plain": [7],
    }
    assert {name: vertices.tolist() for name, vertices in parts.items()} == want
    np.testing.assert_array_equal(parts["shin"], body_parts(body)["leftLowerLeg"])
    np.testing.assert_array_equal(interaction_regions(field, content).bits, interaction_regions(field, parts).bits)


def test_a_joint_without_vertices_is_no_part() -> None:
    weights = np.tile([1.0, 0.0], (3, 1))
    body = Body("stump", np.eye(3), [[0, 1, 2]], np.zeros((2, 3)), [-1, 0], weights, ("pelvis", "tail"))
    with pytest.raises(InputError, match=r"parts\['a'\]: expected joints that dominate a vertex of .*, which 'tail' does not"):
        check_parts({"a": ["tail"]}, body)


def test_a_published_segmentation_is_merged_by_table_4(body: Body, tmp_path: Path) -> None:
    labels = [*(label for merged in SEGMENTS.values() for label in merged), "hips"]
    content = {label: [2 * n, 2 * n + 1] for n, label in enumerate(labels)}
    parts = load_parts(write(tmp_path / "smpl_vert_segmentation.json", content), body)
    assert list(parts) == list(PARTS)
    for part, vertices in parts.items():
        assert vertices.tolist() == sorted(v for label in SEGMENTS[part] for v in content[label])
    # Fewer labels are parts of their own, even where one has a part's name.
    del content["rightForeArm"]
    assert list(load_parts(write(tmp_path / "few.json", content), body)) == list(content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1, 2]", r"parts: expected JSON \{part: \[vertex or joint, ...\]\} in .*, got list"),
        ("{", r"parts: expected JSON .*, got Expecting property name"),
        ('{"a": [1], "a": [2]}', r"parts: expected JSON .*'a' twice"),
        ("{}", "parts: expected at least one part, got none"),
        ('{"a": []}', r"parts\['a'\]: expected a list of vertices, got \[\]"),
        ('{"a": 3}', r"parts\['a'\]: expected shape \(n,\), got \(\)"),
        ('{"a": [[1, 2]]}', r"parts\['a'\]: expected shape \(n,\), got \(1, 2\)"),
        ('{"a": [[1, 2], 3]}', r"parts\['a'\]: expected a list of vertices, got lists in it"),
        ('{"a": [true, false]}', r"parts\['a'\]: expected a list of vertices, got \[True, False\]"),
        ('{"a": ["3"]}', r"parts\['a'\]: expected joints among pelvis, left_hip, .*; got '3'"),
        ('{"a": [3, "left_knees"]}', r"parts\['a'\]: expected joints among .*; got 'left_knees'"),
        ('{"a": ["left_knee", -1]}', r"parts\['a'\]: expected vertices 0..13717 of .*, got -1"),
        ('{"a": "left_knee"}', r"parts\['a'\]: expected a list of vertices or joints, got 'left_knee'"),
        ('{"a": {"b": 1}}', r"parts\['a'\]: expected real numbers"),
        ('{"a": null}', r"parts\['a'\]: expected real numbers"),
        ('{"a": [1.5]}', r"parts\['a'\]: expected whole numbers that fit int64, got 1.5"),
        ('{"a": [NaN]}', r"parts\['a'\]: expected finite numbers"),
        ('{"a": [0, -1]}', r"parts\['a'\]: expected vertices 0..13717 of .*, got -1"),
        ('{"a": [13717, 13718]}', r"parts\['a'\]: expected vertices 0..13717 of .*, got 13718"),
        (json.dumps({str(n): [n] for n in range(33)}), "parts: expected at most 32 parts in .*, got 33"),
        ("[" * 100_000, "parts: expected JSON"),
    ],
)
def test_files_that_are_no_segmentation_are_refused(content: str, message: str, body: Body, tmp_path: Path) -> None:
    path = tmp_path / "parts.json"
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        load_parts(path, body)


def test_files_that_cannot_be_read_are_refused(body: Body, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"parts: expected a file that can be read, got .*none.json: No such file"):
        load_parts(tmp_path / "none.json", body)
    with pytest.raises(InputError, match=r"parts: expected a file that can be read, got .*: Is a directory"):
        load_parts(tmp_path, body)
    (tmp_path / "latin").write_bytes(b'{"\xe9": [1]}')
    with pytest.raises(InputError, match="parts: expected JSON"):
        load_parts(tmp_path / "latin", body)


def test_arguments_that_do_not_fit_are_refused(field: CanonicalField, regions: InteractionRegions) -> None:
    for epsilon in (0.0, -0.1, float("nan"), float("inf")):
        with pytest.raises(InputError, match="epsilon: expected a positive number of metres, got"):
            interaction_regions(field, epsilon=epsilon)
    with pytest.raises(
        InputError, match=r"epsilon: expected a radius that reaches a voxel for every part, got 0.001 m.*'rightHand'"
    ):
        interaction_regions(field, epsilon=0.001)
    with pytest.raises(InputError, match="parts: expected at most 32 parts, got 33"):
        interaction_regions(field, {str(n): [n] for n in range(33)})
    with pytest.raises(InputError, match="parts: expected names of parts, got 3"):
        interaction_regions(field, {3: [1]})  # type: ignore[dict-item]
    with pytest.raises(InputError, match=r"part: expected one of rightHand, .*, face; got 'tail'"):
        regions.voxels("tail")
    small = CanonicalField(field.body, 8, extent=0.2, canonicalize=False, cache=False)
    with pytest.raises(InputError, match=r"has none of the 8\^3 voxels of 0.025 m"):
        interaction_regions(small)


def test_bodies_with_other_joints_are_refused() -> None:
    names = tuple(f"joint{j}" for j in range(24))
    with pytest.raises(InputError, match=r"body: expected joints with SMPL's names.*got none for rightHand, leftHand"):
        body_parts(one_vertex_a_joint(names, load_body().parents.tolist()))
