"""Weights of a hunk, however they are stored: what became of each, and how far off it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ..graph import attribute, constant_array, constant_tensor
from ..storage.absent import is_absent
from .changes import GraphDiff, Hunk, TensorFacts
from .codes import decoded
from .constants import facts
from .pool import Pool

Floats = npt.NDArray[np.float64]

LEAST = 64
"""Elements from which on a constant of two axes and more counts as a weight."""
MOST = 1 << 25
"""Elements up to which weights are compared."""
WIDEST = 2048
"""Rows or columns, whichever are fewer, up to which a rank is found."""
APART = 0.9
"""Relative error from which on two arrays of one shape are not the same weight."""
_FLOATS = frozenset((ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16,
                     ir.DataType.DOUBLE))  # fmt: skip


@dataclass(frozen=True, eq=False)
class Weight:
    """A weight as an operator applies it. parts: the constants that hold it. array: None where
    their bytes are missing, or how to read them is not known. axis: the one that is summed over,
    -1 where there is none. inner: of a product of two, what its rank cannot exceed."""

    parts: tuple[TensorFacts, ...]
    array: Floats | None
    axis: int = -1
    inner: int | None = None

    @property
    def bytes(self) -> int:
        """Of all that is stored."""
        return sum(part.bytes for part in self.parts)

    @cached_property
    def zeros(self) -> float | None:
        """Share of elements that are zero."""
        if self.array is None or not self.array.size:
            return None
        return float(1 - np.count_nonzero(self.array) / self.array.size)

    @cached_property
    def two_of_four(self) -> bool | None:
        """Whether of each four neighbours along the summed axis two are zero."""
        if self.array is None or self.axis < 0 or self.array.shape[self.axis] % 4:
            return None
        groups = np.moveaxis(self.array, self.axis, 0)
        counts = np.count_nonzero(groups.reshape(groups.shape[0] // 4, 4, -1), axis=1)
        return bool(counts.max(initial=0) <= 2 and counts.any())

    @cached_property
    def rank(self) -> int | None:
        """Singular values above what float32 tells from zero; of matrices that are not too large.

        From the eigenvalues of the smaller Gram matrix in float64, whose root is exact to about
        1e-8 of the largest, far below that bound.
        """
        if self.inner is not None:
            return self.inner
        if self.array is None or self.array.ndim != 2 or min(self.array.shape) > WIDEST:
            return None
        flat = self.array if self.array.shape[0] <= self.array.shape[1] else self.array.T
        values = np.sqrt(np.maximum(np.linalg.eigvalsh(flat @ flat.T), 0.0))
        bound = max(flat.shape) * float(np.finfo(np.float32).eps) * values.max(initial=0.0)
        return int(np.count_nonzero(values > bound))

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "parts": [part.to_json() for part in self.parts],
            "bytes": self.bytes,
            "zeros": self.zeros,
            "two_of_four": self.two_of_four,
            "rank": self.rank,
        }


@dataclass(frozen=True, eq=False)
class WeightChange:
    """What became of a weight; None where there was none, or where it went without another.

    error: |after - before| / |before| (Frobenius) of what operators see, None where their shapes
    differ or one is not known. cut: share of the elements that are gone, of what was cut smaller.
    elements: how many of them are different, None where ``error`` is.
    """

    before: Weight | None
    after: Weight | None
    error: float | None = None
    cut: float | None = None
    elements: int | None = None

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "before": None if self.before is None else self.before.to_json(),
            "after": None if self.after is None else self.after.to_json(),
            "relative_error": self.error,
            "cut": self.cut,
            "changed_elements": self.elements,
        }


def weight_changes(diff: GraphDiff, hunk: Hunk) -> list[WeightChange]:
    """What became of the weights of a hunk, in the order of the graph before."""
    before, after = _weights(diff.before, hunk.before), _weights(diff.after, hunk.after)
    if len(after) > len(before):  # one in two factors
        after = _multiplied(diff.after, hunk.after, after)
    elif len(before) > len(after):
        before = _multiplied(diff.before, hunk.before, before)
    same = {w.parts[0].digest for w in before} & {w.parts[0].digest for w in after}
    before = [w for w in before if w.parts[0].digest not in same]
    left = [w for w in after if w.parts[0].digest not in same]
    found = list[WeightChange]()
    for weight in before:
        change = _became(weight, left)
        if change.after is not None:
            left.remove(change.after)
        found.append(change)
    return _with_the_rest(found, left)


def _became(weight: Weight, others: Sequence[Weight]) -> WeightChange:
    """The weight that is nearest to what this one was."""
    errors = [(error, other) for other in others if (error := _error(weight, other)) is not None]
    if not errors:
        return WeightChange(weight, None)
    error, other = min(errors, key=lambda pair: pair[0])
    if error >= APART:
        return WeightChange(weight, None)
    return WeightChange(weight, other, error, elements=_elements(weight, other))


def _with_the_rest(found: list[WeightChange], left: list[Weight]) -> list[WeightChange]:
    """Where one weight went and one came, of another shape or unreadable, they are one change."""
    alone = [change for change in found if change.after is None]
    if len(alone) != len(left):
        return [*found, *(WeightChange(None, weight) for weight in left)]
    paired = iter(left)
    return [c if c.after is not None else _resized(c, next(paired)) for c in found]


def _resized(change: WeightChange, after: Weight) -> WeightChange:
    before = change.before
    if before is None or before.array is None or after.array is None:
        return WeightChange(before, after)
    cut = 1 - after.array.size / before.array.size
    error, elements = _error(before, after), _elements(before, after)
    return WeightChange(before, after, error, cut if cut > 0 else None, elements)


def _error(one: Weight, other: Weight) -> float | None:
    arrays = _alike(one, other)
    size = 0.0 if arrays is None else float(np.linalg.norm(arrays[0]))
    return float(np.linalg.norm(arrays[1] - arrays[0])) / size if arrays and size else None


def _elements(one: Weight, other: Weight) -> int | None:
    """How many elements are different."""
    arrays = _alike(one, other)
    return None if arrays is None else int(np.count_nonzero(arrays[0] != arrays[1]))


def _alike(one: Weight, other: Weight) -> tuple[Floats, Floats] | None:
    """Both arrays in one shape, None where they have none in common."""
    x, y = one.array, other.array
    if x is None or y is None or x.size != y.size:
        return None
    if x.shape == y.shape:
        return x, y
    return (x, y.T) if x.ndim == 2 and x.shape == y.T.shape else None


# -- reading ---------------------------------------------------------------------------------


def _weights(pool: Pool, numbers: Sequence[int]) -> list[Weight]:
    """The weights that these nodes apply, each once."""
    found = dict[str, Weight]()
    for number in numbers:
        for slot, value in enumerate(pool.nodes[number].inputs):
            tensor = constant_tensor(value)
            if tensor is None or tensor.size < LEAST or len(tensor.shape) < 2:
                continue
            weight = _weight(pool, number, slot)
            found.setdefault(weight.parts[0].digest, weight)
    scales = {part.digest for weight in found.values() for part in weight.parts[1:]}
    return [weight for digest, weight in found.items() if digest not in scales]


def _weight(pool: Pool, number: int, slot: int) -> Weight:
    value = pool.nodes[number].inputs[slot]
    told, tensor = facts(value), constant_tensor(value)
    assert told is not None
    assert tensor is not None
    axis = _summed(pool, number, slot)
    if is_absent(tensor) or tensor.size > MOST:
        return Weight((told,), None, axis)
    if tensor.dtype in _FLOATS:
        array = constant_array(value)
        assert array is not None
        return Weight((told,), array.astype(np.float64), axis)
    codes = decoded(pool, number, slot)
    if codes is None:
        return Weight((told,), None, axis)
    scales = tuple(part for v in codes.values if (part := facts(v)) is not None)
    return Weight((told, *scales), codes.array, axis)


def _summed(pool: Pool, number: int, slot: int) -> int:
    """The axis of a stored tensor that an operator sums over, -1 where it is not known."""
    node = pool.nodes[number]
    if node.op_type == "DequantizeLinear":
        read = [(r.node, r.slot) for r in pool.readers[number] if r.node >= 0]
        return _summed(pool, *read[0]) if read else -1
    if node.op_type == "Gemm":
        return 1 if attribute(node, "transB", 0) else 0
    if "MatMul" in node.op_type and slot > 0:
        return 0
    return 1 if "Conv" in node.op_type and slot > 0 else -1


def _multiplied(pool: Pool, numbers: Sequence[int], weights: Sequence[Weight]) -> list[Weight]:
    """Weights, and (x u) v as the one weight u v, where u makes x narrower than v widens it."""
    by_digest = {weight.parts[0].digest: weight for weight in weights}
    inside, products, gone = set(numbers), list[Weight](), set[str]()
    for number in numbers:
        first = _matrix(pool, number, by_digest)
        readers = [r for r in pool.readers[number] if r.node in inside]
        if first is None or len(pool.readers[number]) != 1 or not readers:
            continue
        second = _matrix(pool, readers[0].node, by_digest)
        product = None if second is None else _product(first, second)
        if product is not None and second is not None:
            gone |= {first.parts[0].digest, second.parts[0].digest}
            products.append(product)
    return [*products, *(w for w in weights if w.parts[0].digest not in gone)]


def _matrix(pool: Pool, number: int, weights: Mapping[str, Weight]) -> Weight | None:
    """The matrix that a product multiplies by from the right."""
    node = pool.nodes[number]
    if "MatMul" not in node.op_type or len(node.inputs) < 2:
        return None
    for source in pool.seen[number][1:]:
        if source.kind == "constant" and source.of in weights:
            return weights[str(source.of)]
    return None


def _product(first: Weight, second: Weight) -> Weight | None:
    x, y = first.array, second.array
    if x is None or y is None or x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[0]:
        return None
    inner = x.shape[1]
    if inner >= min(x.shape[0], y.shape[1]):
        return None
    return Weight((*first.parts, *second.parts), x @ y, 0, inner)
