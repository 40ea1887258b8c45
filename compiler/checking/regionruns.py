"""Check edits where the whole model cannot be run: each changed region, before and after.

Regions run on numbers generated for the shapes that their inputs have, the runtime's
optimisations off. Large weights are fed as inputs: then the runtime makes no copies of them.
Regions of one form (the same nodes, shapes and small constants, weights that stand in the same
relation) are run once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from ...ir.editing.changes import Changed, changed_regions
from ...ir.errors import PassError, PlanishError
from ...ir.finding.index_limits import index_limits
from ...ir.fingerprint import combine, model_fingerprint
from ...ir.region import extract, lift_weights
from ...ir.signature import Signature
from ...ir.storage.derived import Derived
from ...ir.storage.stream import array_of
from ...ir.storage.tensors import tensor_digest, tensor_face
from ...ir.types.bound import Shapes
from ...passes.api import Semantics
from ..available import resident
from ..context import values_by_name
from ..execution import running
from ..instruments import BrokenPromiseError, EditEvent, PassEvent, RegionCheck
from ..quality.equality import each_difference, promised_tolerance, random_outputs
from ..reporting.headline import size
from .regioninputs import region_feed, region_shapes

LIFTED = 1 << 20
"""Weights of more bytes are fed; smaller ones stay constants, as some operators need them."""
NOT_CHECKED = "not-checked"
CHECKED = "checked-on-regions"

Arrays = Mapping[str, Any]


class _CannotRunError(Exception):
    """Why a region is not checked; the text is a sentence."""


@dataclass(kw_only=True)
class RegionRuns(RegionCheck):
    """Holds passes to what they promise without running the whole model.

    limit: bytes that the process may grow to. checked: regions that were found equal; forms: how
    many different ones among them were run. left: regions that could not be, by their outputs.
    lossy: edits that were found to compute what they declared, on numbers generated for their
    regions.
    """

    limit: int
    seed: int = 0
    checked: int = 0
    forms: set[bytes] = field(default_factory=set)
    left: dict[str, str] = field(default_factory=dict)
    lossy: int = 0
    _before: ir.Model | None = None

    def before_build(self) -> None:
        self.checked, self.forms, self.left, self.lossy = 0, set(), {}, 0

    def before_pass(self, event: PassEvent) -> None:
        super().before_pass(event)
        self._before = None

    def after_edit(self, event: EditEvent) -> None:
        super().after_edit(event)
        self.lossy += event.reference is not None

    def _turn(self, event: PassEvent, promise: Semantics | None) -> None:
        """End the present stretch of edits with one promise, and begin another."""
        if self._edits and self._before is not None:
            self._check(event, self._before, exact=self._promise is Semantics.EXACT)
        self._promise = promise
        self._edits.clear()
        lossless = promise in (Semantics.EXACT, Semantics.REASSOCIATES)
        self._before = event.model.clone() if lossless else None

    def _check(self, event: PassEvent, before: ir.Model, *, exact: bool) -> None:
        lab = _Lab(before, event.model, self.limit, self.seed, event.context.threads, exact)
        distrusted: set[str] = set()
        outputs = {str(v.name) for v in before.graph.outputs}
        while True:
            regions = changed_regions(before, event.model, distrusted)
            event.context.progress.phase(f"checking {event.pass_.name}", len(regions))
            wrong = {}
            for region in regions:
                wrong.update(self._found(region, lab, event))
                event.context.progress.advance()
            final = next((name for name in wrong if name in outputs), None)
            if final is not None:
                assert self._promise is not None
                raise BrokenPromiseError(event.pass_.name, self._promise, final, wrong[final])
            if not wrong:
                break
            distrusted |= set(wrong)  # the name may have moved to another value: look further
        self.checked += len(lab.equal)
        self.forms |= lab.forms

    def _found(self, region: Changed, lab: _Lab, event: PassEvent) -> dict[str, str]:
        """What differs, by output; a region that cannot be run becomes a remark."""
        try:
            return lab.compare(region)
        except _CannotRunError as reason:
            name = region.outputs[0]
            if name not in self.left:
                self.left[name] = str(reason)
                sentence = f"the edit was not checked by running it: {reason}"
                event.context.remark("note", name, NOT_CHECKED, sentence)
            return {}


@dataclass
class _Lab:
    """Runs regions of two graphs. equal: outputs of regions that agree; forms: what was run."""

    before: ir.Model
    after: ir.Model
    limit: int
    seed: int
    threads: int
    exact: bool
    equal: set[tuple[str, ...]] = field(default_factory=set)
    forms: set[bytes] = field(default_factory=set)
    _shapes: Shapes = field(init=False)
    _values: tuple[Mapping[str, ir.Value], Mapping[str, ir.Value]] = field(init=False)

    def __post_init__(self) -> None:
        self._shapes = region_shapes(self.before)
        self._values = values_by_name(self.before), values_by_name(self.after)

    def compare(self, region: Changed) -> dict[str, str]:
        if region.outputs in self.equal:
            return {}
        pair = self._cut(region)
        form = _form(*pair)
        if form not in self.forms:
            found = self._differences(region, *pair)
            if found:
                return found
            self.forms.add(form)
        self.equal.add(region.outputs)
        return {}

    def _cut(self, region: Changed) -> tuple[ir.Model, ir.Model]:
        """The region in both graphs, inputs and outputs named by position."""
        cut = []
        for model, values in zip((self.before, self.after), self._values, strict=True):
            inputs = [values[n] for n in region.inputs if n in values]
            try:
                found = extract(model, inputs, [values[n] for n in region.outputs])
            except PassError as error:
                raise _CannotRunError(error.what) from error
            for value in found.graph.inputs:
                shape = self._shapes.get(str(value.name))
                value.shape = None if shape is None else ir.Shape(shape)
            _number(found, region)
            cut.append(found)
        return cut[0], cut[1]

    def _differences(self, region: Changed, before: ir.Model, after: ir.Model) -> dict[str, str]:
        feeds = self._feeds(before, after)
        random = random_outputs(before)
        tolerance = promised_tolerance(before, exact=self.exact)
        self._check_room(before, after)
        try:
            was = _run(before, feeds, self.threads)
        except (PlanishError, MemoryError) as error:
            why = error.what if isinstance(error, PlanishError) else "there is no memory for it"
            raise _CannotRunError(f"it does not run on generated inputs: {why}") from error
        try:
            now = _run(after, feeds, self.threads)
        except PlanishError as error:
            return dict.fromkeys(region.outputs, f"it does not run any more: {error.what}")
        kept = {name: array for name, array in was.items() if name not in random}
        names = dict(zip(was, region.outputs, strict=True))
        return {names[n]: what for n, what in each_difference(kept, now, tolerance)}

    def _feeds(self, before: ir.Model, after: ir.Model) -> Arrays:
        """One feed for both; what each side calls a weight is added when it runs."""
        limits = index_limits(before)
        for name, rows in index_limits(after).items():
            limits[name] = min(rows, limits.get(name, rows))
        specs = {spec.name: spec for m in (before, after) for spec in Signature.of(m).inputs}
        try:
            return region_feed(specs.values(), limits, self.seed)
        except PassError as error:
            raise _CannotRunError(error.what) from error

    def _check_room(self, *regions: ir.Model) -> None:
        """Twice the weights: those that are fed, and their blocks in the kernels."""
        weights = max(
            sum(v.const_value.nbytes for v in r.graph.initializers.values() if v.const_value)
            for r in regions
        )
        needed = resident() + 2 * weights + 2 * _known_bytes(self._shapes, regions)
        if needed > self.limit:
            raise _CannotRunError(
                f"the region would take about {size(needed)}, {size(self.limit)} may be used"
            )


def _run(model: ir.Model, feeds: Arrays, threads: int) -> dict[str, Any]:
    fed = dict(feeds) | {n: array_of(t) for n, t in lift_weights(model, LIFTED).items()}
    with running(model, threads=threads, optimize="none") as session:
        given = {name: fed[name] for name in session.input_names}
        return dict(zip(session.output_names, session.run(given), strict=True))


def _number(region_model: ir.Model, region: Changed) -> None:
    """Names by position, so that regions of one form are told to be so."""
    places = {name: index for index, name in enumerate(region.inputs)}
    for value in region_model.graph.inputs:
        value.name = f"input.{places[str(value.name)]}"
    for index, value in enumerate(region_model.graph.outputs):
        if not value.is_graph_input():
            value.name = f"output.{index}"


def _form(before: ir.Model, after: ir.Model) -> bytes:
    """Equal for regions whose check would be the same, but for the numbers in large weights.

    Such a weight counts by its place among those of ``before``, and one that is made of it as
    such; a new one by its bytes.
    """
    places: dict[int, int] = {}
    for value in before.graph.initializers.values():
        places.setdefault(id(value.const_value), len(places))

    def label(tensor: ir.TensorProtocol) -> str:
        if isinstance(tensor, Derived):
            return f"{label(tensor.source)} {tensor.transposed} {tensor.factor}"
        if id(tensor) in places and np.issubdtype(tensor.dtype.numpy(), np.inexact):
            return f"{places[id(tensor)]} {tensor_face(tensor)}"
        return tensor_digest(tensor)

    return combine(model_fingerprint(before, label), model_fingerprint(after, label))


def _known_bytes(shapes: Shapes, regions: Sequence[ir.Model]) -> int:
    """Of the inputs, which are about as large as what is computed from them."""
    total = 0
    for region in regions:
        for value in region.graph.inputs:
            shape = value.shape
            if shape is not None and value.dtype is not None and value.dtype.value:
                sizes = [d for d in shape if isinstance(d, int)]
                total += int(np.prod(sizes, dtype=np.int64)) * max(1, value.dtype.bitwidth // 8)
    return total
