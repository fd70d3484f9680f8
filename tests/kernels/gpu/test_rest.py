"""Contacts, posed fields, stores and foreign arrays on a GPU, each against its twin on the CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import chorus
from chorus.body.model import load_body
from chorus.field import CanonicalField
from chorus.kernels.cpu import contacts as cpu_contacts
from chorus.kernels.reference import contacts
from chorus.kernels.reference import votes as reference
from chorus.occupancy.posed import posed_occupancy
from chorus.store import StoreWriter, open_store
from tests.kernels.contract import within_bounds
from tests.kernels.random_inputs import adversarial_world, random_field, random_images


@pytest.mark.parametrize("seed", range(16))
def test_contacts_lie_within_the_bounds(device: torch.device, seed: int) -> None:
    from chorus.kernels.gpu.contacts import touched_regions

    rng = np.random.default_rng([seed, 6])
    if seed % 2:
        field, images = adversarial_world(rng, 40)
    else:
        field = random_field(rng, tuple(int(n) for n in rng.integers(1, 12, 3)), int(rng.choice([1, 5, 24, 55])))
        images = random_images(rng, field, 60)
    bits = rng.integers(-(2**31), 2**31, field.num_voxels) * (rng.random(field.num_voxels) < 0.4)
    regions = torch.tensor(bits, dtype=torch.int32)
    touched = touched_regions(field, regions, images.to(device))
    assert touched.device.type == device.type
    assert touched.dtype == torch.int32
    touched = touched.cpu()
    assert within_bounds(touched, contacts.touched_bounds(field, regions, images))
    plain = touched_regions(field, regions, images.to(device), cull=False).cpu()
    assert torch.equal(touched, plain)
    order = torch.tensor(rng.permutation(len(images)))
    assert torch.equal(touched_regions(field, regions, images[order].to(device)).cpu(), touched[order])


def test_contacts_of_the_mannequins_parts(device: torch.device) -> None:
    from bench.harness.crowds import crowd, people
    from chorus.kernels.gpu.contacts import touched_regions
    from chorus.votes.parts import interaction_regions

    body = load_body()
    field = CanonicalField(body, 48)
    found = interaction_regions(field)
    images = crowd(people(body, 64), "typical").images
    regions = torch.from_numpy(found.bits.copy())
    certain, possible = contacts.touched_bounds(field.arrays, regions, images)
    touched = touched_regions(field.arrays, regions, images.to(device)).cpu()
    assert not (certain & ~touched).any()
    assert not (touched & ~possible).any()
    assert touched.count_nonzero() > 32
    numba = cpu_contacts.touched_regions(field.arrays, regions, images)
    assert (numba != touched).sum() <= (certain != possible).sum()


def test_a_posed_field_is_the_cpu_twins(device: torch.device) -> None:
    body = load_body()
    field = CanonicalField(body, 48)
    rng = np.random.default_rng(3)
    phi = rng.random((48, 48, 48), np.float32)
    pose = body.rest_pose.copy()
    pose[1:] += rng.normal(0, 0.25, (body.num_joints - 1, 3))
    for inverse in ("blend_of_inverses", "inverse_of_blend"):
        ours, theirs = (
            posed_occupancy(phi, pose, field.parameters, body.hash, body, inverse=inverse, backend=backend)
            for backend in ("triton", "numba")
        )
        # Nearest voxels: float32 may choose the neighbour where a point lies between two, and then phi is another.
        assert (ours != theirs).mean() < 2e-3
        assert np.count_nonzero(ours) > 10_000


def test_weights_around_a_posed_mesh_are_the_cpu_twins(device: torch.device) -> None:
    from chorus.kernels.arrays import cube
    from chorus.kernels.gpu import skinning
    from chorus.kernels.reference import skinning as reference

    body = load_body()
    pose = body.rest_pose.copy()
    pose[1:] += np.random.default_rng(4).normal(0, 0.25, (body.num_joints - 1, 3))
    mesh = torch.from_numpy(body.posed_vertices(pose[None])[0])
    lattice = cube(24, 3.0)
    weights = torch.from_numpy(body.weights.astype(np.float64))
    settings = {"k": 30, "tau": 0.8, "s": 0.25}
    want, near = reference.skinning_weights(lattice, mesh.double(), weights, **settings)
    have, is_near = skinning.skinning_weights(lattice, mesh.to(device), weights.to(device), **settings)
    assert torch.equal(is_near.cpu(), near)
    assert (have.cpu().double() - want).abs().max() < 2e-5
    smooth = skinning.smooth(lattice, have, is_near, steps=8).cpu().double()
    assert (smooth - reference.smooth(lattice, want, near, steps=8)).abs().max() < 2e-5


def test_a_store_gives_the_gpu_and_the_cpu_the_same_counts(device: torch.device, tmp_path: Path) -> None:
    from bench.harness.crowds import crowd, people

    body = load_body()
    work = crowd(people(body, 600), "typical")
    with StoreWriter(tmp_path / "s", category="object", body_hash=body.hash, shard_size=250) as writer:
        writer.append(work.batch(0, 600))
    field = CanonicalField(body, 24, cache=False)
    store = open_store(tmp_path / "s")
    ours, numba = (chorus.aggregate(store, field, backend=backend, batch_size=128) for backend in ("triton", "numba"))
    whole = chorus.aggregate(store, field, backend="triton")
    assert np.array_equal(ours.num_counts, whole.num_counts)
    assert np.array_equal(ours.den_counts, whole.den_counts)
    assert np.array_equal(ours.group_totals, numba.group_totals)
    band = 2 * reference.vote_band(field.arrays, work.images, work.group, num_groups=12).numpy()
    for have, want in ((ours.num_counts, numba.num_counts), (ours.den_counts, numba.den_counts)):
        assert (np.abs(have.astype(np.int64) - want).reshape(12, -1) <= band).all()
    assert int(ours.num_counts.sum()) > 10_000


def test_arrays_on_the_device_are_taken_by_dlpack(device: torch.device) -> None:
    """Masks, cameras and poses that live on the GPU, as tensors and as other DLPack exporters."""

    class Foreign:
        def __init__(self, tensor: torch.Tensor) -> None:
            self.tensor = tensor

        def __dlpack__(self, **options: object) -> object:
            return self.tensor.__dlpack__(**options)

        def __dlpack_device__(self) -> tuple[int, int]:
            return self.tensor.__dlpack_device__()

    from chorus.kernels.gpu.votes import count_votes

    rng = np.random.default_rng(15)
    field = random_field(rng, (6, 7, 8), 4)
    images = random_images(rng, field, 20).to(device)
    group = torch.zeros(20, dtype=torch.int64, device=device)
    taken = type(images)(*(torch.from_dlpack(Foreign(tensor)) for tensor in vars(images).values()))
    assert taken.words.data_ptr() == images.words.data_ptr()  # nothing was copied
    ours, theirs = (count_votes(field, some, group, num_groups=1) for some in (taken, images))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    # Poses of every second image of a longer tensor: strides are no reason to read the wrong numbers.
    strided = torch.zeros(40, *images.poses.shape[1:], device=device)
    strided[::2] = images.poses
    spread = type(images)(**{**vars(images), "poses": strided[::2]})
    assert torch.equal(count_votes(field, spread, group, num_groups=1)[0], ours[0])


def test_auto_takes_the_gpu(device: torch.device) -> None:
    from chorus.kernels.backends import vote_backend

    name = vote_backend("auto").name
    assert name == ("numba" if torch.version.hip else "triton")


def test_a_batch_in_memory_aggregates_on_the_gpu(device: torch.device) -> None:
    from bench.harness.crowds import crowd, people

    body = load_body()
    batch = crowd(people(body, 200), "30").batch(0, 200)
    field = CanonicalField(body, 24, cache=False)
    ours = chorus.aggregate(batch, field, backend="triton")
    numba = chorus.aggregate(batch, field, backend="numba")
    assert np.abs(ours.probability - numba.probability).max() < 0.05
    assert np.corrcoef(ours.probability.ravel(), numba.probability.ravel())[0, 1] > 0.9999
