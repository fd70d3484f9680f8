"""The whole job as a Python call: the same store as by the command, and what the call refuses."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner

import chorus.frontend
from chorus.body.model import load_body
from chorus.cli import main
from chorus.errors import InputError, StoreError
from chorus.frontend import PlanOptions, Settings, StageChoices, plan_folder, plan_synthesis, synthesize
from chorus.frontend.prompting import VIEWS
from chorus.store import open_store
from tests.frontend.runs import same_rows

ROOT = Path(__file__).parents[2]
STAGES = StageChoices.simulated({"images.size": "64"})
SETTINGS = Settings(device="cpu", batch=4)
COMMAND = ("synthesize", "sports ball", "--simulated", "--set", "images.size=64", "--device", "cpu", "--batch", "4")


def test_the_call_and_the_command_make_the_same_store(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "call.chorus", tmp_path / "command.chorus"
    seen: list[tuple[int, int]] = []
    plan = PlanOptions(images=9, views=("side view", ""), seed=3)
    report = synthesize(
        "sports ball", ours, STAGES, plan, SETTINGS, progress=lambda now, total: seen.append((now.images, total))
    )
    assert (report.images, report.stopped) == (9, False)
    assert seen == [(4, 9), (8, 9), (9, 9)]
    more = ("--count", "9", "--seed", "3", "--view", "side view", "--view", "")
    done = CliRunner().invoke(main, [*COMMAND, "-o", str(theirs), *more])
    assert done.exit_code == 0, done.output
    same_rows(ours, theirs)
    assert (ours / "frontend.json").read_bytes() == (theirs / "frontend.json").read_bytes()
    on = CliRunner().invoke(main, [*COMMAND, "-o", str(ours), *more, "--count", "12", "--json"])
    assert json.loads(on.stdout)["made"] == 3
    assert synthesize("sports ball", ours, STAGES, PlanOptions(12, views=plan.views, seed=3), SETTINGS).images == 0


def test_what_nobody_says_is_as_in_the_command(tmp_path: Path) -> None:
    humans = tmp_path / "x.pt"
    humans.touch()
    job = plan_synthesis("surfboard", tmp_path / "s.chorus", StageChoices(f"hmr={humans}"), ask=False)
    told = CliRunner().invoke(
        main, ["synthesize", "surfboard", "-o", str(job.output), "--humans", f"hmr={humans}", "--dry-run", "--json"]
    )
    facts = json.loads(told.stdout)
    assert {**job.description.settings, "batch": job.settings.batch} == facts["settings"]
    assert [*job.description.stages] == [stage["stage"] for stage in facts["stages"]]
    assert (len(job.requests), job.present()) == (facts["images"], facts["present"]) == (73920, 0)
    assert job.description.views == VIEWS
    assert len(plan_synthesis("sports ball", tmp_path / "b.chorus", STAGES).requests) == 100
    assert not (tmp_path / "b.chorus").exists()


def test_a_look_ahead_asks_no_model(tmp_path: Path) -> None:
    poses = tmp_path / "x.npz"
    poses.touch()
    stages = StageChoices(f"records={poses}", "grounding-dino-sam", prompts="local=someone/no-such-model")
    job = plan_synthesis("piano", tmp_path / "s.chorus", stages, PlanOptions(images=6, prompts=2), ask=False)
    assert job.description.prompts == tuple(f"(prompt {i} of up to 2 that {stages.prompts} will be asked for)" for i in (1, 2))


def test_a_folder_is_a_job_as_well(tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "p").mkdir()
    Image.new("RGB", (80, 80)).save(tmp_path / "p" / "a.png")
    job = plan_folder(tmp_path / "p", "hat", tmp_path / "s.chorus", STAGES, SETTINGS, prompt="A person wears a hat")
    assert [(r.key, r.prompt) for r in job.requests] == [("a.png", "A person wears a hat")]
    assert list(job.description.stages) == ["images", "detector", "keypoints", "humans"]
    assert job.description.stages["images"] == f"folder={tmp_path / 'p'}"


def test_a_stop_is_heard_and_changes_are_refused(tmp_path: Path) -> None:
    path, stop = tmp_path / "s.chorus", threading.Event()
    plan = PlanOptions(images=400)
    report = synthesize(
        "sports ball", path, STAGES, plan, SETTINGS, body=load_body(), stop=stop, progress=lambda now, total: stop.set()
    )
    assert report.stopped
    assert 4 <= len(open_store(path)) < 400
    other = StageChoices.simulated({"images.size": "96"})
    with pytest.raises(StoreError, match=r"options\.images\.size: expected '64', as the store's, got '96'"):
        synthesize("sports ball", path, other, PlanOptions(images=4), SETTINGS)
    before = len(open_store(path))
    synthesize("sports ball", path, other, PlanOptions(images=before + 4), SETTINGS, accept_changes=True)
    assert set(open_store(path).rows["size"][:, 0].tolist()) == {64, 96}


@pytest.mark.parametrize(
    ("stages", "plan", "words"),
    [
        (STAGES, PlanOptions(views=("from the moon",)), "views: expected one of the 22 view augmentations"),
        (STAGES, PlanOptions(images=-1), "images: expected at least 0, got -1"),
        (STAGES, PlanOptions(seed=-1), "seed: expected at least 0, got -1"),
        (StageChoices.simulated({"size": "64"}), PlanOptions(), "--set size: expected KIND.NAME=VALUE"),
        (StageChoices("simulated", images="paintings"), PlanOptions(images=1), "--images: expected one of"),
        (StageChoices("simulated", prompts="simulated"), PlanOptions(), None),
    ],
)
def test_refused(tmp_path: Path, stages: StageChoices, plan: PlanOptions, words: str | None) -> None:
    category = "sports ball"
    if words is None:  # a category that Table 3 lacks, and nobody says how many images
        category, words = "ball", "--count: expected how many images to make, for 'ball'"
    with pytest.raises(InputError, match=re.escape(words)):
        synthesize(category, tmp_path / "s.chorus", stages, plan, SETTINGS)
    assert not (tmp_path / "s.chorus").exists()


def test_the_package_is_light_and_lists_its_names() -> None:
    code = (
        "import sys, chorus.frontend as f; assert set(f.__all__) <= set(dir(f));"
        "assert not {'torch', 'numpy', 'chorus.frontend.job'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=60)
    assert all(getattr(chorus.frontend, name) is not None for name in chorus.frontend.__all__)
    with pytest.raises(AttributeError, match=r"chorus\.frontend.*'nothing'"):
        chorus.frontend.nothing  # noqa: B018


@pytest.mark.slow
def test_the_examples_of_the_documentation_run(tmp_path: Path) -> None:
    """Every Python block of docs/frontend.md, in order, as a stranger would run them: in a folder of his own."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "frontend.md").read_text(encoding="utf-8"), re.S)
    assert len(blocks) >= 2
    named = [(m.group(1), block) for block in blocks if (m := re.match(r"# (\w+\.py)", block))]
    assert named
    for name, block in named:
        (tmp_path / name).write_text(block)
    code = "\n".join(block for block in blocks if not re.match(r"# \w+\.py", block))
    environment = {"PYTHONPATH": str(ROOT), "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, timeout=300, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
