"""Constants of two matched graphs: which changed with which nodes, and by how much."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import onnx_ir as ir

from ..graph import constant_array, constant_tensor
from ..storage.absent import is_absent, is_unknown
from ..storage.tensors import tensor_digest
from .changes import Hunk, TensorChange, TensorFacts, stored
from .match import Matching
from .pool import Pool


def changes(
    found: Matching, before: Sequence[int], after: Sequence[int], pairs: Sequence[tuple[int, int]]
) -> Iterator[TensorChange]:
    """Constants that only one side of the hunk reads, those of one slot of one node together."""
    old, new = _read(found.before, before), _read(found.after, after)
    partners = dict(pairs)
    kept = {digest for digest, *_ in old} & {digest for digest, *_ in new}
    taken = set[tuple[int, int]]()
    theirs = {(n, slot): value for _, n, slot, value in new}
    for digest, number, slot, value in old:
        if digest in kept:
            continue
        place = (partners.get(number, -1), slot)
        other = theirs.get(place)
        taken |= {place} if other is not None else set()
        name = found.before.nodes[number].op_type
        yield TensorChange(name, slot, facts(value), facts(other), _error(value, other))
    for digest, number, slot, value in new:
        if digest not in kept and (number, slot) not in taken:
            yield TensorChange(found.after.nodes[number].op_type, slot, None, facts(value))


def facts(value: ir.Value | None) -> TensorFacts | None:
    """Of a constant."""
    tensor = constant_tensor(value)
    if value is None or tensor is None:
        return None
    shape = tuple(int(d) for d in tensor.shape.numpy())
    return TensorFacts(
        str(value.name), tensor.dtype.name, shape, tensor.nbytes, tensor_digest(tensor),
        not is_unknown(tensor),
    )  # fmt: skip


def stores(found: Matching, hunks: Sequence[Hunk]) -> Iterator[str]:
    """Constants that are stored more or less often, where no hunk tells of it."""
    told = {f.digest for h in hunks for t in h.tensors for f in (t.before, t.after) if f}
    counts, names = list[Counter[str]](), dict[str, str]()
    for pool in (found.before, found.after):
        held = stored(pool.model)
        counts.append(Counter(pool.digest(tensor) for tensor in held.values()))
        names |= {pool.digest(tensor): name for name, tensor in held.items()}
        told |= {pool.digest(t) for t in held.values() if found.partly and tensor_digest(t) in told}
    for digest, name in names.items():
        x, y = counts[0][digest], counts[1][digest]
        if x != y and digest not in told:
            yield f"{name} is stored {x} times -> {y} times"


def _read(pool: Pool, numbers: Sequence[int]) -> list[tuple[str, int, int, ir.Value]]:
    """Constants that these nodes read, each once, with the first node and slot that does."""
    found = dict[str, tuple[str, int, int, ir.Value]]()
    for number in numbers:
        for slot, value in enumerate(pool.nodes[number].inputs):
            tensor = pool.constant(number, slot)
            if tensor is not None and value is not None:
                digest = tensor_digest(tensor)
                found.setdefault(digest, (digest, number, slot, value))
    return list(found.values())


def _error(one: ir.Value | None, other: ir.Value | None) -> float | None:
    if is_absent(constant_tensor(one)) or is_absent(constant_tensor(other)):
        return None
    x, y = constant_array(one), constant_array(other)
    if x is None or y is None or x.shape != y.shape or "f" not in (x.dtype.kind + y.dtype.kind):
        return None
    if x.dtype.kind != "f" or y.dtype.kind != "f":
        return None
    wide = x.astype(np.float64)
    size = float(np.linalg.norm(wide))
    return float(np.linalg.norm(y.astype(np.float64) - wide)) / size if size else None
