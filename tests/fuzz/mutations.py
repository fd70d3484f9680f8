"""Changes to valid files that a hostile or broken writer could make, drawn by whoever looks for failures.

``Choices`` is the source of chance: hypothesis in the test suite, libFuzzer's bytes under atheris.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import struct
import warnings
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import h5py
import numpy as np

from tests.store.samples import arrays_of, digest, seal

_T = TypeVar("_T")


class Choices(Protocol):
    """Where mutations get their chance from."""

    def integer(self, low: int, high: int) -> int:
        """A number from low to high, both included."""

    def data(self, most: int) -> bytes:
        """Up to ``most`` bytes."""


def choose(choices: Choices, of: Sequence[_T]) -> _T:
    return of[choices.integer(0, len(of) - 1)]


NUMBERS = (
    0,
    1,
    -1,
    127,
    255,
    256,
    2**15,
    2**16 - 1,
    2**31 - 1,
    2**31,
    -(2**31),
    2**32 - 1,
    2**62,
    2**63 - 1,
    -(2**63),
    2**64 - 1,
)


def mutate_bytes(data: bytes, choices: Choices) -> bytes:
    """One to four of: a bit flipped, a number overwritten, cut, bytes inserted, deleted, copied from elsewhere, repeated."""
    for _ in range(choices.integer(1, 4)):
        at, kind = choices.integer(0, max(0, len(data) - 1)), choices.integer(0, 7)
        length = choices.integer(1, 64)
        if kind == 0 and data:
            data = data[:at] + bytes([data[at] ^ (1 << choices.integer(0, 7))]) + data[at + 1 :]
        elif kind == 1:
            number, width = choose(choices, NUMBERS), choose(choices, (1, 2, 4, 8))
            word = (number % (1 << 8 * width)).to_bytes(width, choose(choices, ("little", "big")))
            data = data[:at] + word + data[at + width :]
        elif kind == 2:
            data = data[:at]
        elif kind == 3:
            data = data[:at] + choices.data(length) + data[at:]
        elif kind == 4:
            data = data[:at] + data[at + length :]
        elif kind == 5:
            other = choices.integer(0, max(0, len(data) - 1))
            data = data[:at] + data[other : other + length] + data[at + length :]
        elif kind == 6:
            data = data[:at] + data[at : at + length] * choices.integer(2, 50) + data[at + length :]
        else:
            new = choices.data(length)
            data = data[:at] + new + data[at + len(new) :]
    return data


_DEEP = "@deep@"
_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 0.5, -0.0, 1e308, -1e-320, 10**19, 2**63 - 1, -(2**63), 10**400, 10**4400, 3, 1_000_000_000),
    *(
        float("nan"),
        float("inf"),
        "",
        "x",
        "\0",
        "\ud800",
        "é" * 300,
        "../../outside",
        "/etc/passwd",
        "1e999",
        "NaN",
        "x" * 5000,
    ),
    *(
        [],
        {},
        [[]],
        [None],
        [1, [2]],
        [[1, 2], [3]],
        {"": None},
        [0] * 3,
        [[0] * 3] * 24,
        [1e308] * 24,
        "azimuth",
        "lbs",
        _DEEP,
    ),
)


def mutate_json(data: bytes, choices: Choices) -> bytes:
    """A value of a JSON text replaced, removed, repeated or moved elsewhere; sometimes its bytes changed instead."""
    if choices.integer(0, 5) == 0:
        return mutate_bytes(data, choices)
    value: Any = {"": json.loads(data)}
    for _ in range(choices.integer(1, 3)):
        places = _places(value)
        parent, key = choose(choices, places)
        kind = choices.integer(0, 5)
        if kind <= 2:
            parent[key] = copy.deepcopy(choose(choices, _VALUES))
        elif kind == 3 and key != "":
            del parent[key]
        elif kind == 4:
            other, name = choose(choices, places)
            with contextlib.suppress(LookupError):  # it may have been removed
                parent[key] = copy.deepcopy(other[name])
        elif isinstance(parent, list):
            parent += copy.deepcopy([parent[key]]) * choose(choices, (1, 30))
        else:
            parent[choose(choices, ("x", "__class__", "self", "name"))] = copy.deepcopy(parent[key])
    text = _dumps(value.get(""))
    deep = choose(choices, ("[", '{"a":'))
    return text.replace(f'"{_DEEP}"', deep * choose(choices, (900, 100_000))).encode("utf-8", "surrogatepass")


def _dumps(value: Any) -> str:
    """JSON, also of integers of thousands of digits, which Python refuses to print."""

    def shown(number: Any) -> Any:
        if type(number) is int and abs(number) > 10**400:
            return "@huge@"
        if isinstance(number, dict):
            return {k: shown(v) for k, v in number.items()}
        return [shown(v) for v in number] if isinstance(number, list) else number

    return json.dumps(shown(value)).replace('"@huge@"', "1" + "0" * 4400)


def _places(value: Any) -> list[tuple[Any, Any]]:
    """(container, key or index) of every value inside, the first few of long lists."""
    found: list[tuple[Any, Any]] = []
    waiting = [value]
    while waiting and len(found) < 400:
        node = waiting.pop(0)
        keys = list(node)[:60] if isinstance(node, dict) else range(min(len(node), 8))
        for key in keys:
            found.append((node, key))
            if isinstance(node[key], (dict, list)):
                waiting.append(node[key])
    return found


_SHAPES = (
    "(1099511627776,)",
    "(268435456,)",
    "(-1,)",
    "()",
    "(0,)",
    "(3,)",
    "(4294967296, 4294967296)",
    "(2, 9223372036854775807)",
    "(True,)",
    "'x'",
    "(" * 200,
)
_DTYPES = (
    "'|O'",
    "'<f8'",
    "'<f4'",
    "'>i2'",
    "'|b1'",
    "'<c16'",
    "'<U3'",
    "'|S0'",
    "'|V1000000000'",
    "[('a', '<f8')]",
    "'<M8[s]'",
    "'<U500000000'",
    "None",
)


def mutate_npz(data: bytes, choices: Choices) -> bytes:
    """An array of a .npz with another header or content, missing, repeated, under another name; or its bytes changed."""
    if choices.integer(0, 4) == 0:
        return mutate_bytes(data, choices)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = choose(choices, list(members))
    kind, packed, names = choices.integer(0, 6), zipfile.ZIP_STORED, []
    if kind <= 1:
        members[name] = _other_header(members[name], choices)
    elif kind == 2:
        members[name] = mutate_bytes(members[name], choices)
    elif kind == 3:
        del members[name]
    elif kind == 4:
        members[choose(choices, (*members, "../outside.npy", "name.npy", "allow_pickle.npy", "x"))] = members.pop(name)
    elif kind == 5:
        array = io.BytesIO()
        np.save(array, choose(choices, _ARRAYS), allow_pickle=True)
        members[name] = array.getvalue()
    else:
        packed, names = choose(choices, (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)), [name]
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", packed) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a name twice
        for key in [*members, *names]:
            archive.writestr(zipfile.ZipInfo(key), members[key], packed)
    return made.getvalue()


def _other_header(npy: bytes, choices: Choices) -> bytes:
    """A .npy whose header states another shape or type than its bytes have."""
    if npy[:6] != b"\x93NUMPY" or len(npy) < 10:
        return mutate_bytes(npy, choices)
    (length,) = struct.unpack("<H", npy[8:10])
    head, rest = npy[10 : 10 + length].decode("latin1"), npy[10 + length :]
    if choices.integer(0, 1):
        start = head.find("'shape': ") + 9
        head = head[:start] + choose(choices, _SHAPES) + ", }"
    else:
        start, end = head.find("'descr': ") + 9, head.find(", 'fortran_order'")
        head = head[:start] + choose(choices, _DTYPES) + head[end:]
    text = head.rstrip().encode("latin1")
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return npy[:8] + struct.pack("<H", len(text)) + text + rest


_ARRAYS: tuple[Any, ...] = (
    *(np.zeros(0), np.zeros(()), np.float64(7), np.array(1), np.array(-1), np.array("text"), np.array(b"text")),
    *(np.zeros((3, 3)), np.zeros((2, 24, 3)), np.full(5, np.nan), np.full(5, np.inf), np.arange(7, dtype=np.int64)),
    *(np.array([2**63], np.uint64), np.full((4, 4), -1, np.int32), np.array([None, 1], object), np.zeros(3, "M8[s]")),
    *(
        np.zeros(2, [("a", "f4"), ("b", "S3")]),
        np.zeros((1,) * 20),
        np.array([True]),
        np.array(["a", "b"]),
        np.zeros(2, complex),
    ),
    *(np.full(200, 2**62, np.int64), np.zeros((0, 3)), np.zeros((2**20, 0))),
)

OUTSIDE = "outside.h5"
"""Name of a file beside a case's folder that no reader may open."""


def mutate_hdf5(data: bytes, choices: Choices) -> bytes:
    """An array or attribute of an HDF5 file replaced, removed, stored otherwise or linked elsewhere, with new digests."""
    if choices.integer(0, 3) == 0:
        return mutate_bytes(data, choices)
    file_data = io.BytesIO(data)
    with h5py.File(file_data, "r+") as file, contextlib.suppress(Exception):  # what was made may be past changing again
        for _ in range(choices.integer(1, 2)):
            names = arrays_of(file)
            if not names or choices.integer(0, 2) == 0:
                _change_attribute(file, choices)
            else:
                _change_array(file, choose(choices, names), choices)
        if "sha256" in file.attrs and choices.integer(0, 7):
            _sealed(file)
    return file_data.getvalue()


def _sealed(file: h5py.File) -> None:
    try:
        for name in arrays_of(file):
            if file[name].id.get_create_plist().get_layout() == h5py.h5d.CONTIGUOUS and file[name].nbytes < 1 << 24:
                file[name].attrs["sha256"] = np.bytes_(digest(file[name][()]))
        seal(file)
    except Exception:  # of what was made nothing can be read any more: also a case
        return


def _change_attribute(file: h5py.File, choices: Choices) -> None:
    names = list(file.attrs)
    name = choose(choices, names) if names else "facts"
    value, kind = file.attrs.get(name), choices.integer(0, 5)
    if kind <= 2 and isinstance(value, (str, bytes)) and value[:1] in ("{", b"{"):
        text = mutate_json(value.encode() if isinstance(value, str) else value, choices)[:60_000]
        if b"\0" not in text:
            file.attrs[name] = np.bytes_(text or b" ")
    elif kind == 3 and names:
        del file.attrs[name]
    else:
        try:
            file.attrs[name] = choose(
                choices, (1, -1, 2.5, "x", b"y", np.zeros(3), "é", h5py.Empty("f4"), [b"a", b"b"], 2**62, True)
            )
        except Exception:
            return


def _change_array(file: h5py.File, name: str, choices: Choices) -> None:
    kept = file[name]
    array = kept[()] if kept.nbytes < 1 << 24 else np.zeros(3, kept.dtype)
    attributes = dict(kept.attrs)
    kind = choices.integer(0, 11)
    if kind == 0 and array.size and array.dtype.kind in "iuf":
        flat = array.reshape(-1)
        with np.errstate(all="ignore"):
            for _ in range(choices.integer(1, 3)):
                at = choices.integer(0, flat.size - 1)
                special = (np.nan, np.inf, 1e38, -1.0) if array.dtype.kind == "f" else NUMBERS
                flat[at : at + 1] = np.array(choose(choices, special)).astype(array.dtype)
        file[name][()] = array
        return
    del file[name]
    if kind == 1:
        return
    if kind == 2:
        file[name] = h5py.SoftLink(choose(choices, ("/", f"/{name}", "/nothing", "/image/key", "/num_counts")))
        return
    if kind == 3:
        file[name] = h5py.ExternalLink(f"../{OUTSIDE}", "/data")
        return
    if kind == 4:
        shape = choose(choices, ((2**40,), (12, 2**20, 2**20, 2**20), (2**31,) * 2, (12, 512, 512, 512)))
        file.create_dataset(name, shape, choose(choices, ("u1", "i4", "f8")), chunks=tuple(min(n, 16) for n in shape))
    elif kind == 5:
        file.create_dataset(name, np.shape(array) or (4,), array.dtype, external=[(f"../{OUTSIDE}", 0, h5py.h5f.UNLIMITED)])
    elif kind == 6:
        layout = h5py.VirtualLayout(np.shape(array) or (4,), array.dtype)
        layout[...] = h5py.VirtualSource(f"../{OUTSIDE}", "data", np.shape(array) or (4,))
        file.create_virtual_dataset(name, layout)
    elif kind == 7:
        file.create_dataset(name, data=["a", "b"], dtype=h5py.string_dtype())
    elif kind == 8:
        file.create_group(name)
    elif kind == 9:
        file.create_dataset(name, data=array[: len(array) // 2] if np.ndim(array) else array)
    elif kind == 10:
        other = choose(choices, ("u1", "i1", "<i2", ">i4", "i8", "f2", "f4", "f8", "u8"))
        with np.errstate(all="ignore"):
            file.create_dataset(name, data=array.astype(other) if array.dtype.kind in "biuf" else np.zeros(3, other))
    else:
        file.create_dataset(name, data=choose(choices, [a for a in _ARRAYS if np.asarray(a).dtype.kind in "biufS"]))
    for key, value in attributes.items():
        file[name].attrs[key] = value


MUTATIONS: dict[str, Callable[[bytes, Choices], bytes]] = {
    "bytes": mutate_bytes,
    "json": mutate_json,
    "npz": mutate_npz,
    "hdf5": mutate_hdf5,
}
"""Kind of file -> how such files are changed."""


def outside_file(path: Path) -> None:
    """The file that links lead to: what is in it would be read as what was asked for."""
    with h5py.File(path, "w") as file:
        file["data"] = np.zeros(4)
