"""The contract between passes and the compiler.

A pass proposes candidates, perturbs (what changes numerically, on the graph as it was) and
lowers (restructures, computing nothing numeric). The compiler chooses, measures, checks,
and keeps or undoes. A pass never opens a session, never names a target, and changes the
graph only through the ``Rewriter`` it is handed.
"""

from __future__ import annotations

import abc
import enum
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Generic,
    Literal,
    NamedTuple,
    Protocol,
    TypeAlias,
    TypeVar,
)

import numpy as np
import onnx_ir as ir

from .registry import pass_class as pass_class
from .registry import register as register
from .registry import registered as registered

if TYPE_CHECKING:
    from ..ir.axes.groups import AxisGroups
    from ..ir.rewriter import Rewriter
    from ..ir.sites import Sites
    from ..targets.schema import Target
    from .math.histogram import Histogram

T = TypeVar("T")


class Semantics(enum.Enum):
    """What a pass promises about the function that the model computes.

    EXACT: bits equal. REASSOCIATES: equal in real arithmetic, |a-b| <= 1e-5 max|a| sqrt(K)
    per edited region. LOSSY: differs by the measured, declared loss.
    """

    EXACT = "exact"
    REASSOCIATES = "reassociates"
    LOSSY = "lossy"


@dataclass(frozen=True)
class Candidate:
    """One setting of one pass at one site. ``saving`` is in bytes of weights.

    semantics: a stricter promise than the pass's; None: the pass's own.
    """

    site: str
    setting: str
    saving: int = 0
    details: Mapping[str, Any] = field(default_factory=dict)
    semantics: Semantics | None = None


@dataclass(frozen=True)
class Refusal:
    """Why a pass leaves a site alone: a stable code and a sentence a user can act on."""

    site: str
    code: str
    sentence: str


@dataclass(frozen=True)
class FakeQuant:
    """Quantize-dequantize on a named value, as seen by the edited region.

    Static: ``scale`` (float32) and ``zero_point`` are given. Dynamic (both None): range and
    zero point are taken per tensor at run time, as ONNX ``DynamicQuantizeLinear`` does. block: not
    0 where so many values along the last axis share a scale that is taken at run time, a multiple
    of ``scale``, or without one a power of two (``ir.rounded``).
    """

    dtype: str = "uint8"
    scale: float | None = None
    zero_point: int | None = None
    block: int = 0

    @property
    def dynamic(self) -> bool:
        """Whether range and zero point are taken at run time."""
        return self.scale is None


@dataclass(frozen=True)
class Perturbation:
    """The numeric half of an edit: a reference of it on the graph as it was.

    inputs, outputs: names of the values that bound the edited region. tensors: new contents
    of initializers. fake_quants: by the name of the value that the region reads (or, for an
    output, writes) quantized. payload: what ``lower`` builds from, bit for bit.
    contraction: K of the longest dot product inside, for the tolerance of the region check.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    tensors: Mapping[str, np.ndarray] = field(default_factory=dict)
    fake_quants: Mapping[str, FakeQuant] = field(default_factory=dict)
    payload: Any = None
    contraction: int = 1


@dataclass(frozen=True)
class ValueStats:
    """Statistics of one activation over the calibration samples, padding left out.

    minimum, maximum, mean, mean_square, absmax: float64 [channels] along ``axis`` of the value.
    histogram: over the whole tensor. count: number of elements per channel.
    """

    name: str
    axis: int
    minimum: np.ndarray
    maximum: np.ndarray
    mean: np.ndarray
    mean_square: np.ndarray
    histogram: Histogram
    count: float
    masked: bool = False

    @property
    def absmax(self) -> np.ndarray:
        """max |x| per channel, float64 [channels]."""
        return np.asarray(np.maximum(np.abs(self.minimum), np.abs(self.maximum)))


@dataclass(frozen=True)
class Gram:
    """Second moments of one activation over the calibration samples, padding left out.

    matrix: float64 [K, K], the sum of x xᵀ over all rows x, each along the channel axis.
    total: float64 [K], the sum of x. count: number of rows.
    """

    matrix: np.ndarray
    total: np.ndarray
    count: float

    @property
    def mean(self) -> np.ndarray:
        """E[x], float64 [K]."""
        return np.asarray(self.total / self.count)

    def __add__(self, other: Gram) -> Gram:
        """Of the rows of both."""
        return Gram(self.matrix + other.matrix, self.total + other.total, self.count + other.count)


@dataclass(frozen=True, eq=False)
class Paired:
    """Second moments of one activation in two versions of a graph, row by row.

    now: of the second. across: float64 [K, K], the sum of x' xᵀ over the rows x' of the second and
    x of the first. before: float64 [K], the sum of x.
    """

    now: Gram
    across: np.ndarray
    before: np.ndarray


@dataclass(frozen=True)
class AnalysisKey(Generic[T]):
    """Names an analysis; its provider lives in the compiler."""

    name: str


SITES: AnalysisKey[Sites] = AnalysisKey("sites")
"""Sites of the present graph (no arguments)."""
AXES: AnalysisKey[AxisGroups] = AnalysisKey("axes")
"""Indices of the present graph that can only be cut together (no arguments)."""
Observed = tuple[str, int]
"""A value by its name, and the axis along which it is looked at channel by channel."""
STATS: AnalysisKey[Mapping[Observed, ValueStats]] = AnalysisKey("stats")
"""Statistics of what was asked for and could be observed; the argument is a tuple of Observed."""


@dataclass(frozen=True)
class Window:
    """How a convolution slides over its input.

    operator: Conv or ConvTranspose. channels: of the input. kernel: its sizes. settings: the
    attributes that place it (strides, pads, …), sorted by name.
    """

    operator: str
    channels: int
    kernel: tuple[int, ...]
    settings: tuple[tuple[str, Any], ...] = ()

    @property
    def width(self) -> int:
        """Numbers that one output is made of."""
        return self.channels * prod(self.kernel)


class Patches(NamedTuple):
    """What a convolution multiplies by its weight: a row for each place of its output.

    value, axis: as in Observed. Column c * taps + t of a row is channel c where tap t of the
    kernel, counted in C order, meets it, zeros of the padding included.
    """

    value: str
    axis: int
    window: Window


Looked: TypeAlias = Observed | Patches


@dataclass(frozen=True, eq=False)
class Reads:
    """A step of ``STEPPED`` at what a layer reads. fit: new contents of stored tensors by name."""

    looked: Looked
    fit: Callable[[Paired], Mapping[str, np.ndarray]]


@dataclass(frozen=True, eq=False)
class Makes:
    """A step of ``STEPPED`` at a value whose channels, along axis 1, get the mean and variance that
    they had. take: is told by which factor and summand, float64 [channels]."""

    value: str
    take: Callable[[np.ndarray, np.ndarray], None]


class GramTable(Mapping[Looked, Gram]):
    """Gram matrices by what was observed."""

    @abc.abstractmethod
    def origin(self, observed: Looked) -> Hashable:
        """What a matrix is computed from: equal where the matrix is, and known without it."""


GRAMS: AnalysisKey[GramTable] = AnalysisKey("grams")
"""Gram matrices of what was asked for and could be observed; the argument is a tuple of Looked in
the order in which they are needed. They are collected when first looked up, as many at a time as
memory allows: look each up once, in order."""
SAMPLES: AnalysisKey[Mapping[str, np.ndarray]] = AnalysisKey("samples")
"""Values of the graph as the pass found it, on the first calibration samples, padding included; the
argument is a tuple of names. Each question is a run of the model."""
BYPASSED: AnalysisKey[float] = AnalysisKey("bypassed")
"""How much the outputs of the graph as the pass found it change when values are left out: relative
squared error on a few calibration samples. The argument is a tuple of pairs of names: the readers
of the first get the second, an earlier value, instead."""
CHANGED: AnalysisKey[float] = AnalysisKey("changed")
"""The same when stored tensors of the main graph have other contents; the argument is a mapping
from their names to arrays of the same shapes and dtypes."""
MOVED: AnalysisKey[tuple[float | None, ...]] = AnalysisKey("moved")
"""How much each of some perturbations, alone, changes the outputs of the graph as the pass found
it: relative squared error of the output that changes most, on a few calibration samples; None where
the compile does not weigh that. The argument is a tuple of perturbations."""
FLOPS: AnalysisKey[Mapping[str, int | None]] = AnalysisKey("flops")
"""Operations of each layer in one run on the first feed, by name of the site, as ``inspect`` counts
them; None where a size is not known (no arguments)."""
STEPPED: AnalysisKey[None] = AnalysisKey("stepped")
"""Runs the graph as the pass found it and a copy of it with other contents of stored tensors, side
by side and a layer at a time, over as many feeds as can be held. The argument is (tensors as for
``CHANGED``, steps in graph order). What a step changes holds for all behind it."""
CHOSEN: AnalysisKey[tuple[str, ...]] = AnalysisKey("chosen")
"""The sites that the running pass is about to edit, of those that it offered: what a user selected
and no quality bound took back (no arguments). Known in ``perturb`` and later."""
REMEMBERED: AnalysisKey[Any] = AnalysisKey("remembered")
"""What a pure function gives; the argument is (key, function without arguments). The key holds all
that the result depends on. A compile that builds a pipeline several times computes it once."""
PREDICTED: AnalysisKey[float | None] = AnalysisKey("predicted")
"""Milliseconds that float32 layers take on the target one after the other, by its figures, with as
many rows as a value has in the first feed; the argument is (Observed, layers), each layer (table of
``targets.cost.measured``, K, N). None where the target has no figures or a size is unknown."""
CALIBRATED: AnalysisKey[bool] = AnalysisKey("calibrated")
"""Whether real calibration data was given (False: none, or generated feeds)."""


class Context(Protocol):
    """What a pass may ask of the compiler while it works."""

    @property
    def target(self) -> Target:
        """What the model is compiled for: figures to ask, not a name to test for."""
        ...

    def analysis(self, key: AnalysisKey[T], argument: Any = None) -> T:
        """The result of an analysis, computed on first use and cached."""
        ...

    def remark(self, kind: str, site: str, code: str, sentence: str) -> None:
        """Tell the user about a decision."""
        ...


@dataclass(frozen=True)
class NoOptions:
    """A pass that has none."""


class Pass:
    """Base of every pass; see the module docstring for the contract."""

    name: ClassVar[str]
    semantics: ClassVar[Semantics]
    requires: ClassVar[frozenset[str]] = frozenset()
    produces: ClassVar[frozenset[str]] = frozenset()
    invalidates: ClassVar[frozenset[str]] = frozenset()
    narrowing: ClassVar[frozenset[str]] = frozenset({"exclude"})
    """Options that leave sites to later passes, where they are given."""
    joint: ClassVar[bool] = False
    """Whether numbers of an edit depend on which others are made beside it."""
    lineage: ClassVar[Literal["exact", "inferred"]] = "exact"
    """Whether edits say themselves what became of which node, or it was found out afterwards."""
    rounds: ClassVar[int] = 1
    """How often it is asked for candidates at most; again as long as edits were made."""
    by_node: ClassVar[bool] = False
    """Whether its candidates bear names of nodes, which selectors then name."""
    Options: ClassVar[type] = NoOptions
    place: ClassVar[str] = ""
    """``file:line`` where the pass is written; the decorator fills it in."""

    def __init__(self, options: Any) -> None:
        self.options = options

    def candidates(self, model: ir.Model, ctx: Context) -> Iterable[Candidate | Refusal]:
        """Yield what could be done, and what will not be and why; touch nothing."""
        raise NotImplementedError

    def perturb(self, model: ir.Model, candidate: Candidate, ctx: Context) -> Perturbation | None:
        """The numeric half; None where the edit changes no number in real arithmetic."""
        return None

    def outline(self, model: ir.Model, candidate: Candidate, ctx: Context) -> Perturbation | None:
        """What ``lower`` can build a graph of the right shapes and dtypes from, for a plan.

        Its numbers mean nothing. Worth writing where ``perturb`` takes long; by default that.
        """
        return self.perturb(model, candidate, ctx)

    def lower(
        self,
        model: ir.Model,
        candidate: Candidate,
        perturbation: Perturbation | None,
        rewriter: Rewriter,
        ctx: Context,
    ) -> None:
        """Restructure through ``rewriter``; compute nothing numeric that perturb computed."""
        raise NotImplementedError


def promise_of(pass_: Pass, candidate: Candidate) -> Semantics:
    """What holds for an edit: the stricter of what its pass and its candidate promise."""
    order = list(Semantics)
    return min(pass_.semantics, candidate.semantics or pass_.semantics, key=order.index)
