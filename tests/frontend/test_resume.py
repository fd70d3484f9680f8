"""Runs that are killed, lose a rank, or are asked for more: the store ends up as if nothing had happened."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from chorus.body.model import load_body
from chorus.errors import InputError, StoreError
from chorus.frontend.plan import Description
from chorus.frontend.run import Settings, check_store, fill_store
from chorus.ranks import Ranks
from chorus.store import StoreWriter, open_store, verify_store
from chorus.store.filters.filtering import Filter, read_store_filter, write_store_filter
from tests.frontend.runs import OPTIONS, STAGES, run, same_rows, wanted
from tests.soak import SOAK

ROOT = Path(__file__).parents[2]
ENDLESS, REST = 50_000, 40
"""Images that no run of the test gets done with, however fast the machine; those that are left to the last one."""

KILLER = """
import json, os, random, signal, sys, time
from pathlib import Path
from tests.frontend.runs import run  # imported once; every run is a fork of this process, which has run nothing yet
from chorus.store import open_store

path, endless, rest, kills = Path(sys.argv[1]), *map(int, sys.argv[2:5])

def start(count):
    child = os.fork()
    if child == 0:
        try:
            run(path, count, keep_images="all")
        except BaseException as error:
            print(error, file=sys.stderr)
            os._exit(1)
        os._exit(0)
    return child

def shards():
    return len(list((path / "shards").glob("*.h5")))

rng = random.Random(0)
seen, codes = [], []
for attempt in range(kills):
    before, child, deadline = shards(), start(endless), time.monotonic() + 60
    if attempt % 2:  # at any moment of its work, however slow the machine: some time after the next commit
        while shards() == before and time.monotonic() < deadline:
            time.sleep(0.002)
    time.sleep(rng.uniform(0.0, 0.3))
    os.kill(child, signal.SIGKILL)
    codes.append(os.waitpid(child, 0)[1])
    reader = os.fork()  # looks at what is there, in a process of its own: this one stays as it was
    if reader == 0:
        there = len(open_store(path)) if (path / "store.json").exists() else 0
        Path(sys.argv[5]).write_text(str(there))
        os._exit(0)
    os.waitpid(reader, 0)
    seen.append(int(Path(sys.argv[5]).read_text()))
count = seen[-1] + rest
last = os.waitpid(start(count), 0)[1]
print(json.dumps({"seen": seen, "codes": codes, "last": last, "count": count}))
"""


@pytest.mark.slow
def test_killed_at_many_moments_the_rows_are_those_of_a_run_that_was_not(tmp_path: Path) -> None:
    kills = 20 if SOAK else 8
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            KILLER,
            str(tmp_path / "killed.chorus"),
            str(ENDLESS),
            str(REST),
            str(kills),
            str(tmp_path / "seen"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["last"] == 0, done.stderr
    assert told["codes"] == [9] * kills, told  # killed at work, not after it
    assert told["seen"] == sorted(told["seen"]), told  # nothing that was committed is lost
    assert len(set(told["seen"])) >= kills // 2, told  # half of them were after a commit of their own
    assert not verify_store(tmp_path / "killed.chorus")
    killed = open_store(tmp_path / "killed.chorus")
    assert set(killed.pictures) == set(killed.rows["key"].tolist())  # each was committed with its row, or made with it again
    report = run(tmp_path / "whole.chorus", told["count"])
    assert report.images == told["count"]
    assert len(open_store(tmp_path / "whole.chorus").pictures) == 0
    same_rows(tmp_path / "killed.chorus", tmp_path / "whole.chorus")


def torchrun(path: Path, count: int, processes: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            f"--nproc-per-node={processes}",
            "-m",
            "tests.frontend.runs",
            str(path),
            str(count),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.slow
def test_ranks_share_the_work_and_the_next_run_finishes_what_a_lost_one_left(tmp_path: Path) -> None:
    done = torchrun(tmp_path / "two.chorus", 40, 2)
    assert done.returncode == 0, done.stderr
    assert "rank 0 of 2: 20 images" in done.stdout
    assert "rank 1 of 2: 20 images" in done.stdout
    run(tmp_path / "one.chorus", 40)
    same_rows(tmp_path / "one.chorus", tmp_path / "two.chorus")
    # A rank that never came: its share is missing, and whoever runs next makes it.
    run(tmp_path / "lost.chorus", 40, ranks=_Alone(0, 2))
    assert len(open_store(tmp_path / "lost.chorus")) == 20
    report = run(tmp_path / "lost.chorus", 40)
    assert report.images == 20
    same_rows(tmp_path / "one.chorus", tmp_path / "lost.chorus")


class _Alone(Ranks):
    """A rank whose fellows died at the start."""

    def agree(self, find_out):  # type: ignore[no-untyped-def]
        return find_out()


def test_every_rank_takes_its_share() -> None:
    items = list(range(11))
    shares = [Ranks(rank, 3).share(items) for rank in range(3)]
    assert sorted(i for share in shares for i in share) == items
    assert [len(share) for share in shares] == [4, 4, 3]


def test_what_is_there_is_not_made_again_and_more_is_added(tmp_path: Path) -> None:
    path = tmp_path / "s.chorus"
    seen: list[tuple[int, int]] = []
    assert run(path, 12, progress=lambda now, total: seen.append((now.images, total))).images == 12
    assert seen == [(4, 12), (8, 12), (12, 12)]
    assert run(path, 12).images == 0
    assert run(path, 20, batch=8).images == 8
    run(tmp_path / "whole.chorus", 20)
    same_rows(path, tmp_path / "whole.chorus")


def test_a_new_store_gets_a_description_and_the_papers_filter_and_keeps_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "s.chorus"
    run(path, 4)
    there = Description.load(path)
    assert there is not None
    assert (there.stages, there.options, there.category) == (STAGES, OPTIONS, "sports ball")
    assert read_store_filter(path) == Filter.paper()
    write_store_filter(path, Filter.none())
    run(path, 8)
    assert read_store_filter(path) == Filter.none()
    header = open_store(path).shards[0].provenance["frontend"]
    assert header["stages"] == STAGES
    assert set(header["licences"]) == set(STAGES)


def test_a_store_made_with_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.chorus"
    run(path, 4)
    other = Description("sports ball", {**STAGES, "humans": "records=x"}, OPTIONS, settings=Settings().described())
    with pytest.raises(StoreError, match=r"stages.humans: expected 'simulated'.*--accept-changes"):
        check_store(path, other)
    check_store(path, other, accept_changes=True)
    with StoreWriter(tmp_path / "t.chorus", category="ball") as writer:
        writer.append_rejected(["a"], "no person")
    with pytest.raises(StoreError, match="made by something else"):
        run(tmp_path / "t.chorus", 4)
    assert len(open_store(tmp_path / "t.chorus")) == 1


def test_killed_between_the_stores_making_and_its_description_the_next_run_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "s.chorus"
    StoreWriter(path, category="sports ball", body_hash=load_body().hash).close()
    assert not (path / "frontend.json").exists()
    assert run(path, 4).images == 4
    assert Description.load(path) is not None


def test_a_second_run_on_one_store_is_refused_while_the_first_is_at_work(tmp_path: Path) -> None:
    path = tmp_path / "s.chorus"
    refused: list[str] = []

    def meanwhile(now: object, total: int) -> None:
        with pytest.raises(StoreError, match="another run is at work on it") as told:
            run(path, 12)
        refused.append(str(told.value))

    assert run(path, 8, progress=meanwhile).images == 8
    assert len(refused) == 2
    assert run(path, 12).images == 4


def test_requests_of_one_key_are_refused(tmp_path: Path) -> None:
    twice = [wanted(1)[0], replace(wanted(2)[1], key=wanted(1)[0].key)]
    description = Description("sports ball", STAGES, OPTIONS)
    with pytest.raises(InputError, match="requests: expected different keys"):
        fill_store(tmp_path / "s.chorus", twice, description, load_body(), Settings(device="cpu"))
