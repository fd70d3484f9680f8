"""Occupancy: what counts become, and what may be done to them without an image."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from chorus.camera.views import FOLDS, SCHEMES, Scheme, fold_of_hash
from chorus.errors import InputError, MismatchError
from chorus.field import FieldParameters
from chorus.occupancy.counts import SKETCH_SIZE, Occupancy, load_occupancy

N = 3


def make(seed: int = 0, scheme: str = "azimuth", weighting: str = "azimuth", high: int = 9, **facts: Any) -> Occupancy:
    """Counts that could be: num <= den <= total, some groups and some voxels without any."""
    rng = np.random.default_rng(seed)
    G = Scheme(scheme).num_groups
    images = rng.integers(0, high, G) * (rng.random(G) < 0.8)
    totals = images * rng.integers(1, 4, G)
    den = rng.integers(0, totals[:, None, None, None] + 1, (G, N, N, N))
    den[:, 0, 0, 0] = 0
    num = rng.integers(0, den + 1)
    return Occupancy(
        num_counts=num.astype(np.int32),
        den_counts=den.astype(np.int32),
        group_totals=totals,
        group_images=images,
        scheme=Scheme(scheme),
        weighting=weighting,
        **{
            "parameters": FieldParameters(N, 1.5),
            "body_hash": "b" * 64,
            "category": "cup",
            "sketch": np.sort(rng.integers(0, 2**64, 40, np.uint64)),
            "provenance": [{"seed": seed}],
            **facts,
        },
    )


def same(a: Occupancy, b: Occupancy, but: tuple[str, ...] = ("provenance", "category", "counted")) -> bool:
    """Everything equal, to the bit; integer types may differ in width."""
    return all(np.array_equal(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a) if f.name not in but)


def two_bins(weighting: str) -> Occupancy:
    """One voxel. Bin 0: 4 images, 3 saw it, 2 with the object on it. Bin 5: 1 image, which saw it on the object."""
    num, den, totals = np.zeros((12, 1, 1, 1), int), np.zeros((12, 1, 1, 1), int), np.zeros(12, np.int64)
    num[0], den[0], totals[0] = 2, 3, 4
    num[5], den[5], totals[5] = 1, 1, 1
    return Occupancy(num, den, totals, totals, Scheme(), weighting, FieldParameters(1), "")


def test_phi_by_hand() -> None:
    weighted = two_bins("azimuth")
    assert weighted.numerator.item() == 1.5  # 2 / 4 + 1 / 1
    assert weighted.denominator.item() == 1.75  # 3 / 4 + 1 / 1
    assert weighted.probability.item() == np.float32(6 / 7)
    plain = weighted.reweight("none")
    assert (plain.numerator.item(), plain.denominator.item(), plain.probability.item()) == (3, 4, 0.75)
    assert weighted.support.item() == 4
    assert weighted.num_images == 5
    for occupancy in (weighted, plain):
        assert occupancy.probability.dtype == occupancy.numerator.dtype == occupancy.denominator.dtype == np.float32
        assert occupancy.support.dtype == np.int64


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("weighting", ["azimuth", "azimuth-elevation", "azimuth-shrunk", "azimuth-elevation-shrunk", "none"])
def test_phi_is_equation_6_image_by_image(scheme: str, weighting: str) -> None:
    if "elevation" in weighting and "elevation" not in scheme:
        with pytest.raises(InputError, match=f"{weighting} needs counts by cell"):
            make(scheme=scheme).reweight(weighting)
        return
    occupancy = make(1, scheme).reweight(weighting)
    shape = Scheme(scheme).shape
    num, den = np.zeros((N, N, N)), np.zeros((N, N, N))
    for g in range(Scheme(scheme).num_groups):
        _, a, e = np.unravel_index(g, shape)
        totals = occupancy.group_totals.reshape(shape)
        of_bin = totals[:, a, e].sum() if "elevation" in weighting else totals[:, a].sum()
        images = 1 if weighting == "none" else of_bin
        if images:
            if weighting.endswith("-shrunk"):
                images += totals.sum() / (72 if "elevation" in weighting else 12)
            num += occupancy.num_counts[g] / images
            den += occupancy.den_counts[g] / images
    assert np.allclose(occupancy.numerator, num, rtol=1e-6)
    assert np.allclose(occupancy.denominator, den, rtol=1e-6)
    seen = den > 0
    assert np.allclose(occupancy.probability[seen], num[seen] / den[seen], rtol=1e-6)
    assert (occupancy.probability[~seen] == 0).all()
    assert not seen.all()
    assert (occupancy.probability >= 0).all()
    assert (occupancy.probability <= 1).all()


def test_min_support() -> None:
    occupancy = make(2)
    support = occupancy.den_counts.sum(0)
    least = int(np.median(support))
    phi = occupancy.probability_with(min_support=least)
    assert (phi[support < least] == 0).all()
    assert occupancy.probability[support < least].any()
    assert np.array_equal(phi[support >= least], occupancy.probability[support >= least])
    assert np.array_equal(occupancy.probability_with(0), occupancy.probability)
    assert not occupancy.probability_with(10**6).any()


def test_reweighting_is_free_and_reversible() -> None:
    occupancy = make(3, "azimuth-elevation")
    other = occupancy.reweight("none")
    assert other.num_counts is occupancy.num_counts
    assert other.weighting == "none"
    assert not np.array_equal(other.probability, occupancy.probability)
    assert same(other.reweight("azimuth"), occupancy)
    with pytest.raises(InputError, match="weighting: expected one of"):
        occupancy.reweight("uniform")


def test_addition_is_exact_commutative_and_associative() -> None:
    a, b, c = make(1), make(2), make(3)
    assert same(a + b, b + a)
    assert same((a + b) + c, a + (b + c))
    total = a + b + c
    for name in ("num_counts", "den_counts", "group_totals", "group_images"):
        assert np.array_equal(getattr(total, name), getattr(a, name) + getattr(b, name) + getattr(c, name))
    assert total.num_counts.dtype == np.int64
    assert total.provenance == [{"seed": 1}, {"seed": 2}, {"seed": 3}]
    assert np.array_equal(total.sketch, np.unique(np.concatenate([a.sketch, b.sketch, c.sketch])))
    assert total.category == "cup"
    assert (dataclasses.replace(a, category="") + dataclasses.replace(b, category="vase")).category == "vase"
    with pytest.raises(MismatchError, match="different category: 'cup' and 'vase'"):
        a + dataclasses.replace(b, category="vase")
    names = ("num_counts", "den_counts", "group_totals", "group_images")
    none = dataclasses.replace(a, **{name: getattr(a, name) * 0 for name in names})
    assert same(a + dataclasses.replace(none, sketch=np.zeros(0, np.uint64)), a)


def test_addition_goes_beyond_32_bits() -> None:
    def huge(seed: int) -> Occupancy:
        full = np.full((12, N, N, N), 2**31 - 1, np.int32)
        return dataclasses.replace(make(seed), num_counts=full, den_counts=full, group_totals=np.full(12, 2**31 - 1))

    total = huge(0) + huge(1) + huge(2)
    assert (total.num_counts == 3 * (2**31 - 1)).all()
    assert (total.support == 36 * (2**31 - 1)).all()
    assert (total.probability == 1).all()
    assert (huge(0).support == 12 * (2**31 - 1)).all()  # the sum over groups too


def test_what_does_not_belong_together_is_refused() -> None:
    a = make(1)
    for other, words in (
        (make(2, body_hash="c" * 64), "different body"),
        (make(2, parameters=FieldParameters(N, 1.6)), "different field"),
        (make(2, parameters=FieldParameters(N, 1.5, canonicalize=False)), "different field"),
        (make(2, parameters=FieldParameters(N, 1.5, smoothing_steps=7)), "different field"),
        (make(2, "azimuth+folds"), "different scheme: azimuth and azimuth\\+folds"),
        (make(2, weighting="none"), "different weighting"),
    ):
        with pytest.raises(MismatchError, match=words):
            a + other
    with pytest.raises(TypeError):
        a + 1  # type: ignore[operator]


def test_shared_images_are_warned_of() -> None:
    a, b = make(1), make(2)
    shared = dataclasses.replace(b, sketch=np.union1d(b.sketch, a.sketch[:3]))
    with pytest.warns(UserWarning, match=r"share images .at least 3 keys"):
        a + shared
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        a + b


def test_sketches_stay_small_and_comparable() -> None:
    rng = np.random.default_rng(5)
    a, b = (np.sort(rng.integers(0, 2**64, SKETCH_SIZE, np.uint64)) for _ in range(2))
    total = make(1, sketch=a) + make(2, sketch=b)
    assert np.array_equal(total.sketch, np.sort(np.concatenate([a, b]))[:SKETCH_SIZE])


@pytest.mark.parametrize("fine", SCHEMES)
@pytest.mark.parametrize("coarse", SCHEMES)
def test_coarser_schemes_are_sums(fine: str, coarse: str) -> None:
    occupancy, s, t = make(4, fine), Scheme(fine), Scheme(coarse)
    if (t.has_folds and not s.has_folds) or (t.has_elevation and not s.has_elevation):
        with pytest.raises(InputError, match="scheme: expected one no finer than"):
            occupancy.with_scheme(coarse)
        return
    summed = occupancy.with_scheme(coarse)
    assert summed.scheme == t
    assert summed.num_images == occupancy.num_images
    for name in ("num_counts", "den_counts", "group_totals", "group_images"):
        expected = np.zeros((t.num_groups, *getattr(occupancy, name).shape[1:]), np.int64)
        for g in range(s.num_groups):
            f, a, e = np.unravel_index(g, s.shape)
            to = np.ravel_multi_index((f * t.has_folds, a, e * t.has_elevation), t.shape)
            expected[to] += getattr(occupancy, name)[g]
        assert np.array_equal(getattr(summed, name), expected)
    assert np.allclose(summed.probability, occupancy.probability, rtol=1e-6)


def test_a_weighting_that_needs_cells_does_not_survive_their_loss() -> None:
    occupancy = make(4, "azimuth-elevation", "azimuth-elevation")
    with pytest.raises(InputError, match="azimuth-elevation needs counts by cell"):
        occupancy.with_scheme("azimuth")


def test_folds_are_a_partition() -> None:
    occupancy = make(6, "azimuth+folds")
    parts = [occupancy.of_folds([f]) for f in range(FOLDS)]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    assert same(total, occupancy)
    some = occupancy.of_folds([2, 7])
    assert same(some, parts[2] + parts[7])
    assert set(fold_of_hash(some.sketch)) == {2, 7}
    for folds in ([], [10], [-1], [0, 11]):
        with pytest.raises(InputError, match=r"folds: expected numbers 0 .. 9"):
            occupancy.of_folds(folds)
    with pytest.raises(InputError, match=r"folds: none were kept by the scheme 'azimuth'"):
        make(6).of_folds([1])
    with pytest.raises(InputError, match="folds: none were kept"):
        make(6).jackknife_error()


@pytest.mark.parametrize("weighting", ["azimuth", "none"])
def test_jackknife_by_brute_force(weighting: str) -> None:
    occupancy = make(7, "azimuth+folds", weighting, high=4)
    left_out = [occupancy.of_folds([g for g in range(FOLDS) if g != f]) for f in range(FOLDS)]
    phi = np.stack([o.probability.astype(np.float64) for o in left_out])
    expected = np.sqrt((FOLDS - 1) / FOLDS * ((phi - phi.mean(0)) ** 2).sum(0))
    assert np.allclose(occupancy.jackknife_error(), expected, atol=1e-6)
    assert expected.max() > 0.01


def test_jackknife_is_the_standard_error_of_a_mean() -> None:
    """Of unweighted folds of equal size, phi is a mean, whose jackknife error is the textbook's."""
    scheme = Scheme("azimuth+folds")
    num, den, totals = (np.zeros((scheme.num_groups, *s), np.int64) for s in ((1, 1, 1), (1, 1, 1), ()))
    p = np.random.default_rng(8).integers(0, 101, FOLDS)
    num[::12, 0, 0, 0], den[::12], totals[::12] = p, 100, 100  # all in azimuth bin 0
    occupancy = Occupancy(num, den, totals, totals, scheme, "none", FieldParameters(1), "")
    assert occupancy.jackknife_error().item() == pytest.approx(np.std(p / 100, ddof=1) / np.sqrt(FOLDS), rel=1e-5)


@pytest.mark.parametrize("wide", [False, True])
def test_save_and_load(tmp_path: Path, wide: bool) -> None:
    occupancy = make(9, "azimuth-elevation+folds", "none", parameters=FieldParameters(N, 1.5, True, 9, 0.5, 0.3, 4))
    occupancy = dataclasses.replace(occupancy, provenance=[{"numpy": "2", "command": ["a", "ü"], "deep": {"x": [1, None]}}])
    if wide:
        occupancy = dataclasses.replace(occupancy, num_counts=occupancy.num_counts.astype(np.int64) + 2**40)
    path = tmp_path / "a.occ.h5"
    path.write_bytes(b"what was there before")
    occupancy.save(path)
    loaded = load_occupancy(path)
    assert same(loaded, occupancy, but=())
    assert loaded.num_counts.dtype == occupancy.num_counts.dtype
    assert loaded.sketch.dtype == np.uint64
    assert loaded.field_hash == occupancy.field_hash
    assert np.array_equal(loaded.probability, occupancy.probability)
    assert [p.name for p in tmp_path.iterdir()] == ["a.occ.h5"]


def test_a_failed_save_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    make(1).save(path)
    before = path.read_bytes()
    with pytest.raises(TypeError):
        dataclasses.replace(make(2), provenance=[{"not json": object()}]).save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.h5"]


def _attr(name: str, value: Any) -> Any:
    return lambda file: file.attrs.__setitem__(name, value)


def _replace(name: str, value: Any) -> Any:
    def change(file: h5py.File) -> None:
        del file[name]
        file[name] = value

    return change


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_attr("version", 4), "expected chorus-occupancy version 1 or 2 or 3, got chorus-occupancy version 4"),
        (_attr("format", "chorus-shard"), "expected chorus-occupancy version 1"),
        (_attr("facts", "{"), "expected an occupancy file"),
        (_attr("facts", "[]"), "expected an occupancy file"),
        (_attr("facts", "{}"), "expected an occupancy file"),
        (lambda file: file.attrs.__delitem__("facts"), "expected an occupancy file"),
        (lambda file: file.__delitem__("sketch"), "expected an occupancy file"),
        (_replace("num_counts", np.zeros((12, 2, 2, 2), np.int32)), "num_counts: expected integers of shape"),
        (_replace("den_counts", np.zeros((12, N, N, N))), "den_counts: expected integers"),
        (_replace("group_totals", np.zeros(11, np.int64)), "group_totals: expected integers"),
    ],
)
def test_damaged_files(tmp_path: Path, damage: Any, words: str) -> None:
    path = tmp_path / "a.h5"
    make(1).save(path)
    with h5py.File(path, "r+") as file:
        damage(file)
    with pytest.raises(InputError, match=words):
        load_occupancy(path)


def test_files_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with pytest.raises(InputError, match="no such file"):
        load_occupancy(path)
    with pytest.raises(InputError, match="expected an occupancy file"):
        load_occupancy(tmp_path)
    make(1).save(path)
    whole = path.read_bytes()
    for cut in (0, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(InputError, match="expected an occupancy file"):
            load_occupancy(path)


def test_a_flipped_bit_in_the_counts_is_caught(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    make(1).save(path)
    with h5py.File(path) as file:
        chunk = file["num_counts"].id.get_chunk_info(0)
    whole = bytearray(path.read_bytes())
    whole[chunk.byte_offset + chunk.size // 2] ^= 16
    path.write_bytes(whole)
    with pytest.raises(InputError, match="expected an occupancy file"):
        load_occupancy(path)


def test_counts_are_checked() -> None:
    good = make(1)
    for change, words in (
        ({"num_counts": good.num_counts[:, :2]}, "num_counts: expected integers of shape"),
        ({"den_counts": good.den_counts.astype(np.float32)}, "den_counts: expected integers .* float32"),
        ({"group_images": good.group_images[:3]}, "group_images: expected integers"),
        ({"weighting": "azimuth-elevation"}, "weighting: azimuth-elevation needs"),
    ):
        with pytest.raises(InputError, match=words):
            dataclasses.replace(good, **change)


def test_a_saved_file_is_as_readable_as_any_other(tmp_path: Path) -> None:
    occ = make()
    occ.save(tmp_path / "a.h5")
    (tmp_path / "b").write_text("")
    assert (tmp_path / "a.h5").stat().st_mode == (tmp_path / "b").stat().st_mode
