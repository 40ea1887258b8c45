from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest

from planish.compiler.calibration import bypassed
from planish.ir.errors import UsageError
from planish.ir.residuals import find_residuals, reads_between
from planish.ir.sites import find_sites

Array = np.ndarray[Any, Any]
WIDTH, HEADS, TOKENS = 16, 2, 5
HEAD = (
    '<ir_version: 10, opset_import: ["" : 20]>\n'
    "g (float[b, s, 16] x, float[b, 1, 1, s] mask) => (float[b, s, 16] y) "
)
RNG = np.random.default_rng(5)
FEEDS = [
    {
        "x": RNG.normal(size=(3, TOKENS, WIDTH)).astype(np.float32),
        "mask": np.where(np.arange(TOKENS) < 4, 0, -1e4).astype(np.float32)[None, None, None]
        * np.ones((3, 1, 1, 1), np.float32),
    }
    for _ in range(2)
]


def attention(i: int, x: str) -> str:
    """Of two heads; its result is ``t{i}``."""
    lines = []
    for role, perm in (("q", "0,2,1,3"), ("k", "0,2,3,1"), ("v", "0,2,1,3")):
        lines += [
            f"{role}p{i} = MatMul({x}, {role}w{i})",
            f"{role}b{i} = Add({role}p{i}, {role}c{i})",
            f"{role}r{i} = Reshape({role}b{i}, split)",
            f"{role}t{i} = Transpose<perm=[{perm}]>({role}r{i})",
        ]
    lines += [
        f"z{i} = MatMul(qt{i}, kt{i})", f"zs{i} = Mul(z{i}, scale)", f"zm{i} = Add(zs{i}, mask)",
        f"p{i} = Softmax(zm{i})", f"h{i} = MatMul(p{i}, vt{i})",
        f"ht{i} = Transpose<perm=[0,2,1,3]>(h{i})", f"hr{i} = Reshape(ht{i}, join)",
        f"om{i} = MatMul(hr{i}, ow{i})", f"t{i} = Add(om{i}, oc{i})",
    ]  # fmt: skip
    return " ".join(lines)


def forward(i: int, x: str) -> str:
    """Its result is ``f{i}``."""
    return (
        f"u{i} = MatMul({x}, uw{i}) ub{i} = Add(u{i}, uc{i}) a{i} = Relu(ub{i}) "
        f"d{i} = MatMul(a{i}, dw{i}) f{i} = Add(d{i}, dc{i})"
    )


def before(i: int, x: str) -> str:
    """A layer that normalises what it reads."""
    return (
        f"n{i} = LayerNormalization({x}, gain, shift) {attention(i, f'n{i}')} "
        f"s{i} = Add({x}, t{i}) m{i} = LayerNormalization(s{i}, gain, shift) "
        f"{forward(i, f'm{i}')} e{i} = Add(s{i}, f{i}) "
    )


def behind(i: int, x: str) -> str:
    """A layer that normalises its sums."""
    return (
        f"{attention(i, x)} s{i} = Add({x}, t{i}) n{i} = LayerNormalization(s{i}, gain, shift) "
        f"{forward(i, f'n{i}')} r{i} = Add(n{i}, f{i}) "
        f"e{i} = LayerNormalization(r{i}, gain, shift) "
    )


def weights(layers: int) -> dict[str, Array]:
    rng, made = np.random.default_rng(3), dict[str, Array]()
    for i in range(layers):
        strength = (0.5, 0.02, 0.3, 0.1)[i]
        for role in "qkvo":
            made[f"{role}w{i}"] = rng.normal(size=(WIDTH, WIDTH)) / 4
            made[f"{role}c{i}"] = rng.normal(size=WIDTH) * 0.1
        made[f"uw{i}"], made[f"uc{i}"] = rng.normal(size=(WIDTH, 32)) / 4, rng.normal(size=32)
        made[f"dw{i}"] = strength * rng.normal(size=(32, WIDTH))
        made[f"dc{i}"] = strength * rng.normal(size=WIDTH)
        made[f"ow{i}"] *= strength
        made[f"oc{i}"] *= strength
    floats = {n: a.astype(np.float32) for n, a in made.items()}
    return floats | {
        "split": np.array([0, 0, HEADS, WIDTH // HEADS]), "join": np.array([0, 0, WIDTH]),
        "scale": np.array(0.35, np.float32), "gain": np.ones(WIDTH, np.float32),
        "shift": np.zeros(WIDTH, np.float32),
    }  # fmt: skip


def transformer(graphs: ModuleType, style: Any, layers: int = 3, **settings: Any) -> Any:
    body = "".join(style(i, f"e{i - 1}" if i else "x") for i in range(layers))
    text = HEAD + "{ " + body + f"y = Identity(e{layers - 1}) }}"
    return graphs.Bench(graphs.parse(text, **weights(layers)), FEEDS, **settings)


def without(graphs: ModuleType, style: Any, gone: set[int], layers: int = 3) -> dict[str, Array]:
    """The outputs of a network in which those blocks add nothing: written down, not edited."""
    made = weights(layers)
    for i in gone:
        for name in ("ow", "oc", "dw", "dc"):
            made[f"{name}{i}"] = np.zeros_like(made[f"{name}{i}"])
    body = "".join(style(i, f"e{i - 1}" if i else "x") for i in range(layers))
    text = HEAD + "{ " + body + f"y = Identity(e{layers - 1}) }}"
    return graphs.run(graphs.parse(text, **made), FEEDS[0])  # type: ignore[no-any-return]


@pytest.mark.parametrize("style", [before, behind])
def test_the_layer_that_is_missed_least_goes(graphs: ModuleType, style: Any) -> None:
    bench = transformer(graphs, style)
    (edit,) = bench.run("drop-layers").edits
    assert edit.details["blocks"] == ["block2.attention", "block2.ffn"]
    assert edit.saving == 4 * (4 * WIDTH * WIDTH + 2 * 32 * WIDTH)
    left = {name for name in bench.model.graph.initializers if name.endswith("1")}
    assert left == set()
    expected = without(graphs, style, {1})["y"]
    np.testing.assert_allclose(bench.outputs(FEEDS[0])["y"], expected, rtol=0, atol=1e-5)
    kept = bench.remarks("refused")
    assert {r.code for r in kept.values()} == {"missed-more"}
    assert all("outputs change by" in r.sentence for r in kept.values())


@pytest.mark.parametrize("style", [before, behind])
def test_several_go_one_after_the_other(graphs: ModuleType, style: Any) -> None:
    bench = transformer(graphs, style, layers=4)
    edits = bench.run("drop-layers", ratio=0.5).edits
    gone = {int(edit.site[-1]) - 1 for edit in edits}
    assert gone == {1, 3}, "the two weakest"
    expected = without(graphs, style, gone, layers=4)["y"]
    np.testing.assert_allclose(bench.outputs(FEEDS[0])["y"], expected, rtol=0, atol=1e-5)


def test_what_the_outputs_change_by_is_measured(graphs: ModuleType) -> None:
    """Against a network written down without the layer, in float64."""
    bench = transformer(graphs, before)
    full = bench.outputs(FEEDS[0])["y"].astype(np.float64)
    (edit,) = bench.run("drop-layers").edits
    less = without(graphs, before, {1})["y"].astype(np.float64)
    expected = ((less - full) ** 2).sum() / (full**2).sum()
    assert edit.details["output change"] == pytest.approx(expected, rel=0.05)
    assert edit.loss == pytest.approx(expected, rel=0.9), "of the sum itself, not of the outputs"


def test_blocks_can_go_by_themselves(graphs: ModuleType) -> None:
    bench = transformer(graphs, before)
    (edit,) = bench.run("drop-layers", of="blocks", only=("block3.ffn",)).edits
    assert (edit.site, edit.details["blocks"]) == ("block3.ffn", ["block3.ffn"])
    assert "uw2" not in bench.model.graph.initializers
    assert "qw2" in bench.model.graph.initializers


def test_named_layers_go_unmeasured_and_without_data(graphs: ModuleType) -> None:
    bench = transformer(graphs, behind, calibrated=False)
    assert bench.run("drop-layers").edits == []
    assert set(bench.refusals().values()) == {"no-calibration"}
    (edit,) = bench.run("drop-layers", only=("block3",)).edits
    assert edit.details["blocks"] == ["block3.attention", "block3.ffn"]
    assert "output change" not in edit.details


def test_excluded_layers_stay(graphs: ModuleType) -> None:
    bench = transformer(graphs, before)
    (edit,) = bench.run("drop-layers", exclude=("block2.ffn",)).edits
    assert edit.details["blocks"] == ["block3.attention", "block3.ffn"]
    assert bench.refusals()["block2"] == "excluded"


def test_one_layer_stays_at_least(graphs: ModuleType) -> None:
    with pytest.raises(UsageError, match="3 of 3 layers are to go; at least one has to stay"):
        transformer(graphs, before).run("drop-layers", count=3)
    with pytest.raises(UsageError, match="no site matches 'block7'"):
        transformer(graphs, before).run("drop-layers", only=("block7",))


@pytest.mark.parametrize("options", [{"count": 0}, {"ratio": 1.0}, {"ratio": 0.0}])
def test_numbers_that_make_no_sense_are_refused(
    graphs: ModuleType, options: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=r"not (at least|between)"):
        transformer(graphs, before).run("drop-layers", **options)


def test_a_block_that_is_not_added_to_what_it_reads_stays(graphs: ModuleType) -> None:
    body = forward(0, "x") + " w = Sigmoid(mask) g = Mul(x, f0) " + forward(1, "g")
    text = HEAD.replace("mask)", "mask, float[b, s, 16] o)") + (
        "{ " + body + " y = Add(o, f1) }"  # the other operand leads nowhere into the block
    )
    made = {n: a for n, a in weights(2).items() if n[:2] in ("uw", "uc", "dw", "dc")}
    feeds = [{**FEEDS[0], "o": FEEDS[1]["x"]}]
    bench = graphs.Bench(graphs.parse(text, **made), feeds)
    assert bench.run("drop-layers").edits == []
    assert set(bench.refusals().values()) == {"not-residual"}


# -- what it stands on -----------------------------------------------------------------


def test_regions_end_at_what_does_not_depend_on_their_start(graphs: ModuleType) -> None:
    model = transformer(graphs, before, layers=2).model
    first, second = (b for b in find_residuals(find_sites(model)) if b.site.kind == "attention")
    assert [v.name for v in reads_between(first.skip, first.sum) or []] == ["x", "mask"]
    assert [v.name for v in reads_between(second.skip, second.sum) or []] == ["e0", "mask"]
    assert reads_between(second.skip, first.sum) is None


def test_a_last_layer_that_is_stored_the_other_way_round_goes_too(graphs: ModuleType) -> None:
    """Its weight is read through a Transpose, since others read it as it stands."""
    made = weights(2)
    for i in range(2):
        made[f"dw{i}"] = made[f"dw{i}"].T.copy()
    body = "".join(before(i, f"e{i - 1}" if i else "x") for i in range(2))
    for i in range(2):
        body = body.replace(f"d{i} = MatMul(a{i}, dw{i})", f"v{i} = Transpose(dw{i}) "
                            f"d{i} = MatMul(a{i}, v{i})")  # fmt: skip
    text = (
        HEAD.replace("y)", "y, float[16, 32] z)") + "{ " + body + "y = Identity(e1) z = Abs(dw1) }"
    )
    bench = graphs.Bench(graphs.parse(text, **made), FEEDS)
    (edit,) = bench.run("drop-layers", of="blocks", only=("block2.ffn",)).edits
    assert edit.loss > 0
    assert "region-differs" not in {r.code for r in bench.context.remarks}


def test_changes_of_several_outputs_are_not_averaged_away() -> None:
    big, small = np.full((2, 3), 1000.0), np.array([[1.0, 2.0]])
    assert bypassed.change([[big, small]], [[big, small]]) == 0
    assert bypassed.change([[big, small]], [[big, small * 2]]) == pytest.approx(1.0)
    assert bypassed.change([[np.zeros(3)]], [[np.ones(3)]]) == 1
    assert bypassed.change([[big]], [[big * np.nan]]) == float("inf")
    assert bypassed.change([[np.arange(3)]], [[np.arange(3) + 1]]) == 0, "no floating point"
