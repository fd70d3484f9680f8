"""Occupancy files: HDF5, one file an occupancy.

Version 3, which is written, has which images were counted (``chorus.votes.counted``); version 2 had what version 1 had, and
where the occupancy has them: the field's canonicalization with its joint map, and the counts of hidden votes. All are read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from chorus import hdf5
from chorus.camera.views import Scheme
from chorus.errors import InputError, check_path
from chorus.field import FieldParameters
from chorus.files import check_output_file, json_value, write_atomically
from chorus.votes.counted import Counted

if TYPE_CHECKING:
    from chorus.occupancy.counts import Occupancy

FORMAT = "chorus-occupancy"
VERSION = 3
READABLE = (1, 2, 3)
"""Versions of the file. 2: canonicalizations beyond lbs and none, joint maps and counts of hidden votes. 3: the set of
images counted."""
COUNTS = ("num_counts", "den_counts", "num_hidden", "den_hidden")


def save_occupancy(occupancy: Occupancy, path: str | os.PathLike[str]) -> None:
    """``Occupancy.save``: a compressed HDF5 file, complete or not at all. InputError for a name that does not end in .h5."""
    path = check_path("path", path)
    facts = {
        "scheme": occupancy.scheme.name,
        "weighting": occupancy.weighting,
        "body_hash": occupancy.body_hash,
        "category": occupancy.category,
        "parameters": occupancy.parameters.to_json(),
        "provenance": occupancy.provenance,
        "hidden_weight": occupancy.hidden_weight,
        "hidden_rule": occupancy.hidden_rule,
    }
    counts = [name for name in COUNTS if getattr(occupancy, name) is not None]

    def fill(file: h5py.File) -> None:
        file.attrs["format"], file.attrs["version"] = FORMAT, VERSION
        file.attrs["facts"] = json.dumps(facts)
        for name in counts:
            file.create_dataset(name, data=getattr(occupancy, name), compression="gzip", compression_opts=1, shuffle=True)
        for name in ("group_totals", "group_images", "sketch"):
            file[name] = getattr(occupancy, name)
        if occupancy.parameters.joint_map is not None:
            file.create_dataset("joint_map", data=occupancy.parameters.joint_map.joints, compression="gzip")

        if occupancy.counted is not None:
            for name, array in occupancy.counted.to_arrays().items():
                how = (
                    {}
                    if array.shape == () or not len(array)
                    else {"compression": "gzip", "compression_opts": 1, "shuffle": True}
                )
                file.create_dataset(f"counted/{name}", data=array, **how)

    check_output_file("path", path, (".h5", ".hdf5"))
    content = hdf5.image(fill, libver=("v108", "v108"))  # whose metadata have checksums
    write_atomically(path, lambda part: part.write_bytes(content))


@contextmanager
def reading_occupancy(path: str | os.PathLike[str]) -> Iterator[dict[str, Any]]:
    """The arguments of ``Occupancy`` that a file has.

    Raises InputError where the file is missing, damaged or of another kind, also for what the block raises from its content.
    """
    path = check_path("path", path)
    with hdf5.reading(path, "an occupancy file, as `chorus aggregate` writes it", InputError) as file:
        found = hdf5.attribute(file, "format"), hdf5.attribute(file, "version")
        if found[0] != FORMAT or found[1] not in READABLE:
            what = "another HDF5 file" if found[0] is None else f"{found[0]} version {found[1]}"
            raise InputError(f"{path}: expected {FORMAT} version {' or '.join(map(str, READABLE))}, got {what}")
        facts = _facts(hdf5.attribute(file, "facts"))
        arrays = {k: hdf5.array(file, k) for k in ("num_counts", "den_counts", "group_totals", "group_images", "sketch")}
        arrays.update({k: hdf5.array(file, k) for k in ("num_hidden", "den_hidden") if k in file})
        if arrays["sketch"].dtype != np.uint64 or arrays["sketch"].ndim != 1:
            raise ValueError("sketch: expected hashes of uint64")
        joints = hdf5.array(file, "joint_map") if "joint_map" in file else None
        known = {name: hdf5.array(file, f"counted/{name}") for name in file["counted"]} if "counted" in file else None
        yield dict(
            **arrays,
            counted=None if known is None else Counted.from_arrays(known),
            scheme=Scheme(facts["scheme"]),
            weighting=facts["weighting"],
            parameters=FieldParameters.from_json(facts["parameters"], joints),
            body_hash=facts["body_hash"],
            category=facts["category"],
            provenance=facts["provenance"],
            hidden_weight=facts.get("hidden_weight", 1.0),
            hidden_rule=facts.get("hidden_rule", ""),
        )


def _facts(text: Any) -> dict[str, Any]:
    """What the file says of the occupancy, by name; ValueError for values of other types."""
    facts = json_value(text)
    if not isinstance(facts, dict):
        raise ValueError("facts: expected a JSON object")
    for name, kind in (("body_hash", str), ("category", str), ("provenance", list), ("hidden_rule", str)):
        if not isinstance(facts.get(name, kind()), kind):
            raise ValueError(f"facts: {name}: expected a {kind.__name__}, got {facts[name]!r:.60}")
    if not all(isinstance(entry, dict) for entry in facts["provenance"]):
        raise ValueError("facts: provenance: expected a list of objects")
    return facts
