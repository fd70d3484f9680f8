"""A store as COCO's annotations of its masks and a .npz of its poses and cameras, which ``chorus ingest coco`` reads back."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from chorus.errors import InputError
from chorus.files import write_atomically
from chorus.ingest.coco_masks import encode_run_lengths
from chorus.store.reader import Store

ANNOTATIONS, POSES = "annotations.json", "poses.npz"
"""The files in the folder."""
PERSON = "person"
_AT_ONCE = 1024
_PLACES = {"object": 1, PERSON: 2}  # ids of the categories


@dataclass(frozen=True)
class CocoExport:
    """What was written.

    images    images, each with a person in the file of poses
    objects, people  annotations of objects and of people
    empty     images without a pixel of the object, which have no annotation
    left_out  rows of the store without a mask, a pose and a camera, or not asked for
    """

    images: int
    objects: int
    people: int
    empty: int
    left_out: int


def export_coco(
    store: Store,
    folder: str | os.PathLike[str],
    *,
    prompt: str | list[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> CocoExport:
    """Write a store's complete images into a folder: ANNOTATIONS, as COCO's instances, and POSES, as docs/imports.md has them.

    prompt  only images of these prompts; None: of any

    An image's ``file_name`` is its key. Masks are compressed run lengths; numbers are those of the store, bit for bit, so that
    reading them back gives the same masks, poses and cameras. Each file is complete or not there. Raises InputError for a store
    without such images, and for one of the category "person" that keeps masks of people.
    """
    if store.category == PERSON and store.has_person_masks:
        raise InputError(f"store: expected another category than {PERSON!r} where masks of people are kept")
    rows = store.select(prompt=prompt)
    if not len(rows):
        raise InputError("store: expected complete images, got none")
    root, counts = Path(folder), {"objects": 0, "people": 0, "empty": 0}
    write_atomically(root / ANNOTATIONS, lambda part: _write_annotations(part, store, rows, counts, progress))
    columns = {name: store.rows[name][rows] for name in ("pose", "R", "t", "K")}
    keys = np.array(_keys(store, rows))
    columns |= {"keys": keys, "image_size": store.rows["size"][rows], "prompt": store.rows["prompt"][rows]}
    columns["estimator"] = store.rows["estimator"][rows]
    if "betas" in store.rows:
        columns["betas"] = store.rows["betas"][rows]
    write_atomically(root / POSES, lambda part: _write_npz(part, columns))
    return CocoExport(len(rows), counts["objects"], counts["people"], counts["empty"], len(store) - len(rows))


def _keys(store: Store, rows: NDArray[np.int64]) -> list[str]:
    keys = [key.decode("utf-8", "replace") for key in store.rows["key"][rows].tolist()]
    if len(set(keys)) != len(keys):
        raise InputError("keys: expected texts in UTF-8, got bytes that are none")
    return keys


def _write_npz(path: Path, arrays: dict[str, Any]) -> None:
    with path.open("wb") as file:  # of a name, numpy changes the ending
        np.savez_compressed(file, allow_pickle=False, **arrays)


def _write_annotations(
    path: Path,
    store: Store,
    rows: NDArray[np.int64],
    counts: dict[str, int],
    progress: Callable[[int, int], None] | None,
) -> None:
    """Image by image, so that a store of any size goes through."""
    categories = [{"id": _PLACES["object"], "name": store.category}]
    if store.has_person_masks:
        categories.append({"id": _PLACES[PERSON], "name": PERSON})
    with path.open("w", encoding="utf-8") as file:
        about = {"description": f"masks of the store {store.path.name}", "store": store.id}
        file.write(f'{{"info": {json.dumps(about)},\n"categories": {json.dumps(categories)},\n"images": [\n')
        sizes = store.rows["size"][rows].tolist()
        images = (
            {"id": number, "file_name": key, "width": width, "height": height}
            for number, (key, (height, width)) in enumerate(zip(_keys(store, rows), sizes, strict=True), 1)
        )
        _write_list(file, images)
        file.write('],\n"annotations": [\n')
        _write_list(file, _annotations(store, rows, counts, progress))
        file.write("]}\n")


def _write_list(file: TextIO, values: Iterator[dict[str, Any]]) -> None:
    for number, value in enumerate(values):
        file.write((",\n" if number else "") + json.dumps(value, ensure_ascii=False))


def _annotations(
    store: Store, rows: NDArray[np.int64], counts: dict[str, int], progress: Callable[[int, int], None] | None
) -> Iterator[dict[str, Any]]:
    counts.update(dict.fromkeys(counts, 0))
    number = 0
    for first in range(0, len(rows), _AT_ONCE):
        chosen = rows[first : first + _AT_ONCE]
        masks = store.batch(chosen).masks
        people = store.person_masks(chosen) if store.has_person_masks else None
        for row in range(len(chosen)):
            mask = masks.unpack(row)
            counts["empty"] += not mask.any()
            for what, category, pixels in (
                ("objects", "object", mask),
                ("people", PERSON, None if people is None else people.unpack(row)),
            ):
                if pixels is not None and pixels.any():
                    number += 1
                    counts[what] += 1
                    yield _annotation(number, first + row + 1, _PLACES[category], pixels)
        if progress is not None:
            progress(first + len(chosen), len(rows))


def _annotation(number: int, image: int, category: int, mask: NDArray[np.bool_]) -> dict[str, Any]:
    down, across = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    x, y = int(across[0]), int(down[0])
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "iscrowd": 0,
        "area": int(mask.sum()),
        "bbox": [x, y, int(across[-1]) + 1 - x, int(down[-1]) + 1 - y],
        "segmentation": {"size": list(mask.shape), "counts": encode_run_lengths(mask)},
    }
