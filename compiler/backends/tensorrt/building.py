"""Build and run the engine where the model is compiled, if TensorRT and a GPU are there.

The scripts of the kit do it, in processes of their own: what the user gets is what was tried, and a
crash of the GPU's runtime ends no compile. Nobody ran this with a GPU yet; its tests have scripts
in their place that answer as documented.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ....ir.errors import InputError
from ...reporting.kit import BUILD_PYTHON, RUN
from ..scripts import ScriptError, answered, compared, script
from .inspection import EngineLayers, read_layers

if TYPE_CHECKING:
    from ...result import CompileResult, Engine, Sample

PLAN, LAYERS = "model.plan", "layers.json"
BUILD_SECONDS = 3600


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
    shortfall = "; ".join(filter(None, (result.shortfall, "its engine failed here")))
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
        words = ["--engine", str(folder / PLAN)]
        answers = answered(folder / RUN, words, samples)
    except ScriptError as error:
        failed = f"it was built, but {RUN} failed: {error}"
        return Attempt(f"{where}, not run", (told,), failed, counts)
    found = compared(engine.tolerance, samples, answers.samples)
    said = f"{found.sentence('the engine')}; {answers.time}, without copies (median)"
    return Attempt(f"{where} and run", (said, told), "; ".join(found.failures), counts)


def _inspected(folder: Path) -> tuple[EngineLayers | None, str]:
    """The layers of the engine, and a sentence on them."""
    try:
        layers = read_layers((folder / LAYERS).read_text("utf8"))
    except (OSError, UnicodeDecodeError, InputError) as error:
        return None, f"what became of the layers is not known: {error}"
    return layers, layers.sentence()
