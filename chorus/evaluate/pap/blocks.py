"""The images that are scored, in blocks of neighbours: each block is kept once it is scored, and processes do a share of them.

What is kept of an image are its pixel counts, as whole numbers, from which every score is computed anew, to the same bits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby, islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from chorus.body.model import Body
from chorus.evaluate.pap.metric import ImagePap, pap
from chorus.evaluate.pap.pixels import PapImage, PapProtocol, PixelCounts
from chorus.evaluate.unfinished import Unfinished
from chorus.occupancy.distribution import Distribution
from chorus.occupancy.joins import JoinedImages
from chorus.ranks import Share, share_by_size
from chorus.store import Store

BLOCK = 64
"""Images of a block: about 20 seconds on two cores."""
SPACING = 30.0
"""Seconds between two writings of what is kept."""

PoseOccupancy = Callable[[Distribution, NDArray[np.float32]], NDArray[np.float32]]
"""A function from an occupancy and a pose (J, 3) to phi around the posed person, (N, N, N) float32 on the same grid."""


@dataclass(frozen=True, eq=False)
class StoreImages:
    """The images of a store that are scored, and the occupancy that they are scored against.

    body  for the occlusion-aware scores; None: without them
    """

    store: Store
    chosen: JoinedImages
    occupancy: Distribution
    body: Body | None

    @property
    def settings(self) -> dict[str, Any]:
        """What says which images these are: rows have their numbers by the order of the shards."""
        rows = hashlib.sha256("".join(shard.sha256 for shard in self.store.shards).encode())
        rows.update(np.ascontiguousarray(self.chosen.rows, "<i8").tobytes())
        return {"prompts": self.chosen.prompts, "part": self.chosen.part, "rows": rows.hexdigest()}


@dataclass(frozen=True, eq=False)
class Block:
    """Some images of a store: the ``first``-th of those chosen, and those behind it.

    rows  (n,) int64 rows of the store
    """

    images: StoreImages
    first: int
    rows: NDArray[np.int64]

    @property
    def name(self) -> str:
        """Under which the result is kept."""
        return f"{self.images.store.id[:16]}, images {self.first} to {self.first + len(self.rows) - 1}"


@dataclass(frozen=True)
class Work:
    """All images that are scored, and how.

    threads, device  as in ``pap``            progress  called with (done, total) after each image
    unfinished       where results are kept
    """

    images: Sequence[StoreImages]
    pose_occupancy: PoseOccupancy
    protocol: PapProtocol
    threads: int | None
    device: torch.device | str | None
    progress: Callable[[int, int], None] | None
    unfinished: Unfinished

    def begin(self) -> None:
        """Say what the results depend on. InputError where those kept were computed otherwise."""
        pose = self.pose_occupancy
        name = f"{getattr(pose, '__module__', '')}.{getattr(pose, '__qualname__', type(pose).__qualname__)}"
        self.unfinished.begin(
            {
                "table": "pap",
                "protocol": asdict(self.protocol),
                "aware": [images.body is not None for images in self.images],
                "posing": getattr(pose, "text", name),
                "body": [images.occupancy.body_hash for images in self.images],
                "occupancies": [_digest(images.occupancy) for images in self.images],
                "stores": [images.store.id for images in self.images],
                "images": [images.settings for images in self.images],
            }
        )

    def blocks(self) -> list[Block]:
        """All blocks, in the order of the stores and their rows."""
        return [
            Block(images, first, images.chosen.rows[first : first + BLOCK])
            for images in self.images
            for first in range(0, len(images.chosen.rows), BLOCK)
        ]

    def share_of(self, share: Share) -> list[Block]:
        """The blocks that a share has: neighbours, of about as many voxels to be posed as every share's."""
        blocks = self.blocks()
        sizes = [len(block.rows) * block.images.occupancy.parameters.resolution**3 for block in blocks]
        return [blocks[position] for position in share_by_size(sizes, share)]

    def kept(self, block: Block) -> list[ImagePap] | None:
        """The scores of a block's images, in the order of its rows; None where they are not there."""
        found = self.unfinished.get(block.name)
        if not isinstance(found, list) or len(found) != len(block.rows):
            return None
        try:
            return [self._scores(*image) for image in found]
        except (TypeError, ValueError):  # somebody else's
            return None

    def score(self, blocks: Sequence[Block]) -> int:
        """Score and keep those of the blocks whose results are not there; how many images these have."""
        todo = [block for block in blocks if self.kept(block) is None]
        total, scored = sum(len(block.rows) for block in blocks), sum(len(block.rows) for block in todo)
        done = total - scored
        if done and self.progress is not None:
            self.progress(done, total)
        # One stream over all blocks: threads and device get batches as large as without them.
        results = pap(self._posed(todo), self.protocol, self.threads, self.device)
        try:
            for block in todo:
                found = []
                for result in islice(results, len(block.rows)):
                    found.append([result.key, _kept_counts(result.counts), _kept_counts(result.aware_counts)])
                    done += 1
                    if self.progress is not None:
                        self.progress(done, total)
                self.unfinished.keep(block.name, found, SPACING)
        finally:
            self.unfinished.write()
        return scored

    def _posed(self, blocks: Sequence[Block]) -> Iterator[PapImage]:
        """The images of blocks, posed one by one when the iterator reaches them."""
        for images, of_store in groupby(blocks, lambda block: block.images):
            rows = np.concatenate([block.rows for block in of_store])
            extent = images.occupancy.parameters.extent
            for batch in images.store.batches(rows, size=256):
                for i, key in enumerate(batch.keys):
                    pose = batch.poses[i]
                    vertices = None if images.body is None else images.body.posed_vertices(pose[None])[0]
                    phi = self.pose_occupancy(images.occupancy, pose)
                    yield PapImage(phi, extent, batch.cameras[i : i + 1], batch.masks.unpack(i), vertices, key.decode())

    def _scores(self, key: str, counts: Any, aware_counts: Any) -> ImagePap:
        return ImagePap.from_counts(key, self._counts(*counts), aware_counts and self._counts(*aware_counts), self.protocol)

    def _counts(self, target: int, predicted: list[int], hits: list[int]) -> PixelCounts:
        restored = np.zeros((2, self.protocol.num_thresholds), np.int64)
        for row, values in zip(restored, (predicted, hits), strict=True):
            row[: len(values)] = values
        return PixelCounts(restored[0], restored[1], target)


def _kept_counts(counts: PixelCounts | None) -> list[Any] | None:
    """Target, predicted and hits, as whole numbers; zeros are left out: counts never rise with the threshold."""
    if counts is None:
        return None
    return [counts.target, *(values[: np.count_nonzero(values)].tolist() for values in (counts.predicted, counts.hits))]


def _digest(occupancy: Distribution) -> str:
    found = hashlib.sha256(occupancy.field_hash.encode())
    found.update(np.ascontiguousarray(occupancy.probability, "<f4").tobytes())
    return found.hexdigest()
