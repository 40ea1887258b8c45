from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from planish.ir.counting.count import parameters
from planish.ir.counting.flops import flops
from planish.ir.errors import UsageError
from planish.ir.graph import constant_array
from planish.ir.recurrent import OP, in_float
from planish.ir.types.bound import bound_shapes
from planish.targets.runtime import optimized_graph

Array = np.ndarray[Any, Any]
INPUTS, HIDDEN, STEPS, BATCH = 80, 64, 12, 3
RNG = np.random.default_rng(4)
FEEDS = [
    {
        "x": RNG.normal(size=(STEPS, BATCH, INPUTS)).astype(np.float32),
        "h": RNG.normal(size=(1, BATCH, HIDDEN)).astype(np.float32) * np.float32(0.1),
        "c": RNG.normal(size=(1, BATCH, HIDDEN)).astype(np.float32) * np.float32(0.1),
    }
    for _ in range(2)
]
HEAD = (
    '<ir_version: 10, opset_import: ["" : 20]>\n'
    "g (float[t, b, 80] x, float[1, b, 64] h, float[1, b, 64] c) => ({}) "
)
PLAIN = "y, yh, yc = LSTM<hidden_size=64>(x, w, r, bias, , h, c)"
ALL = "float[t, 1, b, 64] y, float[1, b, 64] yh, float[1, b, 64] yc"


def weights(directions: int = 1, inputs: int = INPUTS, hidden: int = HIDDEN) -> dict[str, Array]:
    rng = np.random.default_rng(7)
    return {
        "w": (rng.normal(size=(directions, 4 * hidden, inputs)) / 7).astype(np.float32),
        "r": (rng.normal(size=(directions, 4 * hidden, hidden)) / 8).astype(np.float32),
        "bias": (rng.normal(size=(directions, 8 * hidden)) / 10).astype(np.float32),
    }


def layer(
    graphs: ModuleType, body: str = PLAIN, outputs: str = ALL, made: Any = None, **settings: Any
) -> Any:
    given = weights() if made is None else made
    used = {n: a for n, a in given.items() if f" {n}" in body.replace("(", " ")}
    text = HEAD.format(outputs) + "{ " + body + " }"
    return graphs.Bench(graphs.parse(text, **used), FEEDS, **settings)


def sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


def lstm(x: Array, w: Array, r: Array, bias: Array, h: Array, c: Array) -> tuple[Array, ...]:
    """One direction in float64, as the ONNX operator says: gates in the order i, o, f, c."""
    out = []
    for step in x.astype(np.float64):
        gates = step @ w.T + h @ r.T + bias[: len(w)] + bias[len(w) :]
        i, o, f, g = np.split(gates, 4, axis=1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        out.append(h)
    return np.stack(out), h, c


def rounded(weight: Array) -> Array:
    """Symmetric, one scale for each gate of each unit, written out in float64."""
    scale = np.abs(weight.astype(np.float64)).max(axis=-1, keepdims=True) / 127
    return np.asarray(np.clip(np.rint(weight / scale), -127, 127) * scale)


def test_weights_are_codes_with_a_scale_for_each_gate_and_unit(graphs: ModuleType) -> None:
    bench = layer(graphs)
    (edit,) = bench.run("quantize-recurrent").edits
    assert (edit.setting, edit.saving) == ("int8", 3 * 4 * HIDDEN * (INPUTS + HIDDEN))
    (node,) = bench.model.graph
    assert (node.domain, node.op_type) == ("com.microsoft", OP)
    for number, scale, name in ((1, 8, "w"), (2, 10, "r")):
        codes, scales = constant_array(node.inputs[number]), constant_array(node.inputs[scale])
        assert codes is not None
        assert scales is not None
        assert codes.dtype == np.int8
        again = codes.transpose(0, 2, 1) * scales[..., None]
        np.testing.assert_allclose(again, rounded(weights()[name]), rtol=1e-5, atol=1e-7)


def test_outputs_are_those_of_the_definition(graphs: ModuleType) -> None:
    """In float64, with rounded weights; the kernel rounds input and state on top."""
    bench, made, feed = layer(graphs), weights(), FEEDS[0]
    full = bench.outputs(feed)
    expected = lstm(
        feed["x"], made["w"][0], made["r"][0], made["bias"][0], feed["h"][0], feed["c"][0]
    )
    np.testing.assert_allclose(full["y"][:, 0], expected[0], rtol=0, atol=1e-5)
    (edit,) = bench.run("quantize-recurrent").edits
    expected = lstm(
        feed["x"], rounded(made["w"])[0], rounded(made["r"])[0], made["bias"][0],
        feed["h"][0], feed["c"][0],
    )  # fmt: skip
    got = bench.outputs(feed)
    for name, value in zip(("y", "yh", "yc"), expected, strict=True):
        found = got[name][:, 0] if name == "y" else got[name][0]
        np.testing.assert_allclose(found, value, rtol=0, atol=0.02)
    back = bench.model.clone()
    in_float(back)
    assert graphs.ops(back) == ["LSTM"]
    np.testing.assert_allclose(graphs.run(back, feed)["y"][:, 0], expected[0], rtol=0, atol=1e-5)
    assert edit.loss is not None
    assert edit.runtime_loss is not None
    assert 0 < edit.loss < 1e-3
    assert 0 < edit.runtime_loss < 1e-3


@pytest.mark.parametrize(
    ("body", "outputs", "directions"),
    [
        ("y, yh, yc = LSTM<hidden_size=64, direction=\"reverse\">(x, w, r, bias, , h, c)", ALL, 1),
        ("y = LSTM<hidden_size=64, direction=\"bidirectional\">(x, w, r, bias)",
         "float[t, 2, b, 64] y", 2),
        ("y = LSTM<hidden_size=64>(x, w, r)", "float[t, 1, b, 64] y", 1),
        ("y, yh = LSTM<hidden_size=64, clip=1.0, input_forget=1>(x, w, r, bias)",
         "float[t, 1, b, 64] y, float[1, b, 64] yh", 1),
        ("y = LSTM<hidden_size=64, activations=[\"Sigmoid\", \"Relu\", \"Tanh\"]>(x, w, r, bias)",
         "float[t, 1, b, 64] y", 1),
    ],
)  # fmt: skip
def test_other_forms_keep_what_they_say(
    graphs: ModuleType, body: str, outputs: str, directions: int
) -> None:
    bench = layer(graphs, body, outputs, weights(directions))
    before = bench.outputs(FEEDS[0])
    assert len(bench.run("quantize-recurrent").edits) == 1
    assert bench.remarks("missed") == {}
    after = bench.outputs(FEEDS[0])
    for name, value in before.items():
        assert after[name].shape == value.shape
        np.testing.assert_allclose(after[name], value, rtol=0, atol=0.05)
    data = ir.to_proto(bench.model).SerializeToString()
    assert [n.op_type for n in optimized_graph(data).graph.node] == [OP]
    assert bench.run("quantize-recurrent").edits == []


def test_what_stays_in_float(graphs: ModuleType) -> None:
    def refusals(bench: Any, **options: Any) -> set[str]:
        assert bench.run("quantize-recurrent", **options).edits == []
        return set(bench.refusals().values())

    assert refusals(layer(graphs), exclude=("LSTM_*",)) == {"excluded"}
    with pytest.raises(UsageError, match="no recurrent layer matches 'GRU_0'"):
        layer(graphs).run("quantize-recurrent", exclude=("GRU_0",))
    small = "y = LSTM<hidden_size=8>(x, w, r, bias)"
    shown = "float[t, 1, b, 8] y"
    assert refusals(layer(graphs, small, shown, weights(hidden=8))) == {"too-small"}
    shared = PLAIN + " z = LSTM<hidden_size=64>(x, w, r)"
    assert refusals(layer(graphs, shared, ALL + ", float[t, 1, b, 64] z")) == {"shared"}
    text = (
        HEAD.format(ALL) + "{ s = Sigmoid(c) m = ReduceMean<keepdims=1>(s, axes) "
        "k = Mul(w, m) y, yh, yc = LSTM<hidden_size=64>(x, k, r, bias, , h, c) }"
    )
    computed = graphs.parse(text, **weights(), axes=np.array([0, 1, 2]))
    assert refusals(graphs.Bench(computed, FEEDS)) == {"dtype"}
    assert refusals(layer(graphs, target="nvidia-ampere")) == {"target"}
    gru = "y = GRU<hidden_size=64>(x, gw, gr)"
    made = {"gw": weights()["w"][:, :192], "gr": weights()["r"][:, :192]}
    assert refusals(layer(graphs, gru, "float[t, 1, b, 64] y", made)) == set()


def test_saturating_targets_get_codes_that_cannot(graphs: ModuleType) -> None:
    bench = layer(graphs, target="x86-avx2")
    bench.run("quantize-recurrent")
    codes = constant_array(next(iter(bench.model.graph)).inputs[1])
    assert codes is not None
    assert np.abs(codes.astype(int)).max() == 63
    assert 2 * 255 * 63 <= 32767


def test_it_is_counted_as_before(graphs: ModuleType) -> None:
    bench = layer(graphs)
    sizes = {"t": STEPS, "b": BATCH}

    def counted() -> tuple[int, int | None]:
        shapes = bound_shapes(bench.model, sizes)
        return parameters(bench.model), flops(next(iter(bench.model.graph)), shapes)

    before = counted()
    bench.run("quantize-recurrent")
    assert counted() == before
    shapes = bound_shapes(bench.model, sizes)
    assert shapes["y"] == (STEPS, 1, BATCH, HIDDEN)
    assert shapes["yh"] == shapes["yc"] == (1, BATCH, HIDDEN)


def test_two_layers_of_one_module_become_integers(graphs: ModuleType) -> None:
    """As PyTorch exports LSTM(num_layers=2): once the first is lowered, the name is free."""
    body = (
        "y1, yh1, yc1 = LSTM<hidden_size=64>(x, w, r, bias, , h, c) "
        "z = Squeeze(y1, ways) y2 = LSTM<hidden_size=64>(z, w2, r2, bias2)"
    )
    made = weights() | {f"{n}2": a for n, a in weights(inputs=HIDDEN).items()}
    made["ways"] = np.array([1])
    text = HEAD.format("float[t, 1, b, 64] y2") + "{ " + body + " }"
    model = graphs.parse(text, **made)
    for node, name in zip((n for n in model.graph if n.op_type == "LSTM"), "ab", strict=True):
        node.name = f"/rnn/LSTM_{name}"
    bench = graphs.Bench(model, FEEDS)
    edits = bench.run("quantize-recurrent").edits
    assert [edit.site for edit in edits] == ["rnn", "/rnn/LSTM_b"]
    assert [node.op_type for node in bench.model.graph].count(OP) == 2
