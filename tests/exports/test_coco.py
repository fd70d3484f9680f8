"""A store as COCO's annotations and back: the same masks, poses and cameras, bit for bit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from pycocotools import mask as tools

from chorus.body.model import load_body
from chorus.camera.cameras import Cameras
from chorus.cli import main
from chorus.images import ImageBatch
from chorus.ingest.coco_masks import decode_mask, encode_run_lengths
from chorus.kernels.masks import PackedMasks
from chorus.simulate.images import write_world
from chorus.simulate.worlds import WORLDS
from chorus.store import Store, StoreWriter, open_store
from tests.ingest.posed import people, square

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(value) for value in arguments])


def same(one: Store, other: Store) -> None:
    """Rows by key: masks, masks of people, poses, cameras, sizes, prompts and shapes are equal, bit for bit."""
    first, second = (store.select()[np.argsort(store.rows["key"][store.select()])] for store in (one, other))
    for column in ("key", "size", "box", "R", "t", "K", "pose", "prompt", "estimator"):
        np.testing.assert_array_equal(one.rows[column][first], other.rows[column][second], err_msg=column)
    assert ("betas" in one.rows) == ("betas" in other.rows)
    if "betas" in one.rows:
        np.testing.assert_array_equal(one.rows["betas"][first], other.rows["betas"][second])
    a, b = one.batch(first).masks, other.batch(second).masks
    for row in range(len(a)):
        np.testing.assert_array_equal(a.unpack(row), b.unpack(row))
    assert one.has_person_masks == other.has_person_masks
    if one.has_person_masks:
        a, b = one.person_masks(first), other.person_masks(second)
        for row in range(len(a)):
            np.testing.assert_array_equal(a.unpack(row), b.unpack(row))


def test_a_simulated_store_there_and_back(tmp_path: Path) -> None:
    write_world(tmp_path / "s.chorus", [WORLDS["ball-held"]], num_images=24, body=load_body())
    result = run("export", "coco", tmp_path / "s.chorus", "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert result.stdout.rstrip().endswith(f"wrote {tmp_path / 'out' / 'poses.npz'}")
    store = open_store(tmp_path / "s.chorus")
    back = ["--poses", tmp_path / "out" / "poses.npz", "-o", tmp_path / "b.chorus", "--category", store.category]
    result = run("ingest", "coco", tmp_path / "out" / "annotations.json", *back, "--person-masks")
    assert result.exit_code == 0, result.output
    assert "rejected         0" in result.stdout
    same(store, open_store(tmp_path / "b.chorus"))
    assert len(store) == 24
    refused = run("export", "coco", tmp_path / "s.chorus", "-o", tmp_path / "out")
    assert refused.exit_code == 2
    assert "--force" in refused.stderr
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "poses.npz").write_text("mine")
    refused = run("export", "coco", tmp_path / "s.chorus", "-o", tmp_path / "mine")
    assert "--force" in refused.stderr
    assert (tmp_path / "mine" / "poses.npz").read_text() == "mine"
    assert run("export", "coco", tmp_path / "s.chorus", "-o", tmp_path / "mine", "--force").exit_code == 0


def test_keys_prompts_betas_and_people_there_and_back(tmp_path: Path) -> None:
    given, rng = people(4), np.random.default_rng(2)
    keys = ["a/b.png", "a/b.jpg", "\u043c\u044f\u0447 1", "no_ending"]
    masks, persons = [square(i, 40 + i, 90) for i in range(4)], [square(9 + i, 40 + i, 90) for i in range(4)]
    persons[1][:] = False
    masks[3][:] = False  # an empty mask, which COCO cannot have
    sizes = [mask.shape for mask in masks]
    K = np.array([[[150.123456789, 0.25, 44.5], [0, 151.7, 20], [0, 0, 1]]] * 4)
    R = np.linalg.qr(rng.normal(size=(4, 3, 3)))[0]
    R *= np.linalg.det(R)[:, None, None]
    pose = given["pose"]
    pose[:, 0] = 0
    batch = ImageBatch(masks, Cameras(R, given["t"], K, sizes), pose, keys, prompts=["x", "", "y, z", "x"])
    betas = rng.normal(size=(4, 10))
    packed, estimators = PackedMasks.pack(persons), ["", "e", "e", "f"]

    def fill(path: Path, rows: list[int]) -> None:
        with StoreWriter(path, category="ball", person_masks=True) as writer:
            for row in rows:  # the third has no shape
                at = np.array([row])
                shape = None if row == 2 else betas[at]
                writer.append(batch[at], betas=shape, estimators=estimators[row], person_masks=packed[at])
            writer.append_rejected(["gone"], "no person")

    fill(tmp_path / "s", [0, 1, 2, 3])
    result = run("export", "coco", tmp_path / "s", "-o", tmp_path / "out", "--json")
    facts = json.loads(result.stdout)
    assert (facts["images"], facts["objects"], facts["people"], facts["empty"], facts["left_out"]) == (4, 3, 3, 1, 1)
    content = json.loads((tmp_path / "out" / "annotations.json").read_text())
    assert [image["file_name"] for image in content["images"]] == keys
    note = content["annotations"][0]
    np.testing.assert_array_equal(tools.decode(note["segmentation"]) == 1, masks[0])
    assert note["area"] == masks[0].sum()
    assert note["bbox"] == tools.toBbox(note["segmentation"]).astype(int).tolist()
    back = ["--poses", tmp_path / "out" / "poses.npz", "-o", tmp_path / "b", "--category", "ball", "--person-masks"]
    result = run("ingest", "coco", tmp_path / "out" / "annotations.json", *back)
    assert result.exit_code == 0, result.output
    assert "no_ending: annotations: expected an image of this name with the category 'ball'" in result.stderr
    fill(tmp_path / "three", [0, 1, 2])
    same(open_store(tmp_path / "three"), open_store(tmp_path / "b"))
    only = run("export", "coco", tmp_path / "s", "-o", tmp_path / "x", "--prompt", "y, z")
    assert "images    1" in only.stdout


def test_what_cannot_be_exported(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "s", category="ball") as writer:
        writer.append_rejected(["gone"], "no person")
    result = run("export", "coco", tmp_path / "s", "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert "store: expected complete images, got none" in result.stderr
    assert not list((tmp_path / "out").glob("*"))
    with StoreWriter(tmp_path / "p", category="person", person_masks=True) as writer:
        writer.append_rejected(["gone"], "no person")
    assert "another category than 'person'" in run("export", "coco", tmp_path / "p", "-o", tmp_path / "out").stderr


@pytest.mark.parametrize("density", [0.0, 0.01, 0.5, 0.99, 1.0])
def test_run_lengths_are_those_of_pycocotools(density: float) -> None:
    rng = np.random.default_rng(1)
    for height, width in ((1, 1), (3, 7), (301, 97), (64, 640)):
        mask = rng.random((height, width)) < density
        mask[: height // 2] |= density == 0.5  # long runs and their differences
        text = encode_run_lengths(mask)
        assert text == tools.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
        if mask.any():
            np.testing.assert_array_equal(decode_mask({"size": [height, width], "counts": text}, (height, width)), mask)
