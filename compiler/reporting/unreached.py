"""What a compile could not even consider: parameters outside of all layers that passes treat."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable

import onnx_ir as ir

from ...ir.counting.count import parameters, value_parameters
from ...ir.graph import all_graphs
from ...ir.provenance import EDIT_KEY
from ...ir.recurrent import rounds_activations
from ...ir.sites import find_sites
from ...passes.quantize_recurrent import is_recurrent

MOVES = frozenset("Slice Split Squeeze Unsqueeze Reshape Transpose Concat Identity Cast".split())
"""Operators that only hand a weight on to the one that computes with it."""
REWRITES = frozenset({"canonicalize", "spelling"})
"""What edits are called that only say the same in other operators."""
WORTH_SAYING = 0.05
"""Share of the parameters from which on a reader is told."""


def unreached(model: ir.Model, spoken_of: Container[str]) -> str:
    """One sentence on the parameters that no site holds; "" where they are few.

    spoken_of: sites inside branches and loops that a remark is about; the others there are no
    part of what passes see, and count as unreached.
    """
    whole = parameters(model)
    left = list(_left(model, spoken_of))
    missing = sum(value_parameters(value) for value in left)
    if missing < WORTH_SAYING * whole or not missing:
        return ""
    share = f"{missing / whole:.0%}" if missing < 0.995 * whole else "all"
    return f"{share} of the parameters are in nodes that no pass treats: {_nodes(model, left)}"


def _left(model: ir.Model, spoken_of: Container[str]) -> Iterable[ir.Value]:
    sites = [s for s in find_sites(model, nested=True) if not s.nested or s.name in spoken_of]
    held = {id(value) for site in sites for value in (site.weight, site.bias)}
    treated = [n for n in model.graph if is_recurrent(n) or rounds_activations(n)]
    held |= {id(value) for node in treated for value in node.inputs if value is not None}
    for graph in all_graphs(model):
        for value in graph.initializers.values():
            if id(value) not in held and not any(map(_treated, _computing(value))):
                yield value


def _treated(node: ir.Node) -> bool:
    """Whether a pass made the node at a site; to be written otherwise is not to be treated."""
    made_by, at_site, _ = node.metadata_props.get(EDIT_KEY, "").partition("-")[2].partition("/")
    return bool(at_site) and made_by not in REWRITES


def _nodes(model: ir.Model, values: Iterable[ir.Value]) -> str:
    """``2 LSTM, 12 Conv inside branches or loops``: who reads these, the most parameters first."""
    sizes: Counter[tuple[str, bool]] = Counter()
    readers: dict[tuple[str, bool], set[int]] = {}
    for value in values:
        for node in _computing(value):
            key = node.op_type, node.graph is not model.graph
            sizes[key] += value_parameters(value)
            readers.setdefault(key, set()).add(id(node))
    common = [key for key, size in sizes.most_common(3) if size]
    return ", ".join(
        f"{len(readers[op, nested])} {op}{' inside branches or loops' if nested else ''}"
        for op, nested in common
    )


def _computing(value: ir.Value) -> Iterable[ir.Node]:
    """The nodes that compute with a constant, behind those that only move it."""
    waiting, seen = [value], set()
    while waiting:
        for node, _ in waiting.pop().uses():
            if id(node) in seen:
                continue
            seen.add(id(node))
            if node.op_type in MOVES and node.outputs[0].uses():
                waiting.extend(node.outputs)
            else:
                yield node
