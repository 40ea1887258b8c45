"""Attributes that count groups and heads."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from ..graph import attribute, given, operator
from .attention import Heads, heads_of
from .labels import CannotCutError
from .relations import DATA
from .repair import Cut, Repair, Setting


def conv(node: ir.Node, cut: Cut) -> Iterable[Repair]:
    """Groups that are left: channels of one side over channels of one group."""
    groups, weight = int(attribute(node, "group", 1)), node.inputs[1]
    if groups == 1:
        return
    side = node.inputs[0] if node.op_type == "Conv" else node.outputs[0]
    if not cut.has(side, 1) and not cut.has(weight, 1):
        return
    left = cut.after(side, 1) // cut.after(weight, 1)
    if left != groups:
        yield Setting(node, "group", left)


def group_norm(node: ir.Node, cut: Cut) -> Iterable[Repair]:
    """As many groups as are left, of the width that they have."""
    x, groups = node.inputs[0], int(attribute(node, "num_groups", 1))
    if x is not None and cut.has(x, 1):
        yield Setting(node, "num_groups", cut.after(x, 1) * groups // cut.sizes[x, 1])


def attention(node: ir.Node, cut: Cut) -> Iterable[Repair]:
    """The numbers of heads that are left, from the axes of queries and keys."""
    heads = heads_of(node, cut.table)
    if heads is None:
        return
    if operator(node) == ("com.microsoft", "Attention"):
        yield from _packed(node, cut, heads)
        return
    queries = _heads_left(node.inputs[0], heads.queries, cut)
    key = given(node, 1)
    if key is None:  # packed: as many of each as before
        queries = pairs = _heads_left(node.inputs[0], heads.queries + 2 * heads.pairs, cut)
        queries, pairs = pairs * heads.queries, pairs * heads.pairs
        whole = heads.queries + 2 * heads.pairs
        queries, pairs = queries // whole, pairs // whole
    else:
        pairs = _heads_left(key, heads.pairs, cut)
    names = ("num_heads" if node.domain else "q_num_heads", "kv_num_heads")
    for name, old, new in zip(names, (heads.queries, heads.pairs), (queries, pairs), strict=True):
        if attribute(node, name) and new != old:
            yield Setting(node, name, new)


def _heads_left(value: ir.Value | None, heads: int, cut: Cut) -> int:
    """How many of the heads that a tensor holds stay."""
    assert value is not None
    axis = 2 if len(cut.table.of(value) or ()) == 3 else 1
    before = cut.table.length(value, axis)
    if before is None:
        raise CannotCutError(DATA, f"an axis of {value.name!r} has no known size")
    return cut.after(value, axis) * heads // before


def _packed(node: ir.Node, cut: Cut, heads: Heads) -> Iterable[Repair]:
    weight = node.inputs[1]
    assert weight is not None
    if not cut.has(weight, 1):
        return
    columns = cut.sizes[weight, 1]
    sizes = list(attribute(node, "qkv_hidden_sizes", (columns // 3,) * 3))
    kept, ends = cut.kept[weight, 1], np.cumsum([0, *sizes])
    new = np.diff(np.searchsorted(kept, ends)).tolist()
    left = new[0] * heads.queries // sizes[0]
    if left != heads.queries:
        yield Setting(node, "num_heads", left)
    if attribute(node, "qkv_hidden_sizes") is not None or len(set(new)) > 1:
        yield Setting(node, "qkv_hidden_sizes", new)


def rotary(node: ir.Node, cut: Cut) -> Iterable[Repair]:
    """The number of heads that are left, of an operator of the runtime."""
    heads, x = int(attribute(node, "num_heads", 0) or 0), node.inputs[0]
    if heads and cut.has(x, 2) and len(cut.table.of(x) or ()) == 3:
        yield Setting(node, "num_heads", _heads_left(x, heads, cut))
    elif heads and cut.has(x, 1) and len(cut.table.of(x) or ()) == 4:
        yield Setting(node, "num_heads", cut.after(x, 1))
