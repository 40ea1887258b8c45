"""Workloads: the sizes of symbolic axes that a model is run with, and how often.

``batch=1,seq=128`` binds two axes; ``batch=1,seq=1*0.9`` (or ``:0.9``) is nine tenths of the runs.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..ir.errors import UsageError, near
from ..ir.signature import Signature

WHERE = "--workload"
FORM = "write it like batch=1,seq=128, with its share of the runs behind it: batch=1,seq=128*0.7"

HEAVIEST = 1e9
LARGEST = 2**31 - 1
"""Of an axis; products of several still fit what sizes are counted in."""

_WEIGHT = re.compile(r"(?P<axes>.*=\s*\d+)\s*[*:]\s*(?P<weight>[^*:=,]+)", re.DOTALL)


@dataclass(frozen=True)
class Workload:
    """bindings: sizes by the names of symbolic axes. weight: share of the runs; those of several
    workloads add up to 1."""

    bindings: Mapping[str, int]
    weight: float = 1.0

    def __str__(self) -> str:
        axes = ",".join(f"{name}={size}" for name, size in self.bindings.items())
        share = "" if self.weight == 1.0 else f"*{self.weight:.3g}"
        return f"{axes or 'as it is'}{share}"


def parse_workloads(
    texts: str | Iterable[str], known: Sequence[str] | None = None
) -> tuple[Workload, ...]:
    """Workloads from their texts, in order; their weights are scaled to add up to 1.

    known: the symbolic axes of the model's inputs (``ir.types.bound.symbols``); None: any name.
    Empty texts are no workload. Raises UsageError for what is no such text, for an axis that the
    model lacks, with near names, and for one bound twice.
    """
    given = [texts] if isinstance(texts, str) else list(texts)
    found = [_workload(text, known) for text in given if text.strip()]
    total = sum(workload.weight for workload in found)
    return tuple(Workload(w.bindings, w.weight / total) for w in found)


def workloads_of(feeds: Iterable[Mapping[str, np.ndarray]], signature: Signature) -> tuple[
    Workload, ...
]:  # fmt: skip
    """The shapes of feeds as workloads, those seen most first; each weighs what it was seen."""
    seen = Counter(tuple(_sizes(feed, signature)) for feed in feeds)
    total = sum(seen.values())
    return tuple(Workload(dict(sizes), count / total) for sizes, count in seen.most_common())


def portions(workloads: Sequence[Workload], count: int) -> tuple[int, ...]:
    """How many of ``count`` runs fall to each workload: by weight, but at least one."""
    parts = [max(1, round(workload.weight * count)) for workload in workloads]
    while sum(parts) > count and max(parts) > 1:
        parts[parts.index(max(parts))] -= 1
    return tuple(parts)


def _workload(text: str, known: Sequence[str] | None) -> Workload:
    match = _WEIGHT.fullmatch(text.strip())
    if match is None:
        return Workload(_bindings(text, known))
    return Workload(_bindings(match["axes"], known), _weight(match["weight"].strip(), text))


def _weight(number: str, text: str) -> float:
    try:
        weight = float(number)
    except ValueError:
        weight = 0.0
    if not 0.0 < weight <= HEAVIEST:
        raise UsageError(f"{number!r} is no weight of {text!r}", where=WHERE, hint=FORM)
    return weight


def _bindings(text: str, known: Sequence[str] | None) -> dict[str, int]:
    found: dict[str, int] = {}
    for part in filter(None, (item.strip() for item in text.split(","))):
        name, equals, number = (word.strip() for word in part.partition("="))
        if not equals or not name or not number.isdecimal() or not _fits(number):
            raise UsageError(f"{part!r} binds no axis", where=WHERE, hint=FORM)
        if known is not None and name not in known:
            fixed = "all axes of this model have fixed sizes"
            hint = near(name, known) if known else fixed
            raise UsageError(f"no input has an axis {name!r}", where=WHERE, hint=hint)
        if found.setdefault(name, int(number)) != int(number):
            raise UsageError(f"the axis {name!r} is bound twice", where=WHERE, hint=FORM)
    return found


def _fits(number: str) -> bool:
    return len(number) <= len(str(LARGEST)) and 1 <= int(number) <= LARGEST


def _sizes(feed: Mapping[str, np.ndarray], signature: Signature) -> Iterator[tuple[str, int]]:
    named: dict[str, int] = {}
    for spec in signature.inputs:
        for symbol, size in zip(spec.shape or (), feed[spec.name].shape, strict=False):
            if isinstance(symbol, str):
                named.setdefault(symbol, size)
    yield from named.items()
