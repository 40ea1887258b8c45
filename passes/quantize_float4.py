"""4-bit floats (E2M1) in blocks of 16 with scales of two levels: linear layers, as NVFP4 has them.

Weights are rounded now, activations at run time: each block of 16 along what is summed over gets
the E4M3 scale that holds its largest number; one calibrated float32 scale a tensor sets its unit.
Sources: NVIDIA, Introducing NVFP4 (2025); NVIDIA Model-Optimizer (modelopt/onnx/export), for which
layers and for the form in a graph.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import onnx_ir as ir

from ..ir.errors import InputError
from ..ir.facts import FLOAT, QUANTIZED, SPARSE
from ..ir.graph import constant_tensor, opset
from ..ir.opset import raised
from ..ir.rewriter import Rewriter
from ..ir.sites import Site
from ..ir.storage.tensors import tensor_digest
from .api import (
    CALIBRATED,
    GRAMS,
    REMEMBERED,
    SITES,
    STATS,
    Candidate,
    Context,
    FakeQuant,
    GramTable,
    Observed,
    Pass,
    Perturbation,
    Refusal,
    Semantics,
    ValueStats,
    register,
)
from .math.float4 import (
    BLOCK,
    NAME,
    Float4Codes,
    dequantize_float4,
    round_float4,
    tensor_scale,
)
from .math.float4_gptq import gptq_float4
from .math.float8 import E4M3
from .quantizing.blocks import lower_blocks, unsuited
from .quantizing.layers import (
    elements,
    holds_mask,
    input_of,
    judged_layers,
    observed,
    refuse_any,
    weight_of,
)
from .weight_only import ROWS_PER_INPUT
from .zeros import kept_patterns

OPSET, FINAL_OPSET = 19, 23
"""Of the graph while it is worked on, for E4M3, and of the model in the end, for E2M1."""
KIND = "fp4"
"""As targets name products in 4-bit floats."""


@dataclass(frozen=True)
class QuantizeFloat4Options:
    """scales: of a weight's blocks. search tries 16 near the one that holds the block's
    largest number, by the squared error weighted with what was seen of the inputs; max takes that
    one. codes: round takes the nearest; gptq lets errors make up for each other on calibration
    data; auto does so where there is enough of it. exclude: selectors of sites to leave float.
    """

    scales: Literal["search", "max"] = "search"
    codes: Literal["auto", "round", "gptq"] = "auto"
    exclude: tuple[str, ...] = ()


@dataclass(frozen=True)
class Lowered:
    """What lowering builds from. activation: float32 scale of the input."""

    weight: Float4Codes
    activation: float


@register
class QuantizeFloat4(Pass):
    """Store weights in 4-bit floats (NVFP4) and compute linear layers in them.

    What it does: linear layers get E2M1 weights and inputs in blocks of 16 along what is summed
    over. A block's scale is an 8-bit float, and one float32 scale serves a tensor. Scales of
    weights are searched for and their codes chosen for small errors of the outputs (GPTQ); those
    of activations are taken at run time. The rest stays float.
    When it applies: where the target computes 4-bit floats, with calibration data, for layers with
    inputs and outputs in multiples of 16 that read two or three axes.
    What it costs: rounding to 2 bits of precision, measured per site: much more than 8 bits.
    Guarantee: codes and scales are those whose loss was measured.
    Example: ``quantize-float4{scales=search exclude=classifier}``
    """

    name = "quantize-float4"
    semantics = Semantics.LOSSY
    requires = frozenset({FLOAT})
    produces = frozenset({QUANTIZED})
    invalidates = frozenset({SPARSE})
    narrowing = frozenset({"exclude"})
    Options = QuantizeFloat4Options
    options: QuantizeFloat4Options

    def candidates(self, model: ir.Model, ctx: Context) -> Iterator[Candidate | Refusal]:
        general = _refuse_all(model, ctx)

        def judge(site: Site) -> Candidate | Refusal:
            if general is not None:
                return Refusal(site.name, *general)
            return self._refuse(site, ctx) or Candidate(site.name, "nvfp4", _saving(site))

        return judged_layers(ctx, self.options.exclude, judge)

    def perturb(self, model: ir.Model, candidate: Candidate, ctx: Context) -> Perturbation:
        site = ctx.analysis(SITES).by_name[candidate.site]
        weight, x, y = weight_of(site), input_of(site), site.output
        assert site.weight is not None and y is not None
        stats = ctx.analysis(STATS, self._requests(ctx))[observed(site)]
        key = self._key(site, ctx)
        coded = ctx.analysis(REMEMBERED, (key, partial(self._coded, site, stats, ctx)))
        scale = float(tensor_scale(float(stats.absmax.max())))
        return Perturbation(
            (str(x.name),),
            (str(y.name),),
            {str(site.weight.name): dequantize_float4(coded)},
            {str(x.name): FakeQuant(NAME, scale, 0, BLOCK)},
            Lowered(coded, scale),
            len(weight),
        )

    def outline(self, model: ir.Model, candidate: Candidate, ctx: Context) -> Perturbation:
        """Codes of zero in the right shapes: no weight is read and no range looked up."""
        site = ctx.analysis(SITES).by_name[candidate.site]
        tensor = constant_tensor(site.weight)
        assert tensor is not None and site.output is not None
        inputs, outputs = tensor.shape.numpy()
        ones = np.ones((inputs // BLOCK, outputs), E4M3)
        codes = Float4Codes(np.zeros((inputs, outputs), E4M3), ones, np.float32(1))
        payload = Lowered(codes, 1.0)
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
        payload: Lowered = perturbation.payload
        site, coded = ctx.analysis(SITES).by_name[candidate.site], payload.weight
        lower_blocks(
            site, coded.codes, coded.block_scales, rewriter,
            scale=float(coded.scale), activation=payload.activation,
        )  # fmt: skip

    # -- candidates --------------------------------------------------------------------

    def _refuse(self, site: Site, ctx: Context) -> Refusal | None:
        if site.kind == "conv":
            return Refusal(site.name, "unsupported-op", "no kernel convolves 4-bit floats")
        found = refuse_any(site, ctx)
        if found is not None:
            return found
        if wrong := unsuited(site, ctx.target, BLOCK):
            return Refusal(site.name, *wrong)
        patterns = kept_patterns(site, ctx.target)
        if patterns and KIND not in (ctx.target.sparse.dtypes or ()):
            sentence = f"its zeros in the pattern {patterns[0]} are skipped in other types only"
            return Refusal(site.name, "sparse", sentence)
        stats = ctx.analysis(STATS, self._requests(ctx)).get(observed(site))
        if stats is None:
            return Refusal(site.name, "not-observed", "no calibration feed reached this layer")
        if holds_mask(stats):
            return Refusal(site.name, "mask-in-range", "its input holds an additive mask")
        return None

    def _key(self, site: Site, ctx: Context) -> Hashable:
        """All that the codes of a weight depend on."""
        tensor = constant_tensor(site.weight)
        assert tensor is not None
        seen = self._grams(ctx).origin(observed(site))
        return self.name, tensor_digest(tensor), self.options.scales, self.options.codes, seen

    def _coded(self, site: Site, stats: ValueStats, ctx: Context) -> Float4Codes:
        weight, search = weight_of(site), self.options.scales == "search"
        gram = None if self.options.codes == "round" else self._grams(ctx).get(observed(site))
        enough = gram is not None and gram.count >= ROWS_PER_INPUT * len(weight)
        if gram is not None and (enough or self.options.codes == "gptq"):
            return gptq_float4(weight, gram.matrix, search=search)
        return round_float4(weight, importance=stats.mean_square, search=search)

    def _grams(self, ctx: Context) -> GramTable:
        return ctx.analysis(GRAMS, self._requests(ctx))

    def _requests(self, ctx: Context) -> tuple[Observed, ...]:
        """All activations that this pass may ask for, so that they are observed in one go."""
        wanted = {
            observed(site)
            for site in ctx.analysis(SITES)
            if site.kind == "linear"
            and FLOAT in site.facts
            and refuse_any(site, ctx) is None
            and not unsuited(site, ctx.target, BLOCK)
        }
        return tuple(sorted(wanted))


def _refuse_all(model: ir.Model, ctx: Context) -> tuple[str, str] | None:
    """What speaks against 4-bit floats in the whole model."""
    if ctx.target.floats.float4 != "native":
        return "target", f"{ctx.target.name} computes no 4-bit floats"
    if not ctx.analysis(CALIBRATED):
        return "no-calibration", "ranges need real data; give --calibration"
    if ctx.target.runtime.max_opset < FINAL_OPSET:
        taken = ctx.target.runtime.max_opset
        return "opset", f"4-bit floats need opset {FINAL_OPSET}, the runtime takes {taken} at most"
    if opset(model) < OPSET:
        return "opset", f"4-bit floats need opset {OPSET}, the model stays at {opset(model)}"
    try:
        raised(model, FINAL_OPSET)
    except InputError as error:
        return "opset", f"4-bit floats need opset {FINAL_OPSET}: {error.what}"
    return None


def _saving(site: Site) -> int:
    """Bytes: of 32 bits 4, and 8 for each 16 numbers, are left."""
    return elements(site) * 4 - elements(site) // 2 - elements(site) // BLOCK - 4
