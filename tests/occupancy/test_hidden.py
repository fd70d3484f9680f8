"""Hidden votes in an occupancy: exact counts, any weight afterwards, files, sums, groups, one voxel's images, the commands."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from chorus.body.model import Body
from chorus.camera.cameras import Cameras
from chorus.camera.views import azimuth_bin
from chorus.cli import main
from chorus.errors import InputError, MismatchError
from chorus.field import CanonicalField
from chorus.images import ImageBatch, vote_images
from chorus.kernels import backends
from chorus.kernels.backends import BackendUnavailableError, Modules
from chorus.kernels.reference import votes as reference
from chorus.occupancy import hidden
from chorus.occupancy.aggregation import aggregate
from chorus.occupancy.counts import Occupancy, load_occupancy
from chorus.render.body_depth import body_depth
from chorus.store import StoreWriter
from chorus.votes.explain import explain
from tests.occupancy.test_aggregation import N, make_images
from tests.occupancy.test_aggregation import body as body
from tests.occupancy.test_aggregation import field as field
from tests.occupancy.test_counts import same

IMAGES = 60


def people(n: int = IMAGES, seed: int = 0) -> ImageBatch:
    """Images from all sides of people in front of the camera: the body hides a good part of the grid."""
    made = make_images(n, seed)
    angle = np.random.default_rng([seed, 1]).uniform(0, 2 * np.pi, n)
    R = np.zeros((n, 3, 3))
    R[:, 0, 0], R[:, 0, 2], R[:, 1, 1] = np.cos(angle), np.sin(angle), -1
    R[:, 2, 0], R[:, 2, 2] = np.sin(angle), -np.cos(angle)
    t = np.tile([0.0, 0.0, 2.6], (n, 1))
    cameras = Cameras(R.astype(np.float32), t, made.cameras.K, made.cameras.image_size)
    return dataclasses.replace(made, cameras=cameras)


@pytest.fixture(scope="module")
def images() -> ImageBatch:
    return people()


@pytest.fixture(scope="module")
def told(field: CanonicalField, images: ImageBatch) -> Occupancy:
    return aggregate(images, field, hidden_weight=0.1)


def counts_of(occupancy: Occupancy) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    assert occupancy.num_hidden is not None
    assert occupancy.den_hidden is not None
    return occupancy.num_hidden, occupancy.den_hidden


def test_totals_are_those_of_plain_votes_and_hidden_counts_a_part_of_them(
    told: Occupancy, field: CanonicalField, images: ImageBatch
) -> None:
    plain = aggregate(images, field)
    num, den = counts_of(told)
    assert plain.num_hidden is plain.den_hidden is None
    assert (plain.hidden_weight, plain.hidden_rule) == (1.0, "")
    assert np.array_equal(plain.num_counts, told.num_counts)
    assert np.array_equal(plain.den_counts, told.den_counts)
    assert (num <= told.num_counts).all()
    assert (den <= told.den_counts).all()
    assert 0.02 * told.den_counts.sum() < den.sum() < 0.5 * told.den_counts.sum()
    assert 0 < num.sum() < den.sum()
    assert told.hidden_rule == hidden.RULE
    assert np.array_equal(told.reweight(hidden_weight=1).probability, plain.probability)  # the paper's, to the bit


def test_the_counts_are_those_of_the_body_in_each_image(told: Occupancy, field: CanonicalField, images: ImageBatch) -> None:
    depth = body_depth(field.body, images.cameras, images.poses)
    group = torch.from_numpy(azimuth_bin(images.cameras))
    wanted = reference.count_votes(field.arrays, vote_images(images), group, depth=depth, num_groups=12)
    for have, want in zip(counts_of(told), wanted[2:], strict=True):
        off = np.abs(have.astype(np.int64) - want.numpy().reshape(have.shape)).sum()
        assert off <= 2e-3 * int(want.sum())  # pixel edges


@pytest.mark.parametrize("weight", [0, 0.1, 0.37, 1])
def test_phi_is_the_formula_and_any_weight_needs_no_second_pass(
    told: Occupancy, field: CanonicalField, images: ImageBatch, weight: float
) -> None:
    found = told.reweight(hidden_weight=weight)
    assert same(found, aggregate(images, field, hidden_weight=weight), but=("provenance",))
    num, den = counts_of(told)
    r = np.divide(1.0, told.group_totals, where=told.group_totals > 0, out=np.zeros(12))[:, None, None, None]
    above = (r * (told.num_counts - num + weight * num)).sum(0)
    below = (r * (told.den_counts - den + weight * den)).sum(0)
    phi = np.divide(above, below, where=below > 0, out=np.zeros_like(above))
    assert np.abs(found.probability - phi).max() < 1e-6
    assert np.array_equal(found.support, told.support)  # hidden or not
    flat = told.reweight("none", hidden_weight=weight)
    assert (flat.weighting, flat.hidden_weight) == ("none", weight)


def test_a_weight_needs_counts_and_is_a_number_from_0_to_1(told: Occupancy, field: CanonicalField, images: ImageBatch) -> None:
    for wrong in (-0.1, 1.1, "much", True, float("nan")):
        with pytest.raises(InputError, match="hidden_weight: expected a number from 0"):
            told.reweight(hidden_weight=wrong)  # type: ignore[arg-type]
        with pytest.raises(InputError, match="hidden_weight: expected a number from 0"):
            aggregate(images, field, hidden_weight=wrong)  # type: ignore[arg-type]
        with pytest.raises(InputError, match="hidden_weight: expected a number from 0"):
            explain((0, 0, 0), images, field, hidden_weight=wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no hidden votes were counted"):
        aggregate(images, field).reweight(hidden_weight=0.5)
    with pytest.raises(InputError, match="expected both or neither"):
        dataclasses.replace(told, num_hidden=None)
    with pytest.raises(InputError, match="den_hidden: expected integers of shape"):
        dataclasses.replace(told, den_hidden=counts_of(told)[1][:3])


def test_files_keep_them_and_those_of_version_1_have_none(
    told: Occupancy, field: CanonicalField, images: ImageBatch, tmp_path: Path
) -> None:
    told.save(tmp_path / "told.h5")
    assert same(load_occupancy(tmp_path / "told.h5"), told, but=())
    assert np.array_equal(load_occupancy(tmp_path / "told.h5").probability, told.probability)
    plain, old = aggregate(images, field), tmp_path / "old.h5"
    plain.save(old)
    with h5py.File(old, "a") as file:  # as version 1 was written: no word of hidden votes
        assert "num_hidden" not in file
        facts = {k: v for k, v in json.loads(file.attrs["facts"]).items() if not k.startswith("hidden")}
        file.attrs["facts"], file.attrs["version"] = json.dumps(facts), 1
    assert same(load_occupancy(old), plain, but=())


def test_sums_are_exact_and_of_one_rule(told: Occupancy, field: CanonicalField, images: ImageBatch) -> None:
    parts = [aggregate(images[rows], field, hidden_weight=0.1) for rows in (slice(0, 23), slice(23, None))]
    assert same(parts[0] + parts[1], told)
    assert same(parts[1] + parts[0], told)
    with pytest.raises(MismatchError, match=r"different hidden_weight: 0\.1 and 0\.5"):
        parts[0] + parts[1].reweight(hidden_weight=0.5)
    with pytest.raises(MismatchError, match=r"different hidden_rule: .*'another'"):
        parts[0] + dataclasses.replace(parts[1], hidden_rule="another")
    plain = [aggregate(images[rows], field) for rows in (slice(0, 23), slice(23, None))]
    for a, b, which in ((parts[0], plain[1], "second"), (plain[0], parts[1], "first")):
        with pytest.warns(UserWarning, match=f"the {which} of the occupancies added has no counts of hidden votes"):
            total = a + b
        assert same(total, plain[0] + plain[1])


def test_groups_and_folds_take_them_along(field: CanonicalField, images: ImageBatch, told: Occupancy) -> None:
    fine = aggregate(images, field, scheme="azimuth+folds", hidden_weight=0.1)
    assert same(fine.with_scheme("azimuth"), told, but=("provenance",))
    halves = [fine.of_folds(list(range(first, 10, 2))) for first in (0, 1)]
    for name in ("num_hidden", "den_hidden"):
        assert np.array_equal(sum(getattr(half, name) for half in halves), getattr(fine, name))
    assert all(0 < counts_of(half)[1].sum() < counts_of(fine)[1].sum() for half in halves)
    assert (fine.jackknife_error() > 0).any()
    alone = aggregate(images, field, folds=[0, 2, 4, 6, 8], scheme="azimuth+folds", hidden_weight=0.1)
    assert np.array_equal(halves[0].probability, alone.probability)


def test_explain_names_the_images_in_which_a_voxel_is_hidden(
    told: Occupancy, field: CanonicalField, images: ImageBatch
) -> None:
    num, den = (c.sum(0) for c in counts_of(told))
    voxel = np.unravel_index(int(np.where(num > 0, den, 0).argmax()), den.shape)
    point = field.centres[voxel]
    found = explain(point, images, field, hidden_weight=0.25)
    assert found.voxel == tuple(int(v) for v in voxel)
    assert (len(found.hidden), np.isin(found.on_mask, found.hidden).sum()) == (den[voxel], num[voxel])
    assert (len(found.on_mask), len(found.off_mask)) == (
        told.num_counts.sum(0)[voxel],
        (told.den_counts - told.num_counts).sum(0)[voxel],
    )
    assert set(found.hidden) <= set(found.on_mask) | set(found.off_mask)
    assert found.probability == pytest.approx(told.reweight("none", hidden_weight=0.25).probability[voxel], abs=1e-6)
    plain = explain(point, images, field)
    assert len(plain.hidden) == 0
    assert plain.probability == pytest.approx(told.reweight("none", hidden_weight=1).probability[voxel], abs=1e-6)


def test_an_occupancy_explains_its_own_hidden_votes(told: Occupancy, field: CanonicalField, images: ImageBatch) -> None:
    """As they were counted and weighed: nothing needs to be said again, and what is said goes first."""
    num, den = (c.sum(0) for c in counts_of(told))
    voxel = np.unravel_index(int(np.where(num > 0, den, 0).argmax()), den.shape)
    point = field.centres[voxel]
    halved = told.reweight("none", hidden_weight=0.5)
    for occupancy in (told.reweight("none"), halved):
        explained = occupancy.explain(point, images, field)
        assert len(explained.hidden) == den[voxel]
        assert explained.probability == pytest.approx(occupancy.probability[voxel], abs=1e-6)
    asked = told.explain(point, images, field, hidden_weight=0.5)
    assert asked.probability == pytest.approx(halved.probability[voxel], abs=1e-6)


def test_backends_that_count_none_say_so(field: CanonicalField, images: ImageBatch, monkeypatch: pytest.MonkeyPatch) -> None:
    def count_votes(field: Any, images: Any, group: Any, weight: Any = None, *, num_groups: int, out: Any = None) -> Any:
        return reference.count_votes(field, images, group, weight, num_groups=num_groups, out=out)

    monkeypatch.setitem(backends.BACKENDS, "plain", Modules(votes=SimpleNamespace(count_votes=count_votes)))
    assert aggregate(images[:3], field, backend="plain").num_images == 3
    with pytest.raises(BackendUnavailableError, match=r"plain counts no hidden votes\. What does: triton"):
        aggregate(images, field, backend="plain", hidden_weight=0.1)
    with pytest.raises(BackendUnavailableError, match="plain counts no hidden votes"):
        explain((0, 0, 0), images, field, backend="plain", hidden_weight=0.1)


def command(*arguments: Any) -> dict[str, Any]:
    result = CliRunner().invoke(main, [*map(str, arguments), "--json"])
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_the_commands(body: Body, images: ImageBatch, tmp_path: Path) -> None:
    store = tmp_path / "people.chorus"
    with StoreWriter(store, category="thing", body_hash=body.hash) as writer:
        writer.append(images)
    plain, told = tmp_path / "plain.h5", tmp_path / "told.h5"
    assert "hidden_votes" not in command("aggregate", store, "-o", plain, "--resolution", N)
    facts = command("aggregate", store, "-o", told, "--resolution", N, "--hidden-weight", "0.1")
    one, other = load_occupancy(plain), load_occupancy(told)
    share = counts_of(other)[1].sum() / other.den_counts.sum()
    assert facts["hidden_votes"] == f"{share:.1%}, each 0.1"
    assert (one.num_hidden, other.hidden_weight) == (None, 0.1)
    assert same(other.reweight(hidden_weight=1.0), one, but=("num_hidden", "den_hidden", "hidden_rule", "provenance", "sketch"))
    command("aggregate", store, "-o", tmp_path / "some.h5", "--resolution", N, "--hidden-weight", 0.5)
    assert load_occupancy(tmp_path / "some.h5").hidden_weight == 0.5
    result = CliRunner().invoke(main, ["aggregate", str(store), "-o", str(tmp_path / "no.h5"), "--hidden-weight", "1.5"])
    assert result.exit_code != 0
    assert not (tmp_path / "no.h5").exists()

    command("aggregate", store, "-o", tmp_path / "all", "--all", "--min-images", 15, "--resolution", N, "--hidden-weight", 0.2)
    files = sorted((tmp_path / "all").glob("*.h5"))
    assert len(files) >= 4  # three prompts, and all of them
    assert {load_occupancy(file).hidden_weight for file in files} == {0.2}
    assert max(counts_of(load_occupancy(file))[1].sum() for file in files) == counts_of(other)[1].sum()

    point = [f"{x:g}" for x in (0.1, 0.1, 0.15)]
    said = command("explain", store, *point, "--resolution", N, "--hidden-weight")
    silent = command("explain", store, *point, "--resolution", N)
    assert said["hidden"] == len(said["keys"]["hidden"]) > 0
    assert "hidden" not in silent
    assert (said["on_mask"], said["off_mask"]) == (silent["on_mask"], silent["off_mask"])
