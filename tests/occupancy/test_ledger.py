"""What a long aggregation keeps: stopped at any moment, it goes on, and the counts are those of one run."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import h5py
import pytest
from click.testing import CliRunner

from chorus.cli import main
from chorus.errors import InputError, StoreError
from chorus.field import CanonicalField
from chorus.occupancy.aggregation import aggregate
from chorus.occupancy.counts import Occupancy
from chorus.occupancy.jobs import Job
from chorus.occupancy.ledger import MANIFEST, Ledger, ledger_of
from chorus.ranks import Share
from chorus.store import Store, background
from tests.occupancy.job_samples import PARTS, Killed, equal, killed_after
from tests.occupancy.job_samples import body as body
from tests.occupancy.job_samples import field as field
from tests.occupancy.job_samples import store as store
from tests.occupancy.test_aggregation import N
from tests.occupancy.test_hidden import command


@pytest.mark.parametrize("part", PARTS)
def test_a_job_goes_on_from_what_was_counted(
    store: Store, field: CanonicalField, tmp_path: Path, part: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chorus.occupancy.ledger.SHARE_OF_TIME", 1e9)  # an entry after each batch
    how = {"part": part, "epsilon": 0.3, "batch_size": 20, "hidden_weight": 0.1}
    whole = aggregate(store, field, **how)
    folder = tmp_path / "ledger"
    job = Job(store.path, field, how, ledger=folder, seconds=0)
    for attempt in range(3):
        with pytest.raises(Killed):
            job.run(progress=killed_after(2 + attempt))
        assert len(list(folder.glob("*.h5"))) <= 2  # what was counted before, and this attempt's
    reads = []
    saved: list[Occupancy] = []
    found = job.run(saved.append, progress=lambda done, total: reads.append(total))
    assert found is not None
    assert 0 < reads[0] < 300 - 3 * 37  # the rest alone
    assert equal(found, whole)
    assert saved == [found]
    assert found.provenance[0] == {**whole.provenance[0], "command": found.provenance[0]["command"]}
    assert not folder.exists()


def test_a_ledger_of_another_job_is_refused(store: Store, field: CanonicalField, tmp_path: Path) -> None:
    folder = tmp_path / "ledger"
    with pytest.raises(Killed):
        Job(store.path, field, {"batch_size": 20}, ledger=folder, seconds=0).run(progress=killed_after(3))
    kept = sorted(folder.iterdir())
    for how in ({"prompt": "sitting"}, {"weighting": "none"}, {"hidden_weight": 0.1}, {"filter": "paper"}):
        with pytest.raises(InputError, match=f"another .*{'hidden' if 'hidden_weight' in how else next(iter(how))}"):
            Job(store.path, field, how, ledger=folder).run()
    with pytest.raises(InputError, match="another share"):
        Job(store.path, field, {}, Share(1, 2), ledger=folder).run()
    assert sorted(folder.iterdir()) == kept
    entry = next(folder.glob("*.h5"))
    entry.write_bytes(entry.read_bytes()[:500])
    with pytest.raises(InputError, match=r"truncated.*; remove"):
        Job(store.path, field, {"batch_size": 20}, ledger=folder).run()
    (folder / MANIFEST).write_text("{")
    with pytest.raises(InputError, match="expected what an aggregation kept"):
        Job(store.path, field, {}, ledger=folder).run()
    forced = Job(store.path, field, {}, ledger=folder, replace=True).run()
    assert forced is not None
    assert equal(forced, aggregate(store, field))
    assert not folder.exists()


def test_force_removes_the_ledger_of_another_job(store: Store, tmp_path: Path) -> None:
    out = tmp_path / "cup.h5"
    ledger_of(out).mkdir()
    (ledger_of(out) / MANIFEST).write_text('{"format": "chorus-ledger", "version": 1, "job": {"prompt": "x"}, "files": []}')
    options = ("-o", out, "--resolution", N)
    result = CliRunner().invoke(main, ["aggregate", str(store.path), *map(str, options)])
    assert (result.exit_code, "(--force)" in result.output) == (2, True)
    assert command("aggregate", store.path, *options, "--force")["images"] == 300
    assert not ledger_of(out).exists()


def test_an_attempt_that_is_still_alive_does_not_change_what_was_found(
    store: Store, field: CanonicalField, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that was thought dead goes on writing its file, which has all that it has counted since."""
    monkeypatch.setattr("chorus.occupancy.ledger.SHARE_OF_TIME", 1e9)
    folder = tmp_path / "ledger"
    job = Job(store.path, field, {"batch_size": 20}, ledger=folder, seconds=0)
    with pytest.raises(Killed):
        job.run(progress=killed_after(2))
    file = next(folder.glob("*-0.h5"))
    with pytest.raises(Killed):
        job.run(progress=killed_after(3))
    aggregate(store, field).save(file)
    found = job.run()
    assert found is not None
    assert equal(found, aggregate(store, field))


@pytest.mark.parametrize("repaired", [True, False])
def test_counts_of_damaged_shards_are_never_kept(
    store: Store, field: CanonicalField, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repaired: bool
) -> None:
    """Where checking is slower than counting, too: a ledger that had them would let them in when the job goes on."""
    path, folder = tmp_path / "cup.chorus", tmp_path / "ledger"
    shutil.copytree(store.path, path)
    shard = sorted((path / "shards").iterdir())[1]
    intact = shard.read_bytes()
    with h5py.File(shard) as file:
        low_bits = file["pose/axis_angle"].id.get_offset() + (5 * 24 * 3 + 4) * 4 + 2
    content = bytearray(intact)
    content[low_bits] ^= 0x10  # another pose, with nothing strange about it
    shard.write_bytes(content)
    monkeypatch.setattr("chorus.occupancy.ledger.SHARE_OF_TIME", 1e9)
    checked = background._content

    def slow(shard: Any) -> Any:
        time.sleep(0.5)
        return checked(shard)

    with monkeypatch.context() as patched:
        patched.setattr(background, "_content", slow)
        with pytest.raises((Killed, StoreError)):
            Job(path, field, {"batch_size": 20}, ledger=folder, seconds=0).run(progress=killed_after(6))
    if not repaired:
        with pytest.raises(StoreError, match="pose/axis_angle: damaged"):
            Job(path, field, {}, ledger=folder).run()
        return
    shard.write_bytes(intact)
    found = Job(path, field, {}, ledger=folder).run()
    assert found is not None
    assert equal(found, aggregate(store, field))


def test_killed_while_the_ledger_is_put_together(store: Store, field: CanonicalField, tmp_path: Path) -> None:
    """At any moment files that count and files that do not may be side by side; none is counted twice."""
    folder = tmp_path / "ledger"
    job = Job(store.path, field, {"batch_size": 20}, ledger=folder, seconds=0)
    for _ in range(2):
        with pytest.raises(Killed):
            job.run(progress=killed_after(2))
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    counted = Ledger(folder, json.loads((folder / MANIFEST).read_text())["job"]).begin()
    assert counted is not None
    for name, content in files.items():
        if name != MANIFEST:
            (folder / name).write_bytes(content)  # killed before the old ones were removed
    found = job.run()
    assert found is not None
    assert equal(found, aggregate(store, field))


def test_a_full_disk_costs_the_ledger_not_the_job(
    store: Store, field: CanonicalField, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    kept = Job(store.path, field, {"batch_size": 50}, ledger=tmp_path / "kept", seconds=0)
    with pytest.raises(Killed):
        kept.run(progress=killed_after(2))
    monkeypatch.setattr("chorus.occupancy.ledger.write_json", full)
    found = Job(store.path, field, {"batch_size": 50}, ledger=tmp_path / "ledger", seconds=0).run()
    assert found is not None
    assert found.num_images == 300
    reads: list[int | None] = []
    again = kept.run(progress=lambda _, total: reads.append(total))
    assert again is not None
    assert equal(again, found)
    assert (reads[0] or 300) < 300  # what was kept before counts, though no more can be kept
