"""Stages of other packages: by ``module:Class`` and by entry point, in runs, dry runs, listings and what stores say of them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from chorus.body.model import load_body
from chorus.cli import main
from chorus.errors import InputError, StageError
from chorus.frontend.plan import Description
from chorus.frontend.registry import broken_stages, find, make, package_of, register, stages
from chorus.frontend.run import Settings, fill_store
from chorus.frontend.simulated import BACKGROUND, OBJECT_COLOUR, PERSON_COLOUR
from chorus.frontend.stage_info import StageInfo
from chorus.frontend.stages import ImageRequest, Picture, Runtime, check_category
from chorus.reconstruct.photo import find_interaction
from chorus.simulate.worlds import WORLDS
from chorus.store import open_store
from tests.frontend.colour_detector import ColourDetector, SureDetector

HERE = "tests.frontend.colour_detector"
SIMULATED = [x for kind in ("images", "keypoints", "humans") for x in (f"--{kind}", "simulated")]
SMALL = ("--set", "images.size=64", "--batch", "4", "--count", "8", "--view", "")


def chorus(*arguments: Any) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def synthesize(path: Path, detector: str, *more: Any) -> Result:
    prompts = ("--prompts", f"{HERE}:Prompts")
    return chorus("synthesize", "sports ball", "-o", path, *prompts, *SIMULATED, "--detector", detector, *SMALL, *more)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with entry points, some of them wrong, installed as pip leaves it behind."""
    site = tmp_path / "site-packages"
    facts = site / "colourful-1.2.dist-info"
    facts.mkdir(parents=True)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: colourful\nVersion: 1.2\nLicense: ISC\n")
    (facts / "RECORD").write_text("colourful.py,,\nraising.py,,\n")
    (facts / "entry_points.txt").write_text(
        "[chorus.detectors]\n"
        "colours = colourful:DECLARED\nsure = colourful:SureDetector\nmask2former = colourful:SureDetector\n"
        "gone = nowhere_at_all:Detector\nraises = raising:Detector\nmodule-only = colourful\n"
        f"[chorus.prompts]\none = {HERE}:Prompts\n"
    )
    (site / "colourful.py").write_text(f"from {HERE} import DECLARED, SureDetector\n")
    (site / "raising.py").write_text("raise RuntimeError('no luck')\n")
    monkeypatch.syspath_prepend(str(site))
    return site


def test_a_class_is_a_detector_of_a_run(tmp_path: Path) -> None:
    """It sees pixels; the world knows the masks. They find the same object, which hides the person."""
    path, true = tmp_path / "s.chorus", tmp_path / "true.chorus"
    for output, detector in ((path, f"{HERE}:ColourDetector"), (true, "simulated")):
        done = synthesize(output, detector)
        assert done.exit_code == 0, done.output
    ours, theirs = open_store(path), open_store(true)
    for column in ("key", "status", "prompt", "seed", "box", "pose", "score/object_count"):
        a, b = ours.rows[column], theirs.rows[column]
        assert np.array_equal(a, b, equal_nan=a.dtype.kind == "f"), column
    kept = np.flatnonzero(ours.rows["has_camera"])
    assert len(kept) >= 4
    found, known = ours.batch(kept).masks, theirs.batch(kept).masks
    assert all(np.array_equal(found.unpack(i), known.unpack(i)) for i in range(len(kept)))
    assert set(ours.rows["score/object_confidence"][kept].tolist()) == {np.float32(0.9)}


def test_the_store_says_which_class_it_was_and_goes_on_with_it(tmp_path: Path) -> None:
    path, spec = tmp_path / "s.chorus", f"{HERE}:SureDetector=0.7"
    planned = synthesize(path, spec, "--dry-run", "--json")
    assert planned.exit_code == 0, planned.output
    row = json.loads(planned.stdout)["stages"][2]
    assert row == {
        "stage": "detector",
        "name": f"{HERE}:SureDetector",
        "model": "0.7",
        "licence": "not declared",
        "options": {},
    }
    assert not path.exists()
    assert synthesize(path, spec).exit_code == 0
    stored = Description.load(path)
    assert stored is not None
    assert stored.stages["detector"] == spec
    assert stored.stages["prompts"] == f"{HERE}:Prompts"
    header = open_store(path).shards[0].provenance["frontend"]
    assert header["stages"]["detector"] == spec
    assert header["licences"]["detector"] == "not declared"
    more = synthesize(path, spec, "--count", 12, "--json")
    assert json.loads(more.stdout)["made"] == 4
    refused = synthesize(path, f"{HERE}:ColourDetector", "--count", 12)
    assert refused.exit_code == 2
    assert f"stages.detector: expected '{spec}', as the store's" in refused.output
    scores = open_store(path).rows["score/person_confidence"]
    assert set(scores[~np.isnan(scores)].tolist()) == {np.float32(0.7)}
    made = chorus("remake", path, open_store(path).rows["key"][0].decode(), "-o", tmp_path / "x.png")
    assert made.exit_code == 0, made.output


def test_options_reach_the_class(tmp_path: Path) -> None:
    done = synthesize(tmp_path / "s.chorus", f"{HERE}:SureDetector", "--set", "detector.confidence=0.6")
    assert done.exit_code == 0, done.output
    scores = open_store(tmp_path / "s.chorus").rows["score/person_confidence"]
    assert set(scores[~np.isnan(scores)].tolist()) == {np.float32(0.6)}
    wrong = synthesize(tmp_path / "t.chorus", f"{HERE}:SureDetector", "--set", "detector.colour=red")
    assert wrong.exit_code == 2
    assert "--set detector.colour: expected one of this stage's options (confidence)" in wrong.output
    wrong = synthesize(tmp_path / "t.chorus", f"{HERE}:ColourDetector", "--set", "detector.colour=red")
    assert "--set detector.colour: expected one of this stage's options (none)" in wrong.output


def test_pictures_of_a_folder_through_classes_alone(tmp_path: Path) -> None:
    folder = tmp_path / "pictures" / "A person holds a box"
    folder.mkdir(parents=True)
    pixels = np.full((64, 64, 3), BACKGROUND, np.uint8)
    pixels[8:60, 20:40] = PERSON_COLOUR
    Image.fromarray(pixels).save(folder / "alone.png")
    pixels[30:40, 36:50] = OBJECT_COLOUR
    Image.fromarray(pixels).save(folder / "both.png")
    done = chorus(
        *("ingest", "images", folder.parent, "--category", "box", "-o", tmp_path / "s.chorus", "--set", "images.size=64"),
        *("--detector", f"{HERE}:ColourDetector", "--keypoints", f"{HERE}:Boxed", "--humans", f"{HERE}:Upright"),
    )
    assert done.exit_code == 0, done.output
    rows = open_store(tmp_path / "s.chorus").rows
    found = dict(zip((Path(k.decode()).name for k in rows["key"]), range(2), strict=True))
    alone, both = (row for name, row in sorted(found.items()))
    assert rows["status"][[alone, both]].tolist() == ["no object", "complete"]
    assert rows["box"][both].tolist() == [36, 30, 50, 40]
    assert rows["t"][both].tolist() == [0, 0, 3]
    assert rows["estimator"][both] == f"{HERE}:Upright"


def test_an_installed_package(tmp_path: Path, installed: Path) -> None:
    done = synthesize(tmp_path / "s.chorus", "sure=0.7")
    assert done.exit_code == 0, done.output
    header = open_store(tmp_path / "s.chorus").shards[0].provenance["frontend"]
    assert header["stages"]["detector"] == "sure=0.7"
    assert header["licences"]["detector"] == "ISC"
    assert header["versions"]["colourful"] == "1.2"
    assert package_of("detector", "sure") == ("colourful", "1.2")
    assert package_of("detector", "mask2former") is None
    again = synthesize(tmp_path / "s.chorus", "sure=0.7", "--dry-run", "--json")
    assert json.loads(again.stdout)["to_make"] == 0
    prompts = json.loads(chorus("prompts", "sports ball", "--prompts", "one", "--json").stdout)
    assert (prompts["prompts"], prompts["source"]) == ([WORLDS["ball-held"].prompt], {"stage": "one"})


def test_an_installed_stage_that_declares_itself(installed: Path) -> None:
    info = find("detector", "colours")
    assert (info.model, info.licence, info.options) == ("0.8", "MIT; no weights", (("confidence", "of all that is found"),))
    assert make("detector", "colours", Runtime()).confidence() == 0.8
    assert make("detector", "colours=0.5", Runtime()).confidence() == 0.5
    with pytest.raises(InputError, match=r"--set detector\.x: expected one of this stage's options \(confidence\)"):
        make("detector", "colours", Runtime(options={"x": "1"}))


def test_stages_lists_what_is_installed_and_names_what_is_broken(installed: Path) -> None:
    told = chorus("stages", "--kind", "detector")
    assert told.exit_code == 0, told.output
    lines = told.output.splitlines()
    assert "--detector colours: what is painted in two colours" in lines
    assert '--detector sure: As sure as its model says, or as the option "confidence" does.' in lines
    broken = [line for line in lines if "cannot be chosen" in line]
    assert [line.split()[1] for line in broken] == ["mask2former:", "gone:", "raises:", "module-only:"]
    assert "expected a module that Python finds, got 'nowhere_at_all' (entry point 'nowhere_at_all:Detector' of" in broken[1]
    assert "RuntimeError: no luck" in broken[2]
    listed = chorus("stages", "--json")
    names = [(info["kind"], info["name"]) for info in json.loads(listed.stdout)]
    assert ("detector", "sure") in names
    assert ("prompts", "one") in names
    assert names.count(("detector", "mask2former")) == 1
    assert "--detector raises: cannot be chosen" in listed.stderr
    assert len(broken_stages()) == 4
    assert find("detector", "mask2former").made_by.startswith("chorus.")


def test_a_broken_one_that_is_chosen_is_an_error(tmp_path: Path, installed: Path) -> None:
    for name, words in (("gone", "expected a module that Python finds"), ("raises", "RuntimeError: no luck")):
        done = synthesize(tmp_path / "s.chorus", name)
        assert done.exit_code == 2
        assert f"--detector {name}: " in done.output
        assert words in done.output
    done = synthesize(tmp_path / "s.chorus", "nobody")
    assert "expected one of mask2former, grounding-dino-sam" in done.output
    assert "sure" in done.output
    assert "or module:Class; got 'nobody'" in done.output
    assert not (tmp_path / "s.chorus").exists()


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("no_such_module_at_all:X", "expected a module that Python finds, got 'no_such_module_at_all'"),
        (f"{HERE}.deeper:X", f"expected a module that Python finds, got '{HERE}.deeper'"),
        (f"{HERE}:Nobody", f"expected a name in the module {HERE}, got 'Nobody', which it lacks"),
        (f"{HERE}:NotADetector", "expected a class with the method detect, got NotADetector, which lacks it"),
        (f"{HERE}:gives_nothing", "expected a stage with the method detect, got a NotADetector, which lacks it"),
        (f"{HERE}:NUMBER", "expected a StageInfo, a class or a callable (model, runtime) -> stage, got a int"),
        (f"{HERE}:ColourDetector=large", "expected no model, this stage has none; got 'large'"),
        (f"{HERE}:", f"expected module:Class, got '{HERE}:'"),
        (":X", "expected module:Class, got ':X'"),
    ],
)
def test_what_makes_no_stage_is_named(tmp_path: Path, spec: str, words: str) -> None:
    done = synthesize(tmp_path / "s.chorus", spec)
    assert done.exit_code == 2
    assert words in done.output
    assert f"--detector {spec.partition('=')[0]}: " in done.output
    assert not (tmp_path / "s.chorus" / "frontend.json").exists()
    if "gives_nothing" not in spec:  # what a function gives is not known before it is called
        assert words in synthesize(tmp_path / "s.chorus", spec, "--dry-run").output


def test_a_module_of_the_current_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_own_detector.py").write_text(f"from {HERE} import ColourDetector\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [entry for entry in sys.path if entry])
    assert isinstance(make("detector", "my_own_detector:ColourDetector", Runtime()), ColourDetector)


def test_a_detector_without_check_is_taken_to_know_every_category(tmp_path: Path) -> None:
    check_category(ColourDetector(), "piano")
    pixels = np.full((64, 64, 3), BACKGROUND, np.uint8)
    pixels[8:60, 20:40] = PERSON_COLOUR
    pixels[30:40, 36:50] = OBJECT_COLOUR
    found = find_interaction(Picture(ImageRequest("k", "p"), pixels), ["piano"], ColourDetector())
    assert found.category == "piano"


def test_results_of_the_wrong_type_end_the_run_and_are_named(tmp_path: Path) -> None:
    specs = {**dict.fromkeys(("images", "keypoints", "humans"), "simulated"), "detector": f"{HERE}:Careless"}
    description = Description("sports ball", specs, {"images.size": "64"})
    requests = [ImageRequest(f"k{i}", WORLDS["ball-held"].prompt, "", i) for i in range(2)]
    with pytest.raises(StageError, match="detector: expected Instances of each image, got list"):
        fill_store(tmp_path / "s.chorus", requests, description, load_body(), Settings(device="cpu"))


def test_registered_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chorus.frontend.registry._REGISTERED", {})
    info = StageInfo("detector", "mine", f"{HERE}:SureDetector", "mine", "0.5", "MIT", "none")
    register(info)
    assert info in stages("detector")
    assert isinstance(make("detector", "mine", Runtime()), SureDetector)
    for taken in ("mine", "mask2former"):
        with pytest.raises(InputError, match="name: expected one that is free"):
            register(StageInfo("detector", taken, f"{HERE}:SureDetector", "mine", "0.5", "MIT", "none"))
    with pytest.raises(InputError, match="kind: expected one of"):
        register(StageInfo("detectors", "mine", f"{HERE}:SureDetector", "mine", "0.5", "MIT", "none"))
