"""Which axes of a PyTorch module's inputs stay free: guesses from examples, names in the graph."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx_ir as ir

from ..graph import all_graphs

if TYPE_CHECKING:
    import torch

Axes = dict[str, dict[int, str]]
"""Input name -> axis -> the name of its size."""

BATCH, SEQUENCE = "batch", "sequence"


@dataclass(frozen=True)
class Attempt:
    """One guess; label: how remarks call it."""

    label: str
    axes: Axes


def attempts(tensors: Mapping[str, torch.Tensor]) -> list[Attempt]:
    """What to try, the freest first: batch and sequence, batch alone, nothing.

    Batch is axis 0 of all inputs that agree with the first one's size there. Sequence is axis 1
    of integer inputs of rank 2 and 3, of floats of rank 3, and of floats of rank 2 that agree
    with an integer input there (a mask beside token ids).
    """
    batch, sequence = _batch_inputs(tensors), _sequence_inputs(tensors)
    both: Axes = {name: {0: BATCH} for name in batch}
    for name in sequence:
        both.setdefault(name, {})[1] = SEQUENCE
    found = [Attempt("batch and sequence", both)] if sequence else []
    if batch:
        found.append(Attempt(BATCH, {name: {0: BATCH} for name in batch}))
    return [*found, Attempt("fixed sizes", {})]


def name_axes(model: ir.Model, axes: Axes) -> None:
    """Call the sizes of the inputs by the names wanted, wherever the graph speaks of them.

    Two sizes that nothing in the model ties together keep two names, the second one with its
    input's (``batch_query``).
    """
    names: dict[str, str] = {}
    for value in model.graph.inputs:
        for axis, wanted in axes.get(value.name or "", {}).items():
            symbol = _symbol(value, axis)
            if symbol and symbol not in names:
                free = wanted not in names.values()
                names[symbol] = wanted if free else f"{wanted}_{value.name}"
    _rename_symbols(model, names)


def guessed_names(model: ir.Model) -> Axes:
    """Names for free axes that have an exporter's: the first is the batch, a second a sequence."""
    wanted = {0: BATCH, 1: SEQUENCE}
    return {
        value.name or "": {axis: wanted[axis] for axis in wanted if _symbol(value, axis)}
        for value in model.graph.inputs
    }


def fixed_axes(model: ir.Model, axes: Axes) -> list[tuple[str, int]]:
    """The axes of ``axes`` that have one size in the graph nevertheless, as (input, axis)."""
    inputs = {value.name or "": value for value in model.graph.inputs}
    return [
        (name, axis)
        for name, wanted in axes.items()
        for axis in wanted
        if name in inputs and _symbol(inputs[name], axis) is None
    ]


def free_sizes(model: ir.Model) -> dict[str, list[tuple[str, int]]]:
    """Name of each free size of the inputs -> where it stands, as (input, axis)."""
    found: dict[str, list[tuple[str, int]]] = {}
    for value in model.graph.inputs:
        for axis in range(len(value.shape or ())):
            symbol = _symbol(value, axis)
            if symbol:
                found.setdefault(symbol, []).append((value.name or "", axis))
    return found


def _batch_inputs(tensors: Mapping[str, torch.Tensor]) -> list[str]:
    sizes = {name: len(t) for name, t in tensors.items() if t.ndim}
    first = next(iter(sizes.values()), None)
    return [name for name, size in sizes.items() if size == first]


def _sequence_inputs(tensors: Mapping[str, torch.Tensor]) -> list[str]:
    integers = [n for n, t in tensors.items() if not t.is_floating_point() and t.ndim in (2, 3)]
    lengths = {tensors[name].shape[1] for name in integers}
    floats = [
        name
        for name, t in tensors.items()
        if t.is_floating_point() and (t.ndim == 3 or (t.ndim == 2 and t.shape[1] in lengths))
    ]
    return [name for name in tensors if name in integers or name in floats]


def _symbol(value: ir.Value, axis: int) -> str | None:
    if value.shape is None or axis >= len(value.shape):
        return None
    size = value.shape[axis]
    return size.value if isinstance(size, ir.SymbolicDim) else None


def _rename_symbols(model: ir.Model, names: Mapping[str, str]) -> None:
    """Sizes may be expressions (``2*s77``): their words are renamed one by one."""

    def renamed(text: str) -> str:
        return re.sub(r"[A-Za-z_]\w*", lambda word: names.get(word[0], word[0]), text)

    for graph in all_graphs(model):
        outputs = (value for node in graph for value in node.outputs)
        for value in {id(v): v for v in (*graph.inputs, *graph.outputs, *outputs)}.values():
            if value.shape is None or value.shape.is_static():
                continue
            value.shape = ir.Shape(
                renamed(d.value) if isinstance(d, ir.SymbolicDim) and d.value else d
                for d in value.shape
            )
