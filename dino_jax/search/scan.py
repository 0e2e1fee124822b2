"""The loop over the codes of all rows that finds which of them may be the nearest.

It is one inner product of 8-bit numbers per row, with the instruction that the processor has for
it: vpdpbusd (AVX-512 VNNI: Intel from Ice Lake, AMD from Zen 4), vpmaddwd (AVX2), else whatever
LLVM makes of a multiplication and a sum of 32-bit numbers. All give the same number.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from dino_jax.workdir.host_kernel import kernel

SLACK = 1e-12  # above the rounding of the bounds themselves, which are float64
LANES = 64  # codes of a step; what is left of a row is summed one by one
I8, I32, I64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)
Step = Callable[[Any, Any, Any, Any], Any]


def _call(builder: Any, name: str, result: Any, *operands: Any) -> Any:
    """Calls a function that LLVM knows."""
    kind = ir.FunctionType(result, [one.type for one in operands])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), operands)


def _step_vnni(builder: Any, total: Any, codes: Any, query: Any) -> Any:
    """[16] += 64 products; the first operand has no sign, so codes are moved by 128."""
    moved = builder.xor(codes, ir.Constant(codes.type, [-128] * LANES))
    words = [builder.bitcast(one, total.type) for one in (moved, query)]
    return _call(builder, "llvm.x86.avx512.vpdpbusd.512", total.type, total, *words)


def _step_avx2(builder: Any, total: Any, codes: Any, query: Any) -> Any:
    """[8] += 64 products, 16 at a time."""
    wide = ir.VectorType(ir.IntType(16), 16)
    for start in range(0, LANES, 16):
        places = ir.Constant(ir.VectorType(I32, 16), list(range(start, start + 16)))
        some = [builder.shuffle_vector(one, one, places) for one in (codes, query)]
        words = [builder.sext(one, wide) for one in some]
        total = builder.add(total, _call(builder, "llvm.x86.avx2.pmadd.wd", total.type, *words))
    return total


def _step_plain(builder: Any, total: Any, codes: Any, query: Any) -> Any:
    """[64] += 64 products, on any processor."""
    return builder.add(total, builder.mul(*(builder.sext(x, total.type) for x in (codes, query))))


# A feature of the processor, the number of sums side by side, and what adds to them.
FORMS: tuple[tuple[str, int, Step], ...] = (
    ("avx512vnni", 16, _step_vnni),
    ("avx2", 8, _step_avx2),
    ("", LANES, _step_plain),
)


@intrinsic
def multiply(typing: Any, codes: Any, row: Any, query: Any, steps: Any) -> Any:
    """int32: LANES * steps codes of a row times those of a query, summed up.

    The number is that of a row of zeros too large: subtract it.

    Args:
      typing: of numba.
      codes: [n, d] int8, contiguous.
      row: int64.
      query: [d] int8, contiguous.
      steps: int64, at most d // LANES.
    """
    del typing

    def write(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        # Of the processor that code is made for, which NUMBA_CPU_NAME may change.
        features = context.codegen().magic_tuple()[2].split(",")
        width, step = next(form[1:] for form in FORMS if not form[0] or f"+{form[0]}" in features)
        arrays = [
            context.make_array(signature.args[place])(context, builder, arguments[place])
            for place in (0, 2)
        ]
        starts = [builder.bitcast(array.data, I8.as_pointer()) for array in arrays]
        stride = cgutils.unpack_tuple(builder, arrays[0].strides)[0]
        starts[0] = builder.gep(starts[0], [builder.mul(arguments[1], stride)])
        kind, block = ir.VectorType(I32, width), ir.VectorType(I8, LANES)
        total = cgutils.alloca_once_value(builder, ir.Constant(kind, [0] * width))
        with cgutils.for_range(builder, arguments[3], intp=I64) as loop:
            place = builder.mul(loop.index, ir.Constant(I64, LANES))
            loaded = [
                builder.load(
                    builder.bitcast(builder.gep(start, [place]), block.as_pointer()), align=1
                )
                for start in starts
            ]
            builder.store(step(builder, builder.load(total), *loaded), total)
        return _call(builder, f"llvm.vector.reduce.add.v{width}i32", I32, builder.load(total))

    return types.int32(codes, row, query, steps), write


@kernel
def scan(codes, scales, errors, allowed, query, scale, length, lost, best, rows, uppers):
    """Goes through the rows of a part once; returns how many of them may be among the k nearest.

    Args:
      codes, scales, errors: of the n rows, see `Codes`.
      allowed: [n] uint8; rows with 0 are passed over.
      query: [d] int8 codes of the query.
      scale: float64, what one of its codes stands for.
      length: float64, ||q||.
      lost: float64, ||q - scale query||.
      best: [k] float64, a heap of the largest lower bounds so far, the smallest at 0; kept up to
        date, so that the parts of an index are scanned one after the other.
      rows: [n] int64, receives the rows.
      uppers: [n] float64, receives their upper bounds.
    """
    count, k, steps = 0, len(best), len(query) // LANES
    nothing = multiply(np.zeros((1, len(query)), np.int8), 0, query, steps)  # pyright: ignore
    for i in range(len(codes)):
        if allowed[i] == 0:
            continue
        total = multiply(codes, i, query, steps) - nothing
        for j in range(LANES * steps, len(query)):
            total += codes[i, j] * query[j]
        score = total * scale * scales[i]
        margin = errors[i] * length + lost * (1 + errors[i]) + SLACK
        if score + margin < best[0]:
            continue
        rows[count], uppers[count] = i, score + margin
        count += 1
        lower = score - margin
        if lower > best[0]:
            place = 0
            child = 1
            while child < k:
                if child + 1 < k and best[child + 1] < best[child]:
                    child += 1
                if best[child] >= lower:
                    break
                best[place] = best[child]
                place, child = child, 2 * child + 1
            best[place] = lower
    return count
