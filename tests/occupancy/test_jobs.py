"""Aggregation by several processes and by the commands: the counts of one process, bit by bit."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from chorus.body.model import Body
from chorus.cli import main
from chorus.errors import InputError, StoreError
from chorus.field import CanonicalField
from chorus.occupancy import jobs
from chorus.occupancy.aggregation import aggregate
from chorus.occupancy.counts import load_occupancy
from chorus.occupancy.jobs import Job
from chorus.occupancy.ledger import ledger_of
from chorus.ranks import Share, ranks
from chorus.store import Store, StoreWriter, open_store
from chorus.store.growing.compacting import compact_store
from chorus.votes.portion import Portion
from tests.occupancy.job_samples import body as body
from tests.occupancy.job_samples import equal
from tests.occupancy.job_samples import field as field
from tests.occupancy.job_samples import store as store
from tests.occupancy.test_aggregation import N, make_images
from tests.occupancy.test_hidden import command


def torchrun(processes: int, *arguments: str | Path, **how: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--master-port", "0"]
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", *how.pop("launcher", ())]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "CHORUS_THREADS": "1", **how.pop("env", {})}
    return subprocess.Popen(
        [*command, "-m", "chorus", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=env,
        **how,
    )


def test_the_commands(store: Store, tmp_path: Path) -> None:
    """One process, three of torchrun, four shares, and an update of one of these: the same counts."""
    out = {name: tmp_path / f"{name}.h5" for name in ("whole", "ranks", "merged", "updated", "1", "2", "3", "4")}
    running = torchrun(3, "aggregate", store.path, "-o", out["ranks"], "--resolution", str(N), "--json")
    command("aggregate", store.path, "-o", out["whole"], "--resolution", N)
    whole = load_occupancy(out["whole"])
    shares = [command("aggregate", store.path, "-o", out[str(i)], "--share", f"{i}/4", "--resolution", N) for i in (1, 2, 3, 4)]
    assert sum(facts["images"] for facts in shares) == 300
    assert [facts["share"] for facts in shares] == ["1/4", "2/4", "3/4", "4/4"]
    assert command("merge", out["2"], out["4"], "-o", out["merged"])["missing_shares"] == ["1/4", "3/4"]
    facts = command("merge", *(out[str(i)] for i in (1, 2, 3, 4)), "-o", out["merged"], "--force")
    assert (facts["images"], facts["missing_shares"]) == (300, [])
    updated = command("aggregate", store.path, "--update", out["1"], "-o", out["updated"])
    assert (updated["images"], updated["new_images"]) == (300, 300 - shares[0]["images"])
    again = command("aggregate", store.path, "--update", out["updated"])
    assert (again["new_images"], again["wrote"]) == (0, [str(out["updated"])])
    printed, errors = running.communicate(timeout=120)
    assert running.returncode == 0, errors
    assert json.loads(printed)["images"] == 300
    running = torchrun(2, "contacts", store.path, "--resolution", str(N), "--json")
    one = command("contacts", store.path, "--resolution", N)
    printed, errors = running.communicate(timeout=120)
    assert running.returncode == 0, errors
    assert json.loads(printed) == one
    for name in ("ranks", "merged", "updated"):
        assert equal(load_occupancy(out[name]), whole), name
    assert load_occupancy(out["ranks"]).provenance[0]["processes"] == 3


def test_processes_update_together(store: Store, body: Body, tmp_path: Path) -> None:
    """Each leaves out the shards that are counted, and they share the rest."""
    path, known, out = (
        tmp_path / "cup.chorus",
        tmp_path / "known.h5",
        {name: tmp_path / f"{name}.h5" for name in ("one", "two")},
    )
    shutil.copytree(store.path, path)
    command("aggregate", path, "-o", known, "--resolution", N)
    with StoreWriter(path, category="cup", shard_size=20, body_hash=body.hash) as writer:
        writer.append(make_images(50, seed=9))
    running = torchrun(2, "aggregate", path, "--update", known, "-o", out["two"], "--json")
    command("aggregate", path, "-o", out["one"], "--resolution", N)
    printed, errors = running.communicate(timeout=120)
    assert running.returncode == 0, errors
    assert json.loads(printed)["new_images"] == 50
    assert equal(load_occupancy(out["two"]), load_occupancy(out["one"]))


def test_processes_that_open_a_growing_store_one_after_the_other(
    store: Store, field: CanonicalField, body: Body, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They share the images that were there when the first one looked; that shards are gone is an error."""
    path = tmp_path / "cup.chorus"
    shutil.copytree(store.path, path)
    shards = frozenset(shard.sha256 for shard in store.shards)
    opened = jobs.open_rest

    def grown(*arguments: Any, **how: Any) -> Any:
        found = opened(*arguments, **how)
        with StoreWriter(path, category="cup", body_hash=body.hash) as writer:
            writer.append(make_images(50, seed=9))
        return found

    before = aggregate(store, field)
    with monkeypatch.context() as patched:
        patched.setattr(jobs, "open_rest", grown)
        counted = Job(path, field, {}).run()
    assert counted is not None
    assert equal(counted, before)
    assert counted.provenance[0]["source"] == store.id
    now = open_store(path)
    assert len(now) == 350
    one, two = Portion(rank=Share(1, 2), shards=shards), Portion(rank=Share(2, 2), shards=shards)
    for early, late in ((one, two), (two, one)):
        rows = [store.select()[early.of_rows(store, store.select())], now.select()[late.of_rows(now, now.select())]]
        assert (np.sort(np.concatenate(rows)) == store.select()).all()
    compact_store(path)
    with pytest.raises(StoreError, match="some are gone"):
        aggregate(path, field, portion=one)


def test_variables_of_torchrun(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "3")
    with ranks() as alone:
        assert (alone.rank, alone.world) == (0, 1)
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(InputError, match="RANK: expected a number below WORLD_SIZE, 3"), ranks():
        pass
    result = CliRunner().invoke(main, ["aggregate", str(store.path), "--all", "-o", str(tmp_path / "all")])
    assert (result.exit_code, (tmp_path / "all").exists()) == (2, False)
    assert "--all is work of one process" in result.output


@pytest.mark.slow
def test_a_rank_that_dies_and_a_job_that_is_killed(body: Body, tmp_path: Path) -> None:
    """torchrun starts a group again when a rank is killed; a killed job goes on when started again: the same counts."""
    path, N = tmp_path / "cup.chorus", 32
    with StoreWriter(path, category="cup", body_hash=body.hash) as writer:
        for seed in range(20):
            writer.append(make_images(400, seed=seed))
    whole = aggregate(path, CanonicalField(body, N))
    out = tmp_path / "ranks.h5"
    arguments = ["aggregate", path, "-o", out, "--resolution", str(N), "--json", "--keep-every", "0.01"]

    def ranks_of(launcher: int) -> list[int]:
        children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
        return [int(pid) for pid in children]

    def entries() -> set[str]:
        return {path.name for path in ledger_of(out).glob("*-*.h5") if not path.name.startswith(".")}

    def wait_for_entries(running: subprocess.Popen[str]) -> None:
        deadline, before = time.monotonic() + 60, entries()
        while not entries() - before:
            assert running.poll() is None, running.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.01)

    running = torchrun(2, *arguments)
    wait_for_entries(running)
    for pid in (running.pid, *ranks_of(running.pid)):  # the whole job
        os.kill(pid, signal.SIGKILL)
    running.communicate()
    assert ledger_of(out).exists()
    assert not out.exists()
    running = torchrun(2, *arguments, launcher=("--max-restarts", "3"))
    wait_for_entries(running)
    os.kill(ranks_of(running.pid)[-1], signal.SIGKILL)  # one rank
    printed, errors = running.communicate(timeout=200)
    assert running.returncode == 0, errors
    assert "SIGKILL" in errors or "Signal 9" in errors or "exitcode" in errors, errors
    assert json.loads(printed)["images"] == 8000
    assert equal(load_occupancy(out), whole)
    assert not ledger_of(out).exists()
