"""Poses as other software writes them: where its own convention, written out here, puts a vertex in the image, ours does."""

from __future__ import annotations

import pickle
import re
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from chorus.body.model import SMPL_JOINTS, SMPLH_JOINTS, SMPLX_JOINTS, Body
from chorus.body.smpl_files import body_arrays
from chorus.cli import main
from chorus.errors import InputError
from chorus.ingest.poses.formats import Poses, read_people
from chorus.ingest.poses.smpl_layouts import PELVIS
from chorus.store import open_store
from tests.body.test_model import smpl_arrays
from tests.ingest.posed import HEIGHT, WIDTH, square, write_mask

N = 3
NAMES = [f"clip_{i:04d}" for i in (7, 8, 9)]
SIDE = max(HEIGHT, WIDTH)


def made_body(joints: int = 24, gender: str = "neutral") -> tuple[Body, NDArray[np.float64]]:
    """A body in the form of a published file, placed as these are: its pelvis is off its origin. And where that is, (3,)."""
    arrays = smpl_arrays(joints=joints)
    at = np.array(PELVIS["smplx" if joints == 55 else "smpl", gender])
    arrays["v_template"] = arrays["v_template"] + (at - arrays["J_regressor"][0] @ arrays["v_template"])
    arrays["posedirs"] *= 0.1  # of people, not of a cloud of points
    return Body("made", **body_arrays(arrays)), at


def model(
    body: Body, at: NDArray[np.float64], pose: NDArray[np.float64], betas: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """Vertices as SMPL gives them, (n, V, 3): posed and turned about the pelvis, which is at J0(betas)."""
    return body.posed_vertices(pose, betas) + at  # with betas, the body's pelvis moves and the origin does not


def smplx_model(arrays_of: int, pose: NDArray[np.float64], betas: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same by the library smplx, for a body of ``made_body(24)``."""
    import torch

    library = pytest.importorskip("smplx")
    from smplx.utils import Struct

    arrays = smpl_arrays(joints=arrays_of)
    at = np.array(PELVIS["smpl", "neutral"])
    arrays["v_template"] = arrays["v_template"] + (at - arrays["J_regressor"][0] @ arrays["v_template"])
    arrays["posedirs"] *= 0.1
    face = dict.fromkeys(("nose", "reye", "leye", "rear", "lear"), 3)
    facts: dict[str, Any] = {"use_feet_keypoints": False, "use_hands": False, "batch_size": len(pose), "dtype": torch.float64}
    made = library.SMPL(model_path="", data_struct=Struct(**arrays), vertex_ids=face, **facts)
    turn, joints = torch.tensor(pose[:, 0]), torch.tensor(pose[:, 1:].reshape(len(pose), -1))
    return np.asarray(made(betas=torch.tensor(betas), global_orient=turn, body_pose=joints).vertices.detach())


def people(joints: int = 24) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Poses (n, J, 3) in the camera's axes, betas (n, 10), translations (n, 3)."""
    rng = np.random.default_rng(3)
    pose = rng.normal(size=(N, joints, 3)) * 0.3
    pose[:, 0] = (Rotation.from_rotvec([np.pi, 0, 0]) * Rotation.from_rotvec(rng.normal(size=(N, 3)) * 0.5)).as_rotvec()
    return pose, rng.normal(size=(N, 10)), np.column_stack([rng.uniform(-0.3, 0.3, (N, 2)), rng.uniform(4, 5, N)])


def seen(points: NDArray[np.float64], focal: float) -> NDArray[np.float64]:
    """(n, V, 3) metres in the camera's axes -> (n, V, 2) pixels, about the image's centre."""
    return focal * points[..., :2] / points[..., 2:] + [WIDTH / 2, HEIGHT / 2]


@dataclass
class Case:
    """A file of some software, and where it shows the vertices: pixels (n, V, 2)."""

    body: Body
    content: Any
    pixels: NDArray[np.float64]
    suffix: str = ".npz"
    options: tuple[str, ...] = ()
    cameras: dict[str, Any] = field(default_factory=dict)
    within: float = 0.5


def hmr2(form: str) -> Case:
    body, at = made_body()
    pose, betas, t = people()
    R = Rotation.from_rotvec(pose.reshape(-1, 3)).as_matrix().reshape(N, 24, 3, 3)
    focal = 5000 / 256 * SIDE
    t[:, 2] *= 10  # of such a focal length
    content: dict[str, Any] = {"keys": NAMES, "global_orient": R[:, :1], "body_pose": R[:, 1:], "betas": betas}
    pixels = seen(model(body, at, pose, betas) + t[:, None], focal)
    np.testing.assert_allclose(model(body, at, pose, betas), smplx_model(24, pose, betas), atol=1e-5)
    if form == "crops":  # the camera of a crop: s, tx, ty with x = s (X + tx) in -1..1 across it
        centre, side = np.array([[70.0, 40.0], [60, 50], [64, 48]]), np.array([60.0, 80.0, 50.0])
        s = 2 * focal / (side * t[:, 2])
        content["pred_cam"] = np.column_stack([s, t[:, :2] - 2 * (centre - [WIDTH / 2, HEIGHT / 2]) / (s * side)[:, None]])
        content |= {"box_center": centre, "box_size": side, "img_size": np.tile([WIDTH, HEIGHT], (N, 1))}
        return Case(body, content, pixels)
    content["pred_cam_t_full"] = t
    if form == "focal":
        content["scaled_focal_length"] = np.float32(focal)
    if form == "pickle":
        params = {name: content.pop(name) for name in ("global_orient", "body_pose", "betas")}
        return Case(body, {**content, "pred_smpl_params": params}, pixels, ".pkl")
    return Case(body, content, pixels)


def wham(form: str) -> Case:
    body, at = made_body()
    pose, betas, t = people()
    pixels = seen(model(body, at, pose, betas) + t[:, None], float(np.hypot(WIDTH, HEIGHT)))
    track = {"pose": pose.reshape(N, 72), "trans": t, "betas": betas, "frame_ids": np.array([2, 3, 4])}
    return Case(body, {0: track}, pixels, f".{form}", ("--first-frame", "5"))


def romp() -> Case:
    body, at = made_body()
    pose, betas, _ = people()
    vertices = model(body, at, pose, betas)
    s, shift = np.array([0.5, 0.6, 0.4]), np.array([[0.1, 0.05], [-0.1, 0.1], [0.2, -0.1]])
    normalised = s[:, None, None] * vertices[..., :2] + shift[:, None]
    pixels = (normalised + 1) * SIDE / 2 - [(SIDE - WIDTH) / 2, (SIDE - HEIGHT) / 2]
    joints = np.zeros((N, 71, 3))
    joints[:, :24] = body.posed_joints(pose, betas) + at
    content = {"smpl_thetas": pose.reshape(N, 72), "smpl_betas": betas, "cam": np.column_stack([s, shift]), "joints": joints}
    return Case(body, {"keys": NAMES, "results": content}, pixels, within=np.inf)


def bev() -> Case:
    body, at = made_body()
    pose, betas, t = people()
    hips = np.random.default_rng(4).normal(size=(N, 1, 3)) * 0.05 + at - [0, 0.1, 0]
    joints = np.zeros((N, 71, 3))
    joints[:, :24] = body.posed_joints(pose, betas) + at - hips
    pixels = seen(model(body, at, pose, betas) - hips + t[:, None], 443.4 / 512 * SIDE)
    content = {"smpl_thetas": pose.reshape(N, 72), "smpl_betas": np.column_stack([betas, np.zeros(N)])}
    content |= {"cam": np.ones((N, 3)), "cam_trans": t, "joints": joints}
    return Case(body, content, pixels)


def world(joints: int, gender: str = "neutral") -> Case:
    """People in a world with z up, and one camera in it."""
    body, at = made_body(joints, gender)
    pose, betas, _ = people(joints)
    rng = np.random.default_rng(6)
    upright = Rotation.from_rotvec([np.pi / 2, 0, 0]) * Rotation.from_rotvec(rng.normal(size=(N, 3)) * 0.4)
    pose[:, 0] = upright.as_rotvec()
    trans = rng.normal(size=(N, 3)) * 0.2 + [1.0, 2.0, 0.9]
    R = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])  # looks along +y
    t = -R @ np.array([1.0, -3.0, 0.9])
    K = np.array([[140.0, 0, 60], [0, 145, 50], [0, 0, 1]])
    camera = (model(body, at, pose, betas) + trans[:, None]) @ R.T + t
    pixels = camera @ K.T
    facts = {"R": R, "t": t, "K": K}
    content: dict[str, Any] = {"betas": betas[0], "gender": np.array(gender)}
    pixels = (pixels[..., :2] / pixels[..., 2:]).copy()
    if joints == 55:
        parts = {
            "global_orient": pose[:, 0],
            "body_pose": pose[:, 1:22].reshape(N, 63),
            "jaw_pose": pose[:, 22],
            "transl": trans,
        }
        parts |= {"leye_pose": pose[:, 23], "reye_pose": pose[:, 24], "left_hand_pose": pose[:, 25:40].reshape(N, 45)}
        parts |= {"right_hand_pose": pose[:, 40:].reshape(N, 45), "betas": betas}
        return Case(body, content | parts | {"keys": NAMES}, pixels, cameras=facts)
    content |= {"poses": pose.reshape(N, -1), "trans": trans, "betas": betas, "mocap_framerate": np.array(120.0)}
    return Case(body, content, pixels, options=("--first-frame", "7"), cameras=facts)


def parts(joints: int, body: int) -> Case:
    """SMPL, or SMPL-H, with the pose in parts."""
    case = world(joints)
    pose = case.content.pop("poses").reshape(N, -1)
    case.content |= {"global_orient": pose[:, :3], "body_pose": pose[:, 3 : 3 + body], "keys": NAMES}
    if joints == 52:
        case.content |= {"left_hand_pose": pose[:, 66:111], "right_hand_pose": pose[:, 111:]}
    case.options = () if joints == 24 else ("--format", "smpl")
    return case


def smplx_names() -> Case:
    """SMPL as people save it after the library smplx, in the camera's axes."""
    body, at = made_body()
    pose, betas, t = people()
    content = {"name": NAMES, "global_orient": pose[:, 0], "body_pose": pose[:, 1:].reshape(N, 69), "transl": t}
    content |= {"betas": betas, "focal_length": np.full(N, 140.0)}
    camera = model(body, at, pose, betas) + t[:, None]
    pixels = 140.0 * camera[..., :2] / camera[..., 2:] + [WIDTH / 2, HEIGHT / 2]
    return Case(body, content, pixels)


CASES = {
    "hmr2": lambda: hmr2(""),
    "hmr2-focal": lambda: hmr2("focal"),
    "hmr2-crops": lambda: hmr2("crops"),
    "hmr2-pickle": lambda: hmr2("pickle"),
    "wham-pickle": lambda: wham("pickle"),
    "wham-joblib": lambda: wham("pkl"),
    "romp": romp,
    "bev": bev,
    "amass": lambda: world(52, "male"),
    "smpl": lambda: world(24, "female"),
    "smplx": lambda: world(55),
    "smpl-parts": lambda: parts(24, 69),
    "smplh-parts": lambda: parts(52, 63),
    "smplx-names": smplx_names,
}


def ingest(folder: Path, case: Case, *more: str) -> tuple[Any, Path]:
    """The result of the command, and the store."""
    poses = folder / f"poses{case.suffix}"
    if case.suffix == ".npz":
        np.savez(poses, **case.content)
    elif case.suffix == ".pkl" and 0 in case.content:
        joblib.dump(case.content, poses)
    else:
        poses.write_bytes(pickle.dumps(case.content))
    options = [*case.options, *more]
    if case.cameras:
        np.savez(folder / "cameras.npz", **case.cameras)
        options += ["--cameras", str(folder / "cameras.npz")]
    for i, name in enumerate(NAMES):
        write_mask(folder / "masks" / f"{name}.png", square(i))
    case.body.save(folder / "body.npz")
    where = [folder / "masks", "--poses", poses, "--body", folder / "body.npz", "-o", folder / "s.chorus", "--category", "ball"]
    return CliRunner().invoke(main, ["ingest", "folder", *map(str, where), *options]), folder / "s.chorus"


@pytest.mark.parametrize("name", CASES)
def test_vertices_are_where_the_source_shows_them(name: str, tmp_path: Path) -> None:
    case = CASES[name]()
    if name == "bev":  # one file an image, named as it is
        many(tmp_path, case)
        store = open_store(tmp_path / "s.chorus")
    else:
        result, path = ingest(tmp_path, case)
        assert result.exit_code == 0, result.output
        assert "added            3" in result.stdout
        assert re.search(r"poses +(hmr2|wham|romp|smplx?); pelvis at -?\d.*m in the model's frame\n", result.stdout)
        assert "warning" not in result.stderr
        store = open_store(path)
    batch = store.batch(store.select())
    assert [key.decode() for key in batch.keys.tolist()] == NAMES
    betas = store.rows["betas"]
    body = case.body
    shaped = body.posed_vertices(batch.poses, betas) - np.einsum("cb,ib->ic", body.joint_shapedirs[0], betas)[:, None]
    pixels, depth = batch.cameras.project(shaped)
    assert (depth > 0).all()
    assert np.abs(pixels - case.pixels).max() < case.within
    if name == "romp":  # weak perspective: exact at the pelvis alone, and nowhere far off
        pelvis, _ = batch.cameras.project(np.zeros((3, 1, 3)))
        at = np.array(PELVIS["smpl", "neutral"])
        _, betas, _ = people()
        J0 = at + np.einsum("cb,ib->ic", body.joint_shapedirs[0], betas)
        cam = case.content["results"]["cam"]
        shown = ((cam[:, :1] * J0[:, :2] + cam[:, 1:]) + 1) * SIDE / 2 - [(SIDE - WIDTH) / 2, (SIDE - HEIGHT) / 2]
        np.testing.assert_allclose(pelvis[:, 0], shown, atol=1e-3)
        assert np.linalg.norm(pixels - case.pixels, axis=-1).mean() < 0.05 * SIDE


def many(folder: Path, case: Case) -> None:
    (folder / "poses").mkdir()
    for row, name in enumerate(NAMES):
        one = {key: value[row : row + 1] for key, value in case.content.items()}
        np.savez(folder / "poses" / f"{name}.npz", results=one)  # a dictionary, which numpy pickles
        write_mask(folder / "masks" / f"{name}.png", square(row))
    case.body.save(folder / "body.npz")
    where = [folder / "masks", "--poses", folder / "poses", "--body", folder / "body.npz", "-o", folder / "s.chorus"]
    result = CliRunner().invoke(main, ["ingest", "folder", *map(str, where), "--category", "ball"])
    assert result.exit_code == 0, result.output


def test_the_pelvis_offset_is_what_puts_them_there(tmp_path: Path) -> None:
    case = hmr2("")
    case.content["origin"] = np.zeros(3)  # as if the model's origin were its pelvis
    result, path = ingest(tmp_path, case)
    assert result.exit_code == 0, result.output
    store = open_store(path)
    batch = store.batch(store.select())
    pixels, _ = batch.cameras.project(case.body.posed_vertices(batch.poses))
    assert np.abs(pixels - case.pixels)[..., 1].mean() > 8  # 22 cm are 12 px


def test_joints_of_52_and_55_onto_24(tmp_path: Path) -> None:
    for joints, names in ((52, SMPLH_JOINTS), (55, SMPLX_JOINTS)):
        case = world(joints)
        case.body = made_body(24)[0]
        folder = tmp_path / str(joints)
        folder.mkdir()
        result, path = ingest(folder, case)
        assert result.exit_code == 0, result.output
        store = open_store(path)
        pose = np.zeros((N, 24, 3))
        given = people(joints)[0]
        for joint, name in enumerate(SMPL_JOINTS[1:22], 1):
            pose[:, joint] = given[:, names.index(name)]
        np.testing.assert_allclose(store.rows["pose"], pose, atol=1e-6)


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    def told(case: Case, *more: str) -> str:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        result, path = ingest(folder, case, *more)
        assert result.exit_code == 2
        assert not path.exists()
        return str(result.stderr)

    amass = world(52)
    amass.cameras = {}
    assert "or with --cameras, got arrays named betas, gender, mocap_framerate, poses, trans" in told(amass)
    film = world(52)
    film.options = ()
    assert "of the frames of a film say with --first-frame" in told(film)
    crops = hmr2("crops")
    del crops.content["box_size"]
    assert "pred_cam_t_full: expected it, or pred_cam, box_center, box_size and img_size; got no ['box_size']" in told(crops)
    assert "expected it in a file of wham" in told(hmr2(""), "--format", "wham")
    assert "--format: expected one of auto, hmr2, romp" in told(hmr2(""), "--format", "hmr")
    turned = hmr2("")
    turned.cameras = {"R": np.eye(3), "t": np.ones(3)}
    assert "R: expected none, as this software's poses are in the camera's axes already" in told(turned)
    bent = hmr2("")
    bent.content["body_pose"] = bent.content["body_pose"] * 1.1
    assert "body_pose: expected rotation matrices" in told(bent)
    other = world(24)
    other.content["gender"] = np.array("robot")
    assert "gender: expected neutral, male or female, got 'robot'" in told(other)
    late = wham("pickle")
    late.options = ("--first-frame", "70")
    assert "expected a person of this image's name" in told(late)


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("run",))


def test_nothing_in_a_pickle_is_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, content in enumerate(({"pose": Evil()}, [Evil()], {Evil(): 1})):
        folder = tmp_path / str(number)
        folder.mkdir()
        result, path = ingest(folder, Case(made_body()[0], content, np.zeros(0), ".pickle"))
        assert result.exit_code == 2
        assert "asks for builtins.print; expected numbers, texts, lists, dictionaries and numpy arrays only" in result.stderr
        assert not path.exists()
    folder = tmp_path / "npz"
    folder.mkdir()
    result, _ = ingest(folder, Case(made_body()[0], {"results": np.array(Evil(), object)}, np.zeros(0)))
    assert "asks for builtins.print" in result.stderr
    assert "run" not in capsys.readouterr().out


def test_people_by_the_name_of_their_image(tmp_path: Path) -> None:
    """A pickled dictionary of images with a dictionary of arrays each."""
    body, _ = made_body()
    pose, betas, t = people()
    rows = {f"{name}.jpg": {"pose": pose[i], "betas": betas[i], "t": t[i], "focal": 150.0} for i, name in enumerate(NAMES)}
    result, path = ingest(tmp_path, Case(body, rows, np.zeros(0), ".pickle"))
    assert result.exit_code == 0, result.output
    store = open_store(path)
    np.testing.assert_allclose(store.rows["t"], t, atol=1e-6)
    np.testing.assert_allclose(store.rows["pose"][:, 1:], pose[:, 1:], atol=1e-6)
    np.testing.assert_allclose(store.rows["betas"], betas, atol=1e-6)


@pytest.mark.parametrize("name", ["hmr2", "hmr2-pickle", "wham-joblib", "romp", "amass", "smplx"])
def test_damaged_files_and_wrong_shapes_are_errors_of_ours(name: str, tmp_path: Path) -> None:
    """Bytes changed, files cut off, arrays of other shapes and types: read, or refused as wrong input, and nothing else."""
    case = CASES[name]()
    ingest(tmp_path, case)
    path, rng = tmp_path / f"poses{case.suffix}", np.random.default_rng(0)
    cameras = tmp_path / "cameras.npz" if case.cameras else None
    poses = Poses(path, cameras=cameras, first_frame=7 if case.options else None)
    whole = path.read_bytes()
    assert len(read_people(poses, case.body)) == N
    for _ in range(60):
        broken = bytearray(whole)
        for place in rng.integers(0, len(whole), 2):
            broken[place] = rng.integers(0, 256)
        for content in (bytes(broken), whole[: int(rng.integers(0, len(whole)))]):
            path.write_bytes(content)
            with suppress(InputError):
                read_people(poses, case.body)
    if case.suffix == ".npz" and name != "romp":
        others = [np.zeros(0), np.zeros((2, 5)), np.array(3.0), np.full((N, 3), np.nan), np.array(["x"] * N)]
        others += [np.zeros((N, 72), bool), np.zeros((N, 1, 1, 1, 3, 3)), np.full((N, 24, 3), 1e300)]
        for array in case.content:
            for other in others:
                np.savez(path, **{**case.content, array: other})
                with suppress(InputError):
                    read_people(poses, case.body)
