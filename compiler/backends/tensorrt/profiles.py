"""Optimization profiles: the smallest, the usual and the largest shape of every input.

An engine with open axes runs only within a profile, and is tuned for its middle.
Source: TensorRT documentation, 'Working with Dynamic Shapes'.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ....ir.errors import UsageError, near
from ....ir.signature import Signature
from ...data.feedset import FeedSet
from ...workload import Workload

WHERE = "--profile"
FORM = "write it like batch=1:8:32,seq=16:128:256: the least, the usual and the largest size"
_RANGE = re.compile(r"(\d{1,9}):(\d{1,9}):(\d{1,9})")

Sizes = tuple[int, int, int]
"""min, opt, max"""
Axis = str | tuple[str, int]
"""An open axis: its symbol, or the input and the position of one without a name."""


@dataclass(frozen=True)
class Shapes:
    """Of one input; equal where no axis is open."""

    min: tuple[int, ...]
    opt: tuple[int, ...]
    max: tuple[int, ...]


Profile = Mapping[str, Shapes]
"""By input name, in the model's order."""


def parse_profile(text: str | None, known: Sequence[str] | None = None) -> dict[str, Sizes]:
    """Sizes by symbolic axis. Raises UsageError for what is no such text, and unknown axes."""
    found: dict[str, Sizes] = {}
    for part in filter(None, (item.strip() for item in (text or "").split(","))):
        name, _, sizes = (word.strip() for word in part.partition("="))
        match = _RANGE.fullmatch(sizes)
        if not name or match is None:
            raise UsageError(f"{part!r} is no profile of an axis", where=WHERE, hint=FORM)
        low, usual, high = (int(size) for size in match.groups())
        if not 1 <= low <= usual <= high:
            what = f"{part!r} does not go from least to largest"
            raise UsageError(what, where=WHERE, hint=FORM)
        if known is not None and name not in known:
            hint = near(name, known) if known else "all axes of this model have fixed sizes"
            raise UsageError(f"no input has an axis {name!r}", where=WHERE, hint=hint)
        if name in found:
            raise UsageError(f"the axis {name!r} is given twice", where=WHERE, hint=FORM)
        found[name] = (low, usual, high)
    return found


def profile_of(
    signature: Signature,
    feeds: Iterable[FeedSet],
    workloads: Sequence[Workload] = (),
    given: Mapping[str, Sizes] | None = None,
) -> Profile:
    """A profile of the shapes in the feeds and of stated workloads; ``given`` sizes outrank both.

    Where samples can be cut, the least batch is 1. Raises UsageError for an open axis of which
    nobody knows a size.
    """
    seen: dict[Axis, Counter[int]] = {}
    for feed_set in feeds:
        if not feed_set.synthetic:
            _see(signature, feed_set, seen)
    for workload in workloads:
        for name, size in workload.bindings.items():
            seen.setdefault(name, Counter())[size] += 1
    sizes: dict[Axis, Sizes] = {axis: _sizes(counts) for axis, counts in seen.items()}
    sizes.update(given or {})
    _refuse_unknown(signature, sizes)
    return {
        spec.name: Shapes(*(_shape(spec.name, spec.shape or (), sizes, i) for i in range(3)))
        for spec in signature.inputs
    }


def axes_of(signature: Signature) -> list[str]:
    """The symbols of open axes, in order."""
    sizes = (size for spec in signature.inputs for size in spec.shape or ())
    return list(dict.fromkeys(size for size in sizes if isinstance(size, str)))


def _see(signature: Signature, feeds: FeedSet, seen: dict[Axis, Counter[int]]) -> None:
    for feed in feeds:
        counted: dict[Axis, int] = {}
        for spec in signature.inputs:
            for i, size in enumerate(spec.shape or ()):
                if not isinstance(size, int):
                    counted[_axis(spec.name, i, size)] = np.shape(feed[spec.name])[i]
        for axis, count in counted.items():
            seen.setdefault(axis, Counter())[count] += 1
    for spec in signature.inputs:
        place = feeds.axes.get(spec.name)
        if feeds.divisible and place is not None and spec.shape:
            size = spec.shape[place]
            if not isinstance(size, int):
                seen.setdefault(_axis(spec.name, place, size), Counter())[1] += 0


def _sizes(counts: Counter[int]) -> Sizes:
    """The least, the one seen most (of several the largest), the largest."""
    usual = max(counts, key=lambda size: (counts[size], size))
    return min(counts), usual, max(counts)


def _axis(name: str, position: int, size: str | None) -> Axis:
    return size if isinstance(size, str) else (name, position)


def _refuse_unknown(signature: Signature, sizes: Mapping[Axis, Sizes]) -> None:
    for spec in signature.inputs:
        for i, size in enumerate(spec.shape or ()):
            if isinstance(size, int) or _axis(spec.name, i, size) in sizes:
                continue
            raise UsageError(
                f"the axis {size or i!r} of input {spec.name!r} is open, and nothing says how "
                "large it gets: TensorRT builds engines for a range of shapes",
                where=f"input {spec.name!r}",
                hint=f"give --calibration, --workload or --profile; {FORM}",
            )


def _shape(
    name: str, shape: Sequence[int | str | None], sizes: Mapping[Axis, Sizes], which: int
) -> tuple[int, ...]:
    return tuple(
        size if isinstance(size, int) else sizes[_axis(name, i, size)][which]
        for i, size in enumerate(shape)
    )
