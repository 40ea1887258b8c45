"""Weights in 8, 4 or 2 bits with a scale for each block of inputs; activations stay float.

Linear layers become MatMulNBits, embeddings GatherBlockQuantized; what was stored once stays so.
"""

from __future__ import annotations

import operator
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, replace
from functools import partial, reduce
from typing import Literal, TypedDict

import numpy as np
import onnx_ir as ir

from ..ir.errors import InputError
from ..ir.facts import FLOAT, QUANTIZED, SPARSE
from ..ir.graph import constant_tensor, consumers, given, opset
from ..ir.nbits import PackedValues, PackedWeight, look_up, multiply, store
from ..ir.opset import raised
from ..ir.rewriter import Rewriter
from ..ir.storage.tensors import tensor_digest
from .api import (
    CALIBRATED,
    GRAMS,
    REMEMBERED,
    SITES,
    Candidate,
    Context,
    Gram,
    GramTable,
    Observed,
    Pass,
    Perturbation,
    Refusal,
    Semantics,
    register,
)
from .blockrefusals import Reason, refusal, too_little
from .math.blockcodes import BlockCodes, dequantize_blocks
from .math.blockwise import round_blocks
from .math.gptq import gptq_blocks
from .math.hqq import hqq_blocks
from .math.packing import pack_nbits, pack_rows
from .quantizing.floors import least_scale, raised_blocks
from .sharing import Applied, Shared, sharing
from .zeros import filled

FLOAT16 = np.finfo(np.float16)
ROWS_PER_INPUT = 2
"""Rows of calibration data for each input that GPTQ needs: from fewer it learns their noise."""


@dataclass(frozen=True)
class WeightOnlyOptions:
    """bits: of a weight. block: inputs that share a scale. symmetric: no zero points; so it is
    anyway where the target takes none.

    method: how codes are chosen; auto is GPTQ where calibration data has enough rows, else
    rounding with a clip search, weighted by what was seen of the activations; hqq is half-quadratic
    quantization, which needs no data (and was as good as that search, in four times its time).
    layers: pack linear layers. embeddings: pack tables. exclude: selectors of sites to leave
    float. accuracy_level: what to ask the kernel for, by default the target's; 4 lets it round
    activations to int8, 0 to 3 compute in float32.
    """

    bits: Literal[8, 4, 2] = 4
    block: int = 32
    symmetric: bool = False
    method: Literal["auto", "round", "hqq", "gptq"] = "auto"
    layers: bool = True
    embeddings: bool = True
    exclude: tuple[str, ...] = ()
    accuracy_level: Literal[0, 1, 2, 3, 4] | None = None


class Form(TypedDict):
    """How codes stand for weights."""

    bits: int
    block: int
    symmetric: bool
    signed: bool


@dataclass(frozen=True)
class Lowered:
    """What lowering builds from."""

    weight: PackedWeight
    accuracy_level: int


@dataclass(frozen=True)
class Planned:
    """A weight that is to be packed, and its uses with the names they had before the pass."""

    group: Shared
    applied: tuple[Applied, ...]


@register
class WeightOnly(Pass):
    """Store the weights of linear layers and embeddings in few bits, in blocks with a scale.

    What it does: weights become codes of 8, 4 or 2 bits with a scale (and a zero point) for each
    block of inputs. Codes are chosen for small errors of the outputs: by GPTQ on calibration
    data, else by rounding with a clip search, weighted by what data there is. Layers that share
    a weight, and an embedding and the head tied to it, keep one packed copy; a table that was
    stored a second time for its head is stored once.
    When it applies: float linear layers and embeddings, where the target's runtime has a kernel
    for that many bits and that block.
    What it costs: rounding, measured per site as relative squared error of its output. At
    accuracy level 4 the kernel also rounds activations to int8; what that adds is reported apart.
    Large batches run slower than with 8-bit integers: files and memory shrink, not arithmetic.
    Guarantee: packed codes and scales are those whose loss was measured.
    Example: ``weight-only{bits=4 block=32 method=gptq exclude=head}``
    """

    name = "weight-only"
    semantics = Semantics.LOSSY
    requires = frozenset({FLOAT})
    produces = frozenset({QUANTIZED})
    invalidates = frozenset({SPARSE})
    narrowing = frozenset({"exclude", "embeddings", "layers"})
    Options = WeightOnlyOptions
    options: WeightOnlyOptions

    def __init__(self, options: WeightOnlyOptions) -> None:
        super().__init__(options)
        self._planned: dict[str, Planned] = {}

    def candidates(self, model: ir.Model, ctx: Context) -> Iterator[Candidate | Refusal]:
        sites = ctx.analysis(SITES)
        excluded = {s.name for selector in self.options.exclude for s in sites.select(selector)}
        for site in sites.of_kind("conv"):
            yield Refusal(site.name, "no-nbits-kernel", "no kernel convolves with packed weights")
        groups, general = list(sharing(sites)), _opset_reason(model, ctx)
        reasons = [general or self._reason(group, excluded, ctx) for group in groups]
        self._planned = {
            group.lead.name: Planned(group, group.applied())
            for group, reason in zip(groups, reasons, strict=True)
            if reason is None
        }
        for group, reason in zip(groups, reasons, strict=True):
            yield from self._offers(group, reason, ctx)

    def perturb(self, model: ir.Model, candidate: Candidate, ctx: Context) -> Perturbation:
        planned = self._planned[candidate.site]
        group, applied = planned.group, planned.applied
        coded = ctx.analysis(
            REMEMBERED, (self._key(planned, ctx), partial(self._coded, planned, ctx))
        )
        packed = _packed(group, coded)
        made = {use.output for use in applied}
        return Perturbation(
            inputs=tuple(dict.fromkeys(use.input for use in applied if use.input not in made)),
            outputs=tuple(dict.fromkeys(use.output for use in applied)),
            tensors=group.stored(_as_read(coded, packed).astype(group.dtype, copy=False)),
            payload=Lowered(packed, self._level(ctx)),
            contraction=group.shape[0] if group.multiplied else 1,
        )

    def outline(self, model: ir.Model, candidate: Candidate, ctx: Context) -> Perturbation:
        """Codes, scales and zero points of the right shapes, all of them zero or one."""
        group = self._planned[candidate.site].group
        packed = _packed(group, _blank(group.shape, self._form(ctx)))
        return Perturbation((), (), payload=Lowered(packed, self._level(ctx)))

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
        held = store(rewriter, f"{candidate.site}.weight", payload.weight)
        for use in self._planned[candidate.site].applied:
            if use.product:
                _multiply(use.node, held, payload.accuracy_level, rewriter)
            else:
                _look_up(use.node, held, rewriter)

    # -- what to do --------------------------------------------------------------------

    def _offers(
        self, group: Shared, reason: Reason | None, ctx: Context
    ) -> Iterator[Candidate | Refusal]:
        lead, followers = group.lead.name, group.sites[1:]
        if reason is None:
            setting = f"int{self.options.bits}-block{self.options.block}"
            yield Candidate(lead, setting, self._saving(group, ctx))
            reason = "tied", f"decided with {lead}, the weight of which it shares"
        else:
            yield Refusal(lead, *reason)
        for site in followers:
            yield Refusal(site.name, *reason)

    def _reason(self, group: Shared, excluded: set[str], ctx: Context) -> Reason | None:
        if any(site.name in excluded for site in group.sites):
            return "excluded", "left float on request"
        if group.looked_up and not self.options.embeddings:
            return "excluded", "embedding tables were switched off"
        if group.multiplied and not self.options.layers:
            return "excluded", "linear layers were switched off"
        if self.options.method == "gptq" and group.multiplied and not ctx.analysis(CALIBRATED):
            return "no-calibration", "GPTQ needs real data; give --calibration, or use method=hqq"
        found = refusal(group, self.options.bits, self.options.block, ctx.target)
        sparse = (filled(site, ctx.target, "codes in blocks") for site in group.sites)
        found = found or next(filter(None, sparse), None)
        return found or too_little(self._saving(group, ctx))

    def _saving(self, group: Shared, ctx: Context) -> int:
        bits, block = self.options.bits, self.options.block
        inputs, outputs = group.shape
        blocks = -(-inputs // block)
        codes = blocks * block * bits // 8 if group.multiplied else inputs * bits // 8
        zeros = 0 if self._form(ctx)["symmetric"] else -(-blocks * bits // 8)
        scales = (group.dtype.itemsize if group.multiplied else 2) * blocks
        return group.stored_bytes() - outputs * (codes + zeros + scales)

    def _form(self, ctx: Context) -> Form:
        """As asked for, and as the target takes it."""
        options, strict = self.options, bool(ctx.target.weight_only.symmetric)
        symmetric = options.symmetric or strict
        return Form(bits=options.bits, block=options.block, symmetric=symmetric, signed=not strict)

    def _level(self, ctx: Context) -> int:
        asked = self.options.accuracy_level
        level = ctx.target.weight_only.accuracy_level if asked is None else asked
        return level or 0

    # -- codes -------------------------------------------------------------------------

    def _key(self, planned: Planned, ctx: Context) -> Hashable:
        """All that the codes of a weight depend on."""
        tensor, options = constant_tensor(planned.group.lead.weight), self.options
        assert tensor is not None
        grams = self._grams(ctx) if ctx.analysis(CALIBRATED) else None
        seen = tuple(grams.origin(o) for o in _observed(planned)) if grams is not None else ()
        form = (*self._form(ctx).values(), options.method, least_scale(ctx.target))
        group = planned.group
        return (self.name, tensor_digest(tensor), group.turned, group.looked_up, form, seen)

    def _coded(self, planned: Planned, ctx: Context) -> BlockCodes:
        """The codes of a weight [inputs, outputs], with scales that the target's floats hold."""
        coded = self._chosen(planned, ctx)
        return raised_blocks(planned.group.matrix(), coded, least_scale(ctx.target))

    def _chosen(self, planned: Planned, ctx: Context) -> BlockCodes:
        """The codes of a weight [inputs, outputs], by the method that the data allows."""
        chosen, group, weight = self.options.method, planned.group, planned.group.matrix()
        form = self._form(ctx)
        gram = None if chosen == "hqq" else self._gram(planned, ctx)
        enough = gram is not None and gram.count >= ROWS_PER_INPUT * len(weight)
        if gram is not None and (chosen == "gptq" or (chosen == "auto" and enough)):
            matrix = _with_lookups(gram.matrix) if group.looked_up else gram.matrix
            return gptq_blocks(weight, matrix, **form)
        if chosen == "hqq":
            return hqq_blocks(weight, **form)
        energy = None if gram is None else np.diagonal(gram.matrix)
        return round_blocks(weight, importance=energy, **form)

    def _gram(self, planned: Planned, ctx: Context) -> Gram | None:
        """Of everything that is multiplied by the weight; None where nothing was observed."""
        if not planned.group.multiplied or not ctx.analysis(CALIBRATED):
            return None
        grams = self._grams(ctx)
        found = [gram for o in _observed(planned) if (gram := grams.get(o)) is not None]
        return reduce(operator.add, found) if found else None

    def _grams(self, ctx: Context) -> GramTable:
        """Of all activations, in the order of the candidates: they are collected together."""
        wanted = [o for planned in self._planned.values() for o in _observed(planned)]
        return ctx.analysis(GRAMS, tuple(dict.fromkeys(wanted)))


def _opset_reason(model: ir.Model, ctx: Context) -> Reason | None:
    """Why the target's form of packed weights cannot be written; None where it can."""
    needed, taken = ctx.target.weight_only.opset, ctx.target.runtime.max_opset
    if needed is None or needed <= opset(model):
        return None
    if needed > taken:
        return "opset", f"packed weights need opset {needed}, the runtime takes {taken} at most"
    try:
        raised(model, needed)
    except InputError as error:
        return "opset", f"packed weights need opset {needed}: {error.what}"
    return None


def _observed(planned: Planned) -> list[Observed]:
    return [use.observed for use in planned.applied if use.observed is not None]


def _with_lookups(matrix: np.ndarray) -> np.ndarray:
    """A Gram matrix to which all entries of a row matter, as to those who look it up."""
    return np.asarray(matrix + np.diagonal(matrix).mean() * np.eye(len(matrix)))


# -- packing ---------------------------------------------------------------------------


def _packed(group: Shared, coded: BlockCodes) -> PackedWeight:
    inputs = len(coded.codes)
    if group.multiplied:
        data, scales, zeros = pack_nbits(coded)
        scales = scales.astype(group.dtype, copy=False)  # as the kernel wants them
    else:
        data, scales, zeros = pack_rows(coded)
        scales = scales if _is_normalised(group) else _narrow(coded, scales)
    return PackedWeight(data, scales, zeros, inputs, coded.bits, coded.block)


def _blank(shape: tuple[int, int], form: Form) -> BlockCodes:
    inputs, outputs = shape
    blocks = -(-inputs // form["block"])
    zeros = None if form["symmetric"] else np.zeros((blocks, outputs), np.uint8)
    codes, scale = np.zeros(shape, np.uint8), np.ones((blocks, outputs), np.float32)
    return BlockCodes(codes, scale, zeros, form["bits"], form["block"])


def _is_normalised(group: Shared) -> bool:
    """Whether what is looked up goes straight into a spelled out layer normalisation.

    ONNX Runtime fuses that with a Cast in front into a float16 operator with a float32 scale, and
    then refuses the model (LayerNormFusion, 1.31.1); behind float32 scales there is no Cast.
    """
    readers = (node for use in group.applied() for node in consumers(use.use.output))
    return any(node.op_type in ("ReduceMean", "Pow") for node in readers)


def _narrow(coded: BlockCodes, scales: np.ndarray) -> np.ndarray:
    """Scales in float16 where it holds them, and what they make of the codes, in full precision."""
    size = np.abs(scales)
    fits = size.min() >= FLOAT16.tiny and float(size.max()) * (1 << coded.bits) < FLOAT16.max
    return scales.astype(np.float16) if fits else scales


def _as_read(coded: BlockCodes, packed: PackedWeight) -> np.ndarray:
    """The weight [inputs, outputs] as the runtime computes it, in the precision of the scales."""
    meant = dequantize_blocks(replace(coded, scale=packed.scales.astype(np.float32).T))
    if packed.data.ndim == 2 and packed.scales.dtype == np.float16:
        for row in meant:  # one at a time: no second weight is held
            row[:] = row.astype(np.float16)
    return meant


# -- lowering --------------------------------------------------------------------------


def _multiply(node: ir.Node, held: PackedValues, level: int, rewriter: Rewriter) -> None:
    x, bias = node.inputs[0], given(node, 2)
    assert x is not None
    result = multiply(rewriter, node, x, held, level)
    if bias is not None:  # of a Gemm; the runtime takes an Add into the product by itself
        name = f"{node.name}_bias"
        made = rewriter.insert("Add", [result, bias], before=node, name=name, origins=[node])
        result = made.outputs[0]
    _give_way(rewriter, node, result)


def _look_up(node: ir.Node, held: PackedValues, rewriter: Rewriter) -> None:
    indices, dtype = node.inputs[1], node.outputs[0].dtype
    assert indices is not None
    result = look_up(rewriter, node, indices, held, dtype or ir.DataType.FLOAT)
    _give_way(rewriter, node, result)


def _give_way(rewriter: Rewriter, node: ir.Node, result: ir.Value) -> None:
    """Let ``result`` stand for the node's output; the node goes, with what it alone read."""
    read = list(node.inputs)
    rewriter.take_over(node.outputs[0], result)
    rewriter.remove(node)
    rewriter.sweep(read)
