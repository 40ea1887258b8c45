"""Feeds generated from a signature, for compiles without data: they tell shapes, not ranges."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ...ir.errors import InputError, UsageError
from ...ir.signature import Signature, TensorSpec
from .feedcheck import Place, wanted_dtype
from .feedset import Feeds, FeedSet, feed_set

SOURCE = "feeds generated from the signature"
BATCH = (1, 4)
LENGTH = (16, 32)
DEFAULT_LIMIT = 2
"""Values of an integer input whose table is unknown stay below this: any table has two rows."""


def synthetic(
    signature: Signature,
    n: int,
    seed: int,
    bindings: Mapping[str, int] | Sequence[Mapping[str, int]] | None = None,
    *,
    limits: Mapping[str, int] | None = None,
    masks: Collection[str] = (),
) -> FeedSet:
    """``n`` feeds of random numbers with the right names, dtypes and shapes.

    Floats are N(0, 1), booleans fair coins, integers uniform over 0 … limit - 1, where ``limits``
    (see ``ir.index_limits``) says how many rows the input indexes. Inputs in ``masks`` and
    integers or booleans called …mask… are ones. bindings: sizes of named axes, for all feeds or
    one mapping a feed; other open axes are drawn per feed, 1 to 4 on axis 0, else 16 to 32, the
    same for the same name.
    Raises InputError where an input is no tensor or its rank is unknown, UsageError for n < 1.
    """
    if n < 1:
        raise UsageError(f"cannot generate {n} feeds", hint="ask for one or more")
    rng = np.random.default_rng(seed)
    masked = {spec.name for spec in signature.inputs if _looks_like_mask(spec)} | set(masks)
    feeds: list[Feeds] = []
    for index in range(n):
        bound = bindings[index] if isinstance(bindings, Sequence) else bindings
        sizes = dict[str, int](bound or {})
        feed: Feeds = {}
        for spec in signature.inputs:
            shape = _shape(spec, sizes, rng)
            limit = (limits or {}).get(spec.name, DEFAULT_LIMIT)
            feed[spec.name] = _array(spec, shape, limit, spec.name in masked, rng)
        feeds.append(feed)
    return feed_set(SOURCE, lambda i: dict(feeds[i]), n, signature, synthetic=True)


def _shape(spec: TensorSpec, sizes: dict[str, int], rng: np.random.Generator) -> tuple[int, ...]:
    """The shape with open axes bound; nameless axes at the same position are taken as one."""
    if spec.shape is None:
        raise Place(SOURCE, "feed 1", spec).error(
            "cannot be generated: its rank is unknown", "give calibration data"
        )
    return tuple(
        size if isinstance(size, int) else _size(size or f"?{axis}", axis, sizes, rng)
        for axis, size in enumerate(spec.shape)
    )


def _size(symbol: str, axis: int, sizes: dict[str, int], rng: np.random.Generator) -> int:
    low, high = BATCH if axis == 0 else LENGTH
    if symbol not in sizes:
        sizes[symbol] = int(rng.integers(low, high + 1))
    return sizes[symbol]


def _array(
    spec: TensorSpec, shape: tuple[int, ...], limit: int, mask: bool, rng: np.random.Generator
) -> npt.NDArray[Any]:
    dtype = wanted_dtype(spec)
    if dtype is None or dtype.kind == "O":
        raise InputError(
            f"input {spec.name!r} is {spec.dtype}: its values cannot be generated",
            hint="give calibration data",
        )
    if mask:
        return np.ones(shape, dtype)
    if dtype.kind == "b":
        return rng.integers(0, 2, shape).astype(dtype)
    if dtype.kind in "iu" or "int" in dtype.name:
        return rng.integers(0, max(1, min(limit, _largest(dtype) + 1)), shape).astype(dtype)
    return rng.standard_normal(shape).astype(dtype)


def _largest(dtype: np.dtype[Any]) -> int:
    return int(np.iinfo(dtype).max) if dtype.kind in "iu" else 1


def _looks_like_mask(spec: TensorSpec) -> bool:
    dtype = wanted_dtype(spec)
    return "mask" in spec.name.lower() and dtype is not None and dtype.kind in "iub"
