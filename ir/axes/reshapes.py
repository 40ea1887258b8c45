"""Reshape and Flatten: which axes of one side are made of which of the other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from ..graph import attribute
from .relations import DATA, Inner, Key, Relations, reason
from .size_table import SizeTable
from .sizes import ONE, Size, Sizes, divided, number, product, times

Part: TypeAlias = tuple[Key, Size]


@dataclass(frozen=True)
class Block:
    """Axes [a, b) of the input hold the same elements, in order, as axes [c, d) of the output."""

    ins: tuple[int, int]
    outs: tuple[int, int]
    exact: bool = True
    """Whether the sizes say so; else it is only what is left between blocks."""


def reshape(found: Relations, table: SizeTable) -> None:
    """Sizes from the target where inference left them open."""
    out = table.reshaped(found.node)
    _related(found, table, out if out is not None else table.of(found.node.outputs[0]))


def flatten(found: Relations, table: SizeTable) -> None:
    """All axes before ``axis`` become one, and all others."""
    sizes = table.of(found.node.inputs[0])
    if sizes is None:
        return
    axis = int(attribute(found.node, "axis", 1))
    axis += len(sizes) if axis < 0 else 0
    _related(found, table, (product(sizes[:axis]), product(sizes[axis:])))


def _related(found: Relations, table: SizeTable, out: Sizes | None) -> None:
    x, y = found.node.inputs[0], found.node.outputs[0]
    sizes = table.of(x)
    if x is None or sizes is None or out is None:
        found.otherwise = reason(DATA, found.node, "has a target that is not known")
        return
    found.otherwise = reason(DATA, found.node, "mixes the axis with one of unknown size")
    for number_, block in enumerate(blocks(sizes, out)):
        ins: list[Part] = [((x, axis), sizes[axis]) for axis in range(*block.ins)]
        outs: list[Part] = [((y, axis), out[axis]) for axis in range(*block.outs)]
        _relate(found, ins, outs, (Inner(found.node, f"block{number_}"), 0))


def blocks(ins: Sizes, outs: Sizes) -> list[Block]:
    """The smallest blocks, from the front and from the back; what is left between is one."""
    front = _matched(ins, outs)
    i, j = (front[-1].ins[1], front[-1].outs[1]) if front else (0, 0)
    back = _matched(ins[i:][::-1], outs[j:][::-1])
    n, m = len(ins), len(outs)
    turned = [Block((n - b.ins[1], n - b.ins[0]), (m - b.outs[1], m - b.outs[0])) for b in back][
        ::-1
    ]
    stop_in, stop_out = (turned[0].ins[0], turned[0].outs[0]) if turned else (n, m)
    middle = (
        [Block((i, stop_in), (j, stop_out), exact=False)] if i < stop_in and j < stop_out else []
    )
    return front + middle + turned


def _matched(ins: Sequence[Size], outs: Sequence[Size]) -> list[Block]:
    found: list[Block] = []
    i = j = 0
    while i < len(ins) and j < len(outs):
        block = _block(ins, outs, i, j)
        if block is None:
            break
        found.append(block)
        i, j = block.ins[1], block.outs[1]
    return found


def _block(ins: Sequence[Size], outs: Sequence[Size], i: int, j: int) -> Block | None:
    """The smallest block that starts at these axes; None where sizes do not show one."""
    a, b = i + 1, j + 1
    left, right = ins[i], outs[j]
    while left != right:
        if a < len(ins) and (divided(right, left) is not None or ins[a] == ONE):
            left, a = times(left, ins[a]), a + 1
        elif b < len(outs) and (divided(left, right) is not None or outs[b] == ONE):
            right, b = times(right, outs[b]), b + 1
        else:
            return None
    return Block((i, a), (j, b))


def _relate(found: Relations, ins: list[Part], outs: list[Part], flat: Key) -> None:
    """Both sides are folds of one flat axis, or of its period where outer axes are dynamic."""
    ins, outs = _wide(ins), _wide(outs)
    if len(ins) == len(outs) == 1 and ins[0][1] == outs[0][1]:
        found.same(ins[0][0], outs[0][0])
        return
    period = max(_inner(ins), _inner(outs))
    left, right = _parts(ins, period), _parts(outs, period)
    if left is None or right is None or period == 1:
        return
    if len(left) == 1 or len(right) == 1:
        (single,), many = (left, right) if len(left) == 1 else (right, left)
        found.fold(single[0], many)
        return
    found.fold(flat, left)
    found.fold(flat, right)


def _wide(parts: list[Part]) -> list[Part]:
    return [part for part in parts if part[1] != ONE]


def _inner(parts: Sequence[Part]) -> int:
    """The product of the plain sizes behind the last dynamic one."""
    found = 1
    for _, size in reversed(parts):
        plain = number(size)
        if plain is None:
            break
        found *= plain
    return found


def _parts(parts: Sequence[Part], period: int) -> list[tuple[Key, int]] | None:
    """The parts that make up one period; None where that is not known.

    An outermost axis of dynamic size holds the rest of the period again and again.
    """
    found: list[tuple[Key, int]] = []
    for place in reversed(range(len(parts))):
        key, size = parts[place]
        done = math.prod(width for _, width in found)
        plain = number(size)
        if done == period:
            break
        if plain is None:
            if place > 0 or period % done:
                return None
            plain = period // done
        found.insert(0, (key, plain))
    return found if math.prod(width for _, width in found) == period else None
