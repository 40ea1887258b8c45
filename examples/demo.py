"""Compile all-MiniLM-L6-v2 for this machine and show what that changed: ``make demo``.

Sentences of Python's own documentation calibrate the model; others, held out, measure it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import planish

OUTPUT = Path(__file__).resolve().parent.parent / "out" / "demo"
MAX_DROP = 2.0
"""Percent of the held-out sentences whose nearest neighbour may become a wrong one."""


def main() -> int:
    """The exit code of the compile; 3 where the demo's packages are missing."""
    console = Console()
    try:
        return demo(console)
    except ModuleNotFoundError as error:
        console.print(f"The demo needs the package {error.name}; `make demo` installs it.")
        return planish.InputError.exit_code
    except planish.PlanishError as error:
        console.print(str(error), markup=False)
        return error.exit_code


def demo(console: Console) -> int:
    """Compile, compare, print. Raises ModuleNotFoundError, and what ``planish.compile`` does."""
    import minilm

    start = time.perf_counter()
    module, examples, axes = minilm.model()
    artifact = planish.compile(
        module,
        "host",
        example_inputs=examples,
        dynamic_shapes=axes,
        calibration=minilm.calibration(),
        holdout=minilm.holdout(),
        evaluate=minilm.evaluate,
        max_drop=MAX_DROP,
        output=OUTPUT,
        force=True,
    )
    float_, compiled = minilm.reference(), minilm.embed(artifact.session().run)
    cosine = float(np.mean(np.sum(compiled * float_, axis=1)))
    same = 100.0 * float(np.mean(minilm.nearest(compiled) == minilm.nearest(float_)))
    console.print(artifact.verdict, style="bold", markup=False, highlight=False, soft_wrap=True)
    console.print(table(artifact.manifest, minilm.TIMED, cosine, same))
    console.print(
        f"{minilm.CALIBRATION} sentences calibrated it, {minilm.HELD_OUT} others measured it; "
        f"{time.perf_counter() - start:.0f} s in all.\nThe artifact: {artifact.path}\n"
        f"Why each layer is as it is: {artifact.path / 'report.md'}",
        highlight=False,
        soft_wrap=True,
    )
    return artifact.exit_code


def table(manifest: Mapping[str, Any], timed: int, cosine: float, same: float) -> Table:
    """Before, after, ratio. cosine and same (percent) compare with the float module itself."""
    size = manifest["bytes_before"] / 1e6, manifest["bytes_after"] / 1e6
    speed, near = manifest["speed"], manifest["quality"]["rows"][0]
    grid = Table("all-MiniLM-L6-v2", "before", "after", "ratio")
    grid.add_row("size", f"{size[0]:.1f} MB", f"{size[1]:.1f} MB", f"{size[0] / size[1]:.2f}x")
    if speed["ratio"] is not None:
        before, after = f"{speed['before']:.0f} ms", f"{speed['after']:.0f} ms"
        grid.add_row(f"latency, {timed} sentences", before, after, f"{speed['ratio']:.2f}x")
    grid.add_row("embedding cosine to float", "1", f"{cosine:.4f}", f"{cosine:.4f}")
    grid.add_row("same nearest neighbour", "100 %", f"{same:.1f} %", f"{same / 100:.3f}")
    before, after = f"{near['before']:.4g} %", f"{near['after']:.1f} %"
    ratio = f"{near['after'] / near['before']:.3f}"
    grid.add_row("… among the float model's five nearest", before, after, ratio)
    return grid


if __name__ == "__main__":
    sys.exit(main())
