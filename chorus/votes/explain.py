"""The images behind a voxel: which voted for the object there, which against, and how many did not see it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from chorus.camera.views import Scheme, azimuth
from chorus.errors import InputError, check_array, check_kind
from chorus.field import CanonicalField
from chorus.images import ImageBatch, vote_images
from chorus.kernels.arrays import VoxelField
from chorus.kernels.backends import choose_backend
from chorus.render.body_depth import body_depth
from chorus.store.filters import Filtered
from chorus.votes.hidden import check_backend, checked_weight
from chorus.votes.selection import SelectedImages, Source


@dataclass(frozen=True, eq=False)
class Explanation:
    """How images voted on one voxel.

    voxel     (ix, iy, iz)        centre  (3,) float64 metres in the rest pose's person frame
    on_mask   (a,) bytes          keys of the images where the voxel projects onto the object's mask, in the source's order
    off_mask  (b,) bytes          keys of the images where it projects into the image, but off the mask
    unseen    number of images where it projects outside the image or lies behind the camera
    hidden    (c,) bytes          keys of those, on the mask or off it, in which the body hides the voxel; empty where not asked
    hidden_weight  what these weigh
    filtered  what the filter kept; None without a filter. Only ``phi`` heeds the weights of a soft filter.
    phi       the voxel's phi (Eq. 6) under the view weights that were asked for; None where none were
    azimuth_on, azimuth_off  (a,), (b,) float64 radians, where the cameras of these images stood (``chorus.camera.views``)
    """

    voxel: tuple[int, int, int]
    centre: NDArray[np.float64]
    on_mask: NDArray[np.bytes_]
    off_mask: NDArray[np.bytes_]
    unseen: int
    filtered: Filtered | None = None
    hidden: NDArray[np.bytes_] = dataclasses.field(default_factory=lambda: np.zeros(0, "S1"))
    hidden_weight: float = 1.0
    phi: float | None = None
    azimuth_on: NDArray[np.float64] = dataclasses.field(default_factory=lambda: np.zeros(0))
    azimuth_off: NDArray[np.float64] = dataclasses.field(default_factory=lambda: np.zeros(0))

    @property
    def probability(self) -> float:
        """phi of the voxel (Eq. 6) without view weighting; 0 where no image sees it, or those that do weigh nothing."""
        less = 1 - self.hidden_weight
        on = len(self.on_mask) - less * int(np.isin(self.on_mask, self.hidden).sum())
        seen = len(self.on_mask) + len(self.off_mask) - less * len(self.hidden)
        return on / seen if seen else 0.0


def explain(
    point: Any,
    source: Source,
    field: CanonicalField,
    *,
    backend: str = "auto",
    hidden_weight: float | None = None,
    view_weights: tuple[Scheme, NDArray[np.float64]] | None = None,
    **selection: Any,
) -> Explanation:
    """How the images of a source voted on the voxel around a point (3,) in metres of the rest pose's person frame.

    hidden_weight  what images weigh in which the body hides the voxel; None: they are not told apart
    view_weights   how images are grouped, and what those of each group weigh (G,) (``Scheme.weights``), for ``phi``
    selection  prompt, part, parts, epsilon, folds, where, filter, as for ``chorus.aggregate``

    Raises InputError for a point outside the field's cube, and as ``chorus.aggregate`` does.
    """
    voxel = voxel_of(field, point)
    voxel_field = _field_of_one(field, voxel)
    chosen = choose_backend(backend)
    if hidden_weight is not None:
        hidden_weight = checked_weight(hidden_weight)
        check_backend(chosen)
    images = SelectedImages(source, field, backend=backend, **selection)
    on: list[NDArray[np.bytes_]] = []
    off: list[NDArray[np.bytes_]] = []
    hidden: list[NDArray[np.bytes_]] = [np.zeros(0, "S1")]
    azimuths: tuple[list[NDArray[np.float64]], list[NDArray[np.float64]]] = [], []
    unseen, weighed, weighed_on = 0, 0.0, 0.0
    for batch, keep in images:
        kept = batch[keep]
        if len(kept) == 0:
            continue
        # One group for each image, so that the counts tell the images apart.
        how: dict[str, Any] = {"num_groups": len(kept)}
        if hidden_weight is not None:
            how["depth"] = body_depth(field.body, kept.cameras, kept.poses)
        counts = chosen.count_votes(voxel_field, vote_images(kept), torch.arange(len(kept)), **how)
        is_on, is_seen, *rest = (c[:, 0].cpu().numpy() > 0 for c in counts)
        hidden += [kept.keys[rest[1]]] if rest else []
        on.append(kept.keys[is_on])
        off.append(kept.keys[is_seen & ~is_on])
        for found, which in zip(azimuths, (is_on, is_seen & ~is_on), strict=True):
            found.append(azimuth(kept.cameras)[which])
        if view_weights is not None:
            weight = _weights(kept, view_weights)
            if rest and hidden_weight is not None:
                weight = np.where(rest[1], hidden_weight * weight, weight)
            weighed, weighed_on = weighed + weight[is_seen].sum(), weighed_on + weight[is_on].sum()
        unseen += int((~is_seen).sum())
    if not on:
        raise InputError(images.why_none())
    spacing, half = field.parameters.spacing, field.extent / 2
    centre = (np.array(voxel) + 0.5) * spacing - half
    return Explanation(
        voxel,
        centre,
        np.concatenate(on),
        np.concatenate(off),
        unseen,
        images.filtered,
        np.concatenate(hidden),
        1.0 if hidden_weight is None else hidden_weight,
        None if view_weights is None else float(weighed_on / weighed) if weighed else 0.0,
        *(np.concatenate(found) for found in azimuths),
    )


def _weights(images: ImageBatch, view_weights: tuple[Scheme, NDArray[np.float64]]) -> NDArray[np.float64]:
    """What each image's vote weighs: by its view, times the weight that a soft filter gave it, (I,)."""
    scheme, r = view_weights
    weight: NDArray[np.float64] = r[scheme.groups(images.cameras, images.keys)]
    return weight if images.weights is None else weight * images.weights


def voxel_of(field: CanonicalField, point: Any) -> tuple[int, int, int]:
    """The voxel (ix, iy, iz) that holds a point (3,) in metres of the rest pose's person frame; InputError outside the grid."""
    check_kind("field", field, CanonicalField)
    try:
        at = check_array("point", point, (3,), np.float64)
    except InputError as error:
        raise InputError(f"point: expected three coordinates in metres, got {point!r} ({error})") from None
    index = np.floor((at + field.extent / 2) / field.parameters.spacing).astype(int)
    if (index < 0).any() or (index >= field.resolution).any():
        raise InputError(f"point: expected coordinates within +-{field.extent / 2:g} m, got {at.tolist()}")
    return int(index[0]), int(index[1]), int(index[2])


def _field_of_one(field: CanonicalField, voxel: tuple[int, int, int]) -> VoxelField:
    """The field's arrays cut down to one voxel."""
    arrays = field.arrays
    flat = int(np.ravel_multi_index(voxel, arrays.shape))
    entries = slice(int(arrays.offset[flat]), int(arrays.offset[flat + 1]))
    x, y, z = (float(start + arrays.spacing * i) for start, i in zip(arrays.origin, voxel, strict=True))
    return dataclasses.replace(
        arrays,
        shape=(1, 1, 1),
        origin=(x, y, z),
        offset=torch.tensor([0, entries.stop - entries.start]),
        joint=arrays.joint[entries],
        weight=arrays.weight[entries],
    )
