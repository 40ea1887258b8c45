"""What a generated model asks its callers for."""

from __future__ import annotations

from .scope import Dim, Scope, Wire

_FEATURES = (32, 4, 8, 64, 16, 1, 3, 6, 2)
_WIDE = (32, 64)


def inputs(scope: Scope, feeds: int, first: str = "") -> list[Wire]:
    """One to four inputs: sequences, images, matrices, vectors, scalars, ids, masks, flags.

    first: what the first one must be, "sequence" or "image", in float32; "" for anything.
    """
    draws, world = scope.draws, scope.world
    batch, length = _sizes(scope, feeds)
    channels = draws.pick([16, 32] if world.wide else [4, 16, 1, 3, 8])
    side = draws.pick([4, 1, 3, 5])
    dtype = draws.weighted([(12, "float32"), (1, "float16"), (1, "float64")])
    size = draws.pick(_WIDE if world.wide else _FEATURES)
    kinds: list[tuple[int, Wire]] = [
        (5, Wire("", dtype, (batch, length, size))),
        (5, Wire("", "float32", (batch, channels, side, side))),
        (1, Wire("", "float32", (batch, channels, length))),
        (4, Wire("", dtype, (batch, size))),
        (1, Wire("", dtype, (size,))),
        (1, Wire("", "float32", ())),
    ]
    wanted = {
        "sequence": Wire("", "float32", (batch, length, size)),
        "image": Wire("", "float32", (batch, channels, side, side)),
    }
    given = [wanted[first] if first else draws.weighted(kinds)]
    if draws.chance(25):
        given.append(Wire("", "int64", (batch, length), peak=8.0, limit=8))
    if draws.chance(25):
        given.append(Wire("", "int64", (batch, length), peak=1.0, limit=2))
    if draws.chance(15):
        given.append(Wire("", "bool", (), peak=1.0))
    if draws.chance(15):
        given.append(draws.weighted(kinds))
    if draws.chance(8):
        given.append(Wire("", "int32", (batch,), peak=8.0, limit=8))
    return [Wire(world.names.value("x"), w.dtype, w.shape, True, w.peak, w.limit) for w in given]


def _sizes(scope: Scope, feeds: int) -> tuple[Dim, Dim]:
    """Batch and sequence: numbers, or symbols whose size differs between the feeds."""
    draws, world = scope.draws, scope.world
    found: list[Dim] = []
    for name, options in (("batch", (1, 2, 3, 4)), ("seq", (4, 1, 5, 7))):
        if draws.chance(25):
            found.append(draws.pick(options))
            continue
        sizes = [draws.pick(options) for _ in range(feeds)]
        if draws.chance(4):
            sizes[-1] = 0
        found.append(world.symbol(sizes, name))
    return found[0], found[1]
