"""Values of the wrong type or shape, given to every argument of the public functions: always an InputError that names it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import chorus
from chorus.errors import InputError, check_number, check_texts, check_whole
from chorus.evaluate.pap.categories import evaluate_pap
from chorus.evaluate.worlds import worlds_table
from chorus.occupancy.clusters import clusters
from chorus.simulate.images import DEMO, simulate, true_occupancy, write_world
from chorus.store.filters import Filter, find_filter

WRONG: tuple[Any, ...] = (
    3.5,
    float("nan"),
    "x",
    [1, "a"],
    np.zeros(3) + 0.5,
    np.zeros((2, 2)),
    np.array(["a"]),
    object(),
    {"a": 1},
)


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Callable[[Any], Any]]:
    """One call for each argument; the name is the one that the error begins with, behind the function's."""
    folder = tmp_path_factory.mktemp("wrong")
    body = chorus.load_body()
    field = chorus.CanonicalField(body, 8, cache=False)
    path = folder / "balls.chorus"
    write_world(path, DEMO, 12, 0, body)
    store = chorus.open_store(path)
    occupancy = chorus.aggregate(store, field, scheme="azimuth+folds")

    def aggregated(**named: Any) -> Any:
        return chorus.aggregate(store, field, **named)

    def scored(**named: Any) -> Any:
        return evaluate_pap(**{"occupancies": [occupancy], "stores": [path], "min_images": 1, "aware": False, **named})

    return {
        "reweight.weighting": occupancy.reweight,
        "with_scheme.scheme": occupancy.with_scheme,
        "of_folds.folds": occupancy.of_folds,
        "probability_with.min_support": occupancy.probability_with,
        "posed.pose": occupancy.posed,
        "posed.body": lambda v: occupancy.posed(body.rest_pose, v),
        "posed.inverse": lambda v: occupancy.posed(body.rest_pose, inverse=v),
        "posed.interpolation": lambda v: occupancy.posed(body.rest_pose, interpolation=v),
        "posed.backend": lambda v: occupancy.posed(body.rest_pose, backend=v),
        "mesh.threshold": occupancy.mesh,
        "mesh.mass": lambda v: occupancy.mesh(mass=v),
        "mesh.volume": lambda v: occupancy.mesh(volume=v),
        "explain.point": lambda v: occupancy.explain(v, store, field),
        "explain.canonical": lambda v: occupancy.explain([0, 0, 0], store, v),
        "aggregate.field": lambda v: chorus.aggregate(store, v),
        "aggregate.weighting": lambda v: aggregated(weighting=v),
        "aggregate.backend": lambda v: aggregated(backend=v),
        "aggregate.prompt": lambda v: aggregated(prompt=v),
        "aggregate.part": lambda v: aggregated(part=v),
        "aggregate.parts": lambda v: aggregated(part="face", parts=v),
        "aggregate.totals": lambda v: aggregated(totals=v),
        "aggregate.folds": lambda v: aggregated(folds=v),
        "aggregate.scheme": lambda v: aggregated(scheme=v),
        "aggregate.where": lambda v: aggregated(where=v),
        "aggregate.filter": lambda v: aggregated(filter=v),
        "aggregate.batch_size": lambda v: aggregated(batch_size=v),
        "CanonicalField.body": lambda v: chorus.CanonicalField(v, 8, cache=False),
        "CanonicalField.resolution": lambda v: chorus.CanonicalField(body, v, cache=False),
        "select.prompt": lambda v: store.select(prompt=v),
        "select.status": lambda v: store.select(status=v),
        "select.where": store.select,
        "write_world.worlds": lambda v: write_world(folder / "a", v, 2),
        "write_world.num_images": lambda v: write_world(folder / "a", DEMO, v),
        "write_world.seed": lambda v: write_world(folder / "a", DEMO, 2, v),
        "write_world.body": lambda v: write_world(folder / "a", DEMO, 2, 0, v),
        "simulate.world": lambda v: simulate(v, 1),
        "simulate.num_images": lambda v: simulate(DEMO[0], v),
        "true_occupancy.world": lambda v: true_occupancy(v, field.centres, variants=2),
        "true_occupancy.variants": lambda v: true_occupancy(DEMO[0], field.centres, variants=v),
        "evaluate_pap.occupancies": lambda v: scored(occupancies=v),
        "evaluate_pap.stores": lambda v: scored(stores=v),
        "evaluate_pap.min_images": lambda v: scored(min_images=v),
        "evaluate_pap.prompt": lambda v: scored(prompt=v),
        "evaluate_pap.part": lambda v: scored(part=v),
        "evaluate_pap.body": lambda v: scored(body=v),
        "worlds_table.num_images": lambda v: worlds_table(v, resolution=8),
        "worlds_table.seeds": lambda v: worlds_table(2, v, resolution=8),
        "worlds_table.worlds": lambda v: worlds_table(2, worlds=v, resolution=8),
        "clusters.store": lambda v: list(clusters(v, field)),
        "clusters.min_images": lambda v: list(clusters(store, field, v)),
        "Filter.thresholds": Filter.paper().changed,
        "find_filter.filter": lambda v: find_filter(v, path),
    }


def test_wrong_types_are_named(calls: dict[str, Callable[[Any], Any]]) -> None:
    taken, found = [], []
    for name, call in calls.items():
        for value in WRONG:
            if name in ("mesh.threshold", "mesh.volume") and isinstance(value, float):
                continue  # numbers like others; those out of range are tested with the surfaces
            if name == "explain.point" and np.shape(value) == (3,):
                continue  # a point
            try:
                call(value)
                taken.append((name, repr(value)))
            except InputError as error:
                found += [(name, repr(value), str(error))] if len(str(error)) > 600 else []
            except Exception as error:
                found.append((name, repr(value), repr(error)))
    assert found == []
    assert taken == []


def test_what_is_no_path_is_named(tmp_path: Path) -> None:
    for value in (3, 2.5, ["a"], np.zeros(3), object()):
        for call in (chorus.open_store, chorus.load_occupancy, chorus.load_body):
            with pytest.raises(InputError, match="path: expected a path, got"):
                call(value)  # type: ignore[operator]
        with pytest.raises(InputError, match="path: expected a path, got"):
            chorus.StoreWriter(value, category="cup")  # type: ignore[arg-type]
        with pytest.raises(InputError, match="path: expected a path, got"):
            write_world(value, DEMO, 1)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_the_checks_take_what_is_right() -> None:
    assert check_whole("n", np.int64(3), 3) == 3
    assert check_number("x", np.float32(0.5)) == check_number("x", np.array(0.5)) == 0.5
    assert check_texts("t", "a") == check_texts("t", ("a",)) == check_texts("t", np.array(["a"])) == ["a"]
    for value in (True, np.True_, 2, 3.0, "3", None):
        with pytest.raises(InputError, match="n: expected a whole number of at least 3, got"):
            check_whole("n", value, 3)
