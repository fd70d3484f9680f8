"""Damaged, foreign and hostile stores: whatever byte is wrong, opening and verifying say so and name the place."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import chorus.store.verify as verify_module
from bench.harness.old_stores import to_version_1
from chorus.errors import StoreError
from chorus.kernels.masks import PackedMasks, words_in_box
from chorus.store import Problem, StoreWriter, open_store, verify_store
from chorus.store.schema import DATASETS, digest
from tests.store.samples import RNG, arrays_of, make_batch, rewrite, seal, shards, write


@pytest.fixture
def store(tmp_path: Path) -> Path:
    write(tmp_path / "s.chorus")
    return tmp_path / "s.chorus"


def caught(path: Path, message: str) -> list[Problem]:
    with pytest.raises(StoreError, match=message):
        open_store(path)
    problems = verify_store(path)
    assert problems
    assert re.search(message, str(problems[0])), problems
    return problems


def test_a_flipped_byte_in_any_array_is_caught(tmp_path: Path) -> None:
    write(tmp_path / "s", n=8, shard_size=10)
    (shard,) = shards(tmp_path / "s")
    with h5py.File(shard) as file:
        places = {n: (file[n].id.get_offset(), file[n].nbytes) for n in arrays_of(file)}
    assert places.keys() == {*DATASETS, "score/count", "score/person_box"}
    content = shard.read_bytes()
    for name, (offset, nbytes) in places.items():
        for at in {0, nbytes // 2, nbytes - 1}:
            damaged = bytearray(content)
            damaged[offset + at] ^= 0x10
            shard.write_bytes(damaged)
            problems = caught(tmp_path / "s", f"{shard.name}: ")
            assert any(p.dataset == name and "damaged" in p.what for p in problems), (name, problems)
    for at in (0, 60, 200, len(content) // 3):
        shard.write_bytes(content[:at])
        caught(tmp_path / "s", f"{shard.name}.*(truncated|damaged|empty)")
    shard.write_bytes(content[:-1])
    caught(tmp_path / "s", f"{shard.name}.*truncated")
    shard.write_bytes(content)
    assert verify_store(tmp_path / "s") == []


def test_any_flipped_byte_of_metadata_is_caught_or_harmless(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "s", category="ball") as writer:
        writer.append(make_batch([np.ones((20, 20), bool)]))
    (shard,) = shards(tmp_path / "s")
    content = shard.read_bytes()
    whole = open_store(tmp_path / "s")
    expected = {name: array.tobytes() for name, array in whole.rows.items()}
    for at in np.random.default_rng(1).integers(0, len(content), 150):
        damaged = bytearray(content)
        damaged[at] ^= 1 << (at % 8)
        shard.write_bytes(damaged)
        try:
            opened = open_store(tmp_path / "s")
        except StoreError:
            continue
        assert {name: array.tobytes() for name, array in opened.rows.items()} == expected  # it was padding


def _set(index: Any, value: Any) -> Callable[[Any], None]:
    def change(array: Any) -> None:
        array[index] = value

    return change


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("mask/offset", _set(2, 10**9), "mask/offset: expected offsets that increase"),
        ("mask/offset", lambda a: a + 8, "mask/offset: expected 0 to"),
        ("mask/offset", lambda a: a[:-1], "mask/offset: expected shape"),
        ("mask/offset", lambda a: a.astype(np.int32), "mask/offset: expected dtype <i8, got <i4"),
        ("mask/words", lambda a: a[:-8], "mask/offset: expected 0 to"),
        ("mask/box", _set((3, 2), 51), "mask/box: expected 0 <= x0 < x1 <= W"),
        ("mask/box", _set((3, 1), -1), "mask/box: expected 0 <= x0 < x1 <= W"),
        ("person_mask/box", _set((3, 3), 41), "person_mask/box: expected 0 <= x0"),
        ("image/size", _set((3, 0), 0), "image/size: expected a positive"),
        ("image/prompt", _set(1, 2), "image/prompt: expected codes from 0 to 1, got 2"),
        ("status", _set(1, 200), "status: expected codes"),
        ("status", _set(0, 0), "camera/R: expected a camera of the complete image"),
        ("vocab/status", lambda a: a[::-1].copy(), "vocab/status: expected 'complete' first"),
        ("vocab/prompt", lambda a: np.array([b"\xff", b"b"]), "vocab/prompt: expected UTF-8"),
        ("image/key", _set(4, b"none-0"), "image/key: expected each key once"),
        ("image/key", _set(4, b""), "image/key: expected names"),
        ("camera/R", lambda a: a * 2, "camera: cameras.R: expected rotations"),
        ("camera/t", _set((4, 0), np.inf), "camera: cameras.t: expected finite"),
        ("camera/K", _set((4, 0, 0), -1), "camera: cameras.K: expected positive focal"),
        ("pose/axis_angle", _set((4, 0, 0), 1), "pose/axis_angle: expected finite numbers and a zero global"),
        ("pose/axis_angle", _set((4, 3, 0), np.nan), "pose/axis_angle: expected finite numbers"),
    ],
)
def test_wrong_contents(tmp_path: Path, name: str, change: Callable[[Any], Any], message: str) -> None:
    write(tmp_path / "s", n=8, shard_size=10)
    (shard,) = shards(tmp_path / "s")
    rewrite(shard, name, change)
    caught(tmp_path / "s", f"{shard.name}: {message}")


def test_wrong_contents_unverified_do_not_get_into_a_batch(store: Path) -> None:
    rewrite(shards(store)[1], "camera/R", lambda a: a * 2)
    opened = open_store(store, verify=False)
    with pytest.raises(StoreError, match=r"00000001.*expected rotations"):
        list(opened.batches())


def test_bits_outside_boxes_and_inexact_boxes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify_module, "_BLOCKS_AT_ONCE", 5)
    masks = [np.zeros((50, 60), bool) for _ in range(40)]
    for mask in masks:
        x0, x1 = sorted(RNG.choice(61, 2, replace=False))
        y0, y1 = sorted(RNG.choice(51, 2, replace=False))
        mask[y0:y1, x0:x1] = True
    packed = PackedMasks.pack(masks)
    assert [r.size for r in verify_module.loose_masks(packed)] == [0, 0]
    for row in range(40):
        x0, y0, x1, y1 = packed.box[row].tolist()
        for edge, (axis, at) in enumerate([("x", x0), ("y", y0), ("x", x1 - 1), ("y", y1 - 1)]):
            words, box = packed.words.copy(), packed.box.copy()
            first, count = packed.start[row], words_in_box(packed.box[row])
            bits = np.unpackbits(words[first : first + count].view(np.uint8), bitorder="little")
            index = np.arange(len(bits))
            across = -(-x1 // 16) - x0 // 16
            u = (x0 // 16 + index // 256 % across) * 16 + index % 16
            v = (y0 // 16 + index // 256 // across) * 16 + index // 16 % 16
            bits[(u if axis == "x" else v) == at] = 0
            words[first : first + count] = np.packbits(bits, bitorder="little").view(np.uint32)
            stray, loose = verify_module.loose_masks(PackedMasks(packed.size, box, packed.start, words))
            assert (stray.tolist(), loose.tolist()) == ([], [row])
            box[row, edge] += 1 if edge < 2 else -1
            if (box[row] // 16 == packed.box[row] // 16).all() and (words_in_box(box[row]) == count):
                assert row in verify_module.loose_masks(PackedMasks(packed.size, box, packed.start, packed.words))[0]
    with StoreWriter(tmp_path / "s", category="ball") as writer:
        writer.append(make_batch(masks))
    to_version_1(tmp_path / "s")
    assert verify_store(tmp_path / "s") == []
    rewrite(shards(tmp_path / "s")[0], "mask/words", _set(slice(None), 0xFFFFFFFF))
    assert {p.dataset for p in verify_store(tmp_path / "s")} == {"mask/words"}


def test_scores_of_another_shape_than_in_earlier_shards(store: Path) -> None:
    rewrite(shards(store)[1], "score/person_box", lambda a: a[:, :3])
    caught(store, r"00000001.*score/person_box: expected shape \('n', 4\) as in earlier shards, got \('n', 3\)")


def test_missing_and_foreign_arrays(store: Path) -> None:
    shard = shards(store)[0]
    with h5py.File(shard, "r+") as file:
        file["note"] = np.arange(3)
        file["note"].attrs["sha256"] = np.bytes_(digest(np.arange(3)))
        seal(file)
    assert verify_store(store) == []  # readers ignore what they do not know
    with h5py.File(shard, "r+") as file:  # wherever it lies
        for odd in range(1, 9):
            file[f"odd-{odd}"] = np.frombuffer(b"x" * odd, np.uint8)
            file[f"doubles-{odd}"] = np.arange(3.0)
            for name in (f"odd-{odd}", f"doubles-{odd}"):
                file[name].attrs["sha256"] = np.bytes_(digest(file[name][()]))
        offsets = [file[f"doubles-{odd}"].id.get_offset() for odd in range(1, 9)]
        seal(file)
    assert any(offset % 8 for offset in offsets)
    assert verify_store(store) == []
    with h5py.File(shard, "r+") as file:
        del file["mask/box"]
        seal(file)
    caught(store, f"{shard.name}: mask/box: expected in every shard")


def test_versions_and_headers(store: Path) -> None:
    text = (store / "store.json").read_text()
    fields = json.loads(text)
    for broken in (
        "",
        "{",
        "[]",
        "\xff",
        text[: len(text) // 2],
        json.dumps({**fields, "format": "other"}),
        json.dumps({**fields, "version": 3}),
        json.dumps({**fields, "version": True}),
        json.dumps({**fields, "category": None}),
        json.dumps({**fields, "num_joints": 0}),
        json.dumps({k: v for k, v in fields.items() if k != "num_joints"}),
    ):
        (store / "store.json").write_bytes(broken.encode("latin-1"))
        caught(store, r"store\.json")
        with pytest.raises(StoreError, match=r"store\.json"):
            StoreWriter(store, category="surfboard", person_masks=True)
    (store / "store.json").write_text(json.dumps({**fields, "num_joints": 52}))
    caught(store, "num_joints: expected 52, got 24")
    (store / "store.json").unlink()
    caught(store, r"store\.json")
    (store / "store.json").write_text(text)
    with h5py.File(shards(store)[2], "r+") as file:
        header = json.loads(file.attrs["header"])
        file.attrs["header"] = np.bytes_(json.dumps({**header, "version": 7}).encode())
        seal(file)
    caught(store, "00000002.*expected version 1 or 2, got 7")
    caught(store.parent / "nothing", "no folder")


def test_the_store_never_reaches_outside_its_folder(store: Path, tmp_path: Path) -> None:
    write(tmp_path / "other")
    outside = shards(tmp_path / "other")[0]
    fields = json.loads((store / "store.json").read_text())
    fields["shards"] = [str(outside), "../../other/shards/" + outside.name]
    (store / "store.json").write_text(json.dumps(fields))
    assert len(open_store(store)) == 12  # names in store.json mean nothing
    link = store / "shards" / "99999999-link.h5"
    link.symlink_to(outside)
    caught(store, "99999999-link.h5: expected a regular file, got a link")
    link.unlink()
    shard = shards(store)[0]
    content = shard.read_bytes()
    with h5py.File(shard, "r+") as file:
        del file["mask/words"]
        file["mask/words"] = h5py.ExternalLink(str(outside), "mask/words")
        seal(file)
    caught(store, "mask/words: expected in every shard, but missing")
    shard.write_bytes(content)
    with h5py.File(shard, "r+") as file:
        del file["image/seed"]
        seeds = file.create_dataset("image/seed", (4,), "<i8", external=[(str(outside), 0, 32)])
        seeds.attrs["sha256"] = np.bytes_("0" * 64)
        seal(file)
    caught(store, "image/seed: expected a contiguous, uncompressed array in the file itself")
    shard.write_bytes(content)
    (store / "shards").rename(tmp_path / "moved")
    (store / "shards").symlink_to(tmp_path / "moved")
    caught(store, r"shards: expected a folder \(not a link\)")
