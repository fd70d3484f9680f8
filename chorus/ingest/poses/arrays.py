"""Files of poses as arrays by name: .npz, .json and .csv, read without running anything in them."""

from __future__ import annotations

import csv
import io
import json
import re
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from chorus import npz
from chorus.errors import InputError
from chorus.pickles import read_pickle

MAX_NPZ_BYTES = 1 << 31
"""The most that the arrays of one .npz may hold, unpacked; a person of 24 joints takes about 1 KB with all there may be."""
MAX_JSON_BYTES = 1 << 28
"""The most bytes of a file of text, JSON or CSV."""

DAMAGED = (
    OSError,
    EOFError,
    ValueError,
    KeyError,
    RuntimeError,
    MemoryError,
    OverflowError,
    SyntaxError,
    TypeError,
    AttributeError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What numpy and zipfile raise on files that are none, and on arrays that claim to be larger than the memory."""

_NUMBERED = re.compile(r"(.+?)[_\[]?(\d+)\]?$")  # pose_0, pose0, pose[0]
_SQUARE = ("R", "K")  # matrices, of which a table has the nine elements row by row


def read_npz(path: Path, *, objects: bool = False) -> dict[str, Any]:
    """Arrays by name. InputError for anything but a .npz of plain arrays.

    objects  whether dictionaries and lists are read as well, which numpy pickles into arrays of objects; nothing of them is run
             (``chorus.pickles``)
    """
    try:
        pickled = _pickled(path) if objects else {}
        rest = npz.read_npz(path, lambda names: [n for n in names if n not in pickled], most_bytes=MAX_NPZ_BYTES)
        return {**rest, **pickled}
    except InputError as error:
        raise InputError(str(error).removeprefix(f"{path}: ")) from None
    except DAMAGED as error:
        raise InputError(f"expected an .npz of plain arrays, got a damaged or foreign file ({str(error)[:120]})") from None


def _pickled(path: Path) -> dict[str, Any]:
    """The content of those members of an archive that are arrays of objects, by name."""
    found = {}
    most = min(MAX_NPZ_BYTES, npz.MOST_RATIO * path.stat().st_size)
    with zipfile.ZipFile(path) as archive:
        if sum(member.file_size for member in archive.infolist()) > most:
            raise InputError(f"expected at most {most} bytes of arrays in a file, got more; split it")
        for member in archive.infolist():
            with archive.open(member) as stream:
                version = np.lib.format.read_magic(stream)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                _, _, dtype = read(stream)
                if dtype.hasobject:
                    found[member.filename.removesuffix(".npy")] = read_pickle(io.BytesIO(stream.read()))
    return found


def read_json(path: Path) -> Any:
    """The content of a JSON file in UTF-8. InputError for anything else, for NaN, and beyond MAX_JSON_BYTES."""

    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is no number")

    try:
        return json.loads(_text(path, "JSON"), parse_constant=refuse)
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        raise InputError(f"expected JSON: {str(error)[:120]}") from None


def json_arrays(content: Any) -> dict[str, Any]:
    """Values by name from JSON: an object of lists, one element a person; or a list of objects, one a person.

    Nulls are left out. InputError for anything else, and for people of a list who do not have the same names.
    """
    if isinstance(content, list):
        if not content or not all(isinstance(row, dict) for row in content):
            raise InputError("expected a list of JSON objects, one a person, got other values in the list, or none")
        names = list(content[0])
        for number, row in enumerate(content):
            if set(row) != set(names):
                other = sorted(set(row) ^ set(names))[0]
                raise InputError(f"expected the same names of all people, got {other!r} in some (compare person {number})")
        content = {name: [row[name] for row in content] for name in names}
    if not isinstance(content, dict):
        raise InputError(f"expected a JSON object, got {type(content).__name__}")
    return {name: value for name, value in content.items() if value is not None}


def read_csv(path: Path) -> dict[str, Any]:
    """Values by name from a table with a line of names and one line a person.

    Columns pose_0, pose_1, ... together are the array ``pose`` (n, ...); R_0 to R_8 and K_0 to K_8 are matrices, row by row.
    Commas, semicolons or tabs separate. InputError for lines of other lengths, columns that are missing, and words for numbers.
    """
    text = _text(path, "CSV")
    first = text.splitlines()[0] if text.strip() else ""
    separator = max(",;\t", key=first.count)
    try:
        rows = [row for row in csv.reader(io.StringIO(text), delimiter=separator, strict=True) if row]
    except csv.Error as error:
        raise InputError(f"expected a CSV table: {error}") from None
    if len(rows) < 2:
        raise InputError("expected a CSV table: a line of names and a line a person, got fewer lines")
    names = [name.strip() for name in rows[0]]
    if len(set(names)) != len(names):
        raise InputError(f"expected different names of columns, got {max(names, key=names.count)!r} twice")
    for number, row in enumerate(rows[1:], 2):
        if len(row) != len(names):
            raise InputError(f"expected {len(names)} values in each line, got {len(row)} in line {number}")
    columns = {name: [row[i].strip() for row in rows[1:]] for i, name in enumerate(names)}
    found: dict[str, Any] = {}
    groups: dict[str, dict[int, str]] = {}
    for name in names:
        numbered = _NUMBERED.fullmatch(name)
        if numbered:
            groups.setdefault(numbered[1], {})[int(numbered[2])] = name
        else:
            found[name] = _numbers_of(name, columns[name])
    for name, parts in groups.items():
        if sorted(parts) != list(range(len(parts))):
            missing = min(set(range(len(parts))) - set(parts))
            raise InputError(f"expected columns {name}_0 to {name}_{len(parts) - 1}, got none for {missing}")
        values = [_numbers_of(parts[i], columns[parts[i]]) for i in range(len(parts))]
        if any(isinstance(value, list) for value in values):
            raise InputError(f"{name}: expected numbers, got words in the columns {name}_0 to {name}_{len(parts) - 1}")
        table = np.stack(values, 1)
        found[name] = table.reshape(-1, 3, 3) if name in _SQUARE and table.shape[1] == 9 else table
    return found


def _numbers_of(name: str, texts: list[str]) -> NDArray[np.float64] | list[str]:
    """A column as numbers (n,), an empty cell being NaN; as texts where it has a word, or is one of names."""
    if name in ("key", "keys", "prompt", "estimator"):
        return texts
    try:
        return np.array([float(text) if text else np.nan for text in texts])
    except ValueError:
        return texts


def _text(path: Path, kind: str) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_JSON_BYTES + 1)
        if len(raw) > MAX_JSON_BYTES:
            raise InputError(f"expected at most {MAX_JSON_BYTES} bytes of {kind}, got more; use .npz")
        return raw.decode("utf-8-sig")
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise InputError(f"expected {kind}: {str(error)[:120]}") from None
