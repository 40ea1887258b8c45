"""Build and run the engine where the model is compiled, if TensorRT and a GPU are there.

The scripts of the kit do it, in processes of their own: what the user gets is what was tried, and a
crash of the GPU's runtime ends no compile. Nobody ran this with a GPU yet; its tests have scripts
in their place that answer as documented.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ....ir.errors import InputError
from ...reporting.kit import BUILD_PYTHON, RUN
from ...reporting.samples import arrays_of, write_arrays
from ...reporting.selftest import fidelity
from .inspection import EngineLayers, read_layers

if TYPE_CHECKING:
    from ...result import CompileResult, Engine, Sample

PLAN, LAYERS = "model.plan", "layers.json"
BUILD_SECONDS, RUN_SECONDS = 3600, 600
LOSS_DB, MOST_DB = 3.0, 60.0
"""The engine may be so much farther from the original than the reference; float16 gives some 60."""
_SAID = 300


class ScriptError(Exception):
    """A script of the kit that failed; the text is the end of what it said."""


@dataclass(frozen=True)
class Compared:
    """An engine's answers beside the recorded ones. worst: the largest difference in tolerances."""

    samples: int
    worst: float
    failures: tuple[str, ...] = ()


@dataclass(frozen=True)
class Attempt:
    """What came of building an engine here. failed: "" where all went well."""

    said: str
    checks: tuple[str, ...] = ()
    failed: str = ""
    layers: dict[str, int] = field(default_factory=dict)


def with_engine(result: CompileResult, folder: Path, gpu: str) -> CompileResult:
    """The result after an engine of the model in the folder was built, run and looked into."""
    engine = result.engine
    assert engine is not None, "TensorRT builds engines"
    attempt = build_here(folder, engine, result.samples, gpu)
    known = replace(
        engine, built=attempt.said, checks=(*engine.checks, *attempt.checks), layers=attempt.layers
    )
    if not attempt.failed:
        return replace(result, engine=known)
    notes = (f"the engine: {attempt.failed}", *result.notes)
    shortfall = "; ".join(filter(None, (result.shortfall, "the engine was built here and failed")))
    return replace(result, engine=known, notes=notes, shortfall=shortfall)


def build_here(folder: Path, engine: Engine, samples: Sequence[Sample], gpu: str) -> Attempt:
    """Build, run, compare, and read back what the layers became; nothing raises for the engine."""
    try:
        first = script(folder / BUILD_PYTHON, [], BUILD_SECONDS).partition("\n")[0]
    except ScriptError as error:
        return Attempt(f"not built here: {BUILD_PYTHON} failed on {gpu}", failed=str(error))
    where = f"built here with {first} on {gpu}"
    layers, told = _inspected(folder)
    counts = {} if layers is None else {**layers.products, "sparse": layers.sparse}
    try:
        answers, milliseconds = answered(folder, samples)
    except ScriptError as error:
        failed = f"it was built, but {RUN} failed: {error}"
        return Attempt(f"{where}, not run", (told,), failed, counts)
    found = compared(engine, samples, answers)
    time = f"{milliseconds:.3f} ms a run of sample 0 without copies (median)"
    many = "sample" if found.samples == 1 else "samples"
    said = (
        f"the engine was run on {found.samples} {many}; largest difference {found.worst:.2g} of "
        f"its tolerance; {time}"
    )
    return Attempt(f"{where} and run", (said, told), "; ".join(found.failures), counts)


def answered(folder: Path, samples: Sequence[Sample]) -> tuple[list[dict[str, np.ndarray]], float]:
    """What the engine gives for each sample, and milliseconds of a run. Raises ScriptError."""
    with tempfile.TemporaryDirectory(prefix="planish-") as place:
        given = [Path(place, f"sample-{number}.npz") for number in range(len(samples))]
        for path, sample in zip(given, samples, strict=True):
            write_arrays(path, arrays_of(sample))
        output = Path(place, "answers.npz")
        words = ["--engine", str(folder / PLAN), "--answers", str(output), *map(str, given)]
        script(folder / RUN, words, RUN_SECONDS)
        try:
            with np.load(output, allow_pickle=False) as arrays:
                known = {key: arrays[key] for key in arrays.files}
            milliseconds = float(known.pop("milliseconds"))
        except (OSError, ValueError, KeyError) as error:
            raise ScriptError(f"its answers cannot be read: {error}") from error
    made: list[dict[str, np.ndarray]] = [{} for _ in samples]
    for key, array in known.items():
        number, _, name = key.partition("/")
        made[int(number)][name] = array
    return made, milliseconds


def compared(
    engine: Engine, samples: Sequence[Sample], answers: Sequence[dict[str, np.ndarray]]
) -> Compared:
    """Answers against the recorded ones, and how near both are to the original model."""
    worst, failures = 0.0, list[str]()
    for number, (sample, got) in enumerate(zip(samples, answers, strict=True)):
        for name, wanted in sample.outputs.items():
            where, value = f"sample {number}, output {name!r}", got.get(name)
            if value is None or value.shape != wanted.shape:
                shape = "is missing" if value is None else f"has the shape {value.shape}"
                failures.append(f"{where} {shape}, not {wanted.shape}")
                continue
            part = _apart(value, wanted) / (engine.tolerance.get(name) or np.inf)
            if wanted.dtype.kind != "f":
                part = 0.0 if np.array_equal(value, wanted) else np.inf
            worst = max(worst, part)
            if not part <= 1.0:
                failures.append(f"{where} differs by {part:.3g} of its tolerance")
    failures += _farther(samples, answers) if not failures else []
    return Compared(len(samples), worst, tuple(failures))


def script(path: Path, words: Sequence[str], seconds: int) -> str:
    """What a script of the kit prints. Raises ScriptError where it fails or takes too long."""
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            [sys.executable, str(path), *words], capture_output=True, text=True, timeout=seconds,
            cwd=path.parent, env=environment, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise ScriptError(f"{path.name} took more than {seconds} s") from None
    except OSError as error:
        raise ScriptError(f"{path.name} cannot be run: {error}") from error
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split())[-_SAID:]
        raise ScriptError(f"{path.name} ended with {done.returncode}: {said}")
    return done.stdout


def _inspected(folder: Path) -> tuple[EngineLayers | None, str]:
    """The layers of the engine, and a sentence on them."""
    try:
        layers = read_layers((folder / LAYERS).read_text("utf8"))
    except (OSError, UnicodeDecodeError, InputError) as error:
        return None, f"what became of the layers is not known: {error}"
    return layers, layers.sentence()


def _apart(value: np.ndarray, wanted: np.ndarray) -> float:
    """max |a - b|; infinite where one alone is not finite."""
    x, y = value.astype(np.float64), wanted.astype(np.float64)
    same = (x == y) | (np.isnan(x) & np.isnan(y))
    with np.errstate(invalid="ignore"):
        difference = np.where(same, 0.0, np.abs(x - y))
    return float(np.nan_to_num(difference, nan=np.inf, posinf=np.inf).max(initial=0.0))


def _farther(samples: Sequence[Sample], answers: Sequence[dict[str, np.ndarray]]) -> list[str]:
    """Outputs that are clearly farther from the original model than the reference's are."""
    failures = []
    for name in samples[0].original if samples else ():
        recorded = fidelity([(s.original[name], s.outputs[name]) for s in samples]).get("sqnr_db")
        pairs = [(s.original[name], got[name]) for s, got in zip(samples, answers, strict=True)]
        found = fidelity(pairs).get("sqnr_db")
        if recorded is None or found is None:
            continue
        if found < min(recorded, MOST_DB) - LOSS_DB:
            failures.append(f"{name} is {found:.1f} dB near the original, not {recorded:.1f}")
    return failures
