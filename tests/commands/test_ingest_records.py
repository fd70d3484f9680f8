"""``chorus ingest records``: parents and lists of records, last words, and being asked to stop."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from chorus.cli import main
from chorus.ingest.record_folders import find_records
from chorus.store import open_store

FACTS = {
    "category": "ball",
    "prompt": "a person holds a ball",
    "image_size": [64, 48],
    "pose_axis_angle": [[0, 0, 0]] * 24,
    "camera": {"R": [[1, 0, 0], [0, -1, 0], [0, 0, -1]], "t": [0, 0, 3], "K": [[50, 0, 32], [0, 50, 24], [0, 0, 1]]},
}


def make(folder: Path) -> Path:
    folder.mkdir(parents=True)
    mask = np.zeros((48, 64), bool)
    mask[20:30, 40:50] = True
    Image.fromarray(mask).save(folder / "object_mask.png")
    (folder / "record.json").write_text(json.dumps(FACTS))
    return folder


def ingest(*arguments: object, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(main, ["ingest", "records", *map(str, arguments)], input=stdin)


def keys(store: Path) -> list[str]:
    return sorted(key.decode() for key in open_store(store).rows["key"].tolist())


def test_a_parent_of_records(tmp_path: Path) -> None:
    for name in ("b", "a", "deep/er/c"):
        make(tmp_path / "all" / name)
    make(tmp_path / "linked")
    (tmp_path / "all" / "d").symlink_to(tmp_path / "linked")
    (tmp_path / "all" / "round").symlink_to(tmp_path / "all")
    result = ingest(tmp_path / "all", "-o", tmp_path / "s.chorus")
    assert result.exit_code == 0, result.output
    assert keys(tmp_path / "s.chorus") == ["a", "b", "d", "deep/er/c"]
    assert f"wrote {tmp_path / 's.chorus'}" in result.stdout
    again = ingest(tmp_path / "all", "-o", tmp_path / "s.chorus")
    assert again.exit_code == 0
    assert "nothing was added" in again.stdout
    assert "wrote" not in again.stdout


def test_records_are_found_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in ("10", "2", "1/z", "1/a"):
        make(tmp_path / name)
    assert [path.relative_to(tmp_path).as_posix() for path, _ in find_records([tmp_path])] == ["1/a", "1/z", "10", "2"]
    assert list(find_records([tmp_path / "2"])) == [(tmp_path / "2", None)]
    (tmp_path / "empty").mkdir()
    assert list(find_records([tmp_path / "empty"])) == [(tmp_path / "empty", None)]


@pytest.mark.parametrize("separator", [b"\n", b"\r\n", b"\0"])
@pytest.mark.parametrize("stdin", [False, True])
def test_a_list_of_records(separator: bytes, stdin: bool, tmp_path: Path) -> None:
    folders = [make(tmp_path / name) for name in ("a b", "c", "\u043c\u044f\u0447")]
    content = separator.join([*(os.fsencode(folder) for folder in folders), b""])
    (tmp_path / "list").write_bytes(content)
    source = "-" if stdin else tmp_path / "list"
    result = ingest("--list", source, "-o", tmp_path / "s", stdin=content if stdin else None)
    assert result.exit_code == 0, result.output
    assert keys(tmp_path / "s") == sorted(["a b", "c", "\u043c\u044f\u0447"])


def test_a_list_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "list").write_bytes(b"\xef\xbb\xbf" + os.fsencode(make(tmp_path / "a")) + b"\r\n")
    result = ingest("--list", tmp_path / "list", "-o", tmp_path / "s")
    assert result.exit_code == 0, result.output
    assert keys(tmp_path / "s") == ["a"]


def test_no_store_is_made_of_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = ingest(tmp_path / "empty", "-o", tmp_path / "s")
    assert result.exit_code == 2
    assert f"rejected {tmp_path / 'empty'}: record.json: " in result.stderr
    assert f"{tmp_path / 's'} was not made: no record could be used" in result.stdout
    assert not (tmp_path / "s").exists()
    assert ingest("-o", tmp_path / "s").exit_code == 2


def test_many_rejected_records_are_counted(tmp_path: Path) -> None:
    make(tmp_path / "good")
    for n in range(30):
        make(tmp_path / f"bad{n:02}").joinpath("record.json").write_text("{")
    result = ingest(tmp_path, "-o", tmp_path / "s.chorus")
    assert result.exit_code == 0
    assert result.stderr.count("rejected ") == 21
    assert "rejected 10 more (--json lists all)" in result.stderr
    rows = json.loads(ingest(tmp_path, "-o", tmp_path / "s.chorus", "--json").stdout)["rejected"]
    assert len(rows) == 30


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_asked_to_stop_it_commits_what_it_has(number: signal.Signals, code: int, tmp_path: Path) -> None:
    make(tmp_path / "r" / "0")
    for n in range(1, 3000):
        (tmp_path / "r" / f"{n:04}").symlink_to("0")
    command = [sys.executable, "-m", "chorus", "ingest", "records", str(tmp_path / "r"), "-o", str(tmp_path / "s")]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "s" / "shards").exists():  # the first record was read
        assert child.poll() is None
    child.send_signal(number)
    output, errors = child.communicate(timeout=60)
    assert child.returncode == code, errors
    assert "stopped before the end; the same command goes on from here" in output
    kept = keys(tmp_path / "s")
    assert 0 < len(kept) < 3000
    (tmp_path / "list").write_text("\n".join(str(tmp_path / "r" / key) for key in [*kept[-2:], "2999"]))
    result = ingest("--list", tmp_path / "list", "-o", tmp_path / "s", "--json")
    assert json.loads(result.stdout)["present"] == kept[-2:]
    assert len(keys(tmp_path / "s")) == len(kept) + 1
