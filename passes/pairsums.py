"""int8 weights of a layer for targets that add two of its products in 16 bits.

Codes that cannot saturate for any input, or all 8 bits where that loses less on calibration data
with the saturation emulated. See ``math.saturation``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..ir.graph import attribute
from ..ir.sites import Site
from .api import CALIBRATED, SAMPLES, Context, FakeQuant
from .math.affine import affine_params, quantize, quantize_weight
from .math.saturation import (
    conv_filters,
    conv_patches,
    conv_rows,
    safe_codes,
    saturating_product,
    sums_in_pairs,
)

MOST_ROWS = 2048
"""Rows of activations that are multiplied to measure a loss."""
SAFE = "pair-safe"
SAFE_SENTENCE = (
    "no sum of two of its products can leave the 16 bits in which the target adds them, whatever "
    "the input: its weights keep 7 to 8 bits, column by column, for that"
)
EMULATED = "pair-emulated"

Weights = tuple[np.ndarray, np.ndarray]
"""Codes int8 and a float32 scale per output channel."""


@dataclass(frozen=True)
class Loss:
    """Relative squared error of a layer's product, and how many of its sums were clipped."""

    error: float
    clipped: int = 0


def paired_codes(
    site: Site, weight: np.ndarray, activation: FakeQuant, ctx: Context, *, emulate: bool
) -> Weights:
    """Codes in the weight's own layout, with a remark that says what they promise."""
    if site.kind == "linear":
        codes, scale = _chosen(site, weight, activation, ctx, emulate)
        return codes, scale
    if not sums_in_pairs(weight.shape, attribute(site.nodes[0], "group", 1)):
        return quantize_weight(weight, 0)
    codes, scale = _chosen(site, conv_rows(weight), activation, ctx, emulate)
    return conv_filters(codes, weight.shape), scale


def _chosen(
    site: Site, rows: np.ndarray, activation: FakeQuant, ctx: Context, emulate: bool
) -> Weights:
    safe, whole = safe_codes(rows), quantize_weight(rows, 1)
    samples = _samples(site, activation, ctx) if emulate and ctx.analysis(CALIBRATED) else None
    if samples is None:
        ctx.remark("note", site.name, SAFE, SAFE_SENTENCE)
        return safe
    capped, clipped = _loss(samples, rows, safe), _loss(samples, rows, whole)
    if capped.error <= clipped.error:
        ctx.remark("note", site.name, SAFE, SAFE_SENTENCE)
        return safe
    ctx.remark(
        "note", site.name, EMULATED,
        f"all 8 bits, of which {clipped.clipped} results saturate on calibration samples: emulated "
        f"relative squared error {clipped.error:.2e}, {capped.error:.2e} with codes that never do",
    )  # fmt: skip
    return whole


def _loss(samples: tuple[np.ndarray, int], rows: np.ndarray, weights: Weights) -> Loss:
    """Against the product of the same activation codes and the weights before rounding."""
    a, zero = samples
    codes, scale = weights
    exact = (a.astype(np.float64) - zero) @ rows.astype(np.float64)
    sums = saturating_product(a, codes)
    clipped = int(np.count_nonzero(sums != np.rint(a.astype(np.float64) @ codes)))
    made = (sums - zero * codes.sum(axis=0, dtype=np.int64)) * scale.astype(np.float64)
    energy = float((exact**2).sum())
    return Loss(float(((made - exact) ** 2).sum()) / energy if energy > 0 else 0.0, clipped)


def _samples(site: Site, activation: FakeQuant, ctx: Context) -> tuple[np.ndarray, int] | None:
    """Codes uint8 [M, K] that the layer multiplies, and their zero point."""
    assert site.input is not None
    name, node = str(site.input.name), site.nodes[0]
    x = ctx.analysis(SAMPLES, (name,))[name]
    scale, zero = activation.scale, activation.zero_point
    if scale is None or zero is None:
        step, zero = affine_params(x.min(), x.max(), dtype="uint8", symmetric=False)
        scale = float(step)
    codes = quantize(x, scale, zero, "uint8")
    if site.kind == "linear":
        rows = codes.reshape(-1, codes.shape[-1])
    elif attribute(node, "group", 1) != 1 or attribute(node, "auto_pad", "NOTSET") != "NOTSET":
        return None
    else:
        tensor = site.weight
        assert tensor is not None
        assert tensor.shape is not None
        kernel = tuple(int(size) for size in tensor.shape.numpy()[2:])
        ones = (1,) * len(kernel)
        rows = conv_patches(
            codes, kernel, attribute(node, "pads", (0,) * 2 * len(kernel)),
            attribute(node, "strides", ones), attribute(node, "dilations", ones), zero,
        )  # fmt: skip
    return rows[:: max(1, -(-len(rows) // MOST_ROWS))], zero
