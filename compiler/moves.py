"""What passes make of a technique: the pipelines that stand for it on a target, fast to slow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..targets.schema import Target

BLOCK = 32
"""Weights that share a scale, where the target's kernels take it."""
Kinds = frozenset[str]


@dataclass(frozen=True)
class Convolutions:
    """What a model's convolutions are like. joined: they meet in additions or concatenations.
    narrow: some have too few channels to pay alone."""

    joined: bool = False
    narrow: bool = False


Pipelines = Callable[[Target, Convolutions], tuple[tuple[str, str], ...]]
"""Pipelines without the lossless clean-up, each with the reason for it."""


@dataclass(frozen=True)
class Move:
    """A technique that passes here make. kinds: of sites that it takes. bits: of a weight, with
    its share of a scale and a zero point where it stands in blocks."""

    pass_name: str
    kinds: Kinds
    bits: int
    pipelines: Pipelines
    needs_data: bool = False


def block_of(target: Target) -> int:
    """The block size nearest to the usual one that the target's kernels take."""
    blocks = target.weight_only.blocks or (BLOCK,)
    return min(blocks, key=lambda block: (abs(block - BLOCK), block))


def _weight_only(bits: int, reason: str) -> Pipelines:
    def pipelines(target: Target, convolutions: Convolutions) -> tuple[tuple[str, str], ...]:
        return ((f"weight-only{options_text(bits, target)}", reason),)

    return pipelines


def options_text(bits: int, target: Target, *more: str) -> str:
    """Of weight-only, those that are not its defaults."""
    options = [f"bits={bits}"] if bits != 4 else []
    options += [f"block={block_of(target)}"] if block_of(target) != BLOCK else []
    options += more
    return f"{{{' '.join(options)}}}" if options else ""


def _static(target: Target, convolutions: Convolutions) -> tuple[tuple[str, str], ...]:
    plain = "quantize{scheme=static}"
    wide = "quantize{scheme=static narrow=true}" if convolutions.narrow else plain
    rounded = target.int8.conv_needs_output_quant  # else nothing gains by rounding in between
    convolutions = convolutions if rounded else Convolutions()
    behind = ",quantize-residuals" if convolutions.joined else ""
    reason = "static ranges cost nothing at run time"
    tighter = "scales moved from activations into weights make static ranges tighter"
    each = [(f"{plain}{behind}", reason), (f"equalize,{wide}{behind}", tighter)]
    if convolutions.narrow:
        one = "with narrow convolutions in integers, too, activations keep one layout"
        each.insert(0, (f"{wide}{behind}", one))
    return tuple(each)


def _float8(target: Target, convolutions: Convolutions) -> tuple[tuple[str, str], ...]:
    reason = "8-bit floats are multiplied at twice the rate of half precision, and lose less"
    return (("quantize-float8", reason),)


def _float4(target: Target, convolutions: Convolutions) -> tuple[tuple[str, str], ...]:
    reason = "weights in 4.5 bits; only large products are faster than in 8-bit floats"
    return (("quantize-float4", reason),)


def _dynamic(target: Target, convolutions: Convolutions) -> tuple[tuple[str, str], ...]:
    return (("quantize", "ranges taken at run time follow each input"),)


RECURRENT = "recurrent"
"""Layers that are no sites: they go through a pass of their own behind the others."""
_TABLES_TOO = frozenset({"linear", "embedding"})
MOVES: dict[str, Move] = {
    "fp8": Move(
        "quantize-float8", frozenset({"linear", "conv"}), 8, _float8, needs_data=True
    ),
    "fp4": Move("quantize-float4", frozenset({"linear"}), 5, _float4, needs_data=True),
    "weight-only-int4": Move(
        "weight-only", _TABLES_TOO, 4, _weight_only(4, "4-bit weights are an eighth to read")
    ),
    "int8-static": Move(
        "quantize", frozenset({"linear", "conv"}), 8, _static, needs_data=True
    ),
    "int8-dynamic": Move("quantize", _TABLES_TOO | {RECURRENT}, 8, _dynamic),
    "weight-only-int8": Move(
        "weight-only", _TABLES_TOO, 8, _weight_only(8, "8-bit weights lose least")
    ),
    "weight-only-int2": Move("weight-only", _TABLES_TOO, 2, _weight_only(2, "2-bit weights")),
}  # fmt: skip
"""By technique; those missing have no pass."""
BY_HAND = {"2:4": "sparsify"}
"""The pass for a technique that is never proposed, where it is not called the same."""
PASSES_FOR = tuple(MOVES)
"""The techniques that planish has passes for."""
FEW_ROWS = (
    "weight-only-int4", "fp8", "fp4", "int8-static", "int8-dynamic", "weight-only-int8",
    "weight-only-int2",
)  # fmt: skip
MANY_ROWS = (
    "fp8", "fp4", "int8-static", "int8-dynamic", "weight-only-int4", "weight-only-int8",
    "weight-only-int2",
)  # fmt: skip
"""Techniques from fast to slow: ranges that are known cost nothing at run time."""
