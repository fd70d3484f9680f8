"""Which images vote: by prompt, fold and filter, and by the body parts that the object touches (Eq. 13)."""

from __future__ import annotations

import ast
import fnmatch
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chorus.camera.views import FOLDS, fold_of_hash, key_hash
from chorus.errors import InputError, MismatchError, check_array, check_kind, check_texts
from chorus.field import CanonicalField
from chorus.images import ImageBatch
from chorus.store import Store, open_store
from chorus.store.background import BackgroundCheck
from chorus.store.filters import Filtered, FilterSpec, filter_rows
from chorus.votes.contacts import image_contacts, regions_digest, store_contacts
from chorus.votes.parts import EPSILON, InteractionRegions, interaction_regions
from chorus.votes.portion import Portion

Source = ImageBatch | Store | str | os.PathLike[str] | Iterable[ImageBatch]
"""Where images come from: memory, a store, or the path of one."""


@dataclass(frozen=True)
class PartQuery:
    """A condition on the parts that an image's object touches, such as ``rightHand and not (leftHand or face)``.

    text   names of parts joined by ``and``, ``or``, ``not`` and parentheses; a name that is not a plain word is quoted
    parts  the names in it, in order of appearance
    """

    text: str
    parts: tuple[str, ...]
    _test: Callable[[Callable[[str], NDArray[np.bool_]]], NDArray[np.bool_]]

    @classmethod
    def parse(cls, text: str, known: Sequence[str]) -> PartQuery:
        """The condition in ``text`` on parts of these names. InputError, quoting the text, for any other text."""
        names: list[str] = []
        try:
            tree = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            raise InputError(f"part: expected names of parts with and, or, not and parentheses, got {text!r}") from None

        def build(node: ast.expr) -> Callable[[Callable[[str], NDArray[np.bool_]]], NDArray[np.bool_]]:
            if isinstance(node, ast.BoolOp):
                tests = [build(value) for value in node.values]
                join = np.logical_and if isinstance(node.op, ast.And) else np.logical_or
                return lambda has: join.reduce([test(has) for test in tests])
            if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
                inner = build(node.operand)
                return lambda has: ~inner(has)
            if isinstance(node, ast.Name):
                name = node.id
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                name = node.value
            else:
                raise InputError(f"part: expected names of parts with and, or, not and parentheses, got {text!r}")
            if name not in known:
                raise InputError(f"part: expected parts among {', '.join(known)}; got {name!r} in {text!r}")
            names.append(name)
            return lambda has: has(name)

        test = build(tree)
        return cls(text, tuple(dict.fromkeys(names)), test)

    def __call__(self, bits: NDArray[np.int32], regions: InteractionRegions) -> NDArray[np.bool_]:
        """Which images fulfil the condition, (I,) bool; ``bits`` are the regions that each touches, (I,) int32."""
        return self._test(lambda name: regions.has(bits, name))


def matching_prompts(wanted: str | Sequence[str] | None, known: Sequence[str]) -> list[str] | None:
    """The prompts among ``known`` that have a name in ``wanted`` or match a shell pattern (``*``, ``?``) in it, sorted.

    None, which stands for any prompt, stays None. Raises InputError for an unknown name or a pattern that nothing matches.
    """
    if wanted is None:
        return None
    found: set[str] = set()
    for text in check_texts("prompt", wanted):
        if text in known:
            found.add(text)
            continue
        matches = [name for name in known if _matches(name, text)]
        if not matches:
            shown = ", ".join(repr(str(name)) for name in list(known)[:8])
            more = f" and {len(known) - 8} more" if len(known) > 8 else ""
            raise InputError(f"prompt: expected one of {shown}{more}, or a pattern of them; got {text!r}")
        found.update(matches)
    return sorted(found)


def _matches(prompt: str, wanted: str) -> bool:
    """Whether a prompt is the one wanted, or fits the shell pattern with ``*`` or ``?``."""
    return prompt == wanted or (bool(set("*?") & set(wanted)) and fnmatch.fnmatchcase(prompt, wanted))


class SelectedImages:
    """The images of a source that a selection keeps, batch by batch; can be iterated once.

    source        ImageBatch, an iterable of them, a Store, or the path of one
    prompt        a prompt, several, or shell patterns of prompts (``matching_prompts``)
    part          a condition on the body parts that the object touches (``PartQuery``); parts, epsilon as in
                  ``chorus.votes.parts.interaction_regions``. The contacts of a store's images are cached beside it.
    folds         only images of these folds, 0 .. 9 by a hash of their key
    where         for a store: a predicate over its rows (columns in, (rows,) bool out)
    filter        for a store: which of its complete images are used, or how much each counts: "store" the store's filter, if it
                  has one; "none"; "paper" or "soft" the rules of A.3; a ``Filter``; or the path of a file with one.
                  A soft filter gives the batches weights.
    backend       computes the contacts: "auto", "triton", "numba", "reference"
    batch_size    images in a batch, at most
    portion       for a store: which of the images selected are taken; None: all

    Iterating gives pairs: a batch of I images that prompt, folds, ``where`` and ``filter`` select, and which of them fulfil
    ``part``, (I,) bool. ``filtered`` says what the filter kept; None without a filter. A store given as a path is checked in
    threads while its images are read (``BackgroundCheck``; before that where contacts are asked for): StoreError for damage
    comes before the last pair at the latest, or after it in place of the end.
    Raises InputError for arguments that cannot be used, MismatchError for images of another body.
    """

    def __init__(
        self,
        source: Source,
        field: CanonicalField,
        prompt: str | Sequence[str] | None = None,
        part: str | None = None,
        *,
        parts: Any = None,
        epsilon: float = EPSILON,
        folds: Sequence[int] | None = None,
        where: Callable[[Any], NDArray[np.bool_]] | None = None,
        filter: FilterSpec = "store",
        backend: str = "auto",
        batch_size: int = 4096,
        portion: Portion | None = None,
    ) -> None:
        check_kind("field", field, CanonicalField)
        if where is not None and not callable(where):
            raise InputError(f"where: expected a predicate over a store's rows, got a {type(where).__name__}")
        if part is not None:
            check_kind("part", part, str)
        if folds is not None:
            folds = check_array("folds", folds, ("n",), np.int64).tolist()
            if not folds or any(f not in range(FOLDS) for f in folds):
                raise InputError(f"folds: expected numbers 0 .. {FOLDS - 1}, got {folds}")
        prompt = None if prompt is None else check_texts("prompt", prompt)
        self._unchecked: Store | None = None
        self._check: BackgroundCheck | None = None
        if isinstance(source, (str, os.PathLike)):
            source = open_store(source, verify=False)
            source.check_while_read = True
        if isinstance(source, Store) and source.check_while_read:
            self._unchecked = source
            if part is not None:
                # Contacts are kept on disk under the store's digest, so what they are made of must be right before.
                with BackgroundCheck(source) as check:
                    check.finish()
                self._unchecked = None
        self._source, self._field, self._folds, self._backend = source, field, folds, backend
        if part is not None:
            self._field = field.around_body  # a part's region must move with the part, whatever carries the object
        self._regions = None if part is None else interaction_regions(self._field, parts, epsilon)
        self._query = None if part is None or self._regions is None else PartQuery.parse(part, self._regions.names)
        self.asked: dict[str, Any] = {"prompts": prompt, "folds": folds}
        """For the provenance: prompts or patterns and folds, None for any; of parts of the user's own, names and a digest."""
        if where is not None:
            self.asked["where"] = True  # which images those were, nobody can ask again
        if self._regions is not None and parts is not None:
            self.asked |= {"parts": list(self._regions.names), "regions": regions_digest(self._regions)}
        self.filtered: Filtered | None = None
        self.source_id, self.category = "memory", ""
        self.total: int | None = None
        self.rows: NDArray[np.int64] | None = None
        """Of a store: the rows selected, (m,) ascending, in the order of the batches."""
        if isinstance(source, Store):
            try:
                self._batches, self.rows, self.filtered = _of_store(source, field, prompt, where, filter, batch_size, portion)
                self.total = len(self.rows)
            except InputError:  # of columns that may be damaged: that is what to say then
                if self._unchecked is not None:
                    with BackgroundCheck(self._unchecked) as check:
                        check.finish()
                raise
            self.source_id, self.category = source.id, source.category
        else:
            if portion is not None:
                raise InputError("portion: expected a store for a share of its images, got images in memory")
            self._batches, self.total = _of_memory(source, prompt, where, filter, batch_size)
        self.read = 0
        """Images read so far, out of ``total`` where that is known."""

    @property
    def store(self) -> Store | None:
        """The store that images come from; None for images in memory."""
        return self._source if isinstance(self._source, Store) else None

    def __iter__(self) -> Iterator[tuple[ImageBatch, NDArray[np.bool_]]]:
        for batch, keep, _ in self.with_rows():
            yield batch, keep

    def with_rows(self) -> Iterator[tuple[ImageBatch, NDArray[np.bool_], NDArray[np.int64] | None]]:
        """As iterating, with the rows of each batch's images in the store, (I,) int64; None for images in memory."""
        if self._unchecked is None:
            yield from self._selected()
            return
        with BackgroundCheck(self._unchecked, self.rows) as self._check:
            check = self._check
            try:
                for selected in self._selected():
                    check.raise_found()
                    yield selected
            except InputError:  # by numbers that are no use, perhaps: if they are damaged, that is what to say
                check.finish()
                raise
            check.finish()

    def check_read(self) -> None:
        """Wait for the check of what was read so far; nothing made of it may be kept before. StoreError for damage."""
        if self._check is not None and self._unchecked is not None and self.rows is not None and self.read:
            last = int(np.searchsorted(self._unchecked.first_rows, self.rows[self.read - 1], "right")) - 1
            self._check.finish_through(self._unchecked.shards[last])

    def _selected(self) -> Iterator[tuple[ImageBatch, NDArray[np.bool_], NDArray[np.int64] | None]]:
        for batch, bits in self._with_contacts():
            if batch.poses.shape[1] != self._field.body.num_joints:
                raise MismatchError(
                    f"poses: expected the {self._field.body.num_joints} joints of the field's body, got {batch.poses.shape[1]}"
                )
            rows = None if self.rows is None else self.rows[self.read : self.read + len(batch)]
            self.read += len(batch)
            keep = np.ones(len(batch), np.bool_)
            if self._query is not None and self._regions is not None and bits is not None:
                keep = self._query(bits, self._regions)
            if self._folds is not None:
                of_folds = np.isin(fold_of_hash(key_hash(batch.keys)), list(self._folds))
                batch, keep, rows = batch[of_folds], keep[of_folds], None if rows is None else rows[of_folds]
            yield batch, keep, rows

    def _with_contacts(self) -> Iterator[tuple[ImageBatch, NDArray[np.int32] | None]]:
        """Each batch with the regions that its images touch, (I,) int32; None where no condition asks for them."""
        field, regions = self._field, self._regions
        if regions is None:
            yield from ((batch, None) for batch in self._batches)
            return
        if isinstance(self._source, Store) and self.rows is not None:
            bits, at = store_contacts(self._source, field, regions, self._backend, rows=self.rows), 0
            for batch in self._batches:
                yield batch, bits[self.rows[at : at + len(batch)]]
                at += len(batch)
        else:
            yield from ((batch, image_contacts(batch, field, regions, self._backend)) for batch in self._batches)

    def why_none(self) -> str:
        """The error message for a selection that kept no image."""
        if self.read == 0 and isinstance(self._source, Store):
            if self.filtered is not None and self.filtered.images:
                return f"no image of the store is selected: the filter keeps none ({self.filtered})"
            return (
                f"no image of the store is selected: it has {len(self._source)} rows, prompts: {_shown(self._source.prompts)}"
            )
        if self.read == 0:
            return "no image to aggregate: the source is empty"
        asked = [f"part {self._query.text!r}"] if self._query is not None else []
        asked += [f"folds {list(self._folds)}"] if self._folds is not None else []
        return f"no image to aggregate: of the {self.read} read, none matches {' and '.join(asked) or 'the selection'}"


def _of_store(
    store: Store,
    field: CanonicalField,
    prompt: str | Sequence[str] | None,
    where: Any,
    filter: FilterSpec,
    batch_size: int,
    portion: Portion | None,
) -> tuple[Iterator[ImageBatch], NDArray[np.int64], Filtered | None]:
    """Batches of the images selected, their rows, and what the filter kept of the whole selection."""
    if store.body_hash and store.body_hash != field.body.hash:
        raise MismatchError(
            f"store: expected one made with the field's body, {field.body.name} {field.body.hash[:12]}, got one made with "
            f"{store.body_hash[:12]}"
        )
    rows = store.select(where, prompt=matching_prompts(prompt, store.prompts))
    rows, weights, filtered = filter_rows(store, rows, filter)
    if portion is not None:
        chosen = portion.of_rows(store, rows)
        rows, weights = rows[chosen], None if weights is None else weights[chosen]
    batches = store.batches(rows, size=batch_size)
    return (batches if weights is None else _weighed(batches, weights)), rows, filtered


def _weighed(batches: Iterator[ImageBatch], weights: NDArray[np.uint8]) -> Iterator[ImageBatch]:
    """The batches with weights, one for each image in the order of the batches."""
    first = 0
    for batch in batches:
        yield batch.with_weights(weights[first : first + len(batch)])
        first += len(batch)


def _of_memory(
    source: ImageBatch | Iterable[ImageBatch], prompt: str | Sequence[str] | None, where: Any, filter: FilterSpec, size: int
) -> tuple[Iterator[ImageBatch], int | None]:
    """Batches of the images selected, and their number if it is known in advance."""
    if where is not None:
        raise InputError(
            "where: a predicate over rows needs a store, got images in memory; select from an ImageBatch by indexing it"
        )
    if not isinstance(filter, str) or filter not in ("store", "none"):
        raise InputError("filter: images in memory have no scores to filter by; give a store, or no filter")
    if isinstance(source, ImageBatch):
        return _pieces([source], prompt, size), len(source) if prompt is None else None
    if not isinstance(source, Iterable):
        raise InputError(
            "images_or_store: expected an ImageBatch, an iterable of them, a Store or the path of one, "
            f"got a {type(source).__name__}"
        )
    return _pieces(source, prompt, size), None


def _pieces(batches: Iterable[ImageBatch], prompt: str | Sequence[str] | None, batch_size: int) -> Iterator[ImageBatch]:
    for batch in batches:
        if not isinstance(batch, ImageBatch):
            raise InputError(f"images_or_store: expected ImageBatches, got a {type(batch).__name__} among them")
        if prompt is not None:
            if batch.prompts is None:
                raise InputError(f"prompt: expected images with prompts to select {prompt!r}, got images without")
            batch = batch[_of_prompts(batch.prompts, prompt)]
        for first in range(0, len(batch), batch_size):
            yield batch[first : first + batch_size]


def _shown(prompts: Any) -> str:
    names = [repr(str(p)) for p in prompts]
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _of_prompts(prompts: NDArray[np.str_], wanted: str | Sequence[str]) -> NDArray[np.bool_]:
    """Which images are of these prompts or patterns, (I,) bool. Unlike in ``matching_prompts``, none at all is no error."""
    patterns = [wanted] if isinstance(wanted, str) else wanted
    names, which = np.unique(prompts, return_inverse=True)
    matches = [any(_matches(name, pattern) for pattern in patterns) for name in names.tolist()]
    selected: NDArray[np.bool_] = np.array(matches, np.bool_)[which]
    return selected
