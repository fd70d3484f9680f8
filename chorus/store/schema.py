"""The store format: names, types and shapes of arrays, digests, ``store.json`` (docs/store-format.md)."""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chorus.errors import StoreError
from chorus.files import json_value
from chorus.kernels.masks import WORDS_PER_BLOCK, words_in_box
from chorus.store.urls import Place, StoreUrl

FORMAT_VERSION = 2
"""Version of the format that this library writes."""
READABLE_VERSIONS = (1, 2)
"""Versions that it reads. Version 1 keeps the words of every block of a mask's box."""

STORE_FORMAT = "chorus-store"
SHARD_FORMAT = "chorus-shard"
STORE_JSON = "store.json"
SHARDS = "shards"
SHARD_SUFFIX = ".h5"

COMPLETE = "complete"
"""The status of an image that has mask, pose and camera and that no stage rejected; code 0 of every status vocabulary."""

ALIGNMENT = 64
"""Arrays start at multiples of this many bytes of the file: a cache line, and enough for any vector load."""


@dataclass(frozen=True)
class Spec:
    """Type and shape of one array of a shard.

    dtype     numpy's; "S" stands for bytes of any width
    shape     "n" is the number of images in the shard, "n+1" one more, "J" the number of joints; any other name, any length
    required  whether every shard must have it
    """

    dtype: str
    shape: tuple[int | str, ...]
    required: bool = True


DATASETS: dict[str, Spec] = {
    "image/key": Spec("S", ("n",)),
    "image/size": Spec("<i4", ("n", 2)),
    "image/prompt": Spec("<i4", ("n",)),
    "image/view": Spec("<i4", ("n",)),
    "image/estimator": Spec("<i4", ("n",)),
    "image/seed": Spec("<i8", ("n",)),
    "image/weight": Spec("|u1", ("n",), required=False),
    "camera/R": Spec("<f4", ("n", 3, 3)),
    "camera/t": Spec("<f4", ("n", 3)),
    "camera/K": Spec("<f4", ("n", 3, 3)),
    "camera/residual_px": Spec("<f4", ("n",)),
    "pose/axis_angle": Spec("<f4", ("n", "J", 3)),
    "pose/betas": Spec("<f4", ("n", "B"), required=False),
    "mask/box": Spec("<i4", ("n", 4)),
    "mask/offset": Spec("<i8", ("n+1",)),
    "mask/words": Spec("<u4", ("total",)),
    "person_mask/box": Spec("<i4", ("n", 4), required=False),
    "person_mask/offset": Spec("<i8", ("n+1",), required=False),
    "person_mask/words": Spec("<u4", ("total_person",), required=False),
    "status": Spec("|u1", ("n",)),
    "vocab/prompt": Spec("S", ("prompts",)),
    "vocab/view": Spec("S", ("views",)),
    "vocab/estimator": Spec("S", ("estimators",)),
    "vocab/status": Spec("S", ("statuses",)),
}
"""The arrays of a shard, apart from the scores score/<name>; see ``spec_of``."""

CODED = {"prompt": "image/prompt", "view": "image/view", "estimator": "image/estimator", "status": "status"}
"""Column -> array of its codes, for columns of text: the codes index the vocabulary vocab/<column>."""

NO_SEED = -1
"""The seed of an image that has none."""


CLASSES_PER_WORD = 16
"""Classes of a mask's blocks in a word of version 2, 2 bits each."""


def class_words(box: NDArray[np.int32]) -> NDArray[np.int64]:
    """Number of words that the classes of masks with these boxes take in version 2: (I, 4) int32 -> (I,) int64."""
    count: NDArray[np.int64] = -(-(words_in_box(box) // WORDS_PER_BLOCK) // CLASSES_PER_WORD)
    return count


def spec_of(name: str, ndim: int) -> Spec | None:
    """The Spec of an array by name, None for an unknown one; ``ndim`` tells scores (n,) from scores (n, k)."""
    if name.startswith("score/"):
        return Spec("<f4", ("n",) if ndim < 2 else ("n", "k"), required=False)
    return DATASETS.get(name)


@dataclass(frozen=True)
class Problem:
    """Something wrong with a store.

    shard    the shard's file name, or "" for the store        dataset  the array, or "" for the whole shard
    what     what was expected and what was found
    """

    shard: str
    dataset: str
    what: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.shard, self.dataset, self.what) if part)


def digest(array: NDArray[Any]) -> str:
    """sha256 in hexadecimal of an array: "<dtype.str> <shape, comma separated>\\n", then its bytes in C order."""
    sha = hashlib.sha256(f"{array.dtype.str} {','.join(map(str, array.shape))}\n".encode("ascii"))
    sha.update(np.ascontiguousarray(array).data)
    return sha.hexdigest()


def shard_digest(header: bytes, digests: Mapping[str, str]) -> str:
    """sha256 in hexadecimal of a shard: its header and a newline, then "<name> <sha256>\\n" of each array by name."""
    sha = hashlib.sha256(header + b"\n")
    for name in sorted(digests):
        sha.update(f"{name} {digests[name]}\n".encode())
    return sha.hexdigest()


def store_digest(shards: Iterable[str]) -> str:
    """A store's identity: sha256 in hexadecimal over its shards' digests, sorted, a newline after each."""
    return hashlib.sha256("".join(f"{d}\n" for d in sorted(shards)).encode("ascii")).hexdigest()


@dataclass(frozen=True)
class Header:
    """What store.json and the header of each shard declare, and must agree on.

    category      the object, as in "surfboard"
    num_joints    joints J of the poses
    body_hash     hash of the body that the cameras were fitted with, or None
    person_masks  whether masks of the person are kept beside those of the object
    """

    category: str
    num_joints: int
    body_hash: str | None
    person_masks: bool

    def fields(self) -> dict[str, Any]:
        """The fields by name, as JSON keeps them."""
        return {
            "category": self.category,
            "num_joints": self.num_joints,
            "body_hash": self.body_hash,
            "person_masks": self.person_masks,
        }

    def difference(self, other: Header) -> str | None:
        """The first field in which ``other`` differs: what was expected and what it has; None where none does."""
        expected, actual = self.fields(), other.fields()
        for name, value in expected.items():
            if actual[name] != value:
                return f"{name}: expected {value!r}, got {actual[name]!r}"
        return None


def header_fields(text: bytes, format_name: str, versions: tuple[int, ...], where: str) -> dict[str, Any]:
    """The fields of a header, JSON of a format in one of ``versions``; errors (StoreError) begin with ``where``."""
    try:
        fields = json_value(text)
    except ValueError as error:  # both bad UTF-8 and bad JSON
        raise StoreError(f"{where}: expected JSON, got {text[:40]!r} ({error})") from None
    if not isinstance(fields, dict) or fields.get("format") != format_name:
        raise StoreError(f"{where}: expected a JSON object with format {format_name!r}, got {text[:60]!r}")
    version = fields.get("version")
    if type(version) is not int or version not in versions:
        raise StoreError(f"{where}: expected version {' or '.join(map(str, versions))}, got {version!r}")
    return fields


def parse_header(text: bytes, format_name: str, where: str) -> tuple[Header, dict[str, Any]]:
    """The Header in a store.json or a shard's header, and all fields of the JSON; errors (StoreError) begin with ``where``."""
    fields = header_fields(text, format_name, READABLE_VERSIONS, where)
    category, joints, body = fields.get("category"), fields.get("num_joints"), fields.get("body_hash")
    person, made_with = fields.get("person_masks"), fields.get("provenance")
    for name, value, fits, wanted in (
        ("category", category, isinstance(category, str) and category != "", "a word"),
        ("num_joints", joints, type(joints) is int and joints > 0, "a positive integer"),
        ("body_hash", body, body is None or isinstance(body, str), "a string or null"),
        ("person_masks", person, isinstance(person, bool), "true or false"),
        ("provenance", made_with, made_with is None or isinstance(made_with, dict), "an object"),
    ):
        if not fits:
            raise StoreError(f"{where}: {name}: expected {wanted}, got {value!r}")
    return Header(str(category), int(fields["num_joints"]), body, bool(person)), fields


def read_store_json(root: Place) -> tuple[Header, dict[str, Any]]:
    """``store.json`` of the store at ``root``; StoreError where it is missing, broken or of another version."""
    if isinstance(root, StoreUrl):
        try:
            return parse_header((root / STORE_JSON).read_bytes(), STORE_FORMAT, str(root / STORE_JSON))
        except FileNotFoundError:
            raise StoreError(f"path: expected a store (with {STORE_JSON}), got {str(root)!r}, where there is none") from None
    path = root / STORE_JSON
    if not root.is_dir():
        raise StoreError(f"path: expected a store (a folder with {STORE_JSON}), got {str(root)!r}, which is no folder")
    if not is_plain(path, stat.S_ISREG):
        raise StoreError(f"path: expected a store, got {str(root)!r} without a regular file {STORE_JSON}")
    return parse_header(path.read_bytes(), STORE_FORMAT, str(path))


def is_plain(path: Path, kind: Any) -> bool:
    """Whether ``path``, without following links, is of a ``kind`` (stat.S_ISREG, stat.S_ISDIR)."""
    try:
        return bool(kind(path.lstat().st_mode))
    except FileNotFoundError:
        return False
