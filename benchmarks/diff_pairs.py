"""Pairs of models that other tools made, and what ``planish diff`` says of them.

The texts are files, ``tests/workloads/diffs/NAME.txt``: whoever changes what the diff says looks at
what becomes of them (``python benchmarks/diff_pairs.py MODEL`` writes them anew).
"""

from __future__ import annotations

import difflib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).resolve().parent.parent))

from benchmarks.data import ROOT, Feeds
from benchmarks.figures import Outcome, holds
from benchmarks.peers import (
    environment,
    install,
    onnxruntime_dynamic,
    quiet,
)
from benchmarks.settings import Settings

TEXTS = ROOT / "tests" / "workloads" / "diffs"
HEADS, WIDTH = 12, 384
"""Of MiniLM."""

Make = Callable[[Path, Path], Path]


def static(model: Path, output: Path) -> Path:
    """``quantize_static`` of onnxruntime with its defaults, on two short feeds."""
    from onnxruntime.quantization import quantize_static

    from benchmarks.peers_worker import Reader

    with quiet():
        quantize_static(model, output, Reader([_feed(seed) for seed in range(2)]))
    return output


def optimizer(model: Path, output: Path) -> Path:
    """``onnxruntime.transformers.optimizer`` for BERT."""
    from onnxruntime.transformers import optimizer as tool

    with quiet():
        made = tool.optimize_model(
            str(model), model_type="bert", num_heads=HEADS, hidden_size=WIDTH
        )
        made.save_model_to_file(str(output))
    return output


HERE: Mapping[str, Make] = {
    "onnxruntime-dynamic": onnxruntime_dynamic,
    "onnxruntime-static": static,
    "onnxruntime-optimizer": optimizer,
}
"""What is made with the packages of planish itself."""


def onnxslim(model: Path, output: Path, python: Path) -> Path:
    """``onnxslim.slim`` with its defaults, in its own environment."""
    code = (
        "import onnx, onnxslim, sys; onnx.save(onnxslim.slim(onnx.load(sys.argv[1])), sys.argv[2])"
    )
    subprocess.run([str(python), "-c", code, str(model), str(output)], check=True,
                   capture_output=True)  # fmt: skip
    return output


def text_of(before: Path, after: Path) -> str:
    """What ``planish diff`` says, called by the names of the files alone."""
    from planish.compiler.diffing import compare
    from planish.compiler.reporting.difftext import Shown, lines

    _, *rest = [line.text for line in lines(compare(before, after), Shown())]
    return "\n".join([f"{before.name} -> {after.name}", *rest, ""])


def known(name: str) -> str:
    """The text that is kept."""
    return (TEXTS / f"{name}.txt").read_text("utf8")


def other_lines(name: str, text: str) -> list[str]:
    """Lines in which a text is another than the one that is kept."""
    found = difflib.unified_diff(known(name).splitlines(), text.splitlines(), "kept", "now", n=0)
    return list(found)


def diff_tools(settings: Settings) -> Outcome:
    """MiniLM against what onnxruntime's tools and onnxslim make of it, each as its text says."""
    from benchmarks.data import minilm_task

    model = minilm_task(settings.workdir).model
    rows, figures = [], []
    with tempfile.TemporaryDirectory() as folder:
        for name, after in _made(model, Path(folder), settings):
            text = text_of(model, after)
            wrong = other_lines(name, text)
            first = text.split("\n\n")[1].strip().splitlines()[0].strip()
            rows.append((name, str(text.count("\n")), first))
            figures.append(holds(f"{name}: the text that is kept", not wrong,
                                 f"{len(wrong)} other lines", "none"))  # fmt: skip
    return Outcome(
        "MiniLM against what other tools make of it", ("tool", "lines", "first that was done"),
        tuple(rows), tuple(figures),
    )  # fmt: skip


def _made(model: Path, folder: Path, settings: Settings) -> list[tuple[str, Path]]:
    made = [(name, make(model, folder / f"{name}.onnx")) for name, make in HERE.items()]
    slim = environment("onnxslim", settings.workdir)
    slim = slim if slim.python is not None else install("onnxslim", settings.workdir)
    if slim.python is None:
        raise RuntimeError(f"onnxslim {slim.reason}")
    return [*made, ("onnxslim", onnxslim(model, folder / "onnxslim.onnx", slim.python))]


def _feed(seed: int) -> Feeds:
    ids = np.random.default_rng(seed).integers(1000, 20000, (2, 16))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def main(words: list[str]) -> None:
    """Write the texts anew from a MiniLM that the benchmarks exported."""
    model = Path(words[0])
    TEXTS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for name, after in _made(model, Path(folder), Settings()):
            (TEXTS / f"{name}.txt").write_text(text_of(model, after), "utf8")


if __name__ == "__main__":
    main(sys.argv[1:])
