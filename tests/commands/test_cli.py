"""The command line: what it says, what it writes, and its exit codes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from chorus.cli import main
from chorus.commands.demo import print_rows
from chorus.demo import iou, run_demo
from chorus.occupancy.counts import load_occupancy
from chorus.store import open_store
from chorus.texts import counted, sized
from tests.soak import SOAK


def chorus(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli") / "balls.chorus"
    result = chorus("simulate", "-o", path, "--images", "40", "--seed", "3", "--json")
    assert result.exit_code == 0, result.output
    return path


def test_simulate_aggregate_picture_overlay(store: Path, tmp_path: Path) -> None:
    out, picture = tmp_path / "ball.h5", tmp_path / "ball.png"
    prompt = open_store(store).prompts[0]
    result = chorus("aggregate", store, "-o", out, "--prompt", prompt, "--resolution", "16", "--picture", picture, "--json")
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    occupancy = load_occupancy(out)
    assert facts["images"] == occupancy.num_images == len(open_store(store).select(prompt=prompt))
    assert facts["backend"] == "numba"
    assert occupancy.probability.shape == (16, 16, 16)
    assert np.asarray(Image.open(picture)).std() > 5  # something is drawn
    assert occupancy.provenance[0]["images"] == occupancy.num_images

    result = chorus("overlay", store, out, "-o", tmp_path / "overlays", "--images", "2")
    assert result.exit_code == 0, result.output
    assert len(list((tmp_path / "overlays").glob("*.png"))) == 2
    assert result.stdout.count("wrote") == 3
    table = json.loads((tmp_path / "overlays" / "overlays.json").read_text())
    assert table["images"]["prompts"] == [prompt]
    for key, facts in table["overlays"].items():
        assert key.startswith("ball-held-3-")
        assert (tmp_path / "overlays" / facts["file"]).is_file()
        assert 0 <= facts["mean_phi_on_mask"] <= 1
    assert prompt in result.stdout


def test_the_backends_write_the_same_counts_but_for_pixel_edges(store: Path, tmp_path: Path) -> None:
    counts = []
    for backend in ("numba", "reference"):
        file = tmp_path / f"{backend}.h5"
        result = chorus("aggregate", store, "-o", file, "--resolution", "12", "--backend", backend)
        assert result.exit_code == 0, result.output
        counts.append(load_occupancy(file).den_counts.astype(int))
    assert counts[0].sum() > 1000
    assert np.abs(counts[0] - counts[1]).sum() <= 2e-4 * counts[0].sum()


def test_store_info_and_verify(store: Path, tmp_path: Path) -> None:
    facts = json.loads(chorus("store", "info", store, "--json").stdout)
    assert sum(facts["by_status"].values()) == 40
    assert "images" in chorus("store", "info", store).stdout
    result = chorus("store", "verify", store)
    assert result.exit_code == 0
    assert "nothing is broken" in result.stdout

    damaged = tmp_path / "damaged.chorus"
    (damaged / "shards").mkdir(parents=True)
    (damaged / "store.json").write_bytes((store / "store.json").read_bytes())
    for shard in (store / "shards").glob("*.h5"):
        content = bytearray(shard.read_bytes())
        content[len(content) // 2] ^= 1
        (damaged / "shards" / shard.name).write_bytes(content)
    result = chorus("store", "verify", damaged)
    assert result.exit_code == 2
    assert "problem" in result.stdout


def test_body_info_and_convert(tmp_path: Path) -> None:
    facts = json.loads(chorus("body", "info", "--json").stdout)
    assert facts["joints"] == 24
    result = chorus("body", "convert", tmp_path / "missing.pkl", tmp_path / "body.npz")
    assert result.exit_code == 2
    assert not (tmp_path / "body.npz").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["aggregate", "nowhere", "-o", "x.h5"], "STORE: expected a file or folder that exists, got 'nowhere'"),
        (["aggregate", "STORE", "-o", "x.h5", "--prompt", "a person eats a ball"], "a person holds a ball"),
        (["aggregate", "STORE", "-o", "x.h5", "--weighting", "heavy"], "weighting: expected one of azimuth"),
        (["aggregate", "STORE", "-o", "x.h5", "--backend", "abacus"], "backend: expected auto, triton, numba, reference"),
        (["aggregate", "STORE", "-o", "x.h5", "--body", "missing.npz"], "missing.npz"),
        (["simulate", "-o", "y", "--world", "flat"], "--world: expected one of"),
        (["ingest", "records", "missing", "-o", "z"], "missing"),
        (["overlay", "STORE", "missing.h5", "-o", "w"], "OCCUPANCY: expected a file or folder that exists, got 'missing.h5'"),
    ],
)
def test_bad_input_is_one_clear_line_and_exit_code_2(
    arguments: list[str], says: str, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = chorus(*[str(store) if a == "STORE" else a for a in arguments])
    assert result.exit_code == 2, result.output
    lines = [line for line in result.stderr.splitlines() if "error" in line or "rejected" in line]
    assert len(lines) == 1
    assert says in lines[0]
    assert "Traceback" not in result.output
    assert not (tmp_path / "x.h5").exists()


def test_traceback_on_request(tmp_path: Path) -> None:
    result = chorus("--traceback", "store", "info", tmp_path)
    assert isinstance(result.exception, ValueError)


def test_demo_learns_where_the_ball_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stages: set[str] = set()
    report = run_demo(tmp_path, 200, seed=5, progress=lambda stage, done, total: stages.add(stage))
    for row in report.rows:
        assert row.images > 80
        assert row.iou > 0.3  # 100 images a prompt; the full demo reaches 0.5 to 0.6
        assert row.iou > 4 * row.other_iou  # where the other prompt's ball is, there is none
        assert row.offset_m < 0.15
    by_name = {(row.prompt, row.estimator): row for row in report.rows}
    assert len(by_name) == len(report.rows) == 4
    for prompt in {row.prompt for row in report.rows}:
        paper, recommended = by_name[prompt, "paper"], by_name[prompt, "recommended"]
        assert paper.chosen == "lbs"
        assert recommended.best_iou > paper.best_iou
    assert {"simulate images", "draw pictures"} < stages
    for path in report.files:
        assert path.exists()
    assert all(np.asarray(Image.open(p)).std() > 5 for p in report.files if p.suffix == ".png")

    assert report.page == report.files[-1] == tmp_path / "report.html"
    print_rows(report)
    table = capsys.readouterr().out
    assert max(map(len, table.splitlines())) < 80  # no row is folded on the narrowest terminal
    assert [table.count(f"{use} ") for use in ("held", "kicked")] == [2, 2]
    for row in report.rows:
        assert f"{row.use}: {row.prompt} ({row.images} images that show it)" in table
        assert f" {row.iou:.2f} │" in table
        assert f" {row.best_iou:.2f} │" in table
    assert "right hand" in table
    assert f"<h1>{report.rows[0].prompt}</h1>" in report.files[-1].read_text(encoding="utf-8")

    assert report.simulate_rate is not None
    again = run_demo(tmp_path, 200, seed=5, progress=lambda *now: None)
    assert again.simulate_rate is None  # nothing was drawn, so there is no rate to report
    assert again.rows == report.rows
    if not SOAK:
        return
    other = run_demo(tmp_path, 60, seed=6, progress=lambda *now: None)
    assert sum(row.images for row in other.rows if row.estimator == "paper") <= 60  # the images of another run are not mixed in


def test_iou_by_hand() -> None:
    a, b = np.array([1, 1, 1, 0], bool), np.array([0, 1, 1, 1], bool)
    assert iou(a, b) == 0.5  # 2 of 4
    assert iou(~(a | ~a), ~(a | ~a)) == 0.0


def test_summaries_of_commands_are_whole_sentences() -> None:
    """Cut at the 80 columns of a plain terminal, click would end them in three dots."""

    def groups(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
        yield path
        for name, command in group.commands.items():
            if isinstance(command, click.Group):
                yield from groups(command, (*path, name))

    found = list(groups(main))
    assert ("filter",) in found
    for path in found:
        result = CliRunner().invoke(main, [*path, "--help"], terminal_width=80)
        commands = result.stdout.partition("Commands:\n" if path else "Begin:\n")[2].splitlines()
        assert commands
        assert [line for line in commands if line.endswith("...")] == []


def test_no_help_sends_the_reader_to_sections_of_the_paper() -> None:
    """Equations and tables are named where they add something; bare numbers of sections say nothing."""

    def texts(command: click.Command) -> Iterator[str]:
        yield command.help or ""
        yield from (parameter.help or "" for parameter in command.params if isinstance(parameter, click.Option))
        if isinstance(command, click.Group):
            for part in command.commands.values():
                yield from texts(part)

    everything = list(texts(main))
    assert len(everything) > 150
    assert [text for text in everything if re.search(r"\b[AB]\.\d|\(\d\.\d|\(Eq\. \d+\)", text)] == []


def test_results_are_told_in_plain_words(store: Path, tmp_path: Path) -> None:
    told = chorus("aggregate", store, "-o", tmp_path / "o.h5", "--resolution", "12")
    assert told.exit_code == 0, told.output
    assert re.search(
        r"highest probability +0\.\d+, [\d.]+ m (left|right), [\d.]+ (up|down), [\d.]+ (forward|back) of the pelvis\n",
        told.stdout,
    )
    assert re.search(r"seen by some image +[\d,]+ of 1,728 voxels\n", told.stdout)
    facts = json.loads(chorus("aggregate", store, "-o", tmp_path / "o.h5", "--resolution", "12", "--json", "--force").stdout)
    assert {"largest_phi", "largest_phi_at", "voxels_seen"} <= facts.keys()  # names for programs stay


@pytest.mark.parametrize(("number", "words"), [(0, "0 views"), (1, "1 view"), (2000, "2,000 views")])
def test_numbers_with_what_they_count(number: int, words: str) -> None:
    assert counted(number, "view") == words


def test_an_occupancy_is_drawn_into_its_own_images(store: Path, tmp_path: Path) -> None:
    held, kicked = sorted(open_store(store).prompts, key=lambda prompt: "kicks" in prompt)
    own, hats = tmp_path / "held.h5", tmp_path / "hats.chorus"
    assert chorus("aggregate", store, "-o", own, "--prompt", held, "--resolution", "12").exit_code == 0
    drawn = chorus("overlay", store, own, "-o", tmp_path / "a", "--images", "3", "--json")
    assert drawn.exit_code == 0, drawn.output
    facts = json.loads(drawn.stdout)
    assert all(key.startswith("ball-held") for key in facts["overlays"])
    assert len({entry["file"] for entry in facts["overlays"].values()}) == 3
    other = chorus("overlay", store, own, "-o", tmp_path / "b", "--images", "1", "--prompt", "*kicks*")
    assert other.exit_code == 0, other.output
    assert kicked in other.stdout
    assert "as asked for" in other.stdout
    assert chorus("simulate", "-o", hats, "--world", "hat", "--images", "3").exit_code == 0
    for command in (["overlay", hats, own, "-o", tmp_path / "c"], ["evaluate", "pap", hats, "--occupancy", own]):
        refused = chorus(*command)
        assert refused.exit_code == 2
        assert "sports ball" in refused.stderr
        assert "'hat'" in refused.stderr
    assert not (tmp_path / "c").exists()
    scored = chorus("evaluate", "pap", store, "--occupancy", own, "--no-aware", "--min-images", "1")
    assert scored.exit_code == 0, scored.output
    assert f"complete images: prompt {held!r} (like those that the occupancy was learned from)" in scored.stdout


def test_what_people_read_of_a_store_and_of_a_simulation(tmp_path: Path) -> None:
    made = chorus("simulate", "-o", tmp_path / "s.chorus", "--images", "60", "--seed", "4")
    assert made.exit_code == 0, made.output
    facts = json.loads(chorus("store", "info", tmp_path / "s.chorus", "--json").stdout)
    complete, hidden = facts["by_status"]["complete"], facts["by_status"].get("no object", 0)
    lines = [line.split(maxsplit=2) for line in made.stdout.splitlines()]
    assert ["complete", str(complete)] in lines
    assert not hidden or "out of sight" in made.stdout
    assert sum(facts["complete_by_prompt"].values()) == complete
    assert facts["by_prompt"].keys() == facts["complete_by_prompt"].keys()
    told = chorus("store", "info", tmp_path / "s.chorus").stdout
    first = [line.split()[0] for line in told.splitlines()[:3]]
    assert first == ["store", "images", "that"]
    for prompt, number in facts["complete_by_prompt"].items():
        assert f"{prompt} ({number} can vote)" in told
    assert facts["body_hash"][:12] in told
    assert facts["body_hash"] not in told
    assert max(map(len, told.splitlines())) <= 110  # the store's path is long here
    assert not set("{}") & set(told)
    assert sized(facts["bytes"]) in told


def test_sizes_for_people() -> None:
    assert [sized(n) for n in (0, 999, 1000, 4101, 99_940, 99_960, 8_206_656, 999_600, 2.5e9, 3e12)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "4.1 kB",
        "99.9 kB",
        "100 kB",
        "8.2 MB",
        "1.0 MB",
        "2.5 GB",
        "3.0 TB",
    ]
