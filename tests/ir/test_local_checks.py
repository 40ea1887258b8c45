"""Checks that look only at what an edit touched say what the whole-graph ones say.

Random edits on random graphs: equal nodes and equal weights are common, so that graphs often
move without their digest, and many edits break a rule.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from random import Random

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from planish.ir.digest import contents_digest
from planish.ir.editing.moved import contents_moved
from planish.ir.errors import PassError, VerifyError
from planish.ir.graph import all_nodes, subgraphs
from planish.ir.load import load_model
from planish.ir.rewriter import EditRecord, Rewriter
from planish.ir.signature import Signature
from planish.ir.verify import violations

EDITS = 1500
UNARY, BINARY = ("Relu", "Neg", "Identity"), ("Add", "Mul", "MatMul", "Sum")
Edit = Callable[[Random, Rewriter], None]


def random_model(random: Random) -> ir.Model:
    """Up to 24 nodes over 4x4 matrices, some of them in branches that read from outside."""
    weights = [f"w{i}" for i in range(4)]
    known, lines = ["x", "z", *weights], []
    for i in range(random.randint(6, 24)):
        made = f"v{i}"
        if random.random() < 0.1:
            a, b, c = (random.choice(known) for _ in range(3))
            lines.append(
                f"{made} = If (c) <then_branch = t{i} () => (float[4,4] a{i}) "
                f"{{ b{i} = Relu({a}) a{i} = Add(b{i}, {b}) }}, "
                f"else_branch = e{i} () => (float[4,4] d{i}) {{ d{i} = Neg({c}) }}>"
            )
        elif random.random() < 0.4:
            lines.append(f"{made} = {random.choice(UNARY)}({random.choice(known)})")
        else:
            a, b = random.choice(known), random.choice(known)
            lines.append(f"{made} = {random.choice(BINARY)}({a}, {b})")
        known.append(made)
    last = [f"v{i}" for i in range(len(lines))][-random.randint(1, 3) :]
    face = ", ".join(f"float[4,4] {name}" for name in last)
    text = (
        '<ir_version: 10, opset_import: ["" : 20]> g (float[4,4] x, float[4,4] z, bool c) => '
        f"({face}) {{ {' '.join(lines)} }}"
    )
    proto = onnx.parser.parse_model(text)
    tensors = [onnx.numpy_helper.from_array(matrix(i % 3), n) for i, n in enumerate(weights)]
    proto.graph.initializer.extend(tensors)
    return load_model(proto).model


def matrix(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(4, 4)).astype(np.float32)


def nodes_of(rewriter: Rewriter) -> list[ir.Node]:
    return list(all_nodes(rewriter.model))


def values_of(rewriter: Rewriter) -> list[ir.Value]:
    graph = rewriter.graph
    inputs = [v for v in graph.inputs if v.name != "c"]
    made = [v for node in graph for v in node.outputs]
    return [*inputs, *graph.initializers.values(), *made]


def rewire(random: Random, rewriter: Rewriter) -> None:
    node = random.choice(nodes_of(rewriter))
    if node.op_type != "If":
        index = random.randrange(len(node.inputs))
        rewriter.set_input(node, index, random.choice(values_of(rewriter)))


def insert(random: Random, rewriter: Rewriter) -> None:
    """A new node at any place, read by nobody, somebody, or all who read another value."""
    anchor, values = random.choice(nodes_of(rewriter)), values_of(rewriter)
    op, place = random.choice(UNARY + BINARY), random.choice(("before", "after"))
    inputs = [random.choice(values) for _ in range(2 if op in BINARY else 1)]
    before, after = (anchor, None) if place == "before" else (None, anchor)
    made = rewriter.insert(op, inputs, before=before, after=after)
    how = random.randrange(4)
    if how == 1:
        rewriter.replace_uses(random.choice(values), made.outputs[0])
    elif how == 2:
        rewriter.take_over(random.choice(values), made.outputs[0])
    elif how == 3:
        rewire_to(random, rewriter, made.outputs[0])


def rewire_to(random: Random, rewriter: Rewriter, value: ir.Value) -> None:
    node = random.choice([n for n in nodes_of(rewriter) if n.op_type != "If"])
    rewriter.set_input(node, 0, value)


def twin(random: Random, rewriter: Rewriter) -> None:
    """Put an equal node in the place of one, for all who read it or for some."""
    node = random.choice([n for n in rewriter.graph if n.op_type != "If"])
    made = rewriter.insert(node.op_type, list(node.inputs), before=node)
    for attribute in node.attributes.values():
        rewriter.set_attribute(made, attribute.name, attribute.value)
    readers = [u.node for u in node.outputs[0].uses()]
    if random.random() < 0.6:
        rewriter.take_over(node.outputs[0], made.outputs[0])
        rewriter.sweep(node.outputs)
    elif readers:
        rewriter.replace_uses(node.outputs[0], made.outputs[0], only=[random.choice(readers)])


def tensor(random: Random, rewriter: Rewriter) -> None:
    value = random.choice(list(rewriter.graph.initializers.values()))
    rewriter.set_tensor(value, matrix(random.randrange(3)))


def new_weight(random: Random, rewriter: Rewriter) -> None:
    old = random.choice(list(rewriter.graph.initializers.values()))
    new = rewriter.initializer("w", matrix(random.randrange(3)))
    rewriter.replace_uses(old, new)
    rewriter.sweep([old])


def swap_tensors(random: Random, rewriter: Rewriter) -> None:
    first, second = (random.choice(list(rewriter.graph.initializers.values())) for _ in range(2))
    assert first.const_value is not None
    assert second.const_value is not None
    held = first.const_value, second.const_value
    rewriter.set_tensor(first, held[1])
    rewriter.set_tensor(second, held[0])


def swap_readers(random: Random, rewriter: Rewriter) -> None:
    """Two nodes exchange what they read first."""
    plain = [n for n in nodes_of(rewriter) if n.op_type != "If"]
    first, second = random.choice(plain), random.choice(plain)
    held = first.inputs[0], second.inputs[0]
    rewriter.set_input(first, 0, held[1])
    rewriter.set_input(second, 0, held[0])


def swap_attributes(random: Random, rewriter: Rewriter) -> None:
    first, second = (random.choice(nodes_of(rewriter)) for _ in range(2))
    held = [n.attributes.get_int("note", 0) for n in (first, second)]
    rewriter.set_attribute(first, "note", held[1])
    rewriter.set_attribute(second, "note", held[0])


def annotate(random: Random, rewriter: Rewriter) -> None:
    rewriter.set_attribute(random.choice(nodes_of(rewriter)), "note", random.randrange(2))


def sweep(random: Random, rewriter: Rewriter) -> None:
    rewriter.sweep(random.sample(values_of(rewriter), 3))


def other_body(random: Random, rewriter: Rewriter) -> None:
    """A node with a subgraph gets a copy of it, an edit in it, or goes."""
    holders = [n for n in rewriter.graph if n.op_type == "If"]
    if not holders:
        return
    node = random.choice(holders)
    body = next(subgraphs(node))
    if random.random() < 0.4 and not any(o.is_graph_output() for o in node.outputs):
        rewriter.replace_uses(node.outputs[0], random.choice(values_of(rewriter)))
        rewriter.sweep(node.outputs)
    elif random.random() < 0.4:
        copy = body.clone(allow_outer_scope_values=True)
        rewriter.set_attribute(node, "then_branch", copy)
    else:
        first = body[0]
        made = rewriter.insert("Neg", [first.inputs[0]], before=first)
        rewriter.set_input(first, 0, made.outputs[0])


def opset(random: Random, rewriter: Rewriter) -> None:
    rewriter.require_opset("com.microsoft", 1)


def retype(random: Random, rewriter: Rewriter) -> None:
    size = random.choice((4, 4, 5))
    rewriter.set_type(random.choice(values_of(rewriter)), ir.DataType.FLOAT, ir.Shape([4, size]))


def nothing(random: Random, rewriter: Rewriter) -> None:
    """There and back again."""
    node = random.choice([n for n in nodes_of(rewriter) if n.op_type != "If"])
    held = node.inputs[0]
    rewriter.set_input(node, 0, None)
    rewriter.set_input(node, 0, held)


EDITORS: tuple[Edit, ...] = (
    rewire, insert, insert, twin, twin, tensor, new_weight, swap_tensors, swap_readers,
    swap_attributes, annotate, sweep, other_body, opset, retype, nothing,
)  # fmt: skip


def edit(random: Random, rewriter: Rewriter) -> EditRecord | None:
    """One to three primitives in one edit; None where the rewriter refused them."""
    try:
        with rewriter.edit("test") as record:
            for _ in range(random.choice((1, 1, 1, 2, 3))):
                random.choice(EDITORS)(random, rewriter)
    except (PassError, ValueError, IndexError):
        return None
    return record


@pytest.mark.parametrize("seed", range(3))
def test_local_checks_say_what_the_whole_graph_says(seed: int) -> None:
    random, seen = Random(seed), Counter[str]()
    for count in range(EDITS):
        if count % 25 == 0:
            model = random_model(random)
            rewriter, signature = Rewriter(model), Signature.of(model)
        before, mark = contents_digest(model), rewriter.checkpoint()
        record = edit(random, rewriter)
        after = contents_digest(model)
        if record is None:
            assert after == before
            continue
        broken = violations(model, signature)
        certain = not list(rewriter.doubts(record, signature))
        assert not (certain and broken)
        check_verdict(rewriter, record, signature, broken)
        found = contents_moved(record.footprint) if certain else None
        assert found in (None, after != before)
        assert rewriter.moved(record) == (after != before)
        assert contents_digest(model) == after  # looking back changes nothing
        seen[f"sound {certain}, moved {found}"] += not broken
        if broken or random.random() < 0.3:
            rewriter.rollback(mark)
            assert contents_digest(model) == before
    settled = sum(n for name, n in seen.items() if "None" not in name)
    assert settled > 0.75 * sum(seen.values())
    assert all(seen[f"sound True, moved {found}"] > 0 for found in (True, False, None))


def check_verdict(
    rewriter: Rewriter, record: EditRecord, signature: Signature, broken: list[str]
) -> None:
    """The message is that of the full verifier."""
    if not broken:
        rewriter.verify(record, signature)
        return
    with pytest.raises(VerifyError) as caught:
        rewriter.verify(record, signature)
    assert list(caught.value.violations) == broken
