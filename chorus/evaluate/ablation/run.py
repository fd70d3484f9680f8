"""Ablations (Table 2 and beyond): every row from the same stores, scored on the same test images, over several seeds.

Work is shared among rows. For each field every image votes once, however many rows use it: the samples are split into
disjoint cells, whose counts add. View weights are applied to the counts afterwards. The canonical voxel that Eq. 11 assigns to
a posed voxel depends only on pose and field, so that table is computed once for each test image and field, by posing voxel
indices in place of phi, and serves all rows and seeds.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chorus.body.model import Body, load_body
from chorus.errors import InputError, MismatchError
from chorus.evaluate.ablation.pieces import Progress, Work
from chorus.evaluate.ablation.rows import AblationOptions, Setting, Where, settings
from chorus.evaluate.ablation.scores import targets
from chorus.evaluate.intervals import t_interval
from chorus.evaluate.pap.categories import MIN_IMAGES
from chorus.evaluate.pap.metric import METRICS
from chorus.evaluate.pap.pixels import PAPER, PapProtocol
from chorus.evaluate.unfinished import Unfinished
from chorus.ranks import Share
from chorus.store import Store

Scores = dict[str, float | None]
"""Metric (a name in METRICS) -> a category's PAP, 0 to 1, or None where every target is empty."""


@dataclass(frozen=True, eq=False)
class AblationRow:
    """One row: its setting, and category -> number of images that voted, and scores, for each seed."""

    setting: Setting
    images: dict[str, list[int]]
    scores: dict[str, list[Scores]]

    @property
    def name(self) -> str:
        return self.setting.name

    def values(self, which: str = "vanilla", category: str | None = None) -> NDArray[np.float64]:
        """PAP of a category by seed, or mPAP over the row's categories that have the metric, (S,) float64; NaN where none has.

        Whether a category has it depends only on its test images, so it is the same for all rows and seeds. Tables saved by
        older releases may lack newer metrics.
        """
        if which not in METRICS:
            raise KeyError(which)
        chosen = [c for c in self.scores if category in (None, c)]
        if category is not None and not chosen:
            raise KeyError(category)
        table = np.array([[np.nan if (v := s.get(which)) is None else v for s in self.scores[c]] for c in chosen], np.float64)
        scored = table[~np.isnan(table).any(1)]
        return np.asarray(scored.mean(0)) if len(scored) else np.full(table.shape[1], np.nan)

    def mean(self, which: str = "vanilla", category: str | None = None) -> tuple[float, float]:
        """Mean over the seeds and the half width of its 95 % t-interval."""
        return t_interval(self.values(which, category))


@dataclass(frozen=True, eq=False)
class AblationTable:
    """The rows of an ablation over ``seeds``.

    categories   category -> number of test images
    replicated   whether each seed has separate training stores; else seeds differ only in the samples drawn, and rows that
                 draw nothing have no spread
    facts        options, protocol, body, stores
    seconds      time it took
    """

    rows: tuple[AblationRow, ...]
    categories: dict[str, int]
    seeds: tuple[int, ...]
    replicated: bool
    facts: dict[str, Any]
    seconds: float

    def row(self, name: str) -> AblationRow:
        """The row of this name; KeyError for an unknown one."""
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(name)

    def difference(self, name: str, other: str, which: str = "vanilla", category: str | None = None) -> tuple[float, float]:
        """Mean of (row - other row) over the seeds and the half width of its 95 % t-interval.

        Differences are paired by seed, and averaged over the categories that both rows have, or of one. Raises KeyError for
        an unknown row or category.
        """
        first, second = self.row(name), self.row(other)
        both = [c for c in first.scores if c in second.scores] if category is None else [category]
        differences = np.stack([first.values(which, c) - second.values(which, c) for c in both])
        scored = differences[~np.isnan(differences).any(1)]
        return t_interval(scored.mean(0) if len(scored) else differences[0])


def ablate(
    training: Sequence[Sequence[Store]],
    tests: Sequence[Store],
    *,
    seeds: Sequence[int] = range(5),
    where: Where | None = None,
    other: Sequence[Store] = (),
    source_names: tuple[str, str] = ("first source", "other source"),
    options: AblationOptions | None = None,
    body: Body | None = None,
    backend: str = "auto",
    protocol: PapProtocol = PAPER,
    min_images: int = MIN_IMAGES,
    progress: Progress | None = None,
    unfinished: Unfinished | None = None,
    where_text: str = "",
) -> AblationTable:
    """Every row of ``settings(options)``, on the same test images, over seeds.

    training      stores for each seed, one per category; a single list serves all seeds, which then differ only in the samples
    tests         test stores, one per category, with at least ``min_images`` complete images
    seeds         at least two different ones, from which samples are drawn
    where         the filter, a predicate over a store's rows; None: all complete images, and no row without filter
    other         the second source: a store for each seed, or one for all, of one of the categories
    source_names  of the first and the second source in the table
    body          that the stores were made with; default: the built-in one
    backend       for votes and posing, as in ``aggregate``
    protocol      of PAP; rows of other resolutions always use splat="footprint"
    progress      called with (stage, done, total)
    unfinished    where the scores of a field, category and seed are kept once they are there, and taken from if they are
                  there already: an interrupted call can be repeated, and shares (``ablate_share``) be taken together
    where_text    what ``where`` is, in words: with it ``unfinished`` tells filters apart

    Raises InputError for stores, seeds and options that do not match, MismatchError for stores of another body.
    """
    began = time.perf_counter()
    work, facts = _prepared(
        _Given(training, tests, seeds, where, other, source_names, options, body, where_text),
        backend,
        protocol,
        min_images,
        progress,
        unfinished,
    )
    pieces = work.pieces()
    work.score(pieces)
    rows = {id(setting): AblationRow(setting, {}, {}) for setting in work.settings}
    for piece in pieces:
        found = work.kept(piece)
        assert found is not None  # it is scored
        for setting in (setting for setting in piece.settings if setting.name in found):
            images, scores = found[setting.name]
            rows[id(setting)].images.setdefault(piece.category, []).append(images)
            rows[id(setting)].scores.setdefault(piece.category, []).append(scores)
    counts = {category: len(of_category) for category, of_category in work.images.items()}
    return AblationTable(tuple(rows.values()), counts, work.seeds, len(training) > 1, facts, time.perf_counter() - began)


def ablate_share(
    share: Share,
    training: Sequence[Sequence[Store]],
    tests: Sequence[Store],
    *,
    unfinished: Unfinished,
    seeds: Sequence[int] = range(5),
    where: Where | None = None,
    other: Sequence[Store] = (),
    source_names: tuple[str, str] = ("first source", "other source"),
    options: AblationOptions | None = None,
    body: Body | None = None,
    backend: str = "auto",
    protocol: PapProtocol = PAPER,
    min_images: int = MIN_IMAGES,
    progress: Progress | None = None,
    where_text: str = "",
) -> int:
    """A share of the work of ``ablate``, for one of several processes; how many pieces of it were scored now.

    A piece is one field, or all estimators, for one category and seed. The shares of all numbers are disjoint, and are all of
    the work, whatever the processes do; each has about as much, by what is voted, posed and scored. Test images are posed for
    the pieces of a share alone.

    share       which one
    unfinished  where the results are kept, ``Unfinished.beside(output, share)``: each share needs a file of its own. ``ablate``
                with ``Unfinished.beside(output)`` then takes them all, scores what is missing, and its table is the same

    The rest, and what is raised, is as in ``ablate``, and must be the same in all shares.
    """
    work, _ = _prepared(
        _Given(training, tests, seeds, where, other, source_names, options, body, where_text),
        backend,
        protocol,
        min_images,
        progress,
        unfinished,
    )
    return work.score(work.share_of(work.pieces(), share))


@dataclass(frozen=True)
class _Given:
    """What the results depend on, as ``ablate`` is given it."""

    training: Sequence[Sequence[Store]]
    tests: Sequence[Store]
    seeds: Sequence[int]
    where: Where | None
    other: Sequence[Store]
    source_names: tuple[str, str]
    options: AblationOptions | None
    body: Body | None
    where_text: str


def _prepared(
    given: _Given,
    backend: str,
    protocol: PapProtocol,
    min_images: int,
    progress: Progress | None,
    unfinished: Unfinished | None,
) -> tuple[Work, dict[str, Any]]:
    """The work that is to be done, none of it yet, and the facts of the table; what is given is checked."""
    where, body = given.where, load_body() if given.body is None else given.body
    options = AblationOptions(filtered=where is not None) if given.options is None else given.options
    if options.filtered and where is None:
        raise InputError("where: expected a filter, as options.filtered asks for a row without one; got None")
    seeds = tuple(int(seed) for seed in given.seeds)
    by_seed, test, others = _checked(given.training, given.tests, given.other, seeds, body)
    rows = settings(options, given.source_names if others else None)
    images = {category: targets(store, body, protocol) for category, store in test.items()}
    for category, of_category in images.items():
        with_object = sum(bool(t.mask.any()) for t in of_category)
        if len(of_category) < min_images or not with_object:
            raise InputError(
                f"tests: expected at least {min_images} complete images of {category!r}, some with an object, "
                f"got {len(of_category)}, {with_object} with one"
            )
    facts = {
        "resolution": options.resolution,
        "extent": options.extent,
        "splat": protocol.splat,
        "interpolation": protocol.interpolation,
        "shorter_side": protocol.shorter_side,
        "thresholds": protocol.num_thresholds,
        "body": body.name,
        "body_hash": body.hash,
        "training_images": {c: [len(stores[c]) for stores in by_seed] for c in test},
        "stores": {
            "training": {c: [stores[c].id for stores in by_seed] for c in test},
            "tests": {c: store.id for c, store in test.items()},
            "other": [store.id for store in others],
        },
    }
    if others:
        facts["other_images"] = {others[0].category: [len(store) for store in others]}
    unfinished = Unfinished() if unfinished is None else unfinished
    unfinished.begin({**facts, "filter": given.where_text, "rows": [row.name for row in rows]})
    told = progress or (lambda *_: None)
    work = Work(tuple(rows), body, where, seeds, by_seed, others, images, backend, protocol, told, unfinished)
    return work, facts


def _checked(
    training: Sequence[Sequence[Store]], tests: Sequence[Store], other: Sequence[Store], seeds: tuple[int, ...], body: Body
) -> tuple[list[dict[str, Store]], dict[str, Store], list[Store]]:
    """Training stores by seed and category, test stores by category, stores of the second source by seed."""
    if len(seeds) < 2 or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise InputError(f"seeds: expected at least two different ones >= 0, got {list(seeds)}")
    for name, given in (("training", training), ("other", other)):
        if given and len(given) not in (1, len(seeds)):
            raise InputError(f"{name}: expected stores for each of {len(seeds)} seeds, or for all of them, got {len(given)}")
    test = _by_category("tests", tests)
    by_seed = [_by_category("training", stores) for stores in training]
    for stores in by_seed:
        if set(stores) != set(test):
            raise InputError(f"training: expected the test stores' categories {sorted(test)}, got {sorted(stores)}")
    if not by_seed or not test:
        raise InputError(f"training, tests: expected stores, got {len(by_seed)} and {len(test)}")
    if other and ({store.category for store in other} - set(test) or len({store.category for store in other}) > 1):
        raise InputError(f"other: expected stores of one of {sorted(test)}, got {sorted({s.category for s in other})}")
    for store in [*(s for stores in by_seed for s in stores.values()), *test.values(), *other]:
        if store.body_hash not in (None, body.hash):
            raise MismatchError(f"stores: {store.path} was made with body {store.body_hash}, expected {body.hash}")
    repeat = len(seeds) if len(by_seed) == 1 else 1
    return by_seed * repeat, test, list(other) * (len(seeds) if len(other) == 1 else 1)


def _by_category(name: str, stores: Sequence[Store]) -> dict[str, Store]:
    categories = [store.category for store in stores]
    if len(set(categories)) < len(categories):
        raise InputError(f"{name}: expected one store for each category, got {categories}")
    return dict(zip(categories, stores, strict=True))
