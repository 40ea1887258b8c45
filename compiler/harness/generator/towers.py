"""Networks in small: layers that follow one another, and nothing else reads what is between.

What a pass of pruning, factoring or of integers works on is rare in graphs that are put together
from single operators, where somebody nearly always reads what would have to change.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from . import blocks, images
from .layers import normalised
from .scope import Scope, Wire

Kind = Literal["sequence", "image"]


def transformer(scope: Scope) -> None:
    """One or two layers, each an attention and a feed-forward with residuals."""
    x = scope.find(
        lambda w: (
            w.rank == 3
            and w.dtype == "float32"
            and (scope.sized(w, -1) or 1) % 2 == 0
            and scope.filled(w)
        )
    )
    if x is None:
        return
    x, before = scope.tame(x), list(scope.wires)
    for _ in range(scope.draws.integer(1, 2)):
        for part in (blocks.attention_of, blocks.feed_forward_of):
            if scope.draws.chance(85):
                x = _residual(scope, x, part)
    scope.wires = [*before, x]


def _residual(scope: Scope, x: Wire, part: Callable[[Scope, Wire], Wire]) -> Wire:
    """``norm(x + f(x))``, ``x + f(norm(x))``, or without a norm; now and then without the sum."""
    where = scope.draws.pick(["behind", "before", ""])
    made = part(scope, normalised(scope, x) if where == "before" else x)
    if scope.draws.chance(90):
        pair = [x, made] if scope.draws.chance(70) else [made, x]
        made = scope.one("Add", pair, x.shape, peak=x.peak + made.peak)
    made = scope.tame(made)
    return normalised(scope, made) if where == "behind" else made


def convnet(scope: Scope) -> None:
    """Two or three convolutions with norms and activations, perhaps with a residual or a depthwise
    one between."""
    x = scope.find(
        lambda w: (
            w.rank == 4
            and w.dtype == "float32"
            and scope.sized(w, 1) is not None
            and scope.filled(w)
        )
    )
    if x is None:
        return
    x, before = scope.tame(x), list(scope.wires)
    for _ in range(scope.draws.integer(2, 3)):
        made = _block(scope, x)
        if made.shape == x.shape and scope.draws.chance(50):
            made = scope.one("Add", [made, x], x.shape, peak=made.peak + x.peak)
        x = scope.tame(made)
    scope.wires = [*before, images.convolved(scope, x) if scope.draws.chance(50) else x]


def _block(scope: Scope, x: Wire) -> Wire:
    channels = scope.sized(x, 1) or 1
    y = images.convolved(scope, x, groups=channels if scope.draws.chance(20) else 1)
    y = images.batch_norm(scope, y) if scope.draws.chance(40) else y
    return images.activated(scope, scope.tame(y)) if scope.draws.chance(70) else scope.tame(y)


def recurrent(scope: Scope) -> None:
    """An LSTM over a sequence: one direction or two, with or without biases and states."""
    draws = scope.draws
    x = scope.find(
        lambda w: (
            w.rank == 3
            and w.dtype == "float32"
            and scope.sized(w, -1) is not None
            and scope.filled(w)
        )
    )
    if x is None:
        return
    x = scope.tame(x)
    batch, length, size = x.shape[0], x.shape[1], scope.sized(x, -1) or 1
    time = scope.one("Transpose", [x], (length, batch, size), perm=[1, 0, 2])
    for _ in range(draws.integer(1, 2)):
        time = _lstm(scope, time)
    scope.one("Transpose", [time], (batch, length, time.shape[-1]), perm=[1, 0, 2])


def _lstm(scope: Scope, x: Wire) -> Wire:
    """x [steps, batch, features] -> [steps, batch, directions * hidden]."""
    draws, features = scope.draws, scope.sized(x, -1) or 1
    hidden = draws.pick([32, 48] if scope.world.wide else [8, 32, 4, 3])
    direction = draws.weighted([(6, "forward"), (3, "bidirectional"), (1, "reverse")])
    ways = 2 if direction == "bidirectional" else 1
    w, r = (scope.weight((ways, 4 * hidden, n), "float32", "filters") for n in (features, hidden))
    inputs: list[Wire | None] = [x, w, r]
    if draws.chance(70):
        inputs.append(scope.weight((ways, 8 * hidden), "float32", "vector"))
    results: list[Wire | None] = [
        Wire("", "float32", (x.shape[0], ways, x.shape[1], hidden), False, 1.0)
    ]
    if draws.chance(30):  # the last states, too
        results += [Wire("", "float32", (ways, x.shape[1], hidden), False, 4.0)] * 2
    given: dict[str, Any] = {} if direction == "forward" else {"direction": direction}
    y = scope.emit("LSTM", inputs, results, hidden_size=hidden, **given)[0]
    turned = scope.one("Transpose", [y], (x.shape[0], x.shape[1], ways, hidden), perm=[0, 2, 1, 3])
    shape = scope.ints([0, 0, ways * hidden])
    return scope.one("Reshape", [turned, shape], (x.shape[0], x.shape[1], ways * hidden))


TOWERS: dict[str, tuple[Kind, Callable[[Scope], None]]] = {
    "transformer": ("sequence", transformer),
    "convnet": ("image", convnet),
    "recurrent": ("sequence", recurrent),
}
"""By name, what it reads and how it is built."""
