"""``chorus stages --check``: tiny models of the real classes do their work, and what is wrong is one line that says so."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from chorus.body.model import load_body
from chorus.cli import main
from chorus.errors import InputError
from chorus.frontend import pretrained
from chorus.frontend.checking import weights
from chorus.frontend.checking.check import check_all, check_stage, choice
from chorus.frontend.checking.memory import peak_memory
from chorus.frontend.checking.picture import CATEGORY, SIDE, draw
from chorus.frontend.prompting.asking import Question
from tests.frontend import tiny_vision
from tests.frontend.test_prompts_local import network, save, teach, tokenizer
from tests.frontend.tiny_diffusion import save as tiny_stable_diffusion
from tests.frontend.tiny_humans import tiny_hmr_checkpoint


def chorus(*arguments: Any) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def check(name: str, *more: Any) -> Result:
    return chorus("stages", "--check", name, "--device", "cpu", *more)


def refused(done: Result) -> str:
    """The one line of an error, after the line that says what is checked."""
    assert done.exit_code == 2, done.output
    *_, line = done.stderr.rstrip("\n").split("\n")
    assert line.startswith("chorus: error: ")
    assert done.stdout == ""
    return line


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Stage -> model: a folder or two, or a file."""
    folder = tmp_path_factory.mktemp("models")
    sam = tiny_vision.tiny_sam(folder / "sam")
    return {
        "stable-diffusion": str(tiny_stable_diffusion(folder / "sd", flags=False)),
        "diffusers": str(folder / "sd"),
        "mask2former": str(tiny_vision.tiny_mask2former_that_finds(folder / "mask2former", CATEGORY)),
        "grounding-dino-sam": f"{tiny_vision.tiny_grounding_dino(folder / 'dino')},{sam}",
        "owlv2-sam": f"{tiny_vision.tiny_owlv2(folder / 'owl')},{sam}",
        "vitpose": str(tiny_vision.tiny_vitpose(folder / "vitpose")),
        "hmr": str(tiny_hmr_checkpoint(folder / "hmr.pt")),
        "local": str(_taught(folder / "language")),
    }


def _taught(folder: Path) -> Path:
    """A language model that answers the check's question."""
    question, answer = Question().text(CATEGORY, 3, []), "1. A person throws a ball.\n2. A person kicks a ball.\n"
    words = tokenizer(question + answer, chat=True)
    first = words(f"<user>{question}<end><model>", return_tensors="pt")["input_ids"]
    then = words(answer + "<end>", return_tensors="pt")["input_ids"]
    model = network(len(words))
    teach(model, torch.cat([first, then], 1), first.shape[1])
    return save(folder, model, words)


SMALL = ("--set", "size=64")
REAL = {
    "stable-diffusion": (SMALL, "a picture of 64 x 64", "a Picture, (64, 64, 3) uint8"),
    "diffusers": (SMALL, "a picture of 64 x 64", "a Picture, (64, 64, 3) uint8"),
    "mask2former": ((), "1 x person (scores 0.9", "boxes (2, 4) float32, scores (2,) float32, masks (2, 512, 512) bool"),
    "grounding-dino-sam": (("--set", "threshold=0.01"), "x sports ball", "masks ("),
    "owlv2-sam": (("--set", "threshold=0"), "x person", "masks ("),
    "vitpose": ((), "17 keypoints, 17 of them inside", "(1, 17, 3) float32"),
    "hmr": ((), "a pose of 24 joints", "a Human, pose (24, 3) float64, orientation (3,) float64, joints (24, 2) float64"),
    "local": (("--set", "retries=0"), "'A person kicks a ball'", "2 texts"),
}


@pytest.mark.parametrize("name", REAL)
def test_a_real_stage_works_on_one_picture(name: str, made: dict[str, str]) -> None:
    more, found, obeyed = REAL[name]
    done = check(name, "--weights", made[name], *more)
    assert done.exit_code == 0, done.output
    lines = done.stdout.rstrip("\n").split("\n")
    assert lines[-1].endswith(f" {name} works here")
    assert found in done.stdout
    contract = next(line for line in lines if line.startswith("contract"))
    assert contract.removeprefix("contract").strip().startswith("obeyed: ")
    assert obeyed in contract
    for model in made[name].split(","):
        assert f"weights   {model}" in lines
    for word in ("on disk", "loading", "running", "RSS", "cpu, float32"):
        assert word in done.stdout, word


def test_the_report_in_json(made: dict[str, str]) -> None:
    done = check(f"detector:mask2former={made['mask2former']}", "--json")
    facts = json.loads(done.stdout)
    assert (facts["kind"], facts["name"], facts["device"], facts["dtype"]) == ("detector", "mask2former", "cpu", "float32")
    (model,) = facts["weights"]
    on_disk = sum(path.stat().st_size for path in Path(made["mask2former"]).iterdir())
    assert (model["place"], model["size"], model["revision"], model["downloaded"]) == (made["mask2former"], on_disk, "", 0)
    assert facts["loading_s"] > 0
    assert facts["running_s"] > 0
    assert facts["memory"]["rss"] >= facts["memory"]["before"] > 0
    assert facts["memory"]["gpu"] is None


def test_steps_are_few_unless_they_are_set(made: dict[str, str]) -> None:
    for more, steps in (((), "4"), (("--set", "images.steps=2"), "2")):
        done = check("stable-diffusion", "--weights", made["stable-diffusion"], *SMALL, *more, "--json")
        assert json.loads(done.stdout)["options"]["steps"] == steps


# --- weights that are not what they should be


def _without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def _cut_short(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])


def _broken_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def _without_a_tensor(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    del tensors[next(name for name in tensors if "class_predictor" in name)]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_without_weights, "expected a model that can be loaded"),
        (_cut_short, "expected a model that can be loaded"),
        (_broken_config, "config.json: expected a model's configuration in JSON"),
        (_without_a_tensor, "expected all weights of Mask2FormerForUniversalSegmentation"),
    ],
)
def test_damaged_weights_are_one_line(damage: Any, words: str, made: dict[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(made["mask2former"], folder)
    damage(folder)
    line = refused(check("mask2former", "--weights", folder))
    assert words in line
    assert str(folder) in line


def test_a_part_of_a_pipeline_that_is_damaged(made: dict[str, str], tmp_path: Path) -> None:
    shutil.copytree(made["stable-diffusion"], tmp_path / "sd")
    (tmp_path / "sd/unet/config.json").write_text("{")
    line = refused(check("stable-diffusion", "--weights", tmp_path / "sd", *SMALL))
    assert "--images: expected a model that can be loaded" in line
    assert "unet" in line


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No hub, and a cache of its own, whose folder it is."""
    from huggingface_hub import constants

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    pretrained._ask_hub.cache_clear()
    return tmp_path / "cache"


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("mask2former", "facebook/mask2former-swin-large-coco-instance"),
        ("owlv2-sam", "google/owlv2-base-patch16-ensemble"),
        ("vitpose", "usyd-community/vitpose-base-simple"),
        ("stable-diffusion", "CompVis/stable-diffusion-v1-4"),
    ],
)
def test_without_a_network_the_way_without_a_hub_is_named(name: str, model: str, offline: Path) -> None:
    line = refused(check(name))
    assert f"expected {model!r} from the Hugging Face hub, which cannot be reached" in line
    assert line.endswith("here: --weights FOLDER")


def _cached(cache: Path, model: str, folder: str, commit: str, branch: str = "main") -> Path:
    """A model's folder as the hub's client keeps it: the content in blobs, links to it in the snapshot of a commit."""
    place = cache / f"models--{model.replace('/', '--')}"
    snapshot = place / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (place / "blobs").mkdir(exist_ok=True)
    (place / "refs").mkdir(exist_ok=True)
    (place / "refs" / branch).write_text(commit)
    for file in Path(folder).iterdir():
        shutil.copy(file, place / "blobs" / f"{commit[:4]}-{file.name}")
        os.symlink(place / "blobs" / f"{commit[:4]}-{file.name}", snapshot / file.name)
    return snapshot


def test_a_model_in_the_hubs_cache_is_used_and_its_commit_named(made: dict[str, str], offline: Path) -> None:
    first, second = "a" * 40, "b" * 40
    _cached(offline, "us/vitpose", made["vitpose"], first)
    other = _cached(offline, "us/vitpose", made["vitpose"], second, "tuned")
    done = check("vitpose", "--weights", "us/vitpose")
    assert done.exit_code == 0, done.output
    assert f"revision  {first} (main branch)" in done.stdout
    done = check("vitpose", "--weights", "us/vitpose", "--set", "revision=tuned")
    assert done.exit_code == 0, done.output
    assert f"revision  {second} (tuned)" in done.stdout
    assert f"cached    {other}" in done.stdout
    assert "expected 'us/vitpose' from the" in refused(check("vitpose", "--weights", "us/vitpose", "--set", "revision=none"))


def test_the_size_of_a_model_in_the_cache_is_that_of_its_files(made: dict[str, str], tmp_path: Path) -> None:
    snapshot = _cached(tmp_path, "us/vitpose", made["vitpose"], "c" * 40)
    assert weights.find(str(snapshot)).size == sum(path.stat().st_size for path in Path(made["vitpose"]).iterdir())


# --- which stage is meant


def test_a_name_of_several_kinds_asks_for_the_kind() -> None:
    assert "expected prompts:simulated or images:simulated or detector:simulated" in refused(check("simulated"))
    assert choice("simulated", "humans") == ("humans", "simulated")
    assert choice("humans:simulated") == ("humans", "simulated")
    assert choice("vitpose=a/b") == ("keypoints", "vitpose=a/b")
    theirs = "tests.frontend.test_stage_check_contract:Proper"
    assert choice(f"detector:{theirs}=x") == ("detector", f"{theirs}=x")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--check", "nothing"), "expected all, one of builtin, "),
        (("--check", "my.module:Class"), "or KIND:module:Class; got 'my.module:Class'"),
        (("--check", "detector:vitpose"), "--detector: expected one of mask2former, "),
        (("--check", "vitpose", "--kind", "detector"), "--detector: expected one of mask2former, "),
        (("--check", "vitpose=a/b", "--weights", "c/d"), "--weights: expected none beside 'vitpose=a/b'"),
        (("--check", "hmr"), "--humans hmr: expected hmr=MODEL"),
        (("--check", "mask2former", "--set", "colour=1"), "--set detector.colour: expected one of this stage's options"),
        (("--check", "all", "--weights", "c/d"), "--weights: expected only with --check NAME, got it with all"),
        (("--set", "threshold=1"), "--set: expected only with --check NAME, got it without"),
        (("--check", "vitpose", "--device", "cuda:99"), "device: expected one that this machine has"),
    ],
)
def test_what_cannot_be_meant(arguments: tuple[str, ...], words: str) -> None:
    assert words in refused(chorus("stages", *arguments))


# --- the rest


def test_all_stages_in_a_table(offline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = check("all")
    assert done.exit_code == 0, done.output
    assert "not on this machine, and the hub cannot be reached: CompVis/stable-diffusion-v1-4" in done.stdout
    assert "detectron2 is not installed" in done.stdout
    assert "has no default model: --check humans:hmr --weights MODEL" in done.stdout
    # BlazePose's two stages work where its weights have been fetched.
    assert re.search("(6 work, 0 failed, 17|8 work, 0 failed, 15) cannot run here as things are", done.stdout)
    assert "checking detector mask2former" in done.stderr
    outcomes = json.loads(check("all", "--json", "--kind", "keypoints").stdout)
    states = {o["name"]: o["state"] for o in outcomes}
    assert states.pop("blazepose") in ("works", "not here")
    assert states == {"vitpose": "not here", "mmpose": "not here", "simulated": "works"}


def test_a_stage_that_fails_makes_all_fail(monkeypatch: pytest.MonkeyPatch, offline: Path) -> None:
    from chorus.frontend.simulated import SimulatedKeypoints

    monkeypatch.setattr(SimulatedKeypoints, "keypoints", lambda self, pictures, boxes: None)
    done = check("all", "--kind", "keypoints")
    assert done.exit_code == 2
    assert "1 failed" in done.stdout
    assert "contract: expected an array of shape (1, 17, 3), got a NoneType" in done.stdout
    assert [outcome.state for outcome in check_all(kind="keypoints")].count("failed") == 1


def test_a_folder_of_pictures_is_tried_with_its_first(tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (80, 90), "red").save(tmp_path / "b.png")
    Image.new("RGB", (80, 90), "blue").save(tmp_path / "a.png")
    report = check_stage("images", f"folder={tmp_path}")
    assert report.given == "the file 'a.png'"
    assert report.found[-1] == "all of it has one colour"


def test_the_picture_shows_a_person_and_a_ball() -> None:
    shown = draw(load_body())
    assert shown.picture.pixels.shape == (SIDE, SIDE, 3)
    for box in (shown.person, shown.ball):
        assert ((box >= 0) & (box <= SIDE)).all()
        assert (box[2:] - box[:2] > 50).all()
        x0, y0, x1, y1 = box.astype(int)
        assert shown.picture.pixels[y0:y1, x0:x1].std() > 20
    report = check_stage("detector", "simulated")
    assert "IoU with the drawn person's box 1.00 at best" in " ".join(report.found)


def test_memory_that_is_given_back_is_counted() -> None:
    with peak_memory("cpu") as peak:
        block = np.ones(40_000_000)
        del block
    assert peak.rss is not None
    assert peak.before is not None
    assert peak.rss - peak.before > 100_000_000


def test_an_error_of_input_names_the_stage() -> None:
    with pytest.raises(InputError, match=r"^detector mask2former: |^--detector"):
        check_stage("detector", "mask2former", category="person")
