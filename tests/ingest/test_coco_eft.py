"""The extended COCO-EFT test set: annotations and fits made up here, bad ones of each kind, and COCO's own where at hand."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from scipy.spatial.transform import Rotation

from chorus.body.model import Body, load_body
from chorus.commands.ingest_coco_eft import ingest_coco_eft_command
from chorus.errors import InputError, StoreError
from chorus.ingest.coco import read_eft
from chorus.ingest.coco_eft import REASONS, SMPL_PELVIS, eft_targets, ingest_coco_eft
from chorus.store import open_store, verify_store

BODY = load_body()
HEIGHT, WIDTH = 240, 320
PERSON, BALL, SKIS = 1, 37, 35
CATEGORIES = [{"id": PERSON, "name": "person"}, {"id": BALL, "name": "sports ball"}, {"id": SKIS, "name": "skis"}]
UPRIGHT = np.diag([1.0, -1.0, -1.0])  # a person who faces the camera


def rectangle(x, y, width, height):
    return [[float(c) for c in (x, y, x + width, y, x + width, y + height, x, y + height)]]


def annotation(number, image, category, box, segmentation=None, crowd=0):
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "bbox": list(box),
        "iscrowd": crowd,
        "segmentation": rectangle(*box) if segmentation is None else segmentation,
    }


def fit(number, image, seed=0, size=(HEIGHT, WIDTH), box=(100, 20, 120, 200), **changes):
    """A fit of the mannequin that stands in ``box`` (x, y, width, height) of the image."""
    rng = np.random.default_rng(seed)
    pose = rng.normal(size=(24, 3)) * 0.2
    matrices = Rotation.from_rotvec(pose).as_matrix()
    matrices[0] = Rotation.from_rotvec([0, rng.uniform(-3, 3), 0]).as_matrix()
    matrices[0] = UPRIGHT @ matrices[0]
    record = {
        "parm_pose": matrices.tolist(),
        "parm_shape": (rng.normal(size=10) * 0.3).tolist(),
        "parm_cam": [0.9, 0.02, 0.25],
        "bbox_scale": max(box[2:]) * 1.1 / 200,
        "bbox_center": [box[0] + box[2] / 2, box[1] + box[3] / 2],
        "annotId": number,
        "imageName": f"COCO_val2014_{image:012d}.jpg",
        "smpltype": "smpl",
    }
    return {name: value for name, value in {**record, **changes}.items() if value is not None}


def scene():
    """Images 1.. of one person and one ball each, and one for each way to fail; annotations 10 i are people, 10 i + 1 balls."""
    person, ball, away = (100, 20, 120, 200), (150, 60, 40, 40), (5, 5, 40, 40)
    annotations, fits = [], []

    def add(image, *rows, record=True, **changes):
        annotations.extend(annotation(10 * image + k, image, *row) for k, row in enumerate(rows))
        if record:
            fits.append(fit(10 * image, image, image, **changes))

    for image in (1, 2, 3):
        add(image, (PERSON, person), (BALL, ball))
    runs = {"size": [HEIGHT, WIDTH], "counts": [100, 50, HEIGHT * WIDTH - 150]}
    add(4, (PERSON, person), (BALL, ball, runs, 1))  # crowd
    add(5, (PERSON, person), (BALL, ball), (BALL, away))  # several objects
    add(6, (SKIS, person), (BALL, ball), record=False)  # no person
    add(7, (PERSON, person), (BALL, ball), (PERSON, away))  # several people
    add(8, (PERSON, person), (BALL, ball), (PERSON, person, runs, 1))  # several people: a crowd of them
    add(9, (PERSON, person), (BALL, ball), record=False)  # no EFT fit
    add(10, (PERSON, person), (BALL, ball), parm_cam=[-1, 0, 0])  # EFT fit
    add(11, (PERSON, person), (BALL, ball), imageName="COCO_val2014_000000000012.jpg")  # of another image
    add(12, (PERSON, person), (BALL, (150, 60, 0, 40), rectangle(*ball)))  # box
    add(13, (PERSON, person), (BALL, ball, [[1.0, 2.0, 3.0]]))  # object mask
    add(14, (PERSON, person, []), (BALL, ball))  # person mask
    add(15, (PERSON, person), (BALL, away))  # overlap
    add(16, (PERSON, person), (BALL, ball, runs, 1), (BALL, ball))  # a crowd beside a ball
    add(17, (PERSON, person), record=True)  # nothing of the category
    images = [{"id": i, "height": HEIGHT, "width": WIDTH, "file_name": f"{i:012d}.jpg"} for i in range(1, 19)]
    categories = [dict(category) for category in CATEGORIES]
    return {"images": images, "annotations": annotations, "categories": categories}, {"ver": 0.1, "data": fits}


def write(folder, coco, eft):
    (folder / "coco.json").write_text(json.dumps(coco))
    (folder / "eft.json").write_text(json.dumps(eft))
    return folder / "coco.json", folder / "eft.json", folder / "out"


def shaped_body():
    rng = np.random.default_rng(2)
    vertices, joints = len(BODY.vertices), rng.normal(size=(24, 3, 10)) * 0.01
    return Body(
        "shaped",
        BODY.vertices,
        BODY.faces,
        BODY.joints,
        BODY.parents,
        BODY.weights,
        BODY.joint_names,
        shapedirs=np.zeros((vertices, 3, 10)),
        joint_shapedirs=joints,
    )


@pytest.mark.parametrize("use_betas", [False, True])
def test_targets_are_smpls_joints_in_the_weak_perspective_camera(use_betas):
    """The chain of joints as SMPL does it in its own frame, one joint after the other, against eft_targets."""
    (record,) = read_records([fit(7, 3, seed=5)])
    body = shaped_body()
    poses, joints, targets, R0 = eft_targets([record], body, use_betas=use_betas)
    rest = body.joints + np.array(SMPL_PELVIS)
    if use_betas:
        rest = rest + body.joint_shapedirs @ record.betas
    turn, place = [record.pose[0]], [rest[0]]
    for joint in range(1, 24):
        parent = body.parents[joint]
        place.append(place[parent] + turn[parent] @ (rest[joint] - rest[parent]))
        turn.append(turn[parent] @ record.pose[joint])
    s, tx, ty = record.camera
    crop = 112 + 112 * (s * np.array(place)[:, :2] + [tx, ty])
    image = record.box_centre - 100 * record.box_scale + crop * (200 * record.box_scale / 224)
    np.testing.assert_allclose(targets[0], image, atol=1e-6)
    np.testing.assert_array_equal(R0[0], record.pose[0])
    assert not poses[0, 0].any()
    np.testing.assert_allclose(Rotation.from_rotvec(poses[0, 1:]).as_matrix(), record.pose[1:], atol=1e-12)
    # The joints in the person's frame, turned by R0, are those of the picture up to where the frame's origin is.
    turned = joints[0] @ R0[0].T
    np.testing.assert_allclose(turned - turned[0], np.array(place) - place[0], atol=1e-9)


def read_records(rows, tmp=None):
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "eft.json"
        path.write_text(json.dumps({"data": rows}))
        fits = read_eft([path])
    assert not fits.broken
    return list(fits.records.values())


@pytest.mark.parametrize("method", ["adam", "levenberg-marquardt"])
def test_every_annotation_is_kept_or_counted(tmp_path, method):
    coco, eft, out = write(tmp_path, *scene())
    steps = []
    report = ingest_coco_eft(
        coco,
        eft,
        out,
        BODY,
        categories=["sports ball"],
        min_images=3,
        method=method,
        progress=lambda *step: steps.append(step),
    )
    (ball,) = report.categories
    assert ball.rejected == {
        "crowd": 2,
        "several objects": 3,
        "no person": 1,
        "several people": 2,
        "no EFT fit": 1,
        "EFT fit": 2,
        "box": 1,
        "object mask": 1,
        "person mask": 1,
        "overlap": 1,
    }
    assert (ball.annotations, ball.images, ball.kept) == (18, 16, 3)
    assert ball.kept + sum(ball.rejected.values()) == ball.annotations
    assert set(ball.rejected) < set(REASONS)
    assert report.table() == [("sports ball", 3)]
    assert steps == [(1, 1)]
    counts = (report.eft_records, report.eft_broken, report.eft_duplicates, report.eft_nameless, report.eft_unknown)
    assert counts == (14, 1, 0, 0, 0)
    assert {(key[-2:], reason) for key, reason, _ in ball.failures} == {
        ("09", "no EFT fit"),
        ("10", "EFT fit"),
        ("11", "EFT fit"),
        ("12", "box"),
        ("13", "object mask"),
        ("14", "person mask"),
        ("15", "overlap"),
    }
    assert ball.store == out / "sports-ball.chorus"
    assert [p.name for p in out.iterdir()] == ["sports-ball.chorus"]
    assert verify_store(ball.store) == []
    store = open_store(ball.store)
    assert (store.category, store.body_hash, store.has_person_masks, len(store)) == ("sports ball", BODY.hash, True, 16)
    status = {int(k): s for k, s in zip(store.rows["key"].tolist(), store.rows["status"].tolist(), strict=True)}
    assert status == {
        1: "complete",
        2: "complete",
        3: "complete",
        4: "crowd",
        5: "several objects",
        6: "no person",
        7: "several people",
        8: "several people",
        9: "no EFT fit",
        10: "EFT fit",
        11: "EFT fit",
        12: "box",
        13: "object mask",
        14: "person mask",
        15: "overlap",
        16: "several objects",
    }
    row = list(status).index(15)  # what a filter rejected keeps its mask, pose and camera, for other thresholds
    assert store.rows["has_camera"][row]
    assert store.rows["score/overlap"][row] == 0
    assert store.provenance["coco_eft"]["iterations"] == 3000

    rows = store.select()
    batch = store.batch(rows)
    expected = np.zeros((HEIGHT, WIDTH), bool)
    expected[60:100, 150:190] = True
    records = {r.annotation: r for r in read_eft([eft]).records.values()}
    for i, key in enumerate(batch.keys.tolist()):
        record = records[10 * int(key)]
        np.testing.assert_array_equal(batch.masks.unpack(i), expected)
        assert store.person_masks(rows).unpack(i)[20:220, 100:220].all()
        np.testing.assert_allclose(Rotation.from_rotvec(batch.poses[i, 1:]).as_matrix(), record.pose[1:], atol=1e-6)
        _, _, targets, _ = eft_targets([record], BODY)
        uv, z = batch.cameras[i : i + 1].project(BODY.posed_joints(batch.poses[i : i + 1]))
        residual = np.linalg.norm(uv[0] - targets[0], axis=-1).mean()
        assert residual == pytest.approx(store.rows["residual_px"][rows[i]], abs=1e-3)
        assert residual < 0.5
        assert (z > 0).all()
        np.testing.assert_allclose(store.rows["betas"][rows[i]], record.betas, rtol=1e-6)
    np.testing.assert_allclose(ball.residual_px, store.rows["residual_px"][rows], rtol=1e-5)


def test_categories_and_their_least_number(tmp_path):
    coco, eft, out = write(tmp_path, *scene())
    report = ingest_coco_eft(coco, eft, out, BODY, min_images=4)
    assert [(c.name, c.kept, c.store) for c in report.categories] == [("skis", 0, None), ("sports ball", 3, None)]
    assert report.categories[0].rejected == {"no person": 1}
    assert report.table() == []
    assert not out.exists()
    assert json.loads(json.dumps(report.as_dict()))["categories"][1]["kept"] == 3


def test_residuals_are_judged(tmp_path):
    coco, eft, out = write(tmp_path, *scene())
    # No step: the start, a weak-perspective camera's, misses by more than a thousandth of a pixel.
    report = ingest_coco_eft(coco, eft, out, BODY, categories=["sports ball"], min_images=1, iterations=0, reject_px=1e-3)
    (ball,) = report.categories
    assert (ball.kept, ball.rejected["camera"], ball.rejected["overlap"]) == (0, 3, 1)
    words = [words for _, reason, words in ball.failures if reason == "camera"]
    assert all("px, above 0.001: iterations used up" in w for w in words)
    assert ball.kept + sum(ball.rejected.values()) == ball.annotations


def test_betas(tmp_path):
    coco, eft, out = write(tmp_path, *scene())
    body = shaped_body()
    report = ingest_coco_eft(coco, eft, out, body, categories=["sports ball"], min_images=3, use_betas=True)
    store = open_store(report.categories[0].store)
    batch, rows = store.batch(store.select()), store.select()
    records = {r.annotation: r for r in read_eft([eft]).records.values()}
    some = [records[10 * int(key)] for key in batch.keys.tolist()]
    joints = body.posed_joints(batch.poses, store.rows["betas"][rows])
    uv, _ = batch.cameras.project(joints)
    assert np.linalg.norm(uv - eft_targets(some, body, use_betas=True)[2], axis=-1).mean(1).max() < 0.501
    assert np.abs(eft_targets(some, body, use_betas=True)[2] - eft_targets(some, body)[2]).max() > 1
    with pytest.raises(InputError, match="use_betas"):
        ingest_coco_eft(coco, eft, tmp_path / "other", BODY, use_betas=True)


def drop(name):
    return lambda coco: coco.pop(name)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (drop("images"), "images: expected a list"),
        (drop("annotations"), "annotations: expected a list"),
        (lambda c: c.update(categories=7), "categories: expected a list"),
        (lambda c: c["images"][0].pop("height"), "height: expected an integer"),
        (lambda c: c["images"][0].update(width=0), "height and width"),
        (lambda c: c["images"][0].update(width=1 << 40), "height and width"),
        (lambda c: c["annotations"][0].update(id="x"), "id: expected an integer"),
        (lambda c: c["categories"][0].update(name=None), "categories: expected a name"),
        (lambda c: c["categories"].pop(0), "'person'"),
    ],
)
def test_annotations_of_another_kind(tmp_path, change, words):
    content, fits = scene()
    change(content)
    coco, eft, out = write(tmp_path, content, fits)
    with pytest.raises(InputError, match=words):
        ingest_coco_eft(coco, eft, out, BODY)
    assert not out.exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"categories": ["kite"]}, "categories: expected one of skis, sports ball; got 'kite'"),
        ({"categories": ["person"]}, "categories: .*'person'"),
        ({"min_images": 0}, "min_images"),
        ({"min_images": True}, "min_images"),
        ({"min_overlap": 1.5}, "min_overlap"),
        ({"reject_px": float("nan")}, "reject_px"),
        ({"iterations": -1}, "iterations"),
        ({"stop_px": None}, "stop_px"),
        ({"method": "sgd"}, "method"),
        ({"pelvis": [1, 2]}, "pelvis"),
        ({"provenance": {"x": object()}, "min_images": 1}, "provenance"),
    ],
)
def test_options_out_of_range(tmp_path, options, words):
    coco, eft, out = write(tmp_path, *scene())
    with pytest.raises(InputError, match=words):
        ingest_coco_eft(coco, eft, out, BODY, **options)
    assert not list(out.glob("*")) if out.exists() else True


def test_files_of_another_kind(tmp_path):
    coco, eft, out = write(tmp_path, *scene())
    (tmp_path / "text").write_text("no JSON")
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "other.json").write_text('{"data": {}}')
    for name in ("missing", "text", "list.json", "other.json"):
        with pytest.raises(InputError, match=name):
            ingest_coco_eft(coco, tmp_path / name, out, BODY)
        with pytest.raises(InputError, match=name):
            ingest_coco_eft(tmp_path / name, eft, out, BODY)


def test_a_store_that_is_there_is_left_alone(tmp_path):
    coco, eft, out = write(tmp_path, *scene())
    ingest_coco_eft(coco, eft, out, BODY, categories=["sports ball"], min_images=1)
    before = open_store(out / "sports-ball.chorus").id
    with pytest.raises(StoreError, match="sports-ball"):
        ingest_coco_eft(coco, eft, out, BODY, categories=["skis", "sports ball"], min_images=1)
    assert open_store(out / "sports-ball.chorus").id == before


def test_names_from_the_file_stay_in_the_folder(tmp_path):
    content, fits = scene()
    content["categories"][1]["name"] = "../../balls"
    coco, eft, out = write(tmp_path, content, fits)
    report = ingest_coco_eft(coco, eft, out, BODY, min_images=1)
    assert [c.store for c in report.categories if c.store] == [out / "balls.chorus"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["coco.json", "eft.json", "out"]


def test_command(tmp_path):
    coco, eft, out = write(tmp_path, *scene())
    arguments = [str(coco), str(eft), "-o", str(out), "--category", "sports ball"]
    few = CliRunner().invoke(ingest_coco_eft_command, arguments)
    assert few.exit_code == 2
    assert "no category has 30 images" in few.output
    assert not out.exists()
    done = CliRunner().invoke(
        ingest_coco_eft_command, [*arguments, "--min-images", "2", "--report", str(tmp_path / "report.json")]
    )
    assert done.exit_code == 0, done.output
    assert f"wrote {out / 'sports-ball.chorus'}" in done.output
    assert "sports ball" in done.output
    assert "several people 2" in done.output
    assert json.loads((tmp_path / "report.json").read_text())["table"] == [["sports ball", 3]]
    again = CliRunner().invoke(
        ingest_coco_eft_command,
        [
            *arguments[:3],
            str(tmp_path / "lm"),
            *arguments[4:],
            "--min-images",
            "2",
            "--json",
            "--method",
            "levenberg-marquardt",
        ],
    )
    assert again.exit_code == 0, again.output
    facts = json.loads(again.stdout)
    assert facts["categories"][0]["rejected"]["crowd"] == 2
    assert facts["categories"][0]["residual_px"]["max"] < 0.5


def test_without_pycocotools(tmp_path):
    coco, eft, out = write(tmp_path, *scene())
    code = f"""
import sys
sys.modules["pycocotools"] = None
from chorus.body.model import load_body
from chorus.ingest.coco_eft import ingest_coco_eft
try:
    ingest_coco_eft({str(coco)!r}, {str(eft)!r}, {str(out)!r}, load_body())
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install '.[coco]' in a checkout" in done.stdout
    assert not out.exists()


def real_annotations(name):
    place = os.environ.get("CHORUS_COCO_DATA")
    root = Path(place) if place else Path(__file__).parents[3] / "shared" / "data" / "coco_tiny"
    if not (root / name).is_file():
        pytest.skip(f"no {name}: set CHORUS_COCO_DATA to a folder with COCO's annotations")
    return root / name


@pytest.mark.parametrize("name", ["instances_train2017.json", "instances_val2017.json"])
def test_real_annotations(tmp_path, name):
    """COCO's own annotations with made-up fits to every person in them: every annotation is accounted for."""
    path = real_annotations(name)
    content = json.loads(path.read_text())
    rows = [
        fit(a["id"], a["image_id"], seed=a["id"] % 1000, box=a["bbox"])
        for a in content["annotations"]
        if a["category_id"] == PERSON and not a["iscrowd"]
    ]
    eft = tmp_path / "eft.json"
    eft.write_text(json.dumps({"data": rows}))
    report = ingest_coco_eft(path, eft, tmp_path / "out", BODY, min_images=1, method="levenberg-marquardt")
    assert report.eft_records == len(rows)
    assert report.eft_unknown == 0
    by_category = {}
    for a in content["annotations"]:
        by_category[a["category_id"]] = by_category.get(a["category_id"], 0) + 1
    number = {c["name"]: c["id"] for c in content["categories"]}
    assert len(report.categories) == len(content["categories"]) - 1
    for c in report.categories:
        assert c.annotations == by_category.get(number[c.name], 0)
        assert c.kept + sum(c.rejected.values()) == c.annotations
    reasons = {reason for c in report.categories for reason in c.rejected}
    assert not reasons & {"EFT fit", "box", "object mask", "person mask", "no EFT fit"}
    assert sum(c.rejected.get("crowd", 0) for c in report.categories) == sum(
        a["iscrowd"] and a["category_id"] != PERSON for a in content["annotations"]
    )
    assert sum(c.kept for c in report.categories) >= 10
    for c in report.categories:
        if c.store is not None:
            assert verify_store(c.store) == []
            store = open_store(c.store)
            for row, key in zip(store.select().tolist(), store.rows["key"][store.select()].tolist(), strict=True):
                (a,) = [a for a in content["annotations"] if a["image_id"] == int(key) and a["category_id"] == number[c.name]]
                area = store.batch([row]).masks.areas()[0]  # COCO's area is the polygon's, to a rim of pixels
                assert abs(area - a["area"]) < 0.1 * a["area"] + 40
