"""The faults of ``docs/upstream-faults.md`` once more, each on a model made by hand.

Seen with onnx-ir 1.1, onnxscript 0.7, ONNX Runtime 1.31. Where a later version mends one, its row
here fails: take it out, and make the page anew.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx_ir.passes import common

from planish.ir.digest import contents_digest
from planish.targets.runtime import open_session

rewriter = pytest.importorskip("onnxscript.rewriter")

Change = Callable[[ir.Model], Any]


def passed(cls: type[Any]) -> Change:
    return lambda model: cls()(model)


def default_rules(model: ir.Model) -> Any:
    rewriter.RewriteRuleSet(list(rewriter._DEFAULT_REWRITE_RULES)).apply_to_model(model)


def own_rule(pattern: Callable[..., Any], replacement: Callable[..., Any]) -> Change:
    rules = [rewriter.RewriteRule(pattern, replacement)]
    return lambda model: rewriter.RewriteRuleSet(rules).apply_to_model(model)


def relu(op: Any, x: Any) -> Any:
    return op.Relu(x)


def identity(op: Any, x: Any) -> Any:
    return op.Identity(x)


def itself(op: Any, x: Any) -> Any:
    return x


def with_w(op: Any, x: Any) -> Any:
    return op.Max(x, op.initializer(ir.tensor(np.zeros(2, np.float32), name="w")))


@dataclass(frozen=True)
class Row:
    """change: of upstream. text: the graph. fault: what comes of it. domain: of its opset."""

    name: str
    change: Change
    text: str
    fault: str
    domain: str = ""


ROWS = [
    Row("an output that is read by an Identity is handed out twice",
        passed(common.IdentityEliminationPass),
        "g (float[2] x) => (float[2] h, float[2] y) { h = Relu(x) y = Identity(h) }", "names"),
    Row("a branch hands out a value of the graph around it",
        passed(common.IdentityEliminationPass),
        """g (float[2] x, bool c) => (float[2] y) { h = Neg(x) y = If(c)
        <then_branch = t () => (float[2] o) { o = Identity(h) },
         else_branch = e () => (float[2] p) { p = Exp(h) }> }""", "refused"),
    Row("both branches would hand out one value", passed(common.IdentityEliminationPass),
        """g (float[2] x, bool c) => (float[2] y) { h = Neg(x) y = If(c)
        <then_branch = t () => (float[2] o) { o = Identity(h) },
         else_branch = e () => (float[2] p) { p = Identity(h) }> }""", "raises"),
    Row("an input that is an output, too, is renamed", passed(common.OutputFixPass),
        "g (float[2] x) => (float[2] x, float[2] y) { y = Neg(x) }", "names"),
    Row("an output that nobody reads is cut off and not reported",
        passed(common.RemoveUnusedNodesPass),
        "g (float[2] x) => (float[2] y) { y, m = Dropout(x) }", "unreported"),
    Row("a sequence gets the type of a tensor", passed(common.ShapeInferencePass),
        """g (float[2] x) => (float[2] y) {
        s = SequenceConstruct(x, x) i = Constant<value_int = 0>() y = SequenceAt(s, i) }""",
        "refused"),
    Row("an opset that is spelled ai.onnx counts as unused", passed(common.RemoveUnusedOpsetsPass),
        "g (float[2] x) => (float[2] y) { y = Neg(x) }", "refused", "ai.onnx"),
    Row("where the opset is spelled ai.onnx rules import a second one", default_rules,
        "g (float[2, 3, 4] x) => (float[2, 12] y) { y = Flatten(x) }", "refused", "ai.onnx"),
    Row("a rule that gives back what it matched renames the input", own_rule(identity, itself),
        "g (float[2] x) => (float[2] y) { y = Identity(x) }", "names"),
    Row("a rule replaces an initializer of the same name", own_rule(relu, with_w),
        "g (float[2] x) => (float[2] y) <float[2] w = {2, 3}> { h = Relu(x) y = Mul(h, w) }",
        "refused"),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_upstream_breaks_this_model(row: Row) -> None:
    assert told(row) == row.fault


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_the_model_is_a_good_one(row: Row) -> None:
    model = made(row)
    onnx.checker.check_model(model, full_check=True)
    ran(model)
    assert len(model.graph.node) <= 5


def made(row: Row) -> onnx.ModelProto:
    head = f'<ir_version: 10, opset_import: ["{row.domain}" : 20]> '
    return onnx.parser.parse_model(head + row.text)


def told(row: Row) -> str:
    """What is wrong with the model afterwards, in a word; "" where nothing is."""
    model = ir.from_proto(made(row))
    before = contents_digest(model)
    try:
        result = row.change(model)
        after = ir.to_proto(model)
    except Exception:
        return "raises"
    if names(after) != names(made(row)):
        return "names"
    try:
        got = ran(after)
    except Exception:
        return "refused"
    if any(not np.array_equal(a, b) for a, b in zip(got, ran(made(row)), strict=True)):
        return "numbers"
    moved = contents_digest(ir.from_proto(after)) != before
    return "unreported" if moved and getattr(result, "modified", True) is False else ""


def names(model: onnx.ModelProto) -> list[str]:
    held = {tensor.name for tensor in model.graph.initializer}
    return [v.name for v in (*model.graph.input, *model.graph.output) if v.name not in held]


def ran(model: onnx.ModelProto) -> list[np.ndarray]:
    session = open_session(model.SerializeToString(), threads=1, optimize="none")
    held, feeds = {tensor.name for tensor in model.graph.initializer}, {}
    for info in (i for i in model.graph.input if i.name not in held):
        shape = [dim.dim_value for dim in info.type.tensor_type.shape.dim]
        count = np.arange(np.prod(shape, dtype=int)).reshape(shape)
        feeds[info.name] = np.array(True) if info.name == "c" else count.astype(np.float32) - 1
    return session.run(feeds)
