"""Cells, crowds, baselines, tables and plots of the benchmark suite."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench import plots, roofline, table
from bench.bench_ablations import regrouped, with_dense_joints
from bench.bench_votes import add_vote_rates, culling_facts, with_right_counts
from bench.harness import eager
from bench.harness.cells import CELLS, IMAGES, RESOLUTIONS, Cell, Votes, baselines, interpolated, numba_votes
from bench.harness.crowds import BOXES, CHUNK, Crowd, crowd, people, shapes
from bench.harness.gates import CHECKED_SIDE, WrongResult, check_votes, checked_parts, crop
from bench.harness.measure import Contender, affordable, record, rounds_for
from bench.harness.report import append, make_run
from bench.harness.text import aligned, number, seconds
from chorus.body.model import Body, load_body
from chorus.camera.cameras import Cameras
from chorus.camera.views import azimuth_bin
from chorus.field import CanonicalField
from chorus.kernels.arrays import VoxelField
from chorus.kernels.bricks import bricks_of
from chorus.kernels.cpu import votes as cpu
from chorus.kernels.masks import PackedMasks
from chorus.kernels.reference import votes as reference
from chorus.kernels.stats import CullingStats

ROOT = Path(__file__).parents[2]

N_IMAGES = 40


@pytest.fixture(scope="module")
def body() -> Body:
    return load_body()


@pytest.fixture(scope="module")
def work(body: Body) -> Crowd:
    return crowd(people(body, N_IMAGES), "typical")


@pytest.fixture(scope="module")
def field(body: Body) -> VoxelField:
    return CanonicalField(body, 12, cache=False).arrays


@pytest.mark.parametrize(("box", "area"), [("typical", 0.187), ("10", 0.1), ("30", 0.3), ("60", 0.6)])
def test_crowds_are_what_they_say(body: Body, box: str, area: float) -> None:
    work = crowd(people(body, CHUNK), box)
    facts = work.facts()
    assert facts["mean_box_area"] == pytest.approx(area, rel=0.05)
    images = work.images
    masks = PackedMasks(images.size.numpy(), images.box.numpy(), images.start.numpy(), images.words.numpy().view(np.uint32))
    assert masks.problem() is None
    np.testing.assert_allclose(masks.areas() / 512**2, work.mask_area)
    assert facts["mask_bytes"] == pytest.approx(4 * len(masks.words) / CHUNK, abs=1)
    assert len(np.unique(images.start)) == CHUNK  # every image reads words of its own
    cameras = Cameras(images.R.numpy(), images.t.numpy(), images.K.numpy(), images.size.numpy())
    np.testing.assert_array_equal(azimuth_bin(cameras), work.group.numpy())
    assert np.bincount(work.group.numpy(), minlength=12).min() > 0.5 * CHUNK / 12
    assert 0.3 < work.person_fill.min() < np.median(work.person_fill) < 0.8
    uv, z = cameras.project(body.rest_joints)
    away = np.linalg.norm(uv - masks.box.reshape(-1, 2, 2).mean(1)[:, None], axis=-1).min(1)
    assert (z > 0.5).all()
    assert np.median(away) < {"typical": 64, "10": 64, "30": 90, "60": 130}[box]  # large boxes have little room to move in
    pixels = reference.unpack_mask(images, 7)
    x0, y0, x1, y1 = images.box[7].tolist()
    assert pixels[y0:y1, x0:x1].sum() == pixels.sum() > 0


def test_fewer_of_a_crowd_are_a_prefix_of_more(body: Body, work: Crowd) -> None:
    few = crowd(people(body, 3), "typical")
    assert torch.equal(few.images.poses, work.images.poses[:3])
    assert torch.equal(few.images.t, work.images.t[:3])
    assert torch.equal(few.images.box, work.images.box[:3])
    assert torch.equal(reference.unpack_mask(few.images, 2), reference.unpack_mask(work.images, 2))
    assert not torch.equal(people_t(body, 1), few.images.t[:1])
    with pytest.raises(ValueError, match="box: expected typical, 10, 30, 60; got '45'"):
        shapes("45")


def people_t(body: Body, seed: int) -> torch.Tensor:
    return torch.from_numpy(people(body, 1, seed).cameras.t)


def test_a_crowd_of_a_store_is_the_same_images(work: Crowd) -> None:
    batch = work.batch(5, 25)
    np.testing.assert_array_equal(batch.masks.unpack(3), reference.unpack_mask(work.images, 8).numpy())
    np.testing.assert_array_equal(batch.poses, work.images.poses[5:25].numpy())
    assert batch.keys[0] == b"crowd-00000005"


def test_every_resolution_number_of_images_and_kind_of_mask_is_in_the_full_suite() -> None:
    asked = {(N, n, box) for N in RESOLUTIONS for n in IMAGES for box in BOXES}
    for profile in ("full", "gpu"):
        assert asked <= {(c.resolution, c.images, c.box) for c in CELLS[profile]}
        assert len({str(c) for c in CELLS[profile]}) == len(CELLS[profile])
    assert any(c.baselines == "all" and c.images == 65536 and c.resolution == 48 for c in CELLS["gpu"])
    assert [str(c) for c in CELLS["quick"]] == ["48x1", "48x64", "48x1024"]
    assert str(Cell(96, 64, "30")) == "96x64-box30"
    assert Cell(48, 65536).what == "48^3 voxels, 65,536 images"


def test_a_crop_is_part_of_the_field(field: VoxelField, work: Crowd) -> None:
    part, voxels = crop(field, (2, 5, 9), (4, 9, 2))
    assert part.shape == (4, 7, 2)
    torch.testing.assert_close(part.centres(), field.centres()[voxels])
    assert torch.equal(part.dense_weights(), field.dense_weights()[voxels])
    some = work.rows(slice(0, 4))
    whole, cut = (reference.count_votes(f, some.images, some.group, num_groups=12) for f in (field, part))
    assert torch.equal(whole[0][:, voxels], cut[0])
    assert torch.equal(whole[1][:, voxels], cut[1])


def test_large_fields_are_checked_in_their_middle_and_a_corner(field: VoxelField, work: Crowd) -> None:
    large = interpolated(field, 128)
    parts = checked_parts(large)
    assert [p.shape for p, _ in parts] == [(CHECKED_SIDE,) * 3, (CHECKED_SIDE // 2,) * 3]
    assert int(parts[1][1].max()) == large.num_voxels - 1
    some = work.rows(slice(0, 2))
    right = cpu.count_votes(large, some.images, some.group, num_groups=12)

    def wrong_at(voxel: int) -> tuple[torch.Tensor, torch.Tensor]:
        num, den = right[0].clone(), right[1].clone()
        num[3, voxel] += 5
        return num, den

    check_votes({"right": lambda _: right}, large, some, 2)
    for part, voxels in parts:
        with pytest.raises(WrongResult, match="num differs"):
            check_votes({"wrong": lambda _, v=int(voxels[part.num_voxels // 3]): wrong_at(v)}, large, some, 2)


def test_an_interpolated_field_is_a_field(field: VoxelField) -> None:
    fine = interpolated(field, 24)
    dense = fine.dense_weights()
    torch.testing.assert_close(dense.sum(1), torch.ones(24**3, dtype=torch.float64), atol=1e-5, rtol=0)
    assert fine.spacing * 24 == pytest.approx(field.spacing * 12)
    assert fine.origin[0] - fine.spacing / 2 == pytest.approx(field.origin[0] - field.spacing / 2)
    coarse = dense.reshape(12, 2, 12, 2, 12, 2, -1).mean((1, 3, 5)).reshape(12**3, -1)
    assert (coarse - field.dense_weights()).abs().max() < 0.25
    assert torch.equal(interpolated(field, 12).joint, field.joint)


@pytest.mark.parametrize("form", eager.FORMS)
def test_the_stronger_baselines_count_the_votes(field: VoxelField, work: Crowd, form: str) -> None:
    some, masks = work.rows(slice(0, 10)), eager.dense_masks(work.images[:10])

    def cast(on: Crowd) -> tuple[torch.Tensor, torch.Tensor]:
        rows = [int(np.flatnonzero(work.images.start == s)[0]) for s in on.images.start]
        return eager.count_votes(field, on.images, on.group, masks[rows], num_groups=12, batch=4, form=form)

    check_votes({form: cast}, field, some, 10)
    with pytest.raises(ValueError, match="form: expected blend, gemm; got 'magic'"):
        eager.count_votes(field, some.images, some.group, masks, num_groups=12, batch=4, form="magic")


def test_a_compiled_baseline_that_is_wrong_has_a_note_and_no_figure(field: VoxelField, work: Crowd) -> None:
    right = numba_votes(field, 1)
    lazy = Votes("lazy", "compiled", lambda on: (torch.zeros(12, 12**3).int(),) * 2)
    kept, notes = with_right_counts([right, lazy], field, work, 4)
    assert [v.name for v in kept] == ["numba"]
    assert notes == ["lazy: no figure: WrongResult: lazy: no vote was cast; the workload checks nothing"]
    with pytest.raises(WrongResult):
        with_right_counts([right, Votes("lazy", "eager", lazy.cast)], field, work, 4)


def test_the_baselines_of_a_cell(field: VoxelField) -> None:
    kinds = [(v.kind, v.batch) for v in baselines(Cell(48, 64, baselines="all"), field, "cpu")]
    assert kinds == [("reference", 8), ("reference", 16), ("reference", 1), *[("eager", 16)] * 2, *[("compiled", 16)] * 2]
    assert baselines(Cell(48, 64, baselines="none"), field, "cpu") == []
    assert [v.batch for v in baselines(Cell(48, 1), field, "cpu")] == [8]


def test_ablations_change_what_they_say_and_nothing_else(field: VoxelField, work: Crowd) -> None:
    dense = with_dense_joints(field)
    assert torch.equal(dense.dense_weights(), field.dense_weights())
    assert len(dense.joint) == field.num_voxels * field.num_joints
    assert int(np.diff(bricks_of(dense).joint_offset).min()) == field.num_joints
    check_votes({"dense": numba_votes(dense, 1).cast}, field, work, 8)
    again = regrouped(work, 5)
    counts = cpu.count_votes(field, again.images, again.group, num_groups=again.num_groups)
    assert counts[0].shape == (5, field.num_voxels)
    assert torch.equal(counts[1].sum(0), cpu.count_votes(field, work.images, work.group, num_groups=12)[1].sum(0))


def test_as_many_items_as_the_time_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, calls = [0.0], []
    monkeypatch.setattr("bench.harness.measure.time.perf_counter", lambda: clock[0])

    def work_on(items: int) -> None:
        calls.append(items)
        clock[0] += 0.01 + items * 0.001

    items, took = affordable(work_on, 65536, 0.51)
    assert 250 <= items <= 500
    assert took == pytest.approx(0.01 + items * 0.001)
    assert affordable(work_on, 20, 0.51)[0] == 20
    assert affordable(work_on, 65536, 1e-6, step=16)[0] == 16  # never none at all
    assert affordable(work_on, 65536, 0.51, step=16)[0] % 16 == 0
    assert max(calls) < 600
    assert [rounds_for(t, 2.0) for t in (10.0, 0.5, 1e-6)] == [3, 4, 15]


def test_ratios_are_to_the_fastest_reference() -> None:
    records = [
        record(Contender(name, int, 10, facts={"kind": kind}), [t] * 3)
        for name, kind, t in (("k", "numba", 1.0), ("a", "reference", 4.0), ("b", "reference", 2.0), ("c", "eager", 0.5))
    ]
    add_vote_rates(records, 1000, 0)
    assert [r["ratio"] for r in records] == [2.0, 0.5, 1.0, 4.0]
    assert records[0]["votes_per_s"] == 10_000
    assert records[0]["cycles_per_vote"] is None
    add_vote_rates(records[:1], 1000, 0)
    assert records[0]["ratio"] is None
    assert culling_facts(CullingStats(), 5) == {}
    assert culling_facts(CullingStats(100, 50, 20, 10), 5)["culled"] == 0.5


def a_run(device: str = "cpu") -> dict[str, Any]:
    def contender(name: str, kind: str, per_s: float, items: int) -> dict[str, object]:
        facts = {"kind": kind, "asked": 65536, "capped": items < 65536}
        r = record(Contender(name, int, items, facts=facts), [items / per_s] * 3)
        return {**r, "votes_per_s": per_s * 48**3, "ratio": None, "ratio_of_least": None}

    benchmarks = [
        {
            "name": f"bench_votes[{Cell(N, 65536, box)}]",
            "group": "votes",
            "extra_info": {
                "what": f"{N}^3 voxels, 65,536 images{masks}",
                "resolution": N,
                "device": device,
                "box": box,
                "workload": {"mean_mask_area": 0.08, "mean_box_area": 0.18},
                "threads": 2,
                "contenders": [
                    contender("Triton", "triton", 3e6 * 48 / N, 65536),
                    contender("PyTorch float32, batches of 256", "reference", 1e4, 1024),
                    contender("PyTorch float32, one GEMM, dense masks, batches of 256", "eager", 1e5, 4096),
                ],
            },
        }
        for N in (48, 96)
        for box, masks in (("typical", ""), ("30", ", boxes of 30 %"))
    ]
    return make_run({"datetime": "2026-01-02T00:00:00", "benchmarks": benchmarks}, profile="gpu", failed=[], load_before=0.1)


def test_the_readme_table_comes_from_the_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results, readme = tmp_path / "r.json", tmp_path / "README.md"
    append(results, a_run())
    append(results, {**a_run(), "benchmarks": []})  # a later run without votes is no reason to lose them
    readme.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n")
    assert table.main([str(results), "--readme", str(readme), "--check"]) == 1
    assert "is not what" in capsys.readouterr().err
    assert table.main([str(results), "--readme", str(readme)]) == 0
    text = readme.read_text()
    assert text.startswith(f"before\n{table.BEGIN}\n| voxels | images | Triton")
    assert text.endswith(f"{table.END}\nafter\n")
    assert (
        "| 48^3 | 65,536 | 3,000,000 | 331,776 M | 10,000 (batches of 256) | 300.0 | "
        "100,000 (one GEMM, eager, batches of 256) | 30.0 |"
    ) in text
    assert text.count("| 65,536 |") == 2  # the typical masks alone
    assert "`r.json`" in text
    assert table.main([str(results), "--readme", str(readme), "--check"]) == 0
    part = a_run()  # a later part of the same day's suite: other resolutions are kept from the earlier one
    part["benchmarks"] = [b for b in part["benchmarks"] if b["resolution"] == 96]
    part["benchmarks"][0]["contenders"][0].update(per_s=7e6)
    append(results, part)
    rows = table.votes_table(json.loads(results.read_text()), "r.json")
    assert "| 48^3 | 65,536 | 3,000,000 |" in rows
    assert "| 96^3 | 65,536 | 7,000,000 |" in rows
    append(results, {**part, "date": "2026-02-02T00:00:00"})
    assert "48^3" not in table.votes_table(json.loads(results.read_text()), "r.json")
    for broken in ("no markers", f"{table.END} {table.BEGIN}", f"{table.BEGIN} {table.BEGIN} {table.END}"):
        readme.write_text(broken)
        with pytest.raises(SystemExit):
            table.main([str(results), "--readme", str(readme)])
        assert readme.read_text() == broken


def test_the_table_says_where_only_the_reference_was_timed(tmp_path: Path) -> None:
    run = a_run()
    for b in run["benchmarks"]:
        b["contenders"].pop()
    append(tmp_path / "r.json", run)
    rows = table.votes_table(json.loads((tmp_path / "r.json").read_text()), "r.json")
    assert "| 10,000 (batches of 256) | 300.0 | not timed | |" in rows


def test_torch_is_imported_without_a_space_in_its_path(tmp_path: Path) -> None:
    folder = tmp_path / "with a space"
    folder.mkdir()
    (folder / "packages").symlink_to(Path(torch.__file__).parent.parent)
    code = "import bench, torch; print(torch.__file__)"
    environment = {**os.environ, "PYTHONPATH": f"{folder / 'packages'}{os.pathsep}{ROOT}"}
    asked = [sys.executable, "-S", "-c", code]
    done = subprocess.run(asked, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    where = Path(done.stdout.splitlines()[0])
    assert " " not in str(where)
    assert where.name == "__init__.py"
    assert not where.exists()  # the link is removed at the end


def test_plots_are_drawn_beside_the_record(tmp_path: Path) -> None:
    results = tmp_path / "r.json"
    run = a_run()
    roofs = {"copy": {"per_s": 4e12}, "fp32": {"per_s": 6e13}, "tensor": {"per_s": 8e14}}
    passes = [
        {"what": "votes, 48^3", "flops": 1e12, "bytes": 1e9, "flops_per_s": 2e13, "shares": {"fp32": 0.3, "issue, x": 0.5}}
    ]
    append(results, {**run, "roofline": {"device": "cpu", "roofs": roofs, "passes": passes}})
    assert plots.main([str(results)]) == 0
    for kind in ("votes", "roofline"):
        assert (tmp_path / f"r-{kind}.png").read_bytes().startswith(b"\x89PNG")
    results.write_text(json.dumps({"runs": [{**run, "benchmarks": []}]}))
    assert plots.main([str(results)]) == 1


def test_the_roofs_and_a_pass_below_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: Body) -> None:
    monkeypatch.setitem(roofline.COPY_BYTES, "cpu", 1 << 22)
    monkeypatch.setattr(roofline, "ROUNDS", 3)
    roofs = roofline.measure_roofs("cpu")
    assert set(roofs) == {"copy", "fp32"}
    assert 1e8 < roofs["copy"]["per_s"] < 1e13
    assert 1e8 < roofs["fp32"]["per_s"] < 1e14
    done = roofline.vote_pass(48, 32, "cpu", roofs, {})
    assert done["images_per_s"] == pytest.approx(32 / done["median_s"])
    assert 0.3 < done["left_by_culling"] < 0.7
    assert done["flops"] == pytest.approx(24 * done["mean_joints"] * 32 * 48**3 * done["left_by_culling"])
    assert 0 < done["shares"]["fp32"] < 1
    text = roofline.report({"device": "cpu", "roofs": roofs, "passes": [done], "notes": ["a note"]})
    assert "votes, 48^3 voxels, 32 images, numba" in text
    assert text.endswith("a note")


def test_plain_tables() -> None:
    lines = aligned([("a", "b"), ("long", 1), ("x", 22)]).splitlines()
    assert lines == ["a      b", "----  --", "long   1", "x     22"]
    assert [seconds(t) for t in (2.0, 0.0015, 2e-6)] == ["2 s", "1.5 ms", "2 us"]
    assert [number(n) for n in (1234.5, 3.14159)] == ["1,234", "3.14"]


def test_the_gpu_script_goes_on_after_a_failing_step_and_fails_at_the_end(tmp_path: Path) -> None:
    stand_in = tmp_path / "python"
    stand_in.write_text(
        '#!/bin/bash\nif [ "$1" = - ]; then cat >/dev/null; echo some-gpu; exit 0; fi\n'
        'echo "ran $*"\ncase "$*" in *tests/kernels/gpu*) exit 5;; esac\n'
    )
    stand_in.chmod(0o755)
    results = tmp_path / "there" / "r.json"

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "bench/gpu.sh", str(results)],
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHON": str(stand_in)},
        )

    done = run()
    assert done.returncode == 1, done.stdout + done.stderr
    assert "tests: FAILED (5)" in done.stdout
    for step in ("votes", "others", "votes-192", "votes-256", "roofline"):
        assert f"\n{step}: passed" in done.stdout
        assert "ran -m bench" in (tmp_path / "there" / "r-logs" / f"{step}.log").read_text()
    stand_in.write_text(stand_in.read_text().replace("exit 5", "exit 0"))
    assert run().returncode == 0
