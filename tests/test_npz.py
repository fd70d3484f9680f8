"""Arrays from files that others may have written: nothing is run, and no file takes more memory than it can account for."""

from __future__ import annotations

import io
import resource
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chorus.errors import InputError
from chorus.npz import read_npy, read_npz

ARRAYS = {
    "a": np.arange(6, dtype=">i2").reshape(2, 3),
    "b": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "text": np.array("left_hip"),
    "none": np.zeros((7, 3, 0)),
    "no text": np.array(""),
    "one": np.array(3),
}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_are_read_as_numpy_reads_them(save: Any, tmp_path: Path) -> None:
    save(tmp_path / "x.npz", **ARRAYS)
    found = read_npz(tmp_path / "x.npz")
    with np.load(tmp_path / "x.npz") as expected:
        assert found.keys() == set(expected.files)
        for name, array in found.items():
            assert array.dtype == expected[name].dtype
            assert array.shape == expected[name].shape
            assert array.tobytes() == expected[name].tobytes()
    assert read_npz(tmp_path / "x.npz", lambda names: [n for n in names if n == "a"]).keys() == {"a"}
    np.save(tmp_path / "x.npy", ARRAYS["b"])
    assert np.array_equal(read_npy(tmp_path / "x.npy"), ARRAYS["b"])


def npy(shape: str, descr: str = "'<f8'", data: bytes = b"") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


def packed(members: list[tuple[str, bytes]], how: int = zipfile.ZIP_DEFLATED) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", how) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return made.getvalue()


def encrypted(data: bytes) -> bytes:
    at = data.index(b"PK\x01\x02")
    return data[:6] + b"\x01" + data[7 : at + 8] + b"\x01" + data[at + 9 :]


WHOLE = npy("(2,)", data=bytes(16))
BAD: list[tuple[str, bytes, str]] = [
    ("more than the memory", packed([("x.npy", npy("(1099511627776,)"))]), "0 bytes for shape"),
    ("lengths beyond int64", packed([("x.npy", npy("(4294967296, 4294967296, 4294967296)"))]), "0 bytes for shape"),
    ("a long text", packed([("x.npy", npy("(960,)", "'<U500000000'"))]), "0 bytes for shape"),
    ("many texts without letters", packed([("x.npy", npy("(1099511627776,)", "'|S0'"))]), "0 bytes for shape"),
    ("a long side of nothing", packed([("x.npy", npy("(1099511627776, 0)"))]), "0 bytes for shape"),
    ("a negative length", packed([("x.npy", npy("(-1,)"))]), "an array of shape"),
    ("True for a length", packed([("x.npy", npy("(True,)", data=bytes(8)))]), "of shape|damaged"),
    ("too few bytes", packed([("x.npy", WHOLE[:-1])]), "15 bytes for shape"),
    ("too many bytes", packed([("x.npy", WHOLE + b"x")]), "17 bytes for shape"),
    ("objects", packed([("x.npy", npy("(1,)", "'|O'", b"cos\nsystem\n(S'true'\ntR."))]), "objects or records"),
    ("records", packed([("x.npy", npy("(1,)", "[('a', '<f8')]", bytes(8)))]), "objects or records"),
    ("an open bracket", packed([("x.npy", npy("(" * 300))]), "damaged or foreign"),
    ("no array", packed([("x.npy", b"text")]), "damaged or foreign"),
    ("a name twice", packed([("x.npy", WHOLE), ("x", WHOLE)]), "a name twice"),
    ("encrypted", encrypted(packed([("x.npy", WHOLE)])), "damaged or foreign"),
    ("bzip2, which has no bound", packed([("x.npy", WHOLE)], zipfile.ZIP_BZIP2), "packed in another way"),
    ("no zip file", WHOLE, "no named arrays"),
    ("nothing", b"", "no named arrays"),
]


@pytest.mark.parametrize(("data", "words"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_bad_files_are_refused(data: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_bytes(data)
    with pytest.raises(InputError, match=f"x.npz: expected an .npz of plain arrays, got .*{words}"):
        read_npz(tmp_path / "x.npz")


def test_every_flip_is_noticed_or_harmless(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez_compressed(path, **ARRAYS)
    whole, kept = path.read_bytes(), read_npz(path)
    silent = 0
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        try:
            found = read_npz(path)
        except InputError:
            continue
        silent += 1
        assert all(np.array_equal(found[name], kept[name]) for name in found if name in kept)
    assert silent < len(whole) / 2  # times, versions and comments of zip files, and letters of names


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    """Members that share their packed bytes hold more than a file of this size can; one alone is bounded by ``most_bytes``."""
    zeros = npy(f"({1 << 23},)", data=bytes(1 << 26))
    one = packed([("a.npy", zeros)])
    (tmp_path / "one.npz").write_bytes(one)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match=r"arrays of 67108.* bytes, where there can be at most 1048576 bytes"):
        read_npz(tmp_path / "one.npz", most_bytes=1 << 20)
    start = one.index(b"PK\x01\x02")
    entry = one[start : one.index(b"PK\x05\x06")]
    entries = b"".join(entry.replace(b"a.npy", f"{i}.npy".encode()) for i in range(9))
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 9, 9, len(entries), start, 0)
    (tmp_path / "nine.npz").write_bytes(one[:start] + entries + end)
    with pytest.raises(InputError, match=r"arrays of 6039.* bytes, where there can be at most"):
        read_npz(tmp_path / "nine.npz")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10


def test_missing_files_are_missing(tmp_path: Path) -> None:
    for read in (read_npz, read_npy):
        with pytest.raises(FileNotFoundError):
            read(tmp_path / "x")
    with pytest.raises(InputError, match=r"expected an \.npz"):
        read_npz(tmp_path)
