"""What tests of stores at URLs share: an object server, an empty cache, a store that votes, and what must be equal."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import chorus
from chorus.simulate.images import write_world
from chorus.simulate.worlds import WORLDS
from chorus.store import Store, open_store, store_info, verify_store
from chorus.store.growing import merge_stores, split_store
from tests.store.samples import shards
from tests.store.servers import object_server
from tests.store.test_growing import same_rows


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    with object_server() as client:
        yield client


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CHORUS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CHORUS_CACHE_LIMIT", raising=False)
    return tmp_path / "cache" / "stores"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store whose images vote, in 8 shards."""
    folder = tmp_path_factory.mktemp("world")
    write_world(folder / "one", [WORLDS["ball-held"]], num_images=64)
    parts = split_store(folder / "one", folder / "parts", parts=8)
    merge_stores([part.path for part in parts], folder / "balls.chorus")
    assert len(shards(folder / "balls.chorus")) == 8
    return folder / "balls.chorus"


def names(folder: Path, suffix: str) -> set[str]:
    return {path.name for path in folder.glob(f"*{suffix}")}


def same_store(url: Any, folder: Path) -> Store:
    """A store at a URL is that in a folder: identity, columns, masks, pictures, facts."""
    there, here = open_store(url), open_store(folder)
    assert there.id == here.id
    assert there.version == here.version
    same_rows(there, np.arange(len(here)), here, np.arange(len(here)))
    for one, two in zip(there.batches(size=3), here.batches(size=3), strict=True):
        assert one.keys.tolist() == two.keys.tolist()
        assert np.array_equal(one.masks.words, two.masks.words)
    facts = store_info(url)
    assert facts.pop("path") == str(url)
    assert facts == {name: value for name, value in store_info(folder).items() if name != "path"}
    assert verify_store(url) == []
    return there


def counts(source: Any, field: Any, **how: Any) -> tuple[Any, ...]:
    occupancy = chorus.aggregate(source, field, **how)
    return occupancy.num_images, occupancy.num_counts.tobytes(), occupancy.den_counts.tobytes()
