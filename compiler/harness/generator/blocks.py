"""Blocks of transformers, spelled as exporters spell them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .layers import normalised, project
from .movement import to
from .scope import CLEAR, Scope, Wire


def _sequence(scope: Scope) -> Wire | None:
    """A float [batch, sequence, features] with features that heads can share."""
    return scope.activation(
        lambda w: (
            w.rank == 3
            and w.dtype != "float16"
            and (scope.sized(w, -1) or 1) % 2 == 0
            and scope.filled(w)
        )
    )


def feed_forward(scope: Scope) -> None:
    """Two layers and something pointwise between, perhaps gated, perhaps with a residual."""
    x = scope.activation(
        lambda w: w.rank in (2, 3) and w.dtype == "float32" and bool(scope.sized(w, -1))
    )
    if x is None:
        return
    x = scope.tame(x)
    down = feed_forward_of(scope, x)
    if scope.draws.chance(60):
        total = scope.one("Add", [x, down], x.shape, peak=x.peak + down.peak)
        if scope.draws.chance(60) and (scope.sized(x, -1) or 0) > 1 and scope.filled(x):
            normalised(scope, scope.tame(total))


def feed_forward_of(scope: Scope, x: Wire) -> Wire:
    """The two layers alone: [..., K] -> [..., K]."""
    hidden = scope.draws.pick([32, 64] if scope.world.wide else [32, 8, 64, 2])
    up = project(scope, x, hidden, plain=True)
    acted = _activation(scope, scope.tame(up))
    if scope.draws.chance(30):
        gate = project(scope, x, hidden, plain=True)
        acted = scope.one("Mul", [acted, scope.tame(gate)], peak=acted.peak * TAMED)
    return project(scope, scope.tame(acted), scope.sized(x, -1) or 1, plain=True)


TAMED = 8.0


def _activation(scope: Scope, x: Wire) -> Wire:
    ways: list[Callable[[Scope, Wire], Wire]] = [_relu, _silu, _tanh_gelu]
    if scope.opset >= 9:
        ways.append(_erf_gelu)
    if scope.opset >= 20:
        ways.append(lambda s, v: s.one("Gelu", [v], approximate=s.draws.pick([None, "tanh"])))
    return scope.draws.pick(ways)(scope, x)


def _relu(scope: Scope, x: Wire) -> Wire:
    return scope.one("Relu", [x])


def _silu(scope: Scope, x: Wire) -> Wire:
    return scope.one("Mul", [x, scope.one("Sigmoid", [x], peak=1.0)], peak=x.peak)


def _constant(scope: Scope, value: float, x: Wire) -> Wire:
    shape: tuple[int, ...] = scope.draws.pick([(), (1,)])
    return scope.constant(np.full(shape, value), x.dtype)


def _erf_gelu(scope: Scope, x: Wire) -> Wire:
    """x / 2 (1 + erf(x / √2))."""
    inner = scope.one("Div", [x, _constant(scope, 2**0.5, x)])
    shifted = scope.one("Add", [scope.one("Erf", [inner], peak=1.0), _constant(scope, 1.0, x)])
    product = scope.one("Mul", [x, shifted], peak=2 * x.peak)
    return scope.one("Mul", [product, _constant(scope, 0.5, x)], peak=x.peak)


def _tanh_gelu(scope: Scope, x: Wire) -> Wire:
    """Its approximation by tanh, constants on the left as some exporters write them."""
    cube = scope.one("Mul", [scope.one("Mul", [x, x], peak=x.peak**2), x], peak=x.peak**3)
    inner = scope.one("Add", [x, scope.one("Mul", [_constant(scope, 0.044715, x), cube], x.shape)])
    bent = scope.one("Tanh", [scope.one("Mul", [_constant(scope, 0.79788, x), inner], x.shape)],
                     peak=1.0)  # fmt: skip
    half = scope.one("Mul", [_constant(scope, 0.5, x), x], x.shape, peak=x.peak)
    return scope.one("Mul", [half, scope.one("Add", [_constant(scope, 1.0, x), bent], x.shape)],
                     peak=x.peak)  # fmt: skip


def attention(scope: Scope) -> None:
    """Self-attention: packed, masked or grouped or not, spelled out or one operator."""
    x = _sequence(scope)
    if x is None:
        return
    x = scope.tame(x)
    made = attention_of(scope, x)
    if scope.draws.chance(60):
        total = scope.one("Add", scope.draws.pick([[x, made], [made, x]]), peak=x.peak + made.peak)
        if scope.draws.chance(50):
            normalised(scope, scope.tame(total))


def attention_of(scope: Scope, x: Wire) -> Wire:
    """Heads and the projection behind them: [batch, sequence, size] -> the same."""
    size = scope.sized(x, -1) or 2
    heads = scope.draws.pick([h for h in (2, 4, 1) if size % h == 0])
    fused = x.dtype == "float32" and scope.draws.chance(60)
    if fused and scope.opset >= 23:
        context = _operator(scope, x, heads, "", "Attention")
    elif fused and scope.opset >= 13:
        context = _operator(scope, x, heads, "com.microsoft", "MultiHeadAttention")
    else:
        context = _spelled_out(scope, x, heads, size // heads)
    return project(scope, context, size, plain=True)


def _operator(scope: Scope, x: Wire, heads: int, domain: str, name: str) -> Wire:
    size = scope.sized(x, -1) or 2
    q, k, v = (scope.tame(project(scope, x, size, plain=True)) for _ in range(3))
    if domain:
        scope.world.domains[domain] = 1
        return scope.one(name, [q, k, v], domain=domain, num_heads=heads, peak=v.peak)
    return scope.one(name, [q, k, v], q_num_heads=heads, kv_num_heads=heads, peak=v.peak,
                     is_causal=scope.draws.pick([None, 1]))  # fmt: skip


def _spelled_out(scope: Scope, x: Wire, heads: int, depth: int) -> Wire:
    draws, size = scope.draws, heads * depth
    grouped = heads > 1 and scope.opset >= 8 and draws.chance(15)
    if draws.chance(25):
        q, k, v = _packed(scope, x, size)
    else:
        q = scope.tame(project(scope, x, size, plain=True))
        k, v = (scope.tame(project(scope, x, depth if grouped else size, plain=True)) for _ in "kv")
    grouped = grouped and k.shape[-1] == depth
    before = draws.chance(30)
    if before:
        q = _scaled(scope, q, depth)
    keys = 1 if grouped else heads
    q, k, v = (
        _heads(scope, q, heads, depth),
        _heads(scope, k, keys, depth),
        _heads(scope, v, keys, depth),
    )
    turned = scope.one("Transpose", [k], (*k.shape[:2], depth, k.shape[2]), perm=[0, 1, 3, 2])
    shape = (*q.shape[:3], q.shape[2])
    scores = scope.one(
        "MatMul", [q, turned], shape, exact=False, peak=min(q.peak * k.peak * 4, CLEAR)
    )
    if not before:
        scores = _scaled(scope, scores, depth)
    scores = _masked(scope, scores)
    axis = -1 if scope.opset >= 11 else 3
    weights = scope.one("Softmax", [scores], axis=axis, peak=1.0)
    if draws.chance(20):
        weights = scope.one("Dropout", [weights])
    context = scope.one("MatMul", [weights, v], q.shape, exact=False, peak=v.peak)
    merged = scope.one(
        "Transpose", [context], (q.shape[0], q.shape[2], heads, depth), perm=[0, 2, 1, 3]
    )
    return to(scope, merged, (*merged.shape[:2], size))


def _packed(scope: Scope, x: Wire, size: int) -> tuple[Wire, Wire, Wire]:
    """One layer for all three, split, or sliced."""
    packed = scope.tame(project(scope, x, 3 * size, plain=True))
    part = Wire("", x.dtype, x.shape, False, packed.peak)
    if scope.draws.chance(60) or scope.opset < 10:
        written = [size] * 3 if scope.opset < 13 else None
        inputs = [packed, scope.ints([size] * 3)] if scope.opset >= 13 else [packed]
        q, k, v = scope.emit("Split", inputs, [part] * 3, axis=2, split=written)
        return q, k, v
    parts = []
    for i in range(3):
        bounds = [scope.ints([n]) for n in (i * size, (i + 1) * size, 2)]
        parts.append(scope.one("Slice", [packed, *bounds], x.shape, exact=False, peak=packed.peak))
    return parts[0], parts[1], parts[2]


def _heads(scope: Scope, x: Wire, heads: int, depth: int) -> Wire:
    """[batch, sequence, heads * depth] -> [batch, heads, sequence, depth]."""
    apart = to(scope, x, (*x.shape[:2], heads, depth))
    shape = (x.shape[0], heads, x.shape[1], depth)
    return scope.one("Transpose", [apart], shape, perm=[0, 2, 1, 3])


def _scaled(scope: Scope, x: Wire, depth: int) -> Wire:
    if scope.draws.chance(50):
        return scope.one("Div", [x, _constant(scope, depth**0.5, x)], peak=x.peak)
    return scope.one("Mul", [x, _constant(scope, depth**-0.5, x)], peak=x.peak)


def _masked(scope: Scope, scores: Wire) -> Wire:
    """By an input [batch, sequence] of ones and zeros, by a constant triangle, or not."""
    mask = scope.find(
        lambda w: (
            w.dtype == "int64" and w.limit == 2 and w.shape == (scores.shape[0], scores.shape[-1])
        )
    )
    if mask is not None and scope.draws.chance(70):
        return _token_mask(scope, scores, mask)
    if scope.sized(scores, -1) is not None and scope.draws.chance(40):
        length = scope.sized(scores, -1) or 1
        triangle = scope.constant(np.triu(np.full((length, length), -1e4), 1), scores.dtype)
        return scope.one("Add", [scores, triangle], scores.shape, peak=CLEAR)
    return scores


def _token_mask(scope: Scope, scores: Wire, mask: Wire) -> Wire:
    """(1 - mask) * -10000, added."""
    from .movement import unsqueezed

    wide = unsqueezed(scope, mask, [1, 2])
    kind = {"float32": 1, "float64": 11}[scores.dtype]
    real = scope.one("Cast", [wide], dtype=scores.dtype, to=kind, peak=1.0)
    inverse = scope.one("Sub", [scope.constant(1.0, scores.dtype), real], real.shape, peak=1.0)
    penalty = scope.one("Mul", [inverse, scope.constant(-1e4, scores.dtype)], peak=1e4)
    return scope.one("Add", [scores, penalty], scores.shape, peak=CLEAR)


def embedding(scope: Scope) -> None:
    """Rows of a table by an input, perhaps with positions added, perhaps tied to a head."""
    ids = scope.find(
        lambda w: w.dtype in ("int64", "int32") and (w.limit or 99) <= 16 and not w.constant
    )
    if ids is None or ids.limit is None:
        return
    draws = scope.draws
    columns, rows = draws.pick([8, 32, 4]), draws.pick([16, 20, 64])
    if draws.chance(12):
        rows, columns = 1100, 16
    table = scope.weight((rows, columns), draws.pick(["float32", "float32", "float16"]), "any")
    made = scope.one("Gather", [table, ids], (*ids.shape, columns), exact=True, peak=table.peak,
                     axis=draws.pick([None, 0]))  # fmt: skip
    if made.dtype == "float16":
        made = scope.one("Cast", [made], dtype="float32", to=1)
    length = scope.sized(made, -2) if made.rank > 2 else None
    if length is not None and draws.chance(50):
        positions = scope.weight((length, columns), "float32", "any")
        made = scope.one("Add", [made, positions], made.shape, peak=made.peak + positions.peak)
    if draws.chance(40) and made.rank > 1 and table.dtype == "float32":
        head = scope.one("Transpose", [table], (columns, rows), perm=[1, 0])
        scope.wires.remove(head)
        scope.one("MatMul", [scope.tame(made), head], (*made.shape[:-1], rows), exact=False,
                  peak=20 * made.peak)  # fmt: skip
