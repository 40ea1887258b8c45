"""What is said of a difference: hunks of nodes, tensors, values, and sums over both graphs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import onnx_ir as ir

from ..counting.count import parameters
from ..graph import all_graphs
from .match import Matching
from .pool import Pool

HunkKind = Literal["replaced", "added", "removed", "modified", "moved"]


@dataclass(frozen=True)
class TensorFacts:
    """A stored tensor. digest: of dtype, shape and bytes; two tensors are equal where it is.
    known: whether the digest is; not where the file that holds the bytes is missing."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int
    digest: str
    known: bool = True

    def to_json(self) -> dict[str, Any]:
        """As plain values; no digest where it is not known."""
        return {
            "name": self.name, "dtype": self.dtype, "shape": list(self.shape),
            "bytes": self.bytes, "digest": self.digest if self.known else None,
        }  # fmt: skip


@dataclass(frozen=True)
class TensorChange:
    """A constant that a node reads, on both sides; None where there is none.

    error: of the values, |after - before| / |before| (Frobenius), None where shapes differ or one
    of them does not hold floats.
    """

    node: str
    slot: int
    before: TensorFacts | None
    after: TensorFacts | None
    error: float | None = None


@dataclass(frozen=True)
class ValueChange:
    """An output that both graphs compute, as another dtype or shape; written as text."""

    name: str
    before: str
    after: str


@dataclass(frozen=True, eq=False)
class Hunk:
    """Nodes that changed together. before, after: their numbers in the pools of both sides.

    changed: pairs among them that are one node with other attributes, constants or inputs.
    module: the path that all of them stand in, as far as names tell. details: what changed of
    ``changed`` nodes, a sentence each. edits: ids of a compiler's edits that made it.
    """

    kind: HunkKind
    before: tuple[int, ...]
    after: tuple[int, ...]
    changed: tuple[tuple[int, int], ...] = ()
    module: str = ""
    details: tuple[str, ...] = ()
    tensors: tuple[TensorChange, ...] = ()
    edits: tuple[str, ...] = ()

    @property
    def bytes(self) -> int:
        """How much larger constants became."""
        made = {t.after.digest: t.after.bytes for t in self.tensors if t.after is not None}
        gone = {t.before.digest: t.before.bytes for t in self.tensors if t.before is not None}
        return sum(made.values()) - sum(gone.values())


@dataclass(frozen=True)
class Totals:
    """One side. parameters: trained numbers; bytes: of stored tensors; dtypes: bytes by dtype."""

    nodes: int
    parameters: int
    bytes: int
    operators: Mapping[str, int]
    dtypes: Mapping[str, int]

    @classmethod
    def of(cls, pool: Pool) -> Totals:
        """Count a graph."""
        dtypes = Counter[str]()
        for tensor in stored(pool.model).values():
            dtypes[tensor.dtype.name] += tensor.nbytes
        operators = Counter(_title(node) for node in pool.nodes)
        return cls(
            len(pool), parameters(pool.model), sum(dtypes.values()),
            dict(sorted(operators.items())), dict(sorted(dtypes.items())),
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class GraphDiff:
    """What is different between two graphs.

    hunks: in the order of the graph before. values: outputs of nodes that both have, of another
    dtype or shape. face: what callers see that changed, a sentence each. opsets: domains with
    other versions. stores: constants that are stored another number of times, or that nothing
    reads. equal: whether the contents of both graphs are, by their fingerprints; the difference
    is false then, and only then. unknown: names of the constants, before and after, whose bytes
    are missing: like those of their dtype and shape they are taken for equal.
    """

    matching: Matching
    hunks: tuple[Hunk, ...]
    values: tuple[ValueChange, ...] = ()
    face: tuple[str, ...] = ()
    opsets: tuple[str, ...] = ()
    stores: tuple[str, ...] = ()
    equal: bool = False
    unknown: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())

    def __bool__(self) -> bool:
        return not self.equal

    @property
    def before(self) -> Pool:
        """The first graph."""
        return self.matching.before

    @property
    def after(self) -> Pool:
        """The second one."""
        return self.matching.after

    @cached_property
    def totals(self) -> tuple[Totals, Totals]:
        """Sums over both sides."""
        return Totals.of(self.before), Totals.of(self.after)

    @cached_property
    def unchanged(self) -> int:
        """Nodes that are the same on both sides and in no hunk."""
        changed = sum(len(hunk.changed) for hunk in self.hunks)
        return len(self.matching.pairs) - changed


def stored(model: ir.Model) -> dict[str, ir.TensorProtocol]:
    """The initializers of all graphs by name."""
    return {
        name: value.const_value
        for graph in all_graphs(model)
        for name, value in graph.initializers.items()
        if value.const_value is not None
    }


def _title(node: ir.Node) -> str:
    return f"{node.domain}.{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type
