"""Attention and rotary embedding as one operator: heads go whole, in groups of keys and values.

Inside every such node stand the axes ``groups`` (heads of keys and values), ``share`` (query heads
of each), ``width`` (of queries and keys, summed over) and ``values`` (width of values).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ..graph import attribute, constant_tensor, given
from .relations import DATA, UNKNOWN, Contract, Holder, Inner, Key, Relations, Same, operand, reason
from .size_table import SizeTable


@dataclass(frozen=True)
class Heads:
    """How many query heads and key/value heads an operator has, as its attributes say."""

    queries: int
    pairs: int

    @property
    def share(self) -> int:
        """Query heads of one head of keys and values."""
        return self.queries // self.pairs


def heads_of(node: ir.Node, table: SizeTable) -> Heads | None:
    """From the attributes, or from the axes of 4-D inputs; None where that makes no sense."""
    names = ("q_num_heads", "kv_num_heads") if not node.domain else ("num_heads", "kv_num_heads")
    queries = int(attribute(node, names[0], 0) or 0)
    pairs = int(attribute(node, names[1], 0) or 0)
    if not queries and not node.domain:
        sizes = [table.of(given(node, i)) for i in (0, 1)]
        if any(size is None or len(size) != 4 for size in sizes):
            return None
        found = [table.length(node.inputs[i], 1) for i in (0, 1)]  # type: ignore[arg-type]
        queries, pairs = found[0] or 0, found[1] or 0
    pairs = pairs or queries
    return Heads(queries, pairs) if pairs and queries % pairs == 0 else None


class _Fused:
    """Relates the tensors of one node with the axes inside it."""

    def __init__(self, found: Relations, table: SizeTable, heads: Heads) -> None:
        self.found, self.table, self.heads = found, table, heads
        node = found.node
        self.groups = (Inner(node, "groups"), 0), heads.pairs
        self.shared = (Inner(node, "share"), 0), heads.share
        self.inner: dict[str, Key] = {n: (Inner(node, n), 0) for n in ("width", "values")}
        why = reason("contraction", node, "sums over the axis, of two activations")
        found.stop(why, self.inner["width"])
        found.otherwise = reason("reduction", node, "computes over the axis")
        found.marks[self.groups[0]] = "heads"
        found.marks[self.inner["values"]] = "features"

    def flat(self, key: Key, size: int, role: str) -> bool:
        """Heads side by side along one axis: those of queries (q, y) or of keys and values."""
        many = self.heads.queries if role in "qy" else self.heads.pairs
        if size % many:
            return False
        inner = self.inner["width" if role in "qk" else "values"], size // many
        middle = [self.shared] if role in "qy" else []
        self.found.fold(key, [self.groups, *middle, inner])
        return True

    def apart(self, holder: Holder | None, axis: int, *, queries: bool) -> None:
        """Heads along an axis of their own."""
        if holder is not None:
            middle = [self.shared] if queries else []
            self.found.fold((holder, axis), [self.groups, *middle])

    def mask(self, index: int) -> None:
        """What is added to the scores [batch, heads, queries, keys], broadcast to them."""
        value = given(self.found.node, index)
        sizes = self.table.of(value)
        if value is None or (sizes is not None and len(sizes) < 3):
            return
        axis = 0 if sizes is None else len(sizes) - 3
        length = None if sizes is None else self.table.length(value, axis)
        if length == self.heads.queries:
            self.apart(operand(self.found.node, index), axis, queries=True)
        elif length != 1:
            why = reason(DATA, self.found.node, "may read scores of each head, or of all")
            self.found.stop(why, self.groups[0], self.shared[0])


def attention(found: Relations, table: SizeTable) -> None:
    """ONNX ``Attention``: 3-D inputs with heads side by side, or 4-D ones."""
    node, heads = found.node, heads_of(found.node, table)
    values = [given(node, i) for i in range(3)]
    ranks = {len(table.of(v) or ()) for v in values}
    if heads is None or None in values or ranks not in ({3}, {4}) or len(node.inputs) > 6:
        return
    fused, y = _Fused(found, table, heads), node.outputs[0]
    parts = [*zip("qkv", values, strict=True), ("y", y)]
    if ranks == {4}:
        for role, value in parts:
            fused.apart(value, 1, queries=role in "qy")
        found.same((values[2], 3), (y, 3))  # type: ignore[arg-type]
        found.marks[y, 3] = "features"
    elif not _side_by_side(fused, table, parts):
        _give_up(found)
        return
    fused.mask(3)
    for index in (4, 5):
        fused.apart(given(node, index), 1, queries=False)
    for place, queries in ((1, False), (2, False), (3, True)):
        fused.apart(_output(node, place), 1, queries=queries)


def _give_up(found: Relations) -> None:
    found.by_key.clear()
    found.otherwise = reason(UNKNOWN, found.node, "has numbers of heads that do not fit its inputs")


def _side_by_side(
    fused: _Fused, table: SizeTable, parts: Sequence[tuple[str, ir.Value | None]]
) -> bool:
    for role, value in parts:
        size = None if value is None else table.length(value, 2)
        if role == "y" and size is None:
            size = _output_size(fused, table)
        if value is None or size is None or not fused.flat((value, 2), size, role):
            return False
    return True


def _output_size(fused: _Fused, table: SizeTable) -> int | None:
    """Of all heads' values together, where inference does not tell."""
    value = given(fused.found.node, 2)
    size = None if value is None else table.length(value, 2)
    return None if size is None else size // fused.heads.pairs * fused.heads.queries


def _output(node: ir.Node, place: int) -> ir.Value | None:
    return node.outputs[place] if place < len(node.outputs) else None


def multi_head(found: Relations, table: SizeTable) -> None:
    """``com.microsoft.MultiHeadAttention`` on three 3-D inputs, a packed bias perhaps."""
    node, heads = found.node, heads_of(found.node, table)
    values = [given(node, i) for i in range(3)]
    if heads is None or any(len(table.of(v) or ()) != 3 for v in values) or len(node.inputs) > 8:
        return
    fused = _Fused(found, table, heads)
    if not _side_by_side(fused, table, [*zip("qkv", values, strict=True), ("y", node.outputs[0])]):
        _give_up(found)
        return
    if given(node, 3) is not None:
        lengths = [table.length(v, 2) or 0 for v in values if v is not None]
        keys: list[Key] = [(v, 2) for v in values if v is not None]
        _segments(found, (operand(node, 3), 0), keys, lengths)
        found.roles[operand(node, 3), 0] = "produces"
    fused.mask(5)
    for holder in (given(node, 6), given(node, 7), _output(node, 1), _output(node, 2)):
        fused.apart(holder, 1, queries=False)


def grouped_query(found: Relations, table: SizeTable) -> None:
    """``com.microsoft.GroupQueryAttention``, queries, keys and values apart or packed in one."""
    node, heads = found.node, heads_of(found.node, table)
    query, y = node.inputs[0], node.outputs[0]
    if heads is None or query is None or len(node.inputs) > 11 or len(table.of(query) or ()) != 3:
        return
    fused = _Fused(found, table, heads)
    packed = given(node, 1) is None
    parts = _packed(fused, table) if packed else [(r, given(node, i)) for i, r in enumerate("qkv")]
    if not parts or not _side_by_side(fused, table, [*parts, ("y", y)] if not packed else parts):
        _give_up(found)
        return
    for holder in (given(node, 3), given(node, 4), _output(node, 1), _output(node, 2)):
        fused.apart(holder, 1, queries=False)
    fused.mask(10)


def _packed(fused: _Fused, table: SizeTable) -> list[tuple[str, ir.Value | None]]:
    """The query holds keys and values, too: relates them, and leaves the output to do."""
    node, heads = fused.found.node, fused.heads
    query, y = node.inputs[0], node.outputs[0]
    assert query is not None
    total = table.length(query, 2)
    if total is None or total % (heads.queries + 2 * heads.pairs):
        return []
    width = total // (heads.queries + 2 * heads.pairs)
    sizes = [heads.queries * width, heads.pairs * width, heads.pairs * width]
    keys: list[Key] = [(Inner(node, role), 0) for role in "qkv"]
    _segments(fused.found, (query, 2), keys, sizes)
    for role, key, size in zip("qkv", keys, sizes, strict=True):
        fused.flat(key, size, role)
    return [("y", y)] if fused.flat((y, 2), sizes[0], "y") else []


def _segments(found: Relations, packed: Key, keys: Sequence[Key], sizes: Sequence[int]) -> None:
    """One axis holds those of several tensors, one after the other."""
    start = 0
    for key, size in zip(keys, sizes, strict=True):
        found.add(Same(packed, key, np.arange(start, start + size), sum(sizes)))
        start += size


def packed_attention(found: Relations, table: SizeTable) -> None:
    """``com.microsoft.Attention``: it holds the packed weight and bias of q, k and v itself."""
    node, heads = found.node, heads_of(found.node, table)
    x, weight, y = node.inputs[0], given(node, 1), node.outputs[0]
    tensor = constant_tensor(weight)
    if heads is None or x is None or weight is None or tensor is None or tensor.shape.rank() != 2:
        return
    fused, columns = _Fused(found, table, heads), int(tensor.shape.numpy()[1])
    sizes = list(attribute(node, "qkv_hidden_sizes", (columns // 3,) * 3))
    if sum(sizes) != columns or len(node.inputs) > 6 or attribute(node, "do_rotary", 0):
        return
    keys: list[Key] = [(Inner(node, role), 0) for role in "qkv"]
    fine = [fused.flat(k, n, r) for r, k, n in zip("qkv", keys, sizes, strict=True)]
    if not all(fine) or not fused.flat((y, 2), sizes[2], "y"):
        _give_up(found)
        return
    found.add(Contract((x, 2), (weight, 0)))
    _segments(found, (weight, 1), keys, sizes)
    found.roles.update({(weight, 0): "consumes", (weight, 1): "produces"})
    if given(node, 2) is not None:
        bias = operand(node, 2), 0
        _segments(found, bias, keys, sizes)
        found.roles[bias] = "produces"
    for holder in (given(node, 4), _output(node, 1)):
        fused.apart(holder, 2, queries=False)
    fused.mask(5)


def rotary(found: Relations, table: SizeTable) -> None:
    """``RotaryEmbedding``: each head turns in itself, the tables of angles are of its width."""
    node, x, y = found.node, found.node.inputs[0], found.node.outputs[0]
    sizes = table.of(x)
    if x is None or sizes is None:
        return
    found.otherwise = reason("reduction", node, "mixes positions of the axis")
    if len(sizes) == 4:
        for axis in range(3):
            found.same((x, axis), (y, axis))
        return
    heads, size = int(attribute(node, "num_heads", 0) or 0), table.length(x, 2)
    if not heads or size is None or size % heads:
        return
    for axis in range(2):
        found.same((x, axis), (y, axis))
    inner: tuple[Key, Key] = ((Inner(node, "heads"), 0), (Inner(node, "width"), 0))
    found.stop(found.otherwise, inner[1])
    for value in (x, y):
        found.fold((value, 2), [(inner[0], heads), (inner[1], size // heads)])
