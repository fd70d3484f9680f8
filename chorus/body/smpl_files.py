"""SMPL's published files: the meaning of their arrays, and their pickles, read without executing code.

A pickle is a program that calls the classes and functions it names. The published ones (Python 2, strings in latin-1) name
numpy arrays, scipy.sparse matrices, chumpy objects and ``set``. Each of these names is replaced by a stand-in that only keeps
its arguments; any other name is refused. Afterwards the few arrays that a body needs are built from what the stand-ins kept,
with every length checked.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from chorus.errors import InputError, check_array
from chorus.pickles import NUMPY, Array, Buffer, StandIn, read_array, read_buffer
from chorus.unpickling import SafeUnpickler

_TRUNK = (
    "pelvis",
    "left_hip",
    "right_hip",
    "spine1",
    "left_knee",
    "right_knee",
    "spine2",
    "left_ankle",
    "right_ankle",
    "spine3",
    "left_foot",
    "right_foot",
    "neck",
    "left_collar",
    "right_collar",
    "head",
    "left_shoulder",
    "right_shoulder",
    "left_elbow",
    "right_elbow",
    "left_wrist",
    "right_wrist",
)
_FINGERS = tuple(
    f"{side}_{finger}{n}"
    for side in ("left", "right")
    for finger in ("index", "middle", "pinky", "ring", "thumb")
    for n in (1, 2, 3)
)
SMPL_JOINTS = (*_TRUNK, "left_hand", "right_hand")
"""Names of SMPL's 24 joints, in its order."""
SMPLH_JOINTS = (*_TRUNK, *_FINGERS)
"""Names of SMPL-H's 52 joints, in its order."""
SMPLX_JOINTS = (*_TRUNK, "jaw", "left_eye", "right_eye", *_FINGERS)
"""Names of SMPL-X's 55 joints, in its order."""

_REQUIRED = ("v_template", "f", "weights", "J_regressor", "kintree_table")
_OPTIONAL = ("posedirs", "shapedirs")

_MAX_DEPTH = 32  # of chumpy objects in chumpy objects: real files nest twice


class _Sparse(StandIn):
    format = ""


class _Chumpy(StandIn):
    pass


def _reconstructor(cls: Any, *_: Any) -> StandIn:
    """``copy_reg._reconstructor``: how protocols 0 and 1 make an object before its state comes."""
    if not (isinstance(cls, type) and issubclass(cls, StandIn)):
        raise InputError(f"expected a numpy, scipy.sparse or chumpy object, got {cls!r}")
    return cls()


_BUILTINS = ("__builtin__", "builtins")
_KNOWN: dict[tuple[str, str], Any] = {
    **{(m, "object"): StandIn for m in _BUILTINS},
    **{(m, "set"): StandIn for m in _BUILTINS},
    **{(m, "_reconstructor"): _reconstructor for m in ("copy_reg", "copyreg")},
    **NUMPY,
}
for _format in ("csc", "csr", "coo"):
    for _kind in ("matrix", "array"):
        _class = type(f"_{_format}_{_kind}", (_Sparse,), {"format": _format, "origin": f"scipy.sparse {_format}"})
        for _module in ("scipy.sparse", f"scipy.sparse.{_format}", f"scipy.sparse._{_format}"):
            _KNOWN[_module, f"{_format}_{_kind}"] = _class


class _Reader(SafeUnpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):
            return self.encode
        if (module, name) in _KNOWN:
            return _KNOWN[module, name]
        if (module == "chumpy" or module.startswith("chumpy.")) and name.isidentifier():
            return type("_ChumpyObject", (_Chumpy,), {"origin": f"{module}.{name}"})
        raise InputError(f"asks for {module}.{name}; expected numpy, scipy.sparse and chumpy objects only")


def is_smpl_key(key: str) -> bool:
    """Whether ``body_arrays`` uses this entry of a published file."""
    return key in _REQUIRED or key in _OPTIONAL


def read_smpl_pickle(path: Path) -> dict[str, Any]:
    """The entries of a published .pkl that ``body_arrays`` uses and the file has, by name.

    Values are numpy arrays, or scipy.sparse.csr_array for sparse matrices. Raises InputError for a stream that is
    damaged, holds anything but a dictionary, or names anything but numpy, scipy.sparse and chumpy objects (nothing it
    names is ever imported or called).
    """
    try:
        content = _Reader(path.read_bytes()).load()
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except Exception as error:  # a damaged stream raises nearly anything
        raise InputError(
            f"{path}: expected a pickled dictionary of arrays, got a damaged or foreign file ({type(error).__name__}: {error})"
        ) from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a pickled dictionary of arrays, got {type(content).__name__}")
    found = {}
    for key in (*_REQUIRED, *_OPTIONAL):
        # Some files written by Python 3 for Python 2 have bytes as keys.
        for spelled in (key, key.encode()):
            if spelled in content:
                try:
                    found[key] = _resolve(content[spelled], 0)
                except InputError as error:
                    raise InputError(f"{path}: {key}: {error}") from None
                break
    return found


def _resolve(value: Any, depth: int) -> Any:
    """The array that a value of the pickle stands for."""
    if depth > _MAX_DEPTH:
        raise InputError(f"expected chumpy objects no more than {_MAX_DEPTH} deep")
    if isinstance(value, Array):
        return read_array(value)
    if isinstance(value, Buffer):
        return read_buffer(value)
    if isinstance(value, _Sparse):
        return _sparse(value, depth)
    if isinstance(value, _Chumpy):
        return _chumpy(value, depth)
    raise InputError(f"expected an array, got {getattr(value, 'origin', type(value).__name__)}")


def _sparse(value: _Sparse, depth: int) -> scipy.sparse.csr_array:
    state = value.state
    if not isinstance(state, Mapping):
        raise InputError(f"expected the state of a {value.origin}, got {type(state).__name__}")
    shape = state.get("_shape", state.get("shape"))
    if not (isinstance(shape, tuple) and len(shape) == 2 and all(isinstance(n, int) and n >= 0 for n in shape)):
        raise InputError(f"expected the shape of a {value.origin}, got {reprlib.repr(shape)}")
    names = ("row", "col") if value.format == "coo" else ("indices", "indptr")
    indices = state["coords"] if "coords" in state else [state.get(name) for name in names]  # the newer form of coo
    parts = [_resolve(part, depth + 1) for part in (state.get("data"), *indices)]
    if len(parts) != 3 or any(p.ndim != 1 for p in parts) or any(p.dtype.kind not in "iu" for p in parts[1:]):
        raise InputError(f"expected the data and the indices of a {value.origin}")
    try:
        if value.format == "coo":
            return scipy.sparse.coo_array((parts[0], (parts[1], parts[2])), shape=shape).tocsr()
        made = scipy.sparse.csc_array if value.format == "csc" else scipy.sparse.csr_array
        matrix = made(tuple(parts), shape=shape)
        matrix.check_format(full_check=True)  # indices in range, before any compiled code follows them
        return matrix.tocsr()
    except (ValueError, OverflowError, MemoryError) as error:
        raise InputError(f"expected a sound {value.origin}: {error}") from None


def _chumpy(value: _Chumpy, depth: int) -> Any:
    """The value of a chumpy object: the array of a ``Ch``, the selected elements of a ``Select``."""
    state, kind = value.state, value.origin.rpartition(".")[2]
    if isinstance(state, Mapping) and kind == "Ch" and "x" in state:
        return _resolve(state["x"], depth + 1)
    if isinstance(state, Mapping) and kind == "Select" and {"a", "idxs"} <= set(state):
        source = np.ravel(_resolve(state["a"], depth + 1))
        chosen = _resolve(state["idxs"], depth + 1)
        shape = state.get("preferred_shape", chosen.shape)
        try:
            return source[chosen].reshape(shape)
        except (IndexError, ValueError, TypeError) as error:
            raise InputError(f"expected a sound {value.origin}: {error}") from None
    raise InputError(f"expected a chumpy Ch or Select that holds numbers, got {value.origin} without")


def body_arrays(content: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of ``Body``, except its name, from the arrays of a published SMPL, SMPL-H or SMPL-X file.

    content  v_template (V, 3), f (F, 3), weights (V, J), J_regressor (J, V) dense or sparse, kintree_table (2, J);
             optional: posedirs (V, 3, 9 (J-1)) or (3 V, 9 (J-1)), shapedirs (V, 3, B)

    Raises InputError for missing arrays, other shapes, or a number of joints other than 24, 52 and 55.
    """
    missing = [key for key in _REQUIRED if key not in content]
    if missing:
        raise InputError(f"expected the arrays of an SMPL body, got none named {', '.join(missing)}")
    vertices = check_array("v_template", content["v_template"], ("V", 3), np.float64)
    tree = check_array("kintree_table", content["kintree_table"], (2, "J"), np.int64)
    count = tree.shape[1]
    names = {len(n): n for n in (SMPL_JOINTS, SMPLH_JOINTS, SMPLX_JOINTS)}.get(count)
    if names is None:
        raise InputError(f"kintree_table: expected 24, 52 or 55 joints, got {count}")
    regressor = content["J_regressor"]
    if not scipy.sparse.issparse(regressor):
        regressor = check_array("J_regressor", regressor, (count, len(vertices)), np.float64)
    regressor = scipy.sparse.csr_array(regressor)
    check_array("J_regressor", regressor.data, ("n",), np.float64)
    if regressor.shape != (count, len(vertices)):
        raise InputError(f"J_regressor: expected shape ({count}, {len(vertices)}), got {regressor.shape}")
    arrays = {
        "vertices": vertices,
        "faces": content["f"],
        "joints": _regress(regressor, vertices),
        "parents": np.concatenate([[-1], tree[0, 1:]]),  # files write the root's parent as 2^32 - 1
        "weights": content["weights"],
        "joint_names": names,
    }
    posedirs, shapedirs = content.get("posedirs"), content.get("shapedirs")
    if posedirs is not None:
        if np.ndim(posedirs) == 2:
            posedirs = check_array("posedirs", posedirs, (3 * len(vertices), "P"), np.float64)
            posedirs = posedirs.reshape(len(vertices), 3, -1)
        arrays["posedirs"] = posedirs
    if shapedirs is not None:
        shapedirs = check_array("shapedirs", shapedirs, (len(vertices), 3, "B"), np.float64)
        arrays |= {"shapedirs": shapedirs, "joint_shapedirs": _regress(regressor, shapedirs)}
    return arrays


def _regress(regressor: scipy.sparse.csr_array, values: NDArray[Any]) -> NDArray[np.float64]:
    """J_regressor @ values, (J, V) and (V, ...) -> (J, ...) float64.

    Summed vertex after vertex, so that a sparse and a dense file of one body give the same bits, and the same hash.
    """
    regressor.sum_duplicates()
    total = np.zeros((regressor.shape[0], *values.shape[1:]))
    for j in range(regressor.shape[0]):
        for at in range(regressor.indptr[j], regressor.indptr[j + 1]):
            total[j] += float(regressor.data[at]) * values[regressor.indices[at]].astype(np.float64)
    return total
