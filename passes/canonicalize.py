"""Bring a graph into the one form that every other pass is written against.

A linear layer becomes ``MatMul(x, W[in, out])`` and ``Add(bias)``, batch norms are folded,
constants stand on the right, what is constant is computed, and what does nothing is removed.
Spellings that an earlier compile chose for a runtime are written back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from ..ir.graph import (
    all_nodes,
    attribute,
    constant_array,
    constant_tensor,
    consumers,
    dims,
    is_constant,
    opset,
    rank,
    scalar,
    single_consumer,
)
from ..ir.rewriter import Rewriter
from ..ir.storage.derived import Derived
from ..ir.storage.stream import array_of
from ..ir.types.growth import elements_after
from .api import Candidate, Context, Pass, Perturbation, Refusal, Semantics, register

FOLDED_OPS = frozenset(
    "Cast Concat ConstantOfShape Expand Flatten Gather Identity Range Reshape Shape Slice Split "
    "Squeeze Tile Transpose Unsqueeze".split()
)
"""Ops that move data or count: folding them changes no bit of any float.

Range only of integers (runtimes add up the steps of a float one differently), Cast only where
every number survives it (roundings and overflows differ).
"""
INTEGER_OPS = frozenset("Add Sub Mul Equal Less Greater And Or Not Where Min Max".split())
"""Folded only on integers and booleans, where every implementation agrees."""
MAX_FOLDED_ELEMENTS = 1 << 16
"""Larger results would trade file size for nothing (weight transposes are lazy instead)."""

Rule = Callable[[ir.Node, Rewriter], bool]


@dataclass(frozen=True)
class CanonicalizeOptions:
    """Which rules apply.

    rules: all, or exact: only those that keep every bit of the outputs
    """

    rules: Literal["all", "exact"] = "all"


def remove_nothing(node: ir.Node, rewriter: Rewriter) -> bool:
    """Identity, and Dropout at inference: the output is the input."""
    if node.op_type not in ("Identity", "Dropout") or not node.inputs or node.inputs[0] is None:
        return False
    if node.op_type == "Dropout" and not _inactive_dropout(node):
        return False
    source, output = node.inputs[0], node.outputs[0]
    outer = source.graph is not node.graph
    if output.is_graph_output() and (_fixed(source) or source.is_graph_output() or outer):
        return False
    inputs = list(node.inputs)
    rewriter.replace_uses(output, source)
    rewriter.remove(node)
    rewriter.sweep(inputs)
    return True


def fold_constants(node: ir.Node, rewriter: Rewriter) -> bool:
    """Compute what depends on constants alone, where the result is exact and small."""
    if node.op_type not in FOLDED_OPS | INTEGER_OPS or node.domain or not node.inputs:
        return False
    if any(o.is_graph_output() for o in node.outputs):
        return False
    if not all(v is None or is_constant(v) for v in node.inputs):
        return False
    if node.op_type == "Transpose" and rank(node.inputs[0]) == 2:
        return _fold_weight_transpose(node, rewriter)
    results = _evaluate(node, opset(rewriter.model))
    if results is None:
        return False
    inputs = list(node.inputs)
    for output, result in zip(node.outputs, results, strict=True):
        if output.uses():
            folded = rewriter.initializer(f"{output.name}_folded", result, graph=node.graph)
            rewriter.replace_uses(output, folded)
    rewriter.remove(node)
    rewriter.sweep(inputs)
    return True


def gemm_to_matmul(node: ir.Node, rewriter: Rewriter) -> bool:
    """Gemm with a constant weight -> MatMul(x, W[in, out]) + Add(bias)."""
    if node.op_type != "Gemm" or node.domain or not is_constant(node.inputs[1]):
        return False
    x, weight = node.inputs[0], node.inputs[1]
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    assert x is not None and weight is not None
    beta, dtype = attribute(node, "beta", 1.0), weight.dtype
    if attribute(node, "transA", 0) or dtype is None or not dtype.is_floating_point():
        return False
    if bias is not None and (not is_constant(bias) or len(dims(bias) or ()) > 2):
        return False
    weight = _oriented(node, weight, rewriter)
    if weight is None:
        return False
    product = rewriter.insert(
        "MatMul", [x, weight], before=node, name=f"{node.name}_matmul", origins=[node]
    )
    result = product.outputs[0]
    if bias is not None:
        bias = _bias_vector(rewriter, bias, float(beta), node.graph)
        result = rewriter.insert(
            "Add", [result, bias], before=node, name=f"{node.name}_bias", origins=[node]
        ).outputs[0]
    _replace(node, result, rewriter)
    return True


def fold_batch_norm(node: ir.Node, rewriter: Rewriter) -> bool:
    """Inference BatchNormalization behind a convolution -> into its weight and bias."""
    if node.op_type != "BatchNormalization" or node.domain or node.inputs[0] is None:
        return False
    conv = node.inputs[0].producer()
    if conv is None or conv.op_type != "Conv" or conv.domain or conv.graph is not node.graph:
        return False  # a convolution outside a loop would be computed in each iteration
    if single_consumer(node.inputs[0]) is not node or not _infers(node, opset(rewriter.model)):
        return False
    arrays = [constant_array(v) for v in (*node.inputs[1:5], conv.inputs[1])]
    bias = constant_array(conv.inputs[2]) if len(conv.inputs) > 2 and conv.inputs[2] else None
    if any(a is None for a in arrays) or (bias is None and _has_input(conv, 2)):
        return False
    gamma, beta, mean, var, weight = (np.asarray(a, np.float64) for a in arrays)
    dtype = np.asarray(arrays[4]).dtype
    scale = gamma / np.sqrt(var + attribute(node, "epsilon", 1e-5))
    start = np.zeros_like(mean) if bias is None else bias.astype(np.float64)
    folded = (weight * scale.reshape((-1,) + (1,) * (weight.ndim - 1))).astype(dtype)
    shift = ((start - mean) * scale + beta).astype(dtype)
    name = str(conv.inputs[1].name if conv.inputs[1] else conv.name)
    inputs = [
        conv.inputs[0],
        rewriter.initializer(name + "_folded", folded, graph=node.graph),
        rewriter.initializer(f"{conv.name}_bias", shift, graph=node.graph),
    ]
    merged = rewriter.insert(
        "Conv",
        inputs,
        before=node,
        name=str(conv.name),
        attributes={k: a.value for k, a in conv.attributes.items()},
        origins=[conv, node],
    )
    dead = list(conv.inputs)
    _replace(node, merged.outputs[0], rewriter)
    rewriter.sweep([conv.outputs[0], *dead])
    return True


def constants_right(node: ir.Node, rewriter: Rewriter) -> bool:
    """Add(c, x) -> Add(x, c), Mul(c, x) -> Mul(x, c): patterns need one order only."""
    if node.op_type not in ("Add", "Mul") or node.domain:
        return False
    left, right = node.inputs
    if not is_constant(left) or is_constant(right):
        return False
    rewriter.set_input(node, 0, right)
    rewriter.set_input(node, 1, left)
    return True


def sum_to_add(node: ir.Node, rewriter: Rewriter) -> bool:
    """Sum of two -> Add; an earlier compile may have written it to steer a runtime."""
    if node.op_type != "Sum" or node.domain or len(node.inputs) != 2:
        return False
    added = rewriter.insert(
        "Add", list(node.inputs), before=node, name=str(node.name), origins=[node]
    )
    _replace(node, added.outputs[0], rewriter)
    return True


def castlike_to_cast(node: ir.Node, rewriter: Rewriter) -> bool:
    """CastLike -> Cast where the type to match is known; then constants fold through it."""
    if node.op_type != "CastLike" or node.domain or node.inputs[1] is None:
        return False
    dtype = node.inputs[1].dtype
    if dtype is None or dtype == ir.DataType.UNDEFINED:
        return False
    cast = rewriter.insert(
        "Cast",
        [node.inputs[0]],
        before=node,
        name=str(node.name),
        attributes={"to": int(dtype)} | {k: a.value for k, a in node.attributes.items()},
        origins=[node],
    )
    _replace(node, cast.outputs[0], rewriter)
    return True


EXACT_RULES: tuple[tuple[str, Rule], ...] = (
    ("sum-to-add", sum_to_add),
    ("castlike-to-cast", castlike_to_cast),
    ("remove-nothing", remove_nothing),
    ("fold-constants", fold_constants),
    ("constants-right", constants_right),
)
REASSOCIATING_RULES: tuple[tuple[str, Rule], ...] = (
    ("fold-batch-norm", fold_batch_norm),
    ("gemm-to-matmul", gemm_to_matmul),
)
RULES = dict(EXACT_RULES + REASSOCIATING_RULES)
SETTLE = "settle"
"""All rules over and over, until none applies: one rule may make room for another.

That ends: a rule takes away a node, a constant on the left, or a CastLike, Gemm, Sum or
BatchNormalization that no other rule makes.
"""


@register
class Canonicalize(Pass):
    """Bring the graph into the canonical form that every other pass expects.

    What it does: removes Identity and inactive Dropout, computes exact constants, writes
    Gemm as MatMul and Add and Sum as Add, folds batch norms into convolutions, puts constants
    on the right.
    When it applies: always, first.
    What it costs: nothing; weights are transposed once.
    Guarantee: equal in real arithmetic, and equal bits but for the batch norms and the Gemms;
    the whole graph is compared before and after. Done again it changes nothing.
    Example: ``canonicalize{rules=exact}``
    """

    name = "canonicalize"
    semantics = Semantics.REASSOCIATES
    Options = CanonicalizeOptions

    def candidates(self, model: ir.Model, ctx: Context) -> Iterable[Candidate | Refusal]:
        options: CanonicalizeOptions = self.options
        kinds = [(Semantics.EXACT, EXACT_RULES), (Semantics.REASSOCIATES, REASSOCIATING_RULES)]
        kinds = kinds[:1] if options.rules == "exact" else kinds
        for promise, rules in kinds:
            for setting in (name for name, _ in rules):
                yield Candidate(site="graph", setting=setting, semantics=promise)
        yield Candidate(site="graph", setting=SETTLE, semantics=kinds[-1][0])

    def lower(
        self,
        model: ir.Model,
        candidate: Candidate,
        perturbation: Perturbation | None,
        rewriter: Rewriter,
        ctx: Context,
    ) -> None:
        if candidate.setting != SETTLE:
            _scan([RULES[candidate.setting]], rewriter)
            return
        exact = candidate.semantics is Semantics.EXACT
        rules = [rule for _, rule in EXACT_RULES] if exact else list(RULES.values())
        while _scan(rules, rewriter):
            pass


def _scan(rules: Iterable[Rule], rewriter: Rewriter) -> bool:
    """Offer every node, those in bodies too, to each rule once; whether anything changed."""
    changed = False
    for rule in rules:
        for node in list(all_nodes(rewriter.model)):
            changed |= node.graph is not None and rule(node, rewriter)
    return changed


def _replace(node: ir.Node, value: ir.Value, rewriter: Rewriter) -> None:
    """Put a computed value in the place of the node's output, under the name of that."""
    inputs = list(node.inputs)
    rewriter.take_over(node.outputs[0], value)
    rewriter.remove(node)
    rewriter.sweep(inputs)


def _fixed(value: ir.Value) -> bool:
    return value.is_graph_input() or value.is_initializer()


def _has_input(node: ir.Node, index: int) -> bool:
    return len(node.inputs) > index and node.inputs[index] is not None


def _infers(node: ir.Node, version: int) -> bool:
    """Whether a BatchNormalization uses its stored statistics, one number a channel."""
    if attribute(node, "training_mode", 0) or attribute(node, "spatial", 1) != 1:
        return False
    if version < 14:  # then more outputs than one meant training
        return not any(output.name for output in node.outputs[1:])
    return not any(o.uses() or o.is_graph_output() for o in node.outputs[1:])


def _inactive_dropout(node: ir.Node) -> bool:
    mask_used = any(o.uses() or o.is_graph_output() for o in node.outputs[1:])
    training = _has_input(node, 2) and scalar(node.inputs[2]) != 0.0
    return not mask_used and not training and attribute(node, "is_test", 1) != 0


def _derived(rewriter: Rewriter, weight: ir.Value, transpose: bool, factor: float) -> ir.Value:
    """The weight transposed and scaled, computed when its bytes are asked for."""
    source = constant_tensor(weight)
    assert source is not None
    name = f"{weight.name}_t" if transpose else f"{weight.name}_scaled"
    return rewriter.initializer(name, Derived(source, transpose, factor), graph=weight.graph)


def _bias_vector(
    rewriter: Rewriter, bias: ir.Value, beta: float, graph: ir.Graph | None
) -> ir.Value:
    array = constant_array(bias)
    assert array is not None
    flat = array.reshape(-1) if array.ndim == 2 and array.shape[0] == 1 else array
    if beta == 1.0 and flat is array:
        return bias
    scaled = (flat * beta).astype(array.dtype)
    return rewriter.initializer(f"{bias.name}_scaled", scaled, graph=graph)


def _oriented(node: ir.Node, weight: ir.Value, rewriter: Rewriter) -> ir.Value | None:
    """The weight of a Gemm as [in, out], alpha in it; None where others need it as it is.

    All Gemms that share it get the new one, so that it stays shared and is stored once.
    """
    how = _orientation(node)
    if how == (0, 1.0):
        return weight
    alike = [n for n in consumers(weight) if _orientation(n) == how and n.inputs[1] is weight]
    if len(alike) != len(weight.uses()):
        return None
    new = _derived(rewriter, weight, bool(how[0]), how[1])
    for gemm in alike:
        rewriter.set_input(gemm, 1, new)
        rewriter.set_attribute(gemm, "transB", 0)
        rewriter.set_attribute(gemm, "alpha", 1.0)
    rewriter.sweep([weight])
    return new


def _orientation(node: ir.Node) -> tuple[int, float]:
    if node.op_type != "Gemm" or node.domain:
        return (-1, 0.0)
    return attribute(node, "transB", 0), float(attribute(node, "alpha", 1.0))


def _fold_weight_transpose(node: ir.Node, rewriter: Rewriter) -> bool:
    """Once for all who read the weight transposed; not where others need it as it is."""
    weight = node.inputs[0]
    assert weight is not None
    alike = [n for n in consumers(weight) if _transposes(n, rewriter)]
    if node not in alike or len(alike) != len(weight.uses()):
        return False
    new = _derived(rewriter, weight, True, 1.0)
    for transpose in alike:
        rewriter.replace_uses(transpose.outputs[0], new)
        rewriter.remove(transpose)
    rewriter.sweep([weight])
    return True


def _transposes(node: ir.Node, rewriter: Rewriter) -> bool:
    plain = node.op_type == "Transpose" and not node.domain
    order = tuple(attribute(node, "perm", (1, 0)))
    return plain and order == (1, 0) and not node.outputs[0].is_graph_output()


def _evaluate(node: ir.Node, version: int) -> list[np.ndarray] | None:
    """The outputs by ONNX's own reference; None where it cannot or could differ from others.

    Also where inputs or outputs are large, which is found out before memory is taken.
    """
    tensors = [constant_tensor(v) for v in node.inputs]
    if sum(0 if t is None else t.size for t in tensors) > MAX_FOLDED_ELEMENTS:
        return None
    arrays = [None if t is None else array_of(t) for t in tensors]
    given = [a for a in arrays if a is not None]
    if not _agreed(node.op_type, given) or elements_after(node, given) > MAX_FOLDED_ELEMENTS:
        return None
    feeds = {str(v.name): a for v, a in zip(node.inputs, arrays, strict=True) if v}
    try:
        with np.errstate(all="ignore"):
            found = ReferenceEvaluator(_single_node_model(node, version)).run(None, feeds)
    except Exception:  # the reference lacks an op or a dtype: the node just stays
        return None
    results = [np.asarray(r) for r in found]
    if node.op_type == "Cast" and not _survives(given[0], results[0]):
        return None
    return results


def _agreed(op_type: str, arrays: Iterable[np.ndarray]) -> bool:
    """Whether every implementation computes the same bits from these constants."""
    kinds = {a.dtype.kind for a in arrays}
    if op_type in INTEGER_OPS or op_type == "Range":
        return kinds <= set("iub")
    return not kinds & set("OSU")


def _survives(before: np.ndarray, after: np.ndarray) -> bool:
    """Whether a cast keeps every number; flags only ask whether one is zero."""
    if after.dtype.kind in "OSU" or before.dtype.kind in "OSU":
        return False
    if after.dtype == bool:
        return bool(np.all(before == before))
    with np.errstate(all="ignore"):
        return bool(np.all(after.astype(before.dtype) == before))


def _single_node_model(node: ir.Node, version: int) -> onnx.ModelProto:
    inputs = list(dict.fromkeys(str(v.name) for v in node.inputs if v is not None))
    graph = onnx.helper.make_graph(
        [ir.to_proto(node)],
        "constant",
        [onnx.helper.make_empty_tensor_value_info(name) for name in inputs],
        [onnx.helper.make_empty_tensor_value_info(str(o.name)) for o in node.outputs],
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", version)])
