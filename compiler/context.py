"""What passes may ask of the compiler: analyses, computed on first use and cached."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import prod
from typing import Any, TypeVar, cast

import numpy as np
import onnx_ir as ir

from ..ir.axes.find import find_axis_groups
from ..ir.counting.count import site_flops
from ..ir.digest import cone_digests
from ..ir.errors import InputError, PassError, PlanishError
from ..ir.graph import constant_tensor, dims
from ..ir.opset import raised
from ..ir.provenance import Remark
from ..ir.region import with_outputs
from ..ir.sites import find_sites
from ..ir.types.bound import Shapes, bound_shapes
from ..passes.api import (
    AXES,
    BYPASSED,
    CALIBRATED,
    CHANGED,
    CHOSEN,
    FLOPS,
    GRAMS,
    MOVED,
    PREDICTED,
    REMEMBERED,
    SAMPLES,
    SITES,
    STATS,
    STEPPED,
    AnalysisKey,
    Candidate,
    Gram,
    Looked,
    Makes,
    Observed,
    Patches,
    Perturbation,
    Reads,
    ValueStats,
)
from ..targets.cost.predict import LayerSize, layers_ms
from ..targets.schema import Target
from .available import resident
from .calibration import bypassed
from .calibration.collect import collect
from .calibration.grams import UNKNOWN_WIDTH, Grams, GramStore, collect_grams
from .calibration.observers import MINIMUM_OPSET, Columns, Masking, Request
from .calibration.steps import take_steps
from .checking.regioninputs import generated, region_shapes
from .checking.switches import output_changes
from .data.feedset import FeedSet
from .execution import running
from .memo import Memory
from .progress import Progress
from .reporting.headline import size

T = TypeVar("T")
Arrays = dict[str, np.ndarray]

EDIT_BYTES, EDIT_BASE = 3.5, 96 << 20
"""What an edit takes at its peak: bytes for each byte of the weight (the weight itself, its codes,
what they stand for, and one of them once more while its region is run), and others."""
REMEMBERED_BYTES = 256 << 20
SAMPLE_ROWS = 16
"""Samples that region checks and site losses are measured on."""
FEW_SAMPLES = 4
"""At least so many show what an edit does to the outputs; each edit takes a run of them."""


@dataclass
class CompileContext:
    """State shared by the passes of one compile; implements ``passes.api.Context``.

    feeds: calibration (or, without data, generated) feeds. calibrated: whether they are real.
    pipeline: the text that is being built, for reproducers. limit: bytes that the process may grow
    to where whole models are not run, None where they are; samples are then generated, and there
    are no statistics. chosen: sites that the running pass edits. weighs_outputs: whether it is
    measured what each lossy edit does to the outputs.
    """

    target: Target
    model: ir.Model
    feeds: FeedSet
    calibrated: bool
    masking: Masking | None
    threads: int
    progress: Progress
    remarks: list[Remark] = field(default_factory=list)
    pass_name: str = ""
    pipeline: str = ""
    limit: int | None = None
    chosen: tuple[str, ...] = ()
    weighs_outputs: bool = False
    _before: ir.Model | None = field(init=False)
    _edited: bool = False
    _values: Mapping[str, ir.Value] | None = None
    _shapes: Shapes | None = None
    _fed: Shapes | None = None
    _sites: Any = None
    _axes: Any = None
    _outputs: Any = None
    _answers: dict[Any, Mapping[Observed, ValueStats]] = field(default_factory=dict)
    _stats: dict[tuple[str, int], ValueStats] = field(default_factory=dict)
    _grams: GramStore = field(default_factory=GramStore)
    _memory: Memory = field(init=False)

    def __post_init__(self) -> None:
        self._before = self.model
        self._memory = Memory(REMEMBERED_BYTES if self.limit is None else 0)

    def analysis(self, key: AnalysisKey[T], argument: Any = None) -> T:
        """The result of an analysis; see ``passes.api`` for keys and their arguments."""
        providers: Mapping[str, Callable[[Any], Any]] = {
            AXES.name: self._find_axes,
            BYPASSED.name: self._bypassed,
            CHANGED.name: self._changed,
            CHOSEN.name: lambda _: self.chosen,
            FLOPS.name: lambda _: self._flops(),
            MOVED.name: lambda asked: tuple(self.output_changes(asked)),
            STEPPED.name: lambda asked: self._stepped(*asked),
            SITES.name: self._find_sites,
            STATS.name: self._statistics,
            GRAMS.name: self._gram_matrices,
            PREDICTED.name: self._predicted,
            REMEMBERED.name: lambda asked: self._memory.recall(*asked),
            SAMPLES.name: lambda names: self.samples(self.before, names),
            CALIBRATED.name: lambda _: self.calibrated,
        }
        return cast(T, providers[key.name](argument))

    def remark(self, kind: str, site: str, code: str, sentence: str) -> None:
        """Record a decision of the running pass."""
        self.remarks.append(Remark(kind, self.pass_name, site, code, sentence))  # type: ignore[arg-type]

    def begin_pass(self, name: str, model: ir.Model, before: ir.Model | None = None) -> None:
        """A new pass looks at the graph anew.

        before: a copy that it does not edit; without one it is made when first asked for.
        """
        self.pass_name, self.model, self._before = name, model, before
        self._sites, self._values, self._edited, self._answers = None, None, False, {}
        self.chosen = ()
        self._shapes = self._fed = self._axes = self._outputs = None

    def begin_editing(self) -> None:
        """From here on the graph is no longer as the pass found it."""
        self._edited = True

    @property
    def before(self) -> ir.Model:
        """The graph as the pass found it. Raises PassError where nobody asked before an edit."""
        if self._before is None:
            if self._edited:
                raise PassError(
                    "the graph as the pass found it is gone",
                    where=self.pass_name,
                    hint="ask for statistics in candidates or perturb",
                )
            self._before = self.model.clone()
        return self._before

    @property
    def kept(self) -> ir.Model | None:
        """``before`` where somebody asked for it."""
        return self._before

    @property
    def values_before(self) -> Mapping[str, ir.Value]:
        """Inputs and computed values of ``before`` by name."""
        if self._values is None:
            self._values = values_by_name(self.before)
        return self._values

    def sample_feed(self) -> Arrays:
        """The first calibration feed, cut to a few samples."""
        return head(self.feeds, 0, SAMPLE_ROWS)

    def samples(self, model: ir.Model, names: Sequence[str]) -> Arrays:
        """Values of a model on a few calibration samples, by name (graph inputs included)."""
        if self.limit is not None:
            self._shapes = self._shapes or region_shapes(self.before)
            return generated(model, names, self._shapes)
        feed = self.sample_feed()
        wanted = [n for n in names if n not in feed]
        found = {n: feed[n] for n in names if n in feed}
        if wanted:
            tapped = with_outputs(model, wanted)
            with running(tapped, threads=self.threads, optimize="none") as session:
                found.update(zip(session.output_names, session.run(feed), strict=True))
        return found

    def few_feeds(self) -> list[tuple[Arrays, np.ndarray | None]]:
        """Some calibration samples, of as many feeds as it takes, and which tokens count."""
        found, count = [self.sample_feed()], self.feeds.sizes[0]
        while count < FEW_SAMPLES and len(found) < len(self.feeds):
            count += self.feeds.sizes[len(found)]
            found.append(self.feeds[len(found)])
        name = None if self.masking is None else self.masking.input
        return [(feed, None if name is None else feed[name].astype(bool)) for feed in found]

    def output_changes(self, perturbations: Sequence[Perturbation]) -> list[float | None]:
        """Of each alone, the relative squared error of the outputs; None where it is not known.

        ``before`` is run on some calibration samples.
        """
        if not self.weighs_outputs or self.limit is not None or not perturbations:
            return [None] * len(perturbations)
        feeds = self.few_feeds()
        try:
            return [*output_changes(self.before, perturbations, feeds, self.threads)]
        except PlanishError:  # a body of a loop, or what no kernel here computes
            return [None] * len(perturbations)

    def operations(self) -> Mapping[str, int | None]:
        """Of each layer in one run, by site; nothing where edits are not weighed by them."""
        if not self.weighs_outputs or self.limit is not None:
            return {}
        try:
            return self._flops()
        except PlanishError:
            return {}

    def no_room(self, candidate: Candidate) -> str:
        """Why an edit cannot be made and checked within the limit; empty where it can."""
        if self.limit is None:
            return ""
        site = self.analysis(SITES).by_name.get(candidate.site)
        tensor = None if site is None else constant_tensor(site.weight)
        if tensor is None:
            return ""
        needed = resident() + EDIT_BASE + int(EDIT_BYTES * tensor.nbytes)
        if needed <= self.limit:
            return ""
        return f"it would take about {size(needed)} of memory, {size(self.limit)} may be used"

    def _find_sites(self, _: Any) -> Any:
        if self._sites is None:
            self._sites = find_sites(self.model, nested=True)
        return self._sites

    def _find_axes(self, _: Any) -> Any:
        if self._axes is None:
            self._axes = find_axis_groups(self.model, self._find_sites(None))
        return self._axes

    def _statistics(self, requests: tuple[Observed, ...]) -> Mapping[Observed, ValueStats]:
        """Statistics of the graph as the pass found it; kept while the input cone is the same."""
        if requests not in self._answers:
            self._answers[requests] = self._look_up(requests)
        return self._answers[requests]

    def _look_up(self, requests: tuple[Observed, ...]) -> Mapping[Observed, ValueStats]:
        values = self.values_before
        cones = cone_digests([values[name] for name, _ in requests])
        keys = {r: (cone, r[1]) for r, cone in zip(requests, cones, strict=True)}
        missing = [Request(*r) for r in requests if keys[r] not in self._stats]
        for together in _one_axis_each(missing):
            found = self._collect(together)
            for request in together:
                if request.value in found:
                    self._stats[keys[request.value, request.axis]] = found[request.value]
        return {r: self._stats[k] for r, k in keys.items() if k in self._stats}

    def _collect(self, requests: Sequence[Request]) -> Mapping[str, ValueStats]:
        newer = self._observable()
        if newer is None:
            return {}
        self.progress.phase("calibrating", 2 * len(self.feeds))
        return collect(
            newer,
            requests,
            self.feeds,
            self.masking,
            threads=self.threads,
            advance=self.progress.advance,
        )

    def _gram_matrices(self, requests: tuple[Looked, ...]) -> Mapping[Looked, Gram]:
        """Gram matrices of the graph as the pass found it; kept while the input cone is the same,
        as far as there is room."""
        values = {r: self.values_before[r[0]] for r in requests}
        cones = cone_digests(list(values.values()))
        keys = {r: (cone, *r[1:]) for r, cone in zip(requests, cones, strict=True)}
        widths = {r: _width(value, r) for r, value in values.items()}
        return Grams(keys, widths, self._grams, self._collect_grams)

    def _collect_grams(self, requests: Sequence[Columns]) -> Mapping[str, Gram]:
        newer = self._observable()
        if newer is None:
            return {}
        self.progress.phase("calibrating", len(self.feeds))
        return collect_grams(
            newer,
            requests,
            self.feeds,
            self.masking,
            threads=self.threads,
            advance=self.progress.advance,
        )

    def _bypassed(self, bypasses: tuple[tuple[str, str], ...]) -> float:
        """Each question is a run of the model."""
        return self._output_change(partial(bypassed.bypassed, self.before, bypasses))

    def _changed(self, tensors: Mapping[str, np.ndarray]) -> float:
        return self._output_change(partial(bypassed.replaced, self.before, tensors))

    def _flops(self) -> Mapping[str, int | None]:
        shapes, sites = self._first_shapes, self._find_sites(None)
        return {site.name: site_flops(site, shapes) for site in sites if site.uses}

    def _stepped(self, tensors: Mapping[str, np.ndarray], steps: Sequence[Reads | Makes]) -> None:
        self._check_room("what layers compute")
        feeds = [dict(feed) for feed in self.feeds]
        changed = bypassed.replaced(self.before, tensors)
        take_steps(self.before, changed, steps, feeds, threads=self.threads)

    def _output_change(self, changed: Callable[[], ir.Model]) -> float:
        """Of a changed copy of ``before``, against its outputs, which are kept for the pass."""
        self._check_room("how much outputs change")
        feeds = [self.sample_feed()]
        if self._outputs is None:
            self._outputs = bypassed.outputs(self.before, feeds, self.threads)
        return bypassed.change(self._outputs, bypassed.outputs(changed(), feeds, self.threads))

    def _predicted(self, asked: tuple[Observed, Sequence[LayerSize]]) -> float | None:
        """Milliseconds of layers on the rows of a value in the first feed."""
        (name, axis), layers = asked
        if layers_ms(self.target, 1, layers) is None:
            return None
        shape = dict(enumerate(self._first_shapes.get(name, ())))
        rows = [size for i, size in shape.items() if i != axis]
        if not shape or not all(isinstance(size, int) for size in rows):
            return None
        count = prod(size for size in rows if isinstance(size, int))
        weights = sum(
            t.nbytes for v in self.model.graph.initializers.values() if (t := v.const_value)
        )
        return layers_ms(self.target, count, layers, threads=self.threads, weights=weights)

    @property
    def _first_shapes(self) -> Shapes:
        """Of every value of ``before``, as the first feed makes them."""
        if self._fed is None:
            feed, sizes = self.feeds[0], dict[str, int]()
            for value in self.before.graph.inputs:
                known = feed.get(str(value.name), np.empty(0)).shape
                named = zip(dims(value) or (), known, strict=False)
                sizes.update({axis: size for axis, size in named if isinstance(axis, str)})
            self._fed = bound_shapes(self.before, sizes)
        return self._fed

    def _observable(self) -> ir.Model | None:
        """The graph before the pass in operators that observers are written in, if it can be."""
        self._check_room("what activations are like")
        try:
            return raised(self.before, MINIMUM_OPSET)
        except InputError as error:
            self._say_unobserved(error)
            return None

    def _check_room(self, asked: str) -> None:
        """Raise PassError where whole models are not run."""
        if self.limit is not None:
            raise PassError(
                f"{asked} takes runs of the whole model, which does not fit",
                where=self.pass_name,
                hint="give more with --max-memory, or leave the pass out",
            )

    def _say_unobserved(self, error: InputError) -> None:
        sentence = f"no ranges can be observed: {error.what}"
        if all(remark.sentence != sentence for remark in self.remarks):
            self.remark("missed", "model", "not-observed", sentence)


def _one_axis_each(requests: Sequence[Request]) -> list[list[Request]]:
    """The requests in as few lists as hold no value twice: observers are named by the value.

    A convolution and a linear layer may read one value, each along channels of its own.
    """
    lists: list[dict[str, Request]] = []
    for request in requests:
        free = next((held for held in lists if request.value not in held), None)
        if free is None:
            lists.append(free := {})
        free[request.value] = request
    return [list(held.values()) for held in lists]


def _width(value: ir.Value, looked: Looked) -> int:
    """Columns of a row."""
    if isinstance(looked, Patches):
        return looked.window.width
    found = dict(enumerate(dims(value) or ())).get(looked[1])
    return found if isinstance(found, int) else UNKNOWN_WIDTH


def head(feeds: FeedSet, index: int, rows: int) -> Arrays:
    """The first samples of one feed where the model takes any number of them, else the feed."""
    feed, size = feeds[index], feeds.sizes[index]
    known = ((name, axis) for name, axis in feeds.axes.items() if axis is not None)
    along = {name: axis for name, axis in known if feed[name].ndim > axis}  # unknown rank: maybe 0
    if not feeds.divisible or any(feed[name].shape[axis] != size for name, axis in along.items()):
        return dict(feed)
    kept = np.arange(min(rows, size))
    return {n: np.take(a, kept, along[n]) if n in along else a for n, a in feed.items()}


def values_by_name(model: ir.Model) -> dict[str, ir.Value]:
    """Inputs and node outputs of the main graph by name."""
    values = {str(v.name): v for v in model.graph.inputs}
    values.update({str(o.name): o for node in model.graph for o in node.outputs})
    return values
