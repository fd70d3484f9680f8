"""Stages that are tried with models of a hub: the client's own requests, downloads, cache and revisions, on this machine."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from chorus.errors import InputError
from chorus.frontend import registry
from chorus.frontend.pretrained import each_model, split_revisions
from chorus.frontend.stage_info import StageInfo
from chorus.frontend.stages import Runtime
from tests.frontend import tiny_vision
from tests.frontend.hub_server import Hub
from tests.frontend.tiny_diffusion import save as tiny_stable_diffusion

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "hub_models.md").read_text(encoding="utf-8")
MAIN, TUNED = "a" * 40, "b" * 40

CASES: list[tuple[str, dict[str, str]]] = [
    ("keypoints vitpose=us/vitpose", {}),
    ("keypoints vitpose=us/vitpose", {}),
    ("keypoints vitpose=us/vitpose", {"revision": "tuned"}),
    ("keypoints vitpose=us/vitpose", {"revision": "lost"}),
    ("keypoints vitpose=us/lost", {}),
    ("detector mask2former=us/mask2former", {"revision": TUNED}),
    ("detector owlv2-sam=us/owl,us/sam", {"threshold": "0", "revision": "tuned,"}),
    ("images stable-diffusion=us/sd", {"size": "64", "revision": "tuned"}),
]
RUN = """
import dataclasses, json, sys
from chorus.frontend.checking.check import check_stage
from chorus.frontend.stages import Runtime
for text, options in json.load(sys.stdin):
    try:
        said = dataclasses.asdict(check_stage(*text.split(), Runtime(options=options)))
    except ValueError as error:
        said = str(error)
    print("said " + json.dumps(said))
"""


@pytest.mark.slow
def test_models_are_downloaded_once_at_the_revision_that_was_asked_for(tmp_path: Path) -> None:
    make = {
        "vitpose": tiny_vision.tiny_vitpose,
        "mask2former": lambda folder, seed: tiny_vision.tiny_mask2former_that_finds(folder, "sports ball", seed),
        "owl": tiny_vision.tiny_owlv2,
        "sam": tiny_vision.tiny_sam,
        "sd": lambda folder, seed: tiny_stable_diffusion(folder, flags=False),
    }
    models = {
        f"us/{name}": {
            branch: (commit, made(tmp_path / branch / name, seed=seed))
            for seed, (branch, commit) in enumerate((("main", MAIN), ("tuned", TUNED)))
        }
        for name, made in make.items()
    }
    hub = Hub(models)
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    environment |= {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", RUN]
    done = subprocess.run(command, input=json.dumps(CASES), env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said: list[Any] = [json.loads(line[5:]) for line in done.stdout.splitlines() if line.startswith("said ")]
    hub.shutdown()
    first, again, tuned, no_revision, no_model, mask2former, pair, diffusion = said

    def on_hub(name: str, branch: str) -> dict[str, int]:
        folder = models[f"us/{name}"][branch][1]
        return {path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.rglob("*") if path.is_file()}

    (weights,) = first["weights"]
    size = sum(on_hub("vitpose", "main").values())
    assert (weights["revision"], weights["size"], weights["downloaded"]) == (MAIN, size, size)
    assert Path(weights["place"]).is_relative_to(tmp_path / "home")
    assert again["weights"][0]["downloaded"] == 0
    (weights,) = tuned["weights"]
    assert (weights["revision"], weights["asked"]) == (TUNED, "tuned")
    assert 0 < weights["downloaded"] < size  # its configuration is the same as before, and not fetched again
    assert no_revision == "--set keypoints.revision: expected one that 'us/vitpose' has, got 'lost'"
    assert no_model.startswith("--keypoints: expected the id of a model on the Hugging Face hub, or a folder with one")
    assert [w["revision"] for w in mask2former["weights"]] == [TUNED]
    assert [(w["model"], w["revision"]) for w in pair["weights"]] == [("us/owl", TUNED), ("us/sam", MAIN)]
    assert [w["revision"] for w in diffusion["weights"]] == [TUNED]
    # Whatever was fetched of the two whose revision was set is of that commit.
    for name, commit in (("mask2former", TUNED), ("owl", TUNED), ("sam", MAIN), ("sd", TUNED)):
        fetched = {m[1] for line in hub.asked if (m := re.match(rf"GET /us/{name}/resolve/(\w+)/", line))}
        assert fetched
        assert fetched <= {commit, "tuned" if commit == TUNED else "main"}


def of_the_hub() -> list[StageInfo]:
    return [info for info in registry.stages() if info.hub]


def test_every_stage_with_a_model_of_the_hub_has_a_revision() -> None:
    assert {info.name for info in of_the_hub()} >= {"mask2former", "grounding-dino-sam", "owlv2-sam", "vitpose", "local"}
    assert [info.name for info in of_the_hub() if "revision" not in dict(info.options or ())] == []


def test_every_loading_of_a_model_passes_a_revision_on() -> None:
    calls = []
    for path in (ROOT / "chorus" / "frontend").rglob("*.py"):
        calls += re.findall(r"\.from_pretrained\(([^()]*(?:\([^()]*\)[^()]*)*)\)", path.read_text())
    assert len(calls) >= 8
    assert [call for call in calls if "revision=revision" not in call and "**settings" not in call] == []


def test_revisions_of_two_models_are_two() -> None:
    both = Runtime(options={"revision": "x, y", "threshold": "0"}, kind="detector")
    assert split_revisions(both, 2) == ["x", "y"]
    assert [(model, runtime.options) for model, runtime in each_model("a/b,c/d", both, 2)] == [
        ("a/b", {"threshold": "0", "revision": "x"}),
        ("c/d", {"threshold": "0", "revision": "y"}),
    ]
    assert split_revisions(Runtime(options={"revision": ",y"}), 2) == [None, "y"]
    assert split_revisions(Runtime(), 2) == [None, None]
    for text, count, words in (("x", 2, "2 revisions, one a model"), (",", 2, "2 revisions"), (" ", 1, "a commit, tag")):
        with pytest.raises(InputError, match=f"--set detector.revision: expected {words}"):
            split_revisions(Runtime(options={"revision": text}, kind="detector"), count)
    with pytest.raises(InputError, match=r"--set detector\.revision: expected 2 revisions"):
        registry.check("detector", "owlv2-sam", Runtime(options={"revision": "x"}))


# --- docs/hub_models.md


def rows() -> list[list[str]]:
    """The cells of the table of models."""
    table = PAGE.split("| stage | model | revision |")[1].split("\n\n")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def test_the_page_has_the_default_models_and_no_others() -> None:
    defaults = [
        (f"{info.kind} `{info.name}`", f"`{model}`")
        for info in of_the_hub()
        if info.model
        for model, _ in registry.hub_models(info.kind, info.name)
    ]
    assert sorted((row[0], row[1]) for row in rows()) == sorted(defaults)
    assert all(len(row) == 7 and all(row) for row in rows())


def test_revisions_on_the_page_are_commits_or_not_verified() -> None:
    for row in rows():
        assert re.match(r"`[0-9a-f]{40}` \([12, ]+\)$|not verified$", row[2]), row
    pinned = {commit for row in rows() for commit in re.findall(r"[0-9a-f]{40}", row[2])}
    assert set(re.findall(r"[0-9a-f]{40}", PAGE)) == pinned
    of_model = [(row[1], row[2:5]) for row in rows()]
    assert len({model for model, _ in of_model}) == len({str(pair) for pair in of_model})  # SAM's two rows agree


def test_classes_on_the_page_are_those_of_the_stages() -> None:
    import diffusers
    import transformers

    by_name = {f"{info.kind} `{info.name}`": info for info in of_the_hub()}
    for row in rows():
        module = inspect.getmodule(registry._named(by_name[row[0]].made_by))
        assert module is not None
        source = inspect.getsource(module) + (ROOT / "chorus/frontend/detection/sam.py").read_text()
        for name in re.findall(r"`(\w+)`", row[6]):
            assert hasattr(transformers, name) or hasattr(diffusers, name), name
            assert name in source, (row[0], name)


def test_licences_on_the_page_agree_with_what_stages_say() -> None:
    by_name = {f"{info.kind} `{info.name}`": info for info in of_the_hub()}
    for row in rows():
        licence = row[3].partition(" (")[0]
        assert licence.lower() in by_name[row[0]].licence.lower(), row
