"""What a model may become: bounds that are checked before the memory is taken."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from graphlib import CycleError, TopologicalSorter
from math import inf, prod

import onnx_ir as ir

from ..errors import InputError
from ..graph import Array, all_graphs
from ..storage.tensors import all_tensors
from .wire import MAX_NODES

COUNTLESS = 10**15

MAX_CALLS = 200
"""Functions inside functions: inlining writes the names of all callers into each node."""

Calls = dict[ir.OperatorIdentifier, list[ir.OperatorIdentifier]]


def check_expansion(model: ir.Model, where: str) -> None:
    """Raise ``InputError`` where putting functions in the place of their calls explodes.

    Forty functions that each call the one before twice are 2^40 nodes. Functions that call each
    other in a circle are let pass: the inliner names them.
    """
    bodies = {name: list(_operators(f.graph)) for name, f in model.functions.items()}
    calls: Calls = {name: [c for c in made if c in bodies] for name, made in bodies.items()}
    try:
        order = list(TopologicalSorter(calls).static_order())
    except CycleError:
        return
    sizes: dict[ir.OperatorIdentifier, int] = {}
    depths: dict[ir.OperatorIdentifier, int] = {}
    for name in order:
        depths[name] = 1 + max((depths[called] for called in calls[name]), default=0)
        size = sum(sizes.get(called, 1) for called in bodies[name])
        sizes[name] = min(size, COUNTLESS)  # or the sums themselves would explode
    if max(depths.values(), default=0) > MAX_CALLS:
        raise InputError(
            f"the functions of the model call each other {max(depths.values()):,} deep; "
            f"planish takes {MAX_CALLS}",
            where=where,
            hint="do not trust this file unless you know who made it",
        )
    total = sum(sizes.get(called, 1) for called in _operators(model.graph))
    if total > MAX_NODES:
        raise InputError(
            f"the functions of the model would become {_count(total)} nodes; planish takes "
            f"{MAX_NODES:,}",
            where=where,
            hint="do not trust this file unless you know who made it",
        )


def check_kept_functions(model: ir.Model, where: str) -> None:
    """Raise ``InputError`` where the body of a function names a file: nobody looks after it."""
    for function in model.functions.values():
        for name, tensor in all_tensors(function.graph):
            if isinstance(tensor, ir.ExternalTensor):
                raise InputError(
                    f"{name!r} in function {function.domain}.{function.name} lies in another file",
                    where=where,
                    hint="save the model with this tensor inside the file",
                )


def check_sizes(model: ir.Model, available: int | None, where: str) -> None:
    """Raise ``InputError`` for a value whose fixed shape alone exceeds the memory at hand.

    available: bytes, None where nobody knows. Values of unknown size are let pass.
    """
    if available is None:
        return
    for value in _values(model):
        size = _bytes(value)
        if size > available:
            raise InputError(
                f"{value.name!r} takes {size / 1e9:,.0f} GB by its shape "
                f"{value.shape}, more than the {available / 1e9:,.1f} GB this machine has free",
                where=where,
                hint="check the shape; export the model with smaller or symbolic sizes",
            )


def made_elements(op_type: str, inputs: Sequence[Array]) -> float:
    """How many elements an operator makes of a few numbers; 0 for those that make no more of them.

    inputs: in order. ``ConstantOfShape`` makes as many as its shape says, ``Range`` as fit.
    """
    if op_type == "ConstantOfShape" and len(inputs) == 1:
        return prod(max(int(size), 0) for size in inputs[0].reshape(-1))
    if op_type == "Range" and len(inputs) == 3 and all(a.size == 1 for a in inputs):
        start, limit, delta = (float(a.reshape(-1)[0]) for a in inputs)
        return max((limit - start) / delta, 0.0) if delta else inf
    return 0


def _values(model: ir.Model) -> Iterator[ir.Value]:
    for graph in all_graphs(model):
        yield from graph.inputs
        yield from (output for node in graph for output in node.outputs)


def _bytes(value: ir.Value) -> int:
    dtype, shape = value.dtype, value.shape
    if dtype is None or shape is None or dtype in (ir.DataType.STRING, ir.DataType.UNDEFINED):
        return 0
    sizes = [d for d in shape if isinstance(d, int)]
    return prod(sizes) * dtype.bitwidth // 8 if len(sizes) == len(shape) else 0


def _operators(graph: ir.Graph) -> Iterator[ir.OperatorIdentifier]:
    return (node.op_identifier() for inner in all_graphs(graph) for node in inner)


def _count(nodes: int) -> str:
    return "countless" if nodes >= COUNTLESS else f"{nodes:,}"
