"""Pickles that would fill the memory, take for ever or change this program when Python's own reader reads them."""

from __future__ import annotations

import pickle
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chorus import pickles
from chorus.body.smpl_files import read_smpl_pickle
from chorus.errors import InputError
from chorus.unpickling import SafeUnpickler
from tests.body.test_smpl_files import published
from tests.fuzz.readers import _smpl_arrays

NEST = b"(K\x01t" + b"2\x86" * 40  # a pair of a pair of a pair ..., each the same object twice: 2^40 ones when written out


def dump(*parts: bytes) -> bytes:
    return b"\x80\x02" + b"".join(parts) + b"."


def load(data: bytes) -> Any:
    return SafeUnpickler(data).load()


def test_plain_data_is_what_it_was() -> None:
    for value in ([1, 2.5, "é", b"x", None, True], {"a": {3: (1, 2)}, None: []}, 10**30, bytearray(b"x"), {}, ()):
        for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
            data = pickle.dumps(value, protocol)
            if b"bytearray" in data or (protocol == 2 and b"encode" in data):
                continue  # these name functions
            assert load(data) == value
    assert sorted(load(pickle.dumps({3, 1}, 4))) == [1, 3]
    assert sorted(load(pickle.dumps(frozenset({3, 1}), 4))) == [1, 3]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a place far beyond the others", dump(b"Nr\xff\xff\xff\x7f")),
        ("keys that take for ever to hash", dump(b"}", NEST, b"K\x01s")),
        ("several of them", dump(b"}(", NEST, b"K\x01u")),
        ("in a dictionary made at once", dump(b"(", NEST, b"K\x01d")),
        ("in a set", dump(b"\x8f(", NEST, b"\x90")),
        ("in a set that stays as it is", dump(b"(", NEST, b"\x91")),
        ("text that claims to be long", dump(b"\x8d\xff\xff\xff\xff\xff\xff\xff\x7fx")),
        ("bytes that claim to be long", dump(b"\x8e\xff\xff\xff\xff\xff\xff\xff\x00x")),
        ("bytes that can be changed", dump(b"\x96\x00\x00\x00\x00\x40\x00\x00\x00x")),
        ("a frame that claims to be long", dump(b"\x95\xff\xff\xff\xff\xff\xff\xff\x7fN")),
        ("a number without end", dump(b"I" + b"9" * 6000 + b"\n")),
        ("data from elsewhere", dump(b"Pelsewhere\n")),
        ("an extension", dump(b"\x82\x01")),
        ("nothing", b""),
    ],
)
def test_streams_that_blow_up(name: str, data: bytes, tmp_path: Path) -> None:
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    (tmp_path / "b.pkl").write_bytes(data)
    with pytest.raises(InputError, match="expected a pickled dictionary of arrays") as caught:
        read_smpl_pickle(tmp_path / "b.pkl")
    assert "MemoryError" not in str(caught.value)
    assert time.process_time() - began < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10


def test_one_text_encoded_again_and_again(tmp_path: Path) -> None:
    text = b"X" + (50_000).to_bytes(4, "little") + b"x" * 50_000
    again = b"h\x00h\x01\x85R"
    data = dump(b"c_codecs\nencode\nq\x00", text, b"q\x01", b"(" + again * 8000 + b"l")
    (tmp_path / "b.pkl").write_bytes(data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match="one text again and again"):
        read_smpl_pickle(tmp_path / "b.pkl")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 << 10


@pytest.mark.parametrize(
    "named", [b"cnumpy.core.multiarray\n_reconstruct\n", b"cnumpy\nndarray\n", b"ccopy_reg\n_reconstructor\n"]
)
def test_what_a_stream_is_given_cannot_be_changed_by_it(named: bytes, tmp_path: Path) -> None:
    """A state for a function or a class sets its attributes, for every file that is read later."""
    before = pickles.reconstruct_array.__defaults__, dict(vars(pickles.reconstruct_array)), pickles.Array.origin
    for state in (b"}X\x06\x00\x00\x00originK\x01s", b"N}X\x0c\x00\x00\x00__defaults__)s\x86"):
        (tmp_path / "b.pkl").write_bytes(dump(named, state, b"b"))
        with pytest.raises(InputError, match="expected an object that has a state"):
            read_smpl_pickle(tmp_path / "b.pkl")
    after = pickles.reconstruct_array.__defaults__, dict(vars(pickles.reconstruct_array)), pickles.Array.origin
    assert before == after


def test_messages_of_what_takes_for_ever_to_write_out(tmp_path: Path) -> None:
    data = dump(b"}X\x0a\x00\x00\x00v_templatecnumpy\nndarray\n)\x81(", NEST, b"NNNtbs")
    (tmp_path / "b.pkl").write_bytes(data)
    began = time.process_time()
    with pytest.raises(InputError, match="v_template: expected"):
        read_smpl_pickle(tmp_path / "b.pkl")
    assert time.process_time() - began < 2


def test_published_bodies_are_read_as_before(tmp_path: Path) -> None:
    arrays = _smpl_arrays()
    for protocol in (0, 1, 2):
        (tmp_path / "b.pkl").write_bytes(published(arrays, protocol))
        found = read_smpl_pickle(tmp_path / "b.pkl")
        for name in ("v_template", "f", "weights", "kintree_table"):
            assert np.array_equal(found[name], arrays[name])
