"""A Triton kernel that does nothing but fused multiply-adds: what a device's fp32 units really reach."""

from __future__ import annotations

import triton
import triton.language as tl

CHAINS = 8
"""Independent chains a thread: more than the latency of an FMA asks for."""
UNROLLED = 16


@triton.jit
def multiply_add(out, turns, LANES: tl.constexpr, UNROLLED: tl.constexpr):
    """LANES elements a program in 8 registers' chains each; UNROLLED FMAs of every chain a turn."""
    at = tl.program_id(0) * LANES + tl.arange(0, LANES)
    x = at.to(tl.float32) * 1e-9
    a, b, c, d = x, x + 1, x + 2, x + 3
    e, f, g, h = x + 4, x + 5, x + 6, x + 7
    scale = 0.999 + x * 1e-9  # no constant: the compiler must not know it
    for _ in range(turns):
        for _ in tl.static_range(UNROLLED):
            a = a * scale + x
            b = b * scale + x
            c = c * scale + x
            d = d * scale + x
            e = e * scale + x
            f = f * scale + x
            g = g * scale + x
            h = h * scale + x
    tl.store(out + at, a + b + c + d + e + f + g + h)
