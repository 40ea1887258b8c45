"""Layers on features: linear ones in every spelling, normalisations, and stacks of both."""

from __future__ import annotations

from . import images
from .movement import to
from .scope import Dim, Scope, Wire
from .weights import Role

WIDTHS = (4, 8, 32, 64, 1, 2, 3, 16, 33)
WIDE = (32, 64, 48)


def width(scope: Scope) -> int:
    """A number of features."""
    return scope.draws.pick(WIDE if scope.world.wide and scope.draws.chance(80) else WIDTHS)


def linear(scope: Scope) -> None:
    """A linear layer on the last axis of some activation, spelled somehow."""
    wire = scope.activation(lambda w: w.rank > 1 and scope.sized(w, -1) is not None)
    if wire is not None:
        made = project(scope, scope.tame(wire), width(scope))
        if scope.draws.chance(30) and made.shape == wire.shape:
            scope.one(
                "Add", scope.draws.pick([[made, wire], [wire, made]]), peak=made.peak + wire.peak
            )


def project(scope: Scope, x: Wire, columns: int, *, plain: bool = False) -> Wire:
    """x [..., K] -> [..., columns]. plain: only spellings that every recogniser knows."""
    spellings = [(6, _matmul_add), (2, _matmul), (2, _transposed), (1, _batched)]
    if x.rank == 2:
        spellings += [(12, _gemm)]
    if not plain:
        spellings += [(1, _low_rank)]
        if x.rank == 3:
            spellings += [(1, _flattened_gemm), (1, _pointwise)]
        if scope.opset >= 12 and x.dtype == "float32" and x.rank == 3:
            spellings += [(9, _einsum)]
    return scope.draws.weighted(spellings)(scope, x, columns)


def _rows(scope: Scope, x: Wire) -> int:
    return scope.sized(x, -1) or 1


def _product(scope: Scope, x: Wire, w: Wire, columns: int) -> Wire:
    grown = x.peak * 3.0 * max(w.peak, 0.1) + 0.1
    return scope.one("MatMul", [x, w], (*x.shape[:-1], columns), exact=False, peak=grown)


def biased(scope: Scope, y: Wire, columns: int) -> Wire:
    """With a bias on either side."""
    bias = scope.weight((columns,), y.dtype, "vector")
    pair = [y, bias] if scope.draws.chance(70) else [bias, y]
    return scope.one("Add", pair, y.shape, peak=y.peak + max(bias.peak, 0.1))


def _matmul(scope: Scope, x: Wire, columns: int) -> Wire:
    return _product(scope, x, scope.weight((_rows(scope, x), columns), x.dtype, "matrix"), columns)


def _matmul_add(scope: Scope, x: Wire, columns: int) -> Wire:
    return biased(scope, _matmul(scope, x, columns), columns)


def _transposed(scope: Scope, x: Wire, columns: int) -> Wire:
    """W is stored [out, in] and turned by a node."""
    rows = _rows(scope, x)
    stored = scope.weight((columns, rows), x.dtype, "matrix")
    order = [1, 0] if scope.draws.chance(50) else None
    turned = scope.one("Transpose", [stored], (rows, columns), perm=order, peak=stored.peak)
    scope.wires.remove(turned)
    return biased(scope, _product(scope, x, turned, columns), columns)


def _batched(scope: Scope, x: Wire, columns: int) -> Wire:
    """A weight of rank 3, or one that stands on the left."""
    rows = _rows(scope, x)
    if x.rank > 2:
        w = scope.weight((1,) * (x.rank - 2) + (rows, columns), x.dtype, "matrix")
        return _product(scope, x, w, columns)
    turned = scope.one("Transpose", [x], x.shape[::-1])
    w = scope.weight((columns, rows), x.dtype, "matrix")
    shape = (columns, *x.shape[:-1])
    left = scope.one("MatMul", [w, turned], shape, exact=False, peak=3 * x.peak * max(w.peak, 0.1))
    return scope.one("Transpose", [left], shape[::-1], perm=[1, 0])


def _gemm(scope: Scope, x: Wire, columns: int) -> Wire:
    """alpha, beta, transA, transB, and C of any shape that can be broadcast, or none."""
    rows, draws = _rows(scope, x), scope.draws
    flipped, turned = draws.chance(35), draws.chance(50)
    if flipped:
        x = scope.one("Transpose", [x], x.shape[::-1], perm=[1, 0])
    shape = (columns, rows) if turned else (rows, columns)
    w = scope.weight(shape, x.dtype, "matrix")
    if draws.chance(6):  # a weight that is computed
        w = scope.one("Mul", [w, scope.weight((1,), x.dtype, "factor")], shape)
    alpha = draws.pick([None, 1.0, 0.5, -2.0, 0.0])
    beta = draws.pick([None, 1.0, 0.5, 0.0])
    shapes: list[tuple[int, ...] | None] = [(columns,), (1, columns), (1,), (), (1, 1)]
    if scope.opset >= 11:
        shapes.append(None)
    held = draws.pick(shapes)
    c = None if held is None else scope.weight(held, x.dtype, "vector")
    lead: Dim = x.shape[1] if flipped else x.shape[0]
    return scope.one(
        "Gemm", [x, w, c] if c is not None or draws.chance(20) else [x, w],
        (lead, columns), exact=False, peak=8 * x.peak * max(w.peak, 0.1) + 2, alpha=alpha,
        beta=beta, transA=1 if flipped else draws.pick([None, 0]), transB=1 if turned else None,
    )  # fmt: skip


def _flattened_gemm(scope: Scope, x: Wire, columns: int) -> Wire:
    rows = scope.world.combine(lambda a, b: a * b, *x.shape[:2])
    flat = to(scope, x, (rows, _rows(scope, x)))
    made = _gemm(scope, flat, columns)
    if isinstance(x.shape[1], int) and scope.filled(x):
        return to(scope, made, (*x.shape[:2], columns))
    return made


def _pointwise(scope: Scope, x: Wire, columns: int) -> Wire:
    """A convolution of width 1 over the sequence."""
    if x.dtype == "float64":
        return _matmul_add(scope, x, columns)
    rows = _rows(scope, x)
    turned = scope.one("Transpose", [x], (x.shape[0], rows, x.shape[1]), perm=[0, 2, 1])
    w = scope.weight((columns, rows, 1), x.dtype, "filters")
    shape = (x.shape[0], columns, x.shape[1])
    made = scope.one("Conv", [turned, w], shape, exact=False, peak=3 * x.peak * max(w.peak, 0.1))
    return scope.one("Transpose", [made], (*x.shape[:2], columns), perm=[0, 2, 1])


def _einsum(scope: Scope, x: Wire, columns: int) -> Wire:
    w = scope.weight((_rows(scope, x), columns), x.dtype, "matrix")
    grown = 3 * x.peak * max(w.peak, 0.1)
    return scope.one("Einsum", [x, w], (*x.shape[:-1], columns), exact=False, peak=grown,
                     equation="bsk,kn->bsn")  # fmt: skip


def _low_rank(scope: Scope, x: Wire, columns: int) -> Wire:
    return _matmul_add(scope, _matmul(scope, x, scope.draws.pick([1, 2, 32])), columns)


def stacked(scope: Scope) -> None:
    """A norm or a convolution of uneven channels, and layers that alone read it."""
    image = scope.draws.chance(50)
    x = scope.activation(
        lambda w: (
            w.rank == (4 if image else 3)
            and w.dtype == "float32"
            and (scope.sized(w, 1 if image else -1) or 0) > 1
            and scope.filled(w)
        )
    )
    if x is None:
        return
    x, before = scope.tame(x), list(scope.wires)
    made = images.convolutions(scope, x) if image else _projections(scope, x)
    scope.wires = [*before, *made]  # nothing else reads what is between


def _projections(scope: Scope, x: Wire) -> list[Wire]:
    y = normalised(scope, x, "uneven")
    return [project(scope, y, width(scope), plain=True) for _ in range(scope.draws.integer(1, 3))]


def layer_norm(scope: Scope) -> None:
    """One operator since opset 17, else spelled out; the bias may be left out."""
    x = scope.activation(lambda w: w.rank > 1 and (scope.sized(w, -1) or 0) > 1 and scope.filled(w))
    if x is not None:
        normalised(scope, scope.tame(x))


def normalised(scope: Scope, x: Wire, role: Role = "factor") -> Wire:
    """Layer normalisation over the last axis."""
    size = _rows(scope, x)
    scale = scope.weight((size,), x.dtype, role)
    bias = scope.weight((size,), x.dtype, "vector") if scope.draws.chance(80) else None
    if scope.opset >= 17 and x.dtype != "float16" and scope.draws.chance(75):
        axis = scope.draws.pick([-1, None, x.rank - 1])
        inputs = [x, scale, bias] if bias else [x, scale]
        return scope.one("LayerNormalization", inputs, exact=False, peak=8.0, axis=axis)
    centred = scope.one("Sub", [x, _mean(scope, x)], exact=False)
    if scope.draws.chance(50):
        square = scope.one("Mul", [centred, centred], peak=centred.peak**2)
    else:
        square = scope.one("Pow", [centred, scope.constant(2.0, x.dtype)], peak=centred.peak**2)
    variance = scope.one("Add", [_mean(scope, square), scope.constant(1e-5, x.dtype)])
    y = scope.one("Div", [centred, scope.one("Sqrt", [variance])], peak=4.0)
    y = scope.one("Mul", scope.draws.pick([[y, scale], [scale, y]]), y.shape, peak=8.0)
    return y if bias is None else scope.one("Add", [y, bias], y.shape)


def _mean(scope: Scope, x: Wire) -> Wire:
    shape = (*x.shape[:-1], 1)
    if scope.opset < 18:
        return scope.one("ReduceMean", [x], shape, exact=False, axes=[x.rank - 1])
    return scope.one("ReduceMean", [x, scope.ints([-1])], shape, exact=False)
