"""An aggregation of a store as a job: by one process or several of torchrun, in shares, stopped and gone on with, or as an
update of what an occupancy has counted. Counts are integers, so that the result is the same bits in every case."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from chorus.camera.views import key_hash
from chorus.errors import InputError, MismatchError
from chorus.field import CanonicalField
from chorus.occupancy import hidden
from chorus.occupancy.aggregation import aggregate, scheme_for
from chorus.occupancy.counts import SKETCH_SIZE, Occupancy
from chorus.occupancy.derived import derived_field
from chorus.occupancy.hidden_choice import weigh_hidden
from chorus.occupancy.ledger import SECONDS, Ledger
from chorus.occupancy.merging import COUNTS, check_selection, joined_entries, narrowed, unweighed
from chorus.ranks import Ranks, Share
from chorus.store import Store, open_store
from chorus.store.filters import Filter, filter_rows, find_filter
from chorus.store.opening import open_rest
from chorus.store.schema import store_digest
from chorus.store.urls import place_of
from chorus.votes.counted import Counted
from chorus.votes.portion import Portion
from chorus.votes.selection import matching_prompts

_CHUNK = 1 << 24  # counts that are sent at a time
_OF_THE_IMAGES = ("prompt", "part", "parts", "epsilon", "folds", "filter", "backend")


@dataclasses.dataclass(frozen=True)
class Job:
    """What is counted, by whom, and what of it is kept.

    store    path of the store                  field   the votes are cast through, before a canonicalization is derived
    how      arguments of ``aggregate``: weighting, scheme, prompt, part, parts, epsilon, totals, folds, filter, backend,
             hidden_weight, canonicalization
    share    of the images that this job counts  ranks   the processes that do it together
    update   an occupancy whose images were counted before, with the same arguments; the result has both
    ledger   folder of the ledger; None: none   seconds between two entries of it
    replace  whether a ledger of another job in that folder is removed, instead of refused
    """

    store: str | Path
    field: CanonicalField
    how: Mapping[str, Any]
    share: Share = dataclasses.field(default_factory=Share)
    ranks: Ranks = dataclasses.field(default_factory=Ranks)
    update: Occupancy | None = None
    ledger: Path | None = None
    seconds: float = SECONDS
    replace: bool = False

    def run(self, save: Callable[[Occupancy], None] | None = None, **watch: Any) -> Occupancy | None:
        """Count; the occupancy in the first process, None in the others.

        save   called with the occupancy in the first process, before the ledger is removed
        watch  progress and timings, as for ``aggregate``

        Raises InputError where nothing is selected, MismatchError where the update is of an occupancy with other arguments,
        and as ``aggregate`` and ``Ledger.begin`` do.
        """
        how = dict(self.how)
        weight = how.pop("hidden_weight", None)
        root = place_of("path", self.store)
        how["filter"] = self.ranks.agree(lambda: find_filter(how.get("filter", "store"), root) or "none")
        store, left_out = self._opened(how)
        store.check_while_read = True
        # Of a store that grows meanwhile, all processes count what the first one found.
        shards, left_out = self.ranks.agree(lambda: (frozenset(shard.sha256 for shard in store.shards), left_out))
        there = shards | left_out
        field, derived = self._agreed_field(store, how)
        if self.update is not None:
            _check_update(self.update, field, how, weight)
            if self.update.category and store.category and self.update.category != store.category:
                raise MismatchError(f"update: expected images of {self.update.category!r}, got a store of {store.category!r}")
        ledger = None if self.ledger is None else Ledger(self.ledger, self._facts(there, field, how, weight), self.seconds)
        before: Occupancy | None = None

        def begin() -> tuple[Any, Counted | None]:
            nonlocal before
            before = None if ledger is None else ledger.begin(self.replace)
            known = [o.counted for o in (self.update, before) if o is not None and o.counted is not None]
            if self.update is not None and self.update.counted is None:
                raise InputError(
                    "update: expected an occupancy that says which images it has counted, got one of an old release"
                )
            if self.update is not None and self.update.counted is not None:
                _refuse_remade(self.update.counted, store)
            skip = None if not known else known[0] if len(known) == 1 else known[0] | known[1]
            return None if ledger is None else ledger.state, skip

        state, skip = self.ranks.agree(begin)
        if ledger is not None:
            ledger.joined(*state)
        counted = aggregate(
            store,
            field,
            **how,
            hidden_weight=None if weight is None else 1.0,
            portion=Portion(self.share, skip, self.ranks.as_share, shards),
            checkpoint=None if ledger is None else ledger.entries(self.ranks.rank, self.ranks.world),
            allow_none=not self._alone(skip),
            **watch,
        )
        entry = {**counted.provenance[0], "source": store_digest(there), **derived}
        mine = reduced(dataclasses.replace(counted, provenance=[entry]), self.ranks)
        if mine is None:
            return None
        updated = {} if self.update is None or self.update.counted is None else self.update.counted.shards
        total = self._finished(mine, before, weight, updated.keys() <= there)
        if save is not None:
            save(total)
        if ledger is not None:
            ledger.remove()
        return total

    def _opened(self, how: Mapping[str, Any]) -> tuple[Store, frozenset[str]]:
        """The store, for an update without the shards that have nothing to count, and the digests of these.

        Opening a shard from a cold disk takes as long as the votes of some hundred images. All are opened where what is left
        could be judged in another way than the whole: by prompts that it lacks, or rules of a filter whose scores it lacks.
        """
        done = frozenset[str]() if self.update is None or not self.share.whole or how.get("part") else _all_done(self.update)
        store, left_out = open_rest(self.store, done, verify=False)
        if left_out and self.update is not None and not _judged_alike(store, how, self.update):
            return open_store(self.store, verify=False), frozenset()
        return store, left_out

    def _alone(self, skip: Counted | None) -> bool:
        return self.share.whole and self.ranks.world == 1 and skip is None

    def _agreed_field(self, store: Store, how: dict[str, Any]) -> tuple[CanonicalField, dict[str, Any]]:
        """The field that votes are cast through, chosen once for all processes, and what the provenance says of it."""
        asked = how.pop("canonicalization", None)
        if self.update is not None:
            entry = self.update.provenance[0].get("canonicalization")
            p = self.update.parameters
            joints = None if p.joint_map is None else p.joint_map.joints
            if asked not in (None, p.canonicalization, (entry or {}).get("asked")):
                raise MismatchError(f"update: expected the occupancy's canonicalization {p.canonicalization}, got {asked}")
            same = self.field if self.field.parameters == p else self.field.with_canonicalization(p.canonicalization, joints)
            return same, {} if entry is None else {"canonicalization": entry}
        if asked is None:
            return self.field, {}

        def choose() -> tuple[str, Any, dict[str, Any]]:
            selection = {name: how[name] for name in _OF_THE_IMAGES if name in how}
            found, record = derived_field(store, self.field, asked, **selection)
            joint_map = found.parameters.joint_map
            return found.canonicalization, None if joint_map is None else joint_map.joints, record

        name, joints, record = self.ranks.agree(choose)
        return self.field.with_canonicalization(name, joints), record

    def _facts(self, shards: Iterable[str], field: CanonicalField, how: Mapping[str, Any], weight: Any) -> dict[str, Any]:
        """What two runs must have in common for one to go on with what the other has counted."""
        chosen: Filter | str = how["filter"]
        parts = how.get("parts")
        with suppress(OSError, TypeError):
            parts = hashlib.sha256(Path(parts).read_bytes()).hexdigest()  # type: ignore[arg-type]
        since = None if self.update is None or self.update.counted is None else self.update.counted.num_images
        return {
            **{k: v for k, v in how.items() if k not in ("filter", "parts", "backend", "batch_size")},
            "store": store_digest(shards),
            "field": field.hash,
            "body": field.body.hash,
            "filter": chosen if isinstance(chosen, str) else chosen.to_json(),
            "parts": None if parts is None else str(parts),
            "hidden": weight is not None,
            "share": str(self.share),
            "update": since,
        }

    def _finished(self, mine: Occupancy, before: Occupancy | None, weight: Any, known: bool) -> Occupancy:
        """All that was counted, hidden votes weighed as asked, with one entry in the provenance for this job.

        known  whether the store has all shards that the update has images of
        """
        total = mine if before is None else before + mine
        entry = dict(mine.provenance[0])
        if before is not None:
            for name in ("images", "selected"):
                if name in entry:
                    entry[name] += sum(e.get(name, 0) for e in before.provenance)
        entries = [entry]
        if self.update is not None:
            total = unweighed(self.update) + total
            kept = unweighed(self.update).provenance
            if self.share.whole and known:  # shares that were missing are counted now
                kept = [{k: v for k, v in e.items() if k not in ("share", "shares")} for e in kept]
            entries = [*kept, *([entry] if entry["images"] or entry.get("selected") else [])]
        total = dataclasses.replace(narrowed(total), provenance=joined_entries(entries) if self.share.whole else entries)
        if total.num_images == 0 and self.share.whole:
            raise InputError("no image of the store is selected")
        return total if weight is None else weigh_hidden(total, weight)


def reduced(mine: Occupancy, ranks: Ranks) -> Occupancy | None:
    """The sum over all processes of what each has counted, in the first one; None in the others."""
    if ranks.world == 1:
        return mine
    import torch.distributed as dist

    def total(counts: NDArray[Any]) -> NDArray[np.int64]:
        summed = np.ascontiguousarray(counts, np.int64).reshape(-1)
        device = torch.device("cuda", torch.cuda.current_device()) if ranks.on_gpus else torch.device("cpu")
        for first in range(0, len(summed), _CHUNK):
            part = torch.from_numpy(summed[first : first + _CHUNK].copy()).to(device)
            dist.all_reduce(part)
            summed[first : first + _CHUNK] = part.cpu().numpy()
        return summed.reshape(counts.shape)

    arrays = {name: getattr(mine, name) for name in (*COUNTS, "group_totals", "group_images")}
    sums: dict[str, Any] = {name: None if counts is None else total(counts) for name, counts in arrays.items()}
    others: list[Any] | None = [None] * ranks.world if ranks.first else None
    dist.gather_object((mine.counted, mine.sketch, mine.provenance[0]), others, dst=0)
    if others is None:
        return None
    known = Counted()
    for counted, _, _ in others:
        known = known | counted
    entry = dict(mine.provenance[0])
    for name in ("images", "selected"):
        if name in entry:
            entry[name] = sum(told[name] for _, _, told in others)
    sketch = np.unique(np.concatenate([s for _, s, _ in others]))[:SKETCH_SIZE]
    entry["processes"] = ranks.world
    return dataclasses.replace(mine, **sums, counted=known, sketch=sketch, provenance=[entry])


def _check_update(update: Occupancy, field: CanonicalField, how: Mapping[str, Any], hidden_weight: Any) -> None:
    """MismatchError where an occupancy was made with other arguments than those asked for, before anything is counted."""
    if update.body_hash != field.body.hash:
        raise MismatchError(f"update: expected an occupancy of the body {field.body.hash[:12]}, got {update.body_hash[:12]}")
    if update.field_hash != field.hash:
        raise MismatchError(f"update: expected an occupancy of the field {field.parameters}, got {update.parameters}")
    weighting = how.get("weighting", "azimuth")
    for name, kept, asked in (
        ("weighting", update.weighting, weighting),
        ("scheme", update.scheme.name, scheme_for(how.get("scheme"), weighting).name),
    ):
        if kept != asked:
            raise MismatchError(f"update: expected the occupancy's {name}, {kept}, got {asked}")
    if (update.num_hidden is None) != (hidden_weight is None):
        has = (
            "none, for the occupancy has no counts of hidden votes"
            if hidden_weight is not None
            else "one, for it has such counts"
        )
        raise MismatchError(f"update: expected a weight of hidden votes as the occupancy has it ({has}), got {hidden_weight}")
    if update.num_hidden is not None and update.hidden_rule != hidden.RULE:
        raise MismatchError(f"update: expected hidden votes told by {hidden.RULE!r}, got {update.hidden_rule!r}")
    check_selection(update, field, how)


def _all_done(update: Occupancy) -> frozenset[str]:
    """Digests of the shards of which the occupancy's selection has been counted completely."""
    if update.counted is None or any("share" in entry or "shares" in entry for entry in update.provenance):
        return frozenset()
    return frozenset(update.counted.shards)


def _judged_alike(store: Store, how: Mapping[str, Any], update: Occupancy) -> bool:
    """Whether prompts and filter select the same images of shards that an occupancy lacks as if the others were there too."""
    try:
        rows = store.select(prompt=matching_prompts(how.get("prompt"), store.prompts))
        _, _, filtered = filter_rows(store, rows, how["filter"])
    except InputError:
        return False
    before = [entry["filter"].get("skipped") for entry in update.provenance if entry.get("filter")]
    return filtered is None or all(skipped == list(filtered.skipped) for skipped in before)


def _refuse_remade(counted: Counted, store: Store) -> None:
    """MismatchError where images that were counted are in other shards now: they would be counted again, and refused then."""
    others = [key_hash(shard.array("image/key")) for shard in store.shards if shard.sha256 not in counted.shards]
    if counted.hashes is None or not others:
        return
    hashes = np.concatenate(others)
    at = np.searchsorted(counted.hashes, hashes)  # np.isin would sort the millions that are sorted
    again = int((counted.hashes[at[at < len(counted.hashes)]] == hashes[at < len(counted.hashes)]).sum())
    if again:
        raise MismatchError(
            f"update: expected new images in shards that the occupancy has not counted, got {again:,} that it has counted in "
            "others (the store was compacted, or made again); aggregate the whole store instead"
        )
