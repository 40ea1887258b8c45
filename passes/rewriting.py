"""A pass as two functions: a pattern, and what stands in its place.

::

    def division(op, x, c):
        return op.Div(x, c)

    @rewrite_pass("div-to-mul", division, semantics=Semantics.REASSOCIATES, check=is_stored)
    def div_to_mul(op, x, c):
        return op.Mul(x, op.initializer(1 / constant_array(c)))

The pattern language is onnxscript's, which only matches here. What is matched is replaced through
the ``Rewriter``, so that names stay unique, outputs keep their names, shared values stay, bodies
of If and Loop are rewritten, too, and each new node knows where it came from.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from ..ir.errors import PassError, UsageError
from ..ir.graph import all_graphs
from ..ir.provenance import EDIT_KEY
from ..ir.rewriter import Rewriter
from ..ir.signature import shape_of, shape_text, type_name
from .api import Candidate, Context, Pass, Perturbation, Refusal, Semantics
from .matching import Found, Matcher, asked, place_of_function, refusal
from .registry import enter

ROUNDS = 1000
"""A chain of rewrites, each making room for the next, is never longer in sensible graphs."""


class RewritePass(Pass):
    """What ``rewrite_pass`` makes a subclass of."""

    rounds = ROUNDS
    by_node = True
    matcher: ClassVar[Matcher]
    check: ClassVar[Callable[..., Any]]
    replacement: ClassVar[Callable[..., Any]]

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        self._refused: set[tuple[str, str]] = set()
        self._roots: dict[str, ir.Node] = {}

    def candidates(self, model: ir.Model, ctx: Context) -> Iterator[Candidate | Refusal]:
        self._roots.clear()
        for graph in all_graphs(model):
            for node in graph:
                found = self.matcher.at(model, graph, node)
                if found is not None and not self._made_all(found):
                    yield from self._offers(node, found)

    def lower(
        self,
        model: ir.Model,
        candidate: Candidate,
        perturbation: Perturbation | None,
        rewriter: Rewriter,
        ctx: Context,
    ) -> None:
        root = self._roots[candidate.site]
        if not isinstance(root.graph, ir.Graph):
            return  # an earlier edit took it
        found = self.matcher.at(model, root.graph, root)
        if found is None or self._made_all(found) or refusal(found, self.check):
            return
        _replace(found, self.replacement, rewriter)

    def _offers(self, node: ir.Node, found: Found) -> Iterator[Candidate | Refusal]:
        why = refusal(found, self.check)
        if why is None:
            self._roots[str(node.name)] = node
            yield Candidate(str(node.name), "rewritten")
        elif (str(node.name), why.code) not in self._refused:
            self._refused.add((str(node.name), why.code))
            yield Refusal(str(node.name), why.code, why.sentence)

    def _made_all(self, found: Found) -> bool:
        """Whether this pass made all that is matched. Each rewrite takes away one other node at
        least, so that a rule which fits its own output comes to an end."""
        mine = f"-{self.name}/"
        return all(mine in node.metadata_props.get(EDIT_KEY, "") for node in found.nodes)


def rewrite_pass(
    name: str,
    pattern: Callable[..., Any],
    *,
    semantics: Semantics = Semantics.EXACT,
    check: Callable[..., Any] | None = None,
) -> Callable[[Callable[..., Any]], type[Pass]]:
    """Function decorator: make a pass of a pattern and a replacement; it is registered.

    pattern: gets ``op`` and variables, and returns the output or outputs that are replaced. The
    decorated function gets ``op`` and the variables that it names, as what they stand for
    (``onnx_ir.Value``, ``onnx_ir.Attr`` where they stand for attributes), and returns as many
    values. check: gets variables, too; it returns a sentence that says why not, or False, where a
    match is to be left alone. semantics: EXACT or REASSOCIATES.

    Raises UsageError, where the decorator stands, for patterns that can never match.
    """

    def decorate(replacement: Callable[..., Any]) -> type[Pass]:
        place = place_of_function(replacement)
        if semantics not in (Semantics.EXACT, Semantics.REASSOCIATES):
            raise UsageError(
                "a rewrite keeps what the model computes: EXACT or REASSOCIATES",
                where=place,
                hint="a lossy pass says what changes in perturb(): planish new pass --kind lossy",
            )
        matcher = Matcher(pattern)
        matcher.check()
        for function in filter(None, (replacement, check)):
            matcher.check_variables(function, skip=function is replacement)
        body = {
            "name": name,
            "semantics": semantics,
            "matcher": matcher,
            "check": staticmethod(check or _always),
            "replacement": staticmethod(replacement),
            "__doc__": inspect.getdoc(replacement) or inspect.getdoc(pattern) or "",
            "__module__": replacement.__module__,
        }
        made: type[Pass] = type(_camel(replacement.__name__), (RewritePass,), body)
        return enter(made, place)

    return decorate


@dataclass
class Op:
    """What a replacement builds with: ``op.Mul(x, y, attribute=…)`` inserts a node.

    Inputs are values, arrays (which become initializers) and numbers (in the dtype of the first
    value beside them). ``_outputs`` is a count; ``_domain`` the operator's domain, ``_version`` its
    version where the model does not import it yet.
    """

    rewriter: Rewriter
    before: ir.Node | None
    origins: tuple[ir.Node, ...]
    made: list[ir.Value] = field(default_factory=list)

    def initializer(self, data: Any, name: str = "constant") -> ir.Value:
        """A stored constant."""
        return self.rewriter.initializer(name, np.asarray(data))

    def __getattr__(self, op_type: str) -> Callable[..., Any]:
        if op_type.startswith("_"):
            raise AttributeError(op_type)

        def build(
            *inputs: Any, _outputs: int = 1, _domain: str = "", _version: int = 1, **attributes: Any
        ) -> Any:
            if _domain not in ("", "ai.onnx"):
                self.rewriter.require_opset(_domain, _version)
            return self._build(op_type, inputs, _outputs, _domain, attributes)

        return build

    def _build(
        self, op_type: str, inputs: Sequence[Any], outputs: int, domain: str, attributes: Any
    ) -> Any:
        dtype = next((v.dtype for v in inputs if isinstance(v, ir.Value) and v.dtype), None)
        plain = {
            name: value.value if isinstance(value, ir.Attr) else value
            for name, value in attributes.items()
        }
        node = self.rewriter.insert(
            op_type,
            [self._value(value, dtype) for value in inputs],
            before=self.before,
            domain=domain,
            attributes=plain,
            outputs=outputs,
            origins=self.origins,
        )
        self.made.extend(node.outputs)
        return node.outputs[0] if outputs == 1 else tuple(node.outputs)

    def _value(self, given: Any, dtype: ir.DataType | None) -> ir.Value | None:
        if given is None or isinstance(given, ir.Value):
            return given
        if isinstance(given, (bool, int, float)) and dtype is not None:
            given = np.asarray(given, dtype.numpy())
        if isinstance(given, (np.ndarray, np.generic, ir.TensorProtocol)):
            return self.rewriter.initializer("constant", given)  # type: ignore[arg-type]
        raise PassError(
            f"a {type(given).__name__} cannot be an input of an operator",
            hint="give a value, an array, or a number",
        )


def _replace(found: Found, replacement: Callable[..., Any], rewriter: Rewriter) -> None:
    op = Op(rewriter, _anchor(found), tuple(reversed(found.nodes)))
    made = replacement(op, **asked(replacement, found.values, skip=1))
    new = list(made) if isinstance(made, (list, tuple)) else [made]
    if len(new) != len(found.outputs) or not all(isinstance(v, ir.Value) for v in new):
        given = ", ".join(type(v).__name__ for v in new)
        wanted = f"{len(found.outputs)} value{'s' if len(found.outputs) > 1 else ''}"
        raise PassError(f"the replacement returns {given}, the pattern has {wanted}")
    fresh = set(op.made)
    for old, value in zip(found.outputs, new, strict=True):
        _check_type(old, value, rewriter)
        if value in fresh and value is not old:
            rewriter.take_over(old, value)
            fresh.discard(value)  # it bears a name already
        elif value is not old:
            rewriter.replace_uses(old, value)
    rewriter.sweep(found.outputs)


def _anchor(found: Found) -> ir.Node:
    """Where new nodes stand: in front of the only root, else behind all that they may read."""
    roots = list(dict.fromkeys(v.producer() for v in found.outputs))
    graph = found.nodes[0].graph
    if len(roots) == 1 and roots[0] is not None:
        return roots[0]
    assert isinstance(graph, ir.Graph)
    place = {node: number for number, node in enumerate(graph)}
    read = [v.producer() for v in found.values.values() if isinstance(v, ir.Value)]
    last = max((place[n] for n in read if n in place), default=-1)
    readers = [use.node for v in found.outputs for use in v.uses()]
    first = min((place[n] for n in readers if n in place), default=len(place))
    if last >= first:
        raise PassError("the outputs of the match are read before its inputs are computed")
    return list(place)[last + 1]


def _check_type(old: ir.Value, new: ir.Value, rewriter: Rewriter) -> None:
    """Raise PassError where what stands in the place of a value has another dtype or shape."""
    if new.dtype is None and old.dtype is not None:
        rewriter.set_type(new, old.dtype, old.shape)
    one, other = shape_of(old), shape_of(new)
    differs = one is not None and other is not None and _unlike(one, other)
    if (None not in (old.dtype, new.dtype) and old.dtype != new.dtype) or differs:
        raise PassError(
            f"the replacement gives {_typed(new)}, the pattern's output is {_typed(old)}"
        )


def _unlike(one: Sequence[Any], other: Sequence[Any]) -> bool:
    if len(one) != len(other):
        return True
    pairs = zip(one, other, strict=True)
    return any(isinstance(a, int) and isinstance(b, int) and a != b for a, b in pairs)


def _typed(value: ir.Value) -> str:
    return f"{type_name(value.type)}{shape_text(shape_of(value))}"


def _always() -> bool:
    return True


def _camel(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_")) or "Rewrite"
