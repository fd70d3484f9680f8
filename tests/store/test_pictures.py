"""Pictures kept beside the shards: what goes in comes out, whatever is damaged is named, and nobody else is disturbed."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from chorus.errors import InputError, StoreError
from chorus.store import (
    StoreWriter,
    UnknownPicture,
    encode_picture,
    open_store,
    store_info,
    verify_store,
)
from chorus.store.picture_folder import picture_name
from tests.store.samples import make_batch, random_masks, rewrite, seal

SIZE = (40, 50)
ROOT = Path(__file__).parents[2]


def pixels(seed: int, size: tuple[int, int] = SIZE) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


def encoded(kind: str, picture: NDArray[np.uint8], **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, kind, **options)
    return file.getvalue()


def write(path: Path, n: int = 5, shard_size: int = 3, **options: Any) -> list[NDArray[np.uint8]]:
    """A store of n complete images and a rejected one, with their pictures as PNG."""
    made = [pixels(i) for i in range(n + 1)]
    files = [encode_picture(picture, "png") for picture in made]
    with StoreWriter(path, category="ball", shard_size=shard_size, **options) as writer:
        writer.append(make_batch(random_masks(n, SIZE)), pictures=files[:n])
        writer.append_rejected(["rejected"], "no person", sizes=[SIZE], pictures=files[n:])
    return made


@pytest.fixture
def store(tmp_path: Path) -> Path:
    write(tmp_path / "s.chorus")
    return tmp_path / "s.chorus"


def files(path: Path) -> list[Path]:
    return sorted((path / "pictures").iterdir())


def test_what_goes_in_comes_out(tmp_path: Path) -> None:
    made = write(tmp_path / "s.chorus")
    store = open_store(tmp_path / "s.chorus")
    assert list(store.pictures) == store.rows["key"].tolist()
    assert [file.name for file in files(store.path)] == [shard.path.name for shard in store.shards]
    for key, picture in zip(store.rows["key"], made, strict=True):
        assert np.array_equal(store.pictures[key], picture)
        assert np.array_equal(store.picture(key.decode()), picture)
        assert store.pictures.encoded(key).data == encode_picture(picture, "png")
        assert key.decode() in store.pictures
    assert verify_store(store.path) == []
    again = pickle.loads(pickle.dumps(store))
    assert np.array_equal(again.picture("image-003"), made[3])
    facts = store_info(store.path)["pictures"]
    size = sum(file.stat().st_size for file in files(store.path))
    assert facts == {"kept": 6, "media_types": {"image/png": 6}, "files": 2, "bytes": size, "orphans": 0}


def test_a_picture_is_kept_as_it_came_or_as_jpeg(tmp_path: Path) -> None:
    picture = np.full((*SIZE, 3), (200, 60, 10), np.uint8)
    turned = encoded("JPEG", picture.swapaxes(0, 1), exif=_orientation(6))
    given = [picture, encoded("WEBP", picture, lossless=True), encoded("PNG", picture), None, turned]
    with StoreWriter(tmp_path / "s", category="ball") as writer:
        writer.append(make_batch(random_masks(5, SIZE)), pictures=given)
        writer.append_rejected(["size not known"], "no person", pictures=[pixels(1, (7, 9))])
    store = open_store(tmp_path / "s")
    kinds = ["image/jpeg", "image/webp", "image/png", None, "image/jpeg", "image/jpeg"]
    for key, kind, data in zip(store.rows["key"], kinds, [*given, None], strict=True):
        if kind is None:
            assert store.picture(key) is None
            assert key not in store.pictures
            continue
        assert store.pictures.encoded(key).media_type == kind
        if isinstance(data, bytes):
            assert store.pictures.encoded(key).data == data
        if key != b"size not known":
            assert np.abs(store.pictures[key].astype(int) - picture).max() < 12
            assert store.pictures[key].shape == (*SIZE, 3)
    assert verify_store(tmp_path / "s") == []
    with pytest.raises(UnknownPicture, match=r"key: expected an image whose picture is kept in .*, got b'image-003'"):
        store.pictures[b"image-003"]
    with pytest.raises(KeyError):
        store.pictures["nobody"]
    assert store.pictures.get("nobody") is None  # a Mapping's own
    with pytest.raises(InputError, match="key: expected one of the store's 6 keys, got 'nobody'"):
        store.picture("nobody")
    for strange in ("", "image-000\0", "image-000" * 100):
        assert strange not in store.pictures
    with pytest.raises(InputError, match="key: expected a text or bytes, got a int"):
        store.picture(3)  # type: ignore[arg-type]


def _orientation(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


def test_keys_of_any_script(tmp_path: Path) -> None:
    keys = ["\u732b/\u5199\u771f.jpg", "Fahrr\u00e4der/\u00fcber", "a b/../c", "\U0001f6b2", "x" * 300]
    with StoreWriter(tmp_path / "s", category="ball") as writer:
        writer.append_rejected(keys, "no person", pictures=[pixels(i) for i in range(5)])
    store = open_store(tmp_path / "s")
    assert [key.decode() for key in store.pictures] == keys
    assert all(store.picture(key) is not None for key in keys)
    assert verify_store(tmp_path / "s") == []


def test_pictures_do_not_change_what_a_store_is(tmp_path: Path) -> None:
    masks = random_masks(4, SIZE)
    for name, given in (("with", [pixels(i) for i in range(4)]), ("without", None)):
        with StoreWriter(tmp_path / name, category="ball", provenance={"same": 1}) as writer:
            writer.append(make_batch(masks), pictures=given)
    assert open_store(tmp_path / "with").id == open_store(tmp_path / "without").id
    assert not (tmp_path / "without" / "pictures").exists()
    assert len(open_store(tmp_path / "without").pictures) == 0
    shutil.rmtree(tmp_path / "with" / "pictures")  # a store without them is whole
    assert verify_store(tmp_path / "with") == []
    assert open_store(tmp_path / "with").picture("image-000") is None


def test_pictures_of_some_shards_only(tmp_path: Path) -> None:
    write(tmp_path / "s")
    with StoreWriter(tmp_path / "s", category="ball") as writer:
        writer.append(make_batch(random_masks(2, SIZE), first=50))
    store = open_store(tmp_path / "s")
    assert (len(store), len(store.pictures)) == (8, 6)
    assert store.picture("image-050") is None
    files(store.path)[0].unlink()
    assert verify_store(store.path) == []
    store = open_store(store.path)
    assert [key.decode() for key in store.pictures] == ["image-003", "image-004", "rejected"]


def test_who_votes_reads_no_picture(store: Path) -> None:
    for file in files(store):
        file.write_bytes(b"no pictures at all")
    opened = open_store(store)
    assert len(opened.batch(opened.select())) == 5
    with pytest.raises(StoreError, match="expected a file of a store's pictures, got a file of another kind"):
        opened.picture("image-000")
    assert [problem.shard for problem in verify_store(store)] == [f"pictures/{file.name}" for file in files(store)]


BAD_GIVEN: list[tuple[Any, str]] = [
    ([None], "pictures: expected 2, one or None for each image, got 1"),
    (5, "pictures: expected 2, one or None for each image, got a int"),
    (b"ab", "pictures: expected 2, .* got"),
    ([None, b"<html>"], r"pictures: of b'image-001': expected a picture \(JPEG, .*\), got a file that begins with b'<html>'"),
    ([b"", None], r"pictures: of b'image-000': expected a picture .* got an empty file"),
    ([encoded("PNG", pixels(0))[:-90], None], "pictures: of b'image-000': expected a picture .* got a truncated PNG"),
    (
        [None, encoded("PNG", pixels(0, (50, 40)))],
        "pictures: of b'image-001': expected the image_size, width, height 50, 40, got",
    ),
    (
        [None, pixels(0, (50, 40))],
        r"pictures: of b'image-001': expected the image's height, width \(40, 50\), got .*\(50, 40, 3\)",
    ),
    ([encoded("BMP", pixels(0)), None], "pictures: of b'image-000': expected image/jpeg, image/png, image/webp; got image/bmp"),
    ([pixels(0)[..., 0], None], r"pictures: of b'image-000': picture: expected shape \(H, W, 3\), got \(40, 50\)"),
    ([pixels(0) / 255, None], "pictures: of b'image-000': picture: expected whole numbers that fit uint8"),
    (["a.jpg", None], "pictures: of b'image-000'"),
]


@pytest.mark.parametrize(("given", "words"), BAD_GIVEN, ids=[words[:60] for _, words in BAD_GIVEN])
def test_bad_pictures_are_named_and_nothing_of_the_batch_is_added(tmp_path: Path, given: Any, words: str) -> None:
    with StoreWriter(tmp_path / "s", category="ball") as writer:
        with pytest.raises(InputError, match=words):
            writer.append(make_batch(random_masks(2, SIZE)), pictures=given)
        assert writer.picture_bytes == 0
        writer.append(make_batch(random_masks(2, SIZE)))
    assert len(open_store(tmp_path / "s")) == 2
    assert not (tmp_path / "s" / "pictures").exists()


def test_encoding_refuses_what_it_cannot_hold() -> None:
    with pytest.raises(InputError, match="kind: expected one of jpeg, png; got 'gif'"):
        encode_picture(pixels(0), "gif")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="expected 1 to 80000000 pixels"):
        encode_picture(np.zeros((0, 4, 3), np.uint8))
    with pytest.raises(InputError, match="picture: expected one that jpeg can hold"):
        encode_picture(np.zeros((1, 70_000, 3), np.uint8))


def _first(value: Any) -> Callable[[Any], None]:
    def change(array: Any) -> None:
        array[0] = value

    return change


def _shifted(array: Any) -> None:
    array[1] += 1


def _bytes(array: Any) -> Any:
    return array[:-1]


HOSTILE: list[tuple[str, Callable[[Any], Any], str]] = [
    ("picture/offset", _first(1), "picture/offset: expected numbers that increase from 0 to"),
    ("picture/offset", _first(-(2**62)), "picture/offset: expected numbers that increase"),
    ("picture/offset", lambda a: a[::-1].copy(), "picture/offset: expected numbers that increase"),
    ("picture/offset", lambda a: np.where(a == a[-1], 2**62, a), "picture/offset: expected numbers that increase"),
    ("picture/offset", lambda a: a[:-1], r"picture/offset: expected shape \(4,\), got \(3,\)"),
    ("picture/offset", lambda a: a.astype("<i4"), "picture/offset: expected dtype <i8, got <i4"),
    ("picture/offset", _shifted, "picture of b'image-000': damaged; its bytes do not have the recorded sha256"),
    ("picture/sha256", lambda a: a[::-1].copy(), "picture of b'image-000': damaged"),
    ("picture/bytes", lambda a: a ^ 1, "picture of b'image-000': damaged"),
    ("picture/bytes", _bytes, "picture/offset: expected numbers that increase from 0 to"),
    ("picture/key", _first(b"nobody"), "picture/key: expected keys of the shard .*, got .*b'nobody'"),
    ("picture/key", _first(b"image-001"), "picture/key: expected different names"),
    ("picture/key", _first(b""), "picture/key: expected different names, got an empty one"),
    ("picture/key", lambda a: np.zeros((3, 2), "S4"), r"picture/key: expected shape \(3,\), got \(3, 2\)"),
    ("picture/type", _first(9), "picture/type: expected codes from 0 to 0, got 9"),
    ("vocab/type", _first(b"text/htm"), "vocab/type: expected media types among image/jpeg, .* got 'text/htm'"),
    ("vocab/type", lambda a: a[:0], "picture/type: expected codes from 0 to -1"),
]


@pytest.mark.parametrize(("name", "change", "words"), HOSTILE, ids=[f"{name} {words[:50]}" for name, _, words in HOSTILE])
def test_hostile_files_are_named(store: Path, name: str, change: Callable[[Any], Any], words: str) -> None:
    """With all digests of the file right, so that only a look at the content shows it."""
    rewrite(files(store)[0], name, change)
    opened = open_store(store)
    with pytest.raises(StoreError, match=words):
        opened.picture("image-000")
    problems = [str(problem) for problem in verify_store(store)]
    assert any(re.search(words.replace("; its bytes do", ".*").replace("picture of", ".*"), text) or "damaged" in text
               for text in problems), problems  # fmt: skip
    assert all(text.startswith(f"pictures/{files(store)[0].name}") for text in problems)
    assert len(opened.batch(opened.select())) == 5


def _replace_first(path: Path, data: bytes) -> None:
    """Put other bytes in place of the first picture, with all digests right."""
    with h5py.File(path) as file:
        offset, content = file["picture/offset"][()], file["picture/bytes"][()].tobytes()
    rest = content[offset[1] :]
    rewrite(path, "picture/bytes", lambda _: np.frombuffer(data + rest, np.uint8))
    rewrite(path, "picture/offset", lambda a: np.concatenate([[0], a[1:] + (len(data) - offset[1])]))
    digest = np.frombuffer(hashlib.sha256(data).digest(), np.uint8)
    rewrite(path, "picture/sha256", lambda a: np.concatenate([digest[None], a[1:]]))


def _bomb() -> bytes:
    """A small PNG that claims 60,000 x 60,000 pixels."""
    data = bytearray(encoded("PNG", pixels(0)))
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    import zlib

    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"#!/bin/sh\n", r"picture.*: expected a picture \(JPEG, PNG, .*\), got a file that begins with b'#!/bin/sh"),
        (_bomb(), "picture.*: expected at most 80000000 pixels, got"),
        (encoded("PNG", pixels(0, (51, 40))), "expected .*(51, 40|40, 51)"),
        (encoded("PNG", pixels(0))[:40], "picture.*: expected a picture"),
    ],
    ids=["not a picture", "bomb", "size", "cut short"],
)
def test_what_is_no_picture_of_the_image_is_named(store: Path, data: bytes, words: str) -> None:
    _replace_first(files(store)[0], data)
    with pytest.raises(StoreError, match=words):
        open_store(store).picture("image-000")
    assert open_store(store).pictures.encoded("image-000").data == data
    if len(data) != 40:  # verify decodes nothing
        assert re.search("expected .*picture|expected at most|expected height", str(verify_store(store)[0]))


def test_headers_that_lie(store: Path) -> None:
    file = files(store)[0]
    good = file.read_bytes()
    with h5py.File(file) as opened:
        fields = json.loads(bytes(opened.attrs["header"]))
    for change, words in (
        ({"version": 2}, "expected version 1, got 2"),
        ({"format": "chorus-shard"}, "expected a JSON object with format 'chorus-pictures'"),
        ({"pictures": 0}, "pictures: expected a positive integer, got 0"),
        ({"pictures": 2**61}, "expected shape"),
    ):
        with h5py.File(file, "r+") as opened:
            opened.attrs["header"] = np.bytes_(json.dumps({**fields, **change}).encode())
            seal(opened)
        with pytest.raises(StoreError, match=words):
            open_store(store).picture("image-000")
        file.write_bytes(good)
    with h5py.File(file, "r+") as opened:
        opened.attrs["header"] = np.bytes_(b"{}")
    with pytest.raises(StoreError, match=r"sha256: expected \w+, as it records, got"):
        open_store(store).picture("image-000")


def test_a_flipped_or_missing_byte_is_caught(store: Path) -> None:
    file = files(store)[0]
    good = file.read_bytes()
    with h5py.File(file) as opened:
        places = [(name, opened[name].id.get_offset(), opened[name].nbytes) for name in ("picture/bytes", "picture/key")]
    for name, offset, nbytes in places:
        for at in (0, nbytes // 2, nbytes - 1):
            damaged = bytearray(good)
            damaged[offset + at] ^= 0x10
            file.write_bytes(damaged)
            assert any(name in str(problem) or "damaged" in str(problem) for problem in verify_store(store)), (name, at)
            with pytest.raises(StoreError):
                [open_store(store).picture(f"image-{i:03d}") for i in range(3)]
    for length in (0, 100, len(good) // 2, len(good) - 1):
        file.write_bytes(good[:length])
        assert verify_store(store), length
        with pytest.raises(StoreError, match=r"truncated|empty|damaged"):
            open_store(store).picture("image-002")


def test_links_are_refused(store: Path, tmp_path: Path) -> None:
    file = files(store)[0]
    file.rename(tmp_path / "outside.h5")
    file.symlink_to(tmp_path / "outside.h5")
    with pytest.raises(StoreError, match="expected a regular file, got a link"):
        open_store(store).picture("image-000")
    assert "link" in str(verify_store(store)[0])
    (store / "pictures").rename(tmp_path / "elsewhere")
    (store / "pictures").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match=r"expected a folder \(not a link\) with the store's pictures"):
        open_store(store).picture("image-000")
    with StoreWriter(store, category="ball") as writer:
        writer.append(make_batch(random_masks(1, SIZE), first=70), pictures=[None])  # rows without pictures go on
    with pytest.raises(StoreError, match="not a link"), StoreWriter(store, category="ball") as writer:
        writer.append(make_batch(random_masks(1, SIZE), first=80), pictures=[pixels(0)])
    assert len(open_store(store)) == 7


def test_a_failed_commit_leaves_no_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s"
    write(path)
    before = sorted(path.rglob("*"))
    writer = StoreWriter(path, category="ball")
    writer.append(make_batch(random_masks(1, SIZE), first=60), pictures=[pixels(0)])

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("chorus.store.writer.write_new", full)
        with pytest.raises(OSError, match="No space left"):
            writer.flush()
    assert sorted(path.rglob("*")) == before
    writer.close()  # there is room again
    assert open_store(path).picture("image-060") is not None


def test_what_a_dead_writer_left_is_ignored_counted_and_removed(store: Path) -> None:
    left = [store / "pictures" / "00000009-dead.h5", store / "pictures" / "00000010-dead.h5.part"]
    for path in left:
        path.write_bytes(b"half")
    assert verify_store(store) == []
    assert open_store(store).picture("image-000") is not None
    assert store_info(store)["pictures"]["orphans"] == 1
    StoreWriter(store, category="ball").close()
    assert not any(path.exists() for path in left)
    assert len(files(store)) == 2


def test_the_folder_of_an_older_store_is_read(tmp_path: Path) -> None:
    keys = ["plain", "\u732b.png", "ride/a B.jpg"]
    with StoreWriter(tmp_path / "s", category="ball") as writer:
        writer.append_rejected([*keys, "without"], "no person", sizes=SIZE * np.ones((4, 2), int))
    for i, key in enumerate(keys):
        path = tmp_path / "s" / "images" / picture_name(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_picture(pixels(i)))
    (tmp_path / "s" / "images" / "without.jpg").symlink_to(tmp_path / "s" / "store.json")
    with StoreWriter(tmp_path / "s", category="ball") as writer:
        writer.append_rejected(["new"], "no person", sizes=[SIZE], pictures=[pixels(3)])
    store = open_store(tmp_path / "s")
    assert [key.decode() for key in store.pictures] == [*keys, "new"]
    assert len(store.pictures) == 4
    for i, key in enumerate([*keys, "new"]):
        assert store.pictures.encoded(key).data == encode_picture(pixels(i))
        picture = store.picture(key)
        assert picture is not None
        assert picture.shape == (*SIZE, 3)
    assert store.picture("without") is None
    facts = store_info(tmp_path / "s")["pictures"]
    assert (facts["kept"], facts["files"]) == (4, 4)
    assert verify_store(tmp_path / "s") == []


READS = """
import os, sys
from PIL import Image
from chorus.store import open_store, store_info, verify_store

Image.init()  # Python's own files, and compiled code, may be readable for root alone
verify_store(sys.argv[1])
if os.getuid() == 0:
    os.setuid(65534)  # nobody, who may write nowhere
store = open_store(sys.argv[1])
try:
    open(os.path.join(sys.argv[1], "pictures", "x"), "w")
except OSError:
    print(len(store.pictures), store.picture("image-001").shape, verify_store(sys.argv[1]), store_info(sys.argv[1])["images"])
"""


def test_read_where_nothing_can_be_written(store: Path, tmp_path: Path) -> None:
    place = Path("/tmp") / f"chorus-pictures-{tmp_path.parent.name}-{tmp_path.name}"  # folders of pytest are its user's alone
    shutil.copytree(store, place)
    try:
        for path in [*place.rglob("*"), place]:
            path.chmod(0o555 if path.is_dir() else 0o444)
        done = subprocess.run([sys.executable, "-c", READS, str(place)], cwd=ROOT, capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (0, "6 (40, 50, 3) [] 6\n"), done.stderr
    finally:
        for path in [place, *place.rglob("*")]:
            path.chmod(0o755)
        shutil.rmtree(place)


def test_the_documented_reader_reads_every_picture(store: Path) -> None:
    text = (ROOT / "docs" / "store-format.md").read_text()
    _, block = re.findall(r"```python\n(.*?)```", text, re.S)
    namespace: dict[str, Any] = {}
    exec(block, namespace)
    read = list(namespace["read_pictures"](store))
    opened = open_store(store)
    assert [key for key, _ in read] == list(opened.pictures)
    assert all(np.array_equal(pixels, opened.pictures[key]) for key, pixels in read)
