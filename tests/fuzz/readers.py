"""Every reader of files that others may have written: its name, valid files to begin with, and what it may raise.

A new reader is one more row of ``READERS``; the test suite and ``python -m tests.fuzz`` take it from there.
"""

from __future__ import annotations

import contextlib
import json
import math
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from chorus.body.model import load_body
from chorus.commands.pose import read_pose
from chorus.errors import InputError
from chorus.frontend.humans.pose_files import PosesFromFiles
from chorus.frontend.plan import Description
from chorus.ingest.coco import read_annotations, read_eft
from chorus.ingest.coco_masks import decode_mask
from chorus.ingest.record import parse_record, record_camera
from chorus.occupancy.ledger import Ledger
from chorus.pictures import read_mask, read_picture
from chorus.reconstruct.distributions import occupancy_files
from chorus.store.filters.filtering import Filter, read_filter
from chorus.votes.parts import load_parts
from tests.body.test_smpl_files import published
from tests.fuzz import ours
from tests.fuzz.seeds import Reader, Seed, made, small_body

# --- what others give ------------------------------------------------------------------------------------------------------


def _record_seeds() -> list[Seed]:
    from tests.ingest.test_record_folders import content
    from tests.ingest.test_record_folders import make as record

    with_camera = made(lambda folder: record(folder / "r", content()))
    keypoints = [[50.0 + i, 40.0 + 3 * i, 0.9] for i in range(25)]
    without = made(lambda folder: record(folder / "r", content(camera=None, keypoints_openpose25=keypoints, betas=[0.1] * 10)))
    return [
        Seed(with_camera, "r/record.json", "json"),
        Seed(with_camera, "r/object_mask.png"),
        Seed(without, "r/record.json", "json"),
    ]


def _read_record(folder: Path) -> None:
    record = parse_record(folder / "r")
    record_camera(record, load_body(), iterations=3)


def _coco_seeds() -> list[Seed]:
    box = [10.0, 10, 20, 30]
    notes = [
        {
            "id": 1,
            "image_id": 7,
            "category_id": 3,
            "bbox": box,
            "iscrowd": 0,
            "area": 9.0,
            "segmentation": [[1.0, 2, 30, 2, 30, 40]],
        },
        {
            "id": 2,
            "image_id": 7,
            "category_id": 3,
            "bbox": box,
            "iscrowd": 1,
            "segmentation": {"size": [60, 80], "counts": [100, 50, 4650]},
        },
        {
            "id": 3,
            "image_id": 8,
            "category_id": 1,
            "bbox": box,
            "iscrowd": 0,
            "segmentation": {"size": [4, 5], "counts": "52103"},
        },
    ]
    images = [
        {"id": 7, "height": 60, "width": 80, "file_name": "a/000007.jpg"},
        {"id": 8, "height": 4, "width": 5, "file_name": "8.png"},
    ]
    coco = {"images": images, "annotations": notes, "categories": [{"id": 3, "name": "ball"}, {"id": 1, "name": "person"}]}
    return [Seed({"coco.json": json.dumps(coco).encode()}, "coco.json", "json")]


def _read_coco(folder: Path) -> None:
    from chorus.ingest.coco import annotation_box

    coco = read_annotations(folder / "coco.json")
    coco.image_of("a/000007.jpg")
    for image, notes in coco.by_image.items():
        for note in notes:
            for of_note in (annotation_box, lambda n, size=coco.images[image]: decode_mask(n.get("segmentation"), size)):
                try:
                    of_note(note)
                except InputError:
                    continue


def _eft_seeds() -> list[Seed]:
    from tests.ingest.test_coco_eft import fit

    text = json.dumps({"ver": 0.1, "data": [fit(1, 7), fit(2, 8)]}, default=lambda a: np.asarray(a).tolist())
    return [Seed({"eft.json": text.encode()}, "eft.json", "json")]


def _body_seeds() -> list[Seed]:
    smpl = _smpl_arrays()

    def make(folder: Path) -> None:
        small_body().save(folder / "own.npz")
        np.savez(folder / "smpl.npz", **smpl)
        (folder / "smpl.pkl").write_bytes(published(smpl))
        (folder / "smpl3.pkl").write_bytes(__import__("pickle").dumps(smpl, 4))

    files = made(make)
    return [Seed({"body": data}, "body", "npz" if name.endswith("npz") else "bytes") for name, data in files.items()]


def _smpl_arrays() -> dict[str, Any]:
    body = small_body(24)
    rng = np.random.default_rng(2)
    regressor = rng.dirichlet([0.1] * 40, 24)
    return {
        "v_template": body.vertices,
        "f": body.faces.astype(np.uint32),
        "weights": body.weights.astype(np.float64),
        "J_regressor": regressor,
        "kintree_table": np.stack([np.where(body.parents < 0, 2**32 - 1, body.parents), np.arange(24)]).astype(np.int64),
        "shapedirs": rng.normal(0, 0.01, (40, 3, 4)),
    }


def _read_body(folder: Path) -> None:
    body = load_body(folder / "body")
    body.hash  # noqa: B018
    body.posed_joints(np.zeros((1, body.num_joints, 3)))


def _filter_seeds() -> list[Seed]:
    return [
        Seed({"f.json": json.dumps(f.to_json()).encode()}, "f.json", "json") for f in (Filter.paper(), Filter.paper(soft=True))
    ]


def _parts_seeds() -> list[Seed]:
    content = {"hand": [1, 2, 3, "left_hip"], "foot": [20, 21]}
    return [Seed({"p.json": json.dumps(content).encode()}, "p.json", "json")]


def _pose_seeds() -> list[Seed]:
    def make(folder: Path) -> None:
        np.savez(folder / "one.npz", pose=np.zeros((24, 3)))
        np.savez_compressed(folder / "two.npz", pose=np.full((2, 24, 3), 0.1), other=np.zeros(3))

    return [Seed({"pose.npz": data}, "pose.npz", "npz") for data in made(make).values()]


def _pose_file_seeds() -> list[Seed]:
    n = 2
    content = {
        "keys": ["a", "b"],
        "pose": np.full((n, 24, 3), 0.1),
        "R": np.tile(np.eye(3), (n, 1, 1)),
        "t": np.tile([0, 0, 3.0], (n, 1)),
        "K": np.tile([[500.0, 0, 32], [0, 500, 32], [0, 0, 1]], (n, 1, 1)),
        "image_size": np.tile([64, 64], (n, 1)),
        "betas": np.zeros((n, 10)),
    }
    npz = made(lambda folder: np.savez(folder / "p.npz", **content))
    text = json.dumps(content, default=lambda a: a.tolist()).encode()
    return [Seed(npz, "p.npz", "npz"), Seed({"p.json": text}, "p.json", "json")]


def _read_pose_files(folder: Path) -> None:
    PosesFromFiles(folder, small_body(24))  # made once: atheris keeps some of the memory of each that is loaded


def _picture_seeds() -> list[Seed]:
    def make(folder: Path) -> None:
        shade = np.indices((9, 13)).sum(0) * 10 % 256
        colour = Image.fromarray(np.repeat(shade[..., None], 3, 2).astype(np.uint8))
        grey = Image.fromarray(((shade > 80) * 255).astype(np.uint8))
        for name, image in (
            ("a.jpg", colour),
            ("b.png", grey),
            ("c.webp", colour),
            ("d.gif", grey),
            ("e.tif", grey),
            ("f.bmp", grey),
        ):
            image.save(folder / name)
        grey.convert("P").save(folder / "g.png")
        grey.convert("1").save(folder / "h.tif", compression="group4")
        exif = Image.Exif()
        exif[274] = 6
        colour.save(folder / "i.jpg", exif=exif)

    return [Seed({"picture": data}, "picture") for data in made(make).values()]


def _read_pictures(folder: Path) -> None:
    wrong = []
    for read in (read_picture, read_mask):
        try:
            read(folder / "picture", max_pixels=1 << 20)
        except InputError as error:
            wrong.append(error)
    if wrong:
        raise wrong[0]


def _description_seeds() -> list[Seed]:
    def make(folder: Path) -> None:
        Description("ball", {"a": "b"}, {"c": 1}, ("p",), ("v",), 3, {"d": 0.5}).save(folder)

    files = made(make)
    return [Seed(files, name, "json") for name in files]


READERS: dict[str, Reader] = {
    "store": Reader(ours.store_seeds, ours.read_store),
    "index": Reader(ours.index_seeds, ours.read_index),
    "occupancy": Reader(lambda: ours.occupancy_seeds("abcv"), ours.read_occupancy),
    "sharpened": Reader(lambda: ours.occupancy_seeds("d"), ours.read_sharpened),
    "ledger": Reader(ours.ledger_seeds, lambda folder: Ledger(folder, ours.JOB, math.inf).begin()),
    "unfinished": Reader(ours.unfinished_seeds, ours.read_unfinished),
    "clusters": Reader(ours.clusters_seeds, lambda folder: occupancy_files([folder])),
    "field-cache": Reader(ours.field_seeds, ours.read_field, ()),
    "contacts-cache": Reader(ours.contacts_seeds, ours.read_contacts, ()),
    "record": Reader(_record_seeds, _read_record),
    "coco": Reader(_coco_seeds, _read_coco),
    "eft": Reader(_eft_seeds, lambda folder: read_eft([folder / "eft.json"])),
    "body": Reader(_body_seeds, _read_body),
    "filter": Reader(_filter_seeds, lambda folder: read_filter(folder / "f.json")),
    "parts": Reader(_parts_seeds, lambda folder: load_parts(folder / "p.json", small_body())),
    "pose": Reader(_pose_seeds, lambda folder: read_pose(folder / "pose.npz")),
    "pose-files": Reader(_pose_file_seeds, _read_pose_files),
    "picture": Reader(_picture_seeds, _read_pictures),
    "front-end": Reader(_description_seeds, Description.load),
}
"""Name -> reader."""


@cache
def seeds_of(name: str) -> list[Seed]:
    """The valid cases of a reader, made once a process, and each read once: what is compiled then is not timed later."""
    seeds = READERS[name].seeds()
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder, contextlib.suppress(*READERS[name].errors):
            for path, content in seed.files.items():
                (Path(folder) / path).parent.mkdir(parents=True, exist_ok=True)
                (Path(folder) / path).write_bytes(content)
            READERS[name].read(Path(folder))
    return seeds
