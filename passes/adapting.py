"""Transforms that others wrote, made passes: run on a copy, looked at, and taken over hunk by hunk.

What an ``onnx_ir`` pass or a set of onnxscript's rewrite rules does to a graph is not undone when
it goes wrong, and nobody checks what it says of itself. Here it runs on a copy. The copy must be
well formed, keep the signature, and declare no shape that cannot be; only then what differs is
done to the graph itself through the ``Rewriter``, an edit for each place, and compared as the
promise asks. Which new node came from which old one is found out by comparison.
"""

from __future__ import annotations

import copy
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import onnx_ir as ir

from ..ir.diff.hunks import diff_models
from ..ir.editing.transplant import Transplant
from ..ir.errors import EndlessError, InputError, PassError, UsageError
from ..ir.graph import all_nodes
from ..ir.load import load_model
from ..ir.rewriter import Rewriter
from ..ir.signature import Signature
from ..ir.types.shapecheck import shape_conflicts
from ..ir.verify import violations
from .api import Candidate, Context, Pass, Perturbation, Refusal, Semantics
from .registry import enter

Transform = Callable[[ir.Model], Any]
APPLIED, APPLIED_PER_NODE = 1_000, 10
"""How often one rule may be applied; one that fits its own output would go on for ever."""


class AdaptedPass(Pass):
    """What ``adapt`` makes a subclass of."""

    by_node = True
    lineage = "inferred"
    transform: ClassVar[Transform]

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        self._work: Transplant | None = None
        self._left: dict[str, int] = {}
        self._whole = True

    def candidates(self, model: ir.Model, ctx: Context) -> Iterator[Candidate | Refusal]:
        after, modified = _run(type(self).transform, model, self.place.rpartition(":")[0])
        diff = diff_models(model, after)
        _check_frame(diff.face, model, after)
        if diff and modified is False:
            said = "it says that it changed nothing, and it did"
            ctx.remark("note", "graph", "says-unmodified", said)
        if diff and not diff.hunks:
            yield Refusal("graph", "storage-only", "it only changes how constants are stored")
        self._work, self._left, self._whole = Transplant(diff), {}, True
        for number, hunk in enumerate(diff.hunks):
            nodes = [diff.before.nodes[a] for a in hunk.before]
            nodes += [diff.after.nodes[b] for b in hunk.after]
            site = _unused(str(nodes[0].name), self._left)
            if why := self._work.refusal(hunk):
                self._whole = False
                yield Refusal(site, "body", why)
                continue
            self._left[site] = number
            details = {"kind": hunk.kind, "module": hunk.module, "changes": list(hunk.details)}
            yield Candidate(site, hunk.kind, saving=-hunk.bytes, details=details)

    def lower(
        self,
        model: ir.Model,
        candidate: Candidate,
        perturbation: Perturbation | None,
        rewriter: Rewriter,
        ctx: Context,
    ) -> None:
        assert self._work is not None
        self._work.apply(self._work.diff.hunks[self._left.pop(candidate.site)], rewriter)
        if not self._left and self._whole:
            self._work.check_done(model)


def adapt(thing: Any, name: str = "", *, semantics: Semantics = Semantics.EXACT) -> type[Pass]:
    """Make a pass of a transform that others wrote; it is registered.

    thing: an ``onnx_ir`` pass (an instance, or a class that needs no arguments), a rule or a set of
    rules of ``onnxscript.rewriter``, a list of rules, or a function that takes a model and returns
    it, or another one. name: by default that of its class. semantics: EXACT unless said otherwise.

    Raises UsageError for what is none of these.
    """
    caller = sys._getframe(1)
    place = f"{caller.f_code.co_filename}:{caller.f_lineno}"
    if semantics not in (Semantics.EXACT, Semantics.REASSOCIATES):
        raise UsageError(
            "a transform of others is EXACT or REASSOCIATES",
            where=place,
            hint="the loss of a lossy one cannot be told from what it leaves: write a Pass",
        )
    transform, known = _transform(thing, place)
    chosen = name or _dashed(known)
    if not chosen:
        raise UsageError("the pass needs a name", where=place, hint='adapt(…, "my-name")')
    origin = f"{type(thing).__module__}.{known}" if known else "a transform of others"
    body = {
        "name": chosen,
        "semantics": semantics,
        "transform": staticmethod(transform),
        "__doc__": f"Run {origin} on a copy, check it, and take over what it changed.",
        "__module__": str(caller.f_globals.get("__name__", "")),
    }
    made: type[Pass] = type("".join(map(str.capitalize, chosen.split("-"))), (AdaptedPass,), body)
    return enter(made, place)


def _run(transform: Transform, model: ir.Model, file: str) -> tuple[ir.Model, bool | None]:
    """The graph after a transform as import leaves it, and whether the transform says that it
    changed anything. Raises PassError where it fails, with its line where that is in the file that
    made it a pass, or leaves a graph that is not sound."""
    tried, signature = model.clone(), Signature.of(model)
    try:
        made = transform(tried)
    except (PassError, MemoryError):
        raise
    except Exception as error:
        said, where = _failure(error, file)
        raise PassError(f"the transform failed with {said}", where=where) from error
    after, modified = getattr(made, "model", made), getattr(made, "modified", None)
    after = tried if after is None or isinstance(after, (bool, int)) else after
    if not isinstance(after, ir.Model):
        raise PassError(f"the transform returns a {type(after).__name__}, not a model")
    _name_nodes(after)
    _forget_refinements(model, after)
    if found := violations(after, signature):
        raise PassError(f"the transform leaves a broken graph: {'; '.join(found[:4])}")
    try:
        imported = load_model(after).model
    except InputError as error:
        raise PassError(f"the transform leaves a broken graph: {error.what}") from error
    if lies := list(shape_conflicts(after)):
        raise PassError(f"the transform leaves shapes that cannot be: {'; '.join(lies[:4])}")
    return imported, modified


def _failure(error: BaseException, file: str) -> tuple[str, str]:
    """What the error at the bottom of a chain says, and its ``file:line``, "" where that is not
    in the file. onnx_ir and onnxscript raise errors of their own for those of a transform."""
    frames = list(traceback.extract_tb(error.__traceback__))
    while error.__cause__ is not None:
        error = error.__cause__
        frames += traceback.extract_tb(error.__traceback__)
    lines, name = str(error).strip().splitlines(), type(error).__name__
    mine = [f"{f.filename}:{f.lineno}" for f in frames if f.filename == file]
    return f"{name}: {lines[0]}" if lines else name, mine[-1] if mine else ""


def _check_frame(face: Sequence[str], before: ir.Model, after: ir.Model) -> None:
    if face:
        raise PassError(f"the transform changes inputs or outputs: {'; '.join(face)}")
    for domain, version in before.opset_imports.items():
        other = after.opset_imports.get(domain, version)
        if other != version:
            raise PassError(
                f"the transform turns opset {version} of {domain or 'ONNX'} into {other}",
                hint="convert the version of the model before it is compiled",
            )


def _forget_refinements(before: ir.Model, after: ir.Model) -> None:
    """Sizes of outputs that were not known stay so: what callers were told does not change."""
    known = {v.name: v for v in before.graph.outputs}
    for value in after.graph.outputs:
        old = known.get(value.name)
        if old is None or old.shape is None or value.shape is None:
            continue
        if value is not old and len(old.shape) == len(value.shape):
            pairs = zip(old.shape, value.shape, strict=True)
            value.shape = ir.Shape([None if _is_unknown(one) else new for one, new in pairs])


def _is_unknown(size: int | ir.SymbolicDim) -> bool:
    return not isinstance(size, int) and size.value is None


def _transform(thing: Any, place: str) -> tuple[Transform, str]:
    """What to call, and what it is called."""
    if isinstance(thing, ir.passes.PassBase):
        return thing, type(thing).__name__
    if inspect.isclass(thing) and issubclass(thing, ir.passes.PassBase):
        try:
            return thing(), thing.__name__
        except TypeError as error:
            what = f"{thing.__name__} needs arguments: {error}"
            raise UsageError(what, where=place, hint="give an instance") from error
    if rules := _rules(thing):
        return _Rules(rules), "" if len(rules) > 1 else str(rules[0].name or "")
    if inspect.isfunction(thing):
        return thing, thing.__name__
    raise UsageError(
        f"a {type(thing).__name__} cannot be made a pass",
        where=place,
        hint="give an onnx_ir pass, a rule or set of rules of onnxscript, or a function of a model",
    )


def _rules(thing: Any) -> list[Any]:
    """The rewrite rules of onnxscript in something, told by what they can do."""
    if inspect.isclass(thing) and hasattr(thing, "rule"):
        return [thing.rule()]
    if hasattr(thing, "try_rewrite"):
        return [thing]
    if hasattr(thing, "rules") and hasattr(thing, "apply_to_model"):
        return list(thing.rules)
    if not inspect.isclass(thing) and callable(getattr(thing, "rule", None)):
        return [thing.rule()]
    if isinstance(thing, (list, tuple)):
        return [rule for item in thing for rule in _rules(item)]
    return []


class _Rules:
    """A set of rewrite rules, each applied so often at most."""

    def __init__(self, rules: Sequence[Any]) -> None:
        self.rules = rules

    def __call__(self, model: ir.Model) -> ir.Model:
        from onnxscript.rewriter.pattern import RewriteRuleSet

        limit = APPLIED + APPLIED_PER_NODE * sum(1 for _ in all_nodes(model))
        RewriteRuleSet([_counted(rule, limit) for rule in self.rules]).apply_to_model(model)
        return model


def _counted(rule: Any, limit: int) -> Any:
    """A copy of a rule that says so when it is applied too often."""
    made, applied = copy.copy(rule), 0

    def try_rewrite(*arguments: Any, **named: Any) -> Any:
        nonlocal applied
        found = rule.try_rewrite(*arguments, **named)
        applied += found is not None
        if applied > limit:
            raise EndlessError(
                f"the rule {rule} was applied more than {limit} times",
                hint="it probably fits its own output",
            )
        return found

    made.try_rewrite = try_rewrite
    return made


def _name_nodes(model: ir.Model) -> None:
    """Names for nodes that have none; onnxscript leaves its new ones so."""
    taken = {node.name for node in all_nodes(model)}
    number = 0
    for node in all_nodes(model):
        while not node.name:
            name, number = f"{node.op_type.lower()}_{number}", number + 1
            if name not in taken:
                node.name = name


def _dashed(name: str) -> str:
    """``IdentityEliminationPass`` -> ``identity-elimination``."""
    bare = re.sub(r"(Pass|Rule)$", "", name).replace("_", "-")
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", bare).lower()


def _unused(name: str, taken: dict[str, int]) -> str:
    found, number = name or "node", 1
    while found in taken:
        number += 1
        found = f"{name}_{number}"
    return found
