"""An ablation in shares: disjoint, of equal work, each kept in a file of its own, and together the table of one process."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import chorus.evaluate.ablation.pieces as pieces
import chorus.evaluate.ablation.simulated_stores as simulated_stores
from chorus.cli import main
from chorus.commands.console import INTERRUPTED
from chorus.errors import InputError
from chorus.evaluate.ablation import AblationOptions, ablate_share, keypoint_filter
from chorus.evaluate.ablation.pieces import Piece, Work
from chorus.evaluate.ablation.report import VOLATILE
from chorus.evaluate.ablation.simulated_stores import AblationStores, simulate_stores
from chorus.evaluate.unfinished import Unfinished
from chorus.ranks import Share
from chorus.store import verify_store
from tests.commands.test_interrupted import interrupted_after

SEEDS = (0, 1)
CATEGORIES = ("hat", "surfboard")
IMAGES, TESTS = 60, 4
ROWS = ("--resolution", "12", "--resolutions", "8", "--k", "1", "--tau", "", "--shares", "0.5", "--sizes", "20")
OPTIONS = AblationOptions(resolution=12, resolutions=(8,), k=(1,), tau=(), shares=(0.5,), sizes=(20,))
PIECES = 2 * 2 * (6 + 1)
"""Seeds, categories, fields and the estimators: full, not canonicalized, 8^3, k = 1, not smoothed, lbs-nearest."""


def chorus(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shares") / "worlds"


@pytest.fixture(scope="module")
def stores(folder: Path) -> AblationStores:
    return simulate_stores(folder, IMAGES, TESTS, SEEDS, categories=CATEGORIES)


@pytest.fixture(scope="module")
def command(folder: Path, stores: AblationStores) -> tuple[object, ...]:
    of_category = [argument for category in CATEGORIES for argument in ("--category", category)]
    made = ("--simulate", folder, "--images", IMAGES, "--test-images", TESTS, "--seeds", len(SEEDS), *of_category)
    return ("ablate", *made, "--min-images", 1, *ROWS)


@pytest.fixture(scope="module")
def whole(command: tuple[object, ...], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The JSON of one process, but for what differs from run to run."""
    path = tmp_path_factory.mktemp("whole") / "a.json"
    assert chorus(*command, "-o", path).exit_code in (0, 1)  # 1: a claim does not hold on so few images
    return facts(path)


def facts(path: Path) -> dict[str, Any]:
    return {name: value for name, value in json.loads(path.read_text()).items() if name not in VOLATILE}


def counting(function: Callable[..., Any], calls: list[int]) -> Callable[..., Any]:
    def counted(*arguments: Any, **named: Any) -> Any:
        calls.append(1)
        return function(*arguments, **named)

    return counted


# The command


def test_shares_make_the_table_of_one_process(command: tuple[object, ...], whole: dict[str, Any], tmp_path: Path) -> None:
    path, scored = tmp_path / "a.json", 0
    for number in (3, 1, 2):
        told = chorus(*command, "-o", path, "--share", f"{number}/3", "--json")
        assert told.exit_code == 0, told.output
        own = tmp_path / f"a.json.unfinished-{number}-of-3"
        kept = json.loads(told.stdout)
        assert kept == {"share": f"{number}/3", "scored": kept["scored"], "kept": kept["scored"], "wrote": [str(own)]}
        assert len(Unfinished(own)) == kept["scored"] > 0
        scored += kept["scored"]
    assert scored == PIECES
    assert len(list(tmp_path.iterdir())) == 3
    made = chorus(*command, "-o", path)
    assert made.exit_code in (0, 1), made.output
    assert facts(path) == whole
    assert list(tmp_path.iterdir()) == [path]


def test_a_share_goes_on_and_a_missing_one_is_done_in_the_end(
    command: tuple[object, ...], whole: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, own, posed = tmp_path / "a.json", tmp_path / "a.json.unfinished-1-of-2", pieces.posed_voxels
    with monkeypatch.context() as patch:
        patch.setattr(pieces, "posed_voxels", interrupted_after(TESTS, posed))  # the second category's images are not posed
        stopped = chorus(*command, "-o", path, "--share", "1/2")
    assert stopped.exit_code == INTERRUPTED
    assert f"2 results are kept in {own}; the same command goes on from them" in stopped.stderr
    told = chorus(*command, "-o", path, "--share", "1/2")
    assert told.exit_code == 0, told.output
    kept = len(Unfinished(own))
    assert f"share 1/2: scored {kept - 2} pieces of the work" in told.stdout
    assert f"; {kept} kept" in told.stdout
    assert "the same command without --share takes what they have kept" in told.stdout
    assert f"wrote {own}" in told.stdout
    again = json.loads(chorus(*command, "-o", path, "--share", "1/2", "--json").stdout)
    assert (again["scored"], again["kept"]) == (0, kept)
    with monkeypatch.context() as patch:
        calls: list[int] = []
        patch.setattr(pieces, "posed_voxels", counting(posed, calls))
        made = chorus(*command, "-o", path)
    assert made.exit_code in (0, 1), made.output
    assert 0 < len(calls) < 6 * len(CATEGORIES) * TESTS  # none for what the share has
    assert facts(path) == whole
    assert list(tmp_path.iterdir()) == [path]


def test_results_of_other_settings_are_refused_by_the_name_of_their_file(command: tuple[object, ...], tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    foreign = Unfinished.beside(path, Share(2, 2))
    foreign.begin({"filter": "none"})
    foreign.keep("x", {})
    for more in ((), ("--share", "1/2"), ("--share", "2/2")):
        refused = chorus(*command, "-o", path, *more)
        assert refused.exit_code == 2
        assert f"{tmp_path / 'a.json.unfinished-2-of-2'}: expected results of an interrupted job" in refused.stderr
        assert "got others for body, body_hash" in refused.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["a.json.unfinished-2-of-2"]
    (tmp_path / "a.json.unfinished-2-of-2").write_text('{"settings": ')
    assert "a.json.unfinished-2-of-2: expected results" in chorus(*command, "-o", path).stderr


def test_what_a_share_cannot_do_is_said_before_any_work(command: tuple[object, ...], tmp_path: Path) -> None:
    for more, message in (
        (("--share", "1/2"), "share: expected -o FILE, beside which"),
        (("--share", "1/2", "-o", tmp_path / "a.json", "--markdown"), "share: expected no --picture and no --markdown"),
        (("--share", "3/2", "-o", tmp_path / "a.json"), "expected i/n with i from 1 to n, got 3/2"),
    ):
        refused = chorus(*command, *more)
        assert refused.exit_code == 2
        assert message in refused.stderr
    assert not list(tmp_path.iterdir())


# What is shared


def test_shares_are_disjoint_whole_and_of_equal_work(stores: AblationStores, monkeypatch: pytest.MonkeyPatch) -> None:
    works: list[Work] = []

    def noted(self: Work, chosen: list[Piece]) -> int:
        works.append(self)
        return len(chosen)

    monkeypatch.setattr(Work, "score", noted)
    scored = ablate_share(
        Share(2, 2),
        stores.training,
        stores.tests,
        unfinished=Unfinished(),
        seeds=SEEDS,
        where=keypoint_filter(),
        other=stores.other,
        options=OPTIONS,
        min_images=1,
    )
    (work,) = works
    everything = work.pieces()
    assert len({piece.name for piece in everything}) == len(everything) == PIECES
    assert [p.name for p in work.share_of(work.pieces(), Share(2, 2))] == [p.name for p in everything][-scored:]
    sizes = {piece.name: work._size(piece, 42) for piece in everything}
    for of in (1, 3, 40):
        shares = [work.share_of(everything, Share(number, of)) for number in range(1, of + 1)]
        assert [piece for share in shares for piece in share] == everything
        sums = [sum(sizes[piece.name] for piece in share) for share in shares]
        assert max(sums) - min(sums) <= 2 * max(sizes.values())
    assert not all(shares)  # there are more of them than pieces


def test_a_share_takes_what_others_have_kept(tmp_path: Path) -> None:
    """Work that was begun in two shares goes on in three."""
    output = tmp_path / "a.json"
    for share, name in ((None, "w"), (Share(1, 2), "a"), (Share(2, 2), "b")):
        kept = Unfinished.beside(output, share)
        kept.begin({"x": 1})
        kept.keep(name, share and share.number)
    (tmp_path / "a.json.unfinished-copy").write_text("no file of a share")
    (tmp_path / "a,json.unfinished-1-of-2").write_text("another's")
    third = Unfinished.beside(output, Share(3, 3))
    third.begin({"x": 1})
    assert dict(third.items()) == {"w": None, "a": 1, "b": 2}
    assert (len(third), third.num_kept) == (3, 0)
    third.keep("c", 3)
    assert json.loads((tmp_path / "a.json.unfinished-3-of-3").read_text())["results"] == {"c": 3}
    whole = Unfinished.beside(output)
    whole.begin({"x": 1})
    assert [whole.get(name) for name in "abcd"] == [1, 2, 3, None]
    assert "1 results are kept in" in whole.where()
    assert ", 3 more in files of shares; the same command" in whole.where()
    with pytest.raises(InputError, match=r"a\.json\.unfinished.*got others for x"):
        Unfinished.beside(output).begin({"x": 2})
    whole.finish()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a,json.unfinished-1-of-2", "a.json.unfinished-copy"]


# Simulated stores, by several processes at once


def test_processes_simulate_into_one_folder(stores: AblationStores, tmp_path: Path) -> None:
    words = f"simulate_stores({str(tmp_path)!r}, {IMAGES}, {TESTS}, {SEEDS}, categories={CATEGORIES})"
    code = f"from chorus.evaluate.ablation.simulated_stores import *; print([s.id for s in {words}.tests])"
    processes = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in "ab"
    ]
    told = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], told
    assert {stdout for stdout, _ in told} == {f"{[store.id for store in stores.tests]}\n"}
    alone = [*stores.tests, *(s for of_seed in stores.training for s in of_seed), *stores.other]
    assert sorted(p.name for p in tmp_path.glob("*.chorus")) == sorted(Path(store.path).name for store in alone)
    for store in alone:
        assert verify_store(tmp_path / Path(store.path).name) == []
    again = simulate_stores(tmp_path, IMAGES, TESTS, SEEDS, categories=CATEGORIES)
    for of_seed, expected in zip(again.training, stores.training, strict=True):
        assert [store.id for store in of_seed] == [store.id for store in expected]
    assert [store.id for store in again.other] == [store.id for store in stores.other]


def test_a_store_that_another_one_makes_is_waited_for_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    write = simulated_stores.write_world

    def noted(path: Path, *arguments: Any, **named: Any) -> Any:
        made.append(path.name)
        return write(path, *arguments, **named)

    monkeypatch.setattr(simulated_stores, "write_world", noted)
    first = tmp_path / ".test-hat-2-seed1000000.chorus.lock"
    with ThreadPoolExecutor(1) as pool:
        with simulated_stores.exclusive_lock(first):
            future = pool.submit(simulate_stores, tmp_path, 2, 2, SEEDS, categories=("hat",))
            while len(made) < 2 and not future.done():
                pass
            assert made == ["hat-2-seed0.chorus", "hat-2-seed1.chorus"]
        stores = future.result(timeout=60)
    assert made[2:] == ["test-hat-2-seed1000000.chorus"]
    assert [len(store) for store in (*stores.tests, stores.training[0][0], stores.training[1][0])] == [2, 2, 2]
