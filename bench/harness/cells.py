"""Which votes are timed: the cells of the suite by profile, their fields, and the contenders of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bench.harness import eager
from bench.harness.crowds import BOXES, Crowd, crowd, people
from bench.harness.gates import Counts, Workload
from bench.harness.measure import Contender, affordable
from chorus.body.model import Body, load_body
from chorus.field import CanonicalField
from chorus.kernels.arrays import VoxelField
from chorus.kernels.cpu import votes as cpu_votes
from chorus.kernels.reference import votes as reference

if TYPE_CHECKING:  # Triton may be missing
    from chorus.kernels.gpu.votes import Variant

RESOLUTIONS = (48, 96, 128, 192, 256)
IMAGES = (1, 64, 4096, 65536)
LARGEST_COMPUTED = 128
"""Resolution of the finest field that is computed; finer ones come from the 96^3 one (3.8 joints a voxel instead of 3.6)."""
INTERPOLATED_FROM = 96
REFERENCE_BATCHES: dict[str, dict[int, tuple[int, ...]]] = {
    "cpu": {48: (8, 16), 96: (8, 16), 128: (8,), 192: (2,), 256: (1,)},
    "cuda": {48: (256,), 96: (32,), 128: (16,), 192: (4,), 256: (2,)},
}
"""Images that the reference takes at a time: more would need gigabytes, or make it slower."""
GEMM_BATCHES = {"cpu": {48: 16, 96: 4, 128: 1, 192: 1, 256: 1}, "cuda": {48: 256, 96: 32, 128: 16, 192: 4, 256: 2}}
"""Images at a time of the one-GEMM baseline: of 1 to 32, those that were fastest on 2 cores."""
DENSE_IMAGES = {"cpu": 256, "cuda": 4096}
"""Most masks that are unpacked for the baselines that want them dense."""


@dataclass(frozen=True)
class Cell:
    """What one benchmark of the votes is about; ``baselines`` beside the kernels: "all", "fastest" (the
    reference, and the fastest PyTorch known: one GEMM on dense masks, eager and compiled), "reference" or "none"."""

    resolution: int
    images: int
    box: str = "typical"
    baselines: str = "reference"

    def __str__(self) -> str:
        return f"{self.resolution}x{self.images}" + ("" if self.box == "typical" else f"-box{self.box}")

    @property
    def what(self) -> str:
        masks = "" if self.box == "typical" else f", boxes of {self.box} %"
        return f"{self.resolution}^3 voxels, {self.images:,} image{'s'[: self.images > 1]}{masks}"


def _grid(baselines: Callable[[int, int, str], str]) -> list[Cell]:
    return [Cell(N, n, box, baselines(N, n, box)) for N in RESOLUTIONS for box in BOXES for n in IMAGES]


def _on_gpu(resolution: int, images: int, box: str) -> str:
    if box != "typical" or images == 4096:
        return "none"
    return "all" if resolution == 48 else "reference" if images == 65536 else "none"


_PRESENT = [Cell(N, n, baselines="fastest" if n == 1024 else "reference") for N in (48, 96, 128) for n in (1, 64, 1024)]
CELLS: dict[str, list[Cell]] = {
    "quick": [Cell(48, n) for n in (1, 64, 1024)],
    "default": [replace(c, baselines="all") if (c.resolution, c.images) == (48, 64) else c for c in _PRESENT]
    + [Cell(48, 4096, box, "none") for box in BOXES],
    "full": [Cell(48, 1024, "typical", "all"), *_grid(lambda N, n, box: "reference" if box == "typical" else "none")],
    "gpu": sorted(_grid(_on_gpu), key=lambda c: (c.resolution, -c.images)),  # the largest first: time may run out
}


@lru_cache(maxsize=2)
def vote_field(resolution: int, canonicalize: bool = True) -> VoxelField:
    """The mannequin's field on the CPU."""
    body = load_body()
    if resolution <= LARGEST_COMPUTED or not canonicalize:
        return CanonicalField(body, resolution, canonicalize=canonicalize).arrays
    return interpolated(CanonicalField(body, INTERPOLATED_FROM).arrays, resolution)


def interpolated(field: VoxelField, resolution: int) -> VoxelField:
    """A cubic field's weights at another resolution, trilinear; weights below 1e-6 dropped, the others made to sum to 1."""
    N, J = field.shape[0], field.num_joints
    grid = field.dense_weights(torch.float32).T.reshape(1, J, N, N, N)
    fine = torch.nn.functional.interpolate(grid, size=(resolution,) * 3, mode="trilinear", align_corners=False)[0]
    fine = torch.where(fine < 1e-6, 0, fine)
    fine /= fine.sum(0, keepdim=True)
    by_voxel = fine.reshape(J, -1).T.contiguous()
    filled = by_voxel > 0
    joint = np.nonzero(filled.numpy())[1]
    length = filled.sum(1)
    spacing = field.spacing * N / resolution
    return replace(
        field,
        shape=(resolution,) * 3,
        origin=((0.5 - resolution / 2) * spacing,) * 3,
        spacing=spacing,
        offset=torch.cat([length.new_zeros(1), length.cumsum(0)]),
        joint=torch.from_numpy(joint.astype(np.int32)),
        weight=by_voxel[filled],
    )


@lru_cache(maxsize=4)
def _people(body: Body, count: int) -> Any:
    return people(body, count)


@lru_cache(maxsize=len(BOXES))
def crowd_on(body: Body, box: str, count: int, device: str) -> Crowd:
    """The crowd with masks of that kind on a device, made once."""
    return crowd(_people(body, count), box).to(device)


@dataclass(frozen=True)
class Votes:
    """One way to count votes: ``cast(workload)``, at most ``limit`` images, in steps of ``batch``; ``kind`` for the tables."""

    name: str
    kind: str
    cast: Callable[[Any], Counts]
    batch: int = 1
    limit: int | None = None
    note: str | None = None


def synchronized(cast: Callable[[Any], Counts], device: str) -> Callable[[Any], Counts]:
    """The call and the wait for what it has started on the device."""
    if device == "cpu":
        return cast

    def call(on: Any) -> Counts:
        counts = cast(on)
        torch.cuda.synchronize()
        return counts

    return call


def numba_votes(field: VoxelField, threads: int, stats: Any = None, cull: bool = True) -> Votes:
    """The numba kernel on so many threads."""

    def cast(on: Workload) -> Counts:
        return cpu_votes.count_votes(
            field, on.images, on.group, num_groups=on.num_groups, threads=threads, stats=stats, cull=cull
        )

    return Votes("numba", "numba", cast)


def triton_votes(field: VoxelField, variant: Variant = "auto", stats: Any = None, cull: bool = True) -> Votes:
    """The Triton kernels on the images' CUDA device. ImportError where Triton is missing."""
    from chorus.kernels.gpu import votes as gpu_votes

    def cast(on: Workload) -> Counts:
        # What the kernels need of a field is kept on the device as long as this one lives.
        return gpu_votes.count_votes(
            field, on.images, on.group, num_groups=on.num_groups, variant=variant, stats=stats, cull=cull
        )

    name = "Triton" if variant == "auto" else f"Triton, {variant}"
    return Votes(name, "triton", synchronized(cast, "cuda"))


def reference_votes(field: VoxelField, device: str, batch: int) -> Votes:
    """The PyTorch reference in float32."""
    on_device = field.to(device)

    def cast(on: Workload) -> Counts:
        return reference.count_votes(on_device, on.images, on.group, num_groups=on.num_groups, dtype=torch.float32, batch=batch)

    name = f"PyTorch float32, batches of {batch}" if batch > 1 else "PyTorch float32, image by image"
    return Votes(name, "reference", synchronized(cast, device), batch)


class _DenseMasks:
    """Unpacked masks of the last workload it was called with; that one is called once untimed, so unpacking is not timed."""

    def __init__(self) -> None:
        self.of: Any = None
        self.masks = torch.zeros(0)

    def __call__(self, on: Workload) -> torch.Tensor:
        key = (on.images.words.data_ptr(), tuple(on.images.start[:1].tolist()), len(on))
        if key != self.of:
            self.of, self.masks = key, eager.dense_masks(on.images)
        return self.masks


def eager_votes(field: VoxelField, device: str, batch: int, form: str, compiled: bool) -> Votes:
    """The stronger PyTorch baselines of ``bench.harness.eager``."""
    on_device, dense = field.to(device), _DenseMasks()
    kept = eager.constants(on_device, form)

    def cast(on: Workload) -> Counts:
        return eager.count_votes(
            on_device,
            on.images,
            on.group,
            dense(on),
            num_groups=on.num_groups,
            batch=batch,
            form=form,
            compiled=compiled,
            kept=kept,
        )

    what = {"blend": "reference", "gemm": "one GEMM"}[form]
    name = f"PyTorch float32, {what}, dense masks, batches of {batch}" + (", torch.compile" if compiled else "")
    return Votes(name, "compiled" if compiled else "eager", synchronized(cast, device), batch, DENSE_IMAGES[device])


def baselines(cell: Cell, field: VoxelField, device: str) -> list[Votes]:
    """The baselines of a cell."""
    if cell.baselines == "none":
        return []
    sizes = REFERENCE_BATCHES[device][cell.resolution]
    chosen = [reference_votes(field, device, b) for b in sizes if b == min(sizes) or b <= cell.images]
    if cell.baselines == "reference":
        return chosen
    batches = {"blend": min(cell.images, max(sizes)), "gemm": min(cell.images, GEMM_BATCHES[device][cell.resolution])}
    forms = [form for form in eager.FORMS if form == "gemm" or cell.baselines == "all"]
    if cell.baselines == "all":
        chosen.append(reference_votes(field, device, 1))
    chosen += [eager_votes(field, device, batches[form], form, compiled) for compiled in (False, True) for form in forms]
    return chosen


def timed_contender(
    votes: Votes, work: Crowd, seconds: float, name: str | None = None, kind: str | None = None
) -> tuple[Contender, float]:
    """The votes of as many of the images as take about ``seconds``, to be timed; and the seconds that a call took.

    ``name`` and ``kind`` in the record are those of ``votes`` unless given. The record says how many images were asked for,
    and whether these are fewer (``capped``).
    """

    def cast_first(count: int) -> Counts:
        return votes.cast(work.rows(slice(0, count)))

    most = min(len(work), votes.limit or len(work))
    count, took = affordable(cast_first, most, seconds, votes.batch)
    facts = {"kind": kind or votes.kind, "asked": len(work), "capped": count < len(work)}
    call = partial(votes.cast, work.rows(slice(0, count)))
    return Contender(name or votes.name, call, count, facts=facts), took
