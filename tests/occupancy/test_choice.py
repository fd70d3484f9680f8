"""The choice of a canonicalization from images: what it takes, what it says, and what it does not depend on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chorus.body.model import Body, load_body
from chorus.canonicalization import LBS, LBS_NEAREST, NONE
from chorus.errors import InputError, MismatchError
from chorus.field import CanonicalField
from chorus.images import ImageBatch
from chorus.occupancy import choice as module
from chorus.occupancy.aggregation import aggregate
from chorus.occupancy.choice import FINALISTS, SCREENED, Candidate, Choice, candidates_of, choose_canonicalization
from chorus.simulate.images import simulate, write_world
from chorus.simulate.worlds import WORLDS
from chorus.store import Store, open_store
from tests.occupancy.test_counts import same

FEW = ("lbs", "lbs-nearest", "none", "joint:right_hand", "joint:left_foot", "joint:head")


@pytest.fixture(scope="module")
def body() -> Body:
    return load_body()


@pytest.fixture(scope="module")
def field(body: Body) -> CanonicalField:
    return CanonicalField(body, 24)


def images_of(name: str, n: int, seed: int = 0) -> list[ImageBatch]:
    return [b.images[np.flatnonzero(b.status == "complete")] for b in simulate(WORLDS[name], n, seed)]


@pytest.fixture(scope="module")
def boards() -> list[ImageBatch]:
    return images_of("board", 120)


@pytest.fixture(scope="module")
def chosen(boards: list[ImageBatch], field: CanonicalField) -> Choice:
    return choose_canonicalization(boards, field)


def test_the_joint_that_carries_the_object_is_taken(chosen: Choice, body: Body) -> None:
    assert chosen.chosen == "joint:right_hand"
    assert [c.name for c in chosen.ranking[:1]] == ["joint:right_hand"]
    assert {c.name for c in chosen.ranking} == set(candidates_of(body))
    assert len(chosen.ranking) == body.num_joints + 2
    scores = [c.score for c in chosen.ranking]
    assert scores == sorted(scores, reverse=True)
    first, last = chosen.ranking[0], chosen.ranking[-1]
    assert (first.behind, first.error) == (0, 0)
    assert first.score > 0.3 > 0.2 > last.score
    assert all(c.behind == pytest.approx(first.score - c.score) and c.spread >= 0 < c.images for c in chosen.ranking)
    assert all(c.distinguishable for c in chosen.ranking[-10:])


@pytest.mark.parametrize(
    ("world", "joint"), [("surfboard-ridden", NONE), ("ball-kicked", "joint:left_foot"), ("surfboard-carried", "joint:spine2")]
)
def test_other_worlds(world: str, joint: str, field: CanonicalField) -> None:
    assert choose_canonicalization(images_of(world, 130), field).chosen == joint


def test_order_batches_and_number_of_threads_do_not_matter(
    boards: list[ImageBatch], field: CanonicalField, chosen: Choice, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = boards[0]
    order = np.random.default_rng(0).permutation(len(batch))
    assert choose_canonicalization(boards, field) == chosen
    assert choose_canonicalization([batch[order[:50]], batch[order[50:]]], field) == chosen
    monkeypatch.setattr("chorus.kernels.cpu.silhouettes.default_threads", lambda: 1)
    monkeypatch.setattr("chorus.occupancy.choice.default_threads", lambda: 1)
    monkeypatch.setattr("chorus.kernels.cpu.silhouettes.IMAGES_PER_TASK", 7)
    assert choose_canonicalization(batch[order], field) == chosen


def test_the_sample_is_the_same_wherever_the_images_lie(body: Body, field: CanonicalField, tmp_path: Path) -> None:
    write_world(tmp_path / "b.chorus", [WORLDS["ball-held"]], 90, 0, body)
    store = open_store(tmp_path / "b.chorus")
    batch = store.batch(store.select())
    how: dict[str, Any] = {"candidates": FEW, "sample": 40}
    one = choose_canonicalization(store, field, **how)
    assert one == choose_canonicalization(store.path, field, **how)
    assert one == choose_canonicalization([batch[i : i + 9] for i in range(0, len(batch), 9)], field, **how)
    assert one.images == 40
    assert one != choose_canonicalization(store, field, candidates=FEW, sample=60)


def test_fields_that_must_be_computed_first(boards: list[ImageBatch], body: Body) -> None:
    # Their computation takes all threads of the kernels: it must not wait for itself.
    other = CanonicalField(body, 24, 2.9, k=7, cache=False)
    names = ("lbs", "lbs-nearest", "none", "joint:right_hand")
    assert choose_canonicalization(boards, other, candidates=names).chosen == "joint:right_hand"


def test_the_best_are_compared_by_more_images(
    boards: list[ImageBatch], field: CanonicalField, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = (*FEW, "joint:right_wrist", "joint:left_hand", "joint:neck")
    monkeypatch.setattr(module, "SCREENED", 10**6)
    whole = choose_canonicalization(boards, field, candidates=names)
    assert {c.images for c in whole.ranking} == {whole.images}
    monkeypatch.setattr(module, "SCREENED", 40)
    found = choose_canonicalization(boards, field, candidates=names)
    assert found.chosen == whole.chosen
    assert [c.images for c in found.ranking] == [whole.images] * FINALISTS + [40] * (len(names) - FINALISTS)
    finalists = {c.name for c in found.ranking[:FINALISTS]}
    assert found.ranking[:FINALISTS] == tuple(c for c in whole.ranking if c.name in finalists)
    assert all(c.behind > 0 for c in found.ranking[FINALISTS:])  # behind the one chosen, by the images they have in common
    assert module.SAMPLE > 2 * SCREENED


def test_mirrored_candidates_of_equal_images_stay_in_order(field: CanonicalField) -> None:
    # An object that no candidate foretells: all have the same score, and the order is that in which they were given.
    batch = images_of("ball", 60)[0]
    empty = ImageBatch(
        [np.zeros(batch.masks.unpack(i).shape, bool) for i in range(len(batch))], batch.cameras, batch.poses, batch.keys
    )
    found = choose_canonicalization(empty, field, candidates=FEW)
    assert [c.name for c in found.ranking] == list(FEW)
    assert all(c.score == c.spread == c.error == 0 for c in found.ranking)


def candidate(name: str, score: float, behind: float = 0.0, error: float = 0.0, peak: float | None = None) -> Candidate:
    return Candidate(name, score, 0.01, behind, error, 400, peak)


def test_what_is_chosen_among_those_that_are_alike() -> None:
    rigid_first = Choice((candidate("joint:head", 0.5, peak=0.8), candidate(LBS, 0.499, 0.001, 0.01, 0.8)), 400)
    assert (rigid_first.chosen, rigid_first.alike) == ("joint:head", (LBS,))
    alike = (
        candidate(LBS, 0.5, peak=0.8),
        candidate(LBS_NEAREST, 0.499, 0.001, 0.01, 0.8),
        candidate("joint:head", 0.49, 0.01, 0.006, 0.799),
        candidate("joint:neck", 0.489, 0.011, 0.006, 0.7),
    )
    of_peaks_as_high = Choice(alike, 400)
    assert of_peaks_as_high.chosen == "joint:head"
    assert of_peaks_as_high.alike == (LBS, LBS_NEAREST, "joint:neck")
    assert str(of_peaks_as_high) == (
        "joint:head (0.490 +- 0.010, 400 images), not distinguishable from lbs, lbs-nearest, joint:neck"
    )
    assert Choice((*alike[:3], candidate("joint:neck", 0.489, 0.011, 0.006, 0.9)), 400).chosen == "joint:neck"
    blurred = (*alike[:2], candidate("joint:head", 0.49, 0.01, 0.006, 0.75))
    assert Choice(blurred, 400).chosen == LBS
    clear = Choice((candidate(LBS, 0.5, peak=0.6), candidate("joint:head", 0.4, 0.1, 0.01)), 400)
    assert (clear.chosen, clear.alike) == (LBS, ())
    assert str(clear) == "lbs (0.500 +- 0.010, 400 images), then joint:head (0.400)"
    many = Choice(tuple(candidate(f"joint:{i}", 0.5, 0.0, 0.1, 0.8) for i in range(6)), 400)
    assert str(many).endswith("from joint:1, joint:2, joint:3 and 2 more")


def test_candidates_that_do_the_same_are_alike(field: CanonicalField) -> None:
    # Around a hat there is nothing but the head: the nearest vertices are its own.
    found = choose_canonicalization(images_of("hat", 60), field, candidates=(LBS_NEAREST, "joint:head", "joint:left_foot"))
    assert found.chosen == "joint:head"
    assert found.alike == (LBS_NEAREST,)
    assert "not distinguishable from lbs-nearest" in str(found)


def test_what_cannot_be_chosen_from(boards: list[ImageBatch], field: CanonicalField) -> None:
    batch = boards[0]
    with pytest.raises(
        InputError, match=r"auto needs 20 images, at least 5 in each half, got 19 and .*; name a canonicalization"
    ):
        choose_canonicalization(batch[:19], field)
    with pytest.warns(UserWarning, match=r"auto needs 20 images.*lbs is taken"):
        few = aggregate(batch[:10], field, canonicalization="auto")
    assert few.parameters == field.parameters
    assert few.provenance[0]["canonicalization"]["chosen"] == LBS
    for wrong in (19, 0, True, 30.0, None):
        with pytest.raises(InputError, match="sample: expected at least 20 images"):
            choose_canonicalization(batch, field, sample=wrong)  # type: ignore[arg-type]
    for names in (("lbs",), ("lbs", "lbs"), ()):
        with pytest.raises(InputError, match="candidates: expected at least two different ones"):
            choose_canonicalization(batch, field, candidates=names)
    for name in ("joint:tail", "auto", "per-voxel", "hand"):
        with pytest.raises(InputError, match=r"joint_map|canonicalization: expected"):
            choose_canonicalization(batch, field, candidates=("lbs", name))
    with pytest.raises(InputError, match=r"expected images that can be read twice .*got an iterator"):
        choose_canonicalization(iter(boards), field)


def test_aggregate_records_the_choice(boards: list[ImageBatch], field: CanonicalField, chosen: Choice) -> None:
    occupancy = aggregate(boards, field, canonicalization="auto")
    assert occupancy.parameters.canonicalization == chosen.chosen
    assert same(occupancy, aggregate(boards, field.with_canonicalization(chosen.chosen)))
    record = json.loads(json.dumps(occupancy.provenance[0]["canonicalization"]))
    assert record["name"] == record["chosen"] == chosen.chosen
    assert record["asked"] == "auto"
    assert record["text"] == str(chosen)
    assert record["images"] == chosen.images
    assert record["alike"] == list(chosen.alike)
    assert [row["name"] for row in record["ranking"]] == [c.name for c in chosen.ranking]
    assert set(record["ranking"][0]) == {"name", "score", "spread", "behind", "error", "images", "peak"}
    other = aggregate(boards, field)
    assert "canonicalization" not in other.provenance[0]
    with pytest.raises(MismatchError, match="canonicalization joint:right_hand and canonicalization lbs"):
        occupancy + other


def test_a_store_is_read_for_the_sample_alone(
    body: Body, field: CanonicalField, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_world(tmp_path / "b.chorus", [WORLDS["ball-held"]], 90, 0, body)
    read: list[int] = []
    batches = Store.batches

    def counted(self: Store, *args: Any, **how: Any) -> Any:
        for batch in batches(self, *args, **how):
            read.append(len(batch))
            yield batch

    monkeypatch.setattr(Store, "batches", counted)
    choose_canonicalization(tmp_path / "b.chorus", field, candidates=FEW, sample=30)
    assert sum(read) == 30
