"""Occupancies as files: numbers, affines and colours as other software reads them."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import trimesh
from click.testing import CliRunner, Result
from matplotlib import colormaps

from chorus.body.model import load_body
from chorus.camera.views import Scheme
from chorus.cli import main
from chorus.field import FieldParameters, default_smoothing_steps, voxel_centres
from chorus.occupancy.counts import Occupancy, load_occupancy

N, EXTENT = 12, 3.0


@pytest.fixture(scope="module")
def occupancy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An occupancy with one full voxel at the person's left hand, and others fainter."""
    num, den = np.zeros((12, N, N, N), np.int32), np.full((12, N, N, N), 100, np.int32)
    num[:, 9, 7, 6], num[:, 9, 8, 6], num[:, 2, 3, 4] = 100, 50, 20
    totals = np.full(12, 100, np.int64)
    parameters = FieldParameters(N, EXTENT, smoothing_steps=default_smoothing_steps(EXTENT / N))
    made = Occupancy(num, den, totals, totals, Scheme(), "azimuth", parameters, load_body().hash)
    path = tmp_path_factory.mktemp("occupancy") / "ball.h5"
    made.save(path)
    return path


def export(occupancy: Path, output: Path, *more: str) -> Result:
    return CliRunner().invoke(main, ["export", "occupancy", str(occupancy), "-o", str(output), *more])


def test_npy_with_its_affine(occupancy: Path, tmp_path: Path) -> None:
    result = export(occupancy, tmp_path / "a.npy")
    assert result.exit_code == 0, result.output
    assert result.stdout.rstrip().endswith(f"wrote {tmp_path / 'a.npy.json'}")
    values = np.load(tmp_path / "a.npy")
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, load_occupancy(occupancy).probability)
    facts = json.loads((tmp_path / "a.npy.json").read_text())
    affine = np.array(facts["affine"])
    index = np.argwhere(np.ones((N, N, N), bool))
    centres = (index @ affine[:3, :3].T + affine[:3, 3]).reshape(N, N, N, 3)
    np.testing.assert_allclose(centres, voxel_centres(N, EXTENT), atol=1e-12)
    assert facts["body_hash"] == load_body().hash


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_nifti_in_its_own_frame(ending: str, occupancy: Path, tmp_path: Path) -> None:
    assert export(occupancy, tmp_path / f"a{ending}").exit_code == 0
    image = nibabel.load(tmp_path / f"a{ending}")
    np.testing.assert_array_equal(np.asarray(image.dataobj), load_occupancy(occupancy).probability)
    assert image.header.get_xyzt_units()[0] == "mm"
    left, up, forward = voxel_centres(N, EXTENT)[9, 7, 6]
    np.testing.assert_allclose(image.affine @ [9, 7, 6, 1], [-1000 * left, 1000 * forward, 1000 * up, 1], atol=1e-3)
    assert nibabel.aff2axcodes(image.affine) == ("L", "S", "A")  # i to the left, j up, k forward
    np.testing.assert_allclose(image.get_qform(), image.get_sform(), atol=1e-3)
    assert np.linalg.det(image.affine[:3, :3]) > 0
    about = json.loads(image.header.extensions[0].get_content())
    assert about["occupancy"] == str(occupancy)
    first = (tmp_path / f"a{ending}").read_bytes()
    export(occupancy, tmp_path / f"b{ending}")
    assert len(first) == len((tmp_path / f"b{ending}").read_bytes())


def test_points_with_colours(occupancy: Path, tmp_path: Path) -> None:
    result = export(occupancy, tmp_path / "a.ply", "--threshold", "0.3", "--json")
    assert json.loads(result.stdout)["points"] == 2
    cloud = trimesh.load(tmp_path / "a.ply")
    assert isinstance(cloud, trimesh.PointCloud)
    np.testing.assert_allclose(cloud.vertices, voxel_centres(N, EXTENT)[[9, 9], [7, 8], [6, 6]], atol=1e-6)
    expected = np.rint(255 * np.array(colormaps["viridis"]([1.0, 0.5]))).astype(np.uint8)
    expected[:, 3] = 255, 128
    np.testing.assert_array_equal(cloud.colors, expected)
    raw = cloud.metadata["_ply_raw"]["vertex"]["data"]
    np.testing.assert_allclose(np.ravel(raw["probability"]), [1, 0.5])
    assert "3" in export(occupancy, tmp_path / "b.ply").stdout.split("points")[1].split("\n")[0]


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("a.ply", ("--threshold", "1.0"), None),
        ("a.npy", ("--threshold", "0.5"), "--threshold: expected with a .ply alone"),
        ("a.gz", (), "expected a name ending in .npy, .nii, .nii.gz or .ply"),
        ("a.vdb", (), "expected a name ending in .npy or .nii or .gz or .ply"),
    ],
)
def test_what_is_refused(name: str, options: tuple[str, ...], told: str | None, occupancy: Path, tmp_path: Path) -> None:
    result = export(occupancy, tmp_path / name, *options)
    if told is None:
        assert result.exit_code == 0
    else:
        assert result.exit_code == 2
        assert told in result.stderr
        assert not list(tmp_path.iterdir())
