"""Stores at URLs when something is wrong, on the way, in the cache, with servers or credentials: errors that name the place."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from chorus.cli import main
from chorus.errors import StoreError
from chorus.store import open_store, verify_store
from chorus.store.remote.index import write_index
from chorus.store.shard_files import COMPACTION
from tests.store.samples import shards
from tests.store.servers import upload, web_server
from tests.store.test_growing import fill
from tests.store.url_samples import cache as cache
from tests.store.url_samples import same_store
from tests.store.url_samples import server as server
from tests.store.url_samples import world as world


def test_damage_on_the_way_is_noticed_and_fetched_once_more(tmp_path: Path, cache: Path) -> None:
    a = fill(tmp_path / "a", 0, 10)
    write_index(a)
    name = shards(a)[1].name
    words = open_store(a).shards[1].arrays["mask/words"].offset
    tries: list[str] = []

    def spoiled(path: str, data: bytes, often: int) -> bytes:
        if path.endswith(name) and len(data) > 100:
            tries.append(path)
            if len(tries) <= often:
                changed = bytearray(data)
                changed[words if len(data) > words else len(data) // 2] ^= 4
                return bytes(changed)
        return data

    with web_server(tmp_path, ranges=False) as web:
        web.spoil = lambda path, data: spoiled(path, data, 1)
        same = open_store(f"{web.url}/a", verify=False)
        assert np.array_equal(same.batch(np.arange(10)).masks.words, open_store(a).batch(np.arange(10)).masks.words)
        assert len(tries) == 2
        shutil.rmtree(cache)
        web.spoil = lambda path, data: spoiled(path, data, 1000)
        with pytest.raises(StoreError, match=rf"{web.url}/a/shards/{name}: mask/words: damaged: .*fetched 2 times"):
            list(open_store(f"{web.url}/a", verify=False).batches())
        assert {p.suffix for p in cache.iterdir()} == {".h5"}
        problems = verify_store(f"{web.url}/a")
        assert {p.shard for p in problems} == {name, f"pictures/{name}"}
        assert "mask/words" in str(problems[0])
    tries.clear()
    shutil.rmtree(cache)
    with web_server(tmp_path, ranges=True) as web:
        web.spoil = lambda path, data: spoiled(path, data, 1)
        assert open_store(f"{web.url}/a").id == open_store(a).id
        assert len(tries) > 1
        tries.clear()
        shutil.rmtree(cache)
        web.spoil = lambda path, data: spoiled(path, data, 1000)
        with pytest.raises(StoreError, match=rf"{web.url}/a/shards/{name}: .*fetched 2 times"):
            open_store(f"{web.url}/a")


def test_damage_in_the_cache_is_fetched_anew(tmp_path: Path, cache: Path) -> None:
    a = fill(tmp_path / "a", 0, 10)
    write_index(a)
    expected = open_store(a).batch(np.arange(10)).masks.words
    with web_server(tmp_path, ranges=True) as web:
        url = f"{web.url}/a"
        open_store(url).batch(np.arange(10))
        for suffix in (".h5", ".head"):
            for path in cache.glob(f"*{suffix}"):
                content = bytearray(path.read_bytes())
                content[len(content) // 3] ^= 1
                path.write_bytes(content[: -len(content) // 4] if suffix == ".h5" else content)
            assert np.array_equal(open_store(url).batch(np.arange(10)).masks.words, expected)


def test_a_server_that_dies_is_an_error_that_names_the_shard(tmp_path: Path, cache: Path) -> None:
    a = fill(tmp_path / "a", 0, 10)
    write_index(a)
    with web_server(tmp_path, ranges=True) as web:
        there = open_store(f"{web.url}/a")
        web.spoil = lambda path, data: None if path.endswith(shards(a)[2].name) else data
        with pytest.raises(StoreError, match=rf"{web.url}/a/shards/{shards(a)[2].name}: expected a server that answers"):
            list(there.batches())
    shutil.rmtree(cache)
    with pytest.raises(StoreError, match=rf"{web.url}/a/shards/0000000[012]-.*: expected a server that answers"):
        list(there.batches())
    with pytest.raises(StoreError, match=rf"{web.url}/a/store.json: expected a server that answers"):
        open_store(f"{web.url}/a")


def test_an_object_server_that_dies_midway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = """
import sys, os
from pathlib import Path
from tests.store.servers import object_server, upload
from chorus.store import open_store
import chorus
with object_server() as client:
    url = upload(client, Path(sys.argv[1]), "a")
    there = open_store(url)
    endpoint = os.environ["AWS_ENDPOINT_URL"]
    first = next(iter(there.batches(size=8)))
    environment = dict(os.environ)
os.environ.update(environment)
try:
    list(there.batches())
except Exception as error:
    print(type(error).__name__, error)
"""
    a = fill(tmp_path / "a", 0, 30, shard_size=2)
    done = subprocess.run(
        [sys.executable, "-c", code, str(a)], capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("StoreError s3://images/a/shards/000000"), done.stdout
    assert "expected a server that answers" in done.stdout


def test_shards_that_are_gone_or_others(server: Any, tmp_path: Path) -> None:
    a, b = fill(tmp_path / "a", 0, 10), fill(tmp_path / "b", 10, 10)
    there = open_store(upload(server, a, "gone"))
    name = there.shards[1].path.name
    server.delete_object(Bucket="images", Key=f"gone/shards/{name}")
    with pytest.raises(StoreError, match=f"s3://images/gone/shards/{name}: expected the shard as when the store was opened"):
        list(there.batches())
    assert len(open_store("s3://images/gone")) == 6  # the list tells
    write_index(a)
    with web_server(tmp_path) as web:
        shards(a)[1].unlink()
        with pytest.raises(StoreError, match=rf"{web.url}/a/shards/{name}: expected a shard, as the store's index"):
            open_store(f"{web.url}/a")
        shutil.copy(shards(b)[0], a / "shards" / name)  # another one under its name
        with pytest.raises(StoreError, match=rf"{web.url}/a/shards/{name}: expected the digest"):
            open_store(f"{web.url}/a")


def test_an_index_is_needed_on_the_web_and_read_with_care(tmp_path: Path) -> None:
    a = fill(tmp_path / "a", 0, 4)
    with web_server(tmp_path) as web:
        with pytest.raises(StoreError, match=r"expected index\.json, since a web server.*chorus store index STORE"):
            open_store(f"{web.url}/a")
        done = CliRunner().invoke(main, ["store", "index", str(a)])
        assert (done.exit_code, "index.json" in done.output) == (0, True)
        assert len(same_store(f"{web.url}/a", a)) == 4
        fields = json.loads((a / "index.json").read_text())
        row = fields["shards"][0]
        for broken in (
            {**fields, "version": 9},
            {**fields, "shards": [{**row, "name": "../../secret.h5"}]},
            {**fields, "shards": [{**row, "sha256": "../x"}]},
            {**fields, "shards": [{**row, "words": [[9, 3]]}]},
            {**fields, "shards": [{"name": row["name"]}]},
            {**fields, "shards": 7},
        ):
            (a / "index.json").write_text(json.dumps(broken))
            with pytest.raises(StoreError, match=r"index\.json"):
                open_store(f"{web.url}/a")
        (a / "index.json").write_text(json.dumps({**fields, "shards": [{**row, "words": [[100, row["bytes"] - 1]]}]}))
        web.ranges = True
        with pytest.raises(StoreError, match=f"{web.url}/a/shards/{row['name']}"):
            open_store(f"{web.url}/a")  # holes where the columns should be
        with pytest.raises(StoreError, match=r"expected a store \(with store\.json\)"):
            open_store(f"{web.url}/b")


def test_a_copy_from_amid_a_compaction_is_refused(server: Any, tmp_path: Path) -> None:
    a = fill(tmp_path / "a", 0, 4)
    (a / COMPACTION).mkdir()
    (a / COMPACTION / "replaced.json").write_text('{"format": "chorus-compaction", "version": 1, "replaced": [], "by": []}')
    with pytest.raises(StoreError, match="a compaction leaves that did not finish"):
        open_store(upload(server, a, "amid"))


def test_credentials_that_are_missing_or_wrong(server: Any, tmp_path: Path) -> None:
    """Asked in another process: the libraries keep what they found."""
    url = upload(server, fill(tmp_path / "a", 0, 2), "secret")
    code = "import sys\nfrom chorus.store import open_store\ntry:\n    open_store(sys.argv[1])\n"
    code += "except Exception as e:\n    print(type(e).__name__, e)"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    environment |= {
        "HOME": str(tmp_path),
        "AWS_ENDPOINT_URL": os.environ["AWS_ENDPOINT_URL"],
        "AWS_EC2_METADATA_DISABLED": "true",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }

    def told(code: str) -> str:
        done = [sys.executable, "-c", code, url]
        return subprocess.run(done, capture_output=True, text=True, env=environment, timeout=120).stdout

    answer = told(code)
    assert answer.startswith(f"StoreError {url}/store.json: expected to be let in, got NoCredentialsError"), answer
    assert "AWS_ACCESS_KEY_ID" in answer
    import fsspec

    fsspec.register_implementation("absent", "not_installed.AbsentFileSystem", errtxt="install what is absent")
    with pytest.raises(StoreError, match=r"absent://a/store\.json: stores at URLs need the extra `remote`.*install what"):
        open_store("absent://a")
