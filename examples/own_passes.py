"""Three passes of one's own in one compile: a pattern, weights that change, and one of others.

    python examples/own_passes.py

The passes are in ``passes/``, a file each. What they did is read from the artifact's manifest.
"""

from __future__ import annotations

import collections
from pathlib import Path

import numpy as np
import onnx_ir as ir

import planish

PASSES = sorted((Path(__file__).resolve().parent / "passes").glob("*.py"))
PIPELINE = "canonicalize,only-once,div-to-mul,cluster{values=64}"
WIDTH = 64


def model() -> ir.Model:
    """Scores of one matrix product over another, scaled, twice the same; then a layer."""
    random = np.random.default_rng(0)
    weights = {
        "query.weight": random.normal(size=(WIDTH, WIDTH)) / 8,
        "out.weight": random.normal(size=(WIDTH, WIDTH)) / 8,
        "scale": np.array(7.3),
    }
    return ir.from_onnx_text(
        f"""
        <ir_version: 9, opset_import: ["" : 17]>
        scores (float[batch, {WIDTH}] x) => (float[batch, {WIDTH}] y) {{
            q = MatMul(x, "query.weight")
            a = Div(q, scale)
            b = Div(q, scale)
            c = Softmax<axis = -1>(a)
            d = Tanh(b)
            e = Mul(c, d)
            y = MatMul(e, "out.weight")
        }}
        """,
        initializers=[ir.tensor(a.astype(np.float32), name=n) for n, a in weights.items()],
    )


def main() -> None:
    """Compile, and say what each pass did."""
    artifact = planish.compile(model(), "generic", pipeline=PIPELINE, pass_files=PASSES)
    print(artifact.verdict)
    edits = collections.defaultdict(list)
    for edit in artifact.manifest["edits"]:
        edits[edit["pass"]].append(edit)
    for name, made in edits.items():
        losses = [edit["loss"] for edit in made if edit["loss"] is not None]
        loss = f", largest loss {max(losses):.1e}" if losses else ""
        print(f"{name}: {len(made)} edits, {made[0]['lineage']} lineage{loss}")


if __name__ == "__main__":
    main()
