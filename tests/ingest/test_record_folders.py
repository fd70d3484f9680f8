"""Records into a store: made up ones, bad ones of each kind, and three real ones where they are at hand."""

import json
import math
import os
import shutil
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from chorus.body.model import load_body
from chorus.camera.cameras import Cameras
from chorus.errors import InputError, StoreError
from chorus.ingest.record import record_camera
from chorus.ingest.record_folders import RecordError, ingest_records, read_record
from chorus.kernels.kinematics import rotation_matrices
from chorus.render.rasterize import render_mesh
from chorus.store import StoreWriter, open_store, verify_store

BODY = load_body()
HEIGHT, WIDTH = 120, 90
KEYPOINTS = {1: 12, 2: 17, 3: 19, 4: 21, 5: 16, 6: 18, 7: 20, 8: 0, 9: 2, 10: 5, 11: 8, 12: 1, 13: 4, 14: 7, 19: 10, 22: 11}


def rotation(axis_angle):
    return rotation_matrices(torch.tensor(np.asarray(axis_angle, np.float64))).numpy()


def content(seed=0, **changes):
    rng = np.random.default_rng(seed)
    pose = rng.normal(size=(24, 3)) * 0.2
    pose[0] = 0
    fields = {
        "category": "kite",
        "image_size": [WIDTH, HEIGHT],
        "pose_axis_angle": pose.tolist(),
        "camera": {
            "R": np.diag([1.0, -1.0, -1.0]).tolist(),
            "t": [0.1, 0.2, 4.0],
            "K": [[150, 0, WIDTH / 2], [0, 150, HEIGHT / 2], [0, 0, 1]],
        },
    }
    fields.update(changes)
    return {name: value for name, value in fields.items() if value is not None}


def save_mask(path, mask, mode="1"):
    Image.fromarray(mask.astype(np.uint8) * 255).convert(mode).save(path)


def make(folder, fields=None, *, mask=None, person=True):
    folder.mkdir(parents=True)
    (folder / "record.json").write_text(json.dumps(content() if fields is None else fields))
    if mask is None:
        mask = np.zeros((HEIGHT, WIDTH), bool)
        mask[10:40, 20:25] = True
    save_mask(folder / "object_mask.png", mask)
    if person:
        save_mask(folder / "person_mask.png", ~mask, "L")
    return folder


def test_round_trip(tmp_path):
    rng = np.random.default_rng(1)
    masks = [rng.random((HEIGHT, WIDTH)) < 0.1 for _ in range(3)]
    fields = [
        content(0, betas=[0.5, -1.0], source="by hand"),
        content(1, betas=[0.0, 2.0], prompt="a kite, seen from the left", an_unknown_field=[1]),
        content(2),
    ]
    folders = [make(tmp_path / f"r{i}", f, mask=m) for i, (f, m) in enumerate(zip(fields, masks, strict=True))]
    steps = []
    report = ingest_records(folders, tmp_path / "s.chorus", BODY, progress=lambda done, total: steps.append((done, total)))
    assert report.added == ["r0", "r1", "r2"]
    assert (report.rejected, report.present, report.residual_px) == ([], [], {})
    assert steps == [(1, 3), (2, 3), (3, 3)]
    assert verify_store(tmp_path / "s.chorus") == []
    store = open_store(tmp_path / "s.chorus")
    assert (store.category, store.body_hash, store.num_joints) == ("kite", BODY.hash, 24)
    batch = store.batch(np.arange(3))
    people = store.person_masks(np.arange(3))
    for row in range(3):
        np.testing.assert_array_equal(batch.masks.unpack(row), masks[row])
        np.testing.assert_array_equal(people.unpack(row), ~masks[row])
        np.testing.assert_array_equal(batch.poses[row], np.float32(fields[row]["pose_axis_angle"]))
        for name in ("R", "t", "K"):
            np.testing.assert_array_equal(getattr(batch.cameras, name)[row], np.float32(fields[row]["camera"][name]))
    assert batch.keys.tolist() == [b"r0", b"r1", b"r2"]
    assert batch.prompts.tolist() == ["kite", "a kite, seen from the left", "kite"]
    assert store.rows["estimator"].tolist() == ["by hand", "", ""]
    np.testing.assert_array_equal(store.rows["betas"][:2], [[0.5, -1], [0, 2]])
    assert np.isnan(store.rows["betas"][2]).all()
    assert np.isnan(store.rows["residual_px"]).all()

    again = ingest_records([*folders, make(tmp_path / "r3")], tmp_path / "s.chorus", BODY)
    assert (again.added, again.present) == (["r3"], ["r0", "r1", "r2"])
    assert len(open_store(tmp_path / "s.chorus")) == 4


@pytest.mark.parametrize(
    ("name", "inside", "dtype"),
    [
        ("object_mask.png", 1, np.uint8),
        ("object_mask.png", 65535, np.uint16),
        ("OBJECT_MASK.TIF", 255, np.uint8),
        ("object_mask.gif", 1, np.uint8),
    ],
)
def test_masks_of_several_kinds_are_one(tmp_path, name, inside, dtype):
    """tests/test_picture_masks.py has all of them."""
    folder = make(tmp_path / "r")
    expected = read_record(folder).object_mask
    (folder / "object_mask.png").unlink()
    Image.fromarray(expected.astype(dtype) * dtype(inside)).save(folder / name)
    np.testing.assert_array_equal(read_record(folder).object_mask, expected)


def test_a_mask_with_an_orientation_is_turned(tmp_path):
    folder = make(tmp_path / "r")
    record = read_record(folder)
    exif = Image.Exif()
    exif[0x0112] = 6
    for name, mask in (("object", record.object_mask), ("person", record.person_mask)):
        Image.fromarray(np.rot90(mask).astype(np.uint8) * 255).save(folder / f"{name}_mask.png", exif=exif)
    again = read_record(folder)
    np.testing.assert_array_equal(again.object_mask, record.object_mask)
    np.testing.assert_array_equal(again.person_mask, record.person_mask)


def test_global_orientation_and_origin_end_up_in_the_camera(tmp_path):
    orient, origin = np.array([0.3, -1.1, 0.4]), np.array([0.0, -0.22, 0.03])
    fields = content()
    fields["pose_axis_angle"][0] = orient.tolist()
    fields["camera"]["origin"] = origin.tolist()
    record = read_record(make(tmp_path / "r", fields))
    assert not record.pose[0].any()
    points = np.random.default_rng(0).normal(size=(5, 3)) * 0.5
    R, t, K = (np.array(fields["camera"][name], float) for name in "RtK")
    uvz = ((points @ rotation(orient).T + origin) @ R.T + t) @ K.T
    np.testing.assert_allclose(record.camera.project(points)[0][0], uvz[:, :2] / uvz[:, 2:], atol=1e-9)
    np.testing.assert_allclose(record.orientation, rotation(orient))


@pytest.mark.parametrize("said", ["nowhere", "field", "row 0", "both"])
def test_camera_from_keypoints(tmp_path, said):
    orient = [math.pi - 0.3, 0.2, 0.1]
    fields = content(5)
    pose = np.array(fields["pose_axis_angle"])
    camera = Cameras(rotation(orient)[None], [[0.1, 0.0, 3.5]], [fields["camera"]["K"]], [[HEIGHT, WIDTH]])
    uv, _ = camera.project(BODY.posed_joints(pose[None]))
    keypoints = np.zeros((25, 3))
    for keypoint, joint in KEYPOINTS.items():
        keypoints[keypoint] = *uv[0, joint], 0.9
    keypoints[4] = 3, 3, 0.1  # not trusted, and wrong
    if said in ("row 0", "both"):
        fields["pose_axis_angle"][0] = orient
    if said in ("field", "both"):
        fields["global_orient_axis_angle"] = orient
    del fields["camera"]
    fields["keypoints_openpose25"] = keypoints.tolist()
    report = ingest_records([make(tmp_path / "r", fields)], tmp_path / "s", BODY, stop_px=0.05)
    assert report.added == ["r"]
    assert report.residual_px["r"] < 0.05
    store = open_store(tmp_path / "s")
    assert store.rows["residual_px"][0] == pytest.approx(report.residual_px["r"], rel=1e-6)
    found = store.batch([0])
    assert not found.poses[0, 0].any()
    assert np.linalg.norm(found.cameras.project(BODY.posed_joints(found.poses))[0] - uv, axis=-1).mean() < 0.2


def change_json(**changes):
    return lambda folder: (folder / "record.json").write_text(json.dumps(content(**changes)))


def write_json(text):
    return lambda folder: (folder / "record.json").write_bytes(text)


def with_camera(**changes):
    return change_json(camera={**content()["camera"], **changes})


def change_mask(change, name="object_mask.png"):
    return lambda folder: change(folder / name)


def image(array):
    return lambda path: Image.fromarray(array).save(path)


def link(path):
    real = path.parent.parent / ("real-" + path.name)
    path.rename(real)
    path.symlink_to(real)


def bomb(path):
    """A header of 100,000 x 100,000 pixels and little behind it."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 1, 0, 0, 0, 0)
    packed = zlib.compress(bytes(100_000))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b""))


def replace_by_pipe(path):
    path.unlink()
    os.mkfifo(path)


def tagged(path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(path).save(path, exif=exif)


LABELS = np.tile(np.arange(WIDTH, dtype=np.uint8) % 3, (HEIGHT, 1))
GREYS = np.tile(np.arange(WIDTH, dtype=np.uint8), (HEIGHT, 1))
NO_KEYPOINTS = np.zeros((25, 3)).tolist()
BAD = [
    (lambda f: (f / "record.json").unlink(), "record", "record.json"),
    (write_json(b"{"), "record", "JSON"),
    (write_json(b"\xff\xfe"), "record", "JSON"),
    (write_json(b"[" * 100_000), "record", "JSON"),
    (write_json(b"[1]"), "record", "JSON object, got list"),
    (write_json(b" " * (5 << 20)), "record", "bytes"),
    (write_json(json.dumps(content(betas=[math.nan])).encode()), "record", "NaN"),
    (write_json(json.dumps(content(betas=["?"])).replace('"?"', "1e999").encode()), "record", "betas"),
    (write_json(json.dumps(content(betas=["?"])).replace('"?"', "9" * 5000).encode()), "record", ""),
    (change_mask(link, "record.json"), "record", "link"),
    (change_json(category=""), "record", "category"),
    (change_json(category=["kite"]), "record", "category"),
    (change_json(category="\ud800"), "record", "category"),
    (change_json(image_size=[HEIGHT, WIDTH]), "object mask", "image_size"),  # the wrong way round
    (change_json(image_size=[90.5, 120]), "record", "image_size"),
    (change_json(image_size=[-90, 120]), "record", "image_size"),
    (change_json(image_size=[100_000, 100_000]), "record", "image_size"),
    (change_json(pose_axis_angle=[[0, 0, 0]] * 23), "record", "23"),
    (change_json(pose_axis_angle=[]), "record", "pose_axis_angle"),
    (change_json(pose_axis_angle=[[0, 0, 0], [0, 0]]), "record", "lengths"),
    (change_json(pose_axis_angle=[["0"] * 3] * 24), "record", "pose_axis_angle"),
    (change_json(pose_axis_angle=[[1e30] * 3] * 24), "record", "pose_axis_angle"),
    (change_json(pose_axis_angle=[[1, 0, 0]] * 24, global_orient_axis_angle=[0, 1, 0]), "record", "global_orient"),
    (change_json(camera=[]), "camera", "camera"),
    (with_camera(R=[[2, 0, 0], [0, 1, 0], [0, 0, 1]]), "camera", "rotations"),
    (with_camera(t=[0, 0, -4]), "camera", "before the camera"),
    (with_camera(K=None), "camera", "camera.K"),
    (with_camera(K=[[0, 0, 1], [0, 5, 1], [0, 0, 1]]), "camera", "focal"),
    (with_camera(origin=[0, 0]), "camera", "origin"),
    (change_json(camera=None), "camera", "neither"),
    (change_json(camera=None, keypoints_openpose25=NO_KEYPOINTS), "camera", "at least 4"),
    (change_json(camera=None, keypoints_openpose25=[[5, 5, 1]] * 25), "camera", "different places"),
    (change_json(camera=None, keypoints_openpose25=[[5, 5]] * 25), "record", "keypoints_openpose25"),
    (change_mask(Path.unlink), "object mask", "object_mask.png"),
    (change_mask(link), "object mask", "link"),
    (change_mask(replace_by_pipe), "object mask", "regular"),
    (change_mask(bomb), "object mask", ""),
    (change_mask(lambda p: p.write_bytes(b"no image")), "object mask", "PNG"),
    (change_mask(lambda p: p.write_bytes(p.read_bytes()[:60])), "object mask", "PNG"),
    (change_mask(image(np.zeros((HEIGHT, WIDTH), np.uint8))), "object mask", "none"),
    (change_mask(image(np.full((8, 9), 255, np.uint8))), "object mask", "image_size"),
    (change_mask(image(GREYS)), "object mask", "90 values"),
    (change_mask(image(np.stack([GREYS] * 3, -1))), "object mask", "90 values"),
    (change_mask(image(LABELS)), "object mask", "3 values"),
    (
        change_mask(lambda p: Image.open(p).save(p.with_suffix(".gif"))),
        "object mask",
        "got object_mask.gif and object_mask.png",
    ),
    (change_mask(lambda p: p.rename(p.with_suffix(".heic"))), "object mask", "object_mask.heic"),
    (change_mask(lambda p: Image.open(p).convert("L").save(p, "JPEG"), "person_mask.png"), "person mask", "JPEG blurs edges"),
    (change_mask(tagged), "object mask", "turned as the EXIF orientation 6 says; the file has 90, 120"),
    (change_mask(Path.unlink, "person_mask.png"), "person mask", "got none"),
    (change_mask(bomb, "person_mask.png"), "person mask", ""),
    (change_mask(link, "person_mask.png"), "person mask", "link"),
]


@pytest.mark.parametrize(("spoil", "stage", "words"), BAD, ids=range(len(BAD)))
def test_a_bad_record_is_reported_and_stops_nothing(tmp_path, spoil, stage, words):
    good, bad, other = (make(tmp_path / name) for name in ("good", "bad", "other"))
    spoil(bad)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = ingest_records([bad, good, other], tmp_path / "s", BODY, person_masks=True)
    assert report.added == ["good", "other"]
    ((folder, reason),) = report.rejected
    assert folder == str(bad)
    assert words in reason
    assert "\n" not in reason
    assert len(reason) < 400
    store = open_store(tmp_path / "s")
    assert store.rows["key"].tolist() == [b"good", b"other"]
    if (bad / "person_mask.png").exists():  # else it is the store that needs one
        with pytest.raises(InputError) as refused:
            record_camera(read_record(bad), BODY)
        assert getattr(refused.value, "stage", "record") == stage
    shutil.rmtree(bad)
    make(bad)
    again = ingest_records([bad, good], tmp_path / "s", BODY)  # repaired, it is read
    assert (again.added, again.present, again.rejected) == (["bad"], ["good"], [])


def test_errors_of_read_record_are_input_errors(tmp_path):
    with pytest.raises(RecordError, match=r"record\.json") as caught:
        read_record(tmp_path / "nothing here")
    assert isinstance(caught.value, InputError)
    assert caught.value.stage == "record"


def test_keys(tmp_path):
    a, b = make(tmp_path / "x" / "1"), make(tmp_path / "y" / "1")
    report = ingest_records([a, b], tmp_path / "names", BODY)
    assert report.added == ["1"]
    assert report.rejected[0][0] == str(b)
    assert "different keys" in report.rejected[0][1]
    assert len(open_store(tmp_path / "names")) == 1
    assert ingest_records([a, b], tmp_path / "paths", BODY, root=tmp_path).added == ["x/1", "y/1"]
    outside = ingest_records([a, b], tmp_path / "some", BODY, root=tmp_path / "x")
    assert outside.added == ["1"]
    assert "expected one in" in outside.rejected[0][1]


def test_a_record_that_an_earlier_version_stored_as_rejected(tmp_path):
    good, bad = make(tmp_path / "good"), make(tmp_path / "bad")
    ingest_records([good], tmp_path / "s", BODY)
    with StoreWriter(tmp_path / "s", category="kite", body_hash=BODY.hash, person_masks=True) as writer:
        writer.append_rejected(["bad"], "object mask")
    report = ingest_records([good, bad], tmp_path / "s", BODY)
    assert (report.added, report.present) == ([], ["good"])
    ((folder, reason),) = report.rejected
    assert folder == str(bad)
    assert "has 'bad' as rejected ('object mask')" in reason
    assert "use a new store" in reason


def test_a_folder_given_twice_is_read_once(tmp_path):
    one, other = make(tmp_path / "x" / "1"), make(tmp_path / "y" / "1")
    report = ingest_records([one, tmp_path / "x", one, other], tmp_path / "s", BODY)
    assert (report.added, report.present) == (["1"], [])
    ((folder, reason),) = report.rejected
    assert folder == str(other)
    assert f"expected folders of different keys, got '1' as of {str(one)!r}" in reason


def test_one_category_a_store(tmp_path):
    kite, ball = make(tmp_path / "kite"), make(tmp_path / "ball", content(category="ball"))
    report = ingest_records([kite, ball], tmp_path / "s", BODY)
    assert report.added == ["kite"]
    assert report.rejected == [(str(ball), "category: expected 'kite', got 'ball'")]
    assert len(open_store(tmp_path / "s")) == 1  # no row for what belongs elsewhere
    assert ingest_records([kite, ball], tmp_path / "t", BODY, category="ball").added == ["ball"]


def test_person_masks_are_kept_where_all_have_one(tmp_path):
    without, with_one = make(tmp_path / "without", person=False), make(tmp_path / "with")
    assert ingest_records([without, with_one], tmp_path / "s", BODY).added == ["without", "with"]
    assert not open_store(tmp_path / "s").has_person_masks
    assert ingest_records([with_one], tmp_path / "t", BODY).added == ["with"]
    assert open_store(tmp_path / "t").has_person_masks
    later = ingest_records([without], tmp_path / "t", BODY)
    assert "person_mask.png: expected one" in later.rejected[0][1]
    with pytest.raises(StoreError, match="person_masks"):
        ingest_records([without], tmp_path / "t", BODY, person_masks=False)


def test_nothing_usable_makes_no_store(tmp_path):
    bad = make(tmp_path / "bad", {})
    report = ingest_records([bad], tmp_path / "s", BODY)
    assert len(report.rejected) == 1
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    "options", [{"iterations": -1}, {"stop_px": math.nan}, {"min_confidence": 2}, {"provenance": {"x": object()}}]
)
def test_bad_options(tmp_path, options):
    with pytest.raises(InputError, match=next(iter(options))):
        ingest_records([make(tmp_path / "r")], tmp_path / "s", BODY, **options)
    with pytest.raises(InputError, match="body"):
        ingest_records([], tmp_path / "s", "body")
    assert not (tmp_path / "s").exists()


def real(name):
    place = os.environ.get("CHORUS_REAL_DATA")
    root = Path(place) if place else Path(__file__).parents[3] / "shared" / "data" / "real_hoi"
    if not (root / name / "record.json").is_file():
        pytest.skip(f"no real record {name!r}: set CHORUS_REAL_DATA to the folder of the real records")
    return root / name


def overlap(record, camera):
    """Intersection over union of the person's mask and the projected mannequin, without the object's pixels."""
    depth, _ = render_mesh(BODY.posed_vertices(record.pose[None])[0], BODY.faces, camera)
    drawn, elsewhere = np.isfinite(depth), ~record.object_mask
    both, either = drawn & record.person_mask & elsewhere, (drawn | record.person_mask) & elsewhere
    return both.sum() / either.sum()


@pytest.mark.parametrize(("name", "least"), [("basket", 0.5), ("sheep", 0.6), ("sports_ball", 0.58)])
def test_real_records(tmp_path, name, least, record_property):
    folder = real(name)
    record = read_record(folder)
    report = ingest_records([folder], tmp_path / "s", BODY)
    assert report.added == [name], report.rejected
    camera = open_store(tmp_path / "s").batch([0]).cameras
    iou = overlap(record, camera)
    record_property("iou", float(iou))
    print(f"{name}: IoU {iou:.3f}, residual {report.residual_px.get(name, math.nan):.2f} px")
    assert iou > least
    if name == "sports_ball":  # 11.1 px, of a person 330 px tall
        assert 5 < report.residual_px[name] < 12
        orientation = record.orientation @ camera.R[0].T
        assert math.degrees(math.acos((np.trace(orientation) - 1) / 2)) < 6
    else:  # the cameras are about the pelvis: neither SMPL's own origin, before or after turning, does as well
        smpl = np.array([-0.0018, -0.2233, 0.0282])
        for t in (camera.t + camera.R[0] @ smpl, camera.t + smpl):
            assert overlap(record, Cameras(camera.R, t, camera.K, camera.image_size)) < iou - 0.04
