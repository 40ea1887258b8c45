"""8-bit integers in LSTM layers: weights ahead of time, inputs and state at run time."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ..ir.errors import UsageError, near
from ..ir.finding.naming import layer_name
from ..ir.graph import attribute, constant_array, constant_tensor, is_constant, operator
from ..ir.recurrent import LstmCodes, dequantized, quantized
from ..ir.rewriter import Rewriter
from .api import Candidate, Context, Pass, Perturbation, Refusal, Semantics, register
from .math.affine import quantize_weight

STEPS = 256
"""Steps that rounding in float32 may add up over, for the tolerance of the region check."""


@dataclass(frozen=True)
class RecurrentOptions:
    """exclude: selectors of layers to leave float, by name or with wildcards."""

    exclude: tuple[str, ...] = ()


@register
class QuantizeRecurrent(Pass):
    """Compute LSTM layers in integers.

    What it does: the weights of input and state get int8 codes (symmetric, a scale for each gate
    and unit); ONNX Runtime's DynamicQuantizeLSTM rounds input and state to uint8 at each step.
    When it applies: LSTM layers of the main graph with constant weights at least as large as the
    target's break-even. Needs no data.
    What it costs: rounding of the weights, measured per layer as relative squared error of its
    outputs; what rounding of input and state adds is measured and reported beside it.
    Guarantee: the codes are those whose loss was measured.
    Example: ``quantize,quantize-recurrent``
    """

    name = "quantize-recurrent"
    semantics = Semantics.LOSSY
    Options = RecurrentOptions
    options: RecurrentOptions

    def __init__(self, options: RecurrentOptions) -> None:
        super().__init__(options)
        self._results: dict[str, tuple[str, ...]] = {}

    def candidates(self, model: ir.Model, ctx: Context) -> Iterator[Candidate | Refusal]:
        layers = _named(model)
        self._results = {name: _results(node) for name, node in layers.items()}
        excluded = {n for selector in self.options.exclude for n in _matching(layers, selector)}
        for name, node in layers.items():
            reason = _reason(node, ctx)
            if name in excluded:
                yield Refusal(name, "excluded", "left float on request")
            elif reason is not None:
                yield Refusal(name, *reason)
            else:
                yield Candidate(name, "int8", 3 * _elements(node))

    def perturb(self, model: ir.Model, candidate: Candidate, ctx: Context) -> Perturbation:
        node = self._layer(model, candidate)
        w, r = constant_array(node.inputs[1]), constant_array(node.inputs[2])
        assert w is not None and r is not None
        bits = ctx.target.int8.weight_bits
        codes = LstmCodes(*_coded(w, bits), *_coded(r, bits))
        read = [v for v in node.inputs if v is not None and not is_constant(v)]
        used = [v for v in node.outputs if v.uses() or v.is_graph_output()]
        return Perturbation(
            tuple(str(v.name) for v in dict.fromkeys(read)),
            tuple(str(v.name) for v in used),
            {
                str(node.inputs[1].name): dequantized(codes.w, codes.w_scale),  # type: ignore[union-attr]
                str(node.inputs[2].name): dequantized(codes.r, codes.r_scale),  # type: ignore[union-attr]
            },
            payload=codes,
            contraction=STEPS * (w.shape[-1] + r.shape[-1]),
        )

    def lower(
        self,
        model: ir.Model,
        candidate: Candidate,
        perturbation: Perturbation | None,
        rewriter: Rewriter,
        ctx: Context,
    ) -> None:
        assert perturbation is not None
        quantized(rewriter, self._layer(model, candidate), perturbation.payload)

    def _layer(self, model: ir.Model, candidate: Candidate) -> ir.Node:
        """By what it makes: names of layers depend on which others there are."""
        wanted = self._results[candidate.site]
        return next(n for n in model.graph if is_recurrent(n) and _results(n) == wanted)


def is_recurrent(node: ir.Node) -> bool:
    """Whether this pass speaks of the node."""
    return operator(node) == ("", "LSTM")


def _named(model: ir.Model) -> dict[str, ir.Node]:
    """The layers by the names that users know, else by those of their nodes."""
    found: dict[str, ir.Node] = {}
    for node in filter(is_recurrent, model.graph):
        name = layer_name([node], node.inputs[1], None, alone=True) or str(node.name)
        found[name if name not in found else str(node.name)] = node
    return found


def _results(node: ir.Node) -> tuple[str, ...]:
    return tuple(str(value.name) for value in node.outputs)


def _matching(layers: Iterable[str], selector: str) -> list[str]:
    """Names that a selector means. Raises UsageError where it means none."""
    found = fnmatch.filter(layers, selector)
    if not found:
        raise UsageError(
            f"no recurrent layer matches {selector!r}",
            where="the option exclude of quantize-recurrent",
            hint=near(selector, layers),
        )
    return found


def _reason(node: ir.Node, ctx: Context) -> tuple[str, str] | None:
    """Why a layer stays as it is; None where it need not."""
    target = ctx.target
    if not (target.int8.supported and target.int8.dynamic):
        return "target", f"no integer kernels with run-time ranges are known for {target.name}"
    if attribute(node, "layout", 0):
        return "layout", "the runtime takes no batch on the first axis"
    weights = [constant_tensor(v) for v in node.inputs[1:3]]
    for tensor in weights:
        if tensor is None or tensor.dtype != ir.DataType.FLOAT:
            return "dtype", "its weights are not constant, or not float32"
    if any(len(v.uses()) > 1 for v in node.inputs[1:3] if v is not None):
        return "shared", "other nodes read its weights, too, and they would be kept twice"
    if any(t is not None and min(t.shape.numpy()[1:]) < target.min_gemm for t in weights):
        return "too-small", f"its products are smaller than {target.min_gemm} on a side"
    return None


def _coded(weight: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """int8 codes [directions, 4 hidden, inputs] and a scale for each of the first two axes."""
    directions, gates, inputs = weight.shape
    codes, scale = quantize_weight(weight.reshape(directions * gates, inputs), 0, bits)
    return codes.reshape(weight.shape), scale.reshape(directions, gates)


def _elements(node: ir.Node) -> int:
    tensors = [constant_tensor(value) for value in node.inputs[1:3]]
    return sum(int(tensor.size) for tensor in tensors if tensor is not None)
