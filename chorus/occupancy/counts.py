"""Occupancy: exact vote counts by group, and the probability they give under any view weighting (Eq. 6, A.6)."""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chorus.camera.views import FOLDS, Scheme, fold_of_hash
from chorus.errors import InputError, MismatchError, check_array, check_whole
from chorus.field import FieldParameters
from chorus.occupancy import hidden
from chorus.occupancy.distribution import Distribution
from chorus.occupancy.files import reading_occupancy, save_occupancy
from chorus.votes.counted import Counted

if TYPE_CHECKING:
    from chorus.field import CanonicalField
    from chorus.votes.explain import Explanation

SKETCH_SIZE = 1024
"""Number of smallest key hashes kept, by which two occupancies that share images are noticed."""


@dataclass(frozen=True, eq=False)
class Occupancy(Distribution):
    """Where an object is around the canonical person: votes counted by group of images, and the view weighting.

    num_counts    (G, N, N, N) int32 or int64, indexed [group, ix, iy, iz]: images of the group (their integer weights summed)
                  where the voxel projects onto the object's mask
    den_counts    (G, N, N, N) of the same dtype: those where the voxel projects into the image
    group_totals  (G,) int64 integer weights of the group's images summed: what view weights are computed from
    group_images  (G,) int64 number of the group's images that voted
    scheme        how images were grouped        weighting   of views, a name of ``chorus.camera.views.WEIGHTINGS``
    parameters    of the field                   body_hash   of the body that the votes were cast with
    category      of the object                  sketch      (K,) uint64, the smallest hashes of the images' keys
    provenance    versions, sources, command lines: one entry for each aggregation
    num_hidden, den_hidden  (G, N, N, N) of the same dtype: which part of the counts the body hides; None: not counted
    hidden_weight  what hidden votes weigh, 0 to 1 (``chorus.occupancy.hidden``); 1 without counts of them
    hidden_rule   how hidden votes were told, in words
    counted       which images they are, so that none is added twice; None in files of releases that did not keep it

    Raises InputError for arrays of another shape or type, and for a weighting that the scheme cannot give.
    """

    num_counts: NDArray[np.integer[Any]]
    den_counts: NDArray[np.integer[Any]]
    group_totals: NDArray[np.int64]
    group_images: NDArray[np.int64]
    scheme: Scheme
    weighting: str
    parameters: FieldParameters
    body_hash: str
    category: str = ""
    sketch: NDArray[np.uint64] = field(default_factory=lambda: np.zeros(0, np.uint64))
    provenance: list[dict[str, Any]] = field(default_factory=list)
    num_hidden: NDArray[np.integer[Any]] | None = None
    den_hidden: NDArray[np.integer[Any]] | None = None
    hidden_weight: float = 1.0
    hidden_rule: str = ""
    counted: Counted | None = None

    def __post_init__(self) -> None:
        N, G = self.parameters.resolution, self.scheme.num_groups
        for name, shape in (
            ("num_counts", (G, N, N, N)),
            ("den_counts", (G, N, N, N)),
            ("group_totals", (G,)),
            ("group_images", (G,)),
        ):
            array = getattr(self, name)
            if array.shape != shape or array.dtype.kind != "i":
                raise InputError(f"{name}: expected integers of shape {shape}, got {array.dtype} of shape {array.shape}")
        self.scheme.weights(self.weighting, self.group_totals)
        hidden.check_counts(self.num_hidden, self.den_hidden, self.num_counts, self.den_counts, self.hidden_weight)

    def __repr__(self) -> str:
        """Three lines: category and images, grid and body, largest phi."""
        from chorus.occupancy import summary

        return summary.text(self)

    def _repr_html_(self) -> str:
        """For notebooks: phi from three sides and a table of facts."""
        from chorus.occupancy import summary

        return summary.html(self)

    @property
    def num_images(self) -> int:
        """Number of images that voted."""
        return int(self.group_images.sum())

    @cached_property
    def _sums(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return self._weighted(np.ones(self.scheme.num_groups, bool))

    def _weighted(self, groups: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Numerator and denominator over some groups, float64; view weights are computed from these groups' images alone."""
        r = self.scheme.weights(self.weighting, np.where(groups, self.group_totals, 0))
        num, den = np.zeros(self.num_counts.shape[1:]), np.zeros(self.num_counts.shape[1:])
        # Group by group in a fixed order: no (G, N, N, N) copy in floating point, and the same bits every time.
        for g in np.flatnonzero(groups & (r > 0) & (self.group_totals > 0)):
            if self.num_hidden is None or self.den_hidden is None or self.hidden_weight == 1:
                num += r[g] * self.num_counts[g]
                den += r[g] * self.den_counts[g]
            else:  # exact: the counts of hidden votes are part of the others
                num += r[g] * (self.num_counts[g] - self.num_hidden[g] + self.hidden_weight * self.num_hidden[g])
                den += r[g] * (self.den_counts[g] - self.den_hidden[g] + self.hidden_weight * self.den_hidden[g])
        return num, den

    @property
    def numerator(self) -> NDArray[np.float32]:
        """sum_k r_k M_k, (N, N, N) float32 (Eq. 6)."""
        return self._sums[0].astype(np.float32)

    @property
    def denominator(self) -> NDArray[np.float32]:
        """sum_k r_k I_k, (N, N, N) float32 (Eq. 6)."""
        return self._sums[1].astype(np.float32)

    @property
    def support(self) -> NDArray[np.int64]:
        """Images (integer weights summed) that saw each voxel, hidden or not, (N, N, N) int64: the evidence behind phi."""
        total: NDArray[np.int64] = self.den_counts.sum(0, dtype=np.int64)
        return total

    @property
    def probability(self) -> NDArray[np.float32]:
        """phi of Eq. 6, (N, N, N) float32 in [0, 1], indexed [ix, iy, iz]; 0 where no image saw the voxel."""
        return self.probability_with(min_support=1)

    def probability_with(self, min_support: int) -> NDArray[np.float32]:
        """phi of Eq. 6, (N, N, N) float32, set to 0 where fewer than ``min_support`` images (weights summed) saw the voxel."""
        min_support = check_whole("min_support", min_support, 0)
        phi = _ratio(*self._sums).astype(np.float32)
        phi[self.support < min_support] = 0.0
        return phi

    def reweight(self, weighting: str | None = None, *, hidden_weight: float | None = None) -> Occupancy:
        """The same counts under another view weighting, another weight of hidden votes, or both; no image is read.

        InputError for a weighting that the scheme cannot give, and for a weight of hidden votes that were not counted.
        """
        weighting = self.weighting if weighting is None else weighting
        weight = self.hidden_weight if hidden_weight is None else hidden.checked_weight(hidden_weight)
        return dataclasses.replace(self, weighting=weighting, hidden_weight=weight)

    def _with_hidden(self, change: Callable[[NDArray[Any]], NDArray[Any]]) -> dict[str, Any]:
        """The counts of hidden votes, changed as the other counts are; None where there are none."""
        return {k: None if c is None else change(c) for k in ("num_hidden", "den_hidden") for c in [getattr(self, k)]}

    def with_scheme(self, name: str) -> Occupancy:
        """The counts summed to a coarser scheme, e.g. ``azimuth`` from ``azimuth+folds``. InputError for a finer one."""
        target = Scheme(name)
        axes = tuple(a for a in range(3) if target.shape[a] == 1 and self.scheme.shape[a] > 1)
        if any(t > s for t, s in zip(target.shape, self.scheme.shape, strict=True)):
            raise InputError(f"scheme: expected one no finer than the {self.scheme.name!r} that was kept, got {name!r}")

        def summed(array: NDArray[Any]) -> NDArray[Any]:
            total = array.reshape(*self.scheme.shape, *array.shape[1:]).sum(axes, dtype=np.int64, keepdims=True)
            shaped: NDArray[Any] = total.reshape(target.num_groups, *array.shape[1:])
            return shaped

        return dataclasses.replace(
            self,
            num_counts=summed(self.num_counts),
            den_counts=summed(self.den_counts),
            group_totals=summed(self.group_totals),
            group_images=summed(self.group_images),
            scheme=target,
            **self._with_hidden(summed),
        )

    def of_folds(self, folds: list[int]) -> Occupancy:
        """The counts of some folds (0 .. 9) only; arrays keep their shapes. InputError where the scheme has no folds."""
        folds = check_array("folds", folds, ("n",), np.int64).tolist()
        keep = self._fold_mask(folds)
        shape = (-1, 1, 1, 1)
        return dataclasses.replace(
            self,
            num_counts=self.num_counts * keep.reshape(shape),
            den_counts=self.den_counts * keep.reshape(shape),
            group_totals=self.group_totals * keep,
            group_images=self.group_images * keep,
            sketch=self.sketch[np.isin(fold_of_hash(self.sketch), folds)],
            counted=None if self.counted is None else self.counted.of_folds(folds),
            **self._with_hidden(lambda counts: counts * keep.reshape(shape)),
        )

    def _fold_mask(self, folds: list[int]) -> NDArray[np.bool_]:
        if not self.scheme.has_folds:
            raise InputError(f"folds: none were kept by the scheme {self.scheme.name!r} (aggregate with '+folds')")
        if not folds or any(f not in range(FOLDS) for f in folds):
            raise InputError(f"folds: expected numbers 0 .. {FOLDS - 1}, got {folds}")
        mask = np.zeros(self.scheme.shape, bool)
        mask[folds] = True
        return mask.ravel()

    def jackknife_error(self) -> NDArray[np.float32]:
        """Standard error of phi by leaving out one fold of images at a time, (N, N, N) float32.

        sqrt((F - 1) / F sum_f (phi_(-f) - mean)^2) with F = 10; view weights are computed anew for each phi_(-f). InputError
        where the scheme has no folds.
        """
        mean, square = np.zeros(self.num_counts.shape[1:]), np.zeros(self.num_counts.shape[1:])
        for f in range(FOLDS):
            phi = _ratio(*self._weighted(~self._fold_mask([f])))
            step = phi - mean
            mean += step / (f + 1)
            square += step * (phi - mean)
        return np.sqrt(square * (FOLDS - 1) / FOLDS).astype(np.float32)

    def __add__(self, other: Occupancy) -> Occupancy:
        """The exact sum of counts from disjoint images.

        Raises MismatchError for another category, body, field, scheme, weighting, or rule or weight of hidden votes, and where
        the two share images: found exactly among up to 4 million of them, beyond that by shard and row, and by the smallest
        hashes of keys. They may be of different prompts or parts: the sum is then of all these images, and its
        provenance says of which. Where one of the two has no counts of hidden votes the sum has none, and all its votes weigh
        1: that, too, is warned of.
        """
        if not isinstance(other, Occupancy):
            return NotImplemented
        if self.category and other.category and self.category != other.category:
            raise MismatchError(f"cannot add occupancies of different category: {self.category!r} and {other.category!r}")
        for name, mine, theirs in (
            ("body", self.body_hash, other.body_hash),
            ("field", *_fields(self, other)),
            ("scheme", self.scheme.name, other.scheme.name),
            ("weighting", self.weighting, other.weighting),
        ):
            if mine != theirs:
                raise MismatchError(f"cannot add occupancies of different {name}: {mine} and {theirs}")
        self._refuse_shared_images(other)
        others = hidden.added(self, other)
        return dataclasses.replace(
            self,
            num_counts=self.num_counts.astype(np.int64) + other.num_counts,
            den_counts=self.den_counts.astype(np.int64) + other.den_counts,
            group_totals=self.group_totals + other.group_totals,
            group_images=self.group_images + other.group_images,
            category=self.category or other.category,
            sketch=np.union1d(self.sketch, other.sketch)[:SKETCH_SIZE],
            counted=None if self.counted is None or other.counted is None else self.counted | other.counted,
            provenance=[*self.provenance, *other.provenance],
            **others,
        )

    def _refuse_shared_images(self, other: Occupancy) -> None:
        """MismatchError where both have counted an image; a warning where files of earlier releases let it be suspected."""
        shared = int(np.intersect1d(self.sketch, other.sketch).size)
        if self.counted is None or other.counted is None:
            if shared:
                what = f"the occupancies added share images (at least {shared} keys): those are counted twice"
                warnings.warn(what, stacklevel=3)
            return
        shared = max(shared, self.counted.shared_with(other.counted))
        if shared:
            least = "" if self.counted.hashes is not None and other.counted.hashes is not None else "at least "
            raise MismatchError(
                f"cannot add occupancies that share images, which would be counted twice: {least}{shared} are in both (images "
                "in memory are told apart by their keys)"
            )

    def explain(self, point: Any, source: Any, canonical: CanonicalField, **selection: Any) -> Explanation:
        """The images of a source behind the voxel at a point (3,) in metres, for and against: ``chorus.votes.explain.explain``.

        canonical  the field that the votes were cast through; MismatchError for another
        selection  prompt, part, ... as for ``chorus.votes.explain.explain``; where none is given, prompt, part and folds are
                   those that the occupancy was made with, as far as its provenance has them

        Hidden votes are told apart where the occupancy has counts of them, and weigh what they do there. Raises MismatchError
        for a store of another body or category.
        """
        from chorus.occupancy.joins import explain_occupancy

        return explain_occupancy(self, point, source, canonical, selection)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a compressed HDF5 file, atomically: complete or not at all. InputError for a name that does not end in .h5."""
        save_occupancy(self, path)


def load_occupancy(path: str | os.PathLike[str]) -> Occupancy:
    """Read what ``Occupancy.save`` wrote. Raises InputError where the file is missing, damaged or of another kind."""
    with reading_occupancy(path) as content:
        return Occupancy(**content)


def _fields(one: Occupancy, other: Occupancy) -> tuple[str, str]:
    """The two fields in words, equal where they are one: the canonicalizations where these differ, else all parameters."""
    if one.field_hash == other.field_hash:
        return "", ""
    p, q = one.parameters, other.parameters
    if p.canonicalization != q.canonicalization:
        return f"canonicalization {p.canonicalization}", f"canonicalization {q.canonicalization}"
    return str(p), str(q)


def _ratio(num: NDArray[np.float64], den: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(num, den, out=np.zeros_like(num), where=den > 0)
