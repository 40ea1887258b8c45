"""Residual blocks: an attention or feed-forward block f in ``x + f(x)``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import onnx_ir as ir

from .graph import captured_values, is_constant, operator, single_consumer
from .sites import Site, Sites, Use

VIEWS = frozenset(
    ("", op) for op in ("Cast", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
)
"""What stands between a stored weight and the layer that applies it."""


@dataclass(frozen=True, eq=False)
class Residual:
    """site: the block f. skip: x. sum: x + f(x). layer: the last layer of f, at this use."""

    site: Site
    skip: ir.Value
    sum: ir.Value
    layer: Site
    use: Use


def find_residuals(sites: Sites) -> list[Residual]:
    """Blocks of the main graph whose result is added to what they read and to nothing else."""
    found = (_residual(site, sites) for site in sites.of_kind("attention", "ffn"))
    return [residual for residual in found if residual is not None]


def reads_between(start: ir.Value, end: ir.Value) -> list[ir.Value] | None:
    """What the nodes that lead from ``start`` to ``end`` read: ``start``, and values that do not
    depend on it, constants and views of them left out. None where ``end`` does not depend on
    ``start``."""
    leads = _leading(start, end)
    if not leads[end]:
        return None
    between = [value for value, led in leads.items() if led and value is not start]
    nodes = dict.fromkeys(node for value in between if (node := value.producer()) is not None)
    read = dict.fromkeys(v for node in nodes for v in _reads(node) if not _stored(v))
    return [start, *(v for v in read if v is not start and not leads.get(v, False))]


def _stored(value: ir.Value) -> bool:
    """Whether it is a constant, or one that is only turned or spelled in another way."""
    node = value.producer()
    while node is not None and operator(node) in VIEWS and node.inputs[0] is not None:
        value = node.inputs[0]
        node = value.producer()
    return is_constant(value)


def _residual(site: Site, sites: Sites) -> Residual | None:
    result = site.output
    if site.nested or result is None or result.is_graph_output():
        return None
    layer = sites.by_node.get(result.producer())  # type: ignore[arg-type]
    join = single_consumer(result)
    if layer is None or join is None or operator(join) != ("", "Add"):
        return None
    use = next((u for u in layer.uses if u.output is result), None)
    others = [v for v in join.inputs if v is not None and v is not result]
    if use is None or len(others) != 1 or is_constant(others[0]):
        return None
    if reads_between(others[0], result) is None:
        return None
    return Residual(site, others[0], join.outputs[0], layer, use)


def _leading(start: ir.Value, end: ir.Value) -> dict[ir.Value, bool]:
    """Of all values that ``end`` depends on, up to ``start``: whether they depend on it."""
    known: dict[ir.Value, bool] = {start: True}
    todo = [end]
    while todo:
        value = todo[-1]
        node = value.producer()
        if value in known or node is None:
            known.setdefault(value, False)
            todo.pop()
            continue
        missing = [v for v in _reads(node) if v not in known]
        if missing:
            todo.extend(missing)
            continue
        known[value] = any(known[v] for v in _reads(node))
        todo.pop()
    return known


def _reads(node: ir.Node) -> Iterable[ir.Value]:
    return [*(v for v in node.inputs if v is not None), *captured_values(node)]
