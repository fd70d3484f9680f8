"""Text files of people's own may begin with a byte order mark, as Windows' editors and shells write it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chorus.body.model import load_body
from chorus.errors import InputError
from chorus.frontend.humans.pose_files import PosesFromFiles
from chorus.frontend.prompting.asking import Question
from chorus.frontend.stages import Runtime
from chorus.ingest.record import read_record
from chorus.store.filters import Filter, read_filter
from chorus.votes.parts import load_parts


def _outcome(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except InputError as error:
        return str(error)


def _parts(path: Path) -> Any:
    return {name: vertices.tolist() for name, vertices in load_parts(path, load_body()).items()}


READERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "filter": (json.dumps(Filter.paper().to_json()), read_filter),
    "parts": ('{"knees": ["left_knee", "right_knee"]}', _parts),
    "template": ("List {m} ways to use a {category}", lambda path: Question.of(Runtime(options={"template": str(path)}))),
    # What these lack is told, which is to say that their JSON was read.
    "record.json": ('{"category": "kite"}', lambda path: read_record(path.parent)),
    "poses.json": ('{"keys": ["a"]}', lambda path: PosesFromFiles(path, load_body())),
}


@pytest.mark.parametrize("name", READERS)
def test_a_byte_order_mark_changes_nothing(name: str, tmp_path: Path) -> None:
    text, read = READERS[name]
    path = tmp_path / name
    path.write_bytes(text.encode())
    plain = _outcome(lambda: read(path))
    assert "expected JSON" not in str(plain)
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert _outcome(lambda: read(path)) == plain


@pytest.mark.parametrize("name", READERS)
def test_other_encodings_are_refused(name: str, tmp_path: Path) -> None:
    text, read = READERS[name]
    path = tmp_path / name
    path.write_bytes(text.encode("utf-16"))
    with pytest.raises(InputError, match=r"utf-8|UTF-8"):
        read(path)
