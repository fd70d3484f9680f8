"""Every reader of files that others may have written: its name, valid files to begin with, and what it may raise.

A new reader is one more row of ``READERS``; the test suite and ``python -m tests.fuzz`` take it from there.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import h5py
import numpy as np
from PIL import Image

from chorus._version import __version__
from chorus.body.model import Body, load_body
from chorus.camera.cameras import Cameras
from chorus.commands.pose import read_pose
from chorus.errors import InputError
from chorus.evaluate.unfinished import Unfinished
from chorus.experimental.sharpened import Sharpened, load_distribution, load_sharpened
from chorus.field import CanonicalField
from chorus.frontend.humans.pose_files import PosesFromFiles
from chorus.frontend.plan import Description
from chorus.images import ImageBatch
from chorus.ingest.coco import read_annotations, read_eft
from chorus.ingest.coco_masks import decode_mask
from chorus.ingest.record import parse_record, record_camera
from chorus.occupancy.aggregation import aggregate
from chorus.occupancy.counts import load_occupancy
from chorus.occupancy.ledger import MANIFEST, Ledger
from chorus.pictures import read_mask, read_picture
from chorus.reconstruct.distributions import occupancy_files
from chorus.store import open_store, store_info, verify_store
from chorus.store.filters.filtering import Filter, read_filter, read_store_filter, write_store_filter
from chorus.store.remote.index import index_problems, write_index
from chorus.votes import contacts
from chorus.votes.parts import load_parts
from tests.body.test_smpl_files import published
from tests.store import samples

Files = Mapping[str, bytes]


@dataclass(frozen=True)
class Seed:
    """A valid case: the files of a folder, of which one, of a kind that ``mutations`` knows, is changed."""

    files: Files
    target: str
    kind: str = "bytes"


@dataclass(frozen=True)
class Reader:
    """A reader: ``read`` takes a folder with a seed's files, and may raise ``errors`` and nothing else."""

    seeds: Callable[[], list[Seed]]
    read: Callable[[Path], object]
    errors: tuple[type[Exception], ...] = (InputError,)


def _files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def _made(make: Callable[[Path], object]) -> dict[str, bytes]:
    """The files that ``make`` writes into a folder."""
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder))
        return _files(Path(folder))


@cache
def small_body(joints: int = 3) -> Body:
    """40 vertices; three joints, or SMPL's 24 at random places."""
    rng = np.random.default_rng(0)
    if joints == 3:
        names, parents = ["pelvis", "left_hip", "right_hip"], [-1, 0, 0]
    else:
        whole = load_body()
        names, parents = list(whole.joint_names), whole.parents.tolist()
    at = rng.normal(0, 0.3, (joints, 3))
    vertices = at[rng.integers(0, joints, 40)] + rng.normal(0, 0.25, (40, 3))
    weights = rng.dirichlet([0.3] * joints, 40)
    return Body("small", vertices, rng.integers(0, 40, (20, 3)), at, parents, weights, names)


@cache
def small_field() -> CanonicalField:
    return CanonicalField(small_body(), 4, k=3, cache=False)


def small_images(n: int = 5) -> ImageBatch:
    rng = np.random.default_rng(1)
    K = np.tile([[20.0, 0, 8], [0, 20, 8], [0, 0, 1]], (n, 1, 1))
    cameras = Cameras(np.tile(np.eye(3), (n, 1, 1)), np.tile([0, 0, 3.0], (n, 1)), K, np.tile([16, 16], (n, 1)))
    poses = rng.normal(0, 0.1, (n, 3, 3))
    poses[:, 0] = 0
    return ImageBatch(rng.random((n, 16, 16)) < 0.5, cameras, poses, [f"k{i}" for i in range(n)])


# --- stores ----------------------------------------------------------------------------------------------------------------


def _store_seeds() -> list[Seed]:
    def make(folder: Path) -> None:
        samples.write(folder, 6, 4, num_joints=24)
        from chorus.store import StoreWriter

        masks = samples.random_masks(2)
        pictures = [np.full((40, 50, 3), v, np.uint8) for v in (90, 200)]
        with StoreWriter(folder, category="surfboard", person_masks=True) as writer:
            batch = samples.make_batch(masks, 900)
            writer.append(batch, person_masks=batch.masks, pictures=pictures, betas=np.zeros((2, 10)))
        write_store_filter(folder, Filter.paper())

    files = _made(make)
    files.pop("lock", None)
    kinds = {".h5": "hdf5", ".json": "json"}
    old = _files(Path(samples.__file__).parent / "version-1.chorus")
    cases = [Seed(files, name, kinds.get(Path(name).suffix, "bytes")) for name in files if Path(name).suffix in kinds]
    return [*cases, *(Seed(old, name, "hdf5") for name in old if name.endswith(".h5"))]


def _index_seeds() -> list[Seed]:
    def make(folder: Path) -> None:
        samples.write(folder, 6, 4, num_joints=24)
        write_index(folder)

    return [Seed(_made(make), "index.json", "json")]


def _read_index(folder: Path) -> None:
    """A broken index is a problem of the store, or names other shards than there are."""
    for problem in index_problems(folder):
        assert problem.what


def _read_store(folder: Path) -> None:
    try:
        for verify in (True, False):
            store = open_store(folder, verify=verify)
            rows = store.select()
            for batch in store.batches(rows, 3):
                batch.masks.unpack(0)
            if store.has_person_masks:
                store.person_masks(rows)
            for name in store.rows:
                store.rows[name]
            for key in list(store.pictures)[:2]:
                store.picture(key)
        store_info(folder)
        read_store_filter(folder)
    finally:
        verify_store(folder)


# --- occupancies -----------------------------------------------------------------------------------------------------------


def _occupancy_files() -> dict[str, bytes]:
    def make(folder: Path) -> None:
        images, field = small_images(), small_field()
        aggregate(images, field, backend="reference", scheme="azimuth+folds").save(folder / "a.h5")
        joints = np.arange(64).reshape(4, 4, 4) % 3
        own = CanonicalField(small_body(), 4, canonicalization="per-voxel", joint_map=joints, cache=False)
        aggregate(images[:3], own, backend="reference").save(folder / "b.h5")
        samples_folder = folder / "s.chorus"
        from chorus.store import StoreWriter

        with StoreWriter(samples_folder, category="ball", num_joints=3) as writer:
            writer.append(images)
        aggregate(open_store(samples_folder), field, backend="reference", hidden_weight=None).save(folder / "c.h5")
        p = np.linspace(0, 1, 64, dtype=np.float32).reshape(4, 4, 4)
        Sharpened(p, field.parameters, field.body.hash, "ball", "azimuth", 1.0, 5, 3).save(folder / "d.h5")

    return {name: data for name, data in _made(make).items() if "/" not in name}


def of_an_old_version(content: bytes, userblock: int = 0) -> bytes:
    """An HDF5 file with metadata of an old version, which have no checksums, as occupancies were written first."""
    with tempfile.TemporaryDirectory() as name:
        old_file, new_file = Path(name) / "old.h5", Path(name) / "new.h5"
        new_file.write_bytes(content)
        with h5py.File(new_file) as new, h5py.File(old_file, "w", userblock_size=userblock) as old:
            for item in new:
                new.copy(item, old)
            for attribute, value in new.attrs.items():
                old.attrs[attribute] = value
        return old_file.read_bytes()


def _occupancy_seeds(names: str) -> list[Seed]:
    files = {**_occupancy_files(), "v.h5": of_an_old_version(_occupancy_files()["c.h5"])}
    return [Seed({"o.h5": files[f"{name}.h5"]}, "o.h5", "hdf5") for name in names]


def _read_occupancy(folder: Path) -> None:
    from chorus.occupancy import summary

    occupancy = load_occupancy(folder / "o.h5")
    assert np.isfinite(occupancy.probability).all()
    summary.text(occupancy)
    occupancy.save(folder / "again.h5")
    load_occupancy(folder / "again.h5")
    if occupancy.counted is not None:
        occupancy.counted.shared_with(occupancy.counted)
        occupancy.counted.of_folds([1, 2])


def _read_sharpened(folder: Path) -> None:
    load_distribution(folder / "o.h5")
    repr(load_sharpened(folder / "o.h5"))


_JOB = {"store": "s", "parts": ["hand"], "weight": 0.1}


def _ledger_seeds() -> list[Seed]:
    files = _occupancy_files()
    listed = {"format": "chorus-ledger", "version": 1, "job": _JOB, "files": ["a.h5", "b-0.h5"]}
    both = {MANIFEST: json.dumps(listed).encode(), "a.h5": files["a.h5"]}
    return [Seed(both, MANIFEST, "json"), Seed(both, "a.h5", "hdf5")]


def _unfinished_seeds() -> list[Seed]:
    content = {"settings": {"chorus": __version__, "k": [1, 2]}, "results": {"row": {"iou": 0.5}}}
    return [Seed({"r.json": json.dumps(content).encode()}, "r.json", "json")]


def _read_unfinished(folder: Path) -> None:
    kept = Unfinished(folder / "r.json")
    kept.begin({"k": [1, 2]})


def _clusters_seeds() -> list[Seed]:
    rows = [{"file": "a.h5", "prompt": "hold", "part": None}, {"file": "b.h5", "prompt": "kick", "part": "left_foot"}]
    return [Seed({"clusters.json": json.dumps(rows).encode()}, "clusters.json", "json")]


# --- caches ----------------------------------------------------------------------------------------------------------------


def _field_seeds() -> list[Seed]:
    def make(folder: Path) -> None:
        with patch.dict(os.environ, CHORUS_CACHE=str(folder)):
            CanonicalField(small_body(), 4, k=3)

    files = _made(make)
    return [Seed(files, name, "npz") for name in files]


def _read_field(folder: Path) -> None:
    with patch.dict(os.environ, CHORUS_CACHE=str(folder)):
        field = CanonicalField(small_body(), 4, k=3)
    arrays = field.arrays
    assert len(arrays.offset) == 4**3 + 1
    assert int(arrays.joint.max()) < 3, "kernels would read beyond the joints"
    assert np.allclose(field.weights.sum(-1), 1, atol=1e-3)


def _contacts_seeds() -> list[Seed]:
    made: dict[str, bytes] = {}

    def make(folder: Path) -> None:
        contacts._save(folder / "c", "0" * 64, np.arange(6, dtype=np.int32), _regions())
        made.update(_files(folder / "c"))

    _made(make)
    return [Seed(made, name, "npz") for name in made if name.endswith(".npz")]


def _regions() -> Any:
    from chorus.votes.parts import InteractionRegions, interaction_regions

    regions = interaction_regions(small_field(), {"hand": np.arange(5), "foot": np.arange(20, 30)}, epsilon=1.0)
    assert isinstance(regions, InteractionRegions)
    return regions


def _read_contacts(folder: Path) -> None:
    found = contacts._load(folder / f"{'0' * 24}.npz", 6)
    assert found is None or found.tolist() == list(range(6)), "kept contacts are those of the digest"


# --- what others give ------------------------------------------------------------------------------------------------------


def _record_seeds() -> list[Seed]:
    from tests.ingest.test_record_folders import content
    from tests.ingest.test_record_folders import make as record

    with_camera = _made(lambda folder: record(folder / "r", content()))
    keypoints = [[50.0 + i, 40.0 + 3 * i, 0.9] for i in range(25)]
    without = _made(lambda folder: record(folder / "r", content(camera=None, keypoints_openpose25=keypoints, betas=[0.1] * 10)))
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

    files = _made(make)
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

    return [Seed({"pose.npz": data}, "pose.npz", "npz") for data in _made(make).values()]


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
    npz = _made(lambda folder: np.savez(folder / "p.npz", **content))
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

    return [Seed({"picture": data}, "picture") for data in _made(make).values()]


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

    files = _made(make)
    return [Seed(files, name, "json") for name in files]


READERS: dict[str, Reader] = {
    "store": Reader(_store_seeds, _read_store),
    "index": Reader(_index_seeds, _read_index),
    "occupancy": Reader(lambda: _occupancy_seeds("abcv"), _read_occupancy),
    "sharpened": Reader(lambda: _occupancy_seeds("d"), _read_sharpened),
    "ledger": Reader(_ledger_seeds, lambda folder: Ledger(folder, _JOB, math.inf).begin()),
    "unfinished": Reader(_unfinished_seeds, _read_unfinished),
    "clusters": Reader(_clusters_seeds, lambda folder: occupancy_files([folder])),
    "field-cache": Reader(_field_seeds, _read_field, ()),
    "contacts-cache": Reader(_contacts_seeds, _read_contacts, ()),
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
