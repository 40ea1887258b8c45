"""Inputs whose numbers, not sizes, decide a shape: a profile needs the range of their values.

TensorRT calls them shape tensors: whole numbers of rank 0 or 1 and of a known length, which it
reads on the CPU. Source: TensorRT documentation, 'Working with Dynamic Shapes', 'Shape Tensor I/O'.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np
import onnx_ir as ir

from ....ir.errors import TargetError, UsageError
from ....ir.graph import dims
from ....targets.rules.tensorrt.shapes import shape_sources
from ...data.feedset import FeedSet
from .profiles import WHERE, Profile, Shapes

Values = tuple[int, ...]
FORM = "write it like size=1x64:4x128:8x256: least, usual and largest numbers"
MOST = 64
"""Numbers that a shape tensor may hold."""
WHOLE = frozenset({ir.DataType.INT32, ir.DataType.INT64})
_VALUES = r"-?\d{1,18}(?:x-?\d{1,18})*"
_RANGE = re.compile(rf"({_VALUES}):({_VALUES}):({_VALUES})")


def shape_inputs(model: ir.Model) -> dict[str, str]:
    """Inputs of which the numbers decide a shape, each with the node whose shape it is.

    Raises TargetError for one that TensorRT does not take so: no whole numbers, of rank 2 or more,
    or of a length that is open.
    """
    found = {str(value.name): (value, node) for value, node in shape_sources(model)}
    for name, (value, node) in found.items():
        if objection := _objection(value):
            raise TargetError(
                f"the numbers of input {name!r} decide the shape of {node.op_type} {node.name!r}, "
                f"but {objection}",
                where=f"input {name!r}",
                hint="TensorRT computes shapes from whole numbers of rank 0 or 1 and of a fixed "
                "length: export the model with that shape computed from sizes of inputs",
            )
    return {name: str(node.name) for name, (_, node) in found.items()}


def split_given(text: str | None, names: Iterable[str]) -> tuple[str, dict[str, Shapes]]:
    """What of ``--profile`` speaks of axes, as text, and the values that it gives for inputs.

    Raises UsageError for values that are none, or do not go from least to largest.
    """
    known, axes, values = set(names), list[str](), dict[str, Shapes]()
    for part in filter(None, (item.strip() for item in (text or "").split(","))):
        name, _, given = (word.strip() for word in part.partition("="))
        if name not in known:
            axes.append(part)
            continue
        match = _RANGE.fullmatch(given)
        if match is None:
            raise UsageError(f"{part!r} gives no values of an input", where=WHERE, hint=FORM)
        if name in values:
            raise UsageError(f"the input {name!r} is given twice", where=WHERE, hint=FORM)
        low, usual, high = (tuple(map(int, word.split("x"))) for word in match.groups())
        values[name] = Shapes(low, usual, high)
        _check(name, values[name], part)
    return ",".join(axes), values


def values_of(
    model: ir.Model, feeds: Iterable[FeedSet], given: Mapping[str, Shapes] | None = None
) -> Profile:
    """The least, usual and largest numbers of each such input; ``given`` ones outrank the feeds'.

    Raises TargetError for inputs that TensorRT does not take so, UsageError where nobody knows
    the numbers, or their count is not that of the input.
    """
    nodes, stated = shape_inputs(model), dict(given or {})
    seen = _seen(nodes, feeds)
    lengths = {str(v.name): _length(v) for v in model.graph.inputs if str(v.name) in nodes}
    found: dict[str, Shapes] = {}
    for name, node in nodes.items():
        if name not in stated and name not in seen:
            raise UsageError(
                f"the numbers of input {name!r} decide the shape of {node!r}, and nothing says "
                "what they may be: TensorRT builds engines for a range of them",
                where=f"input {name!r}",
                hint=f"give --calibration, or --profile; {FORM}",
            )
        found[name] = stated[name] if name in stated else seen[name]
        if len(found[name].min) != lengths[name]:
            what = f"input {name!r} holds {lengths[name]} numbers, {len(found[name].min)} are given"
            raise UsageError(what, where=WHERE, hint=FORM)
    return found


def _seen(names: Iterable[str], feeds: Iterable[FeedSet]) -> dict[str, Shapes]:
    counts: dict[str, Counter[Values]] = {}
    for feed_set in feeds:
        if feed_set.synthetic:
            continue
        for feed in feed_set:
            for name in names:
                numbers = tuple(int(n) for n in np.ravel(feed[name]))
                counts.setdefault(name, Counter())[numbers] += 1
    return {name: _range(counter) for name, counter in counts.items()}


def _range(counter: Counter[Values]) -> Shapes:
    """Each number's least and largest; as usual the numbers seen most, of several the largest."""
    usual = max(counter, key=lambda numbers: (counter[numbers], numbers))
    columns = list(zip(*counter, strict=True))
    return Shapes(tuple(map(min, columns)), usual, tuple(map(max, columns)))


def _check(name: str, values: Shapes, part: str) -> None:
    lengths = {len(values.min), len(values.opt), len(values.max)}
    if len(lengths) > 1:
        what = f"{part!r} gives different counts of numbers for input {name!r}"
        raise UsageError(what, where=WHERE, hint=FORM)
    triples = zip(values.min, values.opt, values.max, strict=True)
    if not all(low <= usual <= high for low, usual, high in triples):
        what = f"{part!r} does not go from least to largest"
        raise UsageError(what, where=WHERE, hint=FORM)


def _objection(value: ir.Value) -> str:
    shape = dims(value)
    if value.dtype not in WHOLE:
        return f"it is of {'an unknown type' if value.dtype is None else value.dtype.name.lower()}"
    if shape is None or len(shape) > 1:
        return f"it has {'an unknown number of' if shape is None else len(shape)} axes"
    if not all(isinstance(size, int) for size in shape):
        return f"its length {shape[0]!r} is open"
    return f"it holds more than {MOST} numbers" if _length(value) > MOST else ""


def _length(value: ir.Value) -> int:
    """How many numbers it holds; 0 where that is open."""
    shape = dims(value)
    if not shape:
        return 1
    return shape[0] if isinstance(shape[0], int) else 0
