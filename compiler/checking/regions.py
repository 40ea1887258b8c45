"""The reference of an edit, its declared loss, and the check that lowering computes it.

A perturbation is applied to the region it edits, on the graph as it was: new tensors, and
quantize-dequantize pairs on named values. The error of that reference is the declared loss;
the lowered region must agree with it, with the runtime's optimisations off. Where a kernel rounds
activations on its own account, regions are compared in its float form; what it adds is a second,
separate error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir

from ...ir import nbits, recurrent
from ...ir.errors import PassError
from ...ir.graph import consumers
from ...ir.region import extract, lift_weights
from ...ir.rewriter import Rewriter
from ...ir.rounded import rounded_view
from ...ir.storage.stream import array_of
from ...passes.api import FakeQuant, Perturbation
from ...passes.math.affine import fake_quantize
from ..execution import running

REASSOCIATION = 1e-5
STEP_SHARE = 1e-3
"""Share of elements that may differ by one quantization step behind a quantizer."""

LIFTED = 1 << 25
"""Weights of more bytes are fed: the runtime would hold them several times over."""

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Reference:
    """What a perturbed region computes on its sample inputs.

    inputs: what the region was run on, by value name. outputs: of the perturbed region
    before any output quantizer. loss: relative squared error against the float region,
    output quantizers included.
    """

    inputs: Arrays
    outputs: Arrays
    loss: float


@dataclass(frozen=True)
class RegionCheck:
    """Whether two regions agree. worst: the largest difference in units of the tolerance."""

    agrees: bool
    worst: float
    sentence: str = ""


def reference(
    model: ir.Model,
    perturbation: Perturbation,
    values: Mapping[str, ir.Value],
    samples: Arrays,
    threads: int = 0,
) -> Reference:
    """Run the region as it was and perturbed, on ``samples`` of its inputs.

    values: the model's values by name. Raises PassError where the region is not closed.
    """
    inputs = {name: samples[name] for name in perturbation.inputs}
    original = _run(_float_region(model, perturbation, values), inputs, threads)
    quiet = replace(
        perturbation,
        fake_quants={n: q for n, q in perturbation.fake_quants.items() if n in perturbation.inputs},
    )
    plain = _run(_perturbed(model, quiet, values), inputs, threads)
    final = plain
    if len(quiet.fake_quants) != len(perturbation.fake_quants):
        final = {n: _fake(a, perturbation.fake_quants.get(n)) for n, a in plain.items()}
    return Reference(inputs, plain, _relative_error(original, final))


def compare(
    model: ir.Model,
    perturbation: Perturbation,
    values: Mapping[str, ir.Value],
    ref: Reference,
    threads: int = 0,
) -> RegionCheck:
    """Run the lowered region on the same inputs and compare with the reference.

    Inputs that are gone are none of the lowered region's: a block that was left out read them.
    |a - b| <= 1e-5 max|a| sqrt(K), in float16 2^-9 max|a| where that is more; behind a quantizer
    inside the region one step of it on at most 0.1 % of elements.
    """
    left = _still_read(perturbation, values)
    got = _run(_float_region(model, left, values), ref.inputs, threads)
    checks = [
        _agree(name, ref.outputs[name], got[name], perturbation) for name in perturbation.outputs
    ]
    return max(checks, key=lambda c: (not c.agrees, c.worst))


def added_loss(
    model: ir.Model,
    perturbation: Perturbation,
    values: Mapping[str, ir.Value],
    ref: Reference,
    threads: int = 0,
) -> float | None:
    """Relative squared error that kernels add to the reference by rounding activations to int8.

    None where no kernel of the lowered region does.
    """
    region = _region(model, _still_read(perturbation, values), values)
    if not any(_rounds_activations(node) for node in region.graph):
        return None
    return _relative_error(ref.outputs, _run_as_handed_over(region, ref.inputs, threads))


def _agree(
    name: str, expected: np.ndarray, got: np.ndarray, perturbation: Perturbation
) -> RegionCheck:
    if (expected.shape, expected.dtype) != (got.shape, got.dtype):
        return RegionCheck(False, np.inf, f"{name}: {_face(got)}, expected {_face(expected)}")
    if expected.size == 0:
        return RegionCheck(True, 0.0)
    size = np.abs(expected[np.isfinite(expected)]).astype(np.float64)
    scale = size.max(initial=1e-30)  # which float16 does not hold
    share = max(REASSOCIATION * np.sqrt(perturbation.contraction), _rounding(expected.dtype))
    bound = share * float(scale)
    difference = _difference(expected, got)
    beyond = float(np.mean(difference > bound))
    worst = float(difference.max() / bound)
    allowed = STEP_SHARE if perturbation.fake_quants else 0.0
    if beyond <= allowed and np.isfinite(worst):
        return RegionCheck(True, worst)
    sentence = f"{name}: {beyond:.2%} of elements differ, the worst by {worst:.1f} tolerances"
    return RegionCheck(False, worst, sentence)


def _rounding(dtype: np.dtype[Any]) -> float:
    """What two roundings to the output's own dtype may differ by; for float32 that is nothing."""
    return 2 * float(np.finfo(dtype).eps) if dtype == np.float16 else 0.0


def _difference(expected: np.ndarray, got: np.ndarray) -> np.ndarray:
    """|a - b| in float64; equal infinities and NaNs agree, any other are infinitely far apart."""
    with np.errstate(invalid="ignore"):
        distance = np.abs(expected.astype(np.float64) - got.astype(np.float64))
    same = (expected == got) | (np.isnan(expected) & np.isnan(got))
    return np.where(same, 0.0, np.where(np.isnan(distance), np.inf, distance))


def _face(array: np.ndarray) -> str:
    return f"{array.dtype.name}{list(array.shape)}"


def _region(
    model: ir.Model, perturbation: Perturbation, values: Mapping[str, ir.Value]
) -> ir.Model:
    return extract(
        model,
        [_value(values, n) for n in perturbation.inputs],
        [_value(values, n) for n in perturbation.outputs],
    )


def _float_region(
    model: ir.Model, perturbation: Perturbation, values: Mapping[str, ir.Value]
) -> ir.Model:
    region = _region(model, perturbation, values)
    _compute_in_float(region)
    return region


def _rounds_activations(node: ir.Node) -> bool:
    """Whether a kernel rounds activations on its own account, as no Q/DQ in the graph shows."""
    return nbits.computes_in_integers(node) or recurrent.rounds_activations(node)


def _compute_in_float(region: ir.Model) -> None:
    nbits.compute_in_float(region)
    recurrent.in_float(region)


def _still_read(perturbation: Perturbation, values: Mapping[str, ir.Value]) -> Perturbation:
    return replace(perturbation, inputs=tuple(n for n in perturbation.inputs if n in values))


def _value(values: Mapping[str, ir.Value], name: str) -> ir.Value:
    if name not in values:
        raise PassError(f"the edit lost the value {name!r}", hint="keep the region's outputs")
    return values[name]


def _perturbed(
    model: ir.Model, perturbation: Perturbation, values: Mapping[str, ir.Value]
) -> ir.Model:
    region = extract(
        model,
        [_value(values, n) for n in perturbation.inputs],
        [_value(values, n) for n in perturbation.outputs],
        tensors=perturbation.tensors,
    )
    _compute_in_float(region)
    rewriter = Rewriter(region)
    inputs = {str(v.name): v for v in region.graph.inputs}
    for name, quant in perturbation.fake_quants.items():
        if quant.block:  # how many blocks there are cannot be inferred where nothing is in them
            inputs[name].shape = _last_axis_of(values[name])
        _insert_fake_quant(rewriter, inputs[name], quant)
    return region


def _last_axis_of(value: ir.Value) -> ir.Shape | None:
    """A shape of which only the last axis is known."""
    if not value.shape:
        return value.shape
    return ir.Shape([*[None] * (len(value.shape) - 1), value.shape[-1]])


def _insert_fake_quant(rewriter: Rewriter, value: ir.Value, quant: FakeQuant) -> None:
    users = consumers(value)
    rewriter.replace_uses(value, rounded(rewriter, value, quant, before=users[0]), only=users)


def rounded(
    rewriter: Rewriter,
    value: ir.Value,
    quant: FakeQuant,
    *,
    before: ir.Node | None = None,
    after: ir.Node | None = None,
) -> ir.Value:
    """The value as ``quant`` rounds it, by nodes that are put before or after another."""
    if quant.block:
        return rounded_view(rewriter, value, quant.scale, quant.block)
    if quant.dynamic:
        node = rewriter.insert(
            "DynamicQuantizeLinear", [value], before=before, after=after, outputs=3
        )
        codes, scale, zero = node.outputs
    else:
        scale = rewriter.initializer("scale", np.asarray(quant.scale, np.float32))
        zero = rewriter.initializer("zero", np.asarray(quant.zero_point, quant.dtype))
        node = rewriter.insert("QuantizeLinear", [value, scale, zero], before=before, after=after)
        codes = node.outputs[0]
    return rewriter.insert("DequantizeLinear", [codes, scale, zero], after=node).outputs[0]


def _fake(array: np.ndarray, quant: FakeQuant | None) -> np.ndarray:
    if quant is None:
        return array
    assert quant.scale is not None and quant.zero_point is not None
    return fake_quantize(array, quant.scale, quant.zero_point, quant.dtype)


def _run(model: ir.Model, inputs: Arrays, threads: int) -> dict[str, np.ndarray]:
    """With the runtime's optimisations off."""
    _declare(model, inputs)
    fed = dict(inputs) | {n: array_of(t) for n, t in lift_weights(model, LIFTED).items()}
    with running(model, threads=threads, optimize="none") as session:
        feeds = {n: a for n, a in fed.items() if n in session.input_names}
        return dict(zip(session.output_names, session.run(feeds), strict=True))


def _run_as_handed_over(model: ir.Model, inputs: Arrays, threads: int) -> dict[str, np.ndarray]:
    """With all optimisations: kernels that round activations do so on packed constants only."""
    _declare(model, inputs)
    with running(model, threads=threads) as session:
        feeds = {n: a for n, a in inputs.items() if n in session.input_names}
        return dict(zip(session.output_names, session.run(feeds), strict=True))


def _declare(model: ir.Model, inputs: Arrays) -> None:
    """Types and ranks of inputs that inference did not find."""
    for value in model.graph.inputs:
        if value.type is None:  # behind an operator without an ONNX schema
            dtype = ir.DataType.from_numpy(inputs[str(value.name)].dtype)
            value.type = ir.TensorType(dtype)
        if value.shape is None:  # the runtime takes an unknown rank for none
            value.shape = ir.Shape([None] * inputs[str(value.name)].ndim)


def _relative_error(before: Arrays, after: Arrays) -> float:
    noise = signal = 0.0
    for name, array in before.items():
        noise += float(np.sum(_difference(array, after[name]) ** 2))
        signal += float(np.sum(array[np.isfinite(array)].astype(np.float64) ** 2))
    return noise / signal if signal > 0 else (0.0 if noise == 0 else float("inf"))
