"""Optimization profiles: the smallest, the usual and the largest shape of every input.

An engine with open axes runs only within a profile, and is tuned for its middle.
Source: TensorRT documentation, 'Working with Dynamic Shapes'.
"""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ....ir.errors import UsageError, near
from ....ir.provenance import Remark
from ....ir.signature import Signature
from ...data.feedset import FeedSet
from ...reporting.engineshapes import CHOSEN
from ...workload import Workload

PASS, SITE = "tensorrt", "profile"
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
    sets = list(feeds)
    seen = _seen(signature, sets, workloads)
    sizes: dict[Axis, Sizes] = {axis: _sizes(counts) for axis, counts in seen.items() if +counts}
    sizes |= {axis: (1, size, size) for axis, size in _cut(signature, sets, seen).items()}
    sizes.update(given or {})
    _refuse_unknown(signature, sizes)
    return {
        spec.name: Shapes(*(_shape(spec.name, spec.shape or (), sizes, i) for i in range(3)))
        for spec in signature.inputs
    }


def remarks_on(
    signature: Signature,
    feeds: Iterable[FeedSet],
    workloads: Sequence[Workload] = (),
    given: Mapping[str, Sizes] | None = None,
) -> list[Remark]:
    """What is to be said of the profile of the same arguments: axes whose sizes nobody stated."""
    sets = list(feeds)
    chosen = _cut(signature, sets, _seen(signature, sets, workloads))
    return [
        Remark("note", PASS, SITE, CHOSEN, _chosen(axis, size))
        for axis, size in chosen.items()
        if axis not in (given or {})
    ]


def _chosen(axis: Axis, size: int) -> str:
    """That planish chose the sizes of an axis, what follows, and what to do."""
    if isinstance(axis, str):
        name, own = f"axis {axis!r}", f"--profile {shlex.quote(f'{axis}=1:8:64')}"
    else:
        name, own = f"axis {axis[1]} of input {axis[0]!r}", "1, 8 and 64 in profiles.json"
    return (
        f"nothing says how large {name} gets, as planish cut the data, {size} samples to a feed: "
        f"the engine is tuned for {size}, takes 1 to {size} and refuses more. State your least, "
        f"usual and largest size, such as {own}"
    )


def axes_of(signature: Signature) -> list[str]:
    """The symbols of open axes, in order."""
    sizes = (size for spec in signature.inputs for size in spec.shape or ())
    return list(dict.fromkeys(size for size in sizes if isinstance(size, str)))


def _seen(
    signature: Signature, feeds: Iterable[FeedSet], workloads: Iterable[Workload]
) -> dict[Axis, Counter[int]]:
    """How often each size was seen; a size that is merely possible counts 0."""
    seen: dict[Axis, Counter[int]] = {}
    for feed_set in feeds:
        if not feed_set.synthetic:
            _see(signature, feed_set, seen)
    for workload in workloads:
        for name, size in workload.bindings.items():
            seen.setdefault(name, Counter())[size] += 1
    return seen


def _see(signature: Signature, feeds: FeedSet, seen: dict[Axis, Counter[int]]) -> None:
    batch = _batch(signature, feeds)
    for feed in feeds:
        counted: dict[Axis, int] = {}
        for spec in signature.inputs:
            for i, size in enumerate(spec.shape or ()):
                if not isinstance(size, int):
                    counted[_axis(spec.name, i, size)] = np.shape(feed[spec.name])[i]
        for axis, count in counted.items():
            if not (feeds.cut and axis in batch):  # else it says nothing of how the model is run
                seen.setdefault(axis, Counter())[count] += 1
    for axis in batch if feeds.divisible else ():
        seen.setdefault(axis, Counter())[1] += 0


def _batch(signature: Signature, feeds: FeedSet) -> list[Axis]:
    """The open axes along which samples lie."""
    found: list[Axis] = []
    for spec in signature.inputs:
        place = feeds.axes.get(spec.name)
        size = spec.shape[place] if place is not None and spec.shape else 1
        if place is not None and not isinstance(size, int):
            found.append(_axis(spec.name, place, size))
    return list(dict.fromkeys(found))


def _cut(
    signature: Signature, feeds: Iterable[FeedSet], seen: Mapping[Axis, Counter[int]]
) -> dict[Axis, int]:
    """Open axes of which nothing but how planish cut samples is known, and how many these are."""
    known = {axis for axis, counts in seen.items() if +counts}
    return {
        axis: feed_set.cut
        for feed_set in feeds
        if feed_set.cut and not feed_set.synthetic
        for axis in _batch(signature, feed_set)
        if axis not in known
    }


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
