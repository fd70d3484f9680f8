"""Files that the project itself writes, stores, occupancies and caches: valid ones, and how they are read."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any
from unittest.mock import patch

import h5py
import numpy as np

from chorus._version import __version__
from chorus.evaluate.unfinished import Unfinished
from chorus.experimental.sharpened import Sharpened, load_distribution, load_sharpened
from chorus.field import CanonicalField
from chorus.occupancy.aggregation import aggregate
from chorus.occupancy.counts import load_occupancy
from chorus.occupancy.ledger import MANIFEST
from chorus.store import open_store, store_info, verify_store
from chorus.store.filters.filtering import Filter, read_store_filter, write_store_filter
from chorus.store.remote.index import index_problems, write_index
from chorus.votes import contacts
from tests.fuzz.seeds import Seed, files_of, made, small_body, small_field, small_images
from tests.store import samples

# --- stores ----------------------------------------------------------------------------------------------------------------


def store_seeds() -> list[Seed]:
    def make(folder: Path) -> None:
        samples.write(folder, 6, 4, num_joints=24)
        from chorus.store import StoreWriter

        masks = samples.random_masks(2)
        pictures = [np.full((40, 50, 3), v, np.uint8) for v in (90, 200)]
        with StoreWriter(folder, category="surfboard", person_masks=True) as writer:
            batch = samples.make_batch(masks, 900)
            writer.append(batch, person_masks=batch.masks, pictures=pictures, betas=np.zeros((2, 10)))
        write_store_filter(folder, Filter.paper())

    files = made(make)
    files.pop("lock", None)
    kinds = {".h5": "hdf5", ".json": "json"}
    old = files_of(Path(samples.__file__).parent / "version-1.chorus")
    cases = [Seed(files, name, kinds.get(Path(name).suffix, "bytes")) for name in files if Path(name).suffix in kinds]
    return [*cases, *(Seed(old, name, "hdf5") for name in old if name.endswith(".h5"))]


def index_seeds() -> list[Seed]:
    def make(folder: Path) -> None:
        samples.write(folder, 6, 4, num_joints=24)
        write_index(folder)

    return [Seed(made(make), "index.json", "json")]


def read_index(folder: Path) -> None:
    """A broken index is a problem of the store, or names other shards than there are."""
    for problem in index_problems(folder):
        assert problem.what


def read_store(folder: Path) -> None:
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


def written_occupancies() -> dict[str, bytes]:
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

    return {name: data for name, data in made(make).items() if "/" not in name}


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


def occupancy_seeds(names: str) -> list[Seed]:
    files = {**written_occupancies(), "v.h5": of_an_old_version(written_occupancies()["c.h5"])}
    return [Seed({"o.h5": files[f"{name}.h5"]}, "o.h5", "hdf5") for name in names]


def read_occupancy(folder: Path) -> None:
    from chorus.occupancy import summary

    occupancy = load_occupancy(folder / "o.h5")
    assert np.isfinite(occupancy.probability).all()
    summary.text(occupancy)
    occupancy.save(folder / "again.h5")
    load_occupancy(folder / "again.h5")
    if occupancy.counted is not None:
        occupancy.counted.shared_with(occupancy.counted)
        occupancy.counted.of_folds([1, 2])


def read_sharpened(folder: Path) -> None:
    load_distribution(folder / "o.h5")
    repr(load_sharpened(folder / "o.h5"))


JOB = {"store": "s", "parts": ["hand"], "weight": 0.1}


def ledger_seeds() -> list[Seed]:
    files = written_occupancies()
    listed = {"format": "chorus-ledger", "version": 1, "job": JOB, "files": ["a.h5", "b-0.h5"]}
    both = {MANIFEST: json.dumps(listed).encode(), "a.h5": files["a.h5"]}
    return [Seed(both, MANIFEST, "json"), Seed(both, "a.h5", "hdf5")]


def unfinished_seeds() -> list[Seed]:
    content = {"settings": {"chorus": __version__, "k": [1, 2]}, "results": {"row": {"iou": 0.5}}}
    return [Seed({"r.json": json.dumps(content).encode()}, "r.json", "json")]


def read_unfinished(folder: Path) -> None:
    kept = Unfinished(folder / "r.json")
    kept.begin({"k": [1, 2]})


def clusters_seeds() -> list[Seed]:
    rows = [{"file": "a.h5", "prompt": "hold", "part": None}, {"file": "b.h5", "prompt": "kick", "part": "left_foot"}]
    return [Seed({"clusters.json": json.dumps(rows).encode()}, "clusters.json", "json")]


# --- caches ----------------------------------------------------------------------------------------------------------------


def field_seeds() -> list[Seed]:
    def make(folder: Path) -> None:
        with patch.dict(os.environ, CHORUS_CACHE=str(folder)):
            CanonicalField(small_body(), 4, k=3)

    files = made(make)
    return [Seed(files, name, "npz") for name in files]


def read_field(folder: Path) -> None:
    with patch.dict(os.environ, CHORUS_CACHE=str(folder)):
        field = CanonicalField(small_body(), 4, k=3)
    arrays = field.arrays
    assert len(arrays.offset) == 4**3 + 1
    assert int(arrays.joint.max()) < 3, "kernels would read beyond the joints"
    assert np.allclose(field.weights.sum(-1), 1, atol=1e-3)


def contacts_seeds() -> list[Seed]:
    kept: dict[str, bytes] = {}

    def make(folder: Path) -> None:
        contacts._save(folder / "c", "0" * 64, np.arange(6, dtype=np.int32), small_regions())
        kept.update(files_of(folder / "c"))

    made(make)
    return [Seed(kept, name, "npz") for name in kept if name.endswith(".npz")]


def small_regions() -> Any:
    from chorus.votes.parts import InteractionRegions, interaction_regions

    regions = interaction_regions(small_field(), {"hand": np.arange(5), "foot": np.arange(20, 30)}, epsilon=1.0)
    assert isinstance(regions, InteractionRegions)
    return regions


def read_contacts(folder: Path) -> None:
    found = contacts._load(folder / f"{'0' * 24}.npz", 6)
    assert found is None or found.tolist() == list(range(6)), "kept contacts are those of the digest"
