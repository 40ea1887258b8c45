from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from planish.ir.axes.find import find_axis_groups
from planish.ir.sites import find_sites
from planish.passes.cutting.consumers import consumers_of
from planish.passes.cutting.region import CutRegion, cut_region

RNG = np.random.default_rng(0)


def array(*shape: int) -> Any:
    return RNG.normal(size=shape).astype(np.float32)


def head(inputs: str, outputs: str) -> str:
    return f'<ir_version: 10, opset_import: ["" : 20]>\ng ({inputs}) => ({outputs})\n'


def region(graphs: ModuleType, text: str, kind: Any, **given: Any) -> CutRegion:
    model = graphs.parse(text, **given)
    sites = find_sites(model)
    groups = find_axis_groups(model, sites).cuttable(kind)
    readers = [reader for group in groups for reader in consumers_of(group, sites)]
    return cut_region(model, groups, readers)


WEIGHTS = {"up": array(6, 16), "down": array(16, 5), "bias": array(5)}


def test_it_reaches_from_the_first_layers_inputs_to_the_biases_of_the_last(
    graphs: ModuleType,
) -> None:
    text = head("float[n, 6] x", "float[n, 5] y") + (
        "{ s = Sin(x) a = MatMul(s, up) b = Relu(a) c = MatMul(b, down) d = Add(c, bias)"
        " y = Cos(d) }"
    )
    assert region(graphs, text, "neurons", **WEIGHTS) == CutRegion(("s",), ("d",), 6 + 16)


def test_what_joins_on_the_way_is_an_input(graphs: ModuleType) -> None:
    """Through the same function for all channels; constants are none."""
    text = head("float[n, 6] x, float[n, 1] gain", "float[n, 5] y") + (
        "{ a = MatMul(x, up) g = Abs(gain) b = Mul(a, g) h = Mul(b, two) y = MatMul(h, down) }"
    )
    given = {"up": WEIGHTS["up"], "down": WEIGHTS["down"], "two": np.float32(2)}
    assert region(graphs, text, "neurons", **given).inputs == ("g", "x")


def test_sizes_are_computed_inside_where_they_hold_what_is_cut(graphs: ModuleType) -> None:
    text = head("float[n, t, 6] x", "float[n, t, 5] y") + (
        """{
  shape = Shape <start = 0, end = 2> (x)
  a = MatMul(x, up)
  split = Concat <axis = 0> (shape, fours) b = Reshape(a, split)
  flat = Concat <axis = 0> (shape, wide) h = Reshape(b, flat)
  y = MatMul(h, down)
}"""
    )
    given = {
        "up": WEIGHTS["up"], "down": WEIGHTS["down"],
        "fours": np.array([4, 4]), "wide": np.array([16]),
    }  # fmt: skip
    model = graphs.parse(text, **given)
    sites = find_sites(model)
    groups = find_axis_groups(model, sites).cuttable()
    found = cut_region(model, groups[:1], consumers_of(groups[0], sites))
    assert (found.inputs, found.outputs) == (("shape", "x"), ("y",))


def test_what_is_made_from_no_layer_along_the_axis_is_made_inside(graphs: ModuleType) -> None:
    """As T5's attention to the encoder adds zeros for each head where it has no positions."""
    text = head("float[n, 6] x", "float[n, 5] y") + (
        """{
  rows = Shape <end = 1> (x)
  a = MatMul(x, up)
  shape = Concat <axis = 0> (rows, wide) nothing = Expand(none, shape) h = Add(a, nothing)
  y = MatMul(h, down)
}"""
    )
    given = {
        "up": WEIGHTS["up"], "down": WEIGHTS["down"],
        "wide": np.array([16]), "none": np.float32(0),
    }  # fmt: skip
    found = region(graphs, text, "neurons", **given)
    assert (found.inputs, found.outputs) == (("rows", "x"), ("y",))
