"""A photograph without a record: which object is taken, and what comes of it with stages that know the truth."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from scipy.spatial.transform import Rotation

from chorus import aggregate
from chorus.body.model import Body, load_body
from chorus.cli import main
from chorus.errors import InputError
from chorus.field import CanonicalField
from chorus.frontend import preparing
from chorus.frontend.stages import Human, ImageRequest, Instances, Picture, Refusal
from chorus.ingest.record import RecordError
from chorus.occupancy.clusters import Cluster, write_clusters
from chorus.reconstruct.distributions import stored_categories
from chorus.reconstruct.photo import estimate_scene, find_interaction, read_photo
from chorus.simulate import images as simulate
from chorus.simulate.worlds import WORLDS

SIZE = (60, 80)


def instances(*rows: tuple[str, tuple[float, ...], float], empty: bool = False) -> Instances:
    masks = np.zeros((len(rows), *SIZE), np.bool_)
    for mask, (_, (x0, y0, x1, y1), _) in zip(masks, rows, strict=True):
        mask[int(y0) : int(y1), int(x0) : int(x1)] = not empty
    boxes = np.array([box for _, box, _ in rows], np.float32).reshape(-1, 4)
    return Instances(boxes, np.array([s for *_, s in rows], np.float32), tuple(label for label, *_ in rows), masks)


class Detector:
    """Finds what it is told, by category."""

    def __init__(self, **found: Instances) -> None:
        self.found = found

    def check(self, category: str) -> None:
        if category not in self.found:
            raise InputError(f"category: expected one of {', '.join(self.found)}; got {category!r}")

    def detect(self, pictures: Sequence[Picture], category: str) -> Sequence[Instances]:
        assert len(pictures) == 1
        return [self.found[category]]


class Humans:
    def __init__(self, human: Human | Refusal) -> None:
        self.human, self.boxes = human, np.zeros((0, 4))

    def humans(self, pictures: Sequence[Picture], boxes: Any) -> Sequence[Human | Refusal]:
        self.boxes = boxes
        return [self.human]


PICTURE = Picture(ImageRequest("p", ""), np.zeros((*SIZE, 3), np.uint8))
PERSON = ("person", (10.0, 10.0, 30.0, 50.0), 0.9)


def test_the_object_whose_box_overlaps_a_persons_most_is_taken() -> None:
    far = ("ball", (32.0, 10.0, 40.0, 18.0), 0.99)  # beside the person
    half = ("ball", (25.0, 20.0, 35.0, 30.0), 0.95)  # half of it within the person's box
    whole = ("hat", (15.0, 10.0, 25.0, 14.0), 0.4)  # all of it
    detector = Detector(ball=instances(PERSON, far, half), hat=instances(PERSON, whole))
    found = find_interaction(PICTURE, ["ball", "hat", "sofa"], detector)  # what it does not know is passed over
    assert (found.category, found.overlap) == ("hat", 1.0)
    assert found.object_box.tolist() == [15, 10, 25, 14]
    assert found.person_mask.sum() == 20 * 40
    assert found.object_mask.sum() == 10 * 4
    given = find_interaction(PICTURE, ["ball", "hat"], detector, category="ball")
    assert (given.category, given.overlap) == ("ball", 0.5)
    # Of several people the one who meets an object; of equal overlaps the more confident pair.
    other = ("person", (40.0, 10.0, 60.0, 50.0), 0.99)
    held = [("ball", (42.0, 20.0, 44.0, 22.0), score) for score in (0.6, 0.8)]
    several = find_interaction(PICTURE, ["ball"], Detector(ball=instances(PERSON, other, half, held[0], held[1])))
    assert several.person_box.tolist() == [40, 10, 60, 50]
    assert (several.overlap, int(several.object_mask.sum())) == (1.0, 4)


def test_what_is_not_found_is_said() -> None:
    with pytest.raises(InputError, match=r"category: expected one that the detector finds: .*got 'sofa'"):
        find_interaction(PICTURE, ["sofa"], Detector(ball=instances()))
    with pytest.raises(InputError, match=r"category: .*got 'sofa'"):
        find_interaction(PICTURE, ["ball"], Detector(ball=instances()), category="sofa")
    with pytest.raises(InputError, match="an object among ball; got 0 people and 0 such objects"):
        find_interaction(PICTURE, ["ball"], Detector(ball=instances()))
    beside = ("ball", (32.0, 10.0, 40.0, 18.0), 0.99)
    with pytest.raises(InputError, match="got 1 people and 1 such objects"):
        find_interaction(PICTURE, ["ball"], Detector(ball=instances(PERSON, beside)))
    with pytest.raises(InputError, match="got 1 people and 1 such objects"):
        find_interaction(PICTURE, ["ball"], Detector(ball=instances(PERSON, ("ball", PERSON[1], 1.0), empty=True)))


def test_photographs_are_read_and_turned(tmp_path: Path) -> None:
    pixels = np.zeros((20, 30, 3), np.uint8)
    pixels[:5, :5] = 200
    image = Image.fromarray(pixels)
    image.save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_photo(tmp_path / "a.png"), pixels)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    image.save(tmp_path / "a.jpg", exif=exif, quality=95)
    turned = read_photo(tmp_path / "a.jpg")
    assert turned.shape == (30, 20, 3)
    assert turned[2, 17].min() > 150
    assert turned[2, 2].max() < 50
    (tmp_path / "b.jpg").write_bytes(b"<html>")
    with pytest.raises(
        RecordError, match=r"b\.jpg: expected a picture \(JPEG, PNG, .*\), got a file that begins with b'<html>'"
    ):
        read_photo(tmp_path / "b.jpg")
    Image.new("1", (8193, 8192)).save(tmp_path / "c.png")
    with pytest.raises(RecordError, match=r"c\.png: expected at most 67108864 pixels, got 8193 x 8192"):
        read_photo(tmp_path / "c.png")


@pytest.fixture(scope="module")
def body() -> Body:
    return load_body()


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory, body: Body) -> Path:
    """A hat's and a ball's distribution, of few and small images."""
    folder = tmp_path_factory.mktemp("learned")
    field = CanonicalField(body, 32)
    for name in ("ball-held", "hat"):
        world = replace(WORLDS[name], image_sizes=((192, 192),))
        occupancy = aggregate([b.images[b.status == "complete"] for b in simulate.simulate(world, 120, 0, body)], field)
        occupancy = replace(occupancy, category=world.category)
        write_clusters(folder / name, iter([Cluster(world.prompt, None, occupancy, name)]))
    return folder


@pytest.fixture(scope="module")
def photographed(tmp_path_factory: pytest.TempPathFactory, body: Body) -> tuple[Path, simulate.SimulatedBatch, int]:
    """A simulated image of a person with a hat, painted; the world's record of it."""
    world = replace(WORLDS["hat"], image_sizes=((192, 160),))
    batch = next(simulate.simulate(world, 8, 1, body))
    row = int(np.flatnonzero(batch.status == "complete")[0])
    pixels = np.full((192, 160, 3), 210, np.uint8)
    pixels[batch.person_masks.unpack(row)] = (120, 90, 70)
    pixels[batch.images.masks.unpack(row)] = (230, 120, 30)
    path = tmp_path_factory.mktemp("photo") / "hat.png"
    Image.fromarray(pixels).save(path)
    return path, batch, row


def stages_of(batch: simulate.SimulatedBatch, row: int, body: Body, known: bool) -> tuple[Detector, Humans]:
    def one(label: str, packed: Any) -> Instances:
        box, mask = packed.box[row].astype(np.float32)[None], packed.unpack(row)[None]
        return Instances(box, np.array([0.9], np.float32), (label,), mask)

    person, hat = one("person", batch.person_masks), one("hat", batch.images.masks)
    both = Instances(
        np.concatenate([person.boxes, hat.boxes]),
        np.array([0.9, 0.8], np.float32),
        ("person", "hat"),
        np.concatenate([person.masks, hat.masks]),
    )
    camera = batch.images.cameras[row : row + 1]
    pose = batch.images.poses[row].astype(np.float64)
    joints = None if known else camera.project(body.posed_joints(pose[None]))[0][0]
    human = Human(pose, Rotation.from_matrix(camera.R[0]).as_rotvec(), joints, camera=camera if known else None)
    return Detector(hat=both, **{"sports ball": person}), Humans(human)


@pytest.mark.parametrize("known", [True, False])
def test_a_scene_of_estimates(photographed: tuple[Path, simulate.SimulatedBatch, int], body: Body, known: bool) -> None:
    path, batch, row = photographed
    detector, humans = stages_of(batch, row, body, known)
    scene = estimate_scene(path, ["sports ball", "hat"], detector, humans, body, estimators={"humans": "truth"})
    assert (scene.name, scene.category, scene.image_size) == ("hat", "hat", (192, 160))
    np.testing.assert_array_equal(scene.object_mask, batch.images.masks.unpack(row))
    np.testing.assert_array_equal(scene.person_mask, batch.person_masks.unpack(row))
    np.testing.assert_array_equal(humans.boxes[0], batch.person_masks.box[row])
    np.testing.assert_array_equal(scene.pose, batch.images.poses[row])
    assert np.isnan(scene.residual_px) == known
    assert scene.camera_from == ("the estimator truth" if known else "fitted to the estimated joints (Eq. 8)")
    joints = body.posed_joints(scene.pose[None])
    want, _ = batch.images.cameras[row : row + 1].project(joints)
    have, _ = scene.camera.project(joints)
    assert np.abs(have - want).max() < (1e-9 if known else 1.0)


def test_estimates_that_fail(photographed: tuple[Path, simulate.SimulatedBatch, int], body: Body) -> None:
    path, batch, row = photographed
    detector, humans = stages_of(batch, row, body, True)
    with pytest.raises(InputError, match="a person whose pose can be found: too dark"):
        estimate_scene(path, ["hat"], detector, Humans(Refusal("too dark")), body)
    assert isinstance(humans.human, Human)
    short = Humans(replace(humans.human, pose=humans.human.pose[:20]))
    with pytest.raises(InputError, match="poses of the body's 24 joints, got 20"):
        estimate_scene(path, ["hat"], detector, short, body)


def test_the_command(
    photographed: tuple[Path, simulate.SimulatedBatch, int],
    learned: Path,
    body: Body,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path, batch, row = photographed
    made: dict[str, Any] = {}

    def make(kind: str, spec: str, runtime: Any) -> Any:
        made[kind] = (spec, dict(runtime.options), runtime.body is not None)
        return stages_of(batch, row, body, True)[kind == "humans"]

    check = preparing.check_choices

    def check_all_but_the_truth(specs: Any, options: dict[str, str], *more: Any) -> None:
        known = {name: value for name, value in options.items() if name != "humans.size"}
        check({**specs, "humans": "simulated"}, known, *more)

    monkeypatch.setattr(preparing, "make", make)
    monkeypatch.setattr(preparing, "hub_models", lambda kind, spec: [])
    monkeypatch.setattr(preparing, "check_choices", check_all_but_the_truth)
    assert sorted(stored_categories([learned])) == ["hat", "sports ball"]
    command = ["reconstruct", str(path), "--occupancies", str(learned), "-o", str(tmp_path / "out")]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    assert made["humans"] == ("blazepose", {}, True)
    command += ["--force", "--humans", "truth", "--set", "humans.size=3", "--json"]
    result = CliRunner().invoke(main, [*command, "--set", "keypoints.size=3"])
    assert result.exit_code == 2
    assert "--set keypoints.size: expected KIND.NAME=VALUE with a kind among detector, humans" in result.output
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    assert made == {"detector": ("mask2former", {}, True), "humans": ("truth", {"size": "3"}, True)}
    facts = json.loads(result.stdout)
    assert facts["chosen"]["category"] == "hat"
    assert "box overlaps the person's most" in facts["chosen"]["category_from"]
    assert facts["estimators"] == {"detector": "mask2former", "humans": "truth"}
    assert facts["camera"]["from"] == "the estimator truth"
    assert facts["object"]["silhouette_iou"] > 0.15  # a thin hat on voxels of 9 cm
    assert facts["object"]["centre"][1] > 0.5  # at the head
    assert (tmp_path / "out" / "overlay.png").stat().st_size > 1000
    refused = CliRunner().invoke(main, [*command, "--force", "--photo", str(path)])
    assert refused.exit_code == 2
    assert "--photo: expected it beside a record's folder alone" in refused.output
