"""How much memory a compile will take, how much there is, and whether whole models may be run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from ..ir.errors import UsageError
from ..ir.graph import all_graphs
from ..ir.types.bound import axis_size
from .available import limit_of, resident
from .reporting.headline import size

FLOOR = 160 << 20
"""Bytes of the interpreter, the runtime and the graph itself (measured: 130 to 160 MB)."""
STREAMING = 40 << 20
"""Bytes for pieces of weights on their way from file to file (``ir.stream``, ``ir.fan``)."""
LEAST_BLOCK, MOST_BLOCK = 16 << 20, 512 << 20
"""Bytes of a weight that are held to transpose it: a fifth of the limit, within these bounds."""
SESSION = 2.2
"""Bytes that a session takes for each byte of weights while it is opened: the weights, and copies
of those that its kernels want in another order. With what a compile holds beside its sessions:
300 MB of Gemm weights took 1.90 GB in all where 1.86 GB were estimated (runtime 1.31)."""
QUANTIZED_SESSION = 0.6
"""The same where the weights are int8."""
ORIGINAL, LOSSLESS, QUANTIZED = 1, 1, 2
"""Sessions that live side by side while a compile chooses."""
BYTES_PER_SECOND = 3e8
"""Weights that a compile with runs gets through, timing left out; a rough figure."""
STREAMED_PER_SECOND = 6e8
"""Weights that are read, checked, hashed, transposed and written; a rough figure."""
NOMINAL = {"batch": 4, "other": 32}
"""Sizes of open axes where no feed says more: the largest that generated feeds have."""


@dataclass(frozen=True)
class Estimate:
    """What a compile takes at its peak, bytes of resident memory, and what it may take.

    weights: of the stored constants. activations: of one run on the largest feed, as far as
    shapes are known. whole: peak where whole models are run. bounded: peak where they are not.
    limit: what may be used; why: where that comes from. seconds: a rough figure for the work.
    """

    weights: int
    activations: int
    whole: int
    bounded: int
    limit: int
    why: str
    seconds: float

    @property
    def block(self) -> int:
        """Bytes of one weight that may be held to transpose it."""
        return block_of(self.limit)

    @property
    def fits(self) -> bool:
        """Whether whole models may be run."""
        return self.whole <= self.limit

    @property
    def sentence(self) -> str:
        """One line for the user, before the work starts."""
        peak = self.whole if self.fits else self.bounded
        text = (
            f"{size(self.weights)} of weights: about {size(peak)} of memory at the peak, "
            f"{size(self.limit)} may be used ({self.why}); roughly {duration(self.seconds)}"
        )
        return text if self.fits else f"{text}; {self.reason}"

    @property
    def reason(self) -> str:
        """Why no whole model is run; empty where they are."""
        if self.fits:
            return ""
        return f"not run: {self.shortage}"

    @property
    def shortage(self) -> str:
        """What whole models would take, and what there is."""
        return (
            f"running the whole model would take about {size(self.whole)} of memory, "
            f"{size(self.limit)} may be used"
        )

    def to_json(self) -> dict[str, int | float | str | bool]:
        """For the manifest."""
        return {
            "weights_bytes": self.weights,
            "activations_bytes": self.activations,
            "whole_model_bytes": self.whole,
            "bounded_bytes": self.bounded,
            "limit_bytes": self.limit,
            "limit": self.why,
            "seconds": round(self.seconds, 1),
            "bounded": not self.fits,
        }


def estimate(
    model: ir.Model, max_memory: str | int | float | None, feeds: Iterable[Mapping[str, object]]
) -> Estimate:
    """What compiling the imported ``model`` takes, and what it may take.

    feeds: those it will be run on; their sizes bind the open axes (without any: the largest that
    are generated). Raises UsageError where the limit leaves no room even for the bounded way.
    """
    weights = weight_bytes(model)
    limit, why = limit_of(max_memory)
    activations = activation_bytes(model, bindings_of(model, feeds))
    sessions = SESSION * (ORIGINAL + LOSSLESS) + QUANTIZED_SESSION * QUANTIZED
    base = max(FLOOR, resident())
    found = Estimate(
        weights,
        activations,
        int(base + sessions * weights + 2 * activations),
        int(base + min(STREAMING + block_of(limit), weights)),
        limit,
        why,
        weights / BYTES_PER_SECOND,
    )
    if found.bounded > limit:
        raise UsageError(
            f"{size(limit)} of memory are too little ({why}): even without running the model "
            f"about {size(found.bounded)} are needed",
            hint="give more with --max-memory, or free some memory",
        )
    if found.fits:
        return found
    return Estimate(**{**vars(found), "seconds": weights / STREAMED_PER_SECOND})


def block_of(limit: int) -> int:
    """Bytes of one weight that may be held where the process may grow to ``limit``."""
    return min(max(limit // 5, LEAST_BLOCK), MOST_BLOCK)


def weight_bytes(model: ir.Model) -> int:
    """Bytes of all initializers, of subgraphs too, each tensor once."""
    values = (v for graph in all_graphs(model) for v in graph.initializers.values())
    found = {id(t): t for v in values if (t := v.const_value) is not None}
    return sum(t.nbytes for t in found.values() if t.dtype != ir.DataType.STRING)


def bindings_of(
    model: ir.Model,
    feeds: Iterable[Mapping[str, object]],
    nominal: Mapping[str, int] = NOMINAL,
) -> dict[str, int]:
    """The largest size of each named axis of the inputs over all feeds; else a nominal one.

    An axis that is the first of an input is a batch, wherever else it stands (state of a recurrent
    network: [2, batch, 128]), but not where it stands behind another named one ([batch, tokens]
    and [tokens]).
    """
    axes = [_symbols(value) for value in model.graph.inputs]
    first = {names[0] for names in axes if names}
    behind = {name for names in axes for name in [n for n in names if n][1:]}
    batches = first - behind
    known = dict.fromkeys(name for names in axes for name in names if name)
    found = {name: nominal["batch" if name in batches else "other"] for name in known}
    given: dict[str, int] = {}
    inputs = {str(v.name): v for v in model.graph.inputs}
    for feed in feeds:
        for name, array in feed.items():
            shape = getattr(array, "shape", ())
            for symbol, count in zip(_symbols(inputs.get(name)), shape, strict=False):
                if symbol:
                    given[symbol] = max(given.get(symbol, 0), int(count))
    return found | given


def activation_bytes(model: ir.Model, bindings: Mapping[str, int]) -> int:
    """Most bytes of values that are alive at one time in the main graph; of known shape only."""
    sizes: dict[str, int | None] = dict(bindings)
    last = {v: i for i, node in enumerate(model.graph) for v in node.inputs if v is not None}
    ends: dict[int, int] = {}
    live = peak = 0
    for index, node in enumerate(model.graph):
        for value in node.outputs:
            count = _value_bytes(value, bindings, sizes)
            live += count
            end = last.get(value, index)
            ends[end] = ends.get(end, 0) + count
        peak = max(peak, live)
        live -= ends.pop(index, 0)
    return peak


def duration(seconds: float) -> str:
    """``less than 10 seconds``, ``40 seconds``, ``3 minutes``."""
    if seconds < 10:
        return "less than 10 seconds"
    return f"{seconds:.0f} seconds" if seconds < 100 else f"{seconds / 60:.0f} minutes"


def _symbols(value: ir.Value | None) -> list[str | None]:
    shape = None if value is None else value.shape
    return [] if shape is None else [getattr(d, "value", None) for d in shape]


def _value_bytes(value: ir.Value, bindings: Mapping[str, int], sizes: dict[str, int | None]) -> int:
    """0 where it is not known. sizes: of symbolic axes, as far as they were computed before."""
    shape, dtype = value.shape, value.dtype
    if shape is None or dtype is None or dtype == ir.DataType.STRING:
        return 0
    count = 1
    for axis in shape:
        extent = axis if isinstance(axis, int) else _extent(axis, bindings, sizes)
        if extent is None:
            return 0
        count *= extent
    return count * dtype.bitwidth // 8


def _extent(
    axis: ir.SymbolicDim, bindings: Mapping[str, int], sizes: dict[str, int | None]
) -> int | None:
    name = str(axis.value)
    if name not in sizes:
        found = axis_size(axis, bindings)
        sizes[name] = found if isinstance(found, int) else None
    return sizes[name]
