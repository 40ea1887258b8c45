"""A slice that pruning costs more than the whole stands in the report of a compile."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np

import planish

RNG = np.random.default_rng(0)
COMMON, RARE, HIDDEN = 8, 8, 64
TEXT = """<ir_version: 10, opset_import: ["" : 20]>
g (float[n, 16] x) => (float[n, 4] y) { h = MatMul(x, up) r = Relu(h) y = MatMul(r, down) }"""


def weights() -> tuple[np.ndarray, np.ndarray]:
    """Half of the hidden units look at the first features, the others, smaller, at the rest."""
    up = RNG.normal(size=(COMMON + RARE, HIDDEN))
    up[:COMMON, HIDDEN // 2 :] = 0
    up[COMMON:, : HIDDEN // 2] = 0
    up[:, HIDDEN // 2 :] *= 0.01
    return up.astype(np.float32), RNG.normal(size=(HIDDEN, 4)).astype(np.float32)


def test_a_slice_that_falls_is_named_in_report_and_manifest(
    graphs: ModuleType, tmp_path: Path
) -> None:
    up, down = weights()
    x = RNG.normal(size=(400, COMMON + RARE)).astype(np.float32)
    rare = np.arange(400) % 20 == 0
    x[~rare, COMMON:] = 0
    x[rare, :COMMON] = 0
    x[rare] *= 100
    y = np.maximum(x @ up, 0) @ down

    def near(run: object) -> planish.Scores:
        error = np.abs(run({"x": x})[0] - y).mean(axis=1)  # type: ignore[operator]
        return planish.Scores(-error, slices={"common": ~rare, "rare": rare})

    made = planish.compile(
        graphs.parse(TEXT, up=up, down=down), "x86-avx512-vnni", evaluate=near, max_drop=5,
        pipeline="prune-neurons{ratio=0.5 score=magnitude refit=false}", threads=1,
        output=tmp_path / "out", goal="size",
    )  # fmt: skip
    whole, common, row = made.manifest["quality"]["rows"]
    assert [common["name"], row["name"]] == ["common", "rare"]
    assert abs(common["drop"]) < 1e-4
    assert row["drop"] > row["low"] > whole["drop"] > 0
    (said,) = made.manifest["quality"]["apart"]
    assert said.startswith("slice rare loses ")
    assert said.endswith(f"where the whole loses {whole['drop']:.2g}")
    assert f"* {said}" in made.report
