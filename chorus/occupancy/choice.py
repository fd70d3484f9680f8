"""Which canonicalization fits images best, found without truth: by silhouettes of images that were held out.

Of a sample, cut into halves by a hash of the images' keys, each half in turn gives phi under every candidate. The phi is moved
into the poses of the other half's images and drawn onto cells of 1/32 of the image (16 px of 512), each cell taking the largest
phi in it. Cells that the posed body covers are left out, as the body may hide the object there. The score of a candidate is the
IoU of {cells with phi >= t} and the masks, a cell counting as the share of its pixels on the mask, at the best t; and the mean
of the two directions. The grid is coarser than the field's, as candidates differ by more than a voxel.

Every candidate is scored with a part of the sample first, SCREENED images; the FINALISTS best of them, with the whole sample.

Silhouettes on a grid so coarse do not show how sharp phi is. Of the finalists that cannot be told from the best one, that is
chosen whose phi has the highest peak, made from the whole sample on a fine grid: votes agree where voxels move as the object
does. (Alone that is no criterion: rigid with the pelvis, all objects near it are sharp.) Of equal peaks a rigid one is taken.

What is chosen is an ordinary field. The choice is deterministic, and recorded where it was asked for (``aggregate``).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from chorus.body.model import Body
from chorus.camera.views import Scheme, fold_of_hash, key_hash
from chorus.canonicalization import ANCHORED, AUTO, LBS, LBS_NEAREST, NONE
from chorus.errors import InputError
from chorus.field import CanonicalField, FieldParameters, default_smoothing_steps
from chorus.images import ImageBatch, vote_images
from chorus.kernels.arrays import VoxelField
from chorus.kernels.backends import Backend, choose_backend
from chorus.kernels.cpu.prepare import Views, skeleton_with
from chorus.kernels.cpu.silhouettes import CellImages, Points, compare, count_pixels, hide, matrices_of
from chorus.kernels.threads import default_threads, each
from chorus.votes.sample import sample_images
from chorus.votes.selection import Source

SAMPLE = 400
"""Images in the sample, at most."""
SCREENED = 96
"""Images of the sample by which all candidates are compared before the best of them are, by all images."""
FINALISTS = 4
MIN_IMAGES = 20
"""Images that a choice needs."""
RESOLUTION = 24
"""Voxels along an edge of the grid on which candidates are compared."""
CELLS = 32
"""Cells along an image's longer side."""
LEVELS = 200
"""Steps of phi that are tried as the threshold, from a quarter of the largest phi on."""
LEAST = 0.25
PARTS = 5
"""Parts of each half by which the error of a difference is estimated (jackknife)."""
SIGMAS = 2.0
"""Two candidates are distinguishable where their difference is larger than this many standard errors."""
PEAK_RESOLUTION = 48
"""Voxels along an edge of the grid on which the peaks of phi are compared, whatever the field's."""
PEAK_VOXELS = 20
"""The peak is the mean of so many of the largest phi on that grid."""
PEAK_MARGIN = 1.002
"""A peak is lower than another only where that is more than so many times as high."""
SKIN = 0.04
"""Metres: of the body's vertices one in each cube of this size is drawn, where the body covers cells."""


class TooFewImages(InputError):
    """A choice was asked for from fewer images than it needs."""


@dataclass(frozen=True)
class Candidate:
    """A canonicalization and how well it foretells held-out masks.

    score   mean over the two directions, IoU 0 to 1     spread   half of the difference between the two
    behind  how far its score is below the first's        error    standard error of that difference (0 for the first)
    images  that it was compared with the first by: those screened, or the whole sample
    peak    mean of the largest phi; None for candidates that can be told from the first
    """

    name: str
    score: float
    spread: float
    behind: float
    error: float
    images: int
    peak: float | None = None

    @property
    def distinguishable(self) -> bool:
        """Whether it is clearly behind the first."""
        return self.behind > SIGMAS * self.error


@dataclass(frozen=True)
class Choice:
    """All candidates, the finalists first, best first; ``images`` in the sample.

    chosen  of the first and those that cannot be told from it, one with the highest peak: the best rigid one of them in rank,
            whose posed inference is exact, or else the best
    """

    ranking: tuple[Candidate, ...]
    images: int

    @property
    def chosen(self) -> str:
        """The name of the canonicalization chosen."""
        highest = max(c.peak or 0.0 for c in self.ranking)
        high = [c.name for c in self.ranking if c.peak is not None and PEAK_MARGIN * c.peak >= highest] or [
            self.ranking[0].name
        ]
        return next((name for name in high if name not in (LBS, LBS_NEAREST)), high[0])

    @property
    def alike(self) -> tuple[str, ...]:
        """The candidates that cannot be told from the best with these images, without the one chosen."""
        return tuple(c.name for c in self.ranking if not c.distinguishable and c.name != self.chosen)

    def __str__(self) -> str:
        first = next(c for c in self.ranking if c.name == self.chosen)
        text = f"{first.name} ({first.score:.3f} +- {first.spread:.3f}, {self.images} images)"
        if self.alike:
            shown = ", ".join(self.alike[:3]) + (f" and {len(self.alike) - 3} more" if len(self.alike) > 3 else "")
            return f"{text}, not distinguishable from {shown}"
        return f"{text}, then {self.ranking[1].name} ({self.ranking[1].score:.3f})" if len(self.ranking) > 1 else text

    def to_json(self) -> dict[str, Any]:
        """The choice as a dictionary for JSON."""
        ranking = [
            {k: round(v, 6) if isinstance(v, float) else v for k, v in dataclasses.asdict(c).items()} for c in self.ranking
        ]
        return {"text": str(self), "chosen": self.chosen, "images": self.images, "alike": list(self.alike), "ranking": ranking}


def candidates_of(body: Body) -> tuple[str, ...]:
    """The canonicalizations to choose from: lbs, lbs-nearest, none, and each joint but the pelvis (which is none)."""
    return (LBS, LBS_NEAREST, NONE, *(ANCHORED + name for name in body.joint_names[1:]))


def choose_canonicalization(
    images_or_store: Source,
    field: CanonicalField,
    *,
    candidates: Sequence[str] | None = None,
    sample: int = SAMPLE,
    backend: str = "auto",
    **selection: Any,
) -> Choice:
    """The canonicalization under which each half of a sample foretells the masks of the other best, as the module says.

    images_or_store  an ImageBatch, a list of them, a Store, or the path of one; not an iterator, as images are read twice
    field            gives body, extent, and k, tau, s of ``lbs``
    candidates       names; default: ``candidates_of(field.body)``
    sample           images used, at most: those of the smallest key hashes
    selection        prompt, part, parts, epsilon, folds, where, filter, as for ``aggregate``

    Raises TooFewImages for fewer than MIN_IMAGES images, InputError for fewer than two candidates, and as ``aggregate`` does.
    """
    names = candidates_of(field.body) if candidates is None else tuple(candidates)
    if len(set(names)) < 2 or len(set(names)) < len(names):
        raise InputError(f"candidates: expected at least two different ones, got {list(names)}")
    if isinstance(sample, bool) or not isinstance(sample, (int, np.integer)) or sample < MIN_IMAGES:
        raise InputError(f"sample: expected at least {MIN_IMAGES} images, got {sample!r}")
    chosen = choose_backend(backend)
    images = sample_images(images_or_store, field, int(sample), backend=backend, **selection)
    half = ((key_hash(images.keys) >> np.uint64(32)) & np.uint64(1)).astype(np.int64)
    few = int(np.bincount(half, minlength=2).min())
    if few < MIN_IMAGES // 4 or len(images) < MIN_IMAGES:
        raise TooFewImages(
            f"canonicalization: {AUTO} needs {MIN_IMAGES} images, at least {MIN_IMAGES // 4} in each half, got {len(images)} "
            f"and {few}; name a canonicalization instead"
        )
    prepared = _cells(field, images, half)

    def scored(some: Sequence[str], count: int) -> dict[str, NDArray[np.float64]]:
        votes = _Votes(images[:count], half[:count], chosen)
        N = min(field.resolution, RESOLUTION)
        fields = {name: _regridded(field, name, N) for name in some}  # not below: computing one takes all threads
        found: dict[str, NDArray[np.float64]] = {}

        def score(name: str) -> None:
            found[name] = _scores(fields[name], votes, prepared)

        # The kernels' threads are for many images: of so few, candidates are better done side by side.
        each(votes.side_by_side, score, some)
        return {name: found[name] for name in some}

    screen = SCREENED if len(names) > FINALISTS and len(images) > 2 * SCREENED else len(images)
    screened = scored(names, screen)
    whole = _Votes(images, np.zeros(len(images), np.int64), chosen, sides=1)
    if screen == len(images):
        return Choice(_with_peaks(_ranked(screened, screen), field, whole), screen)
    finalists = [c.name for c in _ranked(screened, screen)[:FINALISTS]]
    ranking = _ranked(scored([name for name in names if name in finalists], len(images)), len(images))
    first = ranking[0].name  # whom the others are compared with, by the images that they have in common
    rest = {name: score for name, score in screened.items() if name == first or name not in finalists}
    return Choice((*_with_peaks(ranking, field, whole), *_ranked(rest, screen, first)[1:]), len(images))


class _Votes:
    """The images of a sample, ready to vote for one candidate after the other: phi of each half (or side), with weights by
    azimuth."""

    def __init__(self, images: ImageBatch, half: NDArray[np.int64], backend: Backend, sides: int = 2) -> None:
        scheme = Scheme("azimuth")
        G = self._groups = scheme.num_groups
        group = scheme.groups(images.cameras, images.keys) + half * G
        totals = np.bincount(group, images.weights, minlength=sides * G).reshape(sides, G).astype(np.int64)
        self.half, self._r, self._backend = half, [scheme.weights("azimuth", of_side) for of_side in totals], backend
        self._how: dict[str, Any] = {"threads": 1} if backend.name == "numba" else {}
        self.side_by_side = default_threads() if self._how else 1
        weight = None if images.weights is None else torch.from_numpy(np.ascontiguousarray(images.weights))
        self._arguments = vote_images(images), torch.from_numpy(group), weight

    def phi(self, field: VoxelField) -> tuple[NDArray[np.float64], ...]:
        """phi of the images of each half under a field, (V,) each."""
        G, V, sides = self._groups, field.num_voxels, len(self._r)
        counted = self._backend.count_votes(field, *self._arguments, num_groups=sides * G, **self._how)
        num, den = (c.cpu().numpy().reshape(sides, G, V) for c in counted)
        found = []
        for side, r in enumerate(self._r):
            above, below = (np.einsum("g,gv->v", r, c[side]) for c in (num, den))
            found.append(np.divide(above, below, out=np.zeros(V), where=below > 0))
        return tuple(found)


def _scores(coarse: VoxelField, votes: _Votes, prepared: CellImages) -> NDArray[np.float64]:
    """The IoU of a candidate for each direction, (2, 1 + PARTS): all images held out, then one part left out each."""
    found = np.zeros((2, 1 + PARTS))
    for side, phi in enumerate(votes.phi(coarse)):
        rows = np.flatnonzero(votes.half == 1 - side)
        histogram = compare(prepared, rows, _points(coarse, phi), PARTS, LEVELS + 1)
        whole = histogram.sum(0)
        area = prepared.cell[rows].mean() ** 2  # of a cell, in pixels: what the mask's pixels are a share of
        found[side] = [_best_iou(h, area) for h in (whole, *(whole - part for part in histogram))]
    return found


def _with_peaks(ranking: Sequence[Candidate], field: CanonicalField, votes: _Votes) -> tuple[Candidate, ...]:
    """The candidates with the peaks of those that cannot be told from the first: the mean of their largest phi."""
    fields = {c.name: _regridded(field, c.name, PEAK_RESOLUTION) for c in ranking if not c.distinguishable}
    peaks: dict[str, float] = {}

    def measure(name: str) -> None:
        peaks[name] = float(np.sort(votes.phi(fields[name])[0])[-PEAK_VOXELS:].mean())

    each(votes.side_by_side, measure, list(fields))
    return tuple(dataclasses.replace(c, peak=peaks.get(c.name)) for c in ranking)


def _best_iou(histogram: NDArray[np.int64], area: float) -> float:
    """The largest IoU over thresholds, given cells and mask pixels by level of phi, (LEVELS + 1, 2)."""
    cells, pixels = np.cumsum(histogram[::-1], axis=0)[::-1].T.astype(np.float64)  # with this level or a higher one
    shares = pixels / area
    union = cells + shares[0] - shares
    iou = np.divide(shares, union, out=np.zeros(len(union)), where=union > 0)
    return float(iou[1:].max())


def _ranked(scores: dict[str, NDArray[np.float64]], images: int, first: str | None = None) -> list[Candidate]:
    """The candidates by score (2, 1 + PARTS) each, best first, of equals in the order given; ``first`` before all others."""
    names = sorted(scores, key=lambda name: (name != first, -scores[name][:, 0].mean()))
    ranking = []
    for name in names:
        behind = scores[names[0]] - scores[name]
        left_out = behind[:, 1:] / 2  # of each part, what the mean of the two directions has without it, up to a constant
        n = left_out.size
        error = np.sqrt((n - 1) / n * ((left_out - left_out.mean(1, keepdims=True)) ** 2).sum())
        one, other = scores[name][:, 0]
        score, spread = float(one + other) / 2, float(abs(one - other)) / 2
        ranking.append(Candidate(name, score, spread, float(behind[:, 0].mean()), float(error), images))
    return ranking


def _regridded(field: CanonicalField, name: str, N: int) -> VoxelField:
    """The candidate on a grid of N^3 voxels."""
    p = field.parameters
    if name not in (LBS, LBS_NEAREST):
        return _kept(field.body, FieldParameters(N, p.extent, canonicalization=name))
    steps, tau = p.smoothing_steps, p.tau
    if field.canonicalization == LBS_NEAREST:  # which keeps neither: the defaults
        steps, tau = default_smoothing_steps(p.spacing), FieldParameters.tau
    if steps and p.resolution != N:  # the same diffusion length in metres
        steps = max(1, round(steps * (N / p.resolution) ** 2))
    return _kept(field.body, FieldParameters(N, p.extent, None, p.k, tau, p.s, steps, name))


@lru_cache(maxsize=128)
def _kept(body: Body, parameters: FieldParameters) -> VoxelField:
    """A candidate, kept for the choices that follow."""
    return CanonicalField.from_parameters(body, parameters).arrays


def _cells(field: CanonicalField, images: ImageBatch, half: NDArray[np.int64]) -> CellImages:
    """The sample as cells: matrices, mask pixels, and the cells that the posed body covers."""
    cameras, size = images.cameras, images.masks.size
    cell = np.maximum(size.max(1) / CELLS, 1.0)
    rows, columns = (np.floor((size[:, axis] - 1) / cell).astype(np.int64) + 1 for axis in (0, 1))
    first = np.concatenate([[0], np.cumsum(rows * columns)])
    body, box = field.body, images.masks.box
    skeleton = skeleton_with(body.joints, np.asarray(body.parents, np.int32), body.rest_inverse, np.arange(body.num_joints))
    poses = np.asarray(images.poses, np.float32)
    prepared = CellImages(
        matrices_of(Views(poses, cameras.R, cameras.t, cameras.K, size, box), skeleton),
        size,
        cell,
        first,
        columns.astype(np.int32),
        np.zeros(first[-1], np.int32),
        np.zeros(first[-1], np.bool_),
        fold_of_hash(key_hash(images.keys) >> np.uint64(33)) % PARTS,
        int((rows * columns).max()),
    )
    count_pixels(box, images.masks.start, images.masks.words, prepared)
    hide(prepared, _skin(body))
    return prepared


@lru_cache(maxsize=4)
def _skin(body: Body) -> Points:
    """Vertices of the rest pose, one in each cube of SKIN metres, moved by linear blend skinning."""
    _, chosen = np.unique(np.floor(body.rest_vertices / SKIN).astype(np.int64), axis=0, return_index=True)
    vertex, joint = np.nonzero(body.weights[chosen])
    offset = np.searchsorted(vertex, np.arange(len(chosen) + 1))
    weight = body.weights[chosen][vertex, joint]
    x = np.ascontiguousarray(body.rest_vertices[chosen].T)
    return Points(x, offset, joint.astype(np.int32), weight, np.ones(len(chosen), np.int32), False)


def _points(field: VoxelField, phi: NDArray[np.float64]) -> Points:
    """The voxels of much phi as points, their levels phi in steps of 1 / LEVELS."""
    level = np.floor(phi * LEVELS).astype(np.int32)
    chosen = np.flatnonzero((level > 0) & (phi >= LEAST * phi.max(initial=0.0)))
    offset = field.offset.numpy()
    counts = offset[chosen + 1] - offset[chosen]
    ends = np.cumsum(counts)
    entries = np.repeat(offset[chosen] - (ends - counts), counts) + np.arange(counts.sum())
    joint, weight = field.joint.numpy()[entries], field.weight.numpy()[entries]
    x = np.ascontiguousarray(_centres(field.lattice)[chosen].T)
    one = len(joint) == len(chosen) and bool((joint == joint[:1]).all())
    return Points(x, np.concatenate([[0], ends]), joint, weight, level[chosen], one)


@lru_cache(maxsize=4)
def _centres(lattice: Any) -> NDArray[np.float64]:
    centres: NDArray[np.float64] = lattice.centres().numpy()
    return centres
