"""Layers: linear ones in every spelling, convolutions, normalisations, embeddings."""

from __future__ import annotations

from .movement import to
from .scope import Dim, Scope, Wire
from .weights import Role, content

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
            spellings += [(4, _einsum)]
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
    flipped, turned = draws.chance(30), draws.chance(50)
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


def convolution(scope: Scope) -> None:
    """[batch, channels, length (, width)]: plain, grouped, depthwise; a norm and an activation."""
    x = scope.activation(
        lambda w: (
            w.rank in (3, 4)
            and w.dtype == "float32"
            and scope.sized(w, 1) is not None
            and scope.filled(w)
        )
    )
    if x is None:
        return
    y = _convolved(scope, scope.tame(x))
    if scope.draws.chance(45):
        y = batch_norm(scope, y)
    if scope.draws.chance(50):
        y = _activated(scope, y)
    if scope.draws.chance(25) and y.shape == x.shape:
        scope.one("Add", scope.draws.pick([[y, x], [x, y]]), peak=x.peak + y.peak)
    elif scope.draws.chance(15):
        pool(scope, y)


def _convolved(scope: Scope, x: Wire) -> Wire:
    draws, channels = scope.draws, scope.sized(x, 1) or 1
    spatial = x.rank - 2
    groups = draws.pick([1, channels, *[g for g in (2, 4) if channels % g == 0]])
    kernel = draws.pick([1, 3])
    per_group = draws.pick([1, 2, 4, 16]) if groups <= 4 else 1
    outs = groups * per_group if groups > 1 else draws.pick([channels, 4, 16, 1])
    if scope.world.wide and groups == 1:
        outs = draws.pick([16, 32])
    w = scope.weight((outs, channels // groups, *[kernel] * spatial), x.dtype, "filters")
    bias = scope.weight((outs,), x.dtype, "vector") if draws.chance(50) else None
    same = (
        {"pads": [kernel // 2] * (2 * spatial)} if draws.chance(60) else {"auto_pad": "SAME_UPPER"}
    )
    if kernel == 1 and draws.chance(60):
        same = {}
    named = draws.chance(50)
    return scope.one(
        "Conv", [x, w, bias] if bias or draws.chance(10) else [x, w],
        (x.shape[0], outs, *x.shape[2:]), exact=False, peak=3 * x.peak * max(w.peak, 0.1) + 1,
        group=groups if groups > 1 or named else None,
        kernel_shape=[kernel] * spatial if named else None,
        strides=[1] * spatial if draws.chance(30) else None, **same,
    )  # fmt: skip


def batch_norm(scope: Scope, x: Wire) -> Wire:
    """Statistics of training, stored; in the attributes of each opset."""
    channels = scope.sized(x, 1) or 1
    roles: tuple[Role, ...] = ("factor", "vector", "vector")
    stored = [scope.weight((channels,), x.dtype, role) for role in roles]
    variance = content(scope.draws, (channels,), x.dtype, "variance")
    stored.append(scope.constant(variance, x.dtype))  # its own: a shared tensor may be negative
    given: dict[str, float] = {"epsilon": 1e-3} if scope.draws.chance(50) else {}
    if scope.opset >= 14 and scope.draws.chance(30):
        given["training_mode"] = 0
    return scope.one("BatchNormalization", [x, *stored], exact=False, peak=4 * x.peak + 4, **given)


def _activated(scope: Scope, y: Wire) -> Wire:
    if scope.draws.chance(70):
        return scope.one("Relu", [y])
    if scope.opset < 11:
        return scope.one("Clip", [y], min=0.0, max=6.0, peak=6.0)
    bounds = [scope.constant(v, y.dtype) for v in (0.0, 6.0)]
    return scope.one("Clip", [y, *bounds], peak=6.0)


def pool(scope: Scope, y: Wire) -> None:
    """Over windows (positions wanted by nobody), or over everything."""
    spatial = y.rank - 2
    if scope.draws.chance(50):
        shape = (*y.shape[:2], *[1] * spatial)
        scope.one(scope.draws.pick(["GlobalAveragePool", "GlobalMaxPool"]), [y], shape)
        return
    window = {"kernel_shape": [3] * spatial, "pads": [1] * (2 * spatial)}
    result = Wire("", y.dtype, y.shape, y.exact, y.peak)
    places = Wire("", "int64", y.shape, y.exact)
    if scope.opset >= 8 and scope.draws.chance(30):
        made = scope.emit("MaxPool", [y], [result, places], **window)
        if not y.exact:
            scope.wires.remove(made[1])
    else:
        scope.emit(scope.draws.pick(["MaxPool", "AveragePool"]), [y], [result], **window)


def layer_norm(scope: Scope) -> None:
    """One operator since opset 17, else spelled out; the bias may be left out."""
    x = scope.activation(lambda w: w.rank > 1 and (scope.sized(w, -1) or 0) > 1 and scope.filled(w))
    if x is not None:
        normalised(scope, scope.tame(x))


def normalised(scope: Scope, x: Wire) -> Wire:
    """Layer normalisation over the last axis."""
    size = _rows(scope, x)
    scale = scope.weight((size,), x.dtype, "factor")
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


def instance_norm(scope: Scope) -> None:
    """Over the positions of each channel."""
    x = scope.activation(lambda w: w.rank in (3, 4) and w.dtype == "float32" and scope.filled(w))
    if x is None:
        return
    channels = scope.sized(x, 1)
    if channels is None:
        return
    stored = [scope.weight((channels,), x.dtype, role) for role in ("factor", "vector")]
    scope.one("InstanceNormalization", [x, *stored], exact=False, peak=20.0, epsilon=1e-2)
