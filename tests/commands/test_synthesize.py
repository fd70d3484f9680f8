"""``chorus synthesize`` and its relatives as a user meets them, with every stage played by a simulated world."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from chorus.cli import main
from chorus.commands.console import INTERRUPTED
from chorus.commands.explain import spread
from chorus.frontend.plan import Description
from chorus.store import open_store

SMALL = ("--set", "images.size=64", "--batch", "4")


def chorus(*arguments: Any) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def simulated(path: Path, *more: Any, count: int = 12) -> Result:
    return chorus("synthesize", "sports ball", "--simulated", "-o", path, "--count", count, *SMALL, *more)


def test_from_a_category_to_a_store_and_on(tmp_path: Path) -> None:
    path = tmp_path / "balls.chorus"
    done = simulated(path)
    assert done.exit_code == 0, done.output
    store = open_store(path)
    assert len(store) == 12
    assert len(store.prompts) == 2
    assert done.output.rstrip().endswith(f"wrote {path}")
    for word in ("complete", "images", "detector", "keypoints", "humans", "camera", "store", "images per second"):
        assert word in done.output, word
    again = simulated(path, "--json")
    facts = json.loads(again.stdout)
    assert (facts["made"], facts["in_the_store"], facts["asked_for"]) == (0, 12, 12)
    more = json.loads(simulated(path, "--json", count=20).stdout)
    assert (more["made"], more["in_the_store"]) == (8, 20)
    assert sum(more["rows"].values()) == 8
    assert [t["stage"] for t in more["times"]] == ["images", "detector", "keypoints", "humans", "camera", "store"]
    occupancy = chorus("aggregate", path, "-o", tmp_path / "ball.h5", "--resolution", 16)
    assert occupancy.exit_code == 0, occupancy.output


def test_dry_run_says_what_would_be_done_and_does_nothing(tmp_path: Path) -> None:
    path = tmp_path / "balls.chorus"
    told = simulated(path, "--dry-run")
    assert told.exit_code == 0, told.output
    assert "nothing was done" in told.output
    assert "a person kicks a ball with the left foot" in told.output
    assert not path.exists()
    simulated(path, count=5)
    facts = json.loads(simulated(path, "--dry-run", "--json").stdout)
    assert (facts["images"], facts["present"], facts["to_make"]) == (12, 5, 7)
    assert [stage["stage"] for stage in facts["stages"]] == ["prompts", "images", "detector", "keypoints", "humans"]
    assert all(stage["licence"] for stage in facts["stages"])
    assert len(open_store(path)) == 5


def test_the_real_stages_by_default_need_no_model_for_a_dry_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x.pt").touch()
    told = chorus("synthesize", "surfboard", "-o", tmp_path / "s.chorus", "--humans", "hmr=x.pt", "--dry-run", "--json")
    assert told.exit_code == 0, told.output
    facts = json.loads(told.stdout)
    assert facts["images"] == 73920
    assert len(facts["prompts"]) == 16
    assert len(facts["views"]) == 22
    assert {s["stage"]: s["model"] for s in facts["stages"]}["images"] == "CompVis/stable-diffusion-v1-4"


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--set", "images.colour=red"), "--set images.colour: expected one of this stage's options (size)"),
        (("--set", "colour=red"), "--set colour: expected KIND.NAME=VALUE"),
        (("--set", "images.size"), "--set: expected KIND.NAME=VALUE, got 'images.size'"),
        (("--view", "from the moon"), "expected one of the 22 view augmentations"),
        (("--dtype", "int4"), "dtype: expected auto, float32, float16 or bfloat16, got 'int4'"),
    ],
)
def test_what_does_not_fit_is_named_and_no_store_is_left(tmp_path: Path, more: tuple[str, ...], words: str) -> None:
    done = simulated(tmp_path / "s.chorus", *more)
    assert done.exit_code == 2
    assert words in " ".join(done.output.split())
    assert not (tmp_path / "s.chorus").exists()


def test_other_categories_and_missing_humans_are_named(tmp_path: Path) -> None:
    done = chorus("synthesize", "piano", "--simulated", "--count", 3, "-o", tmp_path / "s.chorus")
    assert done.exit_code == 2
    assert "category: expected one that is simulated" in done.output
    done = chorus("synthesize", "surfboard", "-o", tmp_path / "s.chorus")
    assert done.exit_code == 2
    assert "--humans: expected NAME=MODEL" in done.output
    done = chorus("synthesize", "surfboard", "-o", tmp_path / "s.chorus", "--humans", "hmr", "--count", 2)
    assert done.exit_code == 2
    assert "--humans hmr: expected hmr=MODEL" in done.output
    done = chorus("synthesize", "surfboard", "-o", tmp_path / "s.chorus", "--humans", "hmr=nowhere.pt", "--count", 2)
    assert done.exit_code == 2
    assert "--humans hmr: expected a path that exists, got 'nowhere.pt'" in done.output
    done = chorus("synthesize", "sports ball", "--simulated", "-o", tmp_path / "s.chorus", "--detector", "mask2former")
    assert done.exit_code == 2
    assert "--detector: expected none beside --simulated" in done.output
    assert not (tmp_path / "s.chorus").exists()


def test_other_settings_than_the_stores_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.chorus"
    simulated(path, count=4)
    done = simulated(path, "--focal", "fixed")
    assert done.exit_code == 2
    assert "settings.calibration" in done.output
    assert "--accept-changes" in done.output
    done = simulated(path, "--focal", "fixed", "--accept-changes")
    assert done.exit_code == 0, done.output
    assert len(open_store(path)) == 12
    there = Description.load(path)
    assert there is not None
    assert there.settings["calibration"] == {"method": "adam", "focal": "fixed"}


def test_an_image_can_be_made_again(tmp_path: Path) -> None:
    path = tmp_path / "s.chorus"
    simulated(path, "--keep-images", "all", count=4)
    key = open_store(path).rows["key"][2].decode()
    done = chorus("remake", path, key, "-o", tmp_path / "again.png")
    assert done.exit_code == 0, done.output
    again = np.asarray(Image.open(tmp_path / "again.png"), np.int16)
    done = chorus("store", "pictures", path, "-o", tmp_path / "kept", "--key", key)
    assert done.exit_code == 0, done.output
    kept = np.asarray(Image.open(tmp_path / "kept" / f"{key}.jpg"), np.int16)
    assert again.shape == kept.shape == (64, 64, 3)
    assert np.abs(again - kept).mean() < 8  # the kept one is a JPEG
    done = chorus("remake", path, "nobody", "-o", tmp_path / "x.png")
    assert done.exit_code == 2
    assert "KEY: expected one of the store's 4 keys" in done.output


def test_kept_pictures_are_written_as_files_and_drawn_over(tmp_path: Path) -> None:
    path = tmp_path / "s.chorus"
    simulated(path, "--keep-images", "complete", "--keep-format", "png", count=8)
    store = open_store(path)
    keys = [key.decode() for key in store.pictures]
    assert keys == [key.decode() for key in store.rows["key"][store.rows["status"] == "complete"]]
    done = chorus("store", "pictures", path, "-o", tmp_path / "out", "--json")
    assert done.exit_code == 0, done.output
    files = json.loads((tmp_path / "out" / "pictures.json").read_text())
    assert json.loads(done.stdout)["pictures"] == files
    assert list(files) == keys
    for key, file in files.items():
        assert file == f"{key}.png"
        assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / file)), store.picture(key))
    facts = json.loads(chorus("store", "info", path, "--json").stdout)["pictures"]
    assert (facts["kept"], facts["media_types"]) == (len(keys), {"image/png": len(keys)})
    assert chorus("store", "verify", path).exit_code == 0

    again = chorus("store", "pictures", path, "-o", tmp_path / "out", "--key", keys[0])
    assert "--force" in again.output
    one = chorus("store", "pictures", path, "-o", tmp_path / "out", "--key", keys[0], "--key", keys[0], "--force")
    assert one.exit_code == 0, one.output
    assert "1 picture in" in one.stdout
    done = chorus("store", "pictures", path, "-o", tmp_path / "x", "--key", "nobody")
    assert (done.exit_code, (tmp_path / "x").exists()) == (2, False)
    assert "--key: expected an image whose picture the store keeps, got 'nobody'" in done.output

    done = chorus("aggregate", path, "-o", tmp_path / "o.h5", "--resolution", 12, "--filter", "none")
    assert done.exit_code == 0, done.output
    done = chorus(
        "explain", path, "--pictures", tmp_path / "e", "--show", 2, "--filter", "none", "--json", "--", -0.7, 0.1, 0.1
    )
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    behind = {
        f"{side.replace('_', '-')}/{key.decode()}.png"
        for side, names in told["keys"].items()
        for key in spread([name.encode() for name in names], 2)
    }
    assert behind
    assert {path.relative_to(tmp_path / "e").as_posix() for path in (tmp_path / "e").rglob("*.png")} == behind
    assert len(told["wrote"]) == len(behind)
    widths = []
    for folder in ("with", "without"):
        done = chorus(
            "overlay", path, tmp_path / "o.h5", "-o", tmp_path / folder, "--images", 1, "--filter", "none", "--prompt", "*"
        )
        assert done.exit_code == 0, done.output
        (drawn,) = (tmp_path / folder).glob("*.png")
        widths.append(Image.open(drawn).width)
        shutil.rmtree(path / "pictures", ignore_errors=True)
    assert widths[0] > 1.3 * widths[1]
    done = chorus("store", "pictures", path, "-o", tmp_path / "none")
    assert done.exit_code == 2
    assert "STORE: expected one that keeps pictures (--keep-images)" in done.output
    done = chorus("explain", path, "--pictures", tmp_path / "f", "--", 0, 0, 0)
    assert done.exit_code == 2
    assert "--pictures: expected a store that keeps pictures (--keep-images)" in done.output


def test_stages_are_listed_with_licences_and_options() -> None:
    told = chorus("stages")
    assert told.exit_code == 0, told.output
    chosen = ("--images stable-diffusion", "--detector mask2former", "--keypoints vitpose", "--humans hmr=MODEL")
    for word in (*chosen, "licence", "--set"):
        assert word in told.output, word
    only = json.loads(chorus("stages", "--kind", "humans", "--json").stdout)
    assert {"hmr", "records", "simulated"} <= {info["name"] for info in only}
    assert chorus("stages", "--kind", "cats").exit_code == 2


def test_a_dry_run_asks_no_server_and_loads_no_language_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x.pt").touch()
    for source in ("openai=gpt", "local=someone/no-such-model"):
        told = chorus(
            "synthesize",
            "hula hoop",
            "--detector",
            "owlv2-sam",
            "--prompts",
            source,
            "-o",
            tmp_path / "s.chorus",
            "--humans",
            "hmr=x.pt",
            "--count",
            5,
            "--prompt-count",
            3,
            "--set",
            "prompts.retries=0",
            "--dry-run",
            *(("--set", "prompts.base_url=http://127.0.0.1:9/v1") if source.startswith("openai") else ()),
        )
        assert told.exit_code == 0, told.output
        assert f"(prompt 3 of up to 3 that {source} will be asked for)" in told.output
        assert "nothing was done" in told.output
    wrong = chorus(
        "synthesize",
        "chair",
        "--prompts",
        "openai=x",
        "--set",
        "prompts.nope=1",
        "-o",
        tmp_path / "s.chorus",
        "--humans",
        "hmr=x.pt",
        "--dry-run",
    )
    assert wrong.exit_code == 2
    assert "--set prompts.nope" in wrong.output
    assert not (tmp_path / "s.chorus").exists()


def test_remake_makes_an_image_with_what_its_own_rows_were_made_with(tmp_path: Path) -> None:
    path, picture = tmp_path / "s.chorus", tmp_path / "image.png"
    assert simulated(path, count=4).exit_code == 0
    assert simulated(path, "--set", "images.size=96", "--accept-changes", count=8).exit_code == 0
    rows = open_store(path).rows
    assert sorted(rows["size"][:, 0].tolist()) == [64] * 4 + [96] * 4
    for row in (0, 7):
        done = chorus("remake", path, rows["key"][row].decode(), "-o", picture, "--force")
        assert done.exit_code == 0, done.output
        assert Image.open(picture).size == (rows["size"][row, 1], rows["size"][row, 0])


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, INTERRUPTED), (signal.SIGTERM, 143)])
def test_a_run_that_is_asked_to_stop_commits_and_the_same_command_goes_on(
    number: signal.Signals, code: int, tmp_path: Path
) -> None:
    path, count = tmp_path / "s.chorus", 4000
    command = [
        sys.executable,
        "-m",
        "chorus.cli",
        "synthesize",
        "sports ball",
        "--simulated",
        "-o",
        str(path),
        "--count",
        str(count),
        *SMALL,
        "--commit-seconds",
        "0",
    ]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list((path / "shards").glob("*.h5")) and time.monotonic() < deadline:
        time.sleep(0.05)
    child.send_signal(number)
    output, errors = child.communicate(timeout=60)
    assert child.returncode == code, errors
    assert "stopping: the batches under way are finished and committed" in errors
    assert "stopped before the end; the same command goes on from here" in output
    assert "Traceback" not in errors
    store = open_store(path)
    assert 4 <= len(store) < count
    assert len(store) % 4 == 0


@pytest.mark.slow
def test_ctrl_c_twice_ends_at_once_and_without_a_crash(tmp_path: Path) -> None:
    path = tmp_path / "s.chorus"
    command = [
        sys.executable,
        "-m",
        "chorus.cli",
        "synthesize",
        "sports ball",
        "--simulated",
        "-o",
        str(path),
        "--count",
        "4000",
        "--batch",
        "256",
        "--commit-seconds",
        "0",
    ]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (path / "frontend.json").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1.0)  # the first batch takes longer: its threads are at work
    child.send_signal(signal.SIGINT)
    time.sleep(0.1)
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=60)
    assert child.returncode == INTERRUPTED, errors  # SIGABRT, where Python ends under threads in C++
    assert "Traceback" not in errors
