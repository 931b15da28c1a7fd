"""Numba's missing words: memory by address, and the bits of float32 and float16 numbers."""

# Numba compiles what stands here; its own types are not ours to annotate.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
from typing import Any

from llvmlite import ir
from numba import types
from numba.core.errors import TypingError
from numba.extending import intrinsic

FLOAT32, BFLOAT16, FLOAT16 = 0, 1, 2
"""How kernels name storage types."""


def _intrinsic(function: Any) -> Any:
    """Numba's decorator, which not every version types."""
    return intrinsic(function)


@_intrinsic
def pointer(typingctx: Any, address: Any, kind: Any) -> Any:
    """`address` (int64) as a pointer to `kind`, a NumPy scalar type; for `numba.carray`."""
    if not isinstance(address, types.Integer):
        raise TypingError("an address is an integer")

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

    return types.CPointer(kind.dtype)(types.int64, kind), codegen


@_intrinsic
def float_of(typingctx: Any, bits: Any) -> Any:
    """The float32 whose bits are a uint32."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.uint32), codegen


@_intrinsic
def bits_of(typingctx: Any, number: Any) -> Any:
    """The bits of a float32, as uint32."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.IntType(32))

    return types.uint32(types.float32), codegen


@_intrinsic
def widened(typingctx: Any, bits: Any) -> Any:
    """The float32 of the float16 whose bits are a uint16."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fpext(builder.bitcast(args[0], ir.HalfType()), ir.FloatType())

    return types.float32(types.uint16), codegen


@_intrinsic
def narrowed(typingctx: Any, number: Any) -> Any:
    """The bits, as uint16, of the float16 nearest to a float32 (ties to even)."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(builder.fptrunc(args[0], ir.HalfType()), ir.IntType(16))

    return types.uint16(types.float32), codegen


# Random numbers are in LLVM's words because Numba widens 32-bit integer arithmetic to 64 bits.
# See `random_masks`.


def _shifted(builder: Any, x: Any, by: int) -> Any:
    return builder.xor(x, builder.lshr(x, ir.Constant(ir.IntType(32), by)))


def _multiplied_twice(builder: Any, x: Any) -> Any:
    x = builder.mul(x, ir.Constant(ir.IntType(32), 0x7FEB352D))
    return builder.mul(_shifted(builder, x, 15), ir.Constant(ir.IntType(32), 0x846CA68B))


@_intrinsic
def tensor_word(typingctx: Any, index: Any, key: Any) -> Any:
    """What an element's random numbers for all inputs of a tensor have in common; all uint32."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        x = _shifted(builder, builder.xor(args[0], args[1]), 16)
        return _shifted(builder, _multiplied_twice(builder, x), 16)

    return types.uint32(types.uint32, types.uint32), codegen


@_intrinsic
def input_bits(typingctx: Any, word: Any, key: Any) -> Any:
    """The 24 random bits of one input, from its tensor's word and its key; all uint32."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        x = _multiplied_twice(builder, builder.xor(args[0], args[1]))
        return builder.lshr(x, ir.Constant(ir.IntType(32), 8))

    return types.uint32(types.uint32, types.uint32), codegen
