"""The work of an ablation in pieces, each kept once it is there: the votes and scores of one field, category and seed.

The rows whose estimator is found from the training images are a piece of each category and seed, too. Pieces do not depend on
each other, so that several processes can do a share of them each.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from chorus.body.model import Body
from chorus.camera.views import weighs_by_cell
from chorus.evaluate.ablation.estimated import EstimatedRows, Scored
from chorus.evaluate.ablation.rows import Sample, Setting, Where, chosen_images
from chorus.evaluate.ablation.scores import Target, count_rows, posed_voxels, score
from chorus.evaluate.pap.categories import CategoryPap
from chorus.evaluate.pap.metric import METRICS
from chorus.evaluate.pap.pixels import PapProtocol
from chorus.evaluate.unfinished import Unfinished
from chorus.field import CanonicalField, FieldParameters
from chorus.ranks import Share, share_by_size
from chorus.store import Store

Progress = Callable[[str, int, int | None], None]
POSED, SCORED = 1500, 25
"""As many images vote in the time in which one test image is posed, or scored for a row: on two cores, to a factor of two."""


@dataclass(frozen=True, eq=False)
class Piece:
    """The settings of one field, or of all estimators (``field`` None), for one category and the ``s``-th seed.

    name  under which the result is kept
    """

    name: str
    settings: tuple[Setting, ...]
    field: CanonicalField | None
    category: str
    s: int

    @property
    def least_rows(self) -> set[str]:
        """The rows that its result has in any case; those of a second source have one category alone."""
        return {setting.name for setting in self.settings if setting.sample.kind != "matched"}


@dataclass(frozen=True)
class Work:
    """All pieces of an ablation, and what they are computed from.

    by_seed  training stores by category, for each seed      others  stores of the second source, for each seed, or none
    images   category -> prepared test images                unfinished  where results are kept
    """

    settings: tuple[Setting, ...]
    body: Body
    where: Where | None
    seeds: tuple[int, ...]
    by_seed: list[dict[str, Store]]
    others: list[Store]
    images: dict[str, list[Target]]
    backend: str
    protocol: PapProtocol
    progress: Progress
    unfinished: Unfinished

    def pieces(self) -> list[Piece]:
        """All pieces, in the order in which they are computed: those that pose the same test images are neighbours."""
        fields: dict[FieldParameters, CanonicalField] = {}
        members: dict[FieldParameters, list[Setting]] = {}
        for setting in self.settings:
            if setting.estimator is None:
                field = CanonicalField(self.body, **setting.field)
                fields.setdefault(field.parameters, field)
                members.setdefault(field.parameters, []).append(setting)
        found = [
            Piece(f"{field.hash[:16]}, {category}, seed {seed}", tuple(members[parameters]), field, category, s)
            for parameters, field in fields.items()
            for category in self.images
            for s, seed in enumerate(self.seeds)
        ]
        estimated = tuple(setting for setting in self.settings if setting.estimator is not None)
        if estimated:
            found += [
                Piece(f"estimators, {category}, seed {seed}", estimated, None, category, s)
                for category in self.images
                for s, seed in enumerate(self.seeds)
            ]
        return found

    def share_of(self, pieces: Sequence[Piece], share: Share) -> list[Piece]:
        """The pieces that a share has: neighbours, of about as much work as every share's."""
        if share.whole:
            return list(pieces)
        votes = {
            (s, category): int(chosen_images(store, self.where, Sample(), self.seeds[s]).sum())
            for s, stores in enumerate(self.by_seed)
            for category, store in stores.items()
        }
        sizes = [self._size(piece, votes[piece.s, piece.category]) for piece in pieces]
        return [pieces[position] for position in share_by_size(sizes, share)]

    def _size(self, piece: Piece, votes: int) -> int:
        """About how much work a piece is, where so many images vote: voxels that vote, are posed and are scored."""
        passes = len({setting.estimator for setting in piece.settings} if piece.field is None else self._passes(piece))
        tests = len(self.images[piece.category])
        # Test images are posed once for all seeds, which mostly are in one share.
        each = votes * passes + SCORED * tests * len(piece.settings) + POSED * tests // len(self.seeds)
        return each * int(piece.settings[0].field["resolution"]) ** 3

    def kept(self, piece: Piece) -> Scored | None:
        """A piece's result: row -> number of images that voted, and its scores; None where it is not there."""
        found: Scored | None = self.unfinished.get(piece.name)
        return found if found is not None and piece.least_rows <= found.keys() else None

    def score(self, pieces: Sequence[Piece]) -> int:
        """Compute and keep those of the pieces whose results are not there; how many these are."""
        todo = [piece for piece in pieces if self.kept(piece) is None]
        rows = sum(len(piece.settings) for piece in pieces)
        scored = rows - sum(len(piece.settings) for piece in todo)
        runs = [(field, category, list(run)) for (field, category), run in groupby(todo, lambda p: (p.field, p.category))]
        poses, posed = sum(len(self.images[category]) for field, category, _ in runs if field is not None), 0
        estimated = EstimatedRows(self.body, self.images, self.backend, self.protocol)
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            for field, category, run in runs:
                voxels = []
                if field is not None:
                    for target in self.images[category]:
                        voxels.append(posed_voxels(target, field.parameters, self.body, self.backend))
                        posed += 1
                        self.progress("pose test images", posed, poses)
                for piece in run:
                    if piece.field is None:
                        found = self._score_estimators(piece, estimated, pool)
                    else:
                        found = self._score_field(piece, piece.field, voxels, pool)
                    self.unfinished.keep(piece.name, found)
                    scored += len(piece.settings)
                    self.progress("vote and score", scored, rows)
        return len(todo)

    def _score_estimators(self, piece: Piece, estimated: EstimatedRows, pool: ThreadPoolExecutor) -> Scored:
        store = self.by_seed[piece.s][piece.category]
        chosen = chosen_images(store, self.where, piece.settings[0].sample, self.seeds[piece.s])
        return estimated.score_seed(piece.category, store, chosen, piece.settings, pool)

    def _score_field(
        self, piece: Piece, field: CanonicalField, voxels: Sequence[NDArray[np.int32]], pool: ThreadPoolExecutor
    ) -> Scored:
        """Count the votes through the field, and score its rows; without those that the category has not."""
        found: Scored = {}
        for (from_other, scheme), members in self._passes(piece).items():
            store = self.others[piece.s] if from_other else self.by_seed[piece.s][piece.category]
            samples = {m.sample: chosen_images(store, self.where, m.sample, self.seeds[piece.s]) for m in members}
            counted = count_rows(store, samples, field, scheme, self.backend)
            for setting in members:
                occupancy = counted[setting.sample].reweight(setting.weighting)
                protocol = replace(self.protocol, splat="footprint") if setting.splat == "footprint" else self.protocol
                score_target = partial(score, occupancy.probability, extent=field.extent, protocol=protocol)
                results = tuple(pool.map(score_target, self.images[piece.category], voxels))
                scored = CategoryPap(piece.category, results)
                found[setting.name] = occupancy.num_images, {which: scored.mean(which) for which in METRICS}
        return found

    def _passes(self, piece: Piece) -> dict[tuple[bool, str], list[Setting]]:
        """The rows that votes are counted for together: by whether they come from the second source, and by scheme of views."""
        by_cell = any(weighs_by_cell(setting.weighting) for setting in piece.settings)
        found: dict[tuple[bool, str], list[Setting]] = {}
        for setting in piece.settings:
            if setting.sample.kind == "matched" and piece.category != self.others[piece.s].category:
                continue
            # Counts by elevation take six times the memory, and only rows of all filtered images are weighted by elevation.
            scheme = "azimuth-elevation" if by_cell and setting.sample.kind == "filtered" else "azimuth"
            found.setdefault((setting.from_other, scheme), []).append(setting)
        return found
