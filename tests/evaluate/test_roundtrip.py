"""Voxels moved into poses and back: against brute force, what must be zero, the acceptance, arguments, the command."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from rich.console import Console

from chorus.body.model import Body, load_body
from chorus.commands.pose import roundtrip_command
from chorus.errors import InputError
from chorus.evaluate.roundtrip import (
    EVERYWHERE,
    NO_PART,
    PERCENTILES,
    Roundtrip,
    as_rich,
    random_poses,
    roundtrip,
    weights_around,
)
from chorus.field import CanonicalField
from chorus.kernels.arrays import cube
from chorus.kernels.reference.skinning import skinning_weights
from chorus.kernels.skinning import INVERSES
from chorus.votes.parts import EPSILON, PARTS, body_parts


@pytest.fixture(scope="module")
def body() -> Body:
    return load_body()


@pytest.fixture(scope="module")
def field(body: Body) -> CanonicalField:
    return CanonicalField(body, 16, cache=False)


@pytest.fixture(scope="module")
def paper(body: Body) -> Roundtrip:
    """At the paper's resolution."""
    return roundtrip(CanonicalField(body, 48), 3)


def test_weights_are_those_of_the_definition(body: Body, field: CanonicalField) -> None:
    p = field.parameters
    mesh = body.posed_vertices(random_poses(body, 1, 0.3, 4))[0]
    lattice = cube(16, p.extent)
    table = torch.tensor(body.weights, dtype=torch.float64)
    want, _ = skinning_weights(lattice, torch.tensor(mesh), table, k=p.k, tau=p.tau, s=p.s)
    have = weights_around(lattice.centres().numpy(), mesh, body.weights, p)
    assert np.allclose(have, want.numpy(), atol=1e-12)
    assert (have[:, 1:].sum(1) > 0.5).sum() > 50
    assert np.allclose(weights_around(mesh[:5], mesh, body.weights, p), body.weights[:5])  # at a vertex, its own


def test_one_pose_by_brute_force(body: Body, field: CanonicalField) -> None:
    p = field.parameters
    pose = random_poses(body, 1, 0.25, 7)
    found = roundtrip(field, pose)
    start, moved = field.centres.reshape(-1, 3).astype(float), field.warp(pose[0]).reshape(-1, 3)
    part_of = np.full(len(body.vertices), len(PARTS))
    for r, vertices in enumerate(body_parts(body).values()):
        part_of[vertices] = r
    near = np.array([np.linalg.norm(body.rest_vertices - x, axis=1).min() for x in start])
    nearest = np.array([np.linalg.norm(body.rest_vertices - x, axis=1).argmin() for x in start])
    weights = weights_around(moved, body.posed_vertices(pose)[0], body.weights, p)
    bones = np.concatenate([body.bone_transforms(pose)[0], np.tile([[[0, 0, 0, 1.0]]], (24, 1, 1))], 1)
    points = np.concatenate([moved, np.ones((len(moved), 1))], 1)
    blends = {
        "blend_of_inverses": np.einsum("pj,jab->pab", weights, np.linalg.inv(bones)),
        "inverse_of_blend": np.linalg.inv(np.einsum("pj,jab->pab", weights, bones)),
    }
    for inverse, blend in blends.items():
        apart = np.linalg.norm(np.einsum("pab,pb->pa", blend, points)[:, :3] - start, axis=1)
        for zone, inside in (("near", near <= EPSILON), ("far", (near > EPSILON) & (near <= p.tau))):
            for row, where in ((EVERYWHERE, inside), ("leftHand", inside & (part_of[nearest] == PARTS.index("leftHand")))):
                assert found.voxels[found.rows.index(row), found.zones.index(zone)] == where.sum()
                if where.any():
                    want = np.percentile(apart[where], PERCENTILES, method="higher")
                    assert np.allclose(list(found.metres_of(inverse, row, zone).values()), want, atol=1e-5)
    assert found.voxels[:-1].sum() == found.voxels[-1].sum() == (near <= p.tau).sum()


def test_in_the_rest_pose_nothing_is_lost(body: Body, field: CanonicalField) -> None:
    found = roundtrip(field, np.stack([body.rest_pose] * 2))
    assert found.poses == 2
    assert np.nanmax(found.metres) < 1e-6
    assert not found.lost.any()


def test_the_more_noise_the_farther(field: CanonicalField) -> None:
    medians = [roundtrip(field, 3, noise).metres_of(INVERSES[0], EVERYWHERE, "far")[50] for noise in (0.0, 0.05, 0.3)]
    assert medians[0] < 1e-6 < 0.005 < medians[1] < 0.5 * medians[2]


def test_near_the_body_the_median_is_within_a_voxel(paper: Roundtrip) -> None:
    spacing = paper.parameters.spacing
    for inverse in INVERSES:
        for row in paper.rows:
            assert 0 < paper.metres_of(inverse, row, "near")[50] < 1.5 * spacing
        assert paper.metres_of(inverse, EVERYWHERE, "near")[50] < spacing
        assert paper.metres_of(inverse, EVERYWHERE, "near")[90] < spacing
    assert not paper.lost.any()
    assert (np.diff(paper.metres, axis=-1) >= 0).all()


def test_the_poses_are_those_of_the_seed(body: Body, field: CanonicalField) -> None:
    poses = random_poses(body, 40, 0.25, 1)
    assert not poses[:, 0].any()
    assert abs((poses[:, 1:] - body.rest_pose[1:]).std() - 0.25) < 0.01
    same, other = roundtrip(field, random_poses(body, 2, 0.25, 1)), roundtrip(field, 2, seed=2)
    assert np.array_equal(roundtrip(field, 2, seed=1).metres, same.metres, equal_nan=True)
    assert not np.array_equal(same.metres, other.metres, equal_nan=True)


def test_as_a_table_and_as_json(paper: Roundtrip) -> None:
    content = json.loads(json.dumps(paper.to_json(), allow_nan=False))
    assert content["percentiles_m"]["inverse_of_blend"]["torso"]["near"]["90"] == pytest.approx(
        paper.metres_of("inverse_of_blend", "torso", "near")[90], abs=1e-6
    )
    assert list(content["voxels"]) == [*PARTS, NO_PART, EVERYWHERE]
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(as_rich(paper, "inverse_of_blend"))
    text = console.export_text()
    line = next(line for line in text.splitlines() if "torso" in line)
    assert f"{1000 * paper.metres_of('inverse_of_blend', 'torso', 'far')[95]:.0f}" in line
    assert "48^3" in text
    assert "…" not in text  # it fits a terminal of 80 columns


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"poses": 0}, "poses: expected shape (n, 24, 3), got ()"),
        ({"poses": np.zeros((0, 24, 3))}, "poses: expected at least one, got none"),
        ({"poses": np.zeros((1, 23, 3))}, "poses: expected shape (n, 24, 3), got (1, 23, 3)"),
        ({"poses": np.ones((1, 24, 3))}, "poses: expected zero rows 0"),
        ({"noise": -1.0}, "noise: expected radians, not negative, got -1.0"),
        ({"noise": np.nan}, "noise: expected radians, not negative, got nan"),
    ],
)
def test_arguments_are_checked(field: CanonicalField, change: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=re.escape(words)):
        roundtrip(field, **change)


def test_without_canonicalization_there_is_nothing_to_measure(body: Body) -> None:
    with pytest.raises(InputError, match="field: expected one with canonicalization"):
        roundtrip(CanonicalField(body, 8, canonicalize=False))


def test_the_command(tmp_path: Path) -> None:
    out = tmp_path / "roundtrip.json"
    arguments = ["--poses", "2", "--resolution", "12", "-o", str(out)]
    result = CliRunner().invoke(roundtrip_command, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert "blend_of_inverses" in result.stdout
    assert "inverse_of_blend" in result.stdout
    assert f"wrote {out}" in result.stdout
    assert json.loads(out.read_text())["poses"] == 2
    assert [p.name for p in tmp_path.iterdir()] == ["roundtrip.json"]
    printed = json.loads(CliRunner().invoke(roundtrip_command, [*arguments[:4], "--json"], catch_exceptions=False).stdout)
    assert printed["percentiles_m"] == json.loads(out.read_text())["percentiles_m"]
    with pytest.raises(InputError, match="--output: expected a file in a folder that exists"):
        CliRunner().invoke(roundtrip_command, ["-o", str(tmp_path / "no" / "x.json")], catch_exceptions=False)
