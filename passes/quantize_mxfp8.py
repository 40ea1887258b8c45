"""8-bit floats (E4M3) in blocks of 32 that share a power of two: linear layers, as MXFP8 has them.

Scales of weights are found now, those of activations at run time: no data is needed.
Sources: OCP Microscaling Formats 1.0; NVIDIA Model-Optimizer (modelopt/onnx/export) for the form in
a graph.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ..ir.facts import FLOAT, QUANTIZED, SPARSE
from ..ir.graph import constant_tensor, opset
from ..ir.rewriter import Rewriter
from ..ir.sites import Site
from ..targets.rules.tensorrt.scope import runs
from .api import (
    SITES,
    Candidate,
    Context,
    FakeQuant,
    Pass,
    Perturbation,
    Refusal,
    Semantics,
    register,
)
from .math.float8 import E4M3, NAME
from .math.mxfp8 import BLOCK, MxCodes, dequantize_mx, round_mx
from .quantizing.blocks import lower_blocks, unsuited
from .quantizing.layers import elements, input_of, judged_layers, refuse_any, weight_of
from .zeros import kept_patterns

OPSET = 19
"""The first that has E4M3."""
QUANTIZER = "TRT_MXFP8DynamicQuantize"
"""The operator that rounds activations: a target without kernels for it has none for MXFP8."""


@dataclass(frozen=True)
class QuantizeMxfp8Options:
    """exclude: selectors of sites to leave float."""

    exclude: tuple[str, ...] = ()


@register
class QuantizeMxfp8(Pass):
    """Store weights in 8-bit floats in blocks (MXFP8) and compute linear layers in them.

    What it does: linear layers get E4M3 weights and inputs in blocks of 32 along what is summed
    over, each with the least power of two that holds its largest number; those of activations are
    taken at run time. The rest stays float.
    When it applies: where the target has kernels for it, for layers with inputs in multiples of 32
    and outputs of 16 that read two or three axes. It needs no calibration data.
    What it costs: rounding to 4 bits of precision, measured per site.
    Guarantee: codes and scales are those whose loss was measured.
    Example: ``quantize-mxfp8{exclude=classifier}``
    """

    name = "quantize-mxfp8"
    semantics = Semantics.LOSSY
    requires = frozenset({FLOAT})
    produces = frozenset({QUANTIZED})
    invalidates = frozenset({SPARSE})
    narrowing = frozenset({"exclude"})
    Options = QuantizeMxfp8Options
    options: QuantizeMxfp8Options

    def candidates(self, model: ir.Model, ctx: Context) -> Iterator[Candidate | Refusal]:
        def judge(site: Site) -> Candidate | Refusal:
            refusal = _refuse(site, ctx, opset(model))
            return refusal or Candidate(site.name, "mxfp8", 3 * elements(site))

        return judged_layers(ctx, self.options.exclude, judge)

    def perturb(self, model: ir.Model, candidate: Candidate, ctx: Context) -> Perturbation:
        site = ctx.analysis(SITES).by_name[candidate.site]
        weight, x, y = weight_of(site), input_of(site), site.output
        assert site.weight is not None and y is not None
        coded = round_mx(weight)
        return Perturbation(
            (str(x.name),),
            (str(y.name),),
            {str(site.weight.name): dequantize_mx(coded)},
            {str(x.name): FakeQuant(NAME, None, None, BLOCK)},
            coded,
            len(weight),
        )

    def outline(self, model: ir.Model, candidate: Candidate, ctx: Context) -> Perturbation:
        """Codes of zero in the right shapes: no weight is read."""
        site = ctx.analysis(SITES).by_name[candidate.site]
        tensor = constant_tensor(site.weight)
        assert tensor is not None and site.output is not None
        inputs, outputs = tensor.shape.numpy()
        scales = np.ones((inputs // BLOCK, outputs), np.float32)
        blank = MxCodes(np.zeros((inputs, outputs), E4M3), scales)
        return Perturbation((str(input_of(site).name),), (str(site.output.name),), payload=blank)

    def lower(
        self,
        model: ir.Model,
        candidate: Candidate,
        perturbation: Perturbation | None,
        rewriter: Rewriter,
        ctx: Context,
    ) -> None:
        assert perturbation is not None
        coded: MxCodes = perturbation.payload
        site = ctx.analysis(SITES).by_name[candidate.site]
        lower_blocks(site, coded.codes, coded.scales, rewriter)


def _refuse(site: Site, ctx: Context, version: int) -> Refusal | None:
    if not runs(ctx.target, QUANTIZER):
        sentence = f"{ctx.target.name} computes no 8-bit floats in blocks of {BLOCK}"
        return Refusal(site.name, "target", sentence)
    if version < OPSET:
        sentence = f"8-bit floats need opset {OPSET}, the model stays at {version}"
        return Refusal(site.name, "opset", sentence)
    if site.kind == "conv":
        return Refusal(site.name, "unsupported-op", "no kernel convolves 8-bit floats in blocks")
    found = refuse_any(site, ctx)
    if found is not None:
        return found
    if patterns := kept_patterns(site, ctx.target):
        sentence = f"its zeros in the pattern {patterns[0]} are skipped in other forms only"
        return Refusal(site.name, "sparse", sentence)
    wrong = unsuited(site, ctx.target, BLOCK)
    return Refusal(site.name, *wrong) if wrong else None
