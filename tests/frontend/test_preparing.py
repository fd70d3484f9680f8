"""What was chosen is checked before anything is loaded or downloaded: in one place, without a network."""

from __future__ import annotations

import json
import logging
import socket
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from chorus.body.model import load_body
from chorus.cli import main
from chorus.commands.console import log_to_stderr
from chorus.errors import InputError
from chorus.frontend import devices, pretrained, registry
from chorus.frontend.preparing import check_choices, make_stages
from chorus.frontend.registry import stages
from chorus.frontend.stages import Runtime

SURFBOARD = ("synthesize", "surfboard", "--count", "2")


def chorus(*arguments: Any) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture
def nothing_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails a test in which a stage is made, or a connection opened."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("it was loaded")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(registry.third_party, "construct", refuse)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "x.pt"
    path.touch()
    return path


WRONG: list[tuple[tuple[str, ...], str]] = [
    (("--humans", "hmr=missing.pt"), "--humans hmr: expected a path that exists, got 'missing.pt'"),
    (("--humans", "hmr=."), "--humans hmr: expected a checkpoint, a file, got '.'"),
    (("--humans", "records=x.pt"), "expected a .npz or .json file"),
    (("--set", "humans.projection=x"), "--set humans.projection: expected frankmocap or spin, got 'x'"),
    (("--set", "humans.crop_scale=9"), "--set humans.crop_scale: expected a number from 0.5 to 4, got '9'"),
    (("--set", "detector.threshold=2"), "--set detector.threshold: expected a number from 0 to 1, got '2'"),
    (("--set", "keypoints.dataset=1.5"), "--set keypoints.dataset: expected a whole number, got '1.5'"),
    (("--set", "images.steps=fifty"), "--set images.steps: expected a number from 1 to 999, got 'fifty'"),
    (("--set", "images.guidance=1", "--set", "images.negative=text"), "expected more than 1 for negative prompts"),
    (("--set", "images.safety=maybe"), "--set images.safety: expected on or off, got 'maybe'"),
    (("--set", "images.view_weight=2"), "view_weight: expected only with view_control=perp-neg"),
    (("--set", "images.colour=red"), "--set images.colour: expected one of this stage's options"),
    (("--images", "diffusers=a/b", "--set", "images.size=1.5"), "--set images.size: expected a whole number"),
    (("--images", "diffusers=/no/folder"), "--images: expected a hub id, or a folder that save_pretrained wrote"),
    (("--images", "diffusers=."), "--images: expected a folder that holds model_index.json, got '.'"),
    (("--detector", "mask2former=./nowhere"), "--detector: expected a hub id, or a folder"),
    (("--detector", "owlv2-sam=one"), "--detector: expected 2 models, separated by commas, got 'one'"),
    (("--detector", "owlv2-sam=a/b,./no"), "--detector: expected a hub id, or a folder"),
    (("--keypoints", "vitpose=a/b/c"), "--keypoints: expected a hub id, or a folder"),
    (("--prompts", "file=none.txt"), "--prompts file: expected a path that exists, got 'none.txt'"),
    (("--prompts", "local=./none"), "--prompts: expected a hub id, or a folder"),
    (("--prompts", "local=a/b", "--set", "prompts.max_tokens=0"), "--set prompts.max_tokens: expected a number from 1"),
    (("--prompts", "openai=m", "--set", "prompts.base_url=nowhere"), "--set base_url: expected http://HOST:PORT/v1"),
    (("--prompts", "local=a/b", "--set", "prompts.template=none.txt"), "template: expected a text file in UTF-8"),
    (("--device", "cuda:99"), "device: expected one that this machine has (cpu"),
    (("--device", "abacus"), "device: expected auto, cpu, cuda, cuda:1 or the like, got 'abacus'"),
    (("--dtype", "int4"), "dtype: expected auto, float32, float16 or bfloat16, got 'int4'"),
    (("--view", "side view", "--view", "side view"), "views: expected different texts"),
    (("--body", "x.pt"), "x.pt"),
]


@pytest.mark.usefixtures("nothing_is_loaded")
@pytest.mark.parametrize("dry", [(), ("--dry-run",)], ids=["run", "dry-run"])
@pytest.mark.parametrize(("more", "words"), WRONG, ids=[words[:40] for _, words in WRONG])
def test_found_before_anything_is_loaded(
    more: tuple[str, ...], words: str, dry: tuple[str, ...], checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(checkpoint.parent)
    humans = () if "--humans" in more else ("--humans", "hmr=x.pt")
    done = chorus(*SURFBOARD, "-o", "s.chorus", *humans, *more, *dry)
    assert done.exit_code == 2, done.output
    assert words in done.output
    assert done.output.count("\n") == 1
    assert not Path("s.chorus").exists()


@pytest.mark.usefixtures("nothing_is_loaded")
@pytest.mark.parametrize(
    ("category", "more", "words"),
    [
        ("piano", (), "category: expected one of the 80 of this model, got 'piano'"),
        ("person", ("--detector", "owlv2-sam"), "category: expected a kind of object, got 'person'"),
        ("kite. dog", ("--detector", "grounding-dino-sam"), "category: expected words without dots or question marks"),
    ],
)
def test_a_category_that_the_detector_cannot_know(
    category: str, more: tuple[str, ...], words: str, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(checkpoint.parent)
    Path("p.txt").write_text("A person plays\n")
    options = ("-o", "s.chorus", "--prompts", "file=p.txt", "--humans", "hmr=x.pt", "--count", 2, *more)
    done = chorus("synthesize", category, *options)
    assert done.exit_code == 2
    assert words in done.output


@pytest.mark.usefixtures("nothing_is_loaded")
def test_pictures_are_taken_in_by_the_same_checks(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(checkpoint.parent)
    Path("p").mkdir()
    command = ("ingest", "images", "p", "--category", "surfboard", "-o", "s.chorus", "--humans")
    for more, words in (
        (("hmr=x.pt",), "folder: expected pictures"),
        (("hmr=none.pt",), "--humans hmr: expected a path that exists"),
        (("hmr=x.pt", "--detector", "mask2former=./none"), "--detector: expected a hub id"),
        (("hmr=x.pt", "--set", "images.size=0"), "--set images.size: expected a number from 1"),
        (("hmr=x.pt", "--set", "prompts.seed=0"), "--set prompts.seed: expected KIND.NAME=VALUE with a kind among images,"),
    ):
        for dry in ((), ("--dry-run",)):
            done = chorus(*command, *more, *dry)
            assert done.exit_code == 2, done.output
            assert words in done.output
    assert not Path("s.chorus").exists()


@pytest.mark.parametrize("missing", ["transformers", "diffusers"])
def test_what_is_not_installed_is_told_by_a_dry_run(missing: str, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    done = chorus(*SURFBOARD, "-o", checkpoint.parent / "s.chorus", "--humans", f"hmr={checkpoint}", "--dry-run")
    assert done.exit_code == 2
    assert f"expected the module {missing}, which is not installed: pip install '.[frontend]' in a checkout" in done.output


def test_a_store_made_with_other_settings_is_refused_before_prompts_are_asked_for(tmp_path: Path) -> None:
    path, prompts = tmp_path / "s.chorus", tmp_path / "p.txt"
    prompts.write_text("a person holds a ball in the right hand\n")
    same = ("synthesize", "sports ball", "-o", path, "--set", "images.size=64", "--count", 2, "--device", "cpu")
    assert chorus(*same, "--simulated").exit_code == 0
    stage = ("--images", "simulated", "--detector", "simulated", "--keypoints", "simulated", "--humans", "simulated")
    done = chorus(*same, *stage, "--prompts", "openai=m", "--set", "prompts.base_url=http://127.0.0.1:9/v1")
    assert done.exit_code == 2
    assert "cannot add to this store" in done.output


def test_every_stage_of_the_project_says_what_it_needs() -> None:
    for info in stages():
        if info.made_by.startswith("chorus."):
            assert info.checked_by, info
            assert bool(info.requires) == bool(info.needs), info
            module, _, name = info.checked_by.partition(":")
            assert callable(getattr(sys.modules.get(module) or __import__(module, fromlist=[name]), name))


def test_a_home_folder_is_the_same_for_the_check_and_the_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "p.txt").write_text("A person plays a guitar\n")
    assert chorus("prompts", "guitar", "--prompts", "file=~/p.txt").stdout == "A person plays a guitar\n"


def test_a_hub_that_cannot_be_reached_is_one_sentence_at_once(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", unreachable)
    poses = checkpoint.with_suffix(".json")
    poses.write_text(json.dumps({"keys": ["a"], "pose": [[[1, 0, 0]] + [[0, 0, 0]] * 23], "weak_camera": [[1, 0, 0]]}))
    began = time.perf_counter()
    done = chorus(*SURFBOARD, "-o", checkpoint.parent / "s.chorus", "--humans", f"records={poses}")
    assert time.perf_counter() - began < 20
    assert done.exit_code == 2
    assert "from the Hugging Face hub, which cannot be reached (no route)" in done.output
    assert "name a folder with the model, which save_pretrained wrote, as in --images NAME=FOLDER" in done.output
    assert done.output.count("\n") == 1
    assert not (checkpoint.parent / "s.chorus").exists()
    assert capfd.readouterr().err.count("Retrying") == 0


def unreachable(*_: Any, **__: Any) -> None:
    raise OSError("no route")


def test_what_the_hub_says_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub import errors

    for kind, words in (
        (errors.RepositoryNotFoundError, "expected the id of a model on the Hugging Face hub, or a folder with one; got 'a/b'"),
        (errors.GatedRepoError, "expected a model that you may use, got 'a/b', whose terms must be accepted"),
        (errors.RevisionNotFoundError, "--set images.revision: expected one that 'a/b' has, got 'v9'"),
    ):
        failure = kind.__new__(kind)  # their constructors want an answer of the library's own client

        def says(*_: Any, failure: Exception = failure, **__: Any) -> None:
            raise failure

        monkeypatch.setattr(huggingface_hub.HfApi, "model_info", says)
        with pytest.raises(InputError, match=words):
            pretrained.reach("a/b", "images", "model_index.json", "v9")


def test_local_files_are_read_before_the_hub_is_asked(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A damaged checkpoint is found although the hub cannot be reached, and before gigabytes come from it."""
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", unreachable)
    specs = {"images": "stable-diffusion", "humans": f"hmr={checkpoint}"}
    with pytest.raises(InputError, match=r"x\.pt: expected a checkpoint"):
        make_stages(specs, {}, Runtime(body=load_body()))
    with pytest.raises(InputError, match="which cannot be reached"):
        make_stages({"images": "stable-diffusion"}, {}, Runtime())


def test_options_of_stages_that_do_not_run_are_refused() -> None:
    with pytest.raises(InputError, match=r"--set images\.size: expected KIND\.NAME=VALUE with a kind among prompts; got"):
        check_choices({"prompts": "builtin"}, {"images.size": "3"}, Runtime())
    check_choices({"prompts": "builtin"}, {}, Runtime(), "bed")


def test_names_of_voc_are_those_of_coco() -> None:
    from chorus.frontend.detection.boxes import COCO_CATEGORIES, find_category
    from tests.frontend.tiny_vision import COCO_NAMES

    assert COCO_CATEGORIES == COCO_NAMES
    assert find_category("motorcycle", ["person", "motorbike"], "it") == 1
    assert find_category("Sofa", COCO_NAMES, "it") == COCO_NAMES.index("couch")


def test_devices() -> None:
    assert devices.resolve("cpu", "auto") == ("cpu", "float32")
    assert devices.resolve("cpu", "bfloat16") == ("cpu", "bfloat16")
    for device in ("meta", "cuda:99", "vulkan"):
        with pytest.raises(InputError, match="device: expected one that this machine has"):
            devices.resolve(device)


def test_log_lines_come_once(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A library whose logger has a handler of its own and hands its records on as well."""
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    log_to_stderr(logging.WARNING)
    library = logging.getLogger("some_library")
    own = logging.StreamHandler(sys.stderr)
    library.addHandler(own)
    try:
        logging.getLogger("some_library.part").warning("retrying")
        logging.getLogger("chorus.part").warning("a \x1b[31mred\x1b[0m prompt")
    finally:
        library.removeHandler(own)
    assert capsys.readouterr().err == "retrying\nchorus.part: a \\x1b[31mred\\x1b[0m prompt\n"


def test_a_photograph_is_looked_at_after_the_checks(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(checkpoint.parent)
    Image.new("RGB", (80, 80)).save("photo.png")
    Path("all").mkdir()
    for more, words in (
        (("--humans", "hmr=none.pt"), "--humans hmr: expected a path that exists"),
        (("--humans", "hmr=x.pt", "--device", "cuda:99"), "device: expected one that this machine has"),
        (("--humans", "hmr=x.pt", "--set", "keypoints.size=3"), "expected KIND.NAME=VALUE with a kind among detector, humans"),
    ):
        done = chorus("reconstruct", "photo.png", "--occupancies", "all", "-o", "out", *more)
        assert done.exit_code == 2
        assert words in done.output
