"""Single-view reconstruction: known answers on made-up distributions, held-out simulated images, and what is refused."""

import dataclasses
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import trimesh
from click.testing import CliRunner
from PIL import Image

from chorus.body.model import load_body
from chorus.camera.cameras import Cameras
from chorus.camera.views import Scheme
from chorus.commands.reconstruct import reconstruct_command
from chorus.errors import InputError, MismatchError
from chorus.field import CanonicalField, FieldParameters, voxel_centres
from chorus.ingest.record import RecordError
from chorus.occupancy.clusters import clusters, write_clusters
from chorus.occupancy.counts import Occupancy
from chorus.occupancy.surfaces import surface
from chorus.picture_files import SUFFIXES
from chorus.reconstruct.distributions import ComparedDistribution, best_of_ties, occupancy_files
from chorus.reconstruct.posing import Posing
from chorus.reconstruct.scene import Scene, read_scene
from chorus.reconstruct.single_view import reconstruct, write_reconstruction
from chorus.reconstruct.view import THRESHOLDS, box_ious, mask_ious
from chorus.render.rasterize import render_mesh
from chorus.simulate import images as simulate
from chorus.simulate.objects import OBJECTS, joint_index
from chorus.simulate.worlds import WORLDS
from chorus.store import open_store

BODY = load_body()
PARAMETERS = FieldParameters(resolution=32, smoothing_steps=14)
SIZE = (240, 320)
CENTRES = voxel_centres(32, 3.0)
CAMERA = Cameras([np.diag([1.0, -1, -1])], [[0, 0, 4]], [[[400, 0, 160], [0, 400, 120], [0, 0, 1]]], [SIZE])
HAND = BODY.rest_joints[joint_index(BODY, "right_hand")]


def made_up(where, category="ball", images=100, body_hash=BODY.hash):
    """An occupancy whose phi is 1 in a ball of 0.3 m around ``where``, 0.2 in one of 0.45 m, seen in every image."""
    distance = np.linalg.norm(CENTRES - where, axis=-1)
    num = np.zeros((12, 32, 32, 32), np.int32)
    num[0] = np.where(distance < 0.3, images, np.where(distance < 0.45, images // 5, 0))
    totals = np.zeros(12, np.int64)
    totals[0] = images
    den = np.zeros_like(num)
    den[0] = images
    return Occupancy(num, den, totals, totals, Scheme("azimuth"), "azimuth", PARAMETERS, body_hash, category)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A folder of clusters of a made-up category: near the right hand, the head, and of any prompt."""
    folder = tmp_path_factory.mktemp("stored") / "ball"
    folder.mkdir()
    head = np.array([0, 0.9, 0])
    rows = []
    for name, prompt, where, images in (
        ("hand.h5", "hold a ball", HAND, 100),
        ("head.h5", "head a ball", head, 50),
        ("any.h5", None, [0, -0.5, 0.8], 150),
        ("few.h5", "lose a ball", HAND, 5),
    ):
        made_up(where, images=images).save(folder / name)
        rows.append({"prompt": prompt, "part": None, "images": images, "largest_phi": 1.0, "file": name})
    (folder / "clusters.json").write_text(json.dumps(rows))
    made_up([0, -0.9, 0], "mat").save(folder.parent / "mat.h5")
    return folder


def ball_mask(where):
    mesh = surface((np.linalg.norm(CENTRES - where, axis=-1) < 0.3).astype(np.float32), 3.0, 0.5)
    return render_mesh(mesh.vertices, mesh.faces, CAMERA)[1] >= 0


def make_record(folder, mask=None, photo=None, **changes):
    folder.mkdir(parents=True)
    camera = {name: getattr(CAMERA, name)[0].tolist() for name in "RtK"}
    fields = {"category": "ball", "image_size": [320, 240], "pose_axis_angle": BODY.rest_pose.tolist(), "camera": camera}
    fields.update(changes)
    (folder / "record.json").write_text(json.dumps({k: v for k, v in fields.items() if v is not None}))
    if mask is not None:
        Image.fromarray(mask.astype(np.uint8) * 255).save(folder / "object_mask.png")
    if photo is not None:
        Image.fromarray(photo).save(folder / "photo.png")
    return folder


def test_ious_of_all_thresholds_at_once_are_the_definitions():
    rng = np.random.default_rng(0)
    levels = rng.integers(0, 101, (17, 23)).astype(np.int32)
    levels[:4] = levels[:, :6] = 0
    levels[levels == 100] = 70
    mask, hidden = rng.random((2, 17, 23)) < 0.3
    hidden &= ~mask
    box = np.array([5, 3, 15, 12], np.float64)
    boxed = np.zeros((17, 23), bool)
    boxed[3:12, 5:15] = True
    masks, boxes = mask_ious(levels, mask, hidden), box_ious(levels, box)
    assert masks.shape == boxes.shape == THRESHOLDS.shape
    for t in range(1, 101):
        covered = levels >= t
        seen = covered & ~hidden
        assert masks[t - 1] == (seen & mask).sum() / (seen | mask).sum()
        around = np.zeros_like(boxed)
        if covered.any():
            rows, columns = np.flatnonzero(covered.any(1)), np.flatnonzero(covered.any(0))
            around[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
        assert boxes[t - 1] == pytest.approx((around & boxed).sum() / (around | boxed).sum())
    assert boxes[80] > 0 == boxes[99]  # beyond the largest level there is no box


def test_mask_chooses_the_cluster_and_the_surface_is_the_ball(stored, tmp_path):
    photo = np.full((*SIZE, 3), 90, np.uint8)
    folder = make_record(tmp_path / "photo-1", ball_mask(HAND), photo)
    result = reconstruct(read_scene(folder, BODY), [stored, stored.parent / "mat.h5"])
    assert (result.chosen.prompt, result.chosen.file.name, result.category_from) == ("hold a ball", "hand.h5", "given")
    assert [c.skipped for c in result.candidates] == ["", "", "", "fewer than 30 images", "another category"]
    scores = [c.mask_iou for c in result.candidates[:3]]
    assert max(scores[1:]) < 0.75 < scores[0]
    # The wide skirt of phi = 0.2 is left out: the threshold came from the mask.
    assert result.threshold > 0.2
    assert result.silhouette_iou > 0.9
    facts = result.to_json()
    assert (facts["object"]["watertight"], facts["object"]["pieces"]) == (True, 1)
    np.testing.assert_allclose(facts["object"]["centre"], HAND, atol=0.5 * 3 / 32)
    assert facts["object"]["volume_m3"] == pytest.approx(4 / 3 * math.pi * 0.3**3, rel=0.2)
    given = {name: getattr(CAMERA, name)[0].tolist() for name in "RtK"}
    assert facts["camera"] == {"from": "the record", "residual_px": None, "image_size": [240, 320], **given}
    written = write_reconstruction(tmp_path / "out", result)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(p.name for p in written)
    scene = trimesh.load(written[0])
    assert set(scene.geometry) == {"person", "object"}
    assert len(scene.geometry["person"].faces) == len(BODY.faces)
    np.testing.assert_allclose(scene.geometry["object"].bounds, result.object.bounds, atol=1e-5)
    assert json.loads(written[2].read_text())["chosen"]["prompt"] == "hold a ball"
    picture = np.asarray(Image.open(written[1]).convert("RGB")).astype(int)
    assert (abs(picture - 90).max(-1) < 3).sum() > 10000  # the photograph shows through
    assert ((picture[..., 0] - picture[..., 2]) > 80).sum() > 500  # the object over it


def test_box_alone_chooses_category_cluster_and_threshold(stored, tmp_path):
    rows, columns = (np.flatnonzero(ball_mask(HAND).any(a)) for a in (1, 0))
    box = [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]
    folder = make_record(tmp_path / "r", category=None, object_box=box)
    result = reconstruct(read_scene(folder, BODY), [stored, stored.parent / "mat.h5"])
    assert result.chosen.prompt == "hold a ball"
    assert "box agrees best" in result.category_from
    assert result.threshold == result.chosen.box_threshold > 0.2
    assert result.chosen.mask_iou is None
    assert result.silhouette_iou is None


def test_pieces_away_from_the_object_are_left_out(tmp_path):
    """What the person hides no mask contradicts: a second ball behind the chest stays out of the mesh all the same."""
    two = made_up(HAND)
    behind = made_up([0, 0.3, -0.5])
    both = dataclasses.replace(two, num_counts=np.maximum(two.num_counts, behind.num_counts))
    both.save(tmp_path / "two.h5")
    scene = read_scene(make_record(tmp_path / "r", ball_mask(HAND)), BODY)
    result = reconstruct(scene, [tmp_path / "two.h5"], threshold=0.9)
    assert result.left_out == 1
    np.testing.assert_allclose(result.to_json()["object"]["centre"], HAND, atol=0.5 * 3 / 32)
    whole = reconstruct(dataclasses.replace(scene, object_mask=None, object_box=None), [tmp_path / "two.h5"], threshold=0.9)
    assert whole.left_out == 0
    assert whole.object.volume == pytest.approx(2 * result.object.volume, rel=0.1)


def test_without_mask_or_box_the_cluster_of_most_images(stored, tmp_path):
    scene = read_scene(make_record(tmp_path / "r"), BODY)
    result = reconstruct(scene, [stored])
    assert (result.chosen.file.name, result.threshold) == ("any.h5", 0.5)
    assert "most images" in result.cluster_from
    assert reconstruct(scene, [stored], threshold=0.15).threshold == 0.15
    by_mass = reconstruct(scene, [stored], mass=0.99)
    assert by_mass.threshold == pytest.approx(0.2)
    assert by_mass.object.volume > 2 * result.object.volume
    with pytest.raises(InputError, match="threshold, mass: expected at most one"):
        reconstruct(scene, [stored], threshold=0.5, mass=0.5)
    with pytest.raises(InputError, match="at most the highest probability, 1"):
        reconstruct(scene, [stored], threshold=1.5)


def test_ties_go_to_prompts_then_to_more_images():
    def candidate(name, prompt, images):
        return ComparedDistribution(Path(name), "ball", prompt, None, images)

    found = [candidate("a", None, 900), candidate("b", "p", 100), candidate("c", "q", 200), candidate("d", "r", 500)]
    assert best_of_ties(found, [0.60, 0.59, 0.58, 0.57]).file.name == "c"  # d is 5 % below the best
    assert best_of_ties(found, [0.60, 0.57, 0.57, 0.57]).file.name == "a"
    assert best_of_ties(found[:2][::-1], [0.5, 0.5]).file.name == "b"


def test_what_follows_the_trunk_is_not_shown_twice():
    """With the arm raised, Eq. 11 shows the ball at the hand, and once more where the hand is in the rest pose."""
    pose = np.array(BODY.rest_pose)
    pose[joint_index(BODY, "right_shoulder")] = (0, 0, -1.3)
    occupancy = made_up(HAND)
    field = CanonicalField.from_parameters(BODY, PARAMETERS)
    inside = occupancy.probability == 1
    carried = field.warp(pose)[inside].mean(0)
    assert np.linalg.norm(carried - HAND) > 0.5
    shown = {}
    for round_trip in (math.inf, 0.2):
        phi, _ = Posing(pose, BODY, "blend_of_inverses", "numba", 1, round_trip)(occupancy)
        points = CENTRES[phi == 1]
        shown[round_trip] = [(np.linalg.norm(points - place, axis=1) < 0.3).sum() for place in (carried, HAND)]
        if math.isinf(round_trip):
            assert np.array_equal(phi, occupancy.posed(pose))
    assert min(shown[math.inf]) > 10  # both
    at_hand, ghost = np.array(shown[0.2]) / shown[math.inf]
    assert at_hand > 0.6 > 0.2 > ghost


def test_what_cannot_be_reconstructed(stored, tmp_path):
    scene = read_scene(make_record(tmp_path / "plain"), BODY)
    both = [stored, stored.parent / "mat.h5"]
    with pytest.raises(InputError, match="category: expected one of the stored ones, 'ball', 'mat'; got 'kite'"):
        reconstruct(scene, both, category="kite")
    assert reconstruct(scene, both, category="MAT").chosen.category == "mat"
    with pytest.raises(InputError, match=r"min_images: expected at most the 150 images"):
        reconstruct(scene, [stored], min_images=200)
    unknown = read_scene(make_record(tmp_path / "unknown", category=None), BODY)
    with pytest.raises(InputError, match="expected a category, an object mask or an object_box"):
        reconstruct(unknown, both)
    assert reconstruct(unknown, [stored]).category_from == "the only one stored"
    corner = np.zeros(SIZE, bool)
    corner[:4, :4] = True
    away = read_scene(make_record(tmp_path / "away", corner), BODY)
    with pytest.raises(InputError, match="expected one that projects on the object"):
        reconstruct(away, [stored])
    made_up(HAND, body_hash="0" * 64).save(tmp_path / "other.h5")
    with pytest.raises(MismatchError, match=r"other.h5: expected an occupancy of body"):
        reconstruct(scene, [tmp_path / "other.h5"])


def test_files_of_occupancies(stored, tmp_path):
    assert [p.name for p, _, _ in occupancy_files([stored])] == ["hand.h5", "head.h5", "any.h5", "few.h5"]
    assert occupancy_files([stored.parent]) == occupancy_files([stored, stored])
    assert occupancy_files([stored / "hand.h5"]) == [(stored / "hand.h5", None, None)]
    with pytest.raises(InputError, match="expected an occupancy file or a folder"):
        occupancy_files([tmp_path])
    with pytest.raises(InputError, match="expected at least one"):
        occupancy_files([])
    for text, error in (
        ('[{"file": "../x.h5", "prompt": null, "part": null}]', "names of files beside it, got '../x.h5'"),
        ('[{"file": "x.h5"}]', "rows with file, prompt and part"),
        ("[", "rows with file, prompt and part"),
    ):
        (tmp_path / "clusters.json").write_text(text)
        with pytest.raises(InputError, match=error):
            occupancy_files([tmp_path])


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"camera": None}, "expected a camera or keypoints_openpose25"),
        ({"pose_axis_angle": np.zeros((23, 3)).tolist()}, "expected the body.s 24 joints"),
        ({"object_box": [10, 10, 10, 20]}, "object_box: expected x0, y0, x1, y1 in an image of 320 x 240"),
        ({"object_box": [0, 0, 321, 20]}, "object_box"),
        ({"mask": np.zeros(SIZE, bool)}, "expected pixels of the object"),
        ({"mask": np.ones((10, 10), bool)}, "object_mask.png: expected the image_size"),
        ({"photo": np.zeros((10, 12, 3), np.uint8)}, "photo.png: expected the image_size, width, height 320, 240, got 12, 10"),
    ],
)
def test_bad_records_say_what_is_wrong(tmp_path, changes, error):
    with pytest.raises(RecordError, match=error):
        read_scene(make_record(tmp_path / "r", **changes), BODY)


def test_a_photograph_that_is_none(tmp_path):
    folder = make_record(tmp_path / "r")
    (folder / "photo.jpg").write_bytes(b"<html>")
    with pytest.raises(RecordError, match=r"photo.jpg: expected a picture \(JPEG, PNG, "):
        read_scene(folder, BODY)
    with pytest.raises(RecordError, match=r"nowhere.png: expected a file with a picture, got none"):
        read_scene(folder, BODY, tmp_path / "nowhere.png")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_photograph_by_any_name(tmp_path, suffix):
    photo = np.full((*SIZE, 3), 90, np.uint8)
    folder = make_record(tmp_path / "r")
    Image.fromarray(photo).save(folder / "photo.png")
    (folder / "photo.png").rename(folder / f"photo{suffix.upper()}")
    np.testing.assert_array_equal(read_scene(folder, BODY).photo, photo)
    other = ".png" if suffix == ".jpg" else ".jpg"
    (folder / f"photo{other}").touch()
    with pytest.raises(
        RecordError, match=rf"got photo{suffix.upper()} and photo{other}|got photo{other} and photo{suffix.upper()}"
    ):
        read_scene(folder, BODY)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_the_photograph_is_turned_upright(tmp_path, orientation):
    """Upright it must have the record's size; where it has not, the message names the orientation."""
    photo = np.zeros((*SIZE, 3), np.uint8)
    photo[: SIZE[0] // 2] = 255
    quarters = {1: 0, 3: 2, 6: 1, 8: 3}[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    folder = make_record(tmp_path / "r")
    Image.fromarray(np.rot90(photo, quarters)).save(folder / "photo.png", exif=exif)
    np.testing.assert_array_equal(read_scene(folder, BODY).photo, photo)
    if quarters % 2:
        Image.fromarray(photo).save(folder / "photo.png", exif=exif)
        with pytest.raises(
            RecordError, match=rf"got 240, 320, turned as the EXIF orientation {orientation} says; the file has 320"
        ):
            read_scene(folder, BODY)


def test_command(stored, tmp_path):
    record = make_record(tmp_path / "photo-1", ball_mask(HAND))
    arguments = [str(record), "--occupancies", str(stored), "-o", str(tmp_path / "out")]
    done = CliRunner().invoke(reconstruct_command, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    assert "hold a ball" in done.output
    assert "reconstruction.glb" in done.output
    done = CliRunner().invoke(
        reconstruct_command, [*arguments, "--force", "--json", "--threshold", "0.5"], catch_exceptions=False
    )
    facts = json.loads(done.stdout)
    assert (facts["threshold"], len(facts["candidates"])) == ({"value": 0.5, "from": "given"}, 4)
    failed = CliRunner().invoke(reconstruct_command, [*arguments[:-1], str(tmp_path / "no" / "out")])
    assert isinstance(failed.exception, InputError)
    assert "--output" in str(failed.exception)


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """Clusters of some hundred images a prompt: two prompts of balls, one of hats."""
    folder = tmp_path_factory.mktemp("learned")
    field = CanonicalField(BODY, 48)
    for name, worlds, images in (("ball", simulate.DEMO, 500), ("hat", [WORLDS["hat"]], 200)):
        simulate.write_world(folder / f"{name}.chorus", worlds, images, 0, BODY)
        write_clusters(folder / name, clusters(open_store(folder / f"{name}.chorus"), field, 60))
    return folder


def held_out(world, count):
    """Scenes of images that no distribution has seen, and where the object's centre is, (3,) metres."""
    from_rest = BODY.rest_inverse
    kind = OBJECTS[world.object_class]
    for batch in simulate.simulate(world, count, 1, BODY):
        for i in np.flatnonzero(batch.status == "complete"):
            images, mask = batch.images, batch.images.masks.unpack(i)
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            pose = images.poses[i].astype(np.float64)
            shapes = kind.draw(simulate._streams(world, 1, int(i))[0], BODY)
            bone = (BODY.relative_transforms(pose[None])[0] @ from_rest)[joint_index(BODY, kind.joint)]
            yield (
                Scene(
                    str(i),
                    None,
                    mask.shape,
                    pose,
                    images.cameras[i : i + 1],
                    math.nan,
                    mask,
                    batch.person_masks.unpack(i),
                    np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1.0]),
                    None,
                ),
                bone[:3, :3] @ np.mean([s.centre for s in shapes], 0) + bone[:3, 3],
            )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ball-held", "ball-kicked"])
def test_held_out_images_find_category_prompt_and_place(learned, name, record_property):
    world = WORLDS[name]
    categories, prompts, off = [], [], []
    for scene, centre in held_out(world, 8):
        result = reconstruct(scene, [learned], BODY)
        categories.append(result.chosen.category == world.category)
        prompts.append(result.chosen.prompt)
        off.append(np.linalg.norm(np.array(result.to_json()["object"]["centre"]) - centre))
    right = np.mean([p == world.prompt for p in prompts])
    for label, value in (("category", np.mean(categories)), ("prompt", right), ("centre_m", np.median(off))):
        record_property(label, float(value))
    assert (len(off) >= 7, np.mean(categories) >= 0.7) == (True, True)
    assert right >= 0.6
    assert np.mean([p not in (None, world.prompt) for p in prompts]) <= 0.15  # a part of any prompt is not wrong
    assert np.median(off) < 0.2


@pytest.mark.parametrize("name", ["basket", "sheep", "sports_ball"])
def test_real_records(stored, tmp_path, name):
    place = os.environ.get("CHORUS_REAL_DATA")
    folder = (Path(place) if place else Path(__file__).parents[3] / "shared" / "data" / "real_hoi") / name
    if not (folder / "record.json").is_file():
        pytest.skip(f"no real record {name!r}: set CHORUS_REAL_DATA to the folder of the real records")
    scene = read_scene(folder, BODY)
    result = reconstruct(scene, [stored], category="ball")
    assert [p.stat().st_size > 0 for p in write_reconstruction(tmp_path / "out", result)] == [True] * 3
    assert math.isnan(scene.residual_px) == (name != "sports_ball")
