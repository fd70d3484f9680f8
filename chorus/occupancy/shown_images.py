"""Which images of a store are shown beside an occupancy: those of given keys, or some of those that belong to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chorus.body.model import Body
from chorus.errors import InputError
from chorus.field import CanonicalField
from chorus.occupancy.joins import check_store, join
from chorus.store import Store

if TYPE_CHECKING:
    from chorus.occupancy.distribution import Distribution


def shown_images(
    occupancy: Distribution, store: Store, body: Body, count: int, *, keys: Sequence[str] = (), **selection: Any
) -> tuple[NDArray[np.int64], dict[str, Any]]:
    """Rows of a store to show, (n,), and where they come from, for JSON.

    count  how many, spread evenly over the images of the occupancy's own prompts and parts     keys  these instead
    selection  prompt, part, filter as for ``join``

    Raises InputError for a key that no complete image has, and where there is no image; MismatchError for another store's.
    """
    if keys:
        check_store(occupancy, store)
        complete = store.select()
        place = {key: row for row, key in zip(complete.tolist(), store.rows["key"][complete].tolist(), strict=True)}
        missing = [key for key in keys if key.encode() not in place]
        if missing:
            raise InputError(f"--key: expected the key of a complete image, got {missing[0]!r}")
        return np.asarray([place[key.encode()] for key in keys], np.int64), {"keys": list(keys)}
    chosen = join(
        occupancy, store, lambda: CanonicalField.from_parameters(body, occupancy.parameters, occupancy.body_hash), **selection
    )
    if not len(chosen.rows):
        raise InputError(f"STORE: expected an image to draw, got {chosen}")
    rows = chosen.rows[np.unique(np.linspace(0, len(chosen.rows) - 1, count).astype(int))]
    return rows, chosen.to_json()
