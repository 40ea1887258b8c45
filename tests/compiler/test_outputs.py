"""What kind of thing an output is, and the verdict over several of different kinds."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from planish.compiler.quality.drift import DriftGate, measure
from planish.compiler.quality.driftmeter import Drift
from planish.compiler.quality.outputs import judge_drift, output_kind, output_kinds

SIDE = 16
RANDOM = np.random.default_rng(0)


def output(body: str, name: str = "y") -> ir.Value:
    """The output of a body that computes ``y`` from x [4, 16], under another name."""
    text = f'<ir_version: 9, opset_import: ["": 20]> g (float[4, 16] x) => (out) {{ {body} }}'
    weights = {
        "scale": np.ones(SIDE, np.float32),
        "shape": np.array([2, 2, SIDE]),
        "axes": np.array([0]),
        "end": np.array([1]),
        "weight": np.eye(SIDE, dtype=np.float32),
    }
    proto = onnx.parser.parse_model(text.replace("(out)", "(float[] y)"))
    proto.graph.output[0].name = name
    for node in proto.graph.node:
        node.output[:] = [name if o == "y" else o for o in node.output]
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(a, n) for n, a in weights.items())
    return ir.from_proto(proto).graph.outputs[0]


NORM = "n = LayerNormalization(x, scale)"


@pytest.mark.parametrize(
    ("body", "name", "kind"),
    [
        ("y = Softmax(x)", "y", "classes"),
        ("y = LogSoftmax(x)", "y", "classes"),
        ("s = Softmax(x) t = Reshape(s, shape) y = Cast<to=1>(t)", "y", "classes"),
        ("y = ArgMax<axis=1>(x)", "y", "classes"),
        ("y = LayerNormalization(x, scale)", "y", "embedding"),
        (f"{NORM} y = Transpose<perm=[1, 0]>(n)", "y", "embedding"),
        (f"{NORM} y = Slice(n, axes, end)", "y", "embedding"),
        ("y = LpNormalization(x)", "y", "embedding"),
        (f"{NORM} y = MatMul(n, weight)", "y", "tensor"),
        ("y = Relu(x)", "y", "tensor"),
        ("y = Relu(x)", "logits", "classes"),
        ("y = Relu(x)", "start_logits", "classes"),
        ("y = Relu(x)", "probabilities", "classes"),
        ("y = Relu(x)", "class.1", "classes"),
        ("y = Relu(x)", "label", "classes"),
        ("y = Relu(x)", "last_hidden_state", "embedding"),
        ("y = Relu(x)", "sentence_embedding", "embedding"),
        ("y = Relu(x)", "image_features", "embedding"),
        ("y = Relu(x)", "classical", "tensor"),
        ("y = Relu(x)", "problem", "tensor"),
        ("y = Identity(x)", "y", "tensor"),
        ("y = Softmax(x)", "hidden_states", "classes"),
    ],
)
def test_the_kind_of_an_output(body: str, name: str, kind: str) -> None:
    assert output_kind(output(body, name)) == kind


def drift(**noise: float) -> Drift:
    """Outputs [64, 16] with normal noise of these standard deviations on normal numbers."""
    clean = {name: RANDOM.normal(size=(64, SIDE)).astype(np.float32) for name in noise}
    noisy = [
        (clean[n] + s * RANDOM.normal(size=(64, SIDE))).astype(np.float32) for n, s in noise.items()
    ]
    return measure([list(clean.values())], [noisy], names=list(noise))


@pytest.fixture
def values() -> list[ir.Value]:
    """One output of each kind."""
    return [
        output("y = Relu(x)", "tensor"),
        output("y = Relu(x)", "logits"),
        output("y = Relu(x)", "embedding"),
    ]


@pytest.mark.parametrize(
    ("noise", "holds", "metric"),
    [
        ((0.01, 0.0, 0.01), True, None),
        ((0.3, 0.0, 0.0), False, "sqnr"),
        ((0.01, 1.0, 0.0), False, "top1"),
        ((0.01, 0.0, 0.5), False, "cosine"),
    ],
)
def test_each_output_is_held_to_its_own_kind(
    values: list[ir.Value], noise: tuple[float, float, float], holds: bool, metric: str | None
) -> None:
    found = judge_drift(
        drift(tensor=noise[0], logits=noise[1], embedding=noise[2]), output_kinds(values), None
    )
    assert found.holds is holds
    if metric is not None:
        assert found.gate.metric == metric


@pytest.mark.parametrize("order", [("a", "b", "c"), ("c", "b", "a"), ("b", "a", "c")])
@pytest.mark.parametrize("part", [1.0, 0.01])
def test_the_output_that_holds_least_speaks_for_all(order: tuple[str, ...], part: float) -> None:
    noise = {"a": 0.2 * part, "b": 0.4 * part, "c": 0.8 * part}
    outputs = [output("y = Relu(x)", name) for name in order]
    found = judge_drift(drift(**{name: noise[name] for name in order}), output_kinds(outputs), None)
    assert found.holds is (part < 1)
    assert found.output == "c"
    assert "'c'" in found.sentence


def test_one_gate_for_all_where_it_is_asked_for(values: list[ir.Value]) -> None:
    moved = drift(tensor=0.3, logits=0.3, embedding=0.3)
    assert not judge_drift(moved, output_kinds(values), None).holds
    assert judge_drift(moved, output_kinds(values), DriftGate("sqnr", 5.0)).holds
    strict = judge_drift(moved, output_kinds(values), DriftGate("cosine", 0.999))
    assert (strict.holds, strict.gate.metric) == (False, "cosine")


def test_nan_fails_whatever_the_kind(values: list[ir.Value], kit: ModuleType) -> None:
    clean = [kit.normal(8, SIDE, seed=i) for i in range(3)]
    broken = [a.copy() for a in clean]
    broken[1][3, 4] = np.nan
    moved = measure([clean], [broken], names=["tensor", "logits", "embedding"])
    found = judge_drift(moved, output_kinds(values), None)
    assert (found.holds, found.output) == (False, "logits")
    assert "NaN" in found.sentence
