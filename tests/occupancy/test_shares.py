"""Shares of an aggregation give the counts of one run, bit by bit, and none counts an image twice."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from chorus.body.model import Body
from chorus.cli import main
from chorus.errors import InputError, MismatchError
from chorus.field import CanonicalField
from chorus.occupancy.aggregation import aggregate
from chorus.occupancy.counts import load_occupancy
from chorus.occupancy.merging import merge, missing_shares, narrowed
from chorus.ranks import Share, share_by_size
from chorus.simulate.images import write_world
from chorus.simulate.worlds import WORLDS
from chorus.store import Store, open_store, verify_store
from chorus.votes.contacts import store_contacts
from chorus.votes.counted import Counted
from chorus.votes.parts import interaction_regions
from chorus.votes.portion import Portion
from tests.occupancy.job_samples import PARTS, equal
from tests.occupancy.job_samples import body as body
from tests.occupancy.job_samples import field as field
from tests.occupancy.job_samples import store as store
from tests.occupancy.test_aggregation import N
from tests.occupancy.test_hidden import command


@pytest.mark.parametrize("of", [1, 2, 3, 7, 40])
@pytest.mark.parametrize("part", PARTS)
def test_shares_add_up_to_the_whole(store: Store, field: CanonicalField, of: int, part: str | None) -> None:
    whole = aggregate(store, field, part=part, epsilon=0.3)
    shares = [
        aggregate(store, field, part=part, epsilon=0.3, portion=Portion(Share(i, of)), allow_none=True)
        for i in range(1, of + 1)
    ]
    merged = merge(reversed(shares))
    assert equal(merged, whole)
    assert merged.provenance[0]["images"] == whole.num_images
    assert ("shares" in merged.provenance[0], len(merged.provenance)) == (False, 1)
    if of == 7:
        partial = merge(shares[1:4])
        assert [str(share) for share in missing_shares(partial)] == ["1/7", "5/7", "6/7", "7/7"]
        assert missing_shares(merge([partial, shares[0], *shares[4:]])) == []
        with pytest.raises(MismatchError, match="share images"):
            merge([partial, shares[2]])


def test_shares_are_of_about_as_many_bytes(store: Store) -> None:
    rows = store.select()
    bytes_of = np.concatenate([np.full(len(s), s.nbytes / len(s)) for s in store.shards])
    for of in (2, 3, 7):
        portions = [Portion(Share(i, of)).of_rows(store, rows) for i in range(1, of + 1)]
        assert (np.sum(portions, 0) == 1).all()
        sizes = [bytes_of[rows[p]].sum() for p in portions]
        assert max(sizes) < 1.1 * bytes_of.sum() / of
        for portion in portions:  # neighbours: each shard is read by as few processes as can be
            assert (np.diff(np.flatnonzero(portion)) == 1).all()


@pytest.mark.parametrize("sizes", [[5, 3, 0], [0, 0, 0], [0, 7, 7, 1], [1] * 9, [], [10**18, 3, 10**18]])
def test_every_item_is_in_one_share(sizes: list[int]) -> None:
    for of in (1, 2, 3, 7, 1009):
        assert [at for i in range(1, of + 1) for at in share_by_size(sizes, Share(i, of))] == list(range(len(sizes)))


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "1/0", "a/b", "-1/2", "1/2/3", ""])
def test_words_that_are_no_share(text: str) -> None:
    with pytest.raises(InputError, match=r"expected i/n"):
        Share.parse(text)


def test_hidden_votes_that_are_weighed_by_choice(body: Body, field: CanonicalField, tmp_path: Path) -> None:
    """Each share chooses by its own images; what counts is the choice from all of them."""
    path = tmp_path / "ball.chorus"
    write_world(path, [WORLDS["backpack"]], num_images=60, body=body)
    whole = aggregate(path, field, hidden_weight="auto")
    shares = [aggregate(path, field, hidden_weight="auto", portion=Portion(Share(i, 3))) for i in (1, 2, 3)]
    shares[1] = dataclasses.replace(shares[1], hidden_weight=0.1)  # whatever it chose
    merged = merge(shares)
    assert equal(merged, whole)
    assert merged.provenance[0]["hidden_choice"] == whole.provenance[0]["hidden_choice"]
    with pytest.raises(MismatchError, match="hidden"):
        merge([shares[0], aggregate(path, field, hidden_weight=1.0, portion=Portion(Share(2, 3)))])


def test_counts_are_as_narrow_as_they_fit(store: Store, field: CanonicalField) -> None:
    counted = aggregate(store, field)
    wide = dataclasses.replace(counted, num_counts=counted.num_counts.astype(np.int64))
    assert narrowed(wide).num_counts.dtype == np.int32
    wide.num_counts[3, 0, 0, 0] = 2**31
    assert narrowed(wide).num_counts.dtype == np.int64
    with pytest.raises(InputError, match="at least one"):
        merge([])


def test_contacts_and_verification_in_shares(store: Store, tmp_path: Path, field: CanonicalField) -> None:
    path = tmp_path / "cup.chorus"
    shutil.copytree(store.path, path)
    names = [path / "shards" / shard.path.name for shard in store.shards]
    found = [command("contacts", path, "--share", f"{i}/3", "--resolution", N, "--epsilon", 0.3) for i in (1, 2, 3)]
    assert sum(facts["images"] for facts in found) == 300
    regions = interaction_regions(field, epsilon=0.3)
    computed: list[int] = []
    bits = store_contacts(open_store(path), field, regions, progress=lambda done, _: computed.append(done))
    assert computed == []  # all there
    assert sum(facts["touched"]["rightHand"] for facts in found) == regions.has(bits, "rightHand").sum() > 0
    damaged = names[2]
    content = bytearray(damaged.read_bytes())
    content[-100] ^= 1
    damaged.write_bytes(content)
    by_share = [verify_store(path, Share(i, 3)) for i in (1, 2, 3)]
    assert [bool(problems) for problems in by_share].count(True) == 1
    assert [p for problems in by_share for p in problems] == verify_store(path)
    names[-1].write_bytes(b"")  # a file of no bytes is in a share, too
    assert "got an empty one" in str(verify_store(path, Share(3, 3)))
    result = CliRunner().invoke(main, ["store", "verify", str(path)])
    assert (result.exit_code, "got an empty one" in result.output) == (2, True)
    result = CliRunner().invoke(main, ["store", "verify", str(path), "--share", "9/3"])
    assert (result.exit_code, "expected i/n with i from 1 to n, got 9/3" in result.stderr) == (2, True)


def test_which_images_were_counted(store: Store, field: CanonicalField, tmp_path: Path) -> None:
    half = aggregate(store, field, part="rightHand", epsilon=0.3, portion=Portion(Share(1, 2)))
    half.save(tmp_path / "half.h5")
    counted = load_occupancy(tmp_path / "half.h5").counted
    assert counted is not None
    assert counted == half.counted
    read = Portion(Share(1, 2)).of_rows(store, store.select())
    assert (counted.rows_left(store, store.select()) == ~read).all()
    assert counted.num_images == half.num_images < read.sum()
    other = aggregate(store, field, part="not rightHand", epsilon=0.3, portion=Portion(Share(1, 2)))
    assert other.counted is not None
    assert counted.shared_with(other.counted) == 0  # of the same rows, others voted
    assert (half + other).num_images == read.sum()


def test_beyond_so_many_images_shards_tell(
    store: Store, field: CanonicalField, body: Body, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chorus.votes.counted.HASHES_KEPT", 50)
    one, two = (aggregate(store, field, portion=Portion(Share(i, 2))) for i in (1, 2))
    assert one.counted is not None
    assert one.counted.hashes is None
    assert (one + two).num_images == 300
    some = aggregate(store, field, folds=[3])
    with pytest.raises(MismatchError, match=r"share images.* at least \d+ are in both"):
        one + some
    one.save(tmp_path / "one.h5")
    assert load_occupancy(tmp_path / "one.h5").counted == one.counted


@pytest.mark.parametrize("damage", ["digests", "images", "read", "voted", "hashes", "num_images"])
def test_damaged_sets_are_refused(store: Store, field: CanonicalField, damage: str) -> None:
    counted = aggregate(store, field).counted
    assert counted is not None
    arrays = counted.to_arrays()
    broken = arrays | {damage: np.repeat(np.atleast_1d(arrays[damage]), 2, axis=0)}
    with pytest.raises(InputError, match="counted: expected"):
        Counted.from_arrays(broken)
