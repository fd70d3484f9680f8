"""The PTX at the end of every vote, run by a small emulator of the dozen instructions it is made of.

No machine without a GPU can run PTX, and Triton's interpreter takes the other branch; so its text is read here and compared
with exact arithmetic, pixel by pixel, where rounding is decided by the instructions' definitions (PTX ISA: rounding .rm).
"""

from __future__ import annotations

import math
import re
import struct
from fractions import Fraction

import numpy as np
import pytest

from chorus.kernels.depth import limits_of, pack_depth
from chorus.kernels.masks import PackedMasks

pixels = pytest.importorskip("chorus.kernels.gpu.pixels")
MAGIC = 0x4B400000
WORD = 2**32


def as_float(bits: int) -> float:
    return float(struct.unpack("<f", struct.pack("<I", bits % WORD))[0])


def as_bits(value: float) -> int:
    with np.errstate(over="ignore"):
        return int(np.float32(value).view(np.uint32))


def signed(bits: int) -> int:
    return (bits + 2**31) % WORD - 2**31


def fma_down(a: float, b: float, c: float) -> float:
    """a b + c rounded to float32 towards minus infinity."""
    if not all(map(math.isfinite, (a, b, c))):
        with np.errstate(all="ignore"):
            return float(np.float32(a) * np.float32(b) + np.float32(c))
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    if abs(exact) >= Fraction(2) ** 128:
        return math.inf if exact > 2**129 else (float(np.finfo(np.float32).max) if exact > 0 else -math.inf)
    near = np.float32(float(exact))
    if not np.isfinite(near) or Fraction(float(near)) > exact:
        near = np.nextafter(near, np.float32(-np.inf))
    return float(near)


class Emulator:
    """Runs a block of PTX on one thread: operands by number, memory as bytes from address 0."""

    def __init__(self, code: str, operands: dict[int, int], memory: bytes) -> None:
        self.values: dict[str, int] = {f"${n}": value for n, value in operands.items()}
        self.predicates: dict[str, bool] = {}
        self.memory = memory
        self.reads = 0
        text = re.sub(r"//[^\n]*", "", code).strip().removeprefix("{").removesuffix("}")
        for line in map(str.strip, text.split(";")):
            if line.startswith(".reg"):
                # What a predicate kept from being written holds anything; whatever depends on it must not show.
                self.values.update((name.strip(), 0xDEAD) for name in line.split(None, 2)[2].split(","))
            elif line:
                self.step(line)

    def get(self, name: str) -> int:
        if name.startswith("0f"):
            return int(name[2:], 16)
        if name.lstrip("-").isdigit() or name.startswith("0x"):
            return int(name, 0) % WORD
        return self.values[name]

    def step(self, line: str) -> None:
        if line.startswith("@"):
            guard, line = line.split(None, 1)
            if not self.predicates[guard[1:]]:
                return
        name, rest = line.split(None, 1)
        out, *arguments = [a.strip() for a in rest.split(",")]
        if name == "ld.global.nc.u16":
            address = self.get(arguments[0].strip("[]"))
            assert 0 <= address <= len(self.memory) - 2, "reads outside the masks"
            self.values[out] = int.from_bytes(self.memory[address : address + 2], "little")
            self.reads += 1
            return
        if name.startswith("setp"):
            self.compare(name, out, arguments)
            return
        x = [self.get(a) for a in arguments]
        with np.errstate(all="ignore"):
            result = {
                "rcp.approx.ftz.f32": lambda: as_bits(np.float32(1) / np.float32(as_float(x[0]))),
                "fma.rm.f32": lambda: as_bits(fma_down(*(as_float(v) for v in x))),
                # Only of products that are exact: rounded once, as sums are.
                "fma.rn.f32": lambda: as_bits(np.float32(as_float(x[0]) * as_float(x[1])) + np.float32(as_float(x[2]))),
                "mul.rn.f32": lambda: as_bits(np.float32(as_float(x[0])) * np.float32(as_float(x[1]))),
                "min.f32": lambda: as_bits(np.fmin(np.float32(as_float(x[0])), np.float32(as_float(x[1])))),
                "cvt.rn.f32.u32": lambda: as_bits(np.float32(x[0])),
                "add.s32": lambda: x[0] + x[1],
                "sub.s32": lambda: x[0] - x[1],
                "and.b32": lambda: x[0] & x[1],
                "shr.u32": lambda: x[0] >> min(x[1], 32),
                "mad.lo.s32": lambda: x[0] * x[1] + x[2],
                "mad.wide.u32": lambda: x[0] * x[1] + x[2],
                "cvt.u32.u16": lambda: x[0],
                "mov.b32": lambda: x[0],
            }[name]()
        self.values[out] = result if name == "mad.wide.u32" else result % WORD

    def compare(self, name: str, out: str, arguments: list[str]) -> None:
        a, b = self.get(arguments[0]), self.get(arguments[1])
        true = as_float(a) > as_float(b) if name in ("setp.gt.f32", "setp.gt.and.f32") else a < b
        assert name in ("setp.gt.f32", "setp.gt.and.f32", "setp.lt.u32", "setp.lt.and.u32")
        if ".and." in name:
            true = true and self.predicates[arguments[2]]
        self.predicates[out] = true


WIDTH, HEIGHT = 70, 40
CENTRE = (33, 21)


def example(rng: np.random.Generator) -> tuple[np.ndarray, PackedMasks, int, int, int, int]:
    """A mask in the middle of its image, and the corner, width and height of its blocks."""
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[18:37, 21:60] = rng.random((19, 39)) < 0.5
    packed = PackedMasks.pack([mask])
    x0, y0, x1, y1 = packed.box[0].tolist()
    left, top = x0 // 16 * 16, y0 // 16 * 16
    return mask, packed, left, top, -(-x1 // 16) * 16 - left, -(-y1 // 16) * 16 - top


def points(rng: np.random.Generator, count: int) -> np.ndarray:
    """(U, V, Z) float32: in and around the image, exactly on pixel edges, behind the camera, far out, and no numbers at all."""
    z = np.exp(rng.normal(0, 1, count)) * np.where(rng.random(count) < 0.1, -1, 1)
    u, v = rng.uniform(-60, 60, count), rng.uniform(-40, 40, count)
    edge = rng.random(count) < 0.2
    z[edge] = 2.0 ** rng.integers(-3, 4, edge.sum())
    u[edge], v[edge] = np.floor(u[edge]), np.floor(v[edge])
    uvz = np.stack([u * z, v * z, z], 1)
    far = rng.random(count) < 0.1
    uvz[far, :2] *= 10.0 ** rng.uniform(2, 30, (far.sum(), 2))
    special = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-42, 3e38, -3e38]
    odd = rng.random((count, 3)) < 0.03
    uvz[odd] = rng.choice(special, odd.sum())
    return uvz.astype(np.float32)


def expected_pixel(u: float, v: float, z: float) -> tuple[int, int] | None:
    """floor(U r), floor(V r) plus the centre, r = 1 / Z in float32; None where there is none."""
    with np.errstate(all="ignore"):
        r = float(np.float32(1) / np.float32(z))
    if not all(map(math.isfinite, (u, v, r))):
        return None
    pixel = [math.floor(Fraction(a) * Fraction(r)) + c for a, c in zip((u, v), CENTRE, strict=True)]
    return pixel[0], pixel[1]


@pytest.mark.parametrize("weight", [1, 255])
def test_counts_are_those_of_exact_arithmetic(weight: int) -> None:
    rng = np.random.default_rng(weight)
    mask, packed, left, top, wide, high = example(rng)
    memory = b"\xff" * 64 + packed.words.tobytes()
    met = {"on": 0, "in": 0, "out": 0}
    name = "_WEIGHTED" if weight > 1 else ""
    both, on_mask = (getattr(pixels, f"_COUNT_{what}{name}").value for what in ("VOTES", "ON_MASK"))
    inside_code = pixels._INSIDE.value
    for u, v, z in points(rng, 3000).tolist():
        pixel = expected_pixel(u, v, z)
        inside = z > 0 and pixel is not None and 0 <= pixel[0] < WIDTH and 0 <= pixel[1] < HEIGHT
        bit = bool(inside and pixel is not None and mask[pixel[1], pixel[0]])
        common = {
            1: 7 * 0x10000 + 5,
            2: as_bits(u),
            3: as_bits(v),
            4: as_bits(z),
            5: (CENTRE[0] - left - MAGIC) % WORD,
            6: (CENTRE[1] - top - MAGIC) % WORD,
            7: wide,
            8: high,
            9: (wide - 16) % WORD,
            10: 64,
            11: weight,
        }
        ran = Emulator(both, {**common, 12: left, 13: top, 14: WIDTH, 15: HEIGHT}, memory)
        assert ran.values["$0"] == common[1] + weight * (0x10000 * inside + bit), (u, v, z)
        met["on" if bit else "in" if inside else "out"] += 1
        where = {5: (CENTRE[0] - MAGIC) % WORD, 6: (CENTRE[1] - MAGIC) % WORD, 7: WIDTH, 8: HEIGHT, 9: weight}
        ran = Emulator(inside_code, {**{k: common[k] for k in (1, 2, 3, 4)}, **where}, memory)
        assert ran.values["$0"] == common[1] + weight * inside, (u, v, z)
        if z > 0:
            ran = Emulator(on_mask, common, memory)
            assert ran.values["$0"] == common[1] + weight * bit, (u, v, z)
        # An image of no size and a mask of no blocks: what lies beyond the last image of a list.
        ran = Emulator(both, {**common, 7: 0, 8: 0, 12: left, 13: top, 14: 0, 15: 0}, memory)
        assert (ran.values["$0"], ran.reads) == (common[1], 0)
    assert min(met.values()) > 100, met


@pytest.mark.parametrize(("weight", "shift", "scale"), [(1, 1, 1.0), (255, 0, 2.0**-9), (1, 2, 2.0**7)])
def test_hidden_votes_are_those_of_exact_arithmetic(weight: int, shift: int, scale: float) -> None:
    """By the limits of ``kernels.depth``, pixel by pixel; nothing is read of a body that a vote does not meet."""
    rng = np.random.default_rng([weight, shift])
    mask, packed, left, top, wide, high = example(rng)
    cells = rng.uniform(0.1, 1.0, (((HEIGHT - 1) >> shift) + 1, ((WIDTH - 1) >> shift) + 1))
    rows, columns = cells.shape
    cells[(rng.random(cells.shape) < 0.2) | (np.arange(columns) < 0.3 * columns) | (np.arange(rows)[:, None] > 0.8 * rows)] = (
        np.inf
    )
    depth = pack_depth([cells], [shift], margin=0.0625)
    limits = limits_of(depth, 0, HEIGHT, WIDTH).numpy()
    x0, y0, x1, y1 = depth.box[0].tolist()
    assert x0 > 0
    body = depth.values.numpy().tobytes()
    words = b"\xff" * 64 + packed.words.tobytes()
    memory = words + b"\xff" * (-len(words) % 64) + body
    limit = float(depth.limit[0])
    met = {"hidden": 0, "on": 0, "before": 0, "out": 0}
    code = getattr(pixels, "_COUNT_HIDDEN" + "_WEIGHTED" * (weight > 1)).value
    for u, v, z in points(rng, 1500).tolist():
        pixel = expected_pixel(u, v, z)
        inside = z > 0 and pixel is not None and 0 <= pixel[0] < WIDTH and 0 <= pixel[1] < HEIGHT
        beyond = z - limits[pixel[1], pixel[0]] if inside and pixel is not None else -np.inf
        if abs(beyond) < 1e-5 * max(z, 1):
            continue  # float32 may take it for either
        bit = bool(beyond > 0 and pixel is not None and mask[pixel[1], pixel[0]])
        operands = {
            1: 7 * 0x10000 + 5,
            2: as_bits(u / scale),
            3: as_bits(v / scale),
            4: as_bits(z / scale),
            5: (CENTRE[0] - left - MAGIC) % WORD,
            6: (CENTRE[1] - top - MAGIC) % WORD,
            7: wide,
            8: high,
            9: (wide - 16) % WORD,
            10: 64,
            11: weight,
            12: left,
            13: top,
            14: WIDTH,
            15: HEIGHT,
            16: shift,
            17: x0,
            18: y0,
            19: x1 - x0,
            20: y1 - y0,
            21: len(memory) - len(body),
            22: as_bits(scale),
            23: as_bits(-limit),
        }
        if not all(np.isfinite(as_float(operands[k])) for k in (2, 3, 4)):
            continue
        ran = Emulator(code, operands, memory)
        assert ran.values["$0"] == operands[1] + weight * (0x10000 * (beyond > 0) + bit), (u, v, z)
        met["on" if bit else "hidden" if beyond > 0 else "before" if inside else "out"] += 1
        for nothing in ({14: 0, 15: 0}, {19: 0, 20: 0}) if beyond > 0 else ():  # no image; no body
            ran = Emulator(code, {**operands, 7: 0, 8: 0, **nothing}, memory)
            assert (ran.values["$0"], ran.reads) == (operands[1], 0)
    assert min(met.values()) > 10, met


def test_the_emulated_rounding() -> None:
    assert fma_down(1.0, 1.0, 2.0**23) == 2.0**23 + 1
    assert fma_down(-0.25, 1.0, 1.5 * 2.0**23) == 1.5 * 2.0**23 - 1
    assert fma_down(0.75, 1.0, 1.5 * 2.0**23) == 1.5 * 2.0**23
    assert signed(as_bits(fma_down(-3.5, 1.0, 1.5 * 2.0**23)) - MAGIC) == -4
