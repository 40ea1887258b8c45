"""The promise under strain: a model that int8 ruins, and one too small to gain anything."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.parser

from benchmarks import peers
from benchmarks.artifacts import MODEL, compile_to, session_run
from benchmarks.data import Array, Feeds, save_feeds
from benchmarks.figures import Figure, Outcome, holds
from benchmarks.settings import Settings

Floats = npt.NDArray[np.float32]

WILD = (7, 90, 201)
WILD_GAIN = 1000.0
WIDTH, HIDDEN, BATCH = 256, 1024, 64
DRIFT_SQNR = 20.0  # dB, the default gate for outputs that are neither embeddings nor classes
BLIND_SQNR = 10.0  # what int8 everywhere must stay under for the model to count as ruined
NO_GAIN = 8
STATIC = "canonicalize,quantize{scheme=static}"

# The residual stream carries the wild channels past every block: it has several readers, and
# starts at a graph input, so that no scale can be folded into what makes it.
RUINED = f"""
<ir_version: 9, opset_import: ["" : 20]>
wild (float[batch, {WIDTH}] x) => (float[batch, {WIDTH}] y) {{
    a = MatMul(x, "up1.weight")
    b = Gelu(a)
    c = MatMul(b, "down1.weight")
    d = Add(x, c)
    e = MatMul(d, "up2.weight")
    f = Gelu(e)
    g = MatMul(f, "down2.weight")
    h = Add(d, g)
    y = MatMul(h, "head.weight")
}}
"""

TINY = """
<ir_version: 9, opset_import: ["" : 17]>
tiny (float[batch, 8] x) => (float[batch, 4] y) {
    a = MatMul(x, "first.weight")
    b = Relu(a)
    y = MatMul(b, "second.weight")
}
"""


def ruined_model(path: Path, seed: int = 0) -> Path:
    """Write a model of float32 [batch, 256] -> [batch, 256] that int8 ruins.

    Three channels are 1,000 times as large as the others, and the weights that read them as
    much smaller: every channel matters alike in float. On one int8 grid for a whole tensor the
    other channels round to zero, and on one for a column of weights the wild channels' do.
    """
    rng = np.random.default_rng(seed)
    calm = {name: normal(rng, HIDDEN, WIDTH) for name in ("down1.weight", "down2.weight")}
    wild = {name: normal(rng, WIDTH, HIDDEN) for name in ("up1.weight", "up2.weight")}
    wild["head.weight"] = normal(rng, WIDTH, WIDTH)
    for weight in wild.values():
        weight[list(WILD)] /= WILD_GAIN
    return save_text(RUINED, calm | wild, path)


def ruined_feeds(count: int, seed: int) -> list[Feeds]:
    """Feeds of 64 rows with wild channels."""
    rng = np.random.default_rng(seed)
    gain = np.ones(WIDTH, np.float32)
    gain[list(WILD)] = WILD_GAIN
    return [{"x": gain * normal(rng, BATCH, WIDTH, 1.0)} for _ in range(count)]


def tiny_model(path: Path, seed: int = 0) -> Path:
    """Write a model of 96 weights, float32 [batch, 8] -> [batch, 4]."""
    rng = np.random.default_rng(seed)
    weights = {"first.weight": normal(rng, 8, 8), "second.weight": normal(rng, 8, 4)}
    return save_text(TINY, weights, path)


def tiny_feeds(count: int, seed: int) -> list[Feeds]:
    """Feeds of 16 rows."""
    rng = np.random.default_rng(seed)
    return [{"x": normal(rng, 16, 8, 1.0)} for _ in range(count)]


def normal(rng: np.random.Generator, rows: int, columns: int, deviation: float = 0.0) -> Floats:
    """Normal numbers [rows, columns]; deviation: by default that which keeps variances."""
    drawn = rng.normal(scale=deviation or rows**-0.5, size=(rows, columns))
    return drawn.astype(np.float32)


def save_text(text: str, weights: dict[str, Floats], path: Path) -> Path:
    """Write the model in textual ONNX with these initializers to ``path``."""
    model = onnx.parser.parse_model(text)
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(weight, name) for name, weight in weights.items()
    )
    onnx.save(model, path)
    return path


def sqnr(model: Path, original: Path, feeds: list[Feeds], threads: int) -> float:
    """Signal to noise ratio in dB of the first output against the original's."""
    expected = first_output(original, feeds, threads).astype(np.float64)
    noise = first_output(model, feeds, threads) - expected
    return float(10 * np.log10((expected**2).sum() / max((noise**2).sum(), 1e-300)))


def first_output(model: Path, feeds: list[Feeds], threads: int) -> Array:
    """The first output over all feeds, rows joined."""
    run = session_run(model, threads)
    return np.concatenate([run(feed)[0] for feed in feeds])


def ruined(settings: Settings) -> Outcome:
    """A model that int8 ruins: sites given back until the drift gate holds, or over-budget."""
    settings.workdir.mkdir(parents=True, exist_ok=True)
    original = ruined_model(settings.workdir / "ruined.onnx")
    fresh = ruined_feeds(8, seed=99)
    blind = peers.onnxruntime_dynamic(original, settings.workdir / "ruined-ort-dynamic.onnx")
    blind_sqnr = sqnr(blind, original, fresh, settings.threads)
    rows = [("onnxruntime quantize_dynamic", f"{blind_sqnr:.1f}", "", "", "")]
    figures = [
        holds("ruined model: int8 everywhere does ruin it", blind_sqnr < BLIND_SQNR,
              f"{blind_sqnr:.1f} dB", f"< {BLIND_SQNR:g} dB")
    ]  # fmt: skip
    for name, pipeline in (("policy", None), ("static int8 asked for", STATIC)):
        folder = settings.workdir / f"ruined-{'static' if pipeline else 'policy'}"
        made = compile_to(folder, original, settings.target, ruined_feeds(20, seed=1),
                          settings.threads, pipeline=pipeline)  # fmt: skip
        kept = sqnr(made.path / MODEL, original, fresh, settings.threads)
        rows.append((f"planish, {name}", f"{kept:.1f}", *verdict_cells(made.manifest)))
        figures.append(honesty(name, made.manifest, kept))
    columns = ("model", "SQNR dB, fresh rows", "quality", "speed", "given back")
    return Outcome("A model that int8 ruins", columns, tuple(rows), tuple(figures))


def verdict_cells(manifest: Mapping[str, Any]) -> tuple[str, str, str]:
    """Quality verdict, speed verdict, sites given back."""
    given = ", ".join(given_back(manifest)) or "none"
    return manifest["quality"]["verdict"], manifest["speed"]["verdict"], given


def given_back(manifest: Mapping[str, Any]) -> list[str]:
    """Names of the sites that were given back, whatever the pass."""
    return [site for sites in manifest["plan"]["given_back"].values() for site in sites]


def is_honest(manifest: Mapping[str, Any], kept: float) -> bool:
    """Whether the verdict says what the model does on rows it never saw.

    kept: dB on fresh rows. Either the compile failed over budget, or the gate holds there (less
    one dB, for these are other rows) because sites were given back or nothing was quantized.
    """
    if manifest["quality"]["verdict"] == "over-budget":
        return bool(manifest["exit_code"] == 5)
    rescued = bool(given_back(manifest)) or "quantize" not in manifest["plan"]["pipeline"]
    return rescued and kept >= DRIFT_SQNR - 1


def honesty(name: str, manifest: Mapping[str, Any], kept: float) -> Figure:
    """The verdict on the ruined model against what it must be."""
    said = f"{manifest['quality']['verdict']}, {len(given_back(manifest))} sites given back"
    return holds(f"ruined model, {name}", is_honest(manifest, kept), f"{said}, {kept:.1f} dB",
                 f"≥ {DRIFT_SQNR:g} dB or over-budget")  # fmt: skip


def tiny(settings: Settings) -> Outcome:
    """A model too small to gain: no-gain, exit code 8, the lossless model."""
    settings.workdir.mkdir(parents=True, exist_ok=True)
    original = tiny_model(settings.workdir / "tiny.onnx")
    folder = settings.workdir / "tiny"
    data = save_feeds(tiny_feeds(20, seed=1), settings.workdir / "tiny-calibration")
    words = [
        sys.executable, "-m", "planish", "compile", str(original), "--target", settings.target,
        "--calibration", str(data), "--threads", str(settings.threads), "-o", str(folder),
        "--force",
    ]  # fmt: skip
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    first_line = (done.stdout or done.stderr).strip().partition("\n")[0]
    lossless = done.returncode == NO_GAIN and is_lossless(folder / MODEL, original)
    return Outcome(
        "A model too small to gain",
        ("exit code", "lossless", "first line"),
        ((str(done.returncode), str(lossless), first_line),),
        (
            holds("tiny model: exit code", done.returncode == NO_GAIN, str(done.returncode),
                  f"{NO_GAIN} (no-gain)", first_line),
            holds("tiny model: the model handed over is lossless", lossless,
                  "yes" if lossless else "no", "yes"),
        ),
    )  # fmt: skip


def is_lossless(model: Path, original: Path) -> bool:
    """Whether a model holds no integer weights and answers as the original, to 1e-5 of its size."""
    tensors = onnx.load(model).graph.initializer
    small = {onnx.TensorProto.INT8, onnx.TensorProto.UINT8, onnx.TensorProto.FLOAT16}
    if any(tensor.data_type in small for tensor in tensors):
        return False
    feeds = tiny_feeds(4, seed=99)
    expected = first_output(original, feeds, 1)
    difference = np.abs(first_output(model, feeds, 1) - expected).max()
    return bool(difference <= 1e-5 * np.abs(expected).max())
