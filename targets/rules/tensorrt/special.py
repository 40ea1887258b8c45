"""Rules on restrictions of single operators of TensorRT that no row of its table can say."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import onnx_ir as ir

from ....ir.graph import attribute, dims, given, rank
from ..layers import integer
from ..rule import Finding, Rule, View
from .limits import built
from .scope import on_tensorrt

_GATES = {"RNN": 1, "GRU": 2, "LSTM": 3}
"""Activations of one direction."""


def _listed(node: ir.Node, name: str) -> tuple[Any, ...]:
    """An attribute with several values; none where the file gives something else."""
    found = attribute(node, name, ())
    return found if isinstance(found, tuple) else ()


def _recurrent(view: View) -> Iterator[Finding]:
    for node in view.of(*_GATES):
        one = _GATES[node.op_type]
        for name in ("activations", "activation_alpha", "activation_beta"):
            found = _listed(node, name)
            half = one if name == "activations" else len(found) // 2
            if attribute(node, "direction") == "bidirectional" and found[:half] != found[half:]:
                yield Finding(node, f"{name} {list(found)}")


def _padding(view: View) -> Iterator[Finding]:
    for node in view.of("DeformConv"):
        pads = _listed(node, "pads")
        if pads[: len(pads) // 2] != pads[len(pads) // 2 :]:
            yield Finding(node, f"pads {list(pads)}")


def _resize(view: View) -> Iterator[Finding]:
    for node in view.of("Resize"):
        axes = _listed(node, "axes")
        sizes = [v for v in (given(node, 2), given(node, 3)) if v is not None]
        iota = axes == tuple(range(len(axes)))
        if axes and not iota and not all(map(built, sizes)):
            yield Finding(node, f"axes {list(axes)}")


def _static(view: View) -> Iterator[Finding]:
    for node in view.of("Hardmax"):
        shape, axis = dims(given(node, 0)), integer(node, "axis", -1)
        size = shape[axis] if shape and -len(shape) <= axis < len(shape) else 0
        if not isinstance(size, int):
            yield Finding(node, f"axis {axis} of {list(shape or ())}")
    for node in view.of("EyeLike"):
        shape = dims(given(node, 0)) or ()
        if not all(isinstance(size, int) for size in shape):
            yield Finding(node, f"shape {list(shape)}")


def _complex(view: View) -> Iterator[Finding]:
    for node in view.of("STFT"):
        shape = dims(given(node, 0)) or ()
        if len(shape) == 3 and shape[-1] == 2:
            yield Finding(node, f"signal of shape {list(shape)}")


def _branches(node: ir.Node) -> tuple[ir.Graph, ir.Graph] | None:
    found = [attribute(node, name) for name in ("then_branch", "else_branch")]
    one, other = found
    if not isinstance(one, ir.Graph) or not isinstance(other, ir.Graph):
        return None
    return one, other


def _branch_ranks(view: View) -> Iterator[Finding]:
    for node in view.of("If"):
        if built(given(node, 0)):
            continue  # the parser takes the one branch
        for one, other in _pairs(node):
            ranks = rank(one), rank(other)
            if None not in ranks and ranks[0] != ranks[1]:
                yield Finding(node, f"{one.name} has {ranks[0]} axes, {other.name} {ranks[1]}")


def _branch_names(view: View) -> Iterator[Finding]:
    for node in view.of("If"):
        graphs = _branches(node)
        if graphs is not None:
            names = [{v.name for v in graph.outputs} for graph in graphs]
            yield from (Finding(node, str(name)) for name in sorted(map(str, names[0] & names[1])))


def _pairs(node: ir.Node) -> list[tuple[ir.Value, ir.Value]]:
    graphs = _branches(node)
    return [] if graphs is None else list(zip(graphs[0].outputs, graphs[1].outputs, strict=False))


def _carried(view: View) -> Iterator[Finding]:
    for node in view.of("Loop"):
        body = attribute(node, "body")
        if not isinstance(body, ir.Graph):
            continue
        for start, end in zip(node.inputs[2:], body.outputs[1:], strict=False):
            before, after = dims(start), dims(end)
            if before is not None and after is not None and _differ(before, after):
                yield Finding(node, f"{end.name} of {list(after)} was {list(before)}")


def _differ(one: tuple[object, ...], other: tuple[object, ...]) -> bool:
    pairs = zip(one, other, strict=False)
    known = [(a, b) for a, b in pairs if isinstance(a, int) and isinstance(b, int)]
    return len(one) != len(other) or any(a != b for a, b in known)


def _scans(view: View) -> Iterator[Finding]:
    for node in view.of("Loop"):
        carried = max(len(node.inputs) - 2, 0)
        scans = [v for v in node.outputs[carried:] if v.name]
        if scans and not built(given(node, 0)):
            yield Finding(node, f"output {scans[0].name} of a length that is computed")


RULES = (
    Rule(
        "trt-recurrent-directions",
        "Activations of RNN, GRU and LSTM that run both ways.",
        _recurrent,
        "the parser takes the same activations for both directions only",
        "split the node into one for each direction",
        "error",
        on_tensorrt,
    ),
    Rule(
        "trt-deformable-padding",
        "Padding of DeformConv.",
        _padding,
        "the parser takes the same padding on both sides only",
        "pad in front of the node",
        "error",
        on_tensorrt,
    ),
    Rule(
        "trt-resize-axes",
        "Axes of Resize nodes whose sizes or scales are computed.",
        _resize,
        "with sizes that are computed the parser takes axes 0, 1, 2 … only",
        "name all axes in order, with scales of 1 for the others",
        "error",
        on_tensorrt,
    ),
    Rule(
        "trt-axis-not-fixed",
        "Sizes that Hardmax and EyeLike need when the engine is built.",
        _static,
        "the parser wants those sizes known and refuses the model",
        "fix these sizes, or write the node with other operators (ArgMax and OneHot)",
        "error",
        on_tensorrt,
    ),
    Rule(
        "trt-complex-signal",
        "Signals of STFT.",
        _complex,
        "the parser takes real signals only",
        "transform the real and the imaginary part one by one",
        "error",
        on_tensorrt,
    ),
    Rule(
        "trt-branch-ranks",
        "Outputs of the two branches of If.",
        _branch_ranks,
        "both branches must give tensors with as many axes: the model is refused",
        "add axes in the branch that has fewer",
        "error",
        on_tensorrt,
    ),
    Rule(
        "trt-branch-names",
        "Names of the outputs of the two branches of If.",
        _branch_names,
        "the outputs of the branches must have names of their own: the model is refused",
        "rename the outputs of one branch",
        "error",
        on_tensorrt,
    ),
    Rule(
        "trt-loop-shape",
        "Tensors that a Loop carries from one turn to the next.",
        _carried,
        "what a loop carries must keep its shape: the engine is not built",
        "carry a tensor of the greatest size, and the size beside it",
        "error",
        on_tensorrt,
    ),
    Rule(
        "trt-loop-length",
        "Outputs that a Loop collects turn by turn, where the number of turns is computed.",
        _scans,
        "what a loop collects must not have a dynamic length; nothing here shows whether it has",
        "fix the number of turns, or see to it by hand",
        "note",
        on_tensorrt,
    ),
)
