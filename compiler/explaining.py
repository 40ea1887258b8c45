"""Why a pattern fits where it fits, and what it comes nearest to where it does not."""

from __future__ import annotations

import inspect
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir

from ..ir.errors import InputError, PassError, PlanishError, UsageError, near
from ..ir.graph import all_graphs, all_nodes, constant_tensor
from ..ir.rewriter import Rewriter
from ..ir.scopes import describe
from ..passes.api import Pass, pass_class
from ..passes.matching import Found, Matcher, refusal
from ..passes.registry import place_of
from ..passes.rewriting import RewritePass
from .data.usercode import load_module, place_in
from .data.userimports import importable

SHOWN = 3
"""Partial matches that are told, each with another reason."""
_SCALAR = (
    "a number in a pattern means a stored one of rank 0: take a variable instead, and ask "
    "planish.ir.graph.scalar() in check"
)
_ADVICE = (
    ("is not a scalar", _SCALAR),
    ("Constant value mismatch", "take a variable instead, and look at its number in check"),
    ("Number of inputs", "give the pattern's node all its inputs, or _allow_other_inputs=True"),
    ("bound to two different values", "use two variables where two values may differ"),
    ("output index mismatch", "name all outputs in the pattern: _outputs=[…]"),
    ("not found in node", "attributes are there once they are set or canonicalize ran: take a "
     "variable, and look in check"),
)  # fmt: skip
_EXPECTED = re.compile(r"OpType mismatch: expected (\w+), got \w+")
_COMMUTATIVE = frozenset("Add Mul And Or Xor Max Min Equal".split())


@dataclass(frozen=True)
class Attempt:
    """A partial match. root: the node where the pattern's output was looked for; matched: nodes
    that fit, of so many; stopped: what did not; reason: which expectation; advice may be empty."""

    root: str
    matched: tuple[str, ...]
    of: int
    stopped: str
    reason: str
    advice: str = ""


@dataclass(frozen=True)
class Explanation:
    """What a pattern does on a model. matches: names of nodes; refused: (node, code, sentence);
    nearest: the best partial matches; beside: why none was even begun; lacking: operators of the
    pattern that the model does not have."""

    pattern: str
    place: str
    nodes: int
    matches: tuple[str, ...]
    refused: tuple[tuple[str, str, str], ...]
    nearest: tuple[Attempt, ...]
    beside: str = ""
    lacking: tuple[str, ...] = ()


@dataclass(frozen=True)
class Asked:
    """A pattern that a user names. check: of its pass, if it has one."""

    label: str
    matcher: Matcher
    check: Any

    @property
    def place(self) -> str:
        """``file:line`` of the pattern."""
        return self.matcher.place


def load_pattern(reference: str) -> Asked:
    """The pattern that ``file.py:name`` names: a pattern function, or a pass made of one (by the
    name of its function or its own).

    Raises UsageError for another form, or what is neither; InputError for a file that cannot be
    loaded, or a name that is not in it.
    """
    file, colon, name = reference.rpartition(":")
    if not colon or not file.endswith(".py") or not name:
        raise UsageError(f"{reference!r} names no pattern", hint="write file.py:name")
    module, passes = load_module(Path(file))
    named = {cls.name: cls for cls in passes}
    thing: Any = getattr(module, name, named.get(name))
    if thing is None:
        own = [
            n for n, v in vars(module).items() if getattr(v, "__module__", "") == module.__name__
        ]
        raise InputError(f"there is no {name!r}", where=file, hint=near(name, [*own, *named]))
    if inspect.isclass(thing) and issubclass(thing, RewritePass):
        return Asked(thing.name, thing.matcher, thing.check)
    if inspect.isfunction(thing):
        matcher = Matcher(thing)
        matcher.check()
        return Asked(name, matcher, _nothing)
    kind = "pass without a pattern" if _is_pass(thing) else type(thing).__name__
    where = place_of(thing) if _is_pass(thing) else file
    raise UsageError(
        f"{name!r} is a {kind}", where=where,
        hint="give the pattern function, or a pass that @rewrite_pass made",
    )  # fmt: skip


def canonical(model: ir.Model) -> ir.Model:
    """The model as ``canonicalize`` leaves it, in place."""
    cls, rewriter = pass_class("canonicalize"), Rewriter(model)
    pass_, ctx = cls(cls.Options()), None
    for candidate in list(pass_.candidates(model, ctx)):  # type: ignore[arg-type]
        with rewriter.edit("canonicalize"):
            pass_.lower(model, candidate, None, rewriter, ctx)  # type: ignore[arg-type]
    return model


def explain(asked: Asked, model: ir.Model) -> Explanation:
    """Try the pattern at every node. Raises PassError, with file and line, where its code fails."""
    file = asked.place.rpartition(":")[0]
    try:
        with importable(Path(file).parent if Path(file).is_file() else None):
            return _explain(asked, model)
    except PlanishError:
        raise
    except Exception as error:
        what = f"the pattern failed with {type(error).__name__}: {error}"
        raise PassError(what, where=place_in(error, file) or asked.place) from error


def _explain(asked: Asked, model: ir.Model) -> Explanation:
    size, lacking = len(asked.matcher.nodes()), _lacking(asked, model)
    matches, refused, attempts = [], [], []
    for graph in all_graphs(model):
        for node in graph:
            tried = asked.matcher.tried(model, graph, node)
            if isinstance(tried, Found):
                why = refusal(tried, asked.check)
                if why is None:
                    matches.append(str(node.name))
                else:
                    refused.append((str(node.name), why.code, why.sentence))
            elif tried is not None:
                attempts.append(_attempt(node, tried, size))
    return Explanation(
        asked.label, asked.place, size, tuple(matches), tuple(refused),
        tuple(_nearest(attempts)), "" if matches or refused or attempts else _beside(asked, model),
        lacking,
    )  # fmt: skip


def _attempt(root: ir.Node, match: Any, size: int) -> Attempt:
    reason = match.reason or "a _check in the pattern says no"
    culprits = match.failure_nodes_and_values
    stopped = next((_named(c) for c in culprits), describe(root))
    advice = next((said for part, said in _ADVICE if part in reason), "")
    if turned := _turned(match, reason):
        advice = f"the operands of {turned} stand the other way round here: "
        advice += "write a second pattern for that"
    return Attempt(
        describe(root), tuple(map(describe, match.nodes)), size, stopped, _plain(reason), advice
    )


def _turned(match: Any, reason: str) -> str:
    """The operator whose other operand is what was expected of the one that stopped the match.

    "" where there is none.
    """
    expected = _EXPECTED.match(reason)
    stopped = next((n for n in match.failure_nodes_and_values if isinstance(n, ir.Node)), None)
    if expected is None or stopped is None:
        return ""
    for node in match.nodes:
        makers = [v.producer() for v in node.inputs if v is not None]
        others = [m for m in makers if m is not None and m is not stopped]
        here = node.op_type in _COMMUTATIVE and stopped in makers
        if here and any(m.op_type == expected[1] for m in others):
            return str(node.op_type)
    return ""


def _lacking(asked: Asked, model: ir.Model) -> tuple[str, ...]:
    """Operators that the pattern names and the model does not have."""
    there = {node.op_type for node in all_nodes(model)}
    named = (str(n.op_type) for n in asked.matcher.nodes() if n.op_identifier() is not None)
    return tuple(dict.fromkeys(name for name in named if name not in there))


def _nearest(attempts: list[Attempt]) -> Iterator[Attempt]:
    """Those of which most fits; of equal reasons the first."""
    seen = set[str]()
    for attempt in sorted(attempts, key=lambda a: -len(a.matched)):
        kind = attempt.reason.partition("got")[0]
        if kind not in seen and len(seen) < SHOWN:
            seen.add(kind)
            yield attempt


def _beside(asked: Asked, model: ir.Model) -> str:
    """Why not even the last node of the pattern is there."""
    counts = Counter(node.op_type for node in all_nodes(model))
    wanted = asked.matcher.root or "any operator that it ends in"
    there = ", ".join(f"{n} {count}" for n, count in counts.most_common(12))
    return f"the model has no node of {wanted}; there are {there or 'no nodes at all'}"


def _named(thing: Any) -> str:
    if isinstance(thing, ir.Node):
        return describe(thing)
    stored = "stored " if constant_tensor(thing) is not None else ""
    return f"{stored}value {thing.name!r}" if isinstance(thing, ir.Value) else str(thing)


def _plain(reason: str) -> str:
    """onnxscript's sentence without its address of an object."""
    said = reason.removesuffix(".").removeprefix("Mismatch: ")
    if "does not match uncomputed IR value" in said:
        return "an operator is expected to compute it, and it is stored or an input of the model"
    return said.replace("OpType mismatch: ", "operator: ")


def _is_pass(thing: Any) -> bool:
    return inspect.isclass(thing) and issubclass(thing, Pass)


def _nothing() -> None:
    return None
