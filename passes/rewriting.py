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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import onnx
import onnx_ir as ir

from ..ir.errors import PassError, UsageError, near
from ..ir.graph import all_graphs, all_nodes
from ..ir.provenance import EDIT_KEY
from ..ir.rewriter import Rewriter
from ..ir.scopes import describe
from ..ir.signature import shape_of, shape_text, type_name
from .api import Candidate, Context, Pass, Perturbation, Refusal, Semantics
from .registry import enter

ROUNDS = 1000
"""A chain of rewrites, each making room for the next, is never longer in sensible graphs."""


@dataclass(frozen=True)
class Found:
    """A place where a pattern fits. nodes: the matched ones, from the last to the first; outputs:
    values that are replaced; values: what each variable of the pattern stands for."""

    nodes: tuple[ir.Node, ...]
    outputs: tuple[ir.Value, ...]
    values: Mapping[str, Any]


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

    def candidates(self, model: ir.Model, ctx: Context) -> Iterator[Candidate | Refusal]:
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
        root = next((n for n in all_nodes(model) if n.name == candidate.site), None)
        if root is None or not isinstance(root.graph, ir.Graph):
            return  # an earlier edit took it
        found = self.matcher.at(model, root.graph, root)
        if found is None or self._made_all(found) or refusal(found, self.check):
            return
        _replace(found, self.replacement, rewriter)

    def _offers(self, node: ir.Node, found: Found) -> Iterator[Candidate | Refusal]:
        why = refusal(found, self.check)
        if why is None:
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
        place = _place(replacement)
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


class Matcher:
    """A pattern function, made ready when it is first asked: onnxscript takes a while to import."""

    def __init__(self, pattern: Callable[..., Any]) -> None:
        if not callable(pattern):
            raise UsageError(f"a pattern is a function, not a {type(pattern).__name__}")
        self.function = pattern
        self._ready: tuple[Any, frozenset[str]] | None = None

    @property
    def place(self) -> str:
        """``file:line`` of the pattern function."""
        return _place(self.function)

    @property
    def variables(self) -> tuple[str, ...]:
        """What the pattern's variables are called."""
        return tuple(inspect.signature(self.function).parameters)[1:]

    @property
    def pattern(self) -> Any:
        """The ``onnxscript.rewriter.pattern.Pattern``."""
        return self._prepared()[0]

    @property
    def root(self) -> str:
        """The operator that computes the (first) output, "" where several may."""
        return next(iter(self._prepared()[1]), "")

    def at(self, model: ir.Model, graph: ir.Graph, node: ir.Node) -> Found | None:
        """The match whose (first) output that node computes, None where the pattern fits not."""
        tried = self.tried(model, graph, node)
        return tried if isinstance(tried, Found) else None

    def tried(self, model: ir.Model, graph: ir.Graph, node: ir.Node) -> Any:
        """As ``at``; where the pattern fits in part, onnxscript's ``MatchResult`` of that."""
        pattern, roots = self._prepared()
        if roots and node.op_type not in roots:
            return None
        match = pattern.match(model, graph, node, check_nodes_are_removable=False)
        if match is None:  # what a _check in the pattern says is not told otherwise
            return language_of(self.place).MatchResult().fail("", node)
        if not match:
            return match
        return Found(tuple(match.nodes), tuple(match.outputs), dict(match.bindings))

    def check(self) -> None:
        """Raise UsageError for a pattern that fits nowhere, or that cannot be built."""
        for node in self.nodes():
            op_type, domain = node.op_type, str(node.domain)
            known = {s.name: s for s in onnx.defs.get_all_schemas()}
            if domain or not op_type.isidentifier():
                continue
            if op_type not in known:
                what = f"the pattern names {op_type!r}, which is no operator of ONNX"
                raise UsageError(what, where=self.place, hint=near(op_type, known))
            for name in node.attributes:
                ever = _attributes_ever(op_type)
                if name not in ever:
                    what = f"{op_type} has no attribute {name!r}"
                    raise UsageError(what, where=self.place, hint=near(name, ever))

    def check_variables(self, function: Callable[..., Any], *, skip: bool) -> None:
        """Raise UsageError where a function asks for variables that the pattern does not have.
        skip: its first argument is ``op``."""
        names = list(inspect.signature(function).parameters.values())[1 if skip else 0 :]
        for name in (p.name for p in names if p.kind is not p.VAR_KEYWORD):
            if name not in self.variables:
                what = f"{function.__name__}() asks for {name!r}, which the pattern does not bind"
                raise UsageError(what, where=_place(function), hint=near(name, self.variables))

    def nodes(self) -> Sequence[Any]:
        """The node patterns, in the order in which the function writes them."""
        return tuple(self.pattern_graph[0])

    @property
    def pattern_graph(self) -> tuple[Sequence[Any], Sequence[Any]]:
        """Node patterns and output patterns. Raises UsageError where the function fails."""
        language = language_of(self.place)
        builder = language.OpsetPatternBuilder("", record=True)
        try:
            with language.pattern_builder(builder):
                made = self.function(builder, *map(language.Var, self.variables))
        except Exception as error:
            what = f"the pattern failed with {type(error).__name__}: {error}"
            raise UsageError(what, where=self.place) from error
        outputs = list(made) if isinstance(made, (list, tuple)) else [made]
        made_by_nodes = [getattr(v, "producer", lambda: None)() is not None for v in outputs]
        if not outputs or not all(made_by_nodes):
            what = "the pattern returns no value of an operator"
            raise UsageError(what, where=self.place, hint="return what op.… gives")
        return builder.nodes(), outputs

    def _prepared(self) -> tuple[Any, frozenset[str]]:
        if self._ready is None:
            _, outputs = self.pattern_graph
            made = language_of(self.place).Pattern(self.function, name=self.function.__name__)
            root = outputs[0].producer()
            plain = root is not None and root.op_identifier() is not None
            self._ready = made, frozenset({root.op_type} if plain else ())
        return self._ready


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


def refusal(found: Found, check: Callable[..., Any]) -> Refusal | None:
    """Why a match is left alone, None where it is not."""
    site = str(found.nodes[0].name)
    if used := _used_elsewhere(found):
        return Refusal(site, "used-elsewhere", used)
    said = check(**_asked(check, found.values))
    if said is None or said is True or (isinstance(said, np.bool_) and bool(said)):
        return None
    if isinstance(said, str) and said:
        return Refusal(site, "check", said)
    if said is False or isinstance(said, np.bool_) or said == "":
        name = getattr(check, "__name__", "check")
        return Refusal(site, "check", f"{name}() says no")
    raise PassError(
        f"check returns a {type(said).__name__}", hint="return a sentence, False, or nothing"
    )


def language_of(where: str) -> Any:
    """The module of the pattern language. Raises UsageError where it is not installed."""
    try:
        import onnxscript.rewriter.pattern as language
    except ImportError as error:
        raise UsageError(
            f"patterns need the package onnxscript: {error}", where=where,
            hint="pip install 'onnxscript>=0.7'",
        ) from error  # fmt: skip
    return language


def _replace(found: Found, replacement: Callable[..., Any], rewriter: Rewriter) -> None:
    op = Op(rewriter, _anchor(found), tuple(reversed(found.nodes)))
    made = replacement(op, **_asked(replacement, found.values, skip=1))
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


def _used_elsewhere(found: Found) -> str:
    """Which value inside the match somebody else reads; empty where nobody does."""
    inside, outputs = set(found.nodes), set(found.outputs)
    for node in found.nodes:
        for value in (v for v in node.outputs if v not in outputs):
            if value.is_graph_output():
                return f"{value.name!r}, inside the match, is an output"
            others = [use.node for use in value.uses() if use.node not in inside]
            if others:
                return f"{value.name!r}, inside the match, is read by {describe(others[0])}, too"
    return ""


def _asked(function: Callable[..., Any], values: Mapping[str, Any], skip: int = 0) -> Any:
    """The variables that a function names; all where it takes any."""
    named = list(inspect.signature(function).parameters.values())[skip:]
    if any(p.kind is p.VAR_KEYWORD for p in named):
        return dict(values)
    return {p.name: values.get(p.name) for p in named}


def _attributes_ever(op_type: str) -> set[str]:
    schemas: Iterable[Any] = onnx.defs.get_all_schemas_with_history()
    return {name for s in schemas if s.name == op_type and not s.domain for name in s.attributes}


def _always() -> bool:
    return True


def _place(function: Callable[..., Any]) -> str:
    code = getattr(inspect.unwrap(function), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code is not None else str(function)


def _camel(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_")) or "Rewrite"
