"""Noisy-OR EM (experimental): an occupancy sharpened by asking which voxel on a ray explains the mask.

A vote of an image is on the mask where *some* voxel on its ray is occupied, yet phi (Eq. 6) credits every voxel on the ray.
Here they share the credit. phi^0 is the occupancy's probability; only the *candidates* C = {v : phi^0_v >= 0.35 max phi^0}
can be occupied. Image i has square cells of 0.6 s f_i / z_i pixels, none below a pixel (s: a voxel's edge; f_i = sqrt(fx fy);
z_i: the mean depth of the candidates in the image); candidates whose pixels fall into one cell are on one ray. With
y_iv = 1 where the pixel of v is on the mask of image i, w_iv = 1, or l (the occupancy's ``hidden_weight``) where the body
hides v there, h_iu = 1, or 0.3 where the body hides u, and view weights r_i, a step is::

    P_iv    = 1 - 0.98 prod_{u in C on the ray of v in i} (1 - h_iu phi_u)
    phi_v  <- sum_i r_i w_iv y_iv phi_v / P_iv  /  sum_i r_i w_iv        both over the images that v projects into

and at most 1. 0.98: with probability 0.02 a mask has a pixel that no candidate explains. h: masks that are drawn through the
body show what is behind it, others do not, and which they are is not known. Were it 0, the pixels of the former would go to
voxels in front of the body (a backpack in such masks: IoU .33, without EM .92); were it 1, those of the latter would be
explained by what cannot be seen. Voxels outside C are 0.

**Where it fails.** It takes recorded poses and masks at their word. Where poses are off, no voxel explains the masks of all
images, each explains a few, and the object collapses: of a ball in the hand, recorded with 0.1 rad of noise an axis, the IoU
falls from .80 (plain votes) to .71, in a prototype's images from .81 to .52. Silhouettes of held-out images do not notice.
Use it where poses are as good as those of motion capture, and look at the result.

The result is not mergeable: phi / P depends on all images at once. What is summed over images are integers (phi / P in
multiples of 2^-32, an error below 2^-33 of each), so that the result is the same to the bit however the images are batched
and ordered and on any number of threads. Pixels, P and phi are float64, the result float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chorus.body.model import Body
from chorus.errors import InputError, MismatchError, check_kind, check_whole
from chorus.experimental.sharpened import Sharpened
from chorus.field import CanonicalField
from chorus.images import ImageBatch
from chorus.kernels.cpu import rays
from chorus.kernels.cpu.rays import RayImages, RayPoints, RayVotes
from chorus.occupancy.counts import Occupancy
from chorus.occupancy.joins import learned_from, own_selection
from chorus.occupancy.posed import body_of
from chorus.provenance import provenance
from chorus.render.body_depth import body_depth
from chorus.votes.selection import SelectedImages, Source

STEPS = 8
CANDIDATES = 0.35
"""Share of the largest phi from which on a voxel is a candidate."""
FOOTPRINT = 0.6
"""Width of a ray in projected edges of a voxel."""
LEAK = 0.02
"""Probability that a mask has a pixel without any candidate on its ray."""
HIDDEN_EXPLAINS = 0.3
"""By how much of its phi a voxel behind the body explains a mask."""
HELD_BYTES = 1 << 29
"""Traced votes that are held between steps, at most; those of further images are traced again in every step."""
VOTES_AT_ONCE = 1 << 23
"""Votes of one part of the images, at most."""

Progress = Callable[[int, int], None]


def noisy_or(
    occupancy: Occupancy,
    images_or_store: Source,
    body: Body | None = None,
    *,
    steps: int = STEPS,
    progress: Progress | None = None,
    **selection: Any,
) -> Sharpened:
    """An occupancy sharpened by noisy-OR EM over the images it was made from. Experimental: the module says where it fails.

    occupancy        of ``chorus.aggregate``, of any canonicalization and weighting; where it has counts of hidden votes, they
                     are told apart here too
    images_or_store  the same images: ImageBatch, a list of them, a Store, or the path of one; not an iterator, as images whose
                     votes do not fit in memory are read in every step
    body             of the occupancy; None for the built-in one
    steps            of EM; 0 gives the candidates' phi
    progress         called with (done, total) in steps, tracing being the first
    selection        prompt, part, parts, epsilon, folds, where, filter as for ``chorus.aggregate``; where no prompt, part or
                     folds are given, the occupancy's own, as far as its provenance has them

    Runs on the CPU. Memory: 4 bytes a vote of a candidate, up to HELD_BYTES. Raises InputError where phi is 0 everywhere and
    for an iterator, MismatchError for another body or store, and for other images than the occupancy was made from.
    """
    check_kind("occupancy", occupancy, Occupancy)
    steps = check_whole("steps", steps, 0)
    if isinstance(images_or_store, Iterator):
        raise InputError(
            "images_or_store: expected images that can be read twice (an ImageBatch, a list of them, a store), got an iterator"
        )
    body = body_of(occupancy.body_hash, body)
    field = CanonicalField.from_parameters(body, occupancy.parameters, occupancy.body_hash)
    voxels, phi = candidates(occupancy)
    source, chosen = own_selection(occupancy, images_or_store, selection)
    traced = _TracedVotes(occupancy, source, field, voxels, chosen)
    phi, change = _iterated(occupancy, traced, phi, steps, progress)
    probability = np.zeros(occupancy.probability.size, np.float32)
    probability[voxels] = phi
    made = {
        **provenance(),
        "estimator": "noisy-or",
        "steps": steps,
        "candidates": len(voxels),
        "last_change": round(change, 9),
        "source": traced.source_id,
        "occupancy": occupancy.provenance,
    }
    return Sharpened(
        probability=probability.reshape(occupancy.probability.shape),
        parameters=occupancy.parameters,
        body_hash=occupancy.body_hash,
        category=occupancy.category,
        weighting=occupancy.weighting,
        hidden_weight=occupancy.hidden_weight,
        num_images=occupancy.num_images,
        steps=steps,
        provenance=[{**_learned(occupancy), **made}],
    )


def _iterated(
    occupancy: Occupancy, traced: _TracedVotes, phi: NDArray[np.float64], steps: int, progress: Progress | None
) -> tuple[NDArray[np.float64], float]:
    """phi (K,) after ``steps`` of EM, and the largest change of the last."""
    G, hidden_weight = occupancy.scheme.num_groups, occupancy.hidden_weight
    r = occupancy.scheme.weights(occupancy.weighting, occupancy.group_totals)

    def weighed(sums: NDArray[np.int64]) -> NDArray[np.float64]:
        """Sums (2, G, K), of visible and of hidden votes, with their weights: (K,)."""
        total = np.zeros(sums.shape[2])
        for worth, of_groups in zip((1.0, hidden_weight), sums, strict=True):
            for g in range(G):  # in a fixed order: the same bits every time
                total += worth * r[g] * of_groups[g]
        return total

    def told(done: int) -> None:
        if progress is not None:
            progress(done, steps + 1)

    change = 0.0
    den = np.zeros((2, G, len(phi)), np.int64)
    for votes in traced:
        den += rays.count(votes, G)
    traced.check()
    seen = weighed(den)
    told(1)
    for step in range(steps):
        num = np.zeros_like(den)
        for votes in traced:
            num += rays.step(votes, phi, G, leak=LEAK, hidden_explains=HIDDEN_EXPLAINS)
        new = np.divide(weighed(num) / rays.SCALE, seen, out=np.zeros(len(phi)), where=seen > 0)
        new = np.minimum(new, 1.0)  # phi / P is up to 1 / 0.98
        phi, change = new, float(np.abs(new - phi).max())
        told(step + 2)
    return phi, change


def candidates(occupancy: Occupancy) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The candidates, flat indices (K,) int64 ascending, and their phi (K,) float64. InputError where phi is 0 everywhere."""
    phi = occupancy.probability.ravel()
    most = phi.max(initial=0.0)
    if most <= 0:
        raise InputError("occupancy: expected one with votes on masks, got one whose probability is 0 everywhere")
    voxels = np.flatnonzero(phi >= np.float32(CANDIDATES) * most)
    return voxels, phi[voxels].astype(np.float64)


def _learned(occupancy: Occupancy) -> dict[str, Any]:
    """What the result's provenance says of the images: what the occupancy's does, so that both are joined with stores alike."""
    own = learned_from(occupancy)
    if not own.known:
        return {}
    return {
        "prompts": None if own.prompts is None else list(own.prompts),
        "folds": None if own.folds is None else list(own.folds),
        **({} if own.part is None else {"part": own.part, "epsilon": own.epsilon}),
        **({"parts": list(own.parts)} if own.parts else {}),
    }


class _TracedVotes:
    """The votes of all images for the candidates, in pieces; can be iterated again and again.

    Pieces are held up to HELD_BYTES; from the first that does not fit on, images are read and traced anew every time.
    """

    def __init__(
        self, occupancy: Occupancy, source: Source, field: CanonicalField, voxels: NDArray[np.int64], selection: dict[str, Any]
    ) -> None:
        self._occupancy, self._source, self._field, self._selection = occupancy, source, field, selection
        self._points = _points(field, voxels)
        self._held: list[RayVotes] = []
        self._bytes, self._complete = 0, False
        self._images = np.zeros(occupancy.scheme.num_groups, np.int64)
        self.source_id = "memory"

    def __iter__(self) -> Iterator[RayVotes]:
        if self._complete:
            yield from self._held
            return
        kept, first = len(self._held), self._bytes == 0
        yield from self._held
        full = not first
        for number, part in enumerate(self._parts()):
            if number < kept:
                continue
            votes = self._traced(part)
            if first:
                self._images += np.bincount(votes.group, minlength=len(self._images))
            full = full or self._bytes + votes.codes.nbytes > HELD_BYTES
            if not full:
                self._held.append(votes)
                self._bytes += votes.codes.nbytes
            yield votes
        self._complete = not full

    def check(self) -> None:
        """MismatchError where the images traced are not as many as those that the occupancy counted, group by group."""
        if not np.array_equal(self._images, self._occupancy.group_images):
            raise MismatchError(
                f"images_or_store: expected the {self._occupancy.num_images:,} images that the occupancy was made from, got "
                f"{int(self._images.sum()):,}"
                + (" from other directions" if self._images.sum() == self._occupancy.num_images else "")
                + " (give the same prompt, part, folds and filter)"
            )

    def _parts(self) -> Iterator[ImageBatch]:
        """The images in parts of a size that does not depend on how they were batched before."""
        size = max(1, min(4096, VOTES_AT_ONCE // len(self._points.x)))
        images = SelectedImages(self._source, self._field, batch_size=size, **self._selection)
        self.source_id = images.source_id
        for batch, keep in images:
            if keep.any():
                yield batch if keep.all() else batch[keep]

    def _traced(self, batch: ImageBatch) -> RayVotes:
        codes, number = rays.trace(_ray_images(batch, self._field, self._occupancy.den_hidden is not None), self._points)
        group = self._occupancy.scheme.groups(batch.cameras, batch.keys)
        weight = np.ones(len(batch), np.int64) if batch.weights is None else batch.weights.astype(np.int64)
        return RayVotes(codes, number, group, weight)


def _points(field: CanonicalField, voxels: NDArray[np.int64]) -> RayPoints:
    """Voxels (K,) of a field as points of the rest pose with their skinning weights."""
    offset, joint, weight = (getattr(field.arrays, name).numpy() for name in ("offset", "joint", "weight"))
    length = offset[voxels + 1] - offset[voxels]
    first = np.concatenate([[0], np.cumsum(length)])
    entries = np.arange(first[-1]) + np.repeat(offset[voxels] - first[:-1], length)
    x = field.arrays.centres().numpy()[voxels]
    return RayPoints(np.ascontiguousarray(x), first, joint[entries], weight[entries])


def _ray_images(batch: ImageBatch, field: CanonicalField, with_hidden: bool) -> RayImages:
    """A batch as the kernels take it; the body's depth is drawn where hidden votes are told apart."""
    cameras, masks, n = batch.cameras, batch.masks, len(batch)
    view = cameras.K @ np.concatenate([cameras.R, cameras.t[..., None]], -1)
    matrices = np.einsum("iab,ijbc->ijac", view[..., :3], field.body.bone_transforms(batch.poses))
    matrices[..., 3] += view[:, None, :, 3]
    focal = np.sqrt(np.abs(cameras.K[:, 0, 0] * cameras.K[:, 1, 1]))
    nothing = np.zeros(n, np.int32), np.zeros((n, 4), np.int32), np.zeros(n, np.float32), np.zeros(n, np.int64)
    body: tuple[Any, ...] = (*nothing, np.zeros(0, np.uint16))
    if with_hidden:
        depth = body_depth(field.body, cameras, batch.poses)
        tensors = depth.shift, depth.box, depth.limit, depth.start
        body = (*(t.numpy() for t in tensors), depth.values.numpy().view(np.uint16))
    return RayImages(
        np.ascontiguousarray(matrices.reshape(n, -1, 12)),
        masks.size,
        FOOTPRINT * field.parameters.spacing * focal,
        masks.box,
        masks.start,
        masks.words,
        *body,
    )
