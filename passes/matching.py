"""Where a pattern fits: onnxscript's pattern language, and only its matcher."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from ..ir.errors import PassError, UsageError, near
from ..ir.scopes import describe
from .api import Refusal

DOUBLED = "one node would stand for two of the pattern"


@dataclass(frozen=True)
class Found:
    """A place where a pattern fits. nodes: the matched ones, from the last to the first; outputs:
    values that are replaced; values: what each variable of the pattern stands for."""

    nodes: tuple[ir.Node, ...]
    outputs: tuple[ir.Value, ...]
    values: Mapping[str, Any]


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
        return place_of_function(self.function)

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
        if match and _is_doubled(match):  # of onnxscripts that ask the matcher in another way
            match.fail(DOUBLED, node)
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
                raise UsageError(
                    what, where=place_of_function(function), hint=near(name, self.variables)
                )

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
            made = language_of(self.place).Pattern(
                self.function, name=self.function.__name__, matcher=_matcher_class()
            )
            root = outputs[0].producer()
            plain = root is not None and root.op_identifier() is not None
            self._ready = made, frozenset({root.op_type} if plain else ())
        return self._ready


def refusal(found: Found, check: Callable[..., Any]) -> Refusal | None:
    """Why a match is left alone, None where it is not."""
    site = str(found.nodes[0].name)
    if used := _used_elsewhere(found):
        return Refusal(site, "used-elsewhere", used)
    said = check(**asked(check, found.values))
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


def _is_doubled(match: Any) -> bool:
    """Whether a match with several outputs takes one node for two of the pattern."""
    return len(match.outputs) > 1 and len(set(match.nodes)) < len(match.nodes)


@functools.cache
def _matcher_class() -> Any:
    """onnxscript's matcher, which goes on where a match takes one node for two of the pattern:
    of several outputs it tries all combinations of nodes, that of a node with itself, too."""
    from onnxscript.rewriter.pattern import SimplePatternMatcher

    class Distinct(SimplePatternMatcher):
        def _multi_match(self, candidate: Iterable[ir.Node], check_removable: bool) -> Any:
            match = super()._multi_match(candidate, check_removable)
            return match.fail(DOUBLED) if match and _is_doubled(match) else match

    return Distinct


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


def asked(function: Callable[..., Any], values: Mapping[str, Any], skip: int = 0) -> dict[str, Any]:
    """The variables that a function names, behind as many arguments; all where it takes any."""
    named = list(inspect.signature(function).parameters.values())[skip:]
    if any(p.kind is p.VAR_KEYWORD for p in named):
        return dict(values)
    return {p.name: values.get(p.name) for p in named}


def _attributes_ever(op_type: str) -> set[str]:
    schemas: Iterable[Any] = onnx.defs.get_all_schemas_with_history()
    return {name for s in schemas if s.name == op_type and not s.domain for name in s.attributes}


def place_of_function(function: Callable[..., Any]) -> str:
    """``file:line`` where a function is written."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code is not None else str(function)
