"""SMPL's published files: the pickles, as Python 2 wrote them, the .npz, the names; and what hostile pickles get."""

from __future__ import annotations

import io
import pickle
import struct
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import scipy.sparse

from chorus.body.model import SMPL_JOINTS, SMPLH_JOINTS, SMPLX_JOINTS, load_body
from chorus.errors import InputError
from tests.body.test_model import smpl_arrays


class _Python2Pickler(pickle._Pickler):
    """Writes what Python 2 with the numpy and scipy of 2015 wrote: byte strings, and the modules' old names."""

    dispatch: ClassVar[dict[type, Any]] = dict(pickle._Pickler.dispatch)

    def save_text(self, value: str | bytes) -> None:
        data = value.encode("latin1") if isinstance(value, str) else value
        if not self.bin:  # protocol 0
            self.write(pickle.STRING + repr(data)[1:].encode("ascii") + b"\n")
        elif len(data) < 256:
            self.write(pickle.SHORT_BINSTRING + bytes([len(data)]) + data)
        else:
            self.write(pickle.BINSTRING + struct.pack("<i", len(data)) + data)
        self.memoize(value)

    dispatch[str] = dispatch[bytes] = save_text

    def save_global(self, value: Any, name: str | None = None) -> None:
        module, name = value.__module__, name or value.__qualname__
        module = module.replace("numpy._core", "numpy.core").replace("copyreg", "copy_reg")
        module = module.replace("scipy.sparse._", "scipy.sparse.").replace("builtins", "__builtin__")
        self.write(pickle.GLOBAL + f"{module}\n{name}\n".encode("ascii"))
        self.memoize(value)

    dispatch[type] = save_global
    dispatch[types.FunctionType] = save_global
    dispatch[types.BuiltinFunctionType] = save_global


def python2_pickle(value: Any, protocol: int = 2) -> bytes:
    stream = io.BytesIO()
    _Python2Pickler(stream, protocol).dump(value)
    return stream.getvalue()


class _FakeChumpy:
    """chumpy while a file is written: classes with its names that keep an object's dictionary, as chumpy's do."""

    def __enter__(self) -> _FakeChumpy:
        self.modules = {name: types.ModuleType(name) for name in ("chumpy", "chumpy.ch", "chumpy.reordering")}
        sys.modules.update(self.modules)
        for module, name in (("chumpy.ch", "Ch"), ("chumpy.reordering", "Select"), ("chumpy.ch", "ChLambda")):
            setattr(self.modules[module], name, type(name, (), {"__module__": module}))
        return self

    def __exit__(self, *_: object) -> None:
        for name in self.modules:
            del sys.modules[name]

    def make(self, kind: str, **state: Any) -> Any:
        module = "chumpy.reordering" if kind == "Select" else "chumpy.ch"
        made = getattr(self.modules[module], kind)()
        common = {"_dirty_vars": {"x"}, "_itr": None, "_depends_on_deps": {}, "_make_dense": False}
        made.__dict__.update(common, **state)
        return made


def published(arrays: dict[str, Any], protocol: int = 2) -> bytes:
    """A pickle with these arrays as the SMPL authors publish them."""
    with _FakeChumpy() as ch:
        wide = np.concatenate([arrays["shapedirs"], arrays["shapedirs"][..., :3]], 2)
        taken = np.arange(wide.size).reshape(wide.shape)[..., : arrays["shapedirs"].shape[2]]
        content = {
            **arrays,
            "J_regressor": scipy.sparse.csc_matrix(arrays["J_regressor"]),
            "v_template": ch.make("Ch", x=arrays["v_template"]),
            "weights": ch.make("Ch", x=np.asfortranarray(arrays["weights"])),
            "shapedirs": ch.make("Select", a=ch.make("Ch", x=wide), idxs=taken.ravel(), preferred_shape=taken.shape),
            "J": ch.make("ChLambda", unused=object()),
            "bs_style": "lbs",
        }
        return python2_pickle(content, protocol)


def write_npz(path: Path, arrays: dict[str, Any]) -> Path:
    np.savez(path, **arrays)
    return path


@pytest.fixture
def no_chumpy(monkeypatch: pytest.MonkeyPatch) -> None:
    """chumpy cannot be imported, even where it is installed."""
    monkeypatch.setitem(sys.modules, "chumpy", None)


@pytest.mark.usefixtures("no_chumpy")
@pytest.mark.parametrize("protocol", [0, 1, 2])
def test_published_pickle_equals_npz(tmp_path: Path, protocol: int) -> None:
    arrays = smpl_arrays()
    file = tmp_path / "basicModel_neutral_lbs_10_207_0_v1.0.0.pkl"
    file.write_bytes(published(arrays, protocol))
    names = (b"chumpy.ch", b"scipy.sparse.csc", b"numpy.core.multiarray")
    assert all(name in file.read_bytes() for name in names)  # it is the kind of file it claims to be
    with pytest.raises(Exception, match="chumpy"):
        pickle.loads(file.read_bytes(), encoding="latin1")
    body = load_body(file)
    same = load_body(write_npz(tmp_path / "SMPL_NEUTRAL.npz", arrays))
    assert body.hash == same.hash
    assert body.joint_names == SMPL_JOINTS
    assert body.name == "basicModel_neutral_lbs_10_207_0_v1.0.0"
    joints = arrays["J_regressor"] @ arrays["v_template"]
    np.testing.assert_allclose(body.joints, joints - joints[0], atol=1e-14)
    np.testing.assert_allclose(body.vertices, arrays["v_template"] - joints[0], atol=1e-14)
    np.testing.assert_allclose(body.shapedirs, arrays["shapedirs"], rtol=1e-6)
    assert load_body(body.save(tmp_path / "converted.npz")).hash == body.hash


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_of_python_3(tmp_path: Path, protocol: int) -> None:
    """Files that were cleaned of chumpy and written again; keys may have stayed bytes."""
    arrays = smpl_arrays()
    want = load_body(write_npz(tmp_path / "a.npz", arrays)).hash
    sparse = scipy.sparse
    for change in (sparse.csc_matrix, sparse.csr_array, sparse.coo_matrix, np.asfortranarray):
        clean = {**arrays, "J_regressor": change(arrays["J_regressor"])}
        for content in (clean, {key.encode(): value for key, value in clean.items()}):
            (tmp_path / "clean.pkl").write_bytes(pickle.dumps(content, protocol))
            assert load_body(tmp_path / "clean.pkl").hash == want
    swapped = {key: value.astype(value.dtype.newbyteorder(">")) for key, value in arrays.items()}
    (tmp_path / "clean.pkl").write_bytes(pickle.dumps(swapped, protocol))
    assert load_body(tmp_path / "clean.pkl").hash == want


class _Call:
    """Pickles as a call of a function."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = (function, args)

    def __reduce__(self) -> Any:
        return self.call


def _global(module: str, name: str, *args: bytes) -> bytes:
    """A protocol 0 pickle that calls module.name with strings."""
    pushed = b"".join(b"S" + repr(a)[1:].encode() + b"\n" for a in args)
    return b"c" + module.encode() + b"\n" + name.encode() + b"\n(" + pushed + b"tR."


CALLS = [
    ("os", "system"),
    ("posix", "system"),
    ("nt", "system"),
    ("subprocess", "check_output"),
    ("builtins", "eval"),
    ("__builtin__", "eval"),
    ("builtins", "getattr"),
    ("numpy.f2py.crackfortran", "myeval"),
    ("numpy.testing._private.utils", "runstring"),
    ("numpy", "load"),
    ("numpy", "ndarray.tofile"),
    ("scipy.sparse", "load_npz"),
    ("scipy.sparse.csc", "os.system"),
    ("copyreg", "__newobj__"),
    ("chumpy.ch", "np.load"),
    ("chumpyx", "Ch"),
    ("pickle", "loads"),
    ("functools", "partial"),
    ("importlib", "import_module"),
]


@pytest.mark.parametrize(("module", "name"), CALLS)
def test_no_other_global_is_ever_looked_up(tmp_path: Path, module: str, name: str) -> None:
    file, mark = tmp_path / "SMPL_NEUTRAL.pkl", tmp_path / "ran"
    file.write_bytes(_global(module, name, f"touch {mark}".encode()))
    with pytest.raises(InputError, match=f"SMPL_NEUTRAL.pkl: asks for {module}.{name}; expected numpy"):
        load_body(file)
    # by STACK_GLOBAL, which follows dots, and by a chumpy object's state
    stacked = b"\x80\x04\x8c" + bytes([len(module)]) + module.encode() + b"\x8c" + bytes([len(name)]) + name.encode()
    file.write_bytes(stacked + b"\x93\x8c\x04true\x85R.")
    with pytest.raises(InputError, match=f"asks for {module}.{name}"):
        load_body(file)
    assert not mark.exists()


@pytest.mark.parametrize("where", ["value", "chumpy state", "array state", "key", "unused"])
def test_calls_hidden_in_a_body_do_not_run(tmp_path: Path, where: str) -> None:
    import os

    mark = tmp_path / "ran"
    call = _Call(os.mkdir, str(mark))
    arrays = smpl_arrays()
    with _FakeChumpy() as ch:
        content: dict[Any, Any] = dict(arrays)
        if where == "value":
            content["v_template"] = call
        elif where == "chumpy state":
            content["v_template"] = ch.make("Ch", x=arrays["v_template"], extra=call)
        elif where == "array state":
            content["v_template"] = np.array([call], object)
        elif where == "key":
            content = {"v_template": arrays["v_template"], ("a", call): 1}
        else:
            content["J"] = [[call]]
        data = python2_pickle(content)
    file = tmp_path / "SMPL_MALE.pkl"
    file.write_bytes(data)
    with pytest.raises(InputError, match=r"asks for (posix|nt)\.mkdir"):
        load_body(file)
    assert not mark.exists()
    with pytest.MonkeyPatch.context() as patch, _FakeChumpy() as ch:  # the same bytes do run in a plain unpickler
        patch.setitem(sys.modules, "copy_reg", __import__("copyreg"))
        pickle.loads(data.replace(b"numpy.core", b"numpy._core"), encoding="latin1")
    assert mark.exists()


def test_stand_ins_cannot_be_called_into_mischief(tmp_path: Path) -> None:
    """Odd but permitted names: objects of no sense, states of the wrong kind, arrays whose bytes do not fit."""
    streams = [
        b"cchumpy.ch\nCh\n(dS'__class__'\nI1\nsb.",  # BUILD on the class itself
        b"ccopy_reg\n_reconstructor\n(c__builtin__\nset\nc__builtin__\nobject\nNtR.",
        b"c_codecs\nencode\n(Vx\nVrot13\ntR.",
        b"cnumpy\ndtype\n(S'O'\nI0\nI1\ntR.",
        b"\x80\x02\x82\x01.",  # an extension code nobody registered
        b"Pid\n.",  # a persistent id
        *(b"I1\n.", b"(lp0\n.", b"", b".", b"\x80\x02}", b"PKnot a zip"),
    ]
    for stream in streams:
        (tmp_path / "a.pkl").write_bytes(stream)
        with pytest.raises(InputError, match=r"a\.pkl"):
            load_body(tmp_path / "a.pkl")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("v_template", np.array(["a", None], object), "v_template: expected an array of real numbers, got dtype 'O8'"),
        ("v_template", np.array(["text"]), "v_template: expected an array of real numbers, got dtype 'U4'"),
        ("weights", 3, "weights: expected an array, got int"),
        ("weights", [1.0, 2.0], "weights: expected an array, got list"),
        ("f", np.float64(3), "f: expected an array, got numpy scalar"),
    ],
)
def test_values_that_are_no_arrays(tmp_path: Path, key: str, value: Any, message: str) -> None:
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({**smpl_arrays(), key: value}, 2))
    with pytest.raises(InputError, match=message):
        load_body(tmp_path / "a.pkl")


def test_chumpy_objects_without_numbers(tmp_path: Path) -> None:
    def refused(value: Callable[[_FakeChumpy], Any], message: str) -> None:
        with _FakeChumpy() as ch:
            (tmp_path / "a.pkl").write_bytes(python2_pickle({**smpl_arrays(), "v_template": value(ch)}))
        with pytest.raises(InputError, match=message):
            load_body(tmp_path / "a.pkl")

    x = np.zeros((2, 3))
    refused(lambda ch: ch.make("ChLambda", x=x), r"v_template: expected a chumpy Ch or .* got chumpy\.ch\.ChLambda")
    refused(lambda ch: ch.make("Ch"), r"got chumpy\.ch\.Ch without")
    refused(lambda ch: ch.make("Select", a=x, idxs=np.array([99]), preferred_shape=(1,)), "expected a sound chumpy")
    refused(lambda ch: ch.make("Select", a=x, idxs=np.array([1]), preferred_shape=(7,)), "expected a sound chumpy")

    def endless(ch: _FakeChumpy) -> Any:
        loop = ch.make("Ch")
        loop.x = loop
        return loop

    refused(endless, "no more than 32 deep")


def test_sparse_regressors_that_point_outside(tmp_path: Path) -> None:
    for name, change in (("indices", 500), ("indptr", -7)):
        regressor = scipy.sparse.csc_matrix(smpl_arrays()["J_regressor"])
        getattr(regressor, name)[3] = change
        (tmp_path / "a.pkl").write_bytes(python2_pickle({**smpl_arrays(), "J_regressor": regressor}))
        with pytest.raises(InputError, match=r"J_regressor: expected a sound scipy\.sparse csc"):
            load_body(tmp_path / "a.pkl")


def test_damaged_files(tmp_path: Path) -> None:
    arrays = smpl_arrays(vertices=30)
    data = published(arrays)
    file = tmp_path / "SMPL_FEMALE.pkl"
    for length in (3, 100, len(data) // 2, len(data) - 1):
        file.write_bytes(data[:length])
        with pytest.raises(InputError, match=r"SMPL_FEMALE\.pkl"):
            load_body(file)
    rng = np.random.default_rng(5)
    outcomes = set()
    for _ in range(150):  # flipped bytes: a body (of other numbers) or an InputError, nothing else
        flipped = bytearray(data)
        for at in rng.integers(0, len(data), 3):
            flipped[at] ^= int(rng.integers(1, 256))
        file.write_bytes(flipped)
        try:
            load_body(file)
            outcomes.add("body")
        except InputError:
            outcomes.add("refused")
    assert "refused" in outcomes
    npz = write_npz(tmp_path / "SMPL_FEMALE.npz", arrays).read_bytes()
    for length in (10, len(npz) // 2, len(npz) - 5):
        (tmp_path / "cut.npz").write_bytes(npz[:length])
        with pytest.raises(InputError, match=r"cut\.npz: expected an \.npz of plain arrays"):
            load_body(tmp_path / "cut.npz")


@pytest.mark.parametrize("key", ["v_template", "f", "weights", "J_regressor", "kintree_table"])
def test_missing_arrays_are_named(tmp_path: Path, key: str) -> None:
    arrays = smpl_arrays()
    del arrays[key]
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(arrays, 2))
    for file in (write_npz(tmp_path / "a.npz", arrays), tmp_path / "a.pkl"):
        with pytest.raises(InputError, match=f"{file.name}: expected the arrays of an SMPL body, got none named {key}"):
            load_body(file)


@pytest.mark.parametrize(
    ("key", "change", "message"),
    [
        ("v_template", lambda a: np.where(np.arange(60)[:, None] == 7, np.nan, a), "v_template: expected finite"),
        ("posedirs", lambda a: a * np.nan, r"posedirs: expected finite"),
        ("J_regressor", lambda a: a * np.inf, "J_regressor: expected finite"),
        ("J_regressor", lambda a: a[:, :-1], r"J_regressor: expected shape \(24, 60\), got \(24, 59\)"),
        ("weights", lambda a: a * 1.1, r"body\.weights: expected rows that sum to 1"),
        ("kintree_table", lambda a: a[:, :16], "kintree_table: expected 24, 52 or 55 joints, got 16"),
        ("kintree_table", lambda a: a[:, ::-1], r"body\.parents"),
        ("shapedirs", lambda a: a[:5], r"shapedirs: expected shape \(60, 3, B\), got \(5, 3, 10\)"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value encountered")
def test_bad_arrays_are_refused(tmp_path: Path, key: str, change: Any, message: str) -> None:
    arrays = smpl_arrays()
    arrays[key] = change(arrays[key])
    with pytest.raises(InputError, match=message):
        load_body(write_npz(tmp_path / "a.npz", arrays))


def test_without_blend_shapes_and_with_flat_pose_blend_shapes(tmp_path: Path) -> None:
    arrays = smpl_arrays()
    want = load_body(write_npz(tmp_path / "a.npz", arrays))
    flat = {**arrays, "posedirs": arrays["posedirs"].reshape(180, 207)}
    assert load_body(write_npz(tmp_path / "b.npz", flat)).hash == want.hash
    del arrays["posedirs"], arrays["shapedirs"]
    plain = load_body(write_npz(tmp_path / "c.npz", arrays))
    assert plain.posedirs is None
    assert plain.shapedirs is None
    np.testing.assert_array_equal(plain.joints, want.joints)


@pytest.mark.parametrize(("names", "stem"), [(SMPLH_JOINTS, "SMPLH_MALE"), (SMPLX_JOINTS, "SMPLX_MALE")])
def test_smplh_and_smplx(tmp_path: Path, names: tuple[str, ...], stem: str) -> None:
    joints = {"SMPLH_MALE": 52, "SMPLX_MALE": 55}[stem]
    arrays = smpl_arrays(3, joints=joints, betas=16)
    file = write_npz(tmp_path / f"{stem}.npz", {**arrays, "bs_style": np.array("lbs")})
    body = load_body(file)
    assert body.num_joints == joints
    assert body.joint_names == names
    assert body.rest_pose.shape == (joints, 3)
    moved = body.posed_vertices(np.random.default_rng(0).normal(0, 0.3, (2, joints, 3)), np.ones(16))
    assert moved.shape == (2, 60, 3)
    assert np.abs(moved - body.vertices).max() > 0.1
    (tmp_path / "other.pkl").write_bytes(published(arrays))
    assert load_body(tmp_path / "other.pkl").hash == body.hash
    # published SMPL-X .npz also hold pickled dictionaries, which nobody asks for
    extra = write_npz(tmp_path / "extra.npz", {**arrays, "joint2num": np.array({"pelvis": 0}, object)})
    assert load_body(extra).hash == body.hash


@pytest.mark.parametrize(
    "name",
    ["SMPL_NEUTRAL", "SMPL_FEMALE"]
    + [f"basicModel_{who}_lbs_10_207_0_v1.0.0" for who in ("neutral", "f", "m")]
    + ["basicmodel_neutral_lbs_10_207_0_v1.1.0"],
)
def test_folders_by_published_name(tmp_path: Path, name: str) -> None:
    (tmp_path / "README.txt").write_text("not a body")
    (tmp_path / "J_regressor_extra.npy").write_bytes(b"")
    with pytest.raises(InputError, match=r"expected one body .* got none"):
        load_body(tmp_path)
    (tmp_path / f"{name}.pkl").write_bytes(published(smpl_arrays()))
    assert load_body(tmp_path).name == name
    (tmp_path / "SMPLX_NEUTRAL.npz").write_bytes(b"")
    with pytest.raises(InputError, match=r"SMPLX_NEUTRAL\.npz.*; name the file"):
        load_body(tmp_path)


def test_paths_and_versions(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.pkl: No such file"):
        load_body(tmp_path / "none.pkl")
    newer = write_npz(tmp_path / "newer.npz", {"chorus_body": np.int32(99)})
    with pytest.raises(InputError, match="expected version 1 of the body format"):
        load_body(newer)
    partial = write_npz(tmp_path / "partial.npz", {"chorus_body": np.int32(1), "name": np.array("x")})
    with pytest.raises(InputError, match=r"partial\.npz: expected the arrays of a body"):
        load_body(partial)
    hidden = write_npz(tmp_path / "SMPL_MALE.npz", {**smpl_arrays(), "weights": np.array([{}], object)})
    with pytest.raises(InputError, match=r"expected an \.npz of plain arrays"):
        load_body(hidden)
