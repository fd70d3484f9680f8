"""``chorus ingest folder``: masks and a file of poses and cameras, in all its forms, and what is refused."""

from __future__ import annotations

import csv
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from scipy.spatial.transform import Rotation

from chorus.cli import main
from chorus.field import CanonicalField
from chorus.ingest.mask_folder import Import, ingest_mask_folder
from chorus.ingest.poses.formats import Poses
from chorus.occupancy.aggregation import aggregate
from chorus.simulate.images import write_world
from chorus.simulate.worlds import WORLDS
from chorus.store import open_store, verify_store
from tests.ingest.posed import BODY, FOCAL, HEIGHT, WIDTH, people, square, write_mask, write_masks


def ingest(folder: Path, poses: Path, *more: object) -> Result:
    arguments = ["ingest", "folder", folder, "--poses", poses, "--category", "ball", "-o", poses.parent / "s.chorus", *more]
    return CliRunner().invoke(main, [str(value) for value in arguments])


def write(path: Path, content: dict[str, Any]) -> Path:
    plain = {name: np.asarray(value).tolist() for name, value in content.items()}
    if path.suffix == ".npz":
        np.savez(path, **content)
    elif path.suffix == ".json":
        path.write_text(json.dumps(plain))
    else:
        rows = [{"key": key} for key in plain["keys"]]
        for name, values in content.items():
            if name != "keys":
                flat = np.asarray(values).reshape(len(rows), -1)
                for row, numbers in zip(rows, flat.tolist(), strict=True):
                    one = name in ("focal", "prompt", "estimator")
                    row.update({name if one else f"{name}_{i}": value for i, value in enumerate(numbers)})
        with path.open("w", newline="") as file:
            table = csv.DictWriter(file, list(rows[0]), delimiter=";")
            table.writeheader()
            table.writerows(rows)
    return path


def check(store: Path, content: dict[str, Any], masks: dict[str, Any]) -> None:
    """The store has the masks, poses and cameras that were given."""
    assert verify_store(store) == []
    opened = open_store(store)
    batch = opened.batch(opened.select())
    keys = [key.decode() for key in batch.keys.tolist()]
    order = [keys.index(key) for key in content["keys"].tolist()]
    for row, key in zip(order, content["keys"].tolist(), strict=True):
        np.testing.assert_array_equal(batch.masks.unpack(row), masks[key])
    np.testing.assert_array_equal(batch.poses[order][:, 0], 0)
    np.testing.assert_allclose(batch.poses[order][:, 1:], content["pose"][:, 1:], atol=1e-6)
    R = Rotation.from_rotvec(content["pose"][:, 0]).as_matrix()
    np.testing.assert_allclose(batch.cameras.R[order], R, atol=1e-6)
    np.testing.assert_allclose(batch.cameras.t[order], content["t"], atol=1e-6)
    K = np.array([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]])
    np.testing.assert_allclose(batch.cameras.K[order], np.tile(K, (len(order), 1, 1)), atol=1e-4)


@pytest.mark.parametrize("suffix", [".npz", ".json", ".csv"])
def test_one_file_of_poses_in_three_forms(suffix: str, tmp_path: Path) -> None:
    content = people()
    masks = write_masks(tmp_path / "masks", content["keys"])
    result = ingest(tmp_path / "masks", write(tmp_path / f"poses{suffix}", content))
    assert result.exit_code == 0, result.output
    check(tmp_path / "s.chorus", content, masks)
    assert "added            4" in result.stdout
    assert result.stdout.rstrip().endswith(f"wrote {tmp_path / 's.chorus'}")
    again = ingest(tmp_path / "masks", tmp_path / f"poses{suffix}")
    assert again.exit_code == 0
    assert "present already  4" in again.stdout
    assert "nothing was added" in again.stdout


def test_a_list_of_people_in_json(tmp_path: Path) -> None:
    content = people()
    masks = write_masks(tmp_path / "masks", content["keys"])
    plain = {name: value.tolist() for name, value in content.items()}
    rows = [{("key" if n == "keys" else n): values[i] for n, values in plain.items()} for i in range(4)]
    (tmp_path / "poses.json").write_text(json.dumps(rows))
    result = ingest(tmp_path / "masks", tmp_path / "poses.json")
    assert result.exit_code == 0, result.output
    check(tmp_path / "s.chorus", content, masks)
    del rows[2]["t"]
    (tmp_path / "poses.json").write_text(json.dumps(rows))
    assert "the same names of all people, got 't'" in ingest(tmp_path / "masks", tmp_path / "poses.json").stderr


@pytest.mark.parametrize("form", ["row", "matrices", "K", "one K", "R", "origin", "endings"])
def test_forms_of_the_same_people(form: str, tmp_path: Path) -> None:
    content = people()
    masks = write_masks(tmp_path / "masks", content["keys"])
    given = dict(content)
    K = np.array([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]])
    if form == "row":
        given["pose"] = content["pose"].reshape(4, 72)
    if form == "matrices":
        given["pose"] = Rotation.from_rotvec(content["pose"].reshape(-1, 3)).as_matrix().reshape(4, 24, 3, 3)
    if form in ("K", "one K"):
        given["K"] = K if form == "one K" else np.tile(K, (4, 1, 1))
        del given["focal"]
    if form == "R":
        given["R"] = Rotation.from_rotvec(content["pose"][:, 0]).as_matrix()
        given["pose"] = np.concatenate([np.zeros((4, 1, 3)), content["pose"][:, 1:]], 1)
    if form == "origin":  # a person who is placed by SMPL's origin, 22 cm above the pelvis
        given["origin"] = np.array([-0.0018, -0.2233, 0.0282])
        given["t"] = content["t"] - given["origin"]
    if form == "endings":
        given["keys"] = np.array([f"{key}.jpg" for key in content["keys"]])
    result = ingest(tmp_path / "masks", write(tmp_path / "poses.npz", given))
    assert result.exit_code == 0, result.output
    check(tmp_path / "s.chorus", content, masks)


def test_names_prompts_and_folders(tmp_path: Path) -> None:
    content = people()
    content["keys"] = np.array(["a_person_kicks_a_ball/0", "held/1", "held/2", "3"])
    masks = write_masks(tmp_path / "masks", content["keys"])
    assert ingest(tmp_path / "masks", write(tmp_path / "p.npz", content)).exit_code == 0
    check(tmp_path / "s.chorus", content, masks)
    store = open_store(tmp_path / "s.chorus")
    assert store.prompts == ["a person kicks a ball", "ball", "held"]
    # Without folders names do as well, where they are one image's.
    content["keys"] = np.array(["0", "1", "2", "3"])
    (tmp_path / "b").mkdir()
    assert ingest(tmp_path / "masks", write(tmp_path / "b" / "p.npz", content), "--prompt", "all").exit_code == 0
    assert open_store(tmp_path / "b" / "s.chorus").prompts == ["all"]
    write_mask(tmp_path / "masks" / "held" / "0.png", square(7))
    told = ingest(tmp_path / "masks", tmp_path / "b" / "p.npz")
    assert "expected people of one image under '0', which are those of 'a_person_kicks_a_ball/0'" in told.stderr
    content["prompt"] = np.array(list("abcd"))
    (tmp_path / "c").mkdir()
    assert ingest(tmp_path / "masks", write(tmp_path / "c" / "p.npz", content)).exit_code == 0
    assert open_store(tmp_path / "c" / "s.chorus").prompts == list("abcd")


def test_what_does_not_fit_is_said_and_the_rest_is_taken(tmp_path: Path) -> None:
    content = people(6)
    content["image_size"] = np.array([[HEIGHT, WIDTH]] * 5 + [[HEIGHT, WIDTH + 1]])
    write_masks(tmp_path / "masks", content["keys"][[0, 1, 2, 3, 5]])
    write_mask(tmp_path / "masks" / "nobody.png", square(9))
    write_mask(tmp_path / "masks" / "0001.png", np.zeros((HEIGHT, WIDTH), bool))
    write_mask(tmp_path / "masks" / "0002.bmp", square(9))
    (tmp_path / "masks" / "0003.png").write_bytes(b"\x89PNG nothing")
    (tmp_path / "masks" / "notes.txt").write_text("not a mask")
    result = ingest(tmp_path / "masks", write(tmp_path / "p.npz", content))
    assert result.exit_code == 0
    told = result.stderr
    assert f"rejected {tmp_path}/masks/nobody.png: poses: expected a person of this image's name, got none" in told
    assert "0001.png: mask: expected pixels of the object, got none" in told
    assert "0002.png: mask: expected one of this name, got also 0002.bmp" in told
    assert "0003.png" in told
    assert f"mask: expected the camera's image size, {WIDTH + 1} x {HEIGHT} px, got {WIDTH} x {HEIGHT} px" in told
    assert f"rejected {tmp_path}/p.npz: 0004: mask: expected one of this name, got none" in told
    assert open_store(tmp_path / "s.chorus").rows["key"].tolist() == [b"0000", b"0002"]
    write_mask(tmp_path / "masks" / "0001.png", square(1))  # mended: read again, and only it
    told = ingest(tmp_path / "masks", tmp_path / "p.npz", "--json")
    facts = json.loads(told.stdout)
    assert facts["added"] == ["0001"]
    assert facts["present"] == ["0000", "0002"]


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("pose", np.full((4, 24, 3), np.nan), "pose: expected finite numbers"),
        ("t", np.zeros((4, 3)), "t: expected the pelvis before the camera"),
        ("t", np.full((4, 3), np.inf), "t: expected finite numbers"),
        ("focal", np.array([1.0, -1, 1, 1]), "positive focal lengths"),
        ("focal", np.ones(3), "focal: expected shape (4,)"),
        ("R", np.full((4, 3, 3), 0.5), "cameras.R: expected rotations"),
        ("K", np.tile(np.eye(3), (4, 1, 1)), "focal: expected K or focal, got both"),
        ("pose", np.zeros((4, 23, 3)), "pose: expected shape (4, 24, 3)"),
        ("pose", np.full((4, 24, 3, 3), 0.5), "pose: expected rotation matrices"),
        ("poses", np.zeros(3), "poses: expected names among"),
        ("image_size", np.zeros((4, 2), int), "image_size: expected a positive height and width"),
    ],
)
def test_degenerate_numbers_are_refused_before_anything_is_written(name: str, value: Any, told: str, tmp_path: Path) -> None:
    content = people()
    write_masks(tmp_path / "masks", content["keys"])
    result = ingest(tmp_path / "masks", write(tmp_path / "p.npz", content | {name: value}))
    assert result.exit_code == 2
    assert told in result.stderr
    assert f"{tmp_path}/p.npz: " in result.stderr
    assert not (tmp_path / "s.chorus").exists()


def test_dry_run_writes_nothing(tmp_path: Path) -> None:
    content = people()
    write_masks(tmp_path / "masks", content["keys"][:3])
    result = ingest(tmp_path / "masks", write(tmp_path / "p.npz", content), "--dry-run")
    assert result.exit_code == 0
    assert "added            3" in result.stdout
    assert "rejected         1" in result.stdout
    assert result.stdout.endswith("nothing was written (--dry-run)\n")
    assert not (tmp_path / "s.chorus").exists()


def test_person_masks_and_photographs_are_kept(tmp_path: Path) -> None:
    content = people()
    write_masks(tmp_path / "masks", content["keys"])
    persons = {key: write_mask(tmp_path / "people" / f"{key}.png", square(50 + i)) for i, key in enumerate(content["keys"])}
    (tmp_path / "photos").mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photos" / "0002.png")
    Image.fromarray(pixels[1:]).save(tmp_path / "photos" / "0003.png")
    (tmp_path / "people" / "0001.png").unlink()
    folders = ("--person-masks", tmp_path / "people", "--images", tmp_path / "photos")
    result = ingest(tmp_path / "masks", write(tmp_path / "p.npz", content), *folders)
    assert result.exit_code == 0, result.output
    assert "0001.png: person mask: expected one of this name" in result.stderr
    assert "0003.png: 0003.png: expected" in result.stderr
    store = open_store(tmp_path / "s.chorus")
    assert store.rows["key"].tolist() == [b"0000", b"0002"]
    kept = store.person_masks([0, 1])
    np.testing.assert_array_equal(kept.unpack(0), persons["0000"])
    np.testing.assert_array_equal(kept.unpack(1), persons["0002"])
    np.testing.assert_array_equal(store.picture("0002"), pixels)
    assert store.picture("0000") is None
    told = ingest(tmp_path / "masks", tmp_path / "p.npz")
    assert told.exit_code == 2
    assert "expected masks of the person, as the store keeps them" in told.stderr


def test_of_several_people_the_one_at_the_object_is_taken(tmp_path: Path) -> None:
    content = people(1)
    content["pose"][0, 0] = np.pi, 0, 0
    both = {name: np.concatenate([value, value]) for name, value in content.items()}
    both["t"] = np.array([[-0.9, 0, 3.0], [0.9, 0, 3.0]])
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[40:50, 100:120] = True  # u = 64 + 150 * 0.9 / 3 = 109
    write_mask(tmp_path / "masks" / "0000.png", mask)
    result = ingest(tmp_path / "masks", write(tmp_path / "p.npz", both))
    assert result.exit_code == 0, result.output
    assert "of several people  1" in result.stdout
    store = open_store(tmp_path / "s.chorus")
    np.testing.assert_allclose(store.rows["t"], [[0.9, 0, 3]])
    assert store.rows["score/person_count"].tolist() == [2]
    u = FOCAL * (BODY.posed_joints(np.concatenate([np.zeros((1, 1, 3)), content["pose"][:, 1:]], 1))[0, :, 0] + 0.9)
    assert store.rows["score/overlap"][0] == 1, u


def test_a_person_outside_of_the_image_is_warned_of(tmp_path: Path) -> None:
    content = people(1)
    content["t"] = content["t"] + [100, 0, 0]
    write_masks(tmp_path / "masks", content["keys"])
    result = ingest(tmp_path / "masks", write(tmp_path / "p.npz", content))
    assert "warning: the person is outside of the image in 1 of 1 images, such as 0000" in result.stderr


def test_weak_cameras_and_joints(tmp_path: Path) -> None:
    content = people()
    write_masks(tmp_path / "masks", content["keys"])
    focal = 1.167 * WIDTH
    t = content["t"]
    weak = {name: content[name] for name in ("keys", "pose")}
    side = np.array([60.0, 70, 80, 90])
    weak["crop"] = np.column_stack([np.full(4, 70.0), np.full(4, 40.0), side])
    scale = 2 * focal / (side * t[:, 2])
    middle = np.array([WIDTH / 2, HEIGHT / 2])
    shift = t[:, :2] - (weak["crop"][:, :2] - middle) * (t[:, 2] / focal)[:, None]
    weak["weak_camera"] = np.column_stack([scale, shift])
    assert ingest(tmp_path / "masks", write(tmp_path / "p.npz", weak)).exit_code == 0
    store = open_store(tmp_path / "s.chorus")
    np.testing.assert_allclose(store.rows["K"][:, 0, 0], focal, rtol=1e-3)
    np.testing.assert_allclose(store.rows["t"], t, atol=5e-3)


def test_what_the_format_is_when_no_name_is_known(tmp_path: Path) -> None:
    write_masks(tmp_path / "masks", ["a"])
    result = ingest(tmp_path / "masks", write(tmp_path / "p.npz", {"thetas": np.zeros((1, 72))}))
    assert result.exit_code == 2
    assert "expected arrays named as in docs/imports.md" in result.stderr
    assert "thetas" in result.stderr


def test_a_simulated_world_through_a_folder_votes_the_same(tmp_path: Path) -> None:
    write_world(tmp_path / "w.chorus", [WORLDS["ball-held"]], num_images=40, body=BODY)
    world = open_store(tmp_path / "w.chorus")
    batch = world.batch(world.select())
    keys = [key.decode() for key in batch.keys.tolist()]
    for row, key in enumerate(keys):
        write_mask(tmp_path / "masks" / f"{key}.png", batch.masks.unpack(row))
    cameras = batch.cameras
    np.savez(
        tmp_path / "p.npz", keys=keys, pose=batch.poses, R=cameras.R, t=cameras.t, K=cameras.K, image_size=cameras.image_size
    )
    assert ingest(tmp_path / "masks", tmp_path / "p.npz").exit_code == 0
    field = CanonicalField(BODY, resolution=12)
    one, other = (aggregate(path, field, prompt="*") for path in (tmp_path / "w.chorus", tmp_path / "s.chorus"))
    np.testing.assert_array_equal(one.num_counts, other.num_counts)
    np.testing.assert_array_equal(one.den_counts, other.den_counts)
    assert one.num_counts.sum() > 500


def test_stopped_and_gone_on_with(tmp_path: Path) -> None:
    content = people(6)
    masks = write_masks(tmp_path / "masks", content["keys"])
    poses = Poses(write(tmp_path / "p.npz", content))
    stop = threading.Event()

    def seen(done: int, _total: int) -> None:
        if done == 2:
            stop.set()

    how = Import(tmp_path / "s.chorus", "ball", stop=stop, progress=seen)
    report = ingest_mask_folder(tmp_path / "masks", poses, BODY, how)
    assert report.stopped
    assert report.added == ["0000", "0001"]
    assert open_store(tmp_path / "s.chorus").rows["key"].tolist() == [b"0000", b"0001"]
    report = ingest_mask_folder(tmp_path / "masks", poses, BODY, Import(tmp_path / "s.chorus", "ball"))
    assert not report.stopped
    assert report.present == ["0000", "0001"]
    check(tmp_path / "s.chorus", content, masks)
