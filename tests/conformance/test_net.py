"""The net under every pass, part one: what breaks a graph is found, by the rule made for it.

Each corruption is done behind everybody's back, as a careless pass would, to graphs from several
sources; it must be found under the names it lists, no more and no fewer. With a rule taken out,
what only that rule finds is found no more: so each rule does the work it is there for.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest

from planish.compiler.harness.generator import generated
from planish.ir.errors import VerifyError
from planish.ir.load import load_model
from planish.ir.signature import Signature
from planish.ir.verify import RULES, verify, violations

Corrupt = Callable[[ir.Model], bool]


@dataclass(frozen=True)
class Corruption:
    """``rules``: the names under which it is found, no more and no fewer."""

    name: str
    corrupt: Corrupt
    rules: frozenset[str]


CORRUPTIONS: list[Corruption] = []


def breaks(*rules: str) -> Callable[[Corrupt], Corrupt]:
    """Decorator: list the corruption with the rules that find it."""

    def listed(corrupt: Corrupt) -> Corrupt:
        CORRUPTIONS.append(Corruption(corrupt.__name__, corrupt, frozenset(rules)))
        return corrupt

    return listed


def inner_values(model: ir.Model) -> Iterator[ir.Value]:
    """Values of the main graph that a node computes and another reads, in order; no outputs."""
    for node in model.graph:
        yield from (o for o in node.outputs if o.uses() and not o.is_graph_output() and o.name)


def readers(model: ir.Model) -> Iterator[tuple[ir.Node, int, ir.Value]]:
    """Each read of a computed value by a node of the main graph."""
    for node in model.graph:
        for index, value in enumerate(node.inputs):
            if value is not None and value.producer() is not None:
                yield node, index, value


def nested(model: ir.Model) -> Iterator[ir.Node]:
    """Nodes in subgraphs."""
    yield from (node for node in model.graph.all_nodes() if node.graph is not model.graph)


def weight(model: ir.Model) -> ir.Value | None:
    """An initializer with a shape that can be misdescribed."""
    weights = model.graph.initializers.values()
    return next((v for v in weights if v.const_value is not None and len(v.shape or ())), None)


def stranger_like(value: ir.Value) -> ir.Value:
    """A value that nothing defines, in all else the same."""
    return ir.Value(name=value.name, type=value.type, shape=value.shape)


@breaks("unique-value-names")
def give_two_values_one_name(model: ir.Model) -> bool:
    values = list(inner_values(model))
    if len(values) < 2:
        return False
    values[-1].name = values[0].name
    return True


@breaks("unique-value-names")
def hide_an_outer_name(model: ir.Model) -> bool:
    outer = next(inner_values(model), None)
    inner = next((n.outputs[0] for n in nested(model) if n.outputs and n.outputs[0].uses()), None)
    if outer is None or inner is None:
        return False
    inner.name = outer.name
    return True


@breaks("unique-value-names")
def take_a_name_away(model: ir.Model) -> bool:
    value = next(inner_values(model), None)
    if value is None:
        return False
    value.name = None
    return True


@breaks("unique-node-names")
def give_two_nodes_one_name(model: ir.Model) -> bool:
    nodes = list(model.graph)
    if len(nodes) < 2:
        return False
    nodes[-1].name = nodes[0].name
    return True


@breaks("inputs-defined")
def read_what_nothing_defines(model: ir.Model) -> bool:
    node, index, value = next(readers(model), (None, 0, None))
    if node is None or value is None:
        return False
    stranger = stranger_like(value)
    stranger.name = "nowhere"
    node.replace_input_with(index, stranger)
    return True


@breaks("inputs-defined")
def take_a_producer_out(model: ir.Model) -> bool:
    for value in inner_values(model):
        node = value.producer()
        if node is not None and not any(o.is_graph_output() for o in node.outputs):
            model.graph.remove(node)
            return True
    return False


@breaks("inputs-defined")
def read_out_of_a_branch(model: ir.Model) -> bool:
    inner = next((n.outputs[0] for n in nested(model) if n.outputs and n.outputs[0].name), None)
    node, index, _ = next(readers(model), (None, 0, None))
    if inner is None or node is None:
        return False
    node.replace_input_with(index, inner)
    return True


@breaks("topological-order")
def compute_too_late(model: ir.Model) -> bool:
    value = next(inner_values(model), None)
    node = None if value is None else value.producer()
    if node is None:
        return False
    model.graph.remove(node)
    model.graph.append(node)
    return True


@breaks("topological-order")
def close_a_circle(model: ir.Model) -> bool:
    for node, index, value in readers(model):
        made = value.producer()
        if made is not None and made.inputs and node.outputs:
            made.replace_input_with(0, node.outputs[0])
            return True
        del index
    return False


@breaks("topological-order")
def read_oneself(model: ir.Model) -> bool:
    node = next((n for n in model.graph if n.inputs and n.inputs[0] is not None), None)
    if node is None:
        return False
    node.replace_input_with(0, node.outputs[0])
    return True


@breaks("unique-outputs", "signature")
def hand_out_one_value_twice(model: ir.Model) -> bool:
    model.graph.outputs.append(model.graph.outputs[0])
    return True


@breaks("outputs-produced")
def hand_out_what_nobody_computes(model: ir.Model) -> bool:
    output = model.graph.outputs[0]
    if output.uses():
        return False
    model.graph.outputs[0] = stranger_like(output)
    producer = output.producer()
    if producer is not None:
        output.name = f"{output.name}_before"
    return True


@breaks("graph-inputs", "unique-value-names", "signature")
def list_an_input_twice(model: ir.Model) -> bool:
    if not model.graph.inputs:
        return False
    model.graph.inputs.append(model.graph.inputs[0])
    return True


@breaks("initializers")
def misstate_a_dtype(model: ir.Model) -> bool:
    value = weight(model)
    if value is None:
        return False
    wrong = ir.DataType.UINT16 if value.dtype != ir.DataType.UINT16 else ir.DataType.FLOAT
    value.type = ir.TensorType(wrong)
    return True


@breaks("initializers")
def swap_a_tensor_and_leave_the_shape(model: ir.Model) -> bool:
    value = weight(model)
    if value is None or value.const_value is None:
        return False
    array = value.const_value.numpy()
    value.const_value = ir.tensor(array[None].repeat(2, axis=0))
    return True


@breaks("initializers")
def lose_a_tensor(model: ir.Model) -> bool:
    value = weight(model)
    if value is None:
        return False
    value.const_value = None
    return True


@breaks("imported-domains")
def use_a_domain_nobody_imports(model: ir.Model) -> bool:
    node = next(iter(model.graph), None)
    if node is None:
        return False
    node.domain = "com.example.nobody"
    return True


@breaks("imported-domains")
def forget_an_opset(model: ir.Model) -> bool:
    if not any(node.domain == "" for node in model.graph):
        return False
    model.opset_imports.pop("", None)
    return True


@breaks("functions")
def call_an_overload_that_is_not_there(model: ir.Model) -> bool:
    node = next(iter(model.graph), None)
    if node is None:
        return False
    node.overload = "v2"
    return True


@breaks("value-kinds")
def type_a_tensor_as_a_sequence(model: ir.Model) -> bool:
    node = next((n for n in model.graph if n.op_type == "SequenceConstruct"), None)
    if node is None:
        return False
    node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    return True


@breaks("signature")
def rename_an_input(model: ir.Model) -> bool:
    if not model.graph.inputs:
        return False
    model.graph.inputs[0].name = "renamed"
    return True


@breaks("signature")
def rename_an_output(model: ir.Model) -> bool:
    model.graph.outputs[0].name = "renamed"
    return True


@breaks("signature")
def swap_two_outputs(model: ir.Model) -> bool:
    outputs = model.graph.outputs
    if len(outputs) < 2:
        return False
    outputs[0], outputs[1] = outputs[1], outputs[0]
    return True


@breaks("signature")
def drop_an_output(model: ir.Model) -> bool:
    if len(model.graph.outputs) < 2:
        return False
    model.graph.outputs.pop()
    return True


@breaks("signature")
def change_the_type_of_an_output(model: ir.Model) -> bool:
    output = model.graph.outputs[0]
    if not isinstance(output.type, ir.TensorType):
        return False
    wanted = ir.DataType.FLOAT16 if output.dtype != ir.DataType.FLOAT16 else ir.DataType.FLOAT
    output.type = ir.TensorType(wanted)
    return True


@breaks("signature")
def change_the_shape_of_an_input(model: ir.Model) -> bool:
    value = next((v for v in model.graph.inputs if v.shape is not None and len(v.shape)), None)
    if value is None or value.shape is None:
        return False
    value.shape = ir.Shape([97, *list(value.shape)[1:]])
    return True


@breaks("signature")
def take_another_input(model: ir.Model) -> bool:
    model.graph.inputs.append(ir.val("another", ir.DataType.FLOAT, [2]))
    return True


# Graphs: by hand, as the generator draws them, and as the onnx package ships them.

TEXTS = {
    "branches": """
        <ir_version: 10, opset_import: ["" : 20]>
        g (float[2] x, bool c) => (float[2] y, float[2] z)
        <float[2] w = {1, 2}>
        {
          [first] a = Add(x, w)
          [second] b = Relu(a)
          [choose] y = If(c) <
            then_branch = t () => (float[2] t_out) { [m] n = Mul(b, w) [k] t_out = Neg(n) },
            else_branch = e () => (float[2] e_out) { [inner_e] e_out = Neg(a) }
          >
          [last] z = Neg(b)
        }""",
    "sequences": """
        <ir_version: 10, opset_import: ["" : 20]>
        g (float[2] x) => (float[2] y, float[2] z)
        <int64 i = {0}, float[2] w = {1, 2}>
        {
          a = Add(x, w)
          s = SequenceConstruct(x, a)
          first = SequenceAt(s, i)
          y = Relu(first)
          z = Neg(a)
        }""",
    "loop": """
        <ir_version: 10, opset_import: ["" : 20]>
        g (int64 n, bool go, float[2] x) => (float[2] last, float[m, 2] all)
        <float[2] w = {1, 2}>
        {
          start = Mul(x, w)
          half = Abs(start)
          last, all = Loop(n, go, half) <
            body = b (int64 i, bool c, float[2] s) => (bool c_out, float[2] t, float[2] u)
            { c_out = Identity(c) r = Add(s, start) t = Relu(r) u = Neg(r) }
          >
        }""",
}
GENERATED = 12
LIGHT = ("light_squeezenet", "light_shufflenet")


def made(name: str) -> ir.Model:
    return load_model(source(name)).model


@functools.cache
def source(name: str) -> onnx.ModelProto:
    if name in TEXTS:
        return onnx.parser.parse_model(TEXTS[name])
    if name.startswith("light"):
        folder = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
        return onnx.load(folder / f"{name}.onnx")
    (case,) = generated(1, seed=3, start=int(name.removeprefix("generated-")))
    return case.model


NAMES = [*TEXTS, *(f"generated-{i}" for i in range(GENERATED)), *LIGHT]


def found(model: ir.Model, signature: Signature) -> set[str]:
    return {sentence.split(": ", 1)[0] for sentence in violations(model, signature)}


@pytest.mark.parametrize("name", NAMES)
def test_a_graph_that_nobody_broke_is_sound(name: str) -> None:
    model = made(name)
    assert violations(model, Signature.of(model)) == []


@pytest.mark.parametrize("corruption", CORRUPTIONS, ids=lambda c: c.name)
def test_each_corruption_is_found_by_its_rule_alone(corruption: Corruption) -> None:
    broken = []
    for name in NAMES:
        model = made(name)
        signature = Signature.of(model)
        if not corruption.corrupt(model):
            continue
        broken.append(name)
        assert found(model, signature) == corruption.rules, name
        with pytest.raises(VerifyError):
            verify(model, signature, where="a pass")
    assert broken, "no graph has a victim for it"


@pytest.mark.parametrize("rule", [name for name, _ in RULES])
def test_without_a_rule_what_it_finds_is_missed(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = [c for c in CORRUPTIONS if rule in c.rules]
    assert theirs
    kept = tuple((name, check) for name, check in RULES if name != rule)
    for corruption in theirs:
        model = next(m for m in map(made, NAMES) if corruption.corrupt(m))
        others = corruption.rules - {"signature"}
        assert found_without_signature(model) == others
        monkeypatch.setattr("planish.ir.verify.RULES", kept)
        assert found_without_signature(model) == others - {rule}
        monkeypatch.undo()


def test_all_rules_but_one_have_something_that_only_they_find() -> None:
    """An input that stands there twice also has the name of another value: its rule says why."""
    alone = {rule for c in CORRUPTIONS for rule in c.rules if c.rules - {"signature"} == {rule}}
    assert {name for name, _ in RULES} - alone == {"graph-inputs"}


def found_without_signature(model: ir.Model) -> set[str]:
    return {sentence.split(": ", 1)[0] for sentence in violations(model)}


def test_without_the_signature_what_only_it_finds_is_missed() -> None:
    alone = [c for c in CORRUPTIONS if c.rules == {"signature"}]
    assert len(alone) >= 7
    for corruption in alone:
        model = made("branches")
        signature = Signature.of(model)
        assert corruption.corrupt(model), corruption.name
        assert violations(model) == []
        assert found(model, signature) == {"signature"}


def test_a_graph_that_hangs_in_two_places_is_found() -> None:
    model = made("branches")
    node = next(n for n in model.graph if n.op_type == "If")
    shared = node.attributes["then_branch"].as_graph()
    node.attributes["else_branch"] = ir.AttrGraph("else_branch", shared)
    assert {"unique-node-names"} <= found(model, Signature.of(model))


def test_a_node_cannot_stand_in_two_graphs() -> None:
    model = made("branches")
    inner = next(nested(model))
    with pytest.raises(ValueError, match="belongs to"):
        model.graph.append(inner)


def test_functions_in_a_circle_are_found() -> None:
    model = ir.from_onnx_text("""
        <ir_version: 10, opset_import: ["" : 20, "my" : 1]>
        g (float[2] x) => (float[2] y) { [call] y = my.outer(x) }
        <domain: "my", opset_import: ["" : 20, "my" : 1]>
        outer (p) => (q) { [o] q = my.inner(p) }
        <domain: "my", opset_import: ["" : 20, "my" : 1]>
        inner (p) => (q) { [i] q = my.outer(p) }
    """)
    (sentence,) = violations(model)
    assert sentence.startswith("functions: ")
