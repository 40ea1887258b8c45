from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from planish.compiler.pipeline import parse
from planish.compiler.workshop import instantiate
from planish.ir.counting.flops import flops
from planish.ir.errors import UsageError
from planish.ir.graph import constant_array
from planish.ir.types.bound import bound_shapes
from planish.passes.api import AXES, SITES, Patches
from planish.passes.cutting import forms
from planish.passes.cutting.consumers import consumers_of

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(11)
ANY: dict[str, Any] = {"multiples": False}


def array(*shape: int) -> Array:
    """Weights of a layer that keeps the size of what it reads."""
    fan = int(np.prod(shape[1:])) if len(shape) > 1 else 1
    return np.asarray(RNG.normal(size=shape) / np.sqrt(fan), np.float32)


def head(inputs: str, outputs: str, opset: int = 20) -> str:
    return f'<ir_version: 10, opset_import: ["" : {opset}]>\ng ({inputs}) => ({outputs})\n'


def images(count: int = 16, channels: int = 3, size: int = 9) -> list[dict[str, Array]]:
    """Smooth images of two feeds, not centred."""
    noise = RNG.normal(size=(2, count, channels, size, size))
    smooth = noise + np.roll(noise, 1, -1) + np.roll(noise, 1, -2) + 0.5
    return [{"x": part.astype(np.float32)} for part in smooth]


WIDE = 16
PADS = "pads = [1, 1, 1, 1]"
CHAIN = (
    head("float[n, 3, 9, 9] x", "float[n, 5, h, w] y")
    + f"""{{
  a = Conv <{PADS}> (x, w1, b1)
  h = Relu(a)
  y = Conv <{PADS}, strides = [2, 2]> (h, w2, b2)
}}"""
)
WEIGHTS = {
    "w1": array(WIDE, 3, 3, 3), "b1": array(WIDE), "w2": array(5, WIDE, 3, 3), "b2": array(5),
}  # fmt: skip
FEEDS = images()


def chain(graphs: ModuleType, **settings: Any) -> Any:
    feeds = settings.pop("feeds", FEEDS)
    weights = WEIGHTS | settings.pop("weights", {})
    return graphs.Bench(graphs.parse(CHAIN, **weights), feeds, **settings)


def tensor(bench: Any, name: str) -> Array:
    found = constant_array(bench.model.graph.initializers[name])
    assert found is not None
    return found


def value_of(graphs: ModuleType, bench: Any, name: str, feeds: Any = FEEDS) -> Array:
    """A value of the present graph over all feeds, float64."""
    model = bench.model.clone()
    model.graph.outputs.append(graphs.value(model, name))
    found = [graphs.run(model, feed)[name] for feed in feeds]
    return np.concatenate(found).astype(np.float64)


def im2col(x: Array, stride: int) -> Array:
    """Rows [places, channels, taps] of a 3 x 3 kernel with a border of one."""
    wide = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    count = (wide.shape[-1] - 3) // stride + 1
    taps = [
        wide[:, :, i : i + stride * count : stride, j : j + stride * count : stride][
            :, :, :count, :count
        ]
        for i, j in itertools.product(range(3), range(3))
    ]
    stacked = np.stack(taps, axis=-1)  # n, c, h, w, taps
    return np.moveaxis(stacked, 1, 3).reshape(-1, x.shape[1], 9)


def kept(edit: Any) -> Array:
    """The channels of the only group of an edit that stay."""
    (about,) = edit.details["groups"].values()
    return np.setdiff1d(np.arange(about["of"]), about["removed"])


# -- what it does ----------------------------------------------------------------------


def test_filters_are_cut_and_what_reads_them_is_the_least_squares_fit(graphs: ModuleType) -> None:
    bench = chain(graphs)
    before, h = (value_of(graphs, bench, name) for name in ("y", "h"))
    (edit,) = bench.run("prune-channels", ratio=0.5, reestimate=False, **ANY).edits
    keep = kept(edit)
    assert graphs.lines(bench.model) == [
        "a = Conv(x, w1, b1)", "h = Relu(a)", "y = Conv(h, w2, b2)",
    ]  # fmt: skip
    np.testing.assert_array_equal(tensor(bench, "w1"), WEIGHTS["w1"][keep])
    np.testing.assert_array_equal(tensor(bench, "b1"), WEIGHTS["b1"][keep])
    assert tensor(bench, "w2").shape == (5, 8, 3, 3)
    assert graphs.value(bench.model, "h").shape[1] == 8
    rows = im2col(h, 2)[:, keep].reshape(-1, 8 * 9)
    wanted = np.moveaxis(before, 1, -1).reshape(-1, 5)
    explicit, *_ = np.linalg.lstsq(np.c_[rows, np.ones(len(rows))], wanted, rcond=None)
    least = float((((rows @ explicit[:-1] + explicit[-1]) - wanted) ** 2).sum())
    after = np.moveaxis(value_of(graphs, bench, "y"), 1, -1).reshape(-1, 5)
    assert float(((after - wanted) ** 2).sum()) == pytest.approx(least, rel=0.01)
    np.testing.assert_allclose(after.mean(axis=0), wanted.mean(axis=0), atol=1e-4)
    assert edit.saving == 4 * (8 * 27 + 8 + 5 * 8 * 9)


def test_the_fit_and_better_scores_lose_less(graphs: ModuleType) -> None:
    losses = {}
    for score in ("obs", "variance", "wanda", "magnitude"):
        for refit in (True, False):
            bench = chain(graphs)
            settings = {"score": score, "refit": refit, "reestimate": False}
            (edit,) = bench.run("prune-channels", ratio=0.5, **settings, **ANY).edits
            losses[score, refit] = edit.loss
    for score in ("obs", "variance", "wanda", "magnitude"):
        assert losses[score, True] < 0.6 * losses[score, False]
    assert losses["obs", True] == min(losses.values())


def moments(x: Array) -> tuple[Array, Array]:
    return x.mean(axis=(0, 2, 3)), x.var(axis=(0, 2, 3))


DEEP = (
    head("float[n, 3, 9, 9] x", "float[n, 5, 9, 9] y")
    + f"""{{
  a = Conv <{PADS}> (x, w0, b0) p = Relu(a)
  c = Conv <{PADS}> (p, w1, b1) q = Relu(c)
  d = Conv <{PADS}> (q, w2, b2) s = Add(d, p) r = Relu(s)
  e = Conv <{PADS}> (r, w3, b3) t = Relu(e)
  y = Conv <{PADS}> (t, w4, b4)
}}"""
)


def deep(graphs: ModuleType) -> Any:
    sizes = [(WIDE, 3), (12, WIDE), (WIDE, 12), (12, WIDE), (5, 12)]
    weights = {f"w{i}": array(*size, 3, 3) for i, size in enumerate(sizes)}
    biases = {f"b{i}": array(size[0]) for i, size in enumerate(sizes)}
    return graphs.Bench(graphs.parse(DEEP, **weights, **biases), FEEDS)


def test_each_touched_convolution_has_the_moments_it_had(graphs: ModuleType) -> None:
    """In the whole graph with all cuts made, on all calibration data."""
    bench = deep(graphs)
    before = {name: moments(value_of(graphs, bench, name)) for name in "cdey"}
    outcome = bench.run("prune-channels", ratio=0.5, scope="layer", **ANY)
    assert [edit.setting for edit in outcome.edits] == ["6-of-12", "6-of-12"]
    stay = dict(zip("ce", map(kept, outcome.edits), strict=True))
    for name, (mean, variance) in before.items():
        own = stay.get(name, slice(None))
        found = moments(value_of(graphs, bench, name))
        np.testing.assert_allclose(found[0], mean[own], rtol=0, atol=2e-4)
        np.testing.assert_allclose(found[1], variance[own], rtol=1e-3)


def test_layers_are_fitted_to_what_the_cuts_in_front_leave(graphs: ModuleType) -> None:
    """To the outputs of the float model all the same, which then are missed by less."""
    settings = {"ratio": 0.5, "scope": "layer", "reestimate": False, **ANY}
    first, second = deep(graphs), deep(graphs)
    for name, stored in first.model.graph.initializers.items():
        second.model.graph.initializers[name].const_value = stored.const_value
    before = value_of(graphs, first, "y")
    first.run("prune-channels", **settings)
    second.run("prune-channels", sequential=False, **settings)
    wanted, got, other = (
        np.moveaxis(y, 1, -1).reshape(-1, 5)
        for y in (before, value_of(graphs, first, "y"), value_of(graphs, second, "y"))
    )
    rows = im2col(value_of(graphs, first, "t"), 1).reshape(-1, 6 * 9)
    design = np.c_[rows, np.ones(len(rows))]
    explicit, *_ = np.linalg.lstsq(design, wanted, rcond=None)
    least = float(((design @ explicit - wanted) ** 2).sum())
    assert float(((got - wanted) ** 2).sum()) == pytest.approx(least, rel=0.02)
    assert least < 0.995 * float(((other - wanted) ** 2).sum())


def test_a_convolution_without_a_bias_keeps_its_scale(graphs: ModuleType) -> None:
    """Nothing could take the mean up, so neither is matched; and it is said."""
    text = CHAIN.replace("(h, w2, b2)", "(h, w2)")
    weights = {name: WEIGHTS[name] for name in ("w1", "b1", "w2")}
    made = {}
    for reestimate in (True, False):
        bench = graphs.Bench(graphs.parse(text, **weights), FEEDS)
        bench.run("prune-channels", ratio=0.5, reestimate=reestimate, **ANY)
        made[reestimate] = tensor(bench, "w2")
        said = {r.code for r in bench.context.remarks if r.kind == "note"}
        assert ("no-bias" in said) == reestimate
    np.testing.assert_array_equal(made[True], made[False])


def test_beside_branches_nothing_is_matched(graphs: ModuleType) -> None:
    """Only what stands between two layers could be run, and a branch cannot be taken apart."""
    text = CHAIN.replace("h, w] y)", "h, w] y, float[n, 5, h, w] z)").replace(
        "9] x)", "9] x, bool c)"
    )
    text = (
        text[: text.rindex("}")]
        + """  z = If (c) <
    then_branch = then () => (float[n, 5, h, w] t) { t = Relu(y) },
    else_branch = other () => (float[n, 5, h, w] e) { e = Neg(y) }>
}"""
    )
    made = {}
    for reestimate in (True, False):
        feeds = [feed | {"c": np.array(True)} for feed in FEEDS]
        bench = graphs.Bench(graphs.parse(text, **WEIGHTS), feeds)
        settings = {"reestimate": reestimate, "sequential": reestimate}
        assert bench.run("prune-channels", ratio=0.5, **settings, **ANY).edits
        made[reestimate] = tensor(bench, "w2")
        said = {r.code for r in bench.context.remarks if r.kind == "note"}
        assert ("not-stepped" in said) == reestimate
    np.testing.assert_array_equal(made[True], made[False])


def test_what_a_bound_takes_back_does_not_move_the_others(graphs: ModuleType) -> None:
    """Means and variances are those of the edits that are made, not of all that were offered."""
    first, second, third = deep(graphs), deep(graphs), deep(graphs)
    for name, stored in first.model.graph.initializers.items():
        for other in (second, third):
            other.model.graph.initializers[name].const_value = stored.const_value
    text = "prune-channels{ratio=0.5 scope=layer multiples=false}"
    ((_, whole),), ((_, partly),) = instantiate(parse(text)), instantiate(parse(text))
    gone, left = (edit.site for edit in first.manager.run(whole).edits)
    (edit,) = second.manager.run(partly, exclude=frozenset({gone})).edits
    third.run("prune-channels", (left,), ratio=0.5, scope="layer", **ANY)
    assert edit.site == left
    assert second.refusals()[gone] == "given-back"
    same = [np.array_equal(tensor(second, n), tensor(first, n)) for n in ("w3", "w4", "b4")]
    assert same == [False] * 3
    for name in second.model.graph.initializers:
        np.testing.assert_array_equal(tensor(second, name), tensor(third, name))


def test_rollback_and_a_second_run_give_the_same_bytes(graphs: ModuleType) -> None:
    bench = deep(graphs)
    before = graphs.snapshot(bench.model)
    outcome = bench.run("prune-channels", ratio=0.5, **ANY)
    once = graphs.snapshot(bench.model)
    bench.manager.undo(outcome)
    assert graphs.snapshot(bench.model) == before
    bench.run("prune-channels", ratio=0.5, **ANY)
    assert graphs.snapshot(bench.model) == once


# -- forms of the graph: in each the lowered region is checked against the perturbed one ------


@dataclass(frozen=True)
class Case:
    """A graph over x [n, 3, 9, 9]. weights: shape and size of the bias, 0 for none, of each layer
    in order. kept: channels of each group afterwards. options: beside half of the channels."""

    body: str
    weights: tuple[tuple[tuple[int, ...], int], ...]
    kept: tuple[int, ...]
    options: Mapping[str, Any] = field(default_factory=dict)


FIRST = f"a = Conv <{PADS}> (x, w1, b1) p = Relu(a)"
MADE = (12, 3, 3, 3), 12
RESIDUAL = {"residual": True}
CASES = {
    "depthwise": Case(
        f"{FIRST} d = Conv <group = 12, {PADS}> (p, w2, b2) s = Relu(d) y = Conv (s, w3, b3)",
        (MADE, ((12, 1, 3, 3), 12), ((5, 12, 1, 1), 5)), (6,),
    ),
    "grouped": Case(
        f"{FIRST} y = Conv <group = 3, {PADS}> (p, w2, b2)", (MADE, ((6, 4, 3, 3), 6)), (2,),
    ),
    "grouped, transposed": Case(
        f"{FIRST} y = ConvTranspose <group = 3, strides = [2, 2]> (p, w2, b2)",
        (MADE, ((12, 2, 3, 3), 6)), (2,),
    ),
    "transposed": Case(
        """a = ConvTranspose <strides = [2, 2], pads = [1, 1, 1, 1], output_padding = [1, 1]>
        (x, w1, b1) p = Relu(a) y = ConvTranspose <strides = [1, 2]> (p, w2, b2)""",
        (((3, 12, 3, 3), 12), ((12, 4, 2, 3), 4)), (6,),
    ),
    "concatenated": Case(
        f"""{FIRST} b = Conv (x, w2, b2) q = Relu(b) j = Concat <axis = 1> (p, q)
        y = Conv <{PADS}, strides = [2, 1]> (j, w3, b3)""",
        (MADE, ((8, 3, 1, 1), 8), ((5, 20, 3, 3), 5)), (6, 4),
    ),
    "two readers": Case(
        f"""{FIRST} b = Conv (p, w2, b2) c = Conv <auto_pad = "SAME_UPPER"> (p, w3, b3)
        y = Add(b, c)""",
        (MADE, ((5, 12, 1, 1), 5), ((5, 12, 2, 2), 5)), (6,),
    ),
    "residual stream": Case(
        f"""{FIRST} b = Conv <{PADS}> (p, w2, b2) q = Relu(b) c = Conv <{PADS}> (q, w3, b3)
        s = Add(p, c) y = Conv (s, w4, b4)""",
        (MADE, ((8, 12, 3, 3), 8), ((12, 8, 3, 3), 12), ((5, 12, 1, 1), 5)), (6, 4), RESIDUAL,
    ),
    "padded shortcut": Case(
        f"""{FIRST} b = Conv <{PADS}> (p, w2, b2) wide = Pad (p, around) s = Add(wide, b)
        t = Relu(s) y = Conv (t, w3, b3)""",
        (MADE, ((18, 12, 3, 3), 18), ((5, 18, 1, 1), 5)), (9,), RESIDUAL,
    ),
    "a chain": Case(
        f"{FIRST} b = Conv <{PADS}> (p, w2, b2) q = Relu(b) y = Conv <{PADS}> (q, w3, b3)",
        (MADE, ((10, 12, 3, 3), 10), ((5, 10, 3, 3), 5)), (6, 5),
    ),
    "flattened": Case(
        f"""{FIRST} m = MaxPool <kernel_shape = [3, 3], strides = [3, 3]> (p) f = Flatten(m)
        g = MatMul(f, w2) y = Add(g, b2)""",
        (MADE, ((108, 7), 7)), (6,),
    ),
    "pooled": Case(
        f"{FIRST} m = GlobalAveragePool(p) f = Flatten(m) y = Gemm <transB = 1> (f, w2, b2)",
        (MADE, ((7, 12), 7)), (6,),
    ),
    "without biases": Case(
        f"a = Conv <{PADS}> (x, w1) p = Relu(a) y = Conv <{PADS}> (p, w2)",
        (((12, 3, 3, 3), 0), ((5, 12, 3, 3), 0)), (6,),
    ),
}  # fmt: skip


def drawn(graphs: ModuleType, case: Case) -> Any:
    tensors: dict[str, Array] = {}
    for number, (shape, outputs) in enumerate(case.weights, 1):
        tensors[f"w{number}"] = array(*shape)
        tensors |= {f"b{number}": array(outputs)} if outputs else {}
    if "around" in case.body:
        tensors["around"] = np.array([0, 3, 0, 0, 0, 3, 0, 0], np.int64)
    result = "float[n, k] y" if "Flatten" in case.body else "float[n, c, h, w] y"
    text = head("float[n, 3, 9, 9] x", result) + "{" + case.body + "}"
    return graphs.Bench(graphs.parse(text, **tensors), FEEDS)


@pytest.mark.parametrize("name", CASES)
def test_forms_are_cut_and_fitted(graphs: ModuleType, name: str) -> None:
    case = CASES[name]
    losses = {}
    for refit in (True, False):
        RNG.bit_generator.state = np.random.default_rng(4).bit_generator.state
        bench = drawn(graphs, case)
        settings = {"ratio": 0.5, "scope": "layer", "refit": refit, **ANY, **case.options}
        (edit,) = bench.run("prune-channels", **settings).edits
        assert not bench.remarks("missed")
        assert tuple(each["kept"] for each in edit.details["groups"].values()) == case.kept
        assert not {"Slice", "Gather"} & set(graphs.ops(bench.model))
        losses[refit] = edit.loss
    assert losses[True] < losses[False]
    assert losses[True] < 0.5


def test_layers_in_a_row_and_joined_ones_are_one_edit(graphs: ModuleType) -> None:
    """What reads concatenated channels is fitted once, to what is left of both."""
    RNG.bit_generator.state = np.random.default_rng(4).bit_generator.state
    bench = drawn(graphs, CASES["concatenated"])
    before = value_of(graphs, bench, "y")
    joined = value_of(graphs, bench, "j")
    (edit,) = bench.run("prune-channels", ratio=0.5, scope="layer", reestimate=False, **ANY).edits
    first, second = edit.details["groups"].values()
    stay = np.setdiff1d(np.arange(20), [*first["removed"], *(12 + u for u in second["removed"])])
    wide = np.pad(joined[:, stay], ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(wide, (3, 3), (2, 3))[:, :, ::2]
    rows = np.moveaxis(windows, 1, 3).reshape(-1, len(stay) * 9)
    wanted = np.moveaxis(before, 1, -1).reshape(-1, 5)
    design = np.c_[rows, np.ones(len(rows))]
    explicit, *_ = np.linalg.lstsq(design, wanted, rcond=None)
    least = float(((design @ explicit - wanted) ** 2).sum())
    after = np.moveaxis(value_of(graphs, bench, "y"), 1, -1).reshape(-1, 5)
    assert float(((after - wanted) ** 2).sum()) == pytest.approx(least, rel=0.02)


def test_wide_layers_are_fitted_channel_by_channel(
    graphs: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which is worse than tap by tap and better than not at all; and it is said."""
    losses = {}
    for name, settings in (("taps", {}), ("channels", {}), ("none", {"refit": False})):
        if name == "channels":
            monkeypatch.setattr(forms, "WIDEST", WIDE * 9 - 1)
        bench = chain(graphs)
        options = {"ratio": 0.5, "reestimate": False, **ANY, **settings}
        (edit,) = bench.run("prune-channels", **options).edits
        said = {r.code for r in bench.context.remarks if r.kind == "note"}
        assert ("coarse" in said) == (name == "channels")
        losses[name] = edit.loss
    assert losses["taps"] < losses["channels"] < losses["none"]


def test_places_are_skipped_where_there_are_many(
    graphs: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forms, "PLACES", WIDE * 9 * 10)  # of 5 x 5 places 3 x 3 are left
    text = CHAIN.replace("h, w] y", "5, 5] y")
    fewer = graphs.Bench(graphs.parse(text, **WEIGHTS), FEEDS)
    looked = consumers_of(fewer.context.analysis(AXES)["conv1.channels"],
                          fewer.context.analysis(SITES))[0].observed  # fmt: skip
    assert isinstance(looked[0], Patches)
    assert dict(looked[0].window.settings)["strides"] == (4, 4)
    (edit,) = fewer.run("prune-channels", ratio=0.5, **ANY).edits
    assert edit.loss < 0.5


# -- how many --------------------------------------------------------------------------


def layer_flops(model: ir.Model) -> int:
    """Of the convolutions, for one sample."""
    shapes = bound_shapes(model, {"n": 1})
    return sum(flops(node, shapes) or 0 for node in model.graph if node.op_type == "Conv")


def weights(model: ir.Model) -> int:
    tensors = map(constant_array, model.graph.initializers.values())
    return sum(array.size for array in tensors if array is not None and array.ndim > 1)


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("name", ["residual stream", "padded shortcut", "a chain", "concatenated"])
def test_a_share_of_operations_or_parameters(graphs: ModuleType, scope: str, name: str) -> None:
    """Counted on the graph that is left: layers that lose inputs and outputs lose twice."""
    for of, counted in (("flops", layer_flops), ("parameters", weights)):
        bench = drawn(graphs, CASES[name])
        before = counted(bench.model)
        settings = {"of": of, "scope": scope, "score": "magnitude", "refit": False, **ANY}
        bench.run("prune-channels", ratio=0.4, residual=True, **settings)
        assert 1 - counted(bench.model) / before == pytest.approx(0.4, abs=0.05)


def test_a_share_that_cannot_go_goes_as_far_as_it_can(graphs: ModuleType) -> None:
    bench = drawn(graphs, CASES["depthwise"])
    (edit,) = bench.run("prune-channels", ratio=0.97, of="flops", **ANY).edits
    assert edit.setting == "1-of-12"
    assert bench.remarks("note")["model"].code == "out-of-reach"


def test_operations_that_are_not_known_cannot_be_shared_out(graphs: ModuleType) -> None:
    """The runtime knows the size of what is resized by data, and nobody before."""
    text = CHAIN.replace("h = Relu(a)", "r = Relu(a) h = Resize (r, , by)").replace(
        "9] x)", "9] x, float[4] by)"
    )
    feeds = [feed | {"by": np.ones(4, np.float32)} for feed in FEEDS]
    bench = graphs.Bench(graphs.parse(text, **WEIGHTS), feeds)
    with pytest.raises(UsageError, match="how many operations"):
        bench.run("prune-channels", of="flops", **ANY)


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ({"ratio": 0.25}, 12), ({"keep": 5}, 5), ({"ratio": 0.99}, 1), ({"keep": WIDE}, WIDE),
        ({"ratio": 0.3, "multiples": True}, 8), ({"ratio": 0.5, "scope": "layer"}, 8),
    ],
)  # fmt: skip
def test_counts(graphs: ModuleType, options: dict[str, Any], left: int) -> None:
    bench = chain(graphs, target="generic")
    assert bench.context.target.multiples.channels == 8
    bench.run("prune-channels", **{**ANY, **options})
    assert tensor(bench, "w2").shape[1] == left


@pytest.mark.parametrize(("target", "units"), [("generic", 8), ("x86-avx512-vnni", 16)])
def test_a_multiple_beyond_the_layer_leaves_it_whole(
    graphs: ModuleType, target: str, units: int
) -> None:
    fewer = {name: WEIGHTS[name][:units] for name in ("w1", "b1")}
    fewer["w2"] = WEIGHTS["w2"][:, :units]
    bench = chain(graphs, target=target, weights=fewer)
    assert bench.context.target.multiples.channels == units
    assert not bench.run("prune-channels", ratio=0.5).edits
    remark = bench.remarks("refused")["conv1"]
    assert remark.code == "multiple"
    assert "multiples=false" in remark.sentence


# -- what it leaves alone --------------------------------------------------------------


@pytest.mark.parametrize("ratio", [0, 1, -0.5, 1.5])
def test_ratios_that_are_none(ratio: float) -> None:
    with pytest.raises(UsageError, match="between 0 and 1"):
        instantiate(parse(f"prune-channels{{ratio={ratio}}}"))


def test_more_channels_than_there_are(graphs: ModuleType) -> None:
    with pytest.raises(UsageError, match="keep=17 is more channels than any layer has: 16"):
        chain(graphs).run("prune-channels", keep=17)


def test_a_selector_that_matches_nothing(graphs: ModuleType) -> None:
    with pytest.raises(UsageError, match="no site matches 'layer9'"):
        chain(graphs).run("prune-channels", exclude=("layer9",))


def test_channels_that_cannot_be_cut_say_why(graphs: ModuleType) -> None:
    bench = chain(graphs)
    bench.run("prune-channels", ratio=0.5, **ANY)
    assert sorted(bench.refusals().values()) == ["signature"]
    normed = CHAIN.replace("h = Relu(a)", "h = LRN <size = 3> (a)")
    bench = graphs.Bench(graphs.parse(normed, **WEIGHTS), FEEDS)
    assert not bench.run("prune-channels", ratio=0.5, **ANY).edits
    assert sorted(bench.refusals().values()) == ["reduction", "signature"]


def test_streams_that_several_layers_make_are_left_unless_asked_for(graphs: ModuleType) -> None:
    case = CASES["residual stream"]
    bench = drawn(graphs, case)
    (edit,) = bench.run("prune-channels", ratio=0.5, scope="layer", **ANY).edits
    assert edit.setting == "4-of-8"
    assert bench.refusals()["conv1"] == "residual"


def test_without_data_only_magnitudes_and_only_on_request(graphs: ModuleType) -> None:
    bench = chain(graphs, calibrated=False)
    assert not bench.run("prune-channels", ratio=0.5, **ANY).edits
    assert "no-calibration" in bench.refusals().values()
    bench = chain(graphs, calibrated=False)
    settings = {"score": "magnitude", "refit": False}
    (edit,) = bench.run("prune-channels", ratio=0.5, **settings, **ANY).edits
    keep = kept(edit)
    np.testing.assert_array_equal(tensor(bench, "w2"), WEIGHTS["w2"][:, keep])
    made = np.sqrt((WEIGHTS["w1"] ** 2).sum(axis=(1, 2, 3)))
    read = np.sqrt((WEIGHTS["w2"] ** 2).sum(axis=(0, 2, 3)))
    assert set(keep) == set(np.argsort(made * read)[8:])


def test_few_places_and_channels_that_say_the_same_are_fitted_with_a_ridge(
    graphs: ModuleType,
) -> None:
    """One image of 25 places for 144 inputs, half of them copies of others."""
    twins = {"w1": WEIGHTS["w1"].copy(), "b1": WEIGHTS["b1"].copy()}
    twins["w1"][8:], twins["b1"][8:] = twins["w1"][:8], twins["b1"][:8]
    bench = chain(graphs, weights=twins, feeds=images(1)[:1])
    (edit,) = bench.run("prune-channels", ratio=0.5, **ANY).edits
    assert "few-rows" in {r.code for r in bench.context.remarks if r.kind == "note"}
    assert len(set(kept(edit) % 8)) > 6
    assert edit.loss < 0.05


def test_dead_channels_go_first_and_cost_nothing(graphs: ModuleType) -> None:
    """Their Gram matrix is singular."""
    dead = {"w1": WEIGHTS["w1"].copy(), "b1": WEIGHTS["b1"].copy()}
    dead["w1"][3:11], dead["b1"][3:11] = 0, -1
    bench = chain(graphs, weights=dead)
    (edit,) = bench.run("prune-channels", ratio=0.5, **ANY).edits
    assert kept(edit).tolist() == [0, 1, 2, 11, 12, 13, 14, 15]
    assert edit.loss < 1e-6


def test_something_stays_of_each_part_of_a_split(graphs: ModuleType) -> None:
    """The four weakest channels are one half: its strongest stays, in a part of its own."""
    text = (
        head("float[n, 3, 9, 9] x", "float[n, 6, 9, 9] y")
        + f"""{{
      a = Conv <{PADS}> (x, w)
      p, q = Split <axis = 1, num_outputs = 2> (a)
      r = Conv (p, u) s = Conv (q, v)
      y = Concat <axis = 1> (r, s)
    }}"""
    )
    strength = np.array([9, 8, 7, 6, 1, 2, 4, 3], np.float32)[:, None, None, None]
    ones = np.ones((3, 4, 1, 1), np.float32)
    weights = {"w": np.tile(array(1, 3, 3, 3), (8, 1, 1, 1)) * strength, "u": ones, "v": ones}
    bench = graphs.Bench(graphs.parse(text, **weights), FEEDS)
    by = {"score": "magnitude", "refit": False, "reestimate": False, "scope": "layer"}
    outcome = bench.run("prune-channels", ratio=0.5, **by, **ANY)
    assert len(outcome.edits) == 1
    assert (tensor(bench, "u").shape[1], tensor(bench, "v").shape[1]) == (4, 1)
    np.testing.assert_array_equal(tensor(bench, "w"), weights["w"][[0, 1, 2, 3, 6]])
