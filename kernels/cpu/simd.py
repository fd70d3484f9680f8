"""Vectors of 16 lanes for numba: LLVM vectors as values, so that a kernel says exactly what the registers hold.

numba vectorises plain loops only where LLVM can prove them safe, and never across the branches of a culling kernel. These
few operations compile to one or two instructions each (two 256-bit halves on AVX2, one register on AVX-512).
Types: ``f32x16``, ``i32x16`` and ``b1x16`` (a lane mask).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import binding, ir
from numba.core import cgutils, types
from numba.core.extending import intrinsic, models, register_model

LANES = 16

_F32 = ir.VectorType(ir.FloatType(), LANES)
_I32 = ir.VectorType(ir.IntType(32), LANES)
_B1 = ir.VectorType(ir.IntType(1), LANES)

# AVX-512 has registers for lane masks; elsewhere a mask is an integer vector of 0 and -1, or LLVM packs and unpacks bytes.
HAS_MASK_REGISTERS = bool(binding.get_host_cpu_features().get("avx512f", False))
_MASK = _B1 if HAS_MASK_REGISTERS else _I32


class VectorType(types.Type):
    """numba type of a 16-lane vector; named after its lanes."""

    def __init__(self, lanes: str) -> None:
        super().__init__(name=lanes)


class F32x16(VectorType): ...


class I32x16(VectorType): ...


class B1x16(VectorType): ...


def _model(llvm_type: ir.VectorType) -> type[models.PrimitiveModel]:
    class Model(models.PrimitiveModel):
        def __init__(self, dmm: Any, fe_type: types.Type) -> None:
            super().__init__(dmm, fe_type, llvm_type)  # type: ignore[no-untyped-call]

    return Model


register_model(F32x16)(_model(_F32))
register_model(I32x16)(_model(_I32))
register_model(B1x16)(_model(_MASK))

f32x16, i32x16, b1x16 = F32x16("f32x16"), I32x16("i32x16"), B1x16("b1x16")

Emit = Callable[[Any, Any], Any]


def _operation(result: types.Type, arguments: tuple[types.Type, ...], emit: Emit) -> Any:
    """An intrinsic of fixed signature; ``emit(builder, values)`` writes its LLVM."""
    signature = result(*arguments)

    def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        return emit(builder, values)

    # numba reads the number of parameters off the function, so each arity has its own.
    def unary(context: Any, a: Any) -> Any:
        return signature, codegen

    def binary(context: Any, a: Any, b: Any) -> Any:
        return signature, codegen

    def ternary(context: Any, a: Any, b: Any, c: Any) -> Any:
        return signature, codegen

    return intrinsic((unary, binary, ternary)[len(arguments) - 1])


def _call(name: str, vector: ir.VectorType, arity: int) -> Emit:
    def emit(builder: Any, values: Any) -> Any:
        function_type = ir.FunctionType(vector, [vector] * arity)
        function = cgutils.get_or_insert_function(builder.module, function_type, name)  # type: ignore[no-untyped-call]
        return builder.call(function, values)

    return emit


def _splat(builder: Any, value: Any, vector: ir.VectorType) -> Any:
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
    return builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), zeros)


def _to_mask(builder: Any, value: Any) -> Any:
    return value if HAS_MASK_REGISTERS else builder.sext(value, _I32)


def _to_bool(builder: Any, mask: Any) -> Any:
    return mask if HAS_MASK_REGISTERS else builder.icmp_signed("<", mask, ir.Constant(_I32, [0] * LANES))


def _compare(sign: str) -> Emit:
    return lambda b, v: _to_mask(b, b.fcmp_ordered(sign, *v))


def _sign_or(builder: Any, values: Any) -> Any:
    return builder.bitcast(builder.or_(*(builder.bitcast(v, _I32) for v in values)), _F32)


def _signed(builder: Any, value: Any) -> Any:
    return builder.icmp_signed("<", builder.bitcast(value, _I32), ir.Constant(_I32, [0] * LANES))


def _reduce(builder: Any, value: Any) -> Any:
    function_type = ir.FunctionType(ir.IntType(32), [_I32])
    name = "llvm.vector.reduce.add.v16i32"
    return builder.call(cgutils.get_or_insert_function(builder.module, function_type, name), [value])  # type: ignore[no-untyped-call]


_ff, _fff, _ii = (f32x16, f32x16), (f32x16, f32x16, f32x16), (i32x16, i32x16)

splat = _operation(f32x16, (types.float32,), lambda b, v: _splat(b, v[0], _F32))
isplat = _operation(i32x16, (types.int32,), lambda b, v: _splat(b, v[0], _I32))
fma = _operation(f32x16, _fff, _call("llvm.fma.v16f32", _F32, 3))
"""a * b + c, rounded once."""
add = _operation(f32x16, _ff, lambda b, v: b.fadd(*v))
sub = _operation(f32x16, _ff, lambda b, v: b.fsub(*v))
mul = _operation(f32x16, _ff, lambda b, v: b.fmul(*v))
div = _operation(f32x16, _ff, lambda b, v: b.fdiv(*v))
vabs = _operation(f32x16, (f32x16,), _call("llvm.fabs.v16f32", _F32, 1))
# One instruction each; of two numbers that do not compare (a NaN) the second is taken.
vmin = _operation(f32x16, _ff, lambda b, v: b.select(b.fcmp_ordered("<", *v), *v))
vmax = _operation(f32x16, _ff, lambda b, v: b.select(b.fcmp_ordered(">", *v), *v))
gt = _operation(b1x16, _ff, _compare(">"))
ge = _operation(b1x16, _ff, _compare(">="))
lt = _operation(b1x16, _ff, _compare("<"))
both = _operation(b1x16, (b1x16, b1x16), lambda b, v: b.and_(*v))
either = _operation(b1x16, (b1x16, b1x16), lambda b, v: b.or_(*v))
sign_or = _operation(f32x16, _ff, _sign_or)
"""Numbers whose sign bit is set where either operand's is: "any of these is negative" without a lane mask, which LLVM would
pack and unpack on processors without mask registers."""
where_positive = _operation(f32x16, _fff, lambda b, v: b.select(_signed(b, v[0]), v[2], v[1]))
"""Second operand where the first's sign bit is clear, third where it is set."""
ikeep_positive = _operation(
    i32x16, (f32x16, i32x16), lambda b, v: b.and_(v[1], b.not_(b.ashr(b.bitcast(v[0], _I32), ir.Constant(_I32, [31] * LANES))))
)
"""The integers where the number's sign bit is clear, zero elsewhere."""
ikeep_nonnegative = _operation(
    i32x16, (i32x16,), lambda b, v: b.and_(v[0], b.not_(b.ashr(v[0], ir.Constant(_I32, [31] * LANES))))
)
"""The integers that are not negative, zero for the others."""
sign_bits = _operation(types.int32, (f32x16,), lambda b, v: b.zext(b.bitcast(_signed(b, v[0]), ir.IntType(16)), ir.IntType(32)))
"""Sign bits as an int32, lane i at bit i."""
truncate = _operation(i32x16, (f32x16,), lambda b, v: b.fptosi(v[0], _I32))
to_float = _operation(f32x16, (i32x16,), lambda b, v: b.sitofp(v[0], _F32))
iadd = _operation(i32x16, _ii, lambda b, v: b.add(*v))
isub = _operation(i32x16, _ii, lambda b, v: b.sub(*v))
imul = _operation(i32x16, _ii, lambda b, v: b.mul(*v))
iand = _operation(i32x16, _ii, lambda b, v: b.and_(*v))
ior = _operation(i32x16, _ii, lambda b, v: b.or_(*v))
ishl = _operation(i32x16, _ii, lambda b, v: b.shl(*v))
ishr = _operation(i32x16, _ii, lambda b, v: b.ashr(*v))
ikeep = _operation(i32x16, (b1x16, i32x16), lambda b, v: b.select(_to_bool(b, v[0]), v[1], ir.Constant(_I32, [0] * LANES)))
"""The integers where the mask is set, zero elsewhere."""
idrop = _operation(i32x16, (b1x16, i32x16), lambda b, v: b.select(_to_bool(b, v[0]), ir.Constant(_I32, [0] * LANES), v[1]))
"""The integers where the mask is not set, zero elsewhere."""
izero = _operation(b1x16, (i32x16,), lambda b, v: _to_mask(b, b.icmp_signed("==", v[0], ir.Constant(_I32, [0] * LANES))))
lanes_of = _operation(
    b1x16,
    (types.int32,),
    lambda b, v: _to_mask(b, b.bitcast(b.trunc(v[0], ir.IntType(16)), ir.VectorType(ir.IntType(1), LANES))),
)
"""The lane mask of the lower 16 bits of an int32: what ``bits`` was made of."""
isum = _operation(types.int32, (i32x16,), lambda b, v: _reduce(b, v[0]))
"""The sum of the 16 integers."""
count_bits = _operation(types.int32, (types.int32,), lambda b, v: b.ctpop(v[0]))
bits = _operation(types.int32, (b1x16,), lambda b, v: b.zext(b.bitcast(_to_bool(b, v[0]), ir.IntType(16)), ir.IntType(32)))
"""The lane mask as an int32, lane i at bit i."""


def _load(vector_type: types.Type, llvm_type: ir.VectorType, dtype: types.Type) -> Any:
    @intrinsic
    def load(context: Any, array: Any, index: Any) -> Any:
        if not (isinstance(array, types.Array) and array.dtype == dtype and array.layout == "C"):
            return None
        signature = vector_type(array, types.int64)

        def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
            data = context.make_array(sig.args[0])(context, builder, values[0]).data
            pointer = builder.bitcast(builder.gep(data, [values[1]]), llvm_type.as_pointer())
            return builder.load(pointer, align=4)

        return signature, codegen

    return load


def _store(vector_type: types.Type, llvm_type: ir.VectorType, dtype: types.Type) -> Any:
    @intrinsic
    def store(context: Any, array: Any, index: Any, value: Any) -> Any:
        if not (isinstance(array, types.Array) and array.dtype == dtype and array.layout == "C"):
            return None
        signature = types.void(array, types.int64, vector_type)

        def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
            data = context.make_array(sig.args[0])(context, builder, values[0]).data
            pointer = builder.bitcast(builder.gep(data, [values[1]]), llvm_type.as_pointer())
            builder.store(values[2], pointer, align=4)
            return context.get_dummy_value()

        return signature, codegen

    return store


load = _load(f32x16, _F32, types.float32)
"""16 consecutive float32 of a flat C array from an index on; the caller keeps the index in range."""
iload = _load(i32x16, _I32, types.int32)
store = _store(f32x16, _F32, types.float32)
istore = _store(i32x16, _I32, types.int32)


def _splat_at(context: Any, array: Any, index: Any) -> Any:
    """array[index] in all lanes, for a flat C array of float32; no test for negative indices."""
    if not (isinstance(array, types.Array) and array.dtype == types.float32 and array.layout == "C"):
        return None

    def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        data = context.make_array(sig.args[0])(context, builder, values[0]).data
        return _splat(builder, builder.load(builder.gep(data, [values[1]])), _F32)

    return f32x16(array, types.int64), codegen


splat_at: Any = intrinsic(_splat_at)


def _gather_of(dtype: Any, name: str, doc: str) -> Any:
    """An intrinsic: array[start + index] for 16 int32 indices into a flat C array of ``dtype``; the caller keeps them in range.

    Plain loads: faster than the gather instruction of most processors, and free of branches. Shorter numbers are read as
    unsigned.
    """

    def gather(context: Any, array: Any, start: Any, index: Any) -> Any:
        if not (isinstance(array, types.Array) and array.dtype == dtype and array.layout == "C"):
            return None

        def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
            data = context.make_array(sig.args[0])(context, builder, values[0]).data
            data = builder.gep(data, [values[1]])
            result = ir.Constant(_I32, ir.Undefined)
            for lane in range(LANES):
                at = ir.Constant(ir.IntType(32), lane)
                pointer = builder.gep(data, [builder.sext(builder.extract_element(values[2], at), ir.IntType(64))])
                number = builder.load(pointer)
                if dtype.bitwidth < 32:
                    number = builder.zext(number, ir.IntType(32))
                result = builder.insert_element(result, number, at)
            return result

        return i32x16(array, types.int64, i32x16), codegen

    gather.__name__, gather.__doc__ = name, doc
    return intrinsic(gather)


gather: Any = _gather_of(types.int32, "gather", "array[start + index] of int32.")
gather16: Any = _gather_of(types.int16, "gather16", "array[start + index] of int16, read as unsigned: 0 .. 65535 each.")


def _add_four(context: Any, out: Any, index: Any, array: Any, lane: Any, value: Any) -> Any:
    """out[index + k] += array[lane + k] + value for k = 0 .. 3, flat C arrays of int32."""
    if not all(isinstance(a, types.Array) and a.dtype == types.int32 and a.layout == "C" for a in (out, array)):
        return None
    four = ir.VectorType(ir.IntType(32), 4)

    def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        def place(kind: Any, array: Any, index: Any) -> Any:
            data = context.make_array(kind)(context, builder, array).data
            return builder.bitcast(builder.gep(data, [index]), four.as_pointer())

        to = place(sig.args[0], values[0], values[1])
        more = builder.load(place(sig.args[2], values[2], values[3]), align=4)
        one = builder.insert_element(ir.Constant(four, ir.Undefined), values[4], ir.Constant(ir.IntType(32), 0))
        all_four = builder.shuffle_vector(one, ir.Constant(four, ir.Undefined), ir.Constant(four, [0] * 4))
        builder.store(builder.add(builder.load(to, align=4), builder.add(more, all_four)), to, align=4)
        return context.get_dummy_value()

    return types.void(out, types.int64, array, types.int64, types.int32), codegen


add_four: Any = intrinsic(_add_four)


def _prefetch(context: Any, array: Any, index: Any) -> Any:
    """Bring the cache line of array[index] near; any index will do."""
    if not (isinstance(array, types.Array) and array.layout == "C"):
        return None

    def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        data = context.make_array(sig.args[0])(context, builder, values[0]).data
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        function_type = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        name = "llvm.prefetch.p0"
        function = cgutils.get_or_insert_function(builder.module, function_type, name)  # type: ignore[no-untyped-call]
        pointer = builder.bitcast(builder.gep(data, [values[1]]), byte)
        builder.call(function, [pointer, *(ir.Constant(number, n) for n in (0, 3, 1))])  # read, keep, data
        return context.get_dummy_value()

    return types.void(array, types.int64), codegen


prefetch: Any = intrinsic(_prefetch)


def _trailing_zeros(context: Any, value: Any) -> Any:
    """Index of the lowest set bit of an int32 that is not zero."""

    def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        return builder.cttz(values[0], ir.Constant(ir.IntType(1), 1))

    return types.int32(types.int32), codegen


trailing_zeros: Any = intrinsic(_trailing_zeros)
