"""The benchmark suite's own parts: what is timed is what it says, and a wrong result has no figure."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bench import __main__ as suite
from bench.harness.gates import (
    WrongResult,
    check_adds_up,
    check_field,
    check_same_images,
    check_votes,
    plain_weights,
)
from bench.harness.measure import Contender, clock_hz, interleaved, record
from bench.harness.report import append, host_class, main_line, make_run, tables
from bench.harness.workloads import AREA, VoteWorkload, vote_workload
from chorus.body.model import Body, load_body
from chorus.field import CanonicalField
from chorus.kernels.arrays import VoxelField
from chorus.kernels.cpu import votes as cpu
from chorus.kernels.reference import votes as reference
from chorus.store import StoreWriter, open_store

IMAGES = 120


@pytest.fixture(scope="module")
def body() -> Body:
    return load_body()


@pytest.fixture(scope="module")
def work(body: Body) -> VoteWorkload:
    return vote_workload(body, IMAGES)


@pytest.fixture(scope="module")
def field(body: Body) -> VoxelField:
    return CanonicalField(body, 12, cache=False).arrays


def numba(field: VoxelField, on: VoteWorkload) -> tuple[torch.Tensor, torch.Tensor]:
    return cpu.count_votes(field, on.images, on.group, num_groups=on.num_groups)


def test_the_workload_is_what_it_says(work: VoteWorkload) -> None:
    masks = work.batch.masks
    areas = masks.areas() / 512**2
    sides = (masks.box[:, 2:] - masks.box[:, :2]) / 512
    assert masks.problem() is None
    assert (masks.size == 512).all()
    assert areas.mean() == pytest.approx(AREA, rel=0.1)
    assert sides.prod(1).mean() == pytest.approx(0.18, rel=0.15)
    assert areas.min() > 0.02
    facts = work.facts()
    assert facts["mean_mask_area"] == pytest.approx(np.mean([masks.unpack(i).mean() for i in range(IMAGES)]), abs=1e-4)
    assert facts["mean_box_area"] == pytest.approx(sides.prod(1).mean(), abs=1e-4)
    assert (work.batch.cameras.K[:, 0, 0] == np.float32(1.167 * 512)).all()
    assert 0.35 < work.person_fill.min() < 0.5
    assert 0.55 < np.median(work.person_fill) < 0.8
    noise = work.batch.poses[:, 1:] - load_body().rest_pose[1:]
    assert noise.std() == pytest.approx(0.25, rel=0.05)


def test_the_workload_looks_from_all_sides_at_masks_near_the_person(work: VoteWorkload, body: Body) -> None:
    assert np.bincount(work.group.numpy(), minlength=12).min() > 0
    uv, z = work.batch.cameras.project(body.rest_joints)
    box = work.batch.masks.box
    middle = (box[:, :2] + box[:, 2:]) / 2
    assert (z > 0.5).all()
    away = np.linalg.norm(uv - middle[:, None], axis=-1).min(1)  # to the nearest joint of the unposed body
    assert np.median(away) < 64


def test_fewer_images_are_a_prefix_of_more(work: VoteWorkload, body: Body) -> None:
    few = vote_workload(body, 3)
    for i in range(3):
        np.testing.assert_array_equal(few.batch.masks.unpack(i), work.batch.masks.unpack(i))
    np.testing.assert_allclose(few.batch.cameras.t, work.batch.cameras.t[:3], atol=1e-6)
    assert not np.array_equal(vote_workload(body, 1, seed=1).batch.poses, few.batch.poses[:1])


def test_the_gate_lets_right_counts_pass(work: VoteWorkload, field: VoxelField) -> None:
    def eager(on: VoteWorkload) -> tuple[torch.Tensor, torch.Tensor]:
        return reference.count_votes(field, on.images, on.group, num_groups=12, dtype=torch.float32)

    check_votes({"numba": lambda on: numba(field, on), "eager": eager}, field, work, 8)
    whole = check_adds_up(lambda on: numba(field, on), work, "numba")
    assert int(whole[1].max()) > 0


@pytest.mark.parametrize("what", [0, 1])
def test_the_gate_notices_one_wrong_count(work: VoteWorkload, field: VoxelField, what: int) -> None:
    def corrupted(on: VoteWorkload) -> tuple[torch.Tensor, torch.Tensor]:
        counts = numba(field, on)
        counts[what][3, 777] += 9  # more than all 8 images together may differ by
        return counts

    with pytest.raises(WrongResult, match=f"{('num', 'den')[what]} differs from the float64 reference .* in 1 of"):
        check_votes({"corrupted": corrupted}, field, work, 8)


def test_the_gate_notices_votes_of_another_pose_and_no_votes(work: VoteWorkload, field: VoxelField) -> None:
    def unposed(on: VoteWorkload) -> tuple[torch.Tensor, torch.Tensor]:
        images = SimpleNamespace(**vars(on.images))
        stiff = type(on.images)(**{**vars(images), "poses": torch.zeros_like(on.images.poses)})
        return cpu.count_votes(field, stiff, on.group, num_groups=12)

    with pytest.raises(WrongResult):
        check_votes({"unposed": unposed}, field, work, 4)
    with pytest.raises(WrongResult):
        check_votes({"lazy": lambda on: (torch.zeros(12, 12**3).int(),) * 2}, field, work, 4)


def test_the_gate_notices_counts_that_depend_on_the_split(work: VoteWorkload, field: VoxelField) -> None:
    def lossy(on: VoteWorkload) -> tuple[torch.Tensor, torch.Tensor]:
        return numba(field, on.rows(slice(0, len(on) - 1)))  # loses the last image of every call

    with pytest.raises(WrongResult, match="not the sum over two pieces"):
        check_adds_up(lossy, work, "lossy")


def test_the_field_gate(body: Body) -> None:
    field = CanonicalField(body, 12, cache=False)
    plain = plain_weights(body, field.parameters)
    check_field(field, plain)
    plain[700, [0, 3]] += (-1e-3, 1e-3)
    with pytest.raises(WrongResult, match=r"differ from the plain computation by 0\.001"):
        check_field(field, plain)
    field.arrays.weight[5] += 0.01
    with pytest.raises(WrongResult, match="sum of 1"):
        check_field(field)


def test_the_store_gate(work: VoteWorkload, tmp_path: Path) -> None:
    batch = work.batch[:20]
    with StoreWriter(tmp_path / "s", category="bench", shard_size=8) as writer:
        writer.append(batch)
    read = list(open_store(tmp_path / "s").batches())
    check_same_images(read, batch)
    with pytest.raises(WrongResult, match="wrote 20 images, read 8"):
        check_same_images(read[:1], batch)
    with pytest.raises(WrongResult, match="other keys"):
        check_same_images([read[1], read[0], read[2]], batch)
    words = batch.masks.words.copy()
    words[int(batch.masks.start[13])] ^= 1
    masks = type(batch.masks)(batch.masks.size, batch.masks.box, batch.masks.start, words)
    other = dataclasses.replace(batch, masks=masks)
    with pytest.raises(WrongResult, match="mask of row 13"):
        check_same_images(read, other)


class FakeBenchmark:
    """What ``interleaved`` uses of pytest-benchmark's fixture."""

    def __init__(self) -> None:
        self.extra_info: dict[str, object] = {}
        self.stats = SimpleNamespace(stats=SimpleNamespace(data=[]))

    def pedantic(self, call, setup, rounds):  # type: ignore[no-untyped-def]
        for round_ in range(rounds):
            setup()
            call()
            self.stats.stats.data.append(0.5 + round_)


def test_contenders_take_turns() -> None:
    order: list[str] = []
    contenders = [Contender(name, lambda name=name: order.append(name), 8) for name in "abc"]
    benchmark = FakeBenchmark()
    records = interleaved(benchmark, contenders, rounds=3)
    assert "".join(order) == "abc" + 3 * "bca"
    assert [r["name"] for r in records] == ["a", "b", "c"]
    assert records[0]["median_s"] == 1.5
    assert records[0]["per_s"] == 8 / 1.5
    assert [r["rounds"] for r in records] == [3, 3, 3]
    assert benchmark.extra_info["contenders"] == records


def test_figures_of_a_record() -> None:
    r = record(Contender("x", int, 100, facts={"batch": 8}), [1.0, 5.0, 2.0, 3.0, 4.0])
    assert (r["median_s"], r["iqr_s"], r["min_s"], r["batch"]) == (3.0, 2.0, 1.0, 8)
    assert r["per_s"] == pytest.approx(100 / 3)


def test_the_clock_is_a_clock() -> None:
    assert 0.3e9 < clock_hz(1) < 9e9


def a_run() -> dict[str, object]:
    def contender(name: str, per_s: float, items: int) -> dict[str, object]:
        r = record(Contender(name, int, items), [items / per_s] * 3)
        r.update(votes_per_s=per_s * 48**3, cycles_per_vote=5.0, ratio=per_s / 200, ratio_of_least=per_s / 200)
        return r

    extra = {
        "what": "48^3 voxels, 1,024 images",
        "threads": 2,
        "culling": {"culled": 0.45},
        "workload": {"mean_mask_area": 0.08, "mean_box_area": 0.18},
        "contenders": [contender("numba", 12_000, 1024), contender("slow", 100, 64), contender("less slow", 200, 64)],
    }
    recorded = {
        "datetime": "2026-01-01T00:00:00",
        "benchmarks": [
            {"name": "bench_votes[48x1024]", "group": "votes", "extra_info": extra},
            {"name": "bench_votes[48x64]", "group": "votes", "extra_info": {}},  # failed its gate
        ],
    }
    return make_run(recorded, profile="quick", failed=["bench_votes[48x64]"], load_before=0.1)


def test_runs_are_appended_and_shown(tmp_path: Path) -> None:
    run = a_run()
    assert [b["name"] for b in run["benchmarks"]] == ["bench_votes[48x1024]"]
    path = tmp_path / "results" / "r.json"
    append(path, run)
    append(path, run)
    assert json.loads(path.read_text()) == {"runs": [run, run]}
    assert list(path.parent.iterdir()) == [path]
    line = main_line(run)
    assert line is not None
    assert "numba is 60.0 times as fast as less slow" in line
    assert "12,000 against 200 images/s" in line
    (table,) = tables(run)
    assert "60 x" in table
    assert "12,000 images/s" in table
    assert "slow (on 64)" in table
    assert main_line({**run, "benchmarks": []}) is None


def test_a_class_of_hosts_is_a_file_name() -> None:
    facts = {"cpu": "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz", "cores": 8}
    assert host_class(facts) == "intel-xeon-platinum-8481c-8-cores"


def test_the_command_refuses_a_file_that_holds_no_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other.json"
    other.write_text("[1, 2]")
    with pytest.raises(SystemExit) as refused:
        suite.main(["--quick", "-o", str(other)])
    assert refused.value.code == 2
    assert "no results file" in capsys.readouterr().err
    assert other.read_text() == "[1, 2]"


def test_a_failed_gate_has_no_figure_and_a_bad_exit(tmp_path: Path) -> None:
    suite_folder = tmp_path / "suite"
    suite_folder.mkdir()
    (suite_folder / "conftest.py").write_text(
        "def pytest_addoption(parser):\n"
        "    parser.addoption('--quick', action='store_true')\n"
        "    parser.addoption('--cell-seconds', type=float)\n"
    )
    (suite_folder / "bench_field.py").write_text(
        "from bench.harness.gates import WrongResult\n"
        "from bench.harness.measure import Contender, interleaved\n"
        "def bench_right(benchmark):\n"
        "    interleaved(benchmark, [Contender('x', lambda: sum(range(999)), 1)], 3)\n"
        "    benchmark.extra_info['what'] = 'right'\n"
        "def bench_wrong(benchmark):\n"
        "    raise WrongResult('a count is off')\n"
        "def bench_late(benchmark):\n"
        "    import pytest; pytest.skip('not begun: 1 s were over')\n"
    )
    output = tmp_path / "results.json"
    code = (
        "import pathlib, sys, bench.__main__ as suite\n"
        "suite.HERE = pathlib.Path(sys.argv[1])\n"
        "sys.exit(suite.main(['--quick', '--only', 'field', '-o', sys.argv[2]]))\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, str(suite_folder), str(output)],
        cwd=Path(__file__).parents[2],
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")},  # no worker of pytest-xdist
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 1, ran.stdout + ran.stderr
    assert "no figure: bench_wrong failed" in ran.stdout
    assert "no figure: bench_right" not in ran.stdout
    assert "no figure: bench_late: not begun: 1 s were over" in ran.stdout
    (run,) = json.loads(output.read_text())["runs"]
    assert [b["name"] for b in run["benchmarks"]] == ["bench_right"]
    assert run["failed"] == ["bench_wrong"]
    assert run["not_run"] == {"bench_late": "not begun: 1 s were over"}


def test_where_no_gpu_is_the_gpu_profile_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU; bench/gpu.sh runs the profile")
    assert suite.main(["--gpu"]) == 3
    assert "torch sees none" in capsys.readouterr().err
    script = subprocess.run(
        ["bash", "bench/gpu.sh"],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
    )
    assert script.returncode == 3, script.stdout + script.stderr
    assert "sees no GPU; nothing was run" in script.stderr
