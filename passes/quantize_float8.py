"""8-bit floats (E4M3): linear layers and convolutions with calibrated activations.

A float of 8 bits keeps 4 of precision over 18 powers of two: ranges matter little, so that the
whole range is kept and one scale serves a weight. Source: Micikevicius et al., FP8 Formats for
Deep Learning, 2022; NVIDIA Model-Optimizer (modelopt/onnx/quantization) for what is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Literal

import numpy as np
import onnx_ir as ir

from ..ir.facts import FLOAT, QUANTIZED
from ..ir.graph import constant_tensor, opset
from ..ir.rewriter import Rewriter
from ..ir.sites import Site
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
from .biases import bias_node
from .math.float8 import E4M3, NAME, absmax_scale, round_to_float8
from .quantizing.fitted8 import Fit
from .quantizing.floors import float8_scale, least_scale
from .quantizing.layers import (
    elements,
    holds_mask,
    input_of,
    is_narrow,
    judged_layers,
    observed,
    refuse_any,
    uneven_shape,
    weight_of,
)
from .quantizing.lowering import LayerCodes, lower_static

OPSET = 19
"""The first in which QuantizeLinear makes 8-bit floats."""
MOST_TAPS = 32
"""Of a convolution's kernel: larger ones have no FP8 kernel (Model-Optimizer)."""


@dataclass(frozen=True)
class QuantizeFloat8Options:
    """exclude: selectors of sites to leave float.

    codes: of weights, chosen together for small errors of the outputs on calibration data, with the
    bias taking up the mean of the error (gptq), or the nearest ones (round).
    """

    exclude: tuple[str, ...] = ()
    codes: Literal["gptq", "round"] = "gptq"


@register
class QuantizeFloat8(Pass):
    """Store weights in 8-bit floats (E4M3) and compute linear layers and convolutions in them.

    What it does: linear layers and convolutions get E4M3 weights and inputs, one scale each, which
    maps the largest magnitude seen to 448. Codes of weights are chosen for small errors of the
    outputs on calibration data (GPTQ). The rest stays float.
    When it applies: where the target computes 8-bit floats, with calibration data, for layers at
    least as large as the target's break-even; convolutions of at most 32 taps.
    What it costs: rounding to 4 bits of precision, measured per site.
    Guarantee: codes and scales are those whose loss was measured.
    Example: ``quantize-float8{exclude=classifier}``
    """

    name = "quantize-float8"
    semantics = Semantics.LOSSY
    requires = frozenset({FLOAT})
    produces = frozenset({QUANTIZED})
    narrowing = frozenset({"exclude"})
    Options = QuantizeFloat8Options
    options: QuantizeFloat8Options

    def candidates(self, model: ir.Model, ctx: Context) -> Iterator[Candidate | Refusal]:
        def judge(site: Site) -> Candidate | Refusal:
            refusal = self._refuse(site, ctx, opset(model))
            return refusal or Candidate(site.name, "e4m3", 3 * elements(site))

        return judged_layers(ctx, self.options.exclude, judge)

    def perturb(self, model: ir.Model, candidate: Candidate, ctx: Context) -> Perturbation:
        site = ctx.analysis(SITES).by_name[candidate.site]
        weight, x, y = weight_of(site), input_of(site), site.output
        assert site.weight is not None and y is not None
        scale = float8_scale(weight, least_scale(ctx.target))
        codes, bias = self._codes(site, weight, scale, ctx)
        peak = float(self._stats(site, ctx).absmax.max())
        activation = FakeQuant(NAME, float(absmax_scale(peak)), 0)
        payload = LayerCodes(codes, np.asarray(scale), bias, activation)
        axis = 1 if site.kind == "linear" else 0
        tensors = {str(site.weight.name): codes.astype(np.float32) * scale}
        if bias is not None and site.bias is not None:
            tensors[str(site.bias.name)] = bias
        return Perturbation(
            (str(x.name),),
            (str(y.name),),
            tensors,
            {str(x.name): activation},
            payload,
            weight.size // weight.shape[axis],
        )

    def outline(self, model: ir.Model, candidate: Candidate, ctx: Context) -> Perturbation:
        """Codes of zero in the right shapes: no weight is read and no range looked up."""
        site = ctx.analysis(SITES).by_name[candidate.site]
        tensor = constant_tensor(site.weight)
        assert tensor is not None and site.output is not None
        one = np.asarray(1.0, np.float32)
        payload = LayerCodes(
            np.zeros(tensor.shape.numpy(), E4M3), one, None, FakeQuant(NAME, 1.0, 0)
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
        lower_static(ctx.analysis(SITES).by_name[candidate.site], perturbation.payload, rewriter)

    def _codes(
        self, site: Site, weight: np.ndarray, scale: np.float32, ctx: Context
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """E4M3 codes, and the bias where it makes up for them."""
        if self.options.codes == "round":
            return round_to_float8(weight, scale), None
        found = Fit(self._taken(ctx), ctx).codes(site, scale)
        own = site.bias is not None and site.bias in bias_node(site, site.uses[0]).inputs
        return found.weight, found.bias if own else None

    # -- candidates --------------------------------------------------------------------

    def _refuse(self, site: Site, ctx: Context, version: int) -> Refusal | None:
        if ctx.target.floats.float8 != "native":
            return Refusal(site.name, "target", f"{ctx.target.name} computes no 8-bit floats")
        if version < OPSET:
            sentence = f"8-bit floats need opset {OPSET}, the model stays at {version}"
            return Refusal(site.name, "opset", sentence)
        if not ctx.analysis(CALIBRATED):
            return Refusal(site.name, "no-calibration", "ranges need real data; give --calibration")
        found = refuse_any(site, ctx)
        if found is not None:
            return found
        if small := _too_small(site, ctx):
            return Refusal(site.name, "too-small", small)
        if uneven := uneven_shape(site, ctx.target):
            return Refusal(site.name, "uneven-shape", uneven)
        return self._refuse_range(site, ctx)

    def _refuse_range(self, site: Site, ctx: Context) -> Refusal | None:
        if input_of(site).shape is None:
            return Refusal(site.name, "unknown-rank", "shape inference does not get through it")
        stats = ctx.analysis(STATS, self._requests(ctx)).get(observed(site))
        if stats is None:
            return Refusal(site.name, "not-observed", "no calibration feed reached this layer")
        if holds_mask(stats):
            return Refusal(site.name, "mask-in-range", "its input holds an additive mask")
        return None

    def _stats(self, site: Site, ctx: Context) -> ValueStats:
        return ctx.analysis(STATS, self._requests(ctx))[observed(site)]

    def _requests(self, ctx: Context) -> tuple[Observed, ...]:
        """All activations that this pass may ask for, so that they are observed in one go."""
        return tuple(sorted({observed(site) for site in self._taken(ctx)}))

    def _taken(self, ctx: Context) -> list[Site]:
        """Layers that it may take, as far as their shapes say."""
        return [
            site
            for site in ctx.analysis(SITES)
            if site.kind in ("linear", "conv")
            and FLOAT in site.facts
            and refuse_any(site, ctx) is None
            and not _too_small(site, ctx)
            and input_of(site).shape is not None
        ]


def _too_small(site: Site, ctx: Context) -> str:
    tensor, target = constant_tensor(site.weight), ctx.target
    assert tensor is not None
    shape = tensor.shape.numpy()
    if site.kind == "linear" and min(shape) < target.min_gemm:
        return f"a {shape[0]}x{shape[1]} product is smaller than {target.min_gemm} on a side"
    if site.kind == "linear":
        return ""
    if is_narrow(site, target) or min(shape[:2]) <= target.min_conv_channels:
        return f"{shape[1]} to {shape[0]} channels are not more than {target.min_conv_channels}"
    taps = prod(shape[2:])
    return f"a kernel of {taps} taps has more than {MOST_TAPS}" if taps > MOST_TAPS else ""
