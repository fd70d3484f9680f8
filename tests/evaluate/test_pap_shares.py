"""PAP in blocks of images: stopped and gone on with, and in shares, with the report of one process."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray

import chorus.evaluate.pap.blocks as blocks
import chorus.evaluate.unfinished as unfinished_module
from chorus.body.model import load_body
from chorus.cli import main
from chorus.commands.console import INTERRUPTED
from chorus.errors import InputError
from chorus.evaluate.pap import PapImage, PapProtocol, PapReport, evaluate_pap, evaluate_pap_share, pap
from chorus.evaluate.pap.categories import posing
from chorus.evaluate.unfinished import Unfinished
from chorus.field import CanonicalField
from chorus.occupancy.aggregation import aggregate
from chorus.occupancy.counts import Occupancy
from chorus.occupancy.distribution import Distribution
from chorus.occupancy.joins import JoinedImages
from chorus.ranks import Share
from chorus.simulate.images import write_world
from chorus.simulate.worlds import WORLDS
from chorus.store import open_store

VOLATILE = ("date", "seconds")
SIZES = {"bag-a": 11, "bag-b": 5, "hats": 9}
"""Images of the test stores: with blocks of 4, blocks of 4, 4, 3, of 4, 1, and of 4, 4, 1."""
BLOCKS, IMAGES = 8, 25


@dataclass
class Worlds:
    tests: list[Path]
    occupancies: list[Occupancy]
    files: list[Path]

    @property
    def arguments(self) -> tuple[object, ...]:
        chosen = [argument for file in self.files for argument in ("--occupancy", file)]
        return ("evaluate", "pap", *self.tests, *chosen, "--min-images", 1)


class Counting:
    """A way to pose that counts its calls, and before the ``stop``-th is Ctrl-C pressed."""

    text = "counting"

    def __init__(self, stop: int | None = None) -> None:
        self.calls, self.stop, self.pose = 0, stop, posing()

    def __call__(self, occupancy: Distribution, pose: NDArray[np.float32]) -> NDArray[np.float32]:
        if self.calls == self.stop:
            raise KeyboardInterrupt
        self.calls += 1
        return self.pose(occupancy, pose)


def chorus(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def facts(report: PapReport | Path) -> dict[str, Any]:
    content = json.loads(report.read_text() if isinstance(report, Path) else json.dumps(report.to_json()))
    return {name: value for name, value in content.items() if name not in VOLATILE}


@pytest.fixture(autouse=True)
def blocks_of_4(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK", 4)


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Worlds:
    folder, body = tmp_path_factory.mktemp("pap"), load_body()
    occupancies, files = [], []
    for world, resolution in (("backpack", 12), ("hat", 10)):
        write_world(folder / world, [WORLDS[world]], 60, 0, body)
        occupancies.append(aggregate(folder / world, CanonicalField(body, resolution, cache=False)))
        files.append(folder / f"{world}.h5")
        occupancies[-1].save(files[-1])
    for seed, (name, size) in enumerate(SIZES.items()):
        write_world(folder / name, [WORLDS["hat" if name == "hats" else "backpack"]], size, seed + 1, body)
    return Worlds([folder / name for name in SIZES], occupancies, files)


@pytest.fixture(scope="module")
def whole(worlds: Worlds, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """The JSON of one process, but for what differs from run to run, and the CSV."""
    folder = tmp_path_factory.mktemp("whole")
    done = chorus(*worlds.arguments, "-o", folder / "r.json", "--csv", folder / "r.csv")
    assert done.exit_code == 0, done.output
    assert sorted(p.name for p in folder.iterdir()) == ["r.csv", "r.json"]
    return facts(folder / "r.json"), (folder / "r.csv").read_text()


# Gone on with


def test_blocks_that_are_scored_are_not_scored_again(worlds: Worlds, whole: tuple[dict[str, Any], str], tmp_path: Path) -> None:
    output, told = tmp_path / "r.json", []

    def stop(done: int, total: int) -> None:
        told.append((done, total))
        if done == 14:  # blocks of 4, 4, 3 are done, and 3 images of the next
            raise KeyboardInterrupt

    how: dict[str, Any] = {"min_images": 1, "threads": 1}
    with pytest.raises(KeyboardInterrupt):
        evaluate_pap(
            worlds.occupancies,
            worlds.tests,
            pose_occupancy=Counting(),
            progress=stop,
            unfinished=Unfinished.beside(output),
            **how,
        )
    assert told == [(i, IMAGES) for i in range(1, 15)]
    kept = json.loads((tmp_path / "r.json.unfinished").read_text())["results"]
    assert [len(block) for block in kept.values()] == [4, 4, 3]
    told, again, kept_now = [], Counting(), Unfinished.beside(output)
    report = evaluate_pap(
        worlds.occupancies,
        worlds.tests,
        pose_occupancy=again,
        progress=lambda *n: told.append(n),
        unfinished=kept_now,
        **how,
    )
    assert again.calls == IMAGES - 11
    assert told == [(i, IMAGES) for i in range(11, IMAGES + 1)]
    assert facts(report) == whole[0]
    report.write_csv(tmp_path / "r.csv")
    assert (tmp_path / "r.csv").read_text() == whole[1]
    nothing_left = Counting(stop=0)
    third = evaluate_pap(
        worlds.occupancies, worlds.tests, pose_occupancy=nothing_left, unfinished=Unfinished.beside(output), **how
    )
    assert facts(third) == whole[0]
    kept_now.finish()
    assert [p.name for p in tmp_path.iterdir()] == ["r.csv"]


@pytest.mark.parametrize("aware", [True, False])
def test_counts_come_back_as_they_were(worlds: Worlds, tmp_path: Path, aware: bool) -> None:
    protocol, occupancy, store = PapProtocol(num_thresholds=7), worlds.occupancies[0], open_store(worlds.tests[1])
    kept = Unfinished(tmp_path / "kept.json")
    evaluate_pap([occupancy], [store], protocol=protocol, aware=aware, unfinished=kept)
    nothing_scored = evaluate_pap([occupancy], [store], protocol=protocol, aware=aware, unfinished=Unfinished(kept.path))
    batch, body = store.batch(store.select()), load_body()
    vertices = body.posed_vertices(batch.poses) if aware else [None] * len(batch.keys)
    images = [
        PapImage(
            occupancy.posed(batch.poses[i]),
            occupancy.parameters.extent,
            batch.cameras[i : i + 1],
            batch.masks.unpack(i),
            vertices[i],
            key.decode(),
        )
        for i, key in enumerate(batch.keys)
    ]
    for expected, found in zip(pap(images, protocol), nothing_scored.categories[0].results, strict=True):
        assert (found.key, found.scores) == (expected.key, expected.scores)
        for theirs, ours in ((expected.counts, found.counts), (expected.aware_counts, found.aware_counts)):
            if theirs is None or ours is None:
                assert (theirs, ours, aware) == (None, None, False)
                continue
            assert theirs.target == ours.target
            for name in ("predicted", "hits"):
                values = getattr(ours, name)
                assert (values.dtype, values.tolist()) == (np.int64, getattr(theirs, name).tolist())


def test_a_damaged_block_is_scored_anew(worlds: Worlds, whole: tuple[dict[str, Any], str], tmp_path: Path) -> None:
    path = tmp_path / "kept.json"
    how: dict[str, Any] = {"min_images": 1}
    evaluate_pap(worlds.occupancies, worlds.tests, pose_occupancy=Counting(), unfinished=Unfinished(path), **how)
    content = json.loads(path.read_text())
    first, second, third, *_ = content["results"]
    content["results"][first] = [None] * 4
    content["results"][second] = content["results"][second][:3]
    content["results"][third] = {"x": 1}
    path.write_text(json.dumps(content))
    again = Counting()
    report = evaluate_pap(worlds.occupancies, worlds.tests, pose_occupancy=again, unfinished=Unfinished(path), **how)
    assert again.calls == 4 + 4 + 3
    assert facts(report) == whole[0]


def test_other_settings_are_refused_by_the_name_of_the_file(worlds: Worlds, tmp_path: Path) -> None:
    path = tmp_path / "r.json.unfinished"
    (bag, hat), (bag_a, bag_b, hats) = worlds.occupancies, worlds.tests
    given: dict[str, Any] = {"occupancies": [bag, hat], "stores": [bag_a, hats], "pose_occupancy": posing(backend="numba")}
    evaluate_pap_share(Share(1, 2), **given, unfinished=Unfinished(path))
    kept = path.read_bytes()
    other = replace(bag, weighting="none")
    assert (other.probability != bag.probability).any()
    for changes, names in (
        ({"occupancies": [other, hat]}, "occupancies"),
        ({"stores": [bag_b, hats]}, "images, stores"),
        ({"stores": [bag_a, bag_b, hats]}, "aware, body, images, occupancies, stores"),
        ({"aware": False}, "aware"),
        ({"protocol": PapProtocol(splat="footprint")}, "protocol"),
        ({"prompt": "?*"}, "images"),
        ({"part": "rightHand"}, "images"),
        ({"pose_occupancy": posing(inverse="inverse_of_blend", backend="numba")}, "posing"),
        ({"pose_occupancy": posing(backend="reference")}, "posing"),
        ({"pose_occupancy": lambda occupancy, pose: occupancy.probability}, "posing"),
    ):
        for run in (evaluate_pap, lambda **named: evaluate_pap_share(Share(2, 2), **named)):
            with pytest.raises(InputError, match=rf"{path}: expected .* got others for {names} \(remove"):
                run(**{**given, **changes}, unfinished=Unfinished(path))
    assert path.read_bytes() == kept
    # What changes no count is no other setting.
    evaluate_pap(**given, min_images=3, threads=1, device="cpu", unfinished=Unfinished(path))


def test_the_rows_of_shards_in_another_order_are_others(worlds: Worlds) -> None:
    """The same shards under other names are the same store, but with other row numbers."""

    def settings(shards: str, rows: tuple[int, ...]) -> dict[str, Any]:
        store: Any = SimpleNamespace(shards=[SimpleNamespace(sha256=letter * 64) for letter in shards])
        chosen = JoinedImages(np.array(rows), 3, ("hold",), None, None, "")
        return blocks.StoreImages(store, chosen, worlds.occupancies[0], None).settings

    assert settings("ab", (0, 1, 5)) == settings("ab", (0, 1, 5))
    assert len({settings(*given)["rows"] for given in (("ab", (0, 1, 5)), ("ba", (0, 1, 5)), ("ab", (0, 1)))}) == 3


# Shares


def test_shares_make_the_report_of_one_process(worlds: Worlds, whole: tuple[dict[str, Any], str], tmp_path: Path) -> None:
    path, scored = tmp_path / "r.json", 0
    for number in (2, 3, 1):
        told = chorus(*worlds.arguments, "-o", path, "--share", f"{number}/3", "--json")
        assert told.exit_code == 0, told.output
        own, kept = tmp_path / f"r.json.unfinished-{number}-of-3", json.loads(told.stdout)
        assert kept == {"share": f"{number}/3", "scored": kept["scored"], "kept": kept["scored"], "wrote": [str(own)]}
        assert 4 <= kept["scored"] <= 13
        scored += kept["scored"]
    assert scored == IMAGES
    again = chorus(*worlds.arguments, "-o", path, "--share", "2/3")
    assert "share 2/3: scored 0 images; " in again.stdout
    assert "the same command without --share takes what they have kept" in again.stdout
    assert f"wrote {tmp_path / 'r.json.unfinished-2-of-3'}" in again.stdout
    files = ("--csv", tmp_path / "r.csv", "--picture", tmp_path / "r.png")
    made = chorus(*worlds.arguments, "-o", path, *files)
    assert made.exit_code == 0, made.output
    assert made.stdout.count("wrote ") == 3
    assert facts(path) == whole[0]
    assert (tmp_path / "r.csv").read_text() == whole[1]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["r.csv", "r.json", "r.png"]


def test_a_share_is_stopped_and_goes_on(
    worlds: Worlds, whole: tuple[dict[str, Any], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, own = tmp_path / "r.json", tmp_path / "r.json.unfinished-1-of-2"
    with monkeypatch.context() as patch:
        patch.setattr(blocks, "pap", _stopped_after(6, blocks.pap))
        stopped = chorus(*worlds.arguments, "-o", path, "--share", "1/2")
        assert stopped.exit_code == INTERRUPTED
        assert f"images were scored; 4 images are kept in {own}; the same command goes on from them" in stopped.stderr
        patch.setattr(blocks, "pap", _stopped_after(0, blocks.pap))
        alone = chorus(*worlds.arguments)
        assert "no image was scored; nothing is kept (with -o FILE it would be)" in alone.stderr
    told = json.loads(chorus(*worlds.arguments, "-o", path, "--share", "1/2", "--json").stdout)
    assert told["kept"] == told["scored"] + 4
    made = chorus(*worlds.arguments, "-o", path)  # the second share was never done
    assert made.exit_code == 0, made.output
    assert facts(path) == whole[0]
    assert list(tmp_path.iterdir()) == [path]


def _stopped_after(images: int, function: Callable[..., Any]) -> Callable[..., Any]:
    def stopped(*arguments: Any) -> Any:
        for number, result in enumerate(function(*arguments)):
            if number == images:
                raise KeyboardInterrupt
            yield result

    return stopped


def test_shares_are_disjoint_whole_and_of_equal_work(worlds: Worlds) -> None:
    scored: dict[int, int] = {}
    names: list[str] = []
    for number in range(1, 13):
        kept = Unfinished()
        scored[number] = evaluate_pap_share(Share(number, 12), worlds.occupancies, worlds.tests, unfinished=kept)
        names += [name for name, _ in kept.own]
        assert scored[number] == sum(len(block) for _, block in kept.own)
    assert sum(scored.values()) == IMAGES
    assert len(names) == len(set(names)) == BLOCKS
    assert 0 in scored.values()  # there are more of them than blocks


def test_what_a_share_cannot_do_is_said_before_any_work(worlds: Worlds, tmp_path: Path) -> None:
    output = ("-o", tmp_path / "r.json")
    for more, message in (
        (("--share", "1/2"), "share: expected -o FILE, beside which"),
        (("--share", "1/2", *output, "--csv", tmp_path / "r.csv"), "share: expected no --picture and no --csv, which"),
        (("--share", "1/2", *output, "--picture", tmp_path / "r.png"), "share: expected no --picture and no --csv, which"),
        (("--share", "3/2", *output), "expected i/n with i from 1 to n, got 3/2"),
    ):
        refused = chorus(*worlds.arguments, *more)
        assert refused.exit_code == 2
        assert message in refused.stderr
    assert not list(tmp_path.iterdir())


# When files are written


def test_results_that_come_fast_are_written_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, written = [1000.0], []
    write = unfinished_module.write_text

    def slow(path: Path, text: str) -> None:
        written.append(now[0])
        now[0] += 0.5
        write(path, text)

    monkeypatch.setattr(unfinished_module, "write_text", slow)
    monkeypatch.setattr(unfinished_module.time, "monotonic", lambda: now[0])
    path = tmp_path / "r.json"
    kept = Unfinished(path)
    kept.begin({"x": "ä"})
    for number in range(20):
        kept.keep(f"ß {number}", [number, 0.1, None], 30)
        now[0] += 10
    # At once, and not before 100 times the half second that it took has gone by since: 0, 50.5 -> at the next tens of seconds.
    assert written == [1000.0, 1050.5, 1101.0, 1151.5]
    assert [name for name, _ in Unfinished(path).items()] == [f"ß {number}" for number in range(16)]
    kept.write()
    kept.write()
    assert len(written) == 5
    again = Unfinished(path)
    again.begin({"x": "ä"})
    assert dict(again.items()) == dict(kept.own) == {f"ß {number}": [number, 0.1, None] for number in range(20)}
    again.keep("at once", 1)
    assert Unfinished(path).num_kept == 21
    assert len(written) == 6
