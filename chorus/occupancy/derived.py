"""Fields made from others: by the name of a canonicalization, chosen from images, or with a joint map made from images."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from chorus.camera.views import Scheme
from chorus.canonicalization import ANCHORED, AUTO, LBS, NONE, PER_VOXEL, check_name
from chorus.errors import InputError
from chorus.field import PAPER_SPACING, CanonicalField
from chorus.images import ImageBatch, vote_images
from chorus.kernels.backends import choose_backend
from chorus.occupancy.choice import TooFewImages, choose_canonicalization
from chorus.votes.sample import sample_images
from chorus.votes.selection import Source

MAP_IMAGES = 2000
"""Images that a joint map is made from, at most."""
WINDOW = 5 * PAPER_SPACING
"""Metres along the edge of the cube over which phi is averaged before joints are compared, to an odd number of voxels, at
least 3."""


def derived_field(
    images_or_store: Source, field: CanonicalField, canonicalization: str | None, **selection: Any
) -> tuple[CanonicalField, dict[str, Any]]:
    """The field that ``aggregate`` casts votes through, and what its provenance says of the choice; {} where none was asked
    for.

    canonicalization  a name, "auto", or None for ``field`` itself          selection  as for ``SelectedImages``

    From too few images for a choice ``lbs`` is taken, and a warning says so. Raises InputError for an unknown name, and as
    ``choose_canonicalization`` and ``per_voxel_field`` do.
    """
    if canonicalization is None:
        return field, {}
    name = check_name(canonicalization, also=(AUTO,))
    record: dict[str, Any] = {"asked": name}
    if name == AUTO:
        try:
            choice = choose_canonicalization(images_or_store, field, **selection)
            name, record = choice.chosen, {"asked": AUTO, **choice.to_json()}
        except TooFewImages as error:
            warnings.warn(f"{error}; {LBS} is taken", stacklevel=3)
            name, record = LBS, {"asked": AUTO, "chosen": LBS, "why": str(error)}
    if name == PER_VOXEL and field.canonicalization != PER_VOXEL:
        field = per_voxel_field(images_or_store, field, **selection)
    elif name != PER_VOXEL:
        field = field.with_canonicalization(name)
    return field, {"canonicalization": {"name": field.canonicalization, **record}}


def per_voxel_field(
    images_or_store: Source, field: CanonicalField, *, sample: int = MAP_IMAGES, backend: str = "auto", **selection: Any
) -> CanonicalField:
    """The ``per-voxel`` field of images on the grid of ``field``: a voxel is rigid with the joint under which phi is largest
    there.

    a(v) = argmax over joints a of the mean of phi_a over a cube of WINDOW metres around v (those voxels in the grid), phi_a
    being phi under ``joint:a`` with view weights by azimuth; of equals the joint that comes first, so the pelvis where no
    image saw anything.

    images_or_store  an ImageBatch, a list of them, a Store, or the path of one; not an iterator
    sample           images used, at most: those of the smallest key hashes
    selection        prompt, part, parts, epsilon, folds, where, filter, as for ``aggregate``

    Raises InputError for a selection without images, and as ``aggregate`` does.
    """
    if isinstance(sample, bool) or not isinstance(sample, (int, np.integer)) or sample < 1:
        raise InputError(f"sample: expected a positive number of images, got {sample!r}")
    images = sample_images(images_or_store, field, int(sample), backend=backend, **selection)
    N, names = field.resolution, field.body.joint_names
    window = 1 + 2 * max(1, round((WINDOW / field.parameters.spacing - 1) / 2))
    seen = uniform_filter(np.ones((N, N, N)), window, mode="constant")
    best, joints = np.full((N, N, N), -1.0), np.zeros((N, N, N), np.int16)
    for joint, name in enumerate(names):
        anchored = field.with_canonicalization(ANCHORED + name if joint else NONE)
        mean = uniform_filter(_phi(images, anchored, backend), window, mode="constant") / seen
        better = mean > best + 1e-12  # what running sums round must not decide between equals
        best[better], joints[better] = mean[better], joint
    return field.with_canonicalization(PER_VOXEL, joints)


def _phi(images: ImageBatch, field: CanonicalField, backend: str) -> NDArray[np.float64]:
    """phi of the images, (N, N, N) float64, view weights by azimuth."""
    scheme, N = Scheme("azimuth"), field.resolution
    group = scheme.groups(images.cameras, images.keys)
    weight = None if images.weights is None else torch.from_numpy(np.ascontiguousarray(images.weights))
    counts = choose_backend(backend).count_votes(
        field.arrays, vote_images(images), torch.from_numpy(group), weight, num_groups=scheme.num_groups
    )
    r = scheme.weights("azimuth", np.bincount(group, images.weights, minlength=scheme.num_groups).astype(np.int64))
    num, den = (np.einsum("g,gv->v", r, c.cpu().numpy()) for c in counts)
    phi: NDArray[np.float64] = np.divide(num, den, out=np.zeros(len(num)), where=den > 0).reshape(N, N, N)
    return phi
