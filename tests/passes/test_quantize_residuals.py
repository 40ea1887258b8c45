from __future__ import annotations

from collections import Counter
from types import ModuleType
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from planish.ir.errors import UsageError
from planish.ir.graph import constant_array
from planish.targets.runtime import optimized_graph

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(11)
SHAPE = (2, 32, 8, 8)
FEEDS = [{"x": RNG.normal(size=SHAPE).astype(np.float32)} for _ in range(3)]
HEAD = '<ir_version: 10, opset_import: ["" : 20]>\ng (float[n, 32, 8, 8] x) => ({}) '
FRONT = "a = Conv<pads=[1,1,1,1]>(x, w0) r = Relu(a) "
BLOCK = (
    "{v}b = Conv<pads=[1,1,1,1]>({v}, {v}w) {v}c = Relu({v}b) "
    "{v}d = Conv<pads=[1,1,1,1]>({v}c, {v}u) {v}s = Add({v}d, {v}) {v}y = Relu({v}s) "
)
STEPS = (
    "cut = Slice(ry, starts, ends, axes, steps) wide = Pad(cut, pads, fill) "
    "e = Conv<strides=[2,2], pads=[1,1,1,1]>(ry, w1) f = Add(e, wide) g = Relu(f) "
    "y = Conv(g, w2) "
)


def text(body: str, outputs: str = "float[n, c, h, v] y") -> str:
    return HEAD.format(outputs) + "{ " + body + "}"


def weights(body: str) -> dict[str, Array]:
    names = ["w0", "rw", "ru", "ryw", "ryu", "w1", "w2"]
    made = {n: (0.08 * RNG.normal(size=(32, 32, 3, 3))).astype(np.float32) for n in names}
    made["w4"] = (0.08 * RNG.normal(size=(32, 32, 1, 1))).astype(np.float32)
    made["w1"] = (0.08 * RNG.normal(size=(64, 32, 3, 3))).astype(np.float32)
    made["w2"] = (0.08 * RNG.normal(size=(64, 64, 1, 1))).astype(np.float32)
    constants = {
        "starts": np.array([0, 0]), "ends": np.array([8, 8]), "axes": np.array([2, 3]),
        "steps": np.array([2, 2]), "pads": np.array([0, 16, 0, 0, 0, 16, 0, 0]),
        "fill": np.float32(0), "one": np.float32(1),
    }  # fmt: skip
    known = {**made, **{n: np.asarray(a) for n, a in constants.items()}}
    words = body.replace("(", " ").replace(")", " ").replace(",", " ").split()
    return {n: a for n, a in known.items() if n in words}


def bench(graphs: ModuleType, body: str, outputs: str = "float[n, c, h, v] y") -> Any:
    made = graphs.Bench(graphs.parse(text(body, outputs), **weights(body)), FEEDS)
    made.run("quantize", scheme="static", calibrator="minmax")
    return made


def kernels(model: ir.Model) -> Counter[str]:
    """What the runtime makes of it with all its optimisations."""
    data = ir.to_proto(model).SerializeToString()
    return Counter(node.op_type for node in optimized_graph(data, threads=1).graph.node)


def pair(array: Array, scale: float, zero: int) -> Array:
    """Rounded to uint8 codes and back, in float64."""
    codes = np.clip(np.rint(array.astype(np.float64) / scale) + zero, 0, 255)
    return np.asarray((codes - zero) * scale)


def test_a_residual_addition_reads_the_codes_of_the_next_layer(graphs: ModuleType) -> None:
    body = FRONT + BLOCK.format(v="r") + BLOCK.format(v="ry") + "y = Conv(ryy, w4)"
    block = bench(graphs, body)
    before = block.outputs(FEEDS[0])["y"]
    (edit,) = block.run("quantize-residuals").edits
    assert (edit.setting, edit.saving) == ("codes", 0)
    sums = [n for n in block.model.graph if n.op_type == "Add"]
    assert all(v.producer().op_type == "DequantizeLinear" for n in sums for v in n.inputs)
    after = block.outputs(FEEDS[0])["y"]
    assert 0 < np.abs(after - before).max() < 0.05 * np.abs(before).max()
    assert block.run("quantize-residuals").edits == []


def test_its_loss_is_that_of_rounding_the_branch(graphs: ModuleType) -> None:
    """Written out in float64: the sum of the operands, one of them rounded."""
    body = FRONT + BLOCK.format(v="r") + BLOCK.format(v="ry") + "y = Conv(ryy, w4)"
    shown = "float[n, c, h, v] y, float[n, c, h, v] ry, float[n, c, h, v] ryd"
    block = bench(graphs, body, shown)
    (edit,) = block.run("quantize-residuals").edits
    constants = block.model.graph.initializers
    scale, zero = (constant_array(constants[f"ry_{n}"]) for n in ("scale", "zero_point"))
    assert scale is not None
    assert zero is not None
    noise = signal = 0.0
    for feed in FEEDS[:2]:
        out = block.outputs(feed)
        value, other = (out[n].astype(np.float64) for n in ("ry", "ryd"))
        noise += ((pair(value, float(scale), int(zero)) - value) ** 2).sum()
        signal += ((value + other) ** 2).sum()
    assert edit.loss == pytest.approx(noise / signal, rel=0.1)


def test_the_runtime_adds_in_integers_then(graphs: ModuleType) -> None:
    body = FRONT + BLOCK.format(v="r") + BLOCK.format(v="ry") + "y = Conv(ryy, w4)"
    block = bench(graphs, body)
    assert kernels(block.model)["Add"] == 2, "the first sum is read in float by the second"
    block.run("quantize-residuals")
    assert kernels(block.model)["QLinearAdd"] == 2
    assert kernels(block.model)["Add"] == 0


def test_steps_on_the_way_move_codes(graphs: ModuleType) -> None:
    body = FRONT + BLOCK.format(v="r") + STEPS
    block = bench(graphs, body)
    before = block.outputs(FEEDS[0])["y"]
    (edit,) = block.run("quantize-residuals").edits
    assert edit.site == "conv4"
    found = kernels(block.model)
    assert (found["QLinearAdd"], found["Add"]) == (2, 0)
    after = block.outputs(FEEDS[0])["y"]
    assert np.abs(after - before).max() < 0.05 * np.abs(before).max()


def test_concatenated_branches_move_as_codes(graphs: ModuleType) -> None:
    body = (
        FRONT + BLOCK.format(v="r") + "b = Conv<pads=[1,1,1,1]>(ry, ryw) c = Relu(b) "
        "j = Concat<axis=1>(ry, c) y = Conv(j, w3)"
    )
    made = weights(body) | {"w3": (0.1 * RNG.normal(size=(64, 64, 1, 1))).astype(np.float32)}
    block = graphs.Bench(graphs.parse(text(body), **made), FEEDS)
    block.run("quantize", scheme="static", calibrator="minmax")
    assert len(block.run("quantize-residuals").edits) == 1
    assert kernels(block.model)["QLinearConcat"] == 1


@pytest.mark.parametrize(
    ("body", "refusals"),
    [
        # Nothing rounds the operand beside the branch.
        (
            FRONT + BLOCK.format(v="r") + "h = HardSwish(ry) s = Add(h, ry) "
            "k = Conv<pads=[1,1,1,1]>(ry, ryw) y = Add(k, s)",
            {"conv4": "float-operand"},
        ),
        # A pad that is no zero is not on the grid.
        (
            FRONT + BLOCK.format(v="r") + STEPS.replace("fill)", "one)"),
            {},
        ),
        # An addition of a constant joins nothing.
        (FRONT + BLOCK.format(v="r") + "k = Conv<pads=[1,1,1,1]>(ry, ryw) y = Add(ry, one)", {}),
    ],
)
def test_what_stays_in_float(graphs: ModuleType, body: str, refusals: dict[str, str]) -> None:
    block = bench(graphs, body)
    assert block.run("quantize-residuals").edits == []
    got = {
        s: r.code
        for s, r in block.remarks("refused").items()
        if r.pass_name == "quantize-residuals"
    }
    assert got == refusals


def test_a_sum_that_nothing_rounds_is_left_alone(graphs: ModuleType) -> None:
    """Neither the sum nor what it adds would compute in integers."""
    body = "r = Sigmoid(x) d = Conv<pads=[1,1,1,1]>(r, w0) s = Add(d, r) y = Sigmoid(s)"
    block = bench(graphs, body)
    assert block.run("quantize-residuals").edits == []
    assert block.refusals()["conv1"] == "float-sum"


def test_what_a_branch_of_control_reads_stays(graphs: ModuleType) -> None:
    body = (
        FRONT
        + BLOCK.format(v="r")
        + "k = Conv<pads=[1,1,1,1]>(ry, ryw) which = ReduceMax(k, every) "
        "some = Greater(which, nothing) "
        "y = If (some) <then_branch = t () => (float[n, c, h, v] p) { p = Add(k, ry) }, "
        "else_branch = e () => (float[n, c, h, v] q) { q = Identity(k) }>"
    )
    made = weights(body) | {"every": np.array([0, 1, 2, 3]), "nothing": np.zeros((1, 1, 1, 1), "f")}
    block = graphs.Bench(graphs.parse(text(body), **made), FEEDS)
    block.run("quantize", scheme="static", calibrator="minmax")
    assert all(edit.site != "conv4" for edit in block.run("quantize-residuals").edits)


def test_excluded_layers_are_left_alone(graphs: ModuleType) -> None:
    body = FRONT + BLOCK.format(v="r") + BLOCK.format(v="ry") + "y = Conv(ryy, w4)"
    block = bench(graphs, body)
    site = next(iter(block.run("quantize-residuals").edits)).site
    again = bench(graphs, body)
    assert again.run("quantize-residuals", exclude=(site,)).edits == []
    assert again.refusals()[site] == "excluded"
    with pytest.raises(UsageError, match="no site matches 'nowhere'"):
        bench(graphs, body).run("quantize-residuals", exclude=("nowhere",))


def test_float_models_have_nothing_to_share(graphs: ModuleType) -> None:
    body = FRONT + BLOCK.format(v="r") + "y = Identity(ry)"
    block = graphs.Bench(graphs.parse(text(body), **weights(body)), FEEDS)
    assert block.run("quantize-residuals").edits == []


ENDS = ("", "Relu", "Clip", "HardSwish")


def network(rng: np.random.Generator) -> tuple[str, dict[str, Array]]:
    """Residual, dense and shortcut blocks, one behind the other, in no particular style."""
    made: dict[str, Array] = {n: np.array(v, np.float32) for n, v in (("six", 6), ("zero", 0))}
    lines, channels = list[str](), 16

    def conv(x: str, inputs: int, outputs: int) -> str:
        name = f"w{len(made)}"
        made[name] = (0.1 * rng.normal(size=(outputs, inputs, 3, 3))).astype(np.float32)
        return emit(f"Conv<pads=[1,1,1,1]>({x}, {name})")

    def emit(call: str) -> str:
        lines.append(f"v{len(lines)} = {call}")
        return f"v{len(lines) - 1}"

    def end(x: str) -> str:
        kind = str(rng.choice(ENDS, p=[0.2, 0.5, 0.2, 0.1]))
        if not kind:
            return x
        return emit(f"Clip({x}, zero, six)" if kind == "Clip" else f"{kind}({x})")

    x = end(conv("x", 32, channels))
    for _ in range(rng.integers(2, 5)):
        y = conv(end(conv(x, channels, channels)), channels, channels)
        kind = rng.choice(["add", "add", "shortcut", "concat", "none"])
        if kind == "shortcut":
            x = end(emit(f"Add({conv(x, channels, channels)}, {y})"))
        elif kind == "concat":
            x, channels = end(emit(f"Concat<axis=1>({x}, {y})")), 2 * channels
        else:
            x = end(emit(f"Add({x}, {y})")) if kind == "add" else end(y)
    lines.append(f"y = GlobalAveragePool({x})")
    body = " ".join(lines)
    return body, {n: a for n, a in made.items() if f" {n}" in body}


@pytest.mark.parametrize("seed", range(24))
def test_random_networks_compute_their_perturbation(graphs: ModuleType, seed: int) -> None:
    """The region check of every edit holds, and all in all the outputs stay near."""
    body, made = network(np.random.default_rng(seed))
    block = graphs.Bench(graphs.parse(text(body), **made), FEEDS)
    block.run("quantize", scheme="static", calibrator="minmax", narrow=True)
    before = block.outputs(FEEDS[0])["y"]
    edits = block.run("quantize-residuals").edits
    assert block.remarks("missed") == {}
    after = block.outputs(FEEDS[0])["y"]
    assert np.abs(after - before).max() <= 0.1 * np.abs(before).max()
    assert (np.abs(after - before).max() > 0) <= bool(edits)
    assert block.run("quantize-residuals").edits == []
