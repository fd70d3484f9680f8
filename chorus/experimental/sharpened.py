"""What an experimental estimator gives: a probability around the canonical person without the counts of an ``Occupancy``."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from chorus import hdf5
from chorus.errors import InputError, check_array, check_path
from chorus.field import FieldParameters
from chorus.files import check_output_file, json_value, write_atomically
from chorus.occupancy.counts import load_occupancy
from chorus.occupancy.distribution import Distribution

FORMAT = "chorus-sharpened"
VERSION = 1
_FACTS: dict[str, Any] = {
    "body_hash": str,
    "category": str,
    "weighting": str,
    "hidden_weight": (int, float),
    "num_images": int,
    "steps": int,
    "provenance": list,
}
"""What a file says beside the probability, and of which types."""


@dataclass(frozen=True, eq=False)
class Sharpened(Distribution):
    """A probability of the object around the canonical person, made from an occupancy by noisy-OR EM.

    It is posed, meshed and scored as an ``Occupancy`` is. It has no counts: it cannot be added to another, weighed anew, or
    given error bars; merge occupancies first.

    probability   (N, N, N) float32 in 0 .. 1, indexed [ix, iy, iz]; 0 outside the candidates
    parameters    of the field                     body_hash  of the body
    category      of the object                    weighting, hidden_weight, num_images  of the occupancy that it was made from
    steps         of EM                            provenance one entry; "occupancy" in it is the occupancy's

    Raises InputError for a probability of another shape, or outside 0 .. 1.
    """

    probability: NDArray[np.float32]
    parameters: FieldParameters
    body_hash: str
    category: str = ""
    weighting: str = "azimuth"
    hidden_weight: float = 1.0
    num_images: int = 0
    steps: int = 0
    provenance: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        N = self.parameters.resolution
        phi = check_array("probability", self.probability, (N, N, N), np.float32)
        if phi.min(initial=0.0) < 0 or phi.max(initial=0.0) > 1:
            raise InputError(f"probability: expected numbers 0 .. 1, got {phi.min():g} .. {phi.max():g}")

    def __repr__(self) -> str:
        p = self.parameters
        return (
            f"Sharpened({self.category!r}, {self.num_images:,} images, {self.steps} steps, {p.resolution}^3 voxels in "
            f"{p.extent:g} m, probability at most {self.probability.max():.3f})"
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a compressed HDF5 file, complete or not at all. InputError for a name that does not end in .h5."""
        path = check_path("path", path)
        facts = {name: getattr(self, name) for name in _FACTS} | {"parameters": self.parameters.to_json()}
        joint_map = self.parameters.joint_map

        def fill(file: h5py.File) -> None:
            file.attrs["format"], file.attrs["version"] = FORMAT, VERSION
            file.attrs["facts"] = json.dumps(facts)
            file.create_dataset("probability", data=self.probability, compression="gzip", compression_opts=1, shuffle=True)
            if joint_map is not None:
                file.create_dataset("joint_map", data=joint_map.joints, compression="gzip")

        check_output_file("path", path, (".h5", ".hdf5"))
        content = hdf5.image(fill, libver=("v108", "v108"))  # whose metadata have checksums
        write_atomically(path, lambda part: part.write_bytes(content))


def load_sharpened(path: str | os.PathLike[str]) -> Sharpened:
    """Read what ``Sharpened.save`` wrote. Raises InputError where the file is missing, damaged or of another kind."""
    path = check_path("path", path)
    with hdf5.reading(path, "a file of `chorus experimental em`", InputError) as file:
        found = hdf5.attribute(file, "format"), hdf5.attribute(file, "version")
        if found != (FORMAT, VERSION):
            what = "another HDF5 file" if found[0] is None else f"{found[0]} version {found[1]}"
            raise InputError(f"{path}: expected {FORMAT} version {VERSION}, got {what}")
        facts = json_value(hdf5.attribute(file, "facts"))
        joints = hdf5.array(file, "joint_map") if "joint_map" in file else None
        parameters = FieldParameters.from_json(facts["parameters"], joints)
        for name, kind in _FACTS.items():
            if not isinstance(facts[name], kind):
                raise ValueError(f"{name}: expected another type, got {facts[name]!r:.60}")
        return Sharpened(hdf5.array(file, "probability"), parameters, **{name: facts[name] for name in _FACTS})


def load_distribution(path: str | os.PathLike[str]) -> Distribution:
    """An ``Occupancy`` or a ``Sharpened``, whichever a file has. Raises InputError as ``load_occupancy`` does."""
    path = check_path("path", path)
    with hdf5.reading(path, "an occupancy file, as `chorus aggregate` writes it", InputError) as file:
        sharpened = hdf5.attribute(file, "format") == FORMAT
    return load_sharpened(path) if sharpened else load_occupancy(path)
