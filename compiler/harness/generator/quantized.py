"""Parts that are quantized already, as tools and runtimes write them."""

from __future__ import annotations

import numpy as np

from .scope import Scope, Wire


def quantize_dequantize(scope: Scope) -> None:
    """A pair of QuantizeLinear and DequantizeLinear on an activation that no rewrite changes."""
    x = scope.activation(lambda w: w.exact and w.dtype == "float32" and w.peak <= 100)
    if x is None or scope.opset < 10:
        return
    fake_quantized(scope, x)


def fake_quantized(scope: Scope, x: Wire) -> Wire:
    """Rounded to 8 bits; the zero point may be left out."""
    kind = scope.draws.pick(["uint8", "int8"])
    scale = scope.constant(np.asarray(0.05, np.float32), "float32")
    zero = scope.constant(scope.draws.pick([0, 3]), kind) if scope.draws.chance(80) else None
    kind = "uint8" if zero is None else kind
    inputs = [scale] if zero is None else [scale, zero]
    codes = scope.one("QuantizeLinear", [x, *inputs], dtype=kind, peak=255.0)
    return scope.one("DequantizeLinear", [codes, *inputs], dtype="float32", peak=x.peak)


def quantized_linear(scope: Scope) -> None:
    """A layer whose weight is stored in int8, in one of the usual patterns."""
    x = scope.activation(
        lambda w: (
            w.exact
            and w.dtype == "float32"
            and w.rank > 1
            and w.peak <= 100
            and bool(scope.sized(w, -1))
        )
    )
    if x is None or scope.opset < 10 or not scope.filled(x):
        return
    ways = [_weight_only, _dynamic] if scope.opset >= 11 else [_weight_only]
    y = scope.draws.pick([*ways, _static])(scope, x)
    if scope.draws.chance(60):
        bias = scope.weight((y.shape[-1],), "float32", "vector")  # type: ignore[arg-type]
        scope.one("Add", [y, bias], y.shape, peak=y.peak + bias.peak)


def _codes(scope: Scope, x: Wire) -> tuple[Wire, int]:
    columns = scope.draws.pick([8, 32])
    noise = scope.draws.noise()
    codes = noise.integers(-127, 128, (scope.sized(x, -1) or 1, columns))
    return scope.constant(codes, "int8"), columns


def _weight_only(scope: Scope, x: Wire) -> Wire:
    codes, columns = _codes(scope, x)
    each = scope.opset >= 13 and scope.draws.chance(60)
    scales = scope.draws.noise().uniform(0.001, 0.01, columns if each else ())
    scale = scope.constant(np.asarray(scales, np.float32), "float32")
    axis = 1 if each else None
    w = scope.one("DequantizeLinear", [codes, scale], dtype="float32", axis=axis, peak=1.0)
    scope.wires.remove(w)
    shape = (*x.shape[:-1], columns)
    return scope.one("MatMul", [x, w], shape, exact=False, peak=8 * x.peak)


def _static(scope: Scope, x: Wire) -> Wire:
    return _weight_only(scope, fake_quantized(scope, x))


def _dynamic(scope: Scope, x: Wire) -> Wire:
    """DynamicQuantizeLinear, MatMulInteger, Cast, Mul."""
    codes, columns = _codes(scope, x)
    byte = Wire("", "uint8", x.shape, x.exact, 255.0)
    number = Wire("", "float32", (), x.exact, 1.0)
    q, scale, zero = scope.emit(
        "DynamicQuantizeLinear", [x], [byte, number, Wire("", "uint8", (), x.exact, 255.0)]
    )
    shape = (*x.shape[:-1], columns)
    product = scope.one("MatMulInteger", [q, codes, zero], shape, "int32", peak=1e7)
    real = scope.one("Cast", [product], shape, "float32", to=1)
    step = scope.constant(np.asarray(0.005, np.float32), "float32")
    factor = scope.one("Mul", [scale, step], peak=0.005)
    return scope.one("Mul", [real, factor], shape, exact=False, peak=8 * x.peak)
