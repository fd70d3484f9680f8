"""What a search for hostile files (``tests/fuzz``) has found, one of each kind: refused with the words that help."""

from __future__ import annotations

import json
import logging
import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from chorus import hdf5
from chorus.body.model import load_body
from chorus.commands.pose import read_pose
from chorus.errors import InputError, StoreError
from chorus.evaluate.unfinished import Unfinished
from chorus.experimental.sharpened import load_distribution, load_sharpened
from chorus.field import CanonicalField, FieldParameters
from chorus.files import json_value
from chorus.frontend.plan import FRONTEND_JSON, Description
from chorus.names import is_file_name
from chorus.occupancy.counts import load_occupancy
from chorus.occupancy.ledger import MANIFEST, Ledger
from chorus.reconstruct.distributions import occupancy_files
from chorus.store import open_store
from chorus.store.remote.index import index_problems, write_index
from chorus.votes.counted import Counted
from tests.fuzz.ours import of_an_old_version, written_occupancies
from tests.fuzz.seeds import small_body
from tests.store import samples

DEEP = b"[" * 100_000


# --- HDF5 ------------------------------------------------------------------------------------------------------------------


def link(file: h5py.File, name: str) -> None:
    file[name] = h5py.ExternalLink("outside.h5", "/data")


def soft(file: h5py.File, name: str) -> None:
    file[name] = h5py.SoftLink("/num_counts")


def external(file: h5py.File, name: str) -> None:
    file.create_dataset(name, (12,), "i8", external=[("outside.raw", 0, 96)])


def virtual(file: h5py.File, name: str) -> None:
    layout = h5py.VirtualLayout((12,), "i8")
    layout[...] = h5py.VirtualSource("outside.h5", "data", (12,))
    file.create_virtual_dataset(name, layout)


def endless(file: h5py.File, name: str) -> None:
    file.create_dataset(name, (1 << 40,), "i8", chunks=(16,), compression="gzip")


def wide(file: h5py.File, name: str) -> None:
    file.create_dataset(name, data=np.zeros(12, np.int64), chunks=(1 << 18,), maxshape=(None,), compression="gzip")


def lzf(file: h5py.File, name: str) -> None:
    file.create_dataset(name, data=np.zeros(12, np.int64), compression="lzf")


def objects(file: h5py.File, name: str) -> None:
    file.create_dataset(name, data=["a"] * 12, dtype=h5py.string_dtype())


def group(file: h5py.File, name: str) -> None:
    file.create_group(name)


def empty(file: h5py.File, name: str) -> None:
    file[name] = h5py.Empty("i8")


@pytest.mark.parametrize("make", [link, soft, external, virtual, endless, wide, lzf, objects, group, empty])
@pytest.mark.parametrize("name", ["group_totals", "counted/images"])
def test_arrays_that_are_elsewhere_or_larger_than_their_file(make: Callable[..., None], name: str, tmp_path: Path) -> None:
    path = tmp_path / "o.h5"
    path.write_bytes(written_occupancies()["c.h5"])
    (tmp_path / "outside.raw").write_bytes(bytes(96))
    with h5py.File(tmp_path / "outside.h5", "w") as file:
        file["data"] = np.zeros(12, np.int64)
    load_occupancy(path)
    with h5py.File(path, "r+") as file:
        del file[name]
        make(file, name)
    with pytest.raises(InputError, match=rf"o\.h5: expected an occupancy file, .* got a damaged one .*{name}: expected"):
        load_occupancy(path)


def test_a_group_that_is_a_link(tmp_path: Path) -> None:
    path = tmp_path / "o.h5"
    path.write_bytes(written_occupancies()["c.h5"])
    with h5py.File(path, "r+") as file:
        file.move("counted", "other")
        file["counted"] = h5py.SoftLink("/other")
    with pytest.raises(InputError, match="in the file itself, got a link"):
        load_occupancy(path)


@pytest.mark.parametrize(
    "value", [np.zeros(3), h5py.Empty("f4"), ["a", "b"], 7, DEEP[:60_000], b"[]", b'"text"', b'{"body_hash": []}']
)
def test_facts_of_another_form(value: Any, tmp_path: Path) -> None:
    for name, load in (("c.h5", load_occupancy), ("d.h5", load_sharpened), ("d.h5", load_distribution)):
        path = tmp_path / name
        path.write_bytes(written_occupancies()[name])
        for attribute in ("facts", "format"):
            with h5py.File(path, "r+") as file:
                kept = file.attrs[attribute]
                file.attrs[attribute] = value
            with pytest.raises(InputError, match=f"{name}: expected"):
                load(path)
            with h5py.File(path, "r+") as file:
                file.attrs[attribute] = kept


@pytest.mark.parametrize(
    ("name", "value"), [("provenance", "text"), ("provenance", [1]), ("category", 3), ("body_hash", None), ("hidden_rule", [])]
)
def test_facts_of_another_type(name: str, value: Any, tmp_path: Path) -> None:
    path = tmp_path / "o.h5"
    path.write_bytes(written_occupancies()["c.h5"])
    with h5py.File(path, "r+") as file:
        file.attrs["facts"] = json.dumps({**json.loads(file.attrs["facts"]), name: value})
    with pytest.raises(InputError, match=f"facts: {name}: expected"):
        load_occupancy(path)


def test_a_heap_of_texts_in_which_libhdf5_would_search_without_end(tmp_path: Path) -> None:
    path, data = tmp_path / "o.h5", written_occupancies()["c.h5"]
    start, heaps = 0, []
    while (start := data.find(b"GCOL\x01", start)) >= 0:
        heaps.append(start)
        start += 1
    assert heaps  # where the facts are
    for heap in heaps:
        place = heap + 16
        while data[place : place + 2] != b"\0\0":
            place += 16 + -(-int.from_bytes(data[place + 8 : place + 16], "little") // 8) * 8
        for size in (0, 8, 1 << 40, (1 << 64) - 8):  # of the free space behind the texts
            path.write_bytes(data[: place + 8] + size.to_bytes(8, "little") + data[place + 16 :])
            with pytest.raises(InputError, match="expected texts that lie one behind the other"):
                load_occupancy(path)
    samples.write(tmp_path / "s")
    shard = samples.shards(tmp_path / "s")[0]
    with h5py.File(shard, "r+") as file:
        file.attrs["header"] = bytes(file.attrs["header"]).decode()
    with pytest.raises(StoreError, match="header: expected a text of fixed length"):  # shards are never searched for heaps
        open_store(tmp_path / "s")


def test_a_list_of_free_places_without_an_end(tmp_path: Path) -> None:
    path = tmp_path / "o.h5"
    data = of_an_old_version(written_occupancies()["c.h5"])
    path.write_bytes(data)
    load_occupancy(path)
    heaps = [at for at in range(len(data)) if data.startswith(b"HEAP\0", at)]
    assert heaps
    for heap in heaps:
        size, free, names = struct.unpack_from("<QQQ", data, heap + 8)
        assert free < size
        changed = bytearray(data)
        struct.pack_into("<QQ", changed, names + free, free, 0)  # the place after it is itself
        path.write_bytes(changed)
        with pytest.raises(InputError, match=rf"expected an occupancy .* not so in the heap at byte {heap}"):
            load_occupancy(path)
    path.write_bytes(data[:13] + b"\x04" + data[14:])
    with pytest.raises(InputError, match=r"got a damaged one .expected offsets and lengths of 8 bytes"):
        load_occupancy(path)
    path.write_bytes(of_an_old_version(written_occupancies()["c.h5"], userblock=512))
    with pytest.raises(InputError, match="does not begin as HDF5 does"):
        load_occupancy(path)


def test_poses_without_joints(tmp_path: Path) -> None:
    for shape in ((0, 3), (0, 24, 3), (5, 0, 3)):
        np.save(tmp_path / "pose.npy", np.zeros(shape))
        with pytest.raises(InputError, match=r"POSE: expected joints of a pose in .*, got shape \("):
            read_pose(tmp_path / "pose.npy")


def test_numbers_without_an_end(tmp_path: Path) -> None:
    """json reads Infinity as a float, which is no int."""
    Description("ball", {}).save(tmp_path)
    path = tmp_path / "frontend.json"
    path.write_text(path.read_text().replace('"seed": 0', '"seed": Infinity'))
    with pytest.raises(StoreError, match="expected what the front end wrote, got one with OverflowError"):
        Description.load(tmp_path)
    samples.write(tmp_path / "s")
    index = write_index(tmp_path / "s")
    content = json.loads(index.read_text())
    for name, value in (("bytes", math.inf), ("words", [[math.inf, 4]])):
        index.write_text(json.dumps({**content, "shards": [{**content["shards"][0], name: value}]}))
        (problem,) = index_problems(tmp_path / "s")
        assert "expected what `chorus store index` writes, got a broken one (OverflowError" in problem.what


def test_a_shape_whose_product_wraps(tmp_path: Path) -> None:
    """2^62 x 4 elements: 0 in 64 bits."""
    samples.write(tmp_path / "s")
    shard = samples.shards(tmp_path / "s")[0]
    with h5py.File(shard, "r+") as file:
        del file["image/seed"]
        wrapped = file.create_dataset("image/seed", (1 << 62, 4), "i8", data=None)
        wrapped.attrs["sha256"] = np.bytes_("0" * 64)
        samples.seal(file)
    for verify in (True, False):
        with pytest.raises(StoreError, match="image/seed: expected"):
            open_store(tmp_path / "s", verify=verify)


def test_provenance_that_is_no_object(tmp_path: Path) -> None:
    samples.write(tmp_path / "s")
    path = tmp_path / "s" / "store.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "provenance": ["x"]}))
    with pytest.raises(StoreError, match=r"store\.json: provenance: expected an object"):
        open_store(tmp_path / "s")
    path.write_bytes(DEEP)
    with pytest.raises(StoreError, match="nested too deep"):
        open_store(tmp_path / "s")


def test_bits_of_more_images_than_there_are() -> None:
    """Numbers of images whose sum wraps to that of the bits."""
    arrays: dict[str, Any] = {
        "num_images": np.array(0, np.int64),
        "digests": np.zeros((2, 32), np.uint8),
        "images": np.array([2**63 - 8, 2**63 - 8], np.int64),
        "read": np.zeros(4, np.uint8),
        "voted": np.zeros(4, np.uint8),
    }
    Counted.from_arrays({**arrays, "images": np.array([16, 16], np.int64)})
    for name, value in (
        ("images", arrays["images"]),
        ("images", np.array(16, np.int64)),
        ("read", np.array(0, np.uint8)),
        ("num_images", np.array(-1, np.int64)),
        ("digests", np.zeros((2, 31), np.uint8)),
    ):
        with pytest.raises(InputError, match="counted: expected"):
            Counted.from_arrays({**arrays, "images": np.array([16, 16], np.int64), name: value})


# --- JSON, names, caches ---------------------------------------------------------------------------------------------------


def test_json_that_is_none() -> None:
    assert json_value(b'{"a": 1}') == json_value('{"a": 1}') == {"a": 1}
    for text in (DEEP, DEEP.decode(), b"\xff", b"", 3, None, b"1" * 5000):
        with pytest.raises(ValueError, match=r"expected|digits|codec|Expecting"):
            json_value(text)


def test_small_files_that_are_nested_too_deep(tmp_path: Path) -> None:
    for name in (MANIFEST, "r.json", "clusters.json", FRONTEND_JSON):
        (tmp_path / name).write_bytes(DEEP)
    for read in (
        Ledger(tmp_path, {}).begin,
        lambda: Unfinished(tmp_path / "r.json"),
        lambda: occupancy_files([tmp_path]),
        lambda: Description.load(tmp_path),
    ):
        with pytest.raises(InputError, match="nested too deep"):
            read()


def test_names_that_leave_their_folder(tmp_path: Path) -> None:
    assert is_file_name("a b.h5")
    for name in ("", ".", "..", "../a.h5", "/a.h5", "a/b.h5", "a\\b.h5", "a\0b.h5", "\ud800.h5", 3, None):
        assert not is_file_name(name)
        (tmp_path / "clusters.json").write_text(json.dumps([{"file": name, "prompt": "p", "part": None}]))
        with pytest.raises(InputError, match="expected names of files beside it"):
            occupancy_files([tmp_path])
        (tmp_path / MANIFEST).write_text(json.dumps({"format": "chorus-ledger", "version": 1, "job": {}, "files": [name]}))
        with pytest.raises(InputError, match="expected what an aggregation kept"):
            Ledger(tmp_path, {}).begin()


def test_a_ledger_that_lists_a_file_twice_counts_it_once(tmp_path: Path) -> None:
    data = written_occupancies()["a.h5"]
    (tmp_path / "aa.h5").write_bytes(data)
    (tmp_path / MANIFEST).write_text(json.dumps({"format": "chorus-ledger", "version": 1, "job": {}, "files": ["aa.h5"] * 2}))
    total = Ledger(tmp_path, {}).begin()
    assert total is not None
    assert total.num_images == load_occupancy(tmp_path / "aa.h5").num_images


@pytest.mark.parametrize("change", ["joint", "offset", "weight", "short"])
def test_a_cached_field_that_would_lead_kernels_out_of_their_arrays(
    change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CHORUS_CACHE", str(tmp_path))
    monkeypatch.setattr("chorus.files._warned", set())
    right = CanonicalField(small_body(), 4, k=3)
    (path,) = tmp_path.rglob("*.npz")
    arrays = dict(np.load(path))
    if change == "joint":
        arrays["joint"][3] = 3
    elif change == "offset":
        arrays["offset"][5] = arrays["offset"][6]
    elif change == "weight":
        arrays["weight"][3] = np.nan
    else:
        last = arrays["offset"][-2]
        arrays = {"offset": arrays["offset"][:-1], "joint": arrays["joint"][:last], "weight": arrays["weight"][:last]}
    np.savez(path, **arrays)
    with caplog.at_level(logging.WARNING):
        again = CanonicalField(small_body(), 4, k=3)
    assert "could not be read" in caplog.text
    assert all((getattr(again.arrays, n) == getattr(right.arrays, n)).all() for n in ("offset", "joint", "weight"))


def test_parameters_and_versions_of_another_form(tmp_path: Path) -> None:
    for facts in ([], "x", 3):
        with pytest.raises(InputError, match="parameters: expected an object"):
            FieldParameters.from_json(facts)  # type: ignore[arg-type]
    small_body().save(tmp_path / "b.npz")
    arrays = dict(np.load(tmp_path / "b.npz"))
    for version in (np.array([1, 1]), np.array([]), np.array("x"), np.array(2)):
        np.savez(tmp_path / "b.npz", **{**arrays, "chorus_body": version})
        with pytest.raises(InputError, match="expected version 1 of the body format"):
            load_body(tmp_path / "b.npz")


def test_reading_names_what_there_is_not_memory_for(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("x", (1 << 45,), "f8", chunks=(16,))
    with pytest.raises(InputError, match="got a damaged one"), hdf5.reading(tmp_path / "x.h5", "numbers", InputError) as file:
        file["x"][()]
