"""Verification of shards and stores: structure, digests, values, and the bits of masks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from chorus.camera.cameras import Cameras
from chorus.camera.views import key_hash
from chorus.errors import InputError, StoreError
from chorus.kernels.masks import BLOCK, WORDS_PER_BLOCK, PackedMasks, words_in_box
from chorus.store.picture_checks import picture_problems
from chorus.store.schema import (
    CODED,
    COMPLETE,
    DATASETS,
    Header,
    Problem,
    class_words,
    digest,
    spec_of,
)
from chorus.store.shard import Shard
from chorus.store.urls import Place

MASK_WORDS = ("mask/words", "person_mask/words")
"""The arrays of a shard that are large, and read only by who wants masks."""
_BLOCKS_AT_ONCE = 1 << 15  # 1 MiB of mask words, and about ten times that for temporary arrays


def problems_of(
    root: Place,
    header: Header,
    files: Mapping[str, Callable[[], Shard]],
    beside: Mapping[str, Place | None],
    share: Collection[str] | None = None,
) -> list[Problem]:
    """What is wrong with a store's shards and pictures.

    files   name of each shard -> reads it      beside  name of each shard -> where its pictures are, of a store at a URL
    share   the shards whose bytes are read; if the first is among them, also what concerns several shards (keys, shapes of
            columns) and the pictures are looked at. None: all
    """
    problems: list[Problem] = []
    intact: list[Shard] = []
    mine = files.keys() if share is None else share
    first = share is None or next(iter(files), None) in share
    for name, read in files.items():
        if name not in mine and not first:
            continue
        try:
            shard = read()
            if name not in mine:
                intact.append(shard)
                continue
            found = list(structure_problems(shard, header))
            if not found:
                found += content_problems(shard)
                found += [problem for group in mask_groups(shard) for problem in bit_problems(shard, group)]
                intact.append(shard)
            else:  # digests tell whether the file was damaged or written like this
                found += digest_problems(shard)
        except StoreError as error:
            problems += [Problem(name, "", str(error))] if name in mine else []
            continue
        problems += found
    if not first:
        return problems
    problems += ragged_columns(intact)
    problems += duplicate_keys(intact)
    problems += picture_problems(root, beside, {shard.path.name: shard for shard in intact})
    return problems


def mask_groups(shard: Shard) -> tuple[str, ...]:
    """The groups of arrays that hold masks: "mask", and "person_mask" in a store with masks of the person."""
    return ("mask", "person_mask") if shard.header.person_masks else ("mask",)


def structure_problems(shard: Shard, header: Header) -> Iterator[Problem]:
    """Problems of a shard's structure, the first of each kind: a header other than its store's, arrays missing or of
    another type or shape, offsets that do not increase with the boxes, boxes outside their images, unknown codes,
    complete images without a camera. Reads the small arrays only, not the mask words."""
    name = shard.path.name
    difference = header.difference(shard.header)
    if difference:
        yield Problem(name, "", f"header other than the store's: {difference}")
        return
    shapes_fit = True
    for what in _shape_problems(shard):
        shapes_fit = False
        yield what
    if not shapes_fit:
        return
    for column, array in CODED.items():
        codes, last = shard.array(array), len(shard.array(f"vocab/{column}")) - 1
        bad = np.flatnonzero((codes < 0) | (codes > last))
        if bad.size:
            yield Problem(name, array, f"expected codes from 0 to {last}, got {codes[bad[0]]} in row {bad[0]}")
        try:
            shard.vocabulary(column)
        except UnicodeDecodeError as error:
            yield Problem(name, f"vocab/{column}", f"expected UTF-8 ({error})")
    statuses = shard.array("vocab/status")
    if statuses[:1].tolist() != [COMPLETE.encode()]:
        yield Problem(name, "vocab/status", f"expected {COMPLETE!r} first, got {statuses[:1].tolist()}")
    keys = shard.array("image/key")
    if (keys == b"").any():
        yield Problem(name, "image/key", f"expected names, got an empty one in row {np.flatnonzero(keys == b'')[0]}")
    has_camera = shard.has_camera()
    bad = np.flatnonzero(~has_camera & (shard.array("status") == 0))
    if bad.size:
        yield Problem(name, "camera/R", f"expected a camera of the complete image {keys[bad[0]]!r}, got NaN")
    size = shard.array("image/size")
    bad = np.flatnonzero((size < has_camera[:, None]).any(1))  # 0 x 0 means unknown, for images without a camera
    if bad.size:
        yield Problem(name, "image/size", f"expected a positive height and width, got {size[bad[0]]} in row {bad[0]}")
    for group in mask_groups(shard):
        yield from _box_problems(shard, group, size, has_camera)


def _shape_problems(shard: Shard) -> Iterator[Problem]:
    name, n = shard.path.name, len(shard)
    lengths: dict[int | str, int] = {"n": n, "n+1": n + 1, "J": shard.header.num_joints}
    for dataset, spec in DATASETS.items():
        group = dataset.partition("/")[0]
        required = spec.required or (group == "person_mask" and shard.header.person_masks)
        if required and dataset not in shard.arrays:
            yield Problem(name, dataset, "expected in every shard, but missing")
    for dataset, have in shard.arrays.items():
        wanted = spec_of(dataset, len(have.shape))
        if wanted is None:
            continue  # an array that the format does not define; its digest is still checked
        if have.dtype.kind != "S" if wanted.dtype == "S" else have.dtype != np.dtype(wanted.dtype):
            yield Problem(name, dataset, f"expected dtype {wanted.dtype}, got {have.dtype.str}")
        shape = tuple(lengths.get(length, length) for length in wanted.shape)
        if len(shape) != len(have.shape) or any(
            want != got for want, got in zip(shape, have.shape, strict=True) if isinstance(want, int)
        ):
            shown = "(" + ", ".join(map(str, shape)) + ")"
            yield Problem(name, dataset, f"expected shape {shown}, got {have.shape}")


def _box_problems(shard: Shard, group: str, size: NDArray[np.int32], has_camera: NDArray[np.bool_]) -> Iterator[Problem]:
    name, box, offset = shard.path.name, shard.array(f"{group}/box"), shard.array(f"{group}/offset")
    total = shard.arrays[f"{group}/words"].shape[0]
    inside = (box[:, :2] >= 0).all(1) & (box[:, 2:] > box[:, :2]).all(1)
    inside &= (box[:, 2] <= size[:, 1]) & (box[:, 3] <= size[:, 0]) & has_camera
    bad = np.flatnonzero(~(inside | (box == 0).all(1)))
    if bad.size:
        row = bad[0]
        yield Problem(
            name,
            f"{group}/box",
            "expected 0 <= x0 < x1 <= W and 0 <= y0 < y1 <= H, or all zeros (always without a camera); "
            f"got {box[row].tolist()} for height, width {size[row].tolist()} in row {row}",
        )
        return
    counts = words_in_box(box)
    least = counts if shard.version == 1 else class_words(box)
    more = np.diff(offset) - least
    fits = more == 0 if shard.version == 1 else (more >= 0) & (more <= counts) & (more % WORDS_PER_BLOCK == 0)
    bad = np.flatnonzero(~fits | (offset[1:] < offset[:-1]))  # the latter where differences of hostile offsets wrap
    if bad.size:
        row = bad[0]
        by = (
            f"by {least[row]}"
            if shard.version == 1
            else f"by {least[row]} and 0 to {counts[row]} more, {WORDS_PER_BLOCK} a block"
        )
        yield Problem(
            name,
            f"{group}/offset",
            f"expected offsets that increase by the words in each box: from {offset[row]} {by}, "
            f"got {offset[row + 1]} after row {row}",
        )
    elif offset[0] != 0 or offset[-1] != total:
        yield Problem(name, f"{group}/offset", f"expected 0 to {total}, the number of words, got {offset[0]} to {offset[-1]}")


def digest_problems(shard: Shard, names: Iterable[str] | None = None) -> Iterator[Problem]:
    """Arrays of a shard, all or those of these names, whose bytes do not have the recorded digest. Reads all of them."""
    for dataset in shard.arrays if names is None else names:
        recorded = shard.arrays[dataset]
        actual = digest(shard.array(dataset))
        if actual != recorded.sha256:
            yield Problem(shard.path.name, dataset, f"damaged: expected sha256 {recorded.sha256}, got {actual}")


def content_problems(shard: Shard, *, masks: bool = True) -> Iterator[Problem]:
    """Damaged arrays; in a shard without damage, invalid cameras and poses, and masks whose words do not fit their classes.

    masks  whether the words of the masks are read, too
    """
    damaged = list(digest_problems(shard, [name for name in shard.arrays if masks or name not in MASK_WORDS]))
    yield from damaged
    if damaged:
        return
    rows = np.flatnonzero(shard.has_camera())
    camera = {name: shard.array(f"camera/{name}")[rows] for name in ("R", "t", "K")}
    try:
        Cameras(camera["R"], camera["t"], camera["K"], shard.array("image/size")[rows])
    except InputError as error:
        yield Problem(shard.path.name, "camera", f"{error} (of the rows with a camera)")
    poses = shard.array("pose/axis_angle")[rows]
    bad = np.flatnonzero(~np.isfinite(poses).all((1, 2)) | poses[:, 0].any(1))
    if bad.size:
        what = "expected finite numbers and a zero global orientation (joint 0)"
        yield Problem(shard.path.name, "pose/axis_angle", f"{what}, not so in row {rows[bad[0]]}")
    if masks and shard.version > 1:
        for group in mask_groups(shard):
            yield from _sparse_problems(shard, group, deep=False)


def duplicate_keys(shards: Sequence[Shard]) -> Iterator[Problem]:
    """The first key of each shard that is also in an earlier row of the store: an image that would vote twice."""
    if not shards:
        return
    # Hashes are sorted in a tenth of the time and memory that names take; where none is there twice, no name is.
    ends = np.cumsum([len(shard) for shard in shards])
    hashes = np.empty(ends[-1], np.uint64)
    for shard, end in zip(shards, ends, strict=True):
        hashes[end - len(shard) : end] = key_hash(shard.array("image/key"))
    hashes.sort()
    if not (hashes[1:] == hashes[:-1]).any():
        return
    keys = np.concatenate([shard.array("image/key") for shard in shards])
    order = np.argsort(keys, kind="stable")
    again = order[1:][keys[order[1:]] == keys[order[:-1]]]
    again = np.sort(again)
    holders, first = np.unique(np.searchsorted(ends, again, "right"), return_index=True)
    for holder, row in zip(holders, again[first], strict=True):
        yield Problem(shards[holder].path.name, "image/key", f"expected each key once in a store, got {keys[row]!r} again")


def ragged_columns(shards: Sequence[Shard]) -> Iterator[Problem]:
    """Betas or scores that have another number of columns than in an earlier shard."""
    expected: dict[str, tuple[int, ...]] = {}
    for shard in shards:
        for name, trailing in shard.trailing_shapes().items():
            if expected.setdefault(name, trailing) != trailing:
                what = f"expected shape {('n', *expected[name])} as in earlier shards, got {('n', *trailing)}"
                yield Problem(shard.path.name, name, what)


def bit_problems(shard: Shard, group: str) -> Iterator[Problem]:
    """The first mask with bits outside its box and the first with a box larger than necessary; of version 2, the first with
    any problem of each kind. Reads all mask words."""
    if shard.version > 1:
        yield from _sparse_problems(shard, group, deep=True)
        return
    stray, loose = loose_masks(shard.masks(np.arange(len(shard)), group))
    for rows, dataset, what in (
        (stray, f"{group}/words", "expected no pixel outside the mask's box, got some"),
        (loose, f"{group}/box", "expected a pixel in each outermost row and column of the box, got none"),
    ):
        if rows.size:
            yield Problem(shard.path.name, dataset, f"{what} in row {rows[0]} ({rows.size} rows)")


def _sparse_problems(shard: Shard, group: str, *, deep: bool) -> Iterator[Problem]:
    """The first mask with each problem that ``sparse.problems`` finds: ``OF_FORM``, or, ``deep``, ``OF_PIXELS``."""
    from chorus.store import sparse

    offset = shard.array(f"{group}/offset")
    words = shard.array(f"{group}/words")
    found = sparse.problems(shard.array(f"{group}/box"), offset[:-1], offset[1:], words, deep=deep)
    for code in sparse.OF_PIXELS if deep else sparse.OF_FORM:
        rows = np.flatnonzero(found[:, 0] == code)
        if rows.size == 0:
            continue
        what = sparse.problem_text(*found[rows[0]].tolist())
        dataset = f"{group}/{'box' if code == sparse.LOOSE else 'words'}"
        yield Problem(shard.path.name, dataset, f"{what}, in row {rows[0]} ({rows.size} rows)")


def loose_masks(masks: PackedMasks) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows of masks with bits set outside their box, and rows whose box is not exact. Boxes must lie inside their images."""
    blocks = words_in_box(masks.box) // WORDS_PER_BLOCK
    ends = np.cumsum(blocks)
    stray: list[NDArray[np.intp]] = [np.zeros(0, np.intp)]
    loose: list[NDArray[np.intp]] = [np.zeros(0, np.intp)]
    first = 0
    while first < len(masks):
        before = int(ends[first - 1]) if first else 0
        last = max(first + 1, int(np.searchsorted(ends, before + _BLOCKS_AT_ONCE, "right")))
        outside, inexact = _stray_and_loose(masks[first:last], blocks[first:last])
        stray.append(outside + first)
        loose.append(inexact + first)
        first = last
    return np.concatenate(stray), np.concatenate(loose)


def _stray_and_loose(masks: PackedMasks, blocks: NDArray[np.int64]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    n = len(masks)
    mask = np.repeat(np.arange(n), blocks)  # the mask of each block
    within = np.arange(len(mask)) - np.repeat(np.cumsum(blocks) - blocks, blocks)
    x0, y0, x1, y1 = masks.box.T.astype(np.int64)
    across = -(-x1 // BLOCK) - x0 // BLOCK
    column, row = x0[mask] // BLOCK + within % across[mask], y0[mask] // BLOCK + within // across[mask]
    words = masks.words[(masks.start[mask] + within * WORDS_PER_BLOCK)[:, None] + np.arange(WORDS_PER_BLOCK)]
    lines = words.astype("<u4", copy=False).view("<u2")  # one 16-bit number per row of a block
    bits_of = {
        "x": np.bitwise_or.reduce(lines, axis=1).astype(np.int64),
        "y": np.packbits(lines != 0, axis=1, bitorder="little").view("<u2")[:, 0].astype(np.int64),
    }
    stray = np.zeros(n, np.bool_)
    tight = np.ones(n, np.bool_)
    for bits, cell, low, high in ((bits_of["x"], column, x0, x1), (bits_of["y"], row, y0, y1)):
        start = np.clip(low[mask] - BLOCK * cell, 0, BLOCK)
        stop = np.clip(high[mask] - BLOCK * cell, 0, BLOCK)
        allowed = (1 << stop) - (1 << start)
        stray[mask[(bits & ~allowed) != 0]] = True
        for edge in (low, high - 1):
            touched = np.zeros(n, np.bool_)
            touched[mask[(cell == edge[mask] // BLOCK) & (bits >> (edge[mask] % BLOCK) & 1 != 0)]] = True
            tight &= touched
    return np.flatnonzero(stray), np.flatnonzero(~tight & (blocks > 0))


def raise_first(problems: Iterable[Problem], root: Place) -> None:
    """Raise the first problem as a StoreError, if there is one."""
    for problem in problems:
        raise StoreError(f"{root}: {problem}")
