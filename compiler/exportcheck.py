"""Whether an ONNX export computes what its PyTorch module does, also at other sizes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from ..ir.errors import PlanishError
from ..ir.pytorch.axes import free_sizes
from ..ir.pytorch.call import Array, Feeds
from ..ir.pytorch.front import Exported
from ..targets.runtime import Session, open_session

TOLERANCE = 1e-3
"""Of an output's largest magnitude; ten times that in half precision."""
FLIPS = 0.01
"""Share of integers and booleans (an argmax, say) that rounding may turn."""


def complaint(exported: Exported, path: Path) -> str:
    """How the export, saved at ``path``, differs from its module; ``""`` where it does not.

    Compared on the examples, and on them with each free size changed, where the module itself
    takes that. Raises TargetError where the runtime cannot load the export.
    """
    session = open_session(path)
    for label, feeds in _variants(exported):
        try:
            expected = exported.original(feeds)
        except Exception:
            if not label:
                raise
            continue  # a size that the module does not take either
        found = _difference(session, exported, feeds, expected)
        if found:
            return _blame(exported, feeds, expected) or f"{found}{label}"
    return ""


def _variants(exported: Exported) -> Iterator[tuple[str, Feeds]]:
    """Feeds, and what is special about them: nothing, or one free size that is another."""
    yield "", exported.feeds
    for symbol, places in free_sizes(exported.model).items():
        name, axis = places[0]
        size = exported.feeds[name].shape[axis]
        other = 2 if size == 1 else 1 if axis == 0 else size - 1
        changed = dict(exported.feeds)
        for place, along in places:
            changed[place] = _resized(changed[place], along, other)
        yield f" at {symbol} = {other}", changed


def _resized(array: Array, axis: int, size: int) -> Array:
    resized: Array = np.take(array, np.arange(size) % array.shape[axis], axis=axis)
    return resized


def _difference(session: Session, exported: Exported, feeds: Feeds, expected: list[Array]) -> str:
    try:
        outputs = session.run(feeds)
    except PlanishError as error:
        return f"it does not run: {error.what}"
    pairs = zip(exported.output_names, expected, outputs, strict=True)
    return next(filter(None, (_differs(name, a, b) for name, a, b in pairs)), "")


def _differs(name: str, expected: Array, got: Array) -> str:
    if expected.shape != got.shape:
        return f"output {name!r} has shape {list(got.shape)}, the module's {list(expected.shape)}"
    if not expected.size:
        return ""
    if expected.dtype.kind != "f":
        share = float(np.mean(expected != got))
        return f"{share:.1%} of output {name!r} differ" if share > FLIPS else ""
    a, b = expected.astype(np.float64), got.astype(np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))  # equal infinities, too
    if same.all():
        return ""
    largest = np.max(np.abs(a), where=np.isfinite(a), initial=1e-30)
    distance = float(np.max(np.abs(a - b)[~same]) / largest)
    allowed = TOLERANCE * (10 if expected.dtype == np.float16 else 1)
    if distance <= allowed:
        return ""
    return f"output {name!r} is off by {distance:.2g} of its largest value"


def _blame(exported: Exported, feeds: Mapping[str, Array], expected: list[Array]) -> str:
    """What to say where it is the module that answers differently each time."""
    again = exported.original(feeds)
    pairs = zip(exported.output_names, expected, again, strict=True)
    changed = [name for name, a, b in pairs if _differs(name, a, b)]
    return f"the module itself gives another {changed[0]!r} at each run" if changed else ""
