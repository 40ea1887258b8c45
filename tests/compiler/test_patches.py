"""Gram matrices of what convolutions multiply by their weights, against numpy."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from planish.compiler.calibration.grams import collect_grams
from planish.compiler.calibration.observers import Columns
from planish.passes.api import CALIBRATED, GRAMS, Patches, Window

Array = NDArray[Any]
RNG = np.random.default_rng(2)


def patches(
    x: Array,
    kernel: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
) -> Array:
    """Rows [places, channels * taps] of float64, by loops over places and taps."""
    axes = len(kernel)
    around = zip(pads[:axes], pads[axes:], strict=True)
    wide = np.pad(x.astype(np.float64), [(0, 0), (0, 0), *around])
    spans = [d * (k - 1) + 1 for k, d in zip(kernel, dilations, strict=True)]
    counts = [(n - s) // t + 1 for n, s, t in zip(wide.shape[2:], spans, strides, strict=True)]
    rows = []
    for sample in wide:
        for place in itertools.product(*map(range, counts)):
            taps = [
                sample[(slice(None), *(p * t + k * d for p, t, k, d in
                                       zip(place, strides, tap, dilations, strict=True)))]
                for tap in itertools.product(*map(range, kernel))
            ]  # fmt: skip
            rows.append(np.stack(taps, axis=1).reshape(-1))
    return np.stack(rows)


PLACED = [
    ((3, 3), (1, 1), (1, 1, 1, 1), (1, 1)), ((3, 2), (2, 1), (0, 1, 2, 0), (1, 1)),
    ((2, 3), (1, 2), (0, 0, 0, 0), (2, 1)), ((1, 1), (2, 2), (0, 0, 0, 0), (1, 1)),
    ((3,), (2,), (1, 1), (1,)), ((2, 2, 2), (1, 1, 2), (0, 1, 0, 0, 0, 1), (1, 1, 1)),
]  # fmt: skip


@pytest.mark.parametrize(("kernel", "strides", "pads", "dilations"), PLACED)
def test_rows_are_what_the_taps_meet_with_the_zeros_of_the_padding(
    graphs: ModuleType,
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    pads: tuple[int, ...],
    dilations: tuple[int, ...],
) -> None:
    axes = ", ".join("hwd"[: len(kernel)])
    model = graphs.parse(
        f'<ir_version: 10, opset_import: ["" : 20]>\n'
        f"g (float[n, 3, {axes}] x) => (float[n, 3, {axes}] y) {{ y = Relu(x) }}"
    )
    feeds = [{"x": RNG.normal(size=(n, 3, *(7, 6, 5)[: len(kernel)]))} for n in (2, 1)]
    feeds = [{"x": feed["x"].astype(np.float32)} for feed in feeds]
    settings = (("dilations", dilations), ("pads", pads), ("strides", strides))
    window = Window("Conv", 3, kernel, settings)
    gram = collect_grams(model, [Columns("x", 1, None, window)], feeds, None)["x"]
    rows = np.concatenate([patches(f["x"], kernel, strides, pads, dilations) for f in feeds])
    assert gram.count == len(rows)
    assert rows.shape[1] == window.width
    np.testing.assert_allclose(gram.matrix, rows.T @ rows, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(gram.mean, rows.mean(axis=0), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("operator", ["Conv", "ConvTranspose"])
@pytest.mark.parametrize("pad", ["NOTSET", "SAME_UPPER"])
def test_the_weight_times_a_row_is_the_output(graphs: ModuleType, operator: str, pad: str) -> None:
    """Whatever the operator: its energy is that of the Gram matrix under the weight."""
    placing = 'strides = [2, 3], auto_pad = "SAME_UPPER"' if pad != "NOTSET" else (
        "strides = [2, 3], pads = [1, 0, 0, 2]"
    )  # fmt: skip
    weight = RNG.normal(size=(4, 5, 3, 3)).astype(np.float32)
    inputs = weight.shape[1 if operator == "Conv" else 0]
    model = graphs.parse(
        f'<ir_version: 10, opset_import: ["" : 20]>\n'
        f"g (float[n, {inputs}, 9, 8] x) => (float[n, c, h, w] y) "
        f"{{ y = {operator} <{placing}> (x, w) }}",
        w=weight,
    )
    feed = {"x": RNG.normal(size=(3, inputs, 9, 8)).astype(np.float32)}
    y = graphs.run(model, feed)["y"].astype(np.float64)
    node = next(iter(model.graph))
    settings = tuple(
        (name, node.attributes[name].value)
        for name in ("auto_pad", "pads", "strides") if name in node.attributes
    )  # fmt: skip
    window = Window(operator, inputs, (3, 3), settings)
    gram = collect_grams(model, [Columns("x", 1, None, window)], [feed], None)["x"]
    order = (1, 2, 3, 0) if operator == "Conv" else (0, 2, 3, 1)
    matrix = weight.astype(np.float64).transpose(order).reshape(inputs * 9, -1)
    outputs = np.moveaxis(y, 1, -1).reshape(-1, y.shape[1])
    assert gram.count == len(outputs)
    np.testing.assert_allclose(
        matrix.T @ gram.matrix @ matrix, outputs.T @ outputs, rtol=1e-4, atol=1e-3
    )
    np.testing.assert_allclose(gram.mean @ matrix, outputs.mean(axis=0), rtol=1e-4, atol=1e-4)


def test_patches_and_channels_of_one_value_are_kept_apart(graphs: ModuleType) -> None:
    model = graphs.parse(
        '<ir_version: 10, opset_import: ["" : 20]>\n'
        "g (float[n, 3, 6, 6] x) => (float[n, 3, 6, 6] y) { y = Relu(x) }"
    )
    bench = graphs.Bench(model, [{"x": RNG.normal(size=(4, 3, 6, 6)).astype(np.float32)}])
    assert bench.context.analysis(CALIBRATED)
    small, large = (
        Patches("y", 1, Window("Conv", 3, (k, k), (("pads", (k // 2,) * 4),))) for k in (1, 3)
    )
    grams = bench.context.analysis(GRAMS, (("y", 1), large, small))
    widths = [len(grams[looked].mean) for looked in (("y", 1), large, small)]
    assert widths == [3, 27, 3]
    np.testing.assert_allclose(grams[small].matrix, grams["y", 1].matrix, rtol=1e-6)
    centre = np.arange(3) * 9 + 4
    np.testing.assert_allclose(
        grams[large].matrix[np.ix_(centre, centre)], grams["y", 1].matrix, rtol=1e-6
    )
    assert len({grams.origin(looked) for looked in (("y", 1), large, small)}) == 3
