"""Stores on an object server, on web servers and in zip files: the same rows and counts as in the folder, through a bounded
cache."""

from __future__ import annotations

import os
import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import chorus
from chorus.cli import main
from chorus.errors import InputError, StoreError
from chorus.files import cache_folder
from chorus.occupancy.jobs import Job
from chorus.store import StoreWriter, open_store, verify_store
from chorus.store.filters import Filter
from chorus.store.filters.filtering import read_store_filter, write_store_filter
from chorus.store.growing import merge_stores, select_store
from chorus.store.remote.cache import ShardCache, cache_limit
from chorus.store.remote.index import write_index
from chorus.store.remote.shards import RemoteShard, fetched_ahead
from chorus.store.urls import StoreUrl, place_of
from tests.store.samples import shards
from tests.store.servers import WebServer, upload, web_server
from tests.store.test_growing import fill, same_rows
from tests.store.url_samples import cache as cache
from tests.store.url_samples import counts, names, same_store
from tests.store.url_samples import server as server
from tests.store.url_samples import world as world


def test_an_object_server(server: Any, tmp_path: Path, cache: Path) -> None:
    a = fill(tmp_path / "a", 0, 10)
    url = upload(server, a, "plain/a")
    there = same_store(url, a)
    assert str(there.path) == url
    assert there.shards[0].path.name == shards(a)[0].name
    assert open_store(Path(url), verify=False).path == there.path  # pathlib takes a slash away
    assert pickle.loads(pickle.dumps(there)).batch([0, 5]).keys.tolist() == there.batch([0, 5]).keys.tolist()
    write_index(a)
    write_store_filter(a, Filter.paper())
    url = upload(server, a, "indexed/a")
    assert open_store(url).id == there.id
    assert read_store_filter(url) == Filter.paper()
    fill(a, 10, 3)  # a shard that the index does not know
    assert open_store(upload(server, a, "indexed/a")).id == open_store(a).id


def test_columns_come_first_and_masks_when_asked_for(server: Any, tmp_path: Path, cache: Path) -> None:
    a = fill(tmp_path / "a", 0, 10)
    url = upload(server, a, "lazy/a")
    there = open_store(url)
    assert there.rows["key"].tolist() == open_store(a).rows["key"].tolist()
    assert (len(names(cache, ".head")), len(names(cache, ".h5"))) == (3, 0)
    there.batch([5])
    assert len(names(cache, ".h5")) == 1
    head, whole = (next(iter(cache.glob(f"{there.shards[1].sha256}{end}"))) for end in (".head", ".h5"))
    assert whole.read_bytes() == shards(a)[1].read_bytes()
    assert head.stat().st_size == whole.stat().st_size
    held = there.batch([0, 9])
    shutil.rmtree(cache)  # whoever cleans up
    assert np.array_equal(there.batch([0, 9]).masks.words, held.masks.words)


@pytest.mark.parametrize("indexed", [False, True])
def test_an_update_fetches_only_what_is_new(
    server: Any, world: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, indexed: bool
) -> None:
    field = chorus.CanonicalField(chorus.load_body(), resolution=16)
    folder = tmp_path / "balls.chorus"
    shutil.copytree(world, folder)
    last = shards(folder)[-1]
    last.rename(tmp_path / last.name)
    first = Job(folder, field, {}).run()
    (tmp_path / last.name).rename(last)
    if indexed:
        write_index(folder)
    url = upload(server, folder, f"update/{indexed}")
    updated = Job(url, field, {}, update=first).run()
    assert updated is not None
    assert counts(folder, field) == (updated.num_images, updated.num_counts.tobytes(), updated.den_counts.tobytes())
    assert [name.split(".")[0] for name in names(cache, ".head")] == [open_store(folder).shards[-1].sha256]


@pytest.mark.parametrize("ranges", [False, True])
@pytest.mark.parametrize("limit", ["10G", "30K"])
def test_the_same_votes_from_anywhere(
    server: Any, world: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, ranges: bool, limit: str
) -> None:
    """Cold and warm, with room for all and with less than a few shards; the store is that of a folder."""
    field = chorus.CanonicalField(chorus.load_body(), resolution=16)
    expected = counts(world, field)
    monkeypatch.setenv("CHORUS_CACHE_LIMIT", limit)
    write_index(world)
    url = upload(server, world, f"votes-{ranges}-{limit}")
    size = sum(path.stat().st_size for path in shards(world))
    assert size > 8 * 30_000
    for _ in range(2):
        assert counts(url, field) == expected
        assert counts(open_store(url), field) == expected
    with web_server(world.parent, ranges) as web:
        shutil.rmtree(cache)
        assert counts(f"{web.url}/{world.name}", field) == expected
        cold = web.sent
        assert counts(f"{web.url}/{world.name}", field) == expected
        warm = web.sent - cold
    if limit == "10G":
        assert warm < size / 20  # what is asked for again is small
        assert cold < 1.1 * size
    elif ranges:
        assert cold > 0.9 * size
    (world / "index.json").unlink()


def test_a_small_cache_stays_small(server: Any, world: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = upload(server, world, "small")
    limit = 2 * shards(world)[0].stat().st_size
    monkeypatch.setenv("CHORUS_CACHE_LIMIT", str(limit))
    there = open_store(url)
    opened = {path.name for path in cache.glob("*.head")}
    largest = 0
    for _ in there.batches(size=8):
        largest = max(largest, sum(512 * path.stat().st_blocks for path in cache.iterdir()))
    assert 0 < largest <= 1.6 * limit  # what is being read and columns being fetched come on top
    assert len(names(cache, ".h5")) < 8
    assert len(names(cache, ".head") & opened) >= 1  # what was read goes before columns do
    assert not list(cache.glob("*.part"))


def test_parts_and_contacts_are_cached_beside_the_cache(server: Any, world: Path, cache: Path) -> None:
    field = chorus.CanonicalField(chorus.load_body(), resolution=16)
    url = upload(server, world, "parts")
    expected = counts(world, field, part="rightHand")
    assert counts(url, field, part="rightHand") == expected
    kept = sorted((cache_folder() / "contacts").rglob("*.npz"))
    assert len(kept) == 8
    assert counts(url, field, part="rightHand") == expected


@pytest.mark.parametrize("inner", [False, True])
@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_zip_files(tmp_path: Path, inner: bool, compression: int) -> None:
    a = fill(tmp_path / "a", 0, 10)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", compression) as file:
        for path in a.rglob("*"):
            file.write(path, path.relative_to(tmp_path if inner else a))
    same_store(tmp_path / "a.zip", a)
    same_store(f"zip://{tmp_path}/a.zip", a)
    assert str(open_store(tmp_path / "a.zip").path) == str(tmp_path / "a.zip")
    with zipfile.ZipFile(tmp_path / "none.zip", "w") as file:
        file.writestr("x.txt", "no store")
    with pytest.raises(StoreError, match=r"none\.zip: expected a zip file with one store, got 0"):
        open_store(tmp_path / "none.zip")
    (tmp_path / "broken.zip").write_bytes((tmp_path / "a.zip").read_bytes()[:1000])
    with pytest.raises(StoreError, match=r"broken\.zip"):
        open_store(tmp_path / "broken.zip")


def test_urls_are_read_and_not_written(server: Any, tmp_path: Path) -> None:
    a = fill(tmp_path / "a", 0, 4)
    url = upload(server, a, "read-only")
    with pytest.raises(InputError, match="path: expected a path on this machine, got the URL"):
        StoreWriter(url, category="ball")
    with pytest.raises(InputError, match="expected a path on this machine"):
        merge_stores([a], "s3://images/merged")
    with pytest.raises(InputError, match="expected a URL such as s3://, gs:// or https://"):
        open_store("nonsense://a/b")
    run = CliRunner().invoke
    for arguments in (
        ["store", "merge", str(a), "-o", "s3://images/merged"],
        ["aggregate", url, "-o", "s3://images/x.h5"],
        ["store", "compact", url],
        ["filter", "set", url, "--off", "overlap"],
        ["aggregate", url, "-o", str(tmp_path / "x.h5"), "--body", "https://example.org/body.npz"],
    ):
        told = run(main, arguments)
        assert told.exit_code == 2, arguments
        assert "on this machine, got the URL" in told.stderr, told.stderr


def test_commands_take_urls(server: Any, world: Path, tmp_path: Path) -> None:
    url = upload(server, world, "commands")
    results = {}
    for source in (str(world), url):
        out = tmp_path / f"{len(results)}.h5"
        told = CliRunner().invoke(main, ["aggregate", source, "-o", str(out), "--resolution", "16"])
        assert told.exit_code == 0, told.output
        occupancy = chorus.load_occupancy(out)
        results[source] = occupancy.num_counts.tobytes(), occupancy.den_counts.tobytes()
        for command in (
            ["store", "verify", source],
            ["store", "stats", source],
            ["filter", "show", source],
            ["store", "info", source, "--json"],
            ["store", "select", source, "-o", str(tmp_path / f"{len(results)}.chorus"), "--status", "complete"],
        ):
            told = CliRunner().invoke(main, command)
            assert told.exit_code == 0, (command, told.output)
    assert results[str(world)] == results[url]


def test_stores_are_made_of_stores_at_urls(server: Any, tmp_path: Path) -> None:
    a, b = fill(tmp_path / "a", 0, 10), fill(tmp_path / "b", 10, 4)
    url = upload(server, a, "source")
    made = merge_stores([url, b], tmp_path / "c")
    assert (made.images, made.copied, made.linked) == (14, 3, 1)
    same_rows(open_store(tmp_path / "c"), np.arange(10), open_store(a), np.arange(10))
    select_store(url, tmp_path / "d", keys=["image-003", "image-008"])
    same_rows(open_store(tmp_path / "d"), np.arange(2), open_store(a), np.array([3, 8]))
    assert verify_store(tmp_path / "c") == verify_store(tmp_path / "d") == []


def test_shards_are_fetched_ahead_in_order(server: Any, world: Path) -> None:
    there = open_store(upload(server, world, "ahead"))
    order: list[int] = []
    numbers = {shard.path.name: number for number, shard in enumerate(there.shards)}
    fetch = RemoteShard.fetch

    def noted(self: RemoteShard) -> Any:
        order.append(numbers[self.path.name])
        return fetch(self)

    RemoteShard.fetch = noted  # type: ignore[method-assign]
    try:
        walk = fetched_ahead(there.shards)
        assert next(walk) is there.shards[0]
        assert sorted(set(order)) == list(range(max(order) + 1))
        assert 1 <= max(order) <= 4
        assert [numbers[shard.path.name] for shard in walk] == list(range(1, 8))
    finally:
        RemoteShard.fetch = fetch  # type: ignore[method-assign]


def test_the_cache_removes_what_was_used_longest_ago(tmp_path: Path) -> None:
    cache = ShardCache(tmp_path / "c", limit=10 * 4096)
    for number in range(10):
        with cache.making(f"{number}.h5", 4096) as part:
            part.write_bytes(bytes([number]) * 4096)
        os.utime(tmp_path / "c" / f"{number}.h5", (number, number))
    held = cache.map("1.h5")
    os.utime(tmp_path / "c" / "1.h5", (1, 1))
    assert cache.find("0.h5") is not None  # used now
    with cache.making("new.h5", 3 * 4096) as part:
        part.write_bytes(b"x")
    assert {p.name for p in (tmp_path / "c").iterdir()} == {*(f"{n}.h5" for n in (0, 1, 5, 6, 7, 8, 9)), "new.h5"}
    assert held is not None
    with pytest.raises(ZeroDivisionError), cache.making("failed.h5", 1) as part:
        part.write_bytes(bytes(1 // 0))
    assert not list((tmp_path / "c").glob("failed*"))
    assert cache.map("nothing") is None
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(StoreError, match="CHORUS_CACHE names another folder"), ShardCache(tmp_path / "file", 1).making("a", 1):
        pass


@pytest.mark.parametrize(("text", "limit"), [("20G", 20 << 30), ("1.5 MiB", 3 << 19), ("7", 7), ("2kb", 2048), ("", 32 << 30)])
def test_the_limit_is_a_size(monkeypatch: pytest.MonkeyPatch, text: str, limit: int) -> None:
    monkeypatch.setenv("CHORUS_CACHE_LIMIT", text)
    assert cache_limit() == limit
    monkeypatch.setenv("CHORUS_CACHE_LIMIT", "much")
    with pytest.raises(InputError, match="CHORUS_CACHE_LIMIT: expected bytes, as in 20G, got 'much'"):
        cache_limit()


def test_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert place_of("path", "s3://b/x/") == StoreUrl("s3://b/x") == place_of("path", Path("s3://b/x"))
    assert str(place_of("path", "https://h/x") / "shards" / "a.h5") == "https://h/x/shards/a.h5"
    assert place_of("path", "some/folder") == Path("some/folder")
    assert place_of("path", "file:///x/y") == Path("/x/y")
    (tmp_path / "s3:" / "b").mkdir(parents=True)
    assert place_of("path", Path("s3:/b")) == Path("s3:/b")  # there is such a folder
    assert place_of("path", "C:/images") == Path("C:/images")
    with pytest.raises(InputError, match="path: expected a path, got 3"):
        place_of("path", 3)


def test_many_servers_keep_their_own(tmp_path: Path, cache: Path) -> None:
    """Equal shards at two places are one file in the cache."""
    a = fill(tmp_path / "a", 0, 4)
    write_index(a)
    servers: list[WebServer] = []
    for _ in range(2):
        with web_server(tmp_path, ranges=True) as web:
            servers.append(web)
            open_store(f"{web.url}/a").batch(np.arange(4))
    assert servers[1].sent < servers[0].sent
    assert len(names(cache, ".h5")) == 1
