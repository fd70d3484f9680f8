"""What an occupancy is joined with: stores of its body and category, images of its own prompts and parts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from chorus.body.model import Body, load_body
from chorus.errors import InputError, MismatchError
from chorus.evaluate.pap.categories import evaluate_pap
from chorus.field import CanonicalField
from chorus.figures.overlays import project_occupancy, with_haze
from chorus.images import ImageBatch
from chorus.occupancy.aggregation import aggregate
from chorus.occupancy.counts import Occupancy
from chorus.occupancy.joins import ANY, check_store, join, learned_from
from chorus.simulate.images import DEMO, WORLDS, write_world
from chorus.store import Store, StoreWriter, open_store

HELD, KICKED = (world.prompt for world in DEMO)


@pytest.fixture(scope="module")
def body() -> Body:
    return load_body()


@pytest.fixture(scope="module")
def field(body: Body) -> CanonicalField:
    return CanonicalField(body, 16, cache=False)


@pytest.fixture(scope="module")
def balls(body: Body, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """80 images of balls, half of them held and half kicked."""
    path = tmp_path_factory.mktemp("joins") / "balls.chorus"
    write_world(path, DEMO, 80, 0, body)
    return open_store(path)


@pytest.fixture(scope="module")
def held(balls: Store, field: CanonicalField) -> Occupancy:
    return aggregate(balls, field, prompt=HELD)


def copy_of(store: Store, path: Path, prompts: list[str] | None, category: str = "sports ball") -> Store:
    """The store's complete images with other prompts (None: without)."""
    batch = store.batch(store.select())
    with StoreWriter(path, category=category, body_hash=store.body_hash) as writer:
        writer.append(ImageBatch(batch.masks, batch.cameras, batch.poses, keys=batch.keys.tolist(), prompts=prompts))
    return open_store(path)


def test_the_provenance_says_which_images(balls: Store, held: Occupancy, field: CanonicalField) -> None:
    assert learned_from(held).prompts == (HELD,)
    assert learned_from(held).known
    assert learned_from(aggregate(balls, field)).prompts is None
    assert learned_from(aggregate(balls, field, prompt="*")).prompts is None
    folds = aggregate(balls, field, prompt=["*holds*", KICKED], folds=[1, 2])
    assert learned_from(folds).prompts == ("*holds*", KICKED)
    assert learned_from(folds).folds == (1, 2)
    touched = aggregate(balls, field, part="rightHand", epsilon=0.2)
    assert (learned_from(touched).part, learned_from(touched).epsilon) == ("rightHand", 0.2)
    kicked = aggregate(balls, field, prompt=KICKED)
    assert learned_from(held + kicked).prompts == (HELD, KICKED)
    anything = replace(aggregate(balls, field), counted=None)  # as of an old release, which could not refuse the sum
    with pytest.warns(UserWarning, match="share images"):
        assert learned_from(held + anything).prompts is None
    with pytest.warns(UserWarning, match="share images"):
        assert learned_from(replace(touched, counted=None) + held).part is None
    # Files of earlier releases do not say it: nothing is assumed of them.
    old = replace(held, provenance=[{k: v for k, v in held.provenance[0].items() if k != "prompts"}])
    assert learned_from(old) == learned_from(replace(held, provenance=[])) == replace(learned_from(old), known=False)
    assert len(join(old, balls, field).rows) == len(balls.select())


def test_images_are_of_the_occupancys_own_prompts(balls: Store, held: Occupancy, field: CanonicalField) -> None:
    own = join(held, balls, field)
    assert own.rows.tolist() == balls.select(prompt=HELD).tolist()
    assert own.prompts == (HELD,)
    assert HELD in str(own)
    assert f"of {len(balls.select())} complete images" in str(own)
    assert len(join(held, balls, field, ANY).rows) == len(balls.select())
    assert join(held, balls, field, "*kicks*").rows.tolist() == balls.select(prompt=KICKED).tolist()
    with pytest.raises(InputError, match="prompt: expected one of"):
        join(held, balls, field, "a person eats a ball")


def test_images_are_of_the_occupancys_own_parts(balls: Store, field: CanonicalField) -> None:
    in_hand = aggregate(balls, field, part="rightHand", epsilon=0.2)
    own = join(in_hand, balls, field)
    assert own.part == "rightHand"
    assert len(own.rows) == in_hand.num_images
    assert 0 < len(own.rows) < len(balls.select())
    assert len(join(in_hand, balls, field, part=ANY).rows) == len(balls.select())
    others = join(in_hand, balls, field, part="not rightHand")
    assert sorted([*own.rows, *others.rows]) == balls.select().tolist()
    of_own = aggregate(balls, field, part="grip", parts={"grip": ["right_hand"]}, epsilon=0.3)
    with pytest.raises(MismatchError, match=r"parts that were defined for it \(grip\)"):
        join(of_own, balls, field)


def test_stores_without_these_prompts(balls: Store, held: Occupancy, field: CanonicalField, tmp_path: Path) -> None:
    number = len(balls.select())
    for name, prompts in (("without", None), ("like COCO's", ["Sports ball"] * number)):
        chosen = join(held, copy_of(balls, tmp_path / name, prompts), field)
        assert len(chosen.rows) == number
        assert chosen.prompts is None
        assert "no prompts" in chosen.why
    others = copy_of(balls, tmp_path / "others", ["a person throws a ball"] * number)
    with pytest.raises(MismatchError, match=r"expected images of the occupancy's own, 'a person holds .* got 'a person throws"):
        join(held, others, field)
    assert len(join(held, others, field, ANY).rows) == number


def test_another_body_or_category_is_refused(balls: Store, held: Occupancy, body: Body, tmp_path: Path) -> None:
    hats = copy_of(balls, tmp_path / "hats", None, category="hat")
    with pytest.raises(MismatchError, match="category 'sports ball', got 'hat'"):
        check_store(held, hats)
    with pytest.raises(MismatchError, match="body 000000000000, got"):
        check_store(replace(held, body_hash="0" * 64), balls)
    check_store(replace(held, category=""), hats)


def test_a_held_ball_is_scored_on_held_balls(balls: Store, held: Occupancy, body: Body) -> None:
    own = evaluate_pap([held], [balls], body=body, min_images=1, aware=False)
    everything = evaluate_pap([held], [balls], body=body, min_images=1, aware=False, prompt=ANY)
    assert len(own.categories[0].results) == len(balls.select(prompt=HELD))
    assert len(everything.categories[0].results) == len(balls.select())
    assert own.categories[0].incomplete == everything.categories[0].incomplete == len(balls) - len(balls.select())
    ours, theirs = own.mpap("vanilla"), everything.mpap("vanilla")
    assert ours is not None
    assert theirs is not None
    assert ours > 1.2 * theirs  # kicked balls are not where held ones are
    assert own.to_json()["sources"][0]["stores"][0]["selected"]["prompts"] == [HELD]


def test_explain_takes_the_occupancys_own_images(balls: Store, held: Occupancy, field: CanonicalField) -> None:
    point = held.centres[np.unravel_index(held.probability.argmax(), held.probability.shape)]
    found = held.explain(point, balls, field)
    assert len(found.on_mask) + len(found.off_mask) + found.unseen == held.num_images
    everything = held.explain(point, balls, field, prompt="*")
    assert len(everything.on_mask) + len(everything.off_mask) + everything.unseen == len(balls.select())
    with pytest.raises(MismatchError, match="category 'hat', got 'sports ball'"):
        replace(held, category="hat").explain(point, balls.path, field)
    with pytest.raises(InputError, match="canonical: expected a CanonicalField, got 3"):
        held.explain(point, balls, 3)  # type: ignore[arg-type]


def test_pictures_need_the_occupancys_field(balls: Store, held: Occupancy, body: Body) -> None:
    batch = balls.batch(balls.select()[:1])
    with pytest.raises(MismatchError, match="field: expected the occupancy's"):
        project_occupancy(held, CanonicalField(body, 12, cache=False), batch.poses[0], batch.cameras, 0)


def test_small_probabilities_are_no_veil() -> None:
    image = np.full((2, 3, 3), 200, np.uint8)
    phi = np.array([[0, 0.02, 0.05], [0.3, 0.6, 1.0]], np.float32)
    change = np.abs(with_haze(image, phi) - image / 255).max(-1)
    assert (change[0] < 1e-6).all()
    assert (change[1] > 0.05).all()


def test_worlds_have_the_prompts_assumed_here() -> None:
    assert "holds" in HELD
    assert "kicks" in KICKED
    assert WORLDS["hat"].category == "hat"
