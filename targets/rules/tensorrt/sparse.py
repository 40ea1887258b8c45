"""Rules on weights with zeros in a pattern: whether kernels that skip zeros will be used.

The pattern is that of the target, with NVIDIA two zeros in every four consecutive numbers along the
axis that is summed over, as its own checker reads it (Polygraphy, ``inspect sparsity``). All of it
is advice: TensorRT times sparse and dense kernels when it builds and takes the faster one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ....ir.finding.pattern import along, follows
from ....ir.graph import attribute, constant_tensor, dims, given, producer
from ....ir.storage.stream import is_packed, little, pieces
from ...schema import Target
from ..layers import Layer
from ..rule import Finding, Rule, View
from .layers import FILTERS, output_axis, summed_axis
from .scope import where

PATTERN = "2:4"
"""That of NVIDIA's tensor cores: spoken of where a target names none."""
_HALF = 0.49
"""Share of zeros from which a weight was pruned by somebody."""
_THROUGH = frozenset({"Cast", "DequantizeLinear", "Identity", "QuantizeLinear", "Transpose"})


@dataclass(frozen=True)
class Pruned:
    """A layer with a constant weight of which half the numbers or more are 0.

    channels, inputs: sizes of its axes of output channels and of what is summed over, taps:
    numbers of a filter for each input channel. kept, across: patterns that hold along the axis of
    sums, and along that of channels. codes: stored as codes behind a DequantizeLinear. zeros:
    their share.
    """

    node: ir.Node
    channels: int
    inputs: int
    taps: int
    kept: tuple[str, ...]
    across: tuple[str, ...]
    codes: bool
    zeros: float


def pruned(view: View) -> tuple[Pruned, ...]:
    """Every layer with a constant weight that was pruned, read once a view."""
    return tuple(found for layer in view.layers if (found := _pruned(layer)) is not None)


def _pruned(layer: Layer) -> Pruned | None:
    node, filters = layer.node, layer.node.op_type in FILTERS
    if node.op_type == "ConvTranspose":
        return None  # nobody says along which axis its kernels would skip
    for left in (False,) if filters else (False, True):
        found = stored(given(node, 0 if left else 1))
        if found is None:
            continue
        tensor, order, codes = found
        zeros = _zeros(tensor)
        if zeros < _HALF:
            return None
        summed = order[summed_axis(node, left=left)]
        channels = (
            order[output_axis(node)] if not left else order[-3 - summed_axis(node, left=True)]
        )
        shape = tensor.shape.numpy()
        return Pruned(
            node, shape[channels], shape[summed], math.prod(shape[2:]) if filters else 1,
            along(tensor, summed), along(tensor, channels), codes, zeros,
        )  # fmt: skip
    return None


def _zeros(tensor: ir.TensorProtocol) -> float:
    """The share of numbers that are 0; of packed ones nobody asks."""
    if is_packed(tensor.dtype) or not tensor.size:
        return 0.0
    dtype = little(tensor.dtype)
    counts = (np.count_nonzero(np.frombuffer(piece, dtype)) for piece in pieces(tensor))
    return 1 - sum(counts) / tensor.size


def stored(value: ir.Value | None) -> tuple[ir.TensorProtocol, tuple[int, ...], bool] | None:
    """The tensor of a constant operand, its axes in the order of the operand's, if it is codes.

    None where it is none, has fewer than two axes, or is turned in a way that nobody knows.
    """
    turns, codes = [], False
    node = producer(value)
    while node is not None and node.op_type in _THROUGH and node.inputs:
        codes = (codes or node.op_type == "DequantizeLinear") and node.op_type != "QuantizeLinear"
        turns += [node] if node.op_type == "Transpose" else []
        value = node.inputs[0]
        node = producer(value)
    tensor, shape = constant_tensor(value), dims(value) or ()
    if tensor is None or len(shape) < 2 or tensor.dtype == ir.DataType.STRING:
        return None
    order = tuple(range(len(shape)))
    for turn in reversed(turns):
        perm = attribute(turn, "perm", tuple(reversed(range(len(shape)))))
        if sorted(map(str, perm)) != sorted(map(str, range(len(shape)))):
            return None
        order = tuple(order[i] for i in perm)
    return tensor, order, codes


def named(target: Target) -> tuple[str, ...]:
    """The patterns that kernels of the target skip."""
    return target.sparse.patterns or (PATTERN,)


def holds(kept: tuple[str, ...], target: Target) -> bool:
    """Whether a pattern that the target's kernels skip follows from those that are kept."""
    return any(follows(pattern, found) for pattern in named(target) for found in kept)


def _no_kernel(view: View) -> Iterator[Finding]:
    for found in view.once(pruned):
        if holds(found.kept, view.target):
            yield Finding(found.node, f"{found.zeros:.0%} zeros")


def _shape(view: View) -> Iterator[Finding]:
    for found in view.once(pruned):
        said = misses(found, view.target) if holds(found.kept, view.target) else ""
        if said:
            yield Finding(found.node, f"{found.inputs} inputs, {found.channels} channels; {said}")


def misses(found: Pruned, target: Target) -> str:
    """What sparse kernels want of a layer's sizes that it has not, "" where they take it."""
    sparse = target.sparse
    if found.inputs % (sparse.inputs or 1) or found.channels % (sparse.outputs or 1):
        return f"multiples of {sparse.inputs} and {sparse.outputs} are wanted"
    if min(found.inputs * found.taps, found.channels) < (sparse.min_size or 1):
        return f"{sparse.min_size} or more are wanted"
    return ""


def _axis(view: View) -> Iterator[Finding]:
    for found in view.once(pruned):
        if holds(found.across, view.target) and not holds(found.kept, view.target):
            yield Finding(found.node, f"{found.zeros:.0%} zeros")


def _codes(view: View) -> Iterator[Finding]:
    for found in view.once(pruned):
        if found.codes and holds(found.kept, view.target):
            yield Finding(found.node)


def _no_pattern(view: View) -> Iterator[Finding]:
    for found in view.once(pruned):
        if found.codes:
            continue  # small weights may have been rounded to 0
        if not holds(found.kept, view.target) and not holds(found.across, view.target):
            yield Finding(found.node, f"{found.zeros:.0%} zeros")


def declared(target: Target) -> bool:
    """Whether a target says that its kernels skip zeros in some pattern."""
    return bool(target.sparse.patterns)


def _undeclared(target: Target) -> bool:
    return not declared(target)


_SCOPE = where(declared, "the target names no kernels that skip zeros")

RULES = (
    Rule(
        "sparse-no-kernel",
        "Weights with two zeros in every four, where the target has no kernels for them.",
        _no_kernel,
        "no kernel of the target skips zeros: the layer takes as long as a dense one",
        "prune whole channels or heads instead, or compile for a target that declares 2:4",
        "note",
        where(_undeclared, "the target has kernels that skip zeros"),
    ),
    Rule(
        "sparse-shape",
        "Sizes of layers whose weights have two zeros in every four.",
        _shape,
        "sparse kernels want whole tiles and gain only on large layers: the dense kernel will be "
        "taken, and accuracy was given for nothing",
        "keep this layer dense, or pad it; look for it with trtexec --sparsity=enable --verbose",
        "note",
        _SCOPE,
    ),
    Rule(
        "sparse-axis",
        "Weights with two zeros in every four along output channels.",
        _axis,
        "kernels skip zeros along the axis that is summed over only: MatMul [K, N] axis 0, Gemm "
        "with transB=1 and Conv axis 1",
        "prune along the other axis",
        "note",
        _SCOPE,
    ),
    Rule(
        "sparse-codes",
        "Weights with two zeros in every four that are stored as codes.",
        _codes,
        "tools that look for the pattern do not see it in codes, and builders were seen to take "
        "dense kernels behind Q/DQ pairs (NVIDIA/TensorRT issue 4694)",
        "store the weight as floats in front of QuantizeLinear, build with --sparsity=enable and "
        "read the log for the layers that use sparse kernels",
        "note",
        _SCOPE,
    ),
    Rule(
        "sparse-no-pattern",
        "Weights with many zeros in no pattern.",
        _no_pattern,
        "kernels skip zeros only where two of every four are 0: these cost accuracy and gain "
        "nothing but space in an archive",
        "prune in the pattern, or check which pass broke it",
        "note",
        _SCOPE,
    ),
)
