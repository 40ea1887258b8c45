"""8-bit integers: static and dynamic layers, convolutions and embedding tables.

Weights are symmetric int8 per output channel; activations are uint8 per tensor (int8 where the
target multiplies two signed factors), calibrated (static) or taken at run time (dynamic). Softmax,
normalisation, activation functions and residual additions stay float: they are cheap, and rounding
hurts most there (``quantize-residuals`` takes the additions).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal, cast

import numpy as np
import onnx_ir as ir

from ..ir.digest import contents_digest
from ..ir.facts import FLOAT, QUANTIZED
from ..ir.graph import attribute, constant_array, constant_tensor, opset
from ..ir.rewriter import Rewriter
from ..ir.sites import Site, Sites
from .api import (
    CALIBRATED,
    REMEMBERED,
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
from .biases import bias_node
from .math.affine import affine_params, dequantize, quantize_weight
from .math.bias import bias_correction_conv, bias_correction_linear
from .math.calibrate import CALIBRATORS
from .pairsums import paired_codes
from .quantizing.floors import int8_weight, least_scale
from .quantizing.layers import (
    activated_output,
    elements,
    given_range,
    holds_mask,
    input_of,
    is_narrow,
    observed,
    refuse_any,
    uneven_shape,
    weight_of,
)
from .quantizing.lowering import LayerCodes, lower_dynamic, lower_static, lower_table
from .quantizing.ranges import Ranges, are_weighed, fitted_ranges

MIN_TABLE_BYTES = 1 << 16
"""Tables smaller than this save less than the two extra nodes are worth."""
DYNAMIC_DTYPE = "uint8"
"""DynamicQuantizeLinear makes no other."""
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
    (safe), or all 8 bits where that loses less on calibration data (emulated). ranges: static ones
    are widened or narrowed where that moves the model's outputs less (outputs), for targets whose
    compiles weigh that; or stay as the calibrator finds them (values).
    """

    scheme: Literal["static", "dynamic"] = "dynamic"
    calibrator: Literal["minmax", "percentile", "mse", "entropy"] = "mse"
    exclude: tuple[str, ...] = ()
    embeddings: bool = True
    bias_correction: bool = True
    narrow: bool = False
    sums: Literal["safe", "emulated"] = "safe"
    ranges: Literal["outputs", "values"] = "outputs"


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
    On targets whose floats are float16 in a strongly typed graph (TensorRT), scales of weights that
    are next to nothing are raised to float16's least normal number: they would keep their layer in
    float32.
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
    _ranges: Ranges | None = None

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
            output = self._range(stats[str(activated_output(site).name), 1], ctx)
        activation = given_range(site, ctx) or self._activation(model, site, ctx)
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
        return Perturbation((str(input_of(site).name),), (str(site.output.name),), payload=payload)

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
            lower_table(site, perturbation.payload, rewriter)
        elif candidate.setting == "dynamic":
            lower_dynamic(site, perturbation.payload, rewriter)
        else:
            lower_static(site, perturbation.payload, rewriter)

    # -- candidates --------------------------------------------------------------------

    def _judge(self, site: Site, ctx: Context) -> Candidate | Refusal:
        refusal = refuse_any(site, ctx)
        if refusal is None and site.kind == "embedding":
            refusal = self._refuse_table(site, ctx)
        elif refusal is None:
            refusal = self._refuse_layer(site, ctx)
        if refusal is not None:
            return refusal
        saving = 3 * elements(site)
        setting = "int8-rows" if site.kind == "embedding" else self.options.scheme
        return Candidate(site.name, setting, saving)

    def _refuse_table(self, site: Site, ctx: Context) -> Refusal | None:
        if ctx.target.int8.tables is False:
            sentence = f"{ctx.target.name} does not look up rows of integers; left in float"
            return Refusal(site.name, "target", sentence)
        if not self.options.embeddings:
            return Refusal(site.name, "excluded", "embedding tables were switched off")
        if 4 * elements(site) < MIN_TABLE_BYTES:
            return Refusal(
                site.name, "too-small", f"a table of {4 * elements(site)} bytes saves too little"
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
        if self.options.scheme == "dynamic" and not ctx.target.int8.dynamic:
            sentence = f"{ctx.target.name} takes no ranges that are found at run time"
            return Refusal(site.name, "no-dynamic-kernel", f"{sentence}: use scheme=static")
        small = self._too_small(site, ctx)
        if small is not None:
            return Refusal(site.name, "too-small", small)
        if uneven := uneven_shape(site, ctx.target):
            return Refusal(site.name, "uneven-shape", uneven)
        if self.options.scheme == "static":
            return self._refuse_range(site, ctx)
        if given_range(site, ctx) is not None:
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
        if input_of(site).shape is None or activated_output(site).shape is None:
            return Refusal(site.name, "unknown-rank", "shape inference does not get through it")
        stats = ctx.analysis(STATS, self._requests(ctx)).get(observed(site))
        if stats is None:
            return Refusal(site.name, "not-observed", "no calibration feed reached this layer")
        if holds_mask(stats):
            return Refusal(
                site.name,
                "mask-in-range",
                f"its input holds an additive mask (minimum {stats.histogram.minimum:.3g})",
            )
        return None

    def _own_statistics(self, site: Site, ctx: Context) -> ValueStats | None:
        """Of its input, along its own channels; a given range may have kept it from being asked."""
        if input_of(site).shape is None:
            return None
        own, wanted = observed(site), self._requests(ctx)
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
            if refuse_any(site, ctx) is not None or self._too_small(site, ctx) is not None:
                continue
            if input_of(site).shape is None or activated_output(site).shape is None:
                continue
            wanted.add(observed(site))
            if site.kind == "conv" and ctx.target.int8.conv_needs_output_quant:
                wanted.add((str(activated_output(site).name), 1))
        return tuple(sorted(wanted))

    # -- perturbation ------------------------------------------------------------------

    def _range(self, stats: ValueStats, ctx: Context) -> FakeQuant:
        dtype = ctx.target.int8.activation_dtype
        symmetric = bool(ctx.target.int8.symmetric)
        low, high = CALIBRATORS[self.options.calibrator](
            stats.histogram, dtype=dtype, symmetric=symmetric
        )
        scale, zero_point = affine_params(low, high, dtype=dtype, symmetric=symmetric)
        return FakeQuant(dtype, float(scale), int(zero_point))

    def _activation(self, model: ir.Model, site: Site, ctx: Context) -> FakeQuant:
        """What the layer reads, in the range that all its readers share."""
        ranges = self._fitted(model, ctx) if self.options.ranges == "outputs" else {}
        known = ranges.get(str(input_of(site).name))
        return known or self._range(ctx.analysis(STATS, self._requests(ctx))[observed(site)], ctx)

    def _fitted(self, model: ir.Model, ctx: Context) -> Ranges:
        """Of all values that layers read, found before the first edit."""
        if self._ranges is None:
            readers = self._readers(ctx)
            stats = ctx.analysis(STATS, self._requests(ctx))
            ranges: Ranges = {
                n: self._range(stats[observed(s[0])], ctx) for n, s in readers.items()
            }
            if are_weighed(readers, ranges, ctx):
                key = ("ranges", contents_digest(model), *ranges.items())
                fit = partial(fitted_ranges, readers, ranges, ctx)
                ranges = cast(Ranges, ctx.analysis(REMEMBERED, (key, fit)))
            self._ranges = ranges
        return self._ranges

    def _readers(self, ctx: Context) -> dict[str, list[Site]]:
        """By value, the layers that may read it in integers and have but that input."""
        found: dict[str, list[Site]] = {}
        for site in ctx.analysis(SITES).of_kind("linear", "conv"):
            if FLOAT in site.facts and len(site.uses) == 1 and self._judged(site, ctx):
                found.setdefault(str(input_of(site).name), []).append(site)
        return found

    def _judged(self, site: Site, ctx: Context) -> bool:
        return isinstance(self._judge(site, ctx), Candidate) and given_range(site, ctx) is None

    def _perturb_layer(
        self, site: Site, activation: FakeQuant, output: FakeQuant | None, ctx: Context
    ) -> Perturbation:
        weight = weight_of(site)
        axis = 1 if site.kind == "linear" else 0
        int8, emulate = ctx.target.int8, self.options.sums == "emulated"
        if int8.saturates:
            codes, scale = paired_codes(site, weight, activation, ctx, emulate=emulate)
        else:
            codes, scale = int8_weight(weight, axis, int8.weight_bits, least_scale(ctx.target))
        rounded = dequantize(codes, scale, 0, axis)
        bias = self._corrected_bias(site, weight, rounded, ctx)
        x, y = input_of(site), site.output
        assert site.weight is not None and y is not None
        tensors = {str(site.weight.name): rounded}
        if bias is not None and site.bias is not None:
            tensors[str(site.bias.name)] = bias
        quants = {str(x.name): activation}
        if output is not None:
            y = activated_output(site)
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
        if site.bias not in bias_node(site, site.uses[0]).inputs:  # behind a node that moves it
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


def _perturb_table(site: Site) -> Perturbation:
    weight = weight_of(site)
    codes, scale = quantize_weight(weight, 0)
    assert site.weight is not None and site.output is not None
    payload = LayerCodes(codes, scale, None, FakeQuant())
    return Perturbation(
        (str(input_of(site).name),),
        (str(site.output.name),),
        {str(site.weight.name): dequantize(codes, scale, 0, 0)},
        {},
        payload,
    )
