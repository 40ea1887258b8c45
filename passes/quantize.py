"""8-bit integers: static and dynamic layers, convolutions and embedding tables.

Weights are symmetric int8 per output channel; activations are uint8 per tensor (int8 where the
target multiplies two signed factors), calibrated (static) or taken at run time (dynamic). Softmax,
normalisation, activation functions and residual additions stay float: they are cheap, and rounding
hurts most there (``quantize-residuals`` takes the additions).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import onnx_ir as ir

from ..ir.facts import FLOAT, QUANTIZED
from ..ir.graph import attribute, constant_array, constant_tensor, opset
from ..ir.qdq import (
    activated,
    dynamic_view,
    redirect_elementwise,
    rounding_of,
    static_view,
    weight_view,
)
from ..ir.rewriter import Rewriter
from ..ir.sites import Site, Sites
from ..targets.schema import Target
from .api import (
    CALIBRATED,
    SITES,
    STATS,
    Candidate,
    Context,
    FakeQuant,
    Observed,
    Pass,
    Perturbation,
    Refusal,
    Semantics,
    ValueStats,
    register,
)
from .math.affine import affine_params, dequantize, quantize_weight
from .math.bias import bias_correction_conv, bias_correction_linear
from .math.calibrate import CALIBRATORS
from .pairsums import paired_codes

MIN_TABLE_BYTES = 1 << 16
"""Tables smaller than this save less than the two extra nodes are worth."""
IN_BODY = "it stands inside a branch or a loop, where ranges are not observed; left in float"
DYNAMIC_DTYPE = "uint8"
"""DynamicQuantizeLinear makes no other."""
MASK_MAGNITUDE = 1e4
"""A value this far below zero, alone in its range, is an additive mask, not an activation."""

Requests = tuple[Observed, ...]
"""Activations by name, each with the axis of its channels."""


@dataclass(frozen=True)
class QuantizeOptions:
    """scheme: ranges of activations are calibrated (static) or taken at run time (dynamic).

    calibrator: how a static range is chosen from the histogram of the values. exclude: selectors
    of sites to leave float. embeddings: quantize tables, too. bias_correction: let the bias make
    up for what rounding the weights does to the mean of the output, given calibration data.
    narrow: also convolutions of so few channels that they do not pay alone. sums:
    for targets that add two products in 16 bits, codes of which no pair can saturate for any input
    (safe), or all 8 bits where that loses less on calibration data (emulated).
    """

    scheme: Literal["static", "dynamic"] = "dynamic"
    calibrator: Literal["minmax", "percentile", "mse", "entropy"] = "mse"
    exclude: tuple[str, ...] = ()
    embeddings: bool = True
    bias_correction: bool = True
    narrow: bool = False
    sums: Literal["safe", "emulated"] = "safe"


@dataclass(frozen=True)
class LayerCodes:
    """What lowering builds from: int8 codes, float32 scales per output channel, new bias."""

    codes: np.ndarray
    scale: np.ndarray
    bias: np.ndarray | None
    activation: FakeQuant
    output: FakeQuant | None = None


OPSET = 13
"""The first in which scales per channel have an axis; import raises older models where it can."""


@register
class Quantize(Pass):
    """Store weights in 8 bits and compute linear layers and convolutions in integers.

    What it does: linear layers and convolutions get int8 weights (symmetric, per output
    channel) and uint8 inputs (int8 ones where the target has kernels for two signed factors);
    embedding tables get int8 rows. Static ranges come from calibration data with padding left
    out; dynamic ranges are taken at run time.
    When it applies: float layers at least as large as the target's break-even; static only
    with calibration data; convolutions only static.
    What it costs: rounding, measured per site as relative squared error of its output.
    What stays float, and why: softmax, normalisation, GELU and residual additions, since
    they are cheap and lose most; layers too small to gain. With ``narrow`` convolutions of few
    channels are taken, too: in front of integer ones a float one makes ONNX Runtime change the
    layout of what they read.
    Where the target adds two products in 16 bits: each column keeps as many of 8 bits as leave
    no pair of weights that could saturate, for any input (remark ``pair-safe``); 7 always do.
    With ``sums=emulated`` all 8 are kept where saturation, emulated on calibration samples, loses
    less than that (remark ``pair-emulated`` with both losses).
    Guarantee: integer codes and scales are those whose loss was measured.
    Example: ``quantize{scheme=static calibrator=percentile exclude=classifier}``
    """

    name = "quantize"
    semantics = Semantics.LOSSY
    requires = frozenset({FLOAT})
    produces = frozenset({QUANTIZED})
    narrowing = frozenset({"exclude", "embeddings"})
    Options = QuantizeOptions
    options: QuantizeOptions
    _asked: tuple[Sites, Requests] | None = None

    def candidates(self, model: ir.Model, ctx: Context) -> Iterator[Candidate | Refusal]:
        sites = ctx.analysis(SITES)
        excluded = {s.name for selector in self.options.exclude for s in sites.select(selector)}
        version = opset(model)
        for site in sites:
            if site.kind not in ("linear", "conv", "embedding"):
                continue
            if version < OPSET:
                sentence = f"integers need opset {OPSET}, the model stays at {version}"
                yield Refusal(site.name, "opset", sentence)
                continue
            if site.name in excluded:
                yield Refusal(site.name, "excluded", "left float on request")
                continue
            yield self._judge(site, ctx)

    def perturb(self, model: ir.Model, candidate: Candidate, ctx: Context) -> Perturbation:
        site = ctx.analysis(SITES).by_name[candidate.site]
        if site.kind == "embedding":
            return _perturb_table(site)
        if candidate.setting == "dynamic":
            return self._perturb_layer(site, FakeQuant(DYNAMIC_DTYPE), None, ctx)
        stats = ctx.analysis(STATS, self._requests(ctx))
        output = None
        if site.kind == "conv" and ctx.target.int8.conv_needs_output_quant:
            output = self._range(stats[str(_activated(site).name), 1], ctx)
        activation = _given_range(site, ctx) or self._range(stats[_observed(site)], ctx)
        return self._perturb_layer(site, activation, output, ctx)

    def outline(self, model: ir.Model, candidate: Candidate, ctx: Context) -> Perturbation:
        """Codes of zero in the right shapes: no weight is read and no range looked up."""
        site = ctx.analysis(SITES).by_name[candidate.site]
        tensor = constant_tensor(site.weight)
        assert tensor is not None and site.output is not None
        shape = tensor.shape.numpy()
        dtype = ctx.target.int8.activation_dtype
        fixed = FakeQuant(dtype, 1.0, 0)
        rounded = site.kind == "conv" and ctx.target.int8.conv_needs_output_quant
        payload = LayerCodes(
            np.zeros(shape, np.int8),
            np.ones(shape[1 if site.kind == "linear" else 0], np.float32),
            None,
            FakeQuant(dtype) if candidate.setting == "dynamic" else fixed,
            fixed if rounded else None,
        )
        return Perturbation((str(_input(site).name),), (str(site.output.name),), payload=payload)

    def lower(
        self,
        model: ir.Model,
        candidate: Candidate,
        perturbation: Perturbation | None,
        rewriter: Rewriter,
        ctx: Context,
    ) -> None:
        assert perturbation is not None
        site = ctx.analysis(SITES).by_name[candidate.site]
        if site.kind == "embedding":
            _lower_table(site, perturbation.payload, rewriter)
        elif candidate.setting == "dynamic":
            _lower_dynamic(site, perturbation.payload, rewriter)
        else:
            _lower_static(site, perturbation.payload, rewriter)

    # -- candidates --------------------------------------------------------------------

    def _judge(self, site: Site, ctx: Context) -> Candidate | Refusal:
        refusal = _refuse_any(site, ctx)
        if refusal is None and site.kind == "embedding":
            refusal = self._refuse_table(site)
        elif refusal is None:
            refusal = self._refuse_layer(site, ctx)
        if refusal is not None:
            return refusal
        saving = 3 * _elements(site)
        setting = "int8-rows" if site.kind == "embedding" else self.options.scheme
        return Candidate(site.name, setting, saving)

    def _refuse_table(self, site: Site) -> Refusal | None:
        if not self.options.embeddings:
            return Refusal(site.name, "excluded", "embedding tables were switched off")
        if 4 * _elements(site) < MIN_TABLE_BYTES:
            return Refusal(
                site.name, "too-small", f"a table of {4 * _elements(site)} bytes saves too little"
            )
        return None

    def _refuse_layer(self, site: Site, ctx: Context) -> Refusal | None:
        if self.options.scheme == "static" and not ctx.analysis(CALIBRATED):
            return Refusal(
                site.name,
                "no-calibration",
                "static ranges need real data; give --calibration, or use scheme=dynamic",
            )
        if site.kind == "conv" and self.options.scheme == "dynamic":
            return Refusal(
                site.name,
                "no-dynamic-kernel",
                "integer convolutions with run-time ranges are slower than float ones",
            )
        small = self._too_small(site, ctx)
        if small is not None:
            return Refusal(site.name, "too-small", small)
        if self.options.scheme == "static":
            return self._refuse_range(site, ctx)
        if _given_range(site, ctx) is not None:
            sentence = "its input has 8 bits already, with a fixed range that scheme=static keeps"
            return Refusal(site.name, "already-quantized", sentence)
        return None

    def _too_small(self, site: Site, ctx: Context) -> str | None:
        tensor, target = constant_tensor(site.weight), ctx.target
        assert tensor is not None
        shape = tensor.shape.numpy()
        if site.kind == "linear" and min(shape) < target.min_gemm:
            return f"a {shape[0]}x{shape[1]} product is smaller than {target.min_gemm} on a side"
        if is_narrow(site, target) and not self.options.narrow:
            return f"{shape[1]} to {shape[0]} channels are fewer than {target.min_conv_channels}"
        return None

    def _refuse_range(self, site: Site, ctx: Context) -> Refusal | None:
        if _input(site).shape is None or _activated(site).shape is None:
            return Refusal(site.name, "unknown-rank", "shape inference does not get through it")
        stats = ctx.analysis(STATS, self._requests(ctx)).get(_observed(site))
        if stats is None:
            return Refusal(site.name, "not-observed", "no calibration feed reached this layer")
        if _holds_mask(stats):
            return Refusal(
                site.name,
                "mask-in-range",
                f"its input holds an additive mask (minimum {stats.histogram.minimum:.3g})",
            )
        return None

    def _own_statistics(self, site: Site, ctx: Context) -> ValueStats | None:
        """Of its input, along its own channels; a given range may have kept it from being asked."""
        if _input(site).shape is None:
            return None
        own, wanted = _observed(site), self._requests(ctx)
        return ctx.analysis(STATS, wanted if own in wanted else (own,)).get(own)

    def _requests(self, ctx: Context) -> Requests:
        """All activations that this pass may ask for, so that they are observed in one go."""
        sites = ctx.analysis(SITES)
        if self._asked is None or self._asked[0] is not sites:
            self._asked = sites, self._wanted(sites, ctx)
        return self._asked[1]

    def _wanted(self, sites: Sites, ctx: Context) -> Requests:
        wanted: set[Observed] = set()
        for site in sites:
            if site.kind not in ("linear", "conv") or FLOAT not in site.facts:
                continue
            if _refuse_any(site, ctx) is not None or self._too_small(site, ctx) is not None:
                continue
            if _input(site).shape is None or _activated(site).shape is None:
                continue
            wanted.add(_observed(site))
            if site.kind == "conv" and ctx.target.int8.conv_needs_output_quant:
                wanted.add((str(_activated(site).name), 1))
        return tuple(sorted(wanted))

    # -- perturbation ------------------------------------------------------------------

    def _range(self, stats: ValueStats, ctx: Context) -> FakeQuant:
        dtype = ctx.target.int8.activation_dtype
        low, high = CALIBRATORS[self.options.calibrator](
            stats.histogram, dtype=dtype, symmetric=False
        )
        scale, zero_point = affine_params(low, high, dtype=dtype, symmetric=False)
        return FakeQuant(dtype, float(scale), int(zero_point))

    def _perturb_layer(
        self, site: Site, activation: FakeQuant, output: FakeQuant | None, ctx: Context
    ) -> Perturbation:
        weight = _weight(site)
        axis = 1 if site.kind == "linear" else 0
        int8, emulate = ctx.target.int8, self.options.sums == "emulated"
        if int8.saturates:
            codes, scale = paired_codes(site, weight, activation, ctx, emulate=emulate)
        else:
            codes, scale = quantize_weight(weight, axis, int8.weight_bits)
        rounded = dequantize(codes, scale, 0, axis)
        bias = self._corrected_bias(site, weight, rounded, ctx)
        x, y = _input(site), site.output
        assert site.weight is not None and y is not None
        tensors = {str(site.weight.name): rounded}
        if bias is not None and site.bias is not None:
            tensors[str(site.bias.name)] = bias
        quants = {str(x.name): activation}
        if output is not None:
            y = _activated(site)
            quants[str(y.name)] = output
        payload = LayerCodes(codes, scale, bias, activation, output)
        depth = weight.size // weight.shape[axis]
        return Perturbation((str(x.name),), (str(y.name),), tensors, quants, payload, depth)

    def _corrected_bias(
        self, site: Site, weight: np.ndarray, rounded: np.ndarray, ctx: Context
    ) -> np.ndarray | None:
        """The bias that keeps each output's mean; None where there is none to correct."""
        bias = constant_array(site.bias) if site.bias is not None else None
        if bias is None or not self.options.bias_correction or not ctx.analysis(CALIBRATED):
            return None
        if site.bias not in _bias_node(site).inputs:  # behind a node that moves it
            return None
        stats = self._own_statistics(site, ctx)
        if stats is None:
            return None
        if site.kind == "linear":
            shift = bias_correction_linear(weight, rounded, stats.mean)
        else:
            groups = attribute(site.nodes[0], "group", 1)
            shift = bias_correction_conv(weight, rounded, stats.mean, groups)
        return (bias + shift).astype(bias.dtype)


# -- lowering --------------------------------------------------------------------------


def _lower_static(site: Site, codes: LayerCodes, rewriter: Rewriter) -> None:
    node = site.nodes[0]
    x, quant = _present(node.inputs[0]), codes.activation
    assert quant.scale is not None and quant.zero_point is not None
    view = static_view(rewriter, x, quant.scale, quant.zero_point, quant.dtype)
    axis = 1 if site.kind == "linear" else 0
    weight = weight_view(rewriter, node, _weight_hint(site), codes.codes, codes.scale, axis)
    old = node.inputs[1]
    rewriter.set_input(node, 0, view)
    rewriter.set_input(node, 1, weight)
    rewriter.sweep([old])
    _set_bias(site, codes.bias, rewriter)
    if codes.output is not None:
        _quantize_output(site, codes.output, rewriter)


def _quantize_output(site: Site, quant: FakeQuant, rewriter: Rewriter) -> None:
    y = _activated(site)
    assert quant.scale is not None and quant.zero_point is not None
    if y.is_graph_output() and not y.uses():
        return
    view = static_view(rewriter, y, quant.scale, quant.zero_point, quant.dtype)
    redirect_elementwise(rewriter, y, view)


def _lower_dynamic(site: Site, codes: LayerCodes, rewriter: Rewriter) -> None:
    """DynamicQuantizeLinear, MatMulInteger, Cast, Mul by both scales: one fused kernel."""
    node, hint = site.nodes[0], _weight_hint(site)
    x = _present(node.inputs[0])
    q, x_scale, x_zero = dynamic_view(rewriter, x)
    weight = rewriter.initializer(f"{hint}_quantized", codes.codes)
    zero = rewriter.initializer(f"{hint}_zero_point", np.zeros(codes.scale.shape, np.int8))
    scale = rewriter.initializer(f"{hint}_scale", codes.scale)
    insert = partial(_in_front, rewriter, node)
    product = insert("MatMulInteger", [q, weight, x_zero, zero])
    scales = insert("Mul", [x_scale, scale])
    real = insert("Cast", [product], to=int(ir.DataType.FLOAT))
    result = insert("Mul", [real, scales])
    _give_way(rewriter, node, result)
    _set_bias(site, codes.bias, rewriter)


def _set_bias(site: Site, bias: np.ndarray | None, rewriter: Rewriter) -> None:
    """Give the site a bias of its own; the old one may be shared."""
    if bias is None or site.bias is None:
        return
    old, node = site.bias, _bias_node(site)
    new = rewriter.initializer(f"{old.name}_corrected", bias)
    rewriter.set_input(node, list(node.inputs).index(old), new)
    rewriter.sweep([old])


def _perturb_table(site: Site) -> Perturbation:
    weight = _weight(site)
    codes, scale = quantize_weight(weight, 0)
    assert site.weight is not None and site.output is not None
    payload = LayerCodes(codes, scale, None, FakeQuant())
    return Perturbation(
        (str(_input(site).name),),
        (str(site.output.name),),
        {str(site.weight.name): dequantize(codes, scale, 0, 0)},
        {},
        payload,
    )


def _lower_table(site: Site, codes: LayerCodes, rewriter: Rewriter) -> None:
    """Gather codes and scales, then multiply: only the rows asked for are widened."""
    node, hint = site.nodes[0], _weight_hint(site)
    index = node.inputs[1]
    table = rewriter.initializer(f"{hint}_quantized", codes.codes)
    scales = rewriter.initializer(f"{hint}_scale", codes.scale[:, None])
    insert = partial(_in_front, rewriter, node)
    rows = insert("Cast", [insert("Gather", [table, index], axis=0)], to=int(ir.DataType.FLOAT))
    result = insert("Mul", [rows, insert("Gather", [scales, index], axis=0)])
    _give_way(rewriter, node, result)


def _in_front(
    rewriter: Rewriter,
    node: ir.Node,
    op: str,
    inputs: Sequence[ir.Value | None],
    **attributes: int,
) -> ir.Value:
    """The output of a new node in front of the layer that it helps to replace."""
    name = f"{node.name}_{op.lower()}"
    made = rewriter.insert(
        op, inputs, before=node, attributes=attributes, name=name, origins=[node]
    )
    return made.outputs[0]


def _give_way(rewriter: Rewriter, node: ir.Node, result: ir.Value) -> None:
    """Let ``result`` stand for the node's output; the node goes, with what it alone read."""
    read = list(node.inputs)
    rewriter.take_over(node.outputs[0], result)
    rewriter.remove(node)
    rewriter.sweep(read)


def _observed(site: Site) -> Observed:
    """Its input, along the channels that it reads; the rank must be known."""
    x = _input(site)
    assert x.shape is not None
    return str(x.name), 1 if site.kind == "conv" else len(x.shape) - 1


def _bias_node(site: Site) -> ir.Node:
    """The node that adds the bias."""
    return site.nodes[-1] if site.kind == "linear" else site.nodes[0]


# -- questions about a site ------------------------------------------------------------


def _refuse_any(site: Site, ctx: Context) -> Refusal | None:
    if not ctx.target.int8.supported:
        return Refusal(site.name, "target", f"no integer kernels are known for {ctx.target.name}")
    if QUANTIZED in site.facts:
        return Refusal(site.name, "already-quantized", "its weight has 8 bits or fewer already")
    if FLOAT not in site.facts:
        return Refusal(site.name, "not-float", "the layer is not in float any more")
    if site.nested:
        return Refusal(site.name, "subgraph", IN_BODY)
    tensor = constant_tensor(site.weight)
    if tensor is None or tensor.dtype != ir.DataType.FLOAT:
        found = "not constant" if tensor is None else tensor.dtype.name.lower()
        return Refusal(site.name, "dtype", f"its weight is {found}; only float32 is quantized")
    if site.nodes[0].op_type not in ("MatMul", "Conv", "Gather"):
        return Refusal(
            site.name, "unsupported-op", f"{site.nodes[0].op_type} has no integer kernel"
        )
    if len(site.uses) > 1:
        return Refusal(
            site.name, "shared", f"its weight is used {len(site.uses)} times; not handled yet"
        )
    if site.ties:
        return Refusal(
            site.name, "tied", f"its weight is also that of {site.ties[0]} and would be kept twice"
        )
    if site.weight is not None and len(site.weight.uses()) > 1:
        return Refusal(
            site.name, "shared", "other nodes read its weight, too, and it would be kept twice"
        )
    if site.weight_path:
        return Refusal(site.name, "not-canonical", "its weight stands behind a reshape")
    return None


def is_narrow(site: Site, target: Target) -> bool:
    """Whether a convolution has too few channels to pay alone; depthwise ones have one each."""
    tensor = constant_tensor(site.weight)
    if site.kind != "conv" or tensor is None:
        return False
    outputs, inputs = tensor.shape.numpy()[:2]
    return bool(inputs > 1 and min(outputs, inputs) < target.min_conv_channels)


def _holds_mask(stats: ValueStats) -> bool:
    """Whether a large negative constant stands far below everything else in the range.

    A channel that is merely wide fills the range; a mask leaves a gap above its constant.
    """
    if stats.histogram.minimum > -MASK_MAGNITUDE:
        return False
    counts = stats.histogram.counts
    spike, gap = counts.size // 100, counts.size // 2
    return bool(counts[:spike].sum() > 0 and counts[spike:gap].sum() == 0)


def _input(site: Site) -> ir.Value:
    assert site.input is not None
    return site.input


def _present(value: ir.Value | None) -> ir.Value:
    """The input as it is now: an edit of the layer in front may have replaced it."""
    assert value is not None
    return value


def _given_range(site: Site, ctx: Context) -> FakeQuant | None:
    """The range that the input was rounded to by an earlier tool, where it fits the target."""
    found = rounding_of(_input(site))
    if found is None or found[2] != ctx.target.int8.activation_dtype:
        return None
    return FakeQuant(found[2], found[0], found[1])


def _activated(site: Site) -> ir.Value:
    """The output behind the activation that the runtime absorbs, else the layer's output."""
    assert site.output is not None
    return activated(site.output) if site.kind == "conv" else site.output


def _elements(site: Site) -> int:
    tensor = constant_tensor(site.weight)
    return int(tensor.size) if tensor is not None else 0


def _weight(site: Site) -> np.ndarray:
    array = constant_array(site.weight)
    assert array is not None
    return array


def _weight_hint(site: Site) -> str:
    return f"{site.name}.weight"
