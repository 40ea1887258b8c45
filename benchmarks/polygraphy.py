"""NVIDIA's Polygraphy on planish's artifacts for TensorRT: zeros tensor by tensor, and its lint.

``inspect sparsity`` reads weights of 16 and 32 bits: those of a float16 model, and those with zeros
of an int8 model, which are stored as floats in front of QuantizeLinear; int8 codes it skips. Each
verdict is held against the fact that planish derives from the same file. ``check lint`` runs every
node in ONNX Runtime: on ``model.onnx`` where its operators and types are ONNX Runtime's, on
``reference.onnx`` for 8 and 4-bit floats. It needs no GPU.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import onnx

import planish
from benchmarks.data import calibration_feeds, minilm_task, tasks
from benchmarks.figures import Figure, Outcome, holds, skipped
from benchmarks.peers import install
from benchmarks.settings import Settings
from benchmarks.tensorrt import FORMS, NO_GATE, SAMPLES, Form, made_for
from planish.compiler.harness.suites.builders import builder_case
from planish.ir.load import load_as_written
from planish.ir.sites import find_sites

ENVIRONMENT = "polygraphy"
FACT = "sparse-2:4"
A100 = "nvidia-a100"
THINNED = (
    Form(A100, "2:4 on everything", "canonicalize,sparsify"),
    Form(A100, "2:4 on feed-forward", "canonicalize,sparsify{exclude=*.attention.*}"),
    Form(A100, "2:4, then int8", "canonicalize,sparsify,quantize{scheme=static}"),
)
"""Of MiniLM."""
LINTED = ("bart-encoder", "resnet20", "stories260k", "minilm")
FLOAT_CODES = frozenset({"fp8", "nvfp4"})
"""Forms whose types ONNX Runtime does not compute, and Polygraphy does not read."""
_FOUND = re.compile(r"Found (non-)?sparse tensor: (\S+)")


def sparsity(settings: Settings) -> Outcome:
    """Polygraphy's verdicts on the zeros of MiniLM, weight by weight, against planish's."""
    return outcome("Polygraphy's inspect sparsity on artifacts for TensorRT", zeros, settings)


def linting(settings: Settings) -> Outcome:
    """Polygraphy's lint on artifacts for TensorRT."""
    return outcome("Polygraphy's check lint on artifacts for TensorRT", linted, settings)


Found = tuple[tuple[str, ...], Figure]
Check = Callable[[Path, Settings], Iterator[Found]]


def outcome(title: str, check: Check, settings: Settings) -> Outcome:
    """What a check finds, where Polygraphy can be installed."""
    made = install(ENVIRONMENT, settings.workdir)
    if made.python is None:
        return Outcome(title, (), (), (skipped("Polygraphy", "installed", made.reason),))
    found = list(check(made.python.with_name("polygraphy"), settings))
    return Outcome(
        title, ("artifact", "file", "command", "found"),
        tuple(row for row, _ in found), tuple(figure for _, figure in found),
    )  # fmt: skip


def zeros(program: Path, settings: Settings) -> Iterator[Found]:
    """MiniLM with zeros: what Polygraphy and planish say of each weight."""
    for form in THINNED:
        made = artifact("minilm", form, settings)
        path = made.path / "model.onnx"
        theirs, ours = inspected(program, path), facts(path)
        differ = sorted(name for name in theirs.keys() & ours if theirs[name] != ours[name])
        unread = ours.keys() - theirs.keys()
        lost = sorted(name for name in unread if ours[name])  # zeros that a builder would not see
        sparse = sum(theirs.values())
        label = f"MiniLM, {form.name}: inspect sparsity agrees on every weight that it reads"
        note = ", ".join([*differ, *lost]) or f"{len(unread)} dense ones in int8 it skips"
        yield (
            (f"minilm, {form.name}", path.name, "inspect sparsity",
             f"{sparse} sparse, {len(theirs) - sparse} not"),
            holds(label, bool(theirs) and not differ and not lost,
                  f"{len(theirs) - len(differ)} of {len(theirs)}", "all", note),
        )  # fmt: skip


def inspected(program: Path, path: Path) -> dict[str, bool]:
    """What ``inspect sparsity`` says of each tensor that it can read."""
    done = run(program, "inspect", "sparsity", str(path))
    return {name: not dense for dense, name in _FOUND.findall(done.stdout + done.stderr)}


def facts(path: Path) -> dict[str, bool]:
    """Whether the facts of planish call each weight of a product sparse, by its name."""
    sites = find_sites(load_as_written(path))
    return {
        str(site.weight.name): FACT in site.facts
        for site in sites
        if site.kind == "linear" and site.weight is not None
    }


def linted(program: Path, settings: Settings) -> Iterator[Found]:
    """Some artifacts in every form."""
    for name in LINTED:
        for form in FORMS if not settings.tasks or name in settings.tasks else ():
            made = artifact(name, form, settings)
            path = made.runnable if form.name in FLOAT_CODES else made.path / "model.onnx"
            said = lint(program, path, settings.workdir / "lint.json")
            label = f"{name}, {form.name}: check lint on {path.name}"
            yield (
                (f"{name}, {form.name} for {form.target}", path.name, "check lint", said),
                holds(label, ", 0 failing" in said, said, "0 failing"),
            )


def lint(program: Path, path: Path, report: Path) -> str:
    """How many nodes ``check lint`` passes and fails, with the first complaint: it repeats what
    ONNX Runtime warns of, such as float16 products of its own making that it cannot fold."""
    report.unlink(missing_ok=True)
    done = run(program, "check", "lint", str(path), "-o", str(report))
    if not report.is_file():
        return done.stderr.strip().rpartition("\n")[2]
    found = json.loads(report.read_text("utf8"))
    complaints = [entry["message"] for entry in found["lint_entries"]]
    counts = {word: len(nodes) for word, nodes in found["summary"].items()}
    said = f"{counts['passing']} nodes passing, {counts['failing']} failing"
    return f"{said}: {complaints[0][:200]}" if complaints else said


def run(program: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Polygraphy with these words."""
    return subprocess.run([program, *words], capture_output=True, text=True, check=False)


def artifact(name: str, form: Form, settings: Settings) -> planish.Artifact:
    """Compiled with all layers taken, or what an earlier run with ``--resume`` left."""
    kept = replace(form, name=f"linted {form.name.replace(',', '')}")
    folder = settings.workdir / f"tensorrt-{name}-{kept.name.replace(':', '').replace(' ', '-')}"
    if settings.resume and (folder / "manifest.json").is_file():
        return planish.load(folder)
    print(f"{name}, {form.name} …", file=sys.stderr, flush=True)
    if name == "bart-encoder":
        case = builder_case(name)
        source = settings.workdir / f"{name}.onnx"
        onnx.save_model(case.model, source)
        feeds = [dict(feed) for feed in case.feeds]
        return made_for(kept, name, source, feeds, settings, holdout=feeds, max_drift=NO_GATE)
    task = (minilm_task if name == "minilm" else tasks().TASKS[name])(settings.workdir)
    data: Sequence[object] = (
        calibration_feeds(0) if name == "minilm" else list(task.calibration(SAMPLES))
    )
    return made_for(kept, name, task.model, list(data), settings, max_drift=NO_GATE)
