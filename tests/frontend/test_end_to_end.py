"""One command from a category's name to a filled store, with tiny random-weight models of the real classes in folders.

The command lines are those of the README with folders in place of hub ids: models are loaded through the same code.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from chorus.cli import main
from chorus.store import open_store, verify_store
from chorus.store.filters.filtering import Filter, write_store_filter
from tests.frontend.runs import same_rows
from tests.frontend.servers import Servers, says, url
from tests.frontend.tiny_diffusion import save as tiny_stable_diffusion
from tests.frontend.tiny_humans import tiny_hmr_checkpoint
from tests.frontend.tiny_vision import pictures_of_many_kinds, tiny_mask2former_that_finds, tiny_vitpose

COUNT = 12


def chorus(*arguments: Any) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("models")
    return {
        "images": f"stable-diffusion={tiny_stable_diffusion(folder / 'sd')}",
        "detector": f"mask2former={tiny_mask2former_that_finds(folder / 'mask2former', 'surfboard')}",
        "keypoints": f"vitpose={tiny_vitpose(folder / 'vitpose')}",
        "humans": f"hmr={tiny_hmr_checkpoint(folder / 'hmr.pt')}",
    }


def analysis(models: dict[str, Any]) -> list[Any]:
    found = ["--detector", models["detector"], "--keypoints", models["keypoints"], "--humans", models["humans"]]
    return [*found, "--device", "cpu", "--batch", 4]


def synthesize(store: Path, models: dict[str, Any], *more: Any, count: int = COUNT) -> Result:
    return chorus(
        "synthesize",
        "surfboard",
        "-o",
        store,
        "--prompt-count",
        2,
        "--count",
        count,
        "--view",
        "",
        "--view",
        "side view",
        "--images",
        models["images"],
        "--set",
        "images.steps=4",
        "--set",
        "images.size=64",
        "--set",
        "images.safety=off",
        *analysis(models),
        *more,
    )


@pytest.fixture(scope="module")
def made(models: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    store = tmp_path_factory.mktemp("made") / "surfboard.chorus"
    return store, synthesize(store, models, "--keep-images", "all", "--json")


@pytest.mark.slow
def test_one_command_from_a_category_to_a_filled_store(made: tuple[Path, Result]) -> None:
    path, done = made
    assert done.exit_code == 0, done.output
    facts = json.loads(done.stdout)
    assert facts["made"] == facts["in_the_store"] == COUNT
    assert facts["rows"].get("complete", 0) >= COUNT // 2, facts
    assert not verify_store(path)
    store = open_store(path)
    assert store.prompts == sorted(set(store.rows["prompt"].tolist()))
    assert len(store.prompts) == 2
    assert set(store.rows["view"].tolist()) == {"", "side view"}
    assert len(set(store.rows["seed"].tolist())) == COUNT
    complete = store.rows["status"] == "complete"
    rows = store.rows
    assert (rows["score/person_count"][complete] == 1).all()
    assert (rows["score/object_count"][complete] == 1).all()
    assert (rows["box"][complete, 2] > rows["box"][complete, 0]).all()
    assert (rows["size"] == 64).all()
    pose = rows["pose"][complete]
    assert (pose[:, 0] == 0).all()
    assert np.abs(pose[:, 1:]).max() < np.pi + 1e-3
    assert (rows["t"][complete, 2] > 0).all()
    assert np.isfinite(rows["residual_px"][complete]).all()
    assert rows["betas"][complete].shape[1] == 10
    assert set(store.pictures) == set(store.rows["key"].tolist())


@pytest.mark.slow
def test_the_filled_store_answers(made: tuple[Path, Result], tmp_path: Path) -> None:
    """What the front end wrote goes through votes, filters and statistics."""
    path, _ = made
    shown = chorus("filter", "show", path, "--json")
    assert shown.exit_code == 0, shown.output
    write_store_filter(path, Filter.none())
    done = chorus("aggregate", path, "-o", tmp_path / "occ.h5", "--resolution", 16, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["images"] == np.count_nonzero(open_store(path).rows["status"] == "complete")
    assert chorus("store", "stats", path, "--by-view").exit_code == 0


@pytest.mark.slow
def test_stopped_and_resumed_it_is_the_same_image_for_image(
    made: tuple[Path, Result], models: dict[str, Any], tmp_path: Path
) -> None:
    """Batches are committed whole: what a resumed run has left to make is drawn in the same batches, so to the same bits."""
    path = tmp_path / "surfboard.chorus"
    first = synthesize(path, models, count=8)
    assert first.exit_code == 0, first.output
    second = synthesize(path, models)
    assert second.exit_code == 0, second.output
    assert len(open_store(path)) == COUNT
    same_rows(path, made[0])


@pytest.mark.slow
def test_any_image_can_be_made_again(made: tuple[Path, Result], tmp_path: Path) -> None:
    path, _ = made
    key = open_store(path).rows["key"][7].decode()
    done = chorus("remake", path, key, "-o", tmp_path / "again.png", "--device", "cpu")
    assert done.exit_code == 0, done.output
    again = np.asarray(Image.open(tmp_path / "again.png"), np.float64)
    pictures = {of.decode(): picture.astype(np.float64) for of, picture in open_store(path).pictures.items()}
    kept = pictures.pop(key)
    others = pictures.values()
    assert np.abs(again - kept).mean() < 0.5 * min(np.abs(again - other).mean() for other in others)


@pytest.mark.slow
def test_pictures_that_exist_go_through_the_same_stages(models: dict[str, Any], tmp_path: Path) -> None:
    pictures = tmp_path / "crawled" / "A person rides a surfboard"
    pictures.mkdir(parents=True)
    for i, pixels in enumerate(pictures_of_many_kinds(6)):
        Image.fromarray(np.pad(pixels, ((0, 0), (0, 20 * (i % 2)), (0, 0)), mode="edge")).save(pictures / f"{i}.png")
    (pictures / "broken.jpg").write_bytes(b"no picture")
    path = tmp_path / "found.chorus"
    done = chorus(
        "ingest",
        "images",
        tmp_path / "crawled",
        "--category",
        "surfboard",
        "-o",
        path,
        "--set",
        "images.size=64",
        "--set",
        "images.least=8",
        *analysis(models),
        "--json",
    )
    assert done.exit_code == 0, done.output
    store = open_store(path)
    assert len(store) == 7
    row = store.rows["key"].tolist().index(b"A person rides a surfboard/broken.jpg")
    assert store.rows["status"][row] not in ("complete", "")
    assert not store.rows["status"][row].startswith("failed")
    assert store.prompts == ["A person rides a surfboard"]
    assert (store.rows["status"] == "complete").sum() >= 3
    again = chorus(
        "ingest",
        "images",
        tmp_path / "crawled",
        "--category",
        "surfboard",
        "-o",
        path,
        "--set",
        "images.size=64",
        "--set",
        "images.least=8",
        *analysis(models),
        "--json",
    )
    assert json.loads(again.stdout)["made"] == 0


@pytest.mark.slow
def test_prompts_of_a_server_are_asked_for_once(models: dict[str, Any], serve: Servers, tmp_path: Path) -> None:
    """The store keeps what the server answered: a run that goes on asks nobody."""
    script = serve(says("1. A person carries a surfboard\n2. A person paddles on a surfboard"))
    path = tmp_path / "surfboard.chorus"
    asked = ("--prompts", "openai=any-model", "--set", f"prompts.base_url={url(script)}", "--set", "prompts.retries=0")
    done = synthesize(path, models, *asked, count=4)
    assert done.exit_code == 0, done.output
    more = synthesize(path, models, *asked, count=8)
    assert more.exit_code == 0, more.output
    assert open_store(path).prompts == ["A person carries a surfboard", "A person paddles on a surfboard"]
    assert len(open_store(path)) == 8
    assert len(script.asked) == 1
