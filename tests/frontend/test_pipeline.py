"""The pipeline with stages made for the purpose: what becomes of each image, failures, stopping, committing."""

from __future__ import annotations

import re
import threading
import time
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import chorus
from chorus.errors import InputError, StageError
from chorus.frontend.pipeline import FAILURES_IN_A_ROW, Pipeline, RunReport, Stages
from chorus.frontend.simulated import (
    SimulatedDetector,
    SimulatedHumans,
    SimulatedImages,
    SimulatedKeypoints,
)
from chorus.frontend.stages import Human, ImageRequest, Instances, Picture, Refusal
from chorus.simulate.worlds import WORLDS
from chorus.store import Store, StoreWriter, open_store, verify_store
from chorus.store.filters.filtering import Filter
from chorus.store.picture_folder import picture_name, write_picture

BODY = chorus.load_body()
PROMPT = WORLDS["ball"].prompt


def requests(count: int) -> list[ImageRequest]:
    return [ImageRequest(f"image-{i:03d}", PROMPT, "side view", i) for i in range(count)]


def stages(**replaced: Any) -> Stages:
    """All oracles, at 96 x 96 pixels, but for those given."""
    made = Stages(SimulatedImages(BODY, (96, 96)), SimulatedDetector(BODY), SimulatedKeypoints(BODY), SimulatedHumans(BODY))
    return replace(made, **replaced)


def run(path: Path, made: Stages, count: int = 12, batch: int = 4, **options: Any) -> tuple[RunReport, Store]:
    wanted = requests(count)
    with StoreWriter(path, category="ball", num_joints=24, body_hash=BODY.hash, shard_size=1 << 20) as writer:
        run_options = {name: options.pop(name) for name in ("stop", "progress") if name in options}
        pipeline = Pipeline(made, "ball", BODY, **options)
        report = pipeline.run((wanted[i : i + batch] for i in range(0, count, batch)), writer, **run_options)
    return report, open_store(path)


class Saying(SimulatedDetector):
    """A detector that adds to what is there, or takes from it, by the image's number."""

    def detect(self, pictures: Sequence[Picture], category: str) -> Sequence[Instances]:
        found = super().detect(pictures, category)
        person_first = [f[np.argsort([label != "person" for label in f.labels], kind="stable")] for f in found]
        return [self.changed(p.request.seed, f, category) for p, f in zip(pictures, person_first, strict=True)]

    def changed(self, i: int, found: Instances, category: str) -> Instances:
        twice = np.array([0, 1, 0, 1], np.intp)
        if i == 1:
            return found.of("person")
        if i == 2:
            return found.of(category)
        if i == 3:
            return found[np.zeros(0, np.intp)]
        if i in (4, 5):  # a second one, elsewhere
            both = found[twice]
            boxes = both.boxes.copy()
            boxes[2 if i == 4 else 3] = [0, 0, 3, 3]
            rows = np.array([0, 1, 2 if i == 4 else 3])
            return replace(both, boxes=boxes)[rows]
        if i == 6:  # the same twice: a duplicate, which A.3's rule drops
            both = found[twice]
            return replace(both, scores=both.scores * np.array([1, 1, 0.9, 0.9], np.float32))
        if i == 7:
            return replace(found, masks=found.masks & (np.arange(len(found)) == 0)[:, None, None])
        return found


class Telling(SimulatedHumans):
    """A human estimator that says how sure it is, but of the image with number 1."""

    def humans(self, pictures: Sequence[Picture], boxes: NDArray[np.float32]) -> Sequence[Human | Refusal]:
        found: list[Human | Refusal] = []
        for picture, human in zip(pictures, super().humans(pictures, boxes), strict=True):
            i = picture.request.seed
            assert isinstance(human, Human)
            if i != 1:
                std = np.where(np.arange(24) < 22, 0.1 * i, np.nan)
                human = replace(human, joint_std=std, limbs_seen=np.array([True, i != 2, True, True]))
            found.append(human)
        return found


def test_how_sure_poses_are_and_which_limbs_were_seen_is_kept(tmp_path: Path) -> None:
    _, store = run(tmp_path / "s.chorus", stages(humans=Telling(BODY)), 4)
    rows = store.rows
    order = np.argsort(rows["key"])
    std = rows["score/joint_std"][order]
    assert std.shape == (4, 24)
    assert np.isnan(std[1]).all()
    np.testing.assert_allclose(std[[0, 2, 3], :22], np.array([[0.0], [0.2], [0.3]]) * np.ones(22), rtol=1e-6)
    assert np.isnan(std[:, 22:]).all()
    np.testing.assert_array_equal(rows["score/limb_left_leg"][order], [1, np.nan, 0, 1])
    np.testing.assert_array_equal(rows["score/limb_right_arm"][order], [1, np.nan, 1, 1])
    assert Filter({"limbs": 1}).passed(rows)[order].tolist() == [True, False, False, True]
    assert not verify_store(tmp_path / "s.chorus")


def test_each_image_gets_a_row_that_says_what_became_of_it(tmp_path: Path) -> None:
    report, store = run(tmp_path / "s.chorus", stages(detector=Saying(BODY)))
    status = dict(zip(store.rows["key"].tolist(), store.rows["status"].tolist(), strict=True))
    got = [status[f"image-{i:03d}".encode()] for i in range(8)]
    assert got == [
        "complete",
        "no object",
        "no person",
        "no person",
        "several people",
        "several objects",
        "complete",
        "no object",
    ]
    assert report.rows == Counter(store.rows["status"].tolist())
    assert report.images == len(store) == 12
    assert not verify_store(tmp_path / "s.chorus")
    rows = {key: i for i, key in enumerate(store.rows["key"].tolist())}
    row = rows[b"image-004"]
    assert store.rows["score/person_count"][row] == 2
    assert store.rows["score/object_count"][row] == 1
    assert store.rows["seed"][row] == 4
    assert store.rows["view"][row] == "side view"
    assert store.rows["size"][row].tolist() == [96, 96]
    assert store.rows["has_camera"].tolist() == [s == "complete" for s in store.rows["status"].tolist()]


class Refusing(SimulatedHumans):
    def humans(self, pictures: Sequence[Picture], boxes: NDArray[np.float32]) -> Sequence[Human | Refusal]:
        found = super().humans(pictures, boxes)
        return [Refusal("no 3D pose") if p.request.seed % 3 == 0 else h for p, h in zip(pictures, found, strict=True)]


def test_a_stage_may_have_nothing_for_an_image(tmp_path: Path) -> None:
    _, store = run(tmp_path / "s.chorus", stages(humans=Refusing(BODY)), count=6)
    assert Counter(store.rows["status"].tolist()) == {"no 3D pose": 2, "complete": 4}
    refused = store.rows["status"] == "no 3D pose"
    assert np.isfinite(store.rows["score/keypoint_left_hip"][refused]).all()  # what was known of it is kept
    assert store.rows["score/keypoints"].shape == (6, 51)


class Failing(SimulatedKeypoints):
    """Fails for a batch in which a bad image is, as a model would."""

    def __init__(self, bad: Sequence[int]) -> None:
        super().__init__(BODY)
        object.__setattr__(self, "bad", frozenset(bad))
        object.__setattr__(self, "calls", [])

    def keypoints(self, pictures: Sequence[Picture], boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        self.calls.append(len(pictures))  # type: ignore[attr-defined]
        for picture in pictures:
            if picture.request.seed in self.bad:  # type: ignore[attr-defined]
                raise RuntimeError(f"cannot read\nimage {picture.request.seed}")
        return super().keypoints(pictures, boxes)


def test_a_failing_image_is_a_row_with_its_reason_and_the_others_go_on(tmp_path: Path) -> None:
    report, store = run(tmp_path / "s.chorus", stages(keypoints=Failing([5])))
    failed = store.rows["status"] != "complete"
    assert store.rows["key"][failed].tolist() == [b"image-005"]
    assert store.rows["status"][failed].tolist() == ["failed: keypoints: RuntimeError: cannot read image 5"]
    assert report.rows["complete"] == 11
    assert not report.stopped


def test_a_stage_that_always_fails_ends_the_run_and_nothing_of_its_fault_is_kept(tmp_path: Path) -> None:
    bad = range(8, 8 + 2 * FAILURES_IN_A_ROW)
    with pytest.raises(StageError, match=f"keypoints: failed for {FAILURES_IN_A_ROW} images in a row, .* RuntimeError"):
        run(tmp_path / "s.chorus", stages(keypoints=Failing(bad)), count=48)
    store = open_store(tmp_path / "s.chorus")
    assert len(store) == 8  # what went well is there; the rest is tried again by the next run
    assert set(store.rows["status"].tolist()) == {"complete"}
    run(tmp_path / "other.chorus", stages(), count=8)


def test_single_images_that_fail_are_kept_once_others_succeed(tmp_path: Path) -> None:
    _, store = run(tmp_path / "s.chorus", stages(keypoints=Failing([0, 1, 2, 3, 11])), batch=1)
    status = store.rows["status"].tolist()
    assert len(status) == 12
    assert sum(s.startswith("failed: keypoints") for s in status) == 5


class Wrong(SimulatedKeypoints):
    def keypoints(self, pictures: Sequence[Picture], boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        return super().keypoints(pictures, boxes)[:-1]


class Smaller(SimulatedDetector):
    def detect(self, pictures: Sequence[Picture], category: str) -> Sequence[Instances]:
        return [replace(found, masks=found.masks[:, ::2, ::2]) for found in super().detect(pictures, category)]


class Jointless(SimulatedHumans):
    def humans(self, pictures: Sequence[Picture], boxes: NDArray[np.float32]) -> Sequence[Human | Refusal]:
        return [replace(h, pose=h.pose[:22]) for h in super().humans(pictures, boxes) if isinstance(h, Human)]


@pytest.mark.parametrize(
    ("made", "words"),
    [
        ({"keypoints": Wrong(BODY)}, "keypoints: expected 4 results, one an image, got 3"),
        ({"detector": Smaller(BODY)}, r"detector: expected masks of height, width \(96, 96\), as the picture, got \(48, 48\)"),
        ({"humans": Jointless(BODY)}, "humans: expected 24 joints, as the body has, got 22"),
    ],
)
def test_stages_that_break_their_protocol_end_the_run(tmp_path: Path, made: dict[str, Any], words: str) -> None:
    with pytest.raises(StageError, match=words):
        run(tmp_path / "s.chorus", stages(**made))
    assert len(open_store(tmp_path / "s.chorus")) == 0


class Bomb(SimulatedImages):
    def images(self, requests: Sequence[ImageRequest]) -> Sequence[Picture | Refusal]:
        return [
            Refusal(f"unreadable: {request.seed}") if request.seed % 2 else picture
            for request, picture in zip(requests, super().images(requests), strict=True)
        ]


def test_many_different_reasons_do_not_overflow_a_shards_vocabulary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chorus.frontend.pipeline._REASONS", 4)
    report, _ = run(tmp_path / "s.chorus", stages(images=Bomb(BODY, (96, 96))), count=20)
    assert report.rows["complete"] == 10
    assert report.rows["unreadable"] == 7
    assert len(report.rows) == 5


def test_stopping_commits_what_was_under_way(tmp_path: Path) -> None:
    stop = threading.Event()
    report, store = run(tmp_path / "s.chorus", stages(), count=400, stop=stop, progress=lambda now: stop.set())
    assert report.stopped
    assert 4 <= len(store) == report.images < 400
    assert len(store) % 4 == 0


def test_asked_to_stop_when_all_is_under_way_it_was_not_stopped(tmp_path: Path) -> None:
    stop = threading.Event()
    report, store = run(tmp_path / "s.chorus", stages(), count=4, stop=stop, progress=lambda now: stop.set())
    assert len(store) == 4
    assert not report.stopped


@pytest.mark.parametrize("fault", ["stage", "store"])
def test_an_error_leaves_no_stage_at_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    """A process that ends while a stage is inside a library crashes instead of saying what was wrong."""
    working: list[int] = []
    busy = threading.Event()

    class Slow(SimulatedImages):
        def images(self, requests: Sequence[ImageRequest]) -> Sequence[Picture | Refusal]:
            working.append(1)
            if len(working) > 3:
                busy.set()
                time.sleep(0.5)
            made = super().images(requests)
            working.append(-1)
            return made

    class Stops(Wrong):
        def keypoints(self, pictures: Sequence[Picture], boxes: NDArray[np.float32]) -> NDArray[np.float32]:
            assert busy.wait(20)
            return super().keypoints(pictures, boxes)

    made = stages(images=Slow(BODY, (96, 96)))
    if fault == "stage":
        made = replace(made, keypoints=Stops(BODY))
    else:

        def full(self: StoreWriter) -> None:
            assert busy.wait(20)
            raise OSError("No space left on device")

        monkeypatch.setattr(StoreWriter, "flush", full)
    with pytest.raises(StageError if fault == "stage" else OSError):
        run(tmp_path / "s.chorus", made, count=80, commit_images=1)
    assert sum(working) == 0


@pytest.mark.parametrize(("keep", "pictures"), [("none", 0), ("complete", 4), ("all", 6)])
def test_pictures_beside_the_shards(tmp_path: Path, keep: str, pictures: int) -> None:
    _, store = run(tmp_path / "s.chorus", stages(humans=Refusing(BODY)), count=6, keep_images=keep)
    assert not verify_store(tmp_path / "s.chorus")
    assert len(store.pictures) == pictures
    assert (tmp_path / "s.chorus" / "pictures").exists() is bool(pictures)
    complete = store.rows["key"][store.rows["status"] == "complete"].tolist()
    assert set(store.pictures) == set({"none": [], "complete": complete, "all": store.rows["key"].tolist()}[keep])
    for key, pixels in store.pictures.items():
        assert pixels.shape == (96, 96, 3)
        assert store.pictures.encoded(key).media_type == "image/jpeg"


def test_pictures_kept_as_png_are_the_ones_that_the_stages_saw(tmp_path: Path) -> None:
    _, store = run(tmp_path / "s.chorus", stages(), count=4, keep_images="all", keep_format="png")
    for request in requests(4):
        (made,) = SimulatedImages(BODY, (96, 96)).images([request])
        assert isinstance(made, Picture)
        assert np.array_equal(store.picture(request.key), made.pixels)
        assert store.pictures.encoded(request.key).media_type == "image/png"
    with pytest.raises(InputError, match="keep_format: expected one of jpeg, png; got 'gif'"):
        Pipeline(stages(), "ball", BODY, keep_format="gif")


def test_rows_are_committed_before_their_pictures_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chorus.frontend.pipeline.MOST_PICTURE_BYTES", 1)
    _, store = run(tmp_path / "s.chorus", stages(), count=12, batch=4, keep_images="all")
    assert [len(shard) for shard in store.shards] == [4, 4, 4]
    assert len(store.pictures) == 12


STRANGE = [
    "../up", "/root", "a/../../b", "a\\b", "", "/", "nul\0", ".hidden", "a/.hidden/b", "a\nb", "\x1b[31mred", "con", "con.000",
    "CON", "x/nul/y", "a.", "a ", "a", "A", "\u00e9", "e\u0301", "\u732b.png", "..", ".", "a.jpg", "a.jpg/b", "A.jpg", "a:b",
    "a?b", "-rf", "y" * 3000, "y" * 2999 + "z", "\ud800",
]  # fmt: skip


def test_names_of_kept_pictures_can_be_written_anywhere(tmp_path: Path) -> None:
    """For keys as folders of strangers have them: inside the folder, not hidden, not reserved, and different for each."""
    paths = [tmp_path / picture_name(key) for key in STRANGE]
    assert len({unicodedata.normalize("NFKC", str(path)).casefold() for path in paths}) == len(STRANGE)
    for path in paths:
        assert path.suffix == ".jpg"
        for part in path.relative_to(tmp_path).parts:
            assert re.fullmatch(r"[^\x00-\x1f<>:\"/\\|?*.\- ][^\x00-\x1f<>:\"/\\|?*]*(?<![. ])", part), part
            assert len(part.encode()) <= 255
            assert not re.fullmatch(r"(con|nul)(\..*)?", part, re.IGNORECASE)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(exist_ok=False)
    assert str(picture_name("a-person-rides-0011aabb.side-view.000012")) == "a-person-rides-0011aabb.side-view.000012.jpg"
    assert picture_name("rides a bicycle/1.jpg", ".png").parts[1] == "1.jpg.png"


def test_names_as_long_as_a_file_system_takes_are_kept(tmp_path: Path) -> None:
    keys = ["y" * 251 + ".png", "y" * 250 + "z.png", "\u30b9" * 84 + ".p"]
    wanted = [replace(request, key=key) for request, key in zip(requests(3), keys, strict=True)]
    with StoreWriter(tmp_path / "s.chorus", category="ball", body_hash=BODY.hash) as writer:
        Pipeline(stages(), "ball", BODY, keep_images="all").run([wanted], writer)
    assert len(open_store(tmp_path / "s.chorus")) == 3
    assert set(open_store(tmp_path / "s.chorus").pictures) == {key.encode() for key in keys}
    assert len({write_picture(tmp_path, key, ".jpg", b"x") for key in keys}) == 3
    assert len(list(tmp_path.glob("*.jpg"))) == 3


def test_rows_are_committed_along_the_way(tmp_path: Path) -> None:
    committed: list[int] = []

    def look(now: RunReport) -> None:
        committed.append(len(open_store(tmp_path / "s.chorus", verify=False)))

    run(tmp_path / "s.chorus", stages(), count=24, commit_images=8, progress=look)
    assert committed == [0, 8, 8, 16, 16, 24]
    run(tmp_path / "t.chorus", stages(), count=8, commit_seconds=0.0)
    assert len(open_store(tmp_path / "t.chorus").shards) == 2


def test_person_masks_and_betas_are_kept_where_asked(tmp_path: Path) -> None:
    class Shaped(SimulatedHumans):
        def humans(self, pictures: Sequence[Picture], boxes: NDArray[np.float32]) -> Sequence[Human | Refusal]:
            found = [h for h in super().humans(pictures, boxes) if isinstance(h, Human)]
            return [replace(h, betas=np.full(10, 0.5), estimator="hmr x") if i % 2 else h for i, h in enumerate(found)]

    wanted = requests(4)
    with StoreWriter(tmp_path / "s.chorus", category="ball", body_hash=BODY.hash, person_masks=True) as writer:
        Pipeline(stages(humans=Shaped(BODY)), "ball", BODY, person_masks=True, estimator="stage").run([wanted], writer)
    store = open_store(tmp_path / "s.chorus")
    rows = np.arange(4)
    assert (store.person_masks(rows).box[:, 2] > 0).all()
    shaped = np.isfinite(store.rows["betas"]).all(1)
    assert shaped.sum() == 2
    assert set(store.rows["estimator"][shaped].tolist()) == {"hmr x"}
    assert set(store.rows["estimator"][~shaped].tolist()) == {"stage"}
