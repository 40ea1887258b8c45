"""Questions about a layer: whether it can have 8 bits, what it reads, what it makes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from math import prod

import numpy as np
import onnx_ir as ir

from ...ir.facts import FLOAT, QUANTIZED
from ...ir.graph import attribute, constant_array, constant_tensor, dims
from ...ir.qdq import activated, rounding_of
from ...ir.sites import Site
from ...targets.schema import Target
from ..api import SITES, Candidate, Context, FakeQuant, Observed, Refusal, ValueStats

MASK_MAGNITUDE = 1e4
"""A value this far below zero, alone in its range, is an additive mask, not an activation."""
IN_BODY = "it stands inside a branch or a loop, where ranges are not observed; left in float"


def judged_layers(
    ctx: Context, exclude: Iterable[str], judge: Callable[[Site], Candidate | Refusal]
) -> Iterator[Candidate | Refusal]:
    """What ``judge`` says of each linear layer and convolution that no selector excludes."""
    sites = ctx.analysis(SITES)
    excluded = {site.name for selector in exclude for site in sites.select(selector)}
    for site in sites:
        if site.kind in ("linear", "conv"):
            left = Refusal(site.name, "excluded", "left float on request")
            yield left if site.name in excluded else judge(site)


def refuse_any(site: Site, ctx: Context) -> Refusal | None:
    """Why nothing of this kind can have 8 bits here; None where it may."""
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


def uneven_shape(site: Site, target: Target) -> str:
    """Why the target's integer kernels do not suit the shape, however large; "" where they do."""
    tensor, int8 = constant_tensor(site.weight), target.int8
    if tensor is None or site.kind not in ("linear", "conv"):
        return ""
    if site.kind == "conv":
        groups = int(attribute(site.nodes[0], "group", 1))
        outputs, inputs = tensor.shape.numpy()[0], tensor.shape.numpy()[1] * groups
        if int8.conv_multiple and any(n % int8.conv_multiple for n in (outputs, inputs)):
            return f"{inputs} to {outputs} channels are no multiples of {int8.conv_multiple}"
        return ""
    sizes = dims(site.input)
    rows = None if sizes is None else [size for size in sizes[:-1] if size != 1]
    known = rows is not None and all(isinstance(size, int) for size in rows)
    count = prod(size for size in rows or () if isinstance(size, int))
    if int8.min_rows and known and count < int8.min_rows:
        return (
            f"{count} row{'' if count == 1 else 's'} of activations are no matrix: read as a vector"
        )
    return ""


def holds_mask(stats: ValueStats) -> bool:
    """Whether a large negative constant stands far below everything else in the range.

    A channel that is merely wide fills the range; a mask leaves a gap above its constant.
    """
    if stats.histogram.minimum > -MASK_MAGNITUDE:
        return False
    counts = stats.histogram.counts
    spike, gap = counts.size // 100, counts.size // 2
    return bool(counts[:spike].sum() > 0 and counts[spike:gap].sum() == 0)


def input_of(site: Site) -> ir.Value:
    """What the layer reads."""
    assert site.input is not None
    return site.input


def given_range(site: Site, ctx: Context) -> FakeQuant | None:
    """The range that the input was rounded to by an earlier tool, where it fits the target."""
    found = rounding_of(input_of(site))
    if found is None or found[2] != ctx.target.int8.activation_dtype:
        return None
    if ctx.target.int8.symmetric and found[1] != 0:
        return None
    return FakeQuant(found[2], found[0], found[1])


def activated_output(site: Site) -> ir.Value:
    """The output behind the activation that the runtime absorbs, else the layer's output."""
    assert site.output is not None
    return activated(site.output) if site.kind == "conv" else site.output


def elements(site: Site) -> int:
    """Of the weight."""
    tensor = constant_tensor(site.weight)
    return int(tensor.size) if tensor is not None else 0


def weight_of(site: Site) -> np.ndarray:
    """Its contents, not copied."""
    array = constant_array(site.weight)
    assert array is not None
    return array


def observed(site: Site) -> Observed:
    """Its input, along the channels that it reads; the rank must be known."""
    x = input_of(site)
    assert x.shape is not None
    return str(x.name), 1 if site.kind == "conv" else len(x.shape) - 1
