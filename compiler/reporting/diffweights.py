"""The lines of a shown difference that say what became of weights."""

from __future__ import annotations

from collections.abc import Iterator

from ...ir.diff.changes import Hunk, TensorChange, TensorFacts
from ...ir.diff.weights import Weight, WeightChange
from ...ir.shown import clipped, inline
from ..diffing import ModelDiff
from .difflines import LONGEST, Line
from .headline import size

SHOWN_TENSORS = 6
FEW_ELEMENTS = 0.1
"""Share of the elements up to which it is told how many are different."""
NEW_ZEROS = 0.1
"""Share of the elements from which on zeros that were none are told."""


def weight_lines(diff: ModelDiff, hunk: Hunk) -> Iterator[Line]:
    """What became of weights, and of smaller constants that are on both sides."""
    weights = [w for w in diff.weights(hunk) if w.before is not None and w.after is not None]
    told = {part.digest for w in weights for s in (w.before, w.after) if s for part in s.parts}
    small = [t for t in hunk.tensors if _tells(t) and t.before and t.before.digest not in told]
    texts = [*map(_weight_text, weights), *map(_tensor_text, small)]
    for text in texts[:SHOWN_TENSORS]:
        yield Line(clipped(f"   {inline(text)}", LONGEST), "quiet")
    if len(texts) > SHOWN_TENSORS:
        yield Line(f"   and {len(texts) - SHOWN_TENSORS} more tensors", "quiet")


def _tells(change: TensorChange) -> bool:
    """Whether a tensor is on both sides: the lines of the nodes tell of the others."""
    return change.before is not None and change.after is not None


def _weight_text(change: WeightChange) -> str:
    """``q.weight: FLOAT[384, 384] 590 kB -> INT8 149 kB, relative error 1.84e-02``."""
    one, other = change.before, change.after
    assert one is not None
    assert other is not None
    names = [weight.parts[0].name for weight in (one, other)]
    name = names[0] if one.parts[0].name == other.parts[0].name else " -> ".join(names)
    made = list(_weight_facts(change, other))
    return ", ".join([f"{name}: {_held(one)} -> {_held(other)}", *made])


def _held(weight: Weight) -> str:
    """Dtype and shape of what is stored, and all its bytes."""
    first = weight.parts[0]
    if weight.inner is not None:
        matrices = [part for part in weight.parts if len(part.shape) > 1]
        shapes = " x ".join(str(list(part.shape)) for part in matrices)
        return f"{first.dtype}{shapes} {size(weight.bytes)}"
    return f"{first.dtype}{list(first.shape)} {size(weight.bytes)}"


def _weight_facts(change: WeightChange, after: Weight) -> Iterator[str]:
    if change.error is not None:
        yield f"relative error {change.error:.2e}"
    size = 0 if after.array is None else after.array.size
    if change.elements and change.elements <= FEW_ELEMENTS * size:
        yield f"in {change.elements:,} of {size:,} elements"
    if change.cut:
        yield f"{100 * change.cut:.0f} % cut"
    if after.inner is not None:
        yield f"rank {after.inner}"
    before = None if change.before is None else change.before.zeros
    if after.zeros is not None and after.zeros > (before or 0.0) + NEW_ZEROS:
        yield f"{100 * after.zeros:.0f} % zeros"
    if after.two_of_four and not (change.before and change.before.two_of_four):
        yield "2:4"


def _tensor_text(change: TensorChange) -> str:
    one, other = change.before, change.after
    assert one is not None
    assert other is not None
    error = "" if change.error is None else f", relative error {change.error:.2e}"
    name = one.name if one.name == other.name else f"{one.name} -> {other.name}"
    return f"{name}: {_stored(one)} -> {_stored(other)}{error}"


def _stored(facts: TensorFacts) -> str:
    return f"{facts.dtype}{list(facts.shape)} {size(facts.bytes)}"
