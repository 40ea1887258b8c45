"""Layers on images and signals: convolutions, their norms and activations, pools."""

from __future__ import annotations

from typing import Any

from .scope import Scope, Wire
from .weights import Role, content


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
    y = convolved(scope, scope.tame(x))
    if scope.draws.chance(45):
        y = batch_norm(scope, y)
    if scope.draws.chance(50):
        y = activated(scope, y)
    if scope.draws.chance(25) and y.shape == x.shape:
        scope.one("Add", scope.draws.pick([[y, x], [x, y]]), peak=x.peak + y.peak)
    elif scope.draws.chance(15):
        pool(scope, y)


def convolutions(scope: Scope, x: Wire) -> list[Wire]:
    """One of uneven channels, and one that alone reads it."""
    y = convolved(scope, x, "uneven filters")
    if scope.draws.chance(40):
        y = batch_norm(scope, y)
    if scope.draws.chance(60):
        y = scope.one("Relu", [y])
    return [convolved(scope, scope.tame(y))]


def convolved(scope: Scope, x: Wire, role: Role = "filters", groups: int = 0) -> Wire:
    """A convolution that keeps positions. groups: 0 for any number that goes."""
    draws, channels = scope.draws, scope.sized(x, 1) or 1
    spatial = x.rank - 2
    if not groups:
        groups = draws.pick([1, channels, *[g for g in (2, 4) if channels % g == 0]])
    kernel = draws.pick([1, 3])
    per_group = draws.pick([1, 2, 4, 16]) if groups <= 4 else 1
    outs = groups * per_group if groups > 1 else draws.pick([channels, 4, 16, 1])
    if scope.world.wide and groups == 1:
        outs = draws.pick([16, 32])
    w = scope.weight((outs, channels // groups, *[kernel] * spatial), x.dtype, role)
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
    given: dict[str, Any] = {"epsilon": 1e-3} if scope.draws.chance(50) else {}
    if scope.opset >= 14 and scope.draws.chance(30):
        given["training_mode"] = 0
    return scope.one("BatchNormalization", [x, *stored], exact=False, peak=4 * x.peak + 4, **given)


def activated(scope: Scope, y: Wire) -> Wire:
    """Behind a ReLU, or one with a bound above."""
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
    window: dict[str, Any] = {"kernel_shape": [3] * spatial, "pads": [1] * (2 * spatial)}
    result = Wire("", y.dtype, y.shape, y.exact, y.peak)
    places = Wire("", "int64", y.shape, y.exact)
    if scope.opset >= 8 and scope.draws.chance(30):
        made = scope.emit("MaxPool", [y], [result, places], **window)
        if not y.exact:
            scope.wires.remove(made[1])
    else:
        scope.emit(scope.draws.pick(["MaxPool", "AveragePool"]), [y], [result], **window)


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
