"""Models compiled for NVIDIA GPUs through TensorRT, as far as that can be told without a GPU.

Of each artifact: what the rules of ``planish targets check`` find on ``model.onnx``, ONNX's full
check, whether ``verify.py`` passes, and the task's metric with ``reference.onnx`` beside the
original's. int8, FP8 and float16 are compiled without a wish, so that planish itself leaves in half
precision what costs too much; where that loses more than the bar, they are compiled once more with
``--max-drop`` on the metric. NVFP4 and 2:4 zeros are told as they come, all layers taken. No engine
is built and nothing is timed. Transformers that onnxscript builds have random weights: no accuracy.
"""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

import planish
from benchmarks.artifacts import MODEL, compile_to, megabytes, session_run
from benchmarks.data import calibration_feeds, minilm_task, tasks
from benchmarks.figures import Figure, Outcome, at_most, holds
from benchmarks.settings import Settings
from planish.compiler.harness.suites.builders import BUILDERS, builder_case
from planish.ir.errors import PlanishError
from planish.ir.load import load_as_written
from planish.targets.loader import load_target
from planish.targets.rules.table import check_model

MOST_DROP = 0.5
"""Points of the metric, or percent of it where it is no percentage."""
SAMPLES = 128
"""Of calibration data; MiniLM has the draw that its other benchmarks start with."""
NO_GATE = "cosine=0.5"
"""All layers are taken: what the technique costs is what is asked."""


@dataclass(frozen=True)
class Form:
    """A target and a pipeline. held: the bar of the accuracy holds for it."""

    target: str
    name: str
    pipeline: str
    held: bool = True


FORMS = (
    Form("nvidia-a100", "int8", "canonicalize,quantize{scheme=static}"),
    Form("nvidia-a100", "float16", "canonicalize"),
    Form("nvidia-h100", "fp8", "canonicalize,quantize-float8"),
    Form("nvidia-b200", "nvfp4", "canonicalize,quantize-float4", held=False),
    Form("nvidia-jetson-orin", "2:4 int8", "canonicalize,sparsify,quantize{scheme=static}", False),
)
TASKS = (
    "minilm", "resnet20", "resnet56", "tsp20", "tsp50", "stories260k", "squeezenet", "yolox_nano"
)  # fmt: skip
PERCENT = frozenset({"minilm", "resnet20", "resnet56", "squeezenet", "yolox_nano"})
"""Tasks whose metric is in percent, so that points can be told."""


@dataclass(frozen=True)
class Checked:
    """What is true of an artifact without a GPU. sites: layers in few bits, and given back."""

    megabytes: tuple[float, float]
    findings: tuple[str, ...]
    valid: str
    verified: bool
    sites: tuple[int, int]

    @property
    def sound(self) -> bool:
        """Whether nothing objects."""
        return not self.findings and not self.valid and self.verified


@dataclass(frozen=True)
class Scored:
    """One task in one form: its metric before and after. asked: with ``--max-drop``."""

    task: str
    form: Form
    metric: str
    before: float
    after: float
    drop: float
    checked: Checked
    asked: bool = False


def everything(settings: Settings) -> Outcome:
    """MiniLM, ResNets, TSP encoders, stories260K, SqueezeNet and YOLOX for TensorRT."""
    names = [name for name in TASKS if not settings.tasks or name in settings.tasks]
    found = [each for name in names for each in scored(name, settings)]
    return Outcome(
        f"{len(names)} tasks in {len(FORMS)} forms for TensorRT, scored with reference.onnx on the "
        "CPU; no engine was built",
        ("task", "target", "form", "metric", "before", "after", "drop", "MB", "in few bits",
         "given back", "rules"),
        tuple(map(row, found)),
        tuple(figure for each in found for figure in figures(each)),
    )  # fmt: skip


def scored(name: str, settings: Settings) -> Iterator[Scored]:
    """One task in every form; with the metric's bound, too, where it loses more without."""
    task = (minilm_task if name == "minilm" else tasks().TASKS[name])(settings.workdir)
    for form in FORMS:
        plain = {} if form.held else {"max_drift": NO_GATE}
        yield (found := compiled(name, task, form, settings, **plain))
        if form.held and found.drop > MOST_DROP:
            percent = "" if name in PERCENT else "%"
            bound = {"evaluate": metric_of(task), "max_drop": f"{MOST_DROP}{percent}"}
            yield compiled(name, task, form, settings, **bound)
        gc.collect()


def metric_of(task: Any) -> Any:
    """The task's metric as ``--evaluate`` takes it: more is better."""
    sign = 1.0 if task.higher_is_better else -1.0
    return lambda run: sign * task.evaluate(run).metrics[task.metric]


def compiled(name: str, task: Any, form: Form, settings: Settings, **wishes: Any) -> Scored:
    """Compile, and score what stands for the engine."""
    print(f"{name}, {form.name} {[*wishes]} …", file=sys.stderr, flush=True)
    data = calibration_feeds(0) if name == "minilm" else task.calibration(SAMPLES)
    made = made_for(form, name, task.model, list(data), settings, **wishes)
    before = task.baseline[task.metric]
    after = task.evaluate(session_run(made.runnable, settings.threads)).metrics[task.metric]
    drop = (before - after) if task.higher_is_better else (after - before)
    drop = drop if name in PERCENT else 100.0 * drop / abs(before)
    found = checked(made, form.target, megabytes(task.model))
    return Scored(name, form, task.metric, before, after, drop, found, "max_drop" in wishes)


def made_for(
    form: Form, name: str, model: Any, data: list[Any], settings: Settings, **wishes: Any
) -> planish.Artifact:
    """The artifact of a model in a form."""
    folder = settings.workdir / f"tensorrt-{name}-{form.name.replace(':', '').replace(' ', '-')}"
    return compile_to(
        folder, model, form.target, data, settings.threads, pipeline=form.pipeline, **wishes
    )


def checked(made: planish.Artifact, target: str, before: float) -> Checked:
    """The rules, ONNX's checker and the artifact's own test."""
    folder, plan = made.path, made.manifest["plan"]
    few = sum(e["loss"] is not None and e["site"] != "graph" for e in made.manifest["edits"])
    back = sum(len(sites) for sites in plan["given_back"].values())
    return Checked(
        (before, megabytes(folder / MODEL)), broken(folder, target), invalid(folder),
        verifies(folder), (few, back),
    )  # fmt: skip


def broken(folder: Path, target: str) -> tuple[str, ...]:
    """Ids of the rules that the typed model breaks."""
    found = check_model(load_as_written(folder / MODEL), load_target(target))
    return tuple(sorted({each.rule for each in found if each.severity != "note"}))


def invalid(folder: Path) -> str:
    """What ONNX's checker says of the typed model with shapes inferred; "" for nothing."""
    try:
        onnx.checker.check_model(str(folder / MODEL), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        return str(error).strip().partition("\n")[0]
    return ""


def verifies(folder: Path) -> bool:
    """Whether the artifact's own self-test passes."""
    words = [sys.executable, str(folder / "verify.py")]
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


def row(one: Scored) -> tuple[str, ...]:
    """One line of the table."""
    bound = f"{one.form.name}, --max-drop" if one.asked else one.form.name
    few, back = one.checked.sites
    return (
        one.task, one.form.target, bound, one.metric, f"{one.before:.4g}", f"{one.after:.4g}",
        f"{one.drop:+.2f}", "{:.1f} -> {:.1f}".format(*one.checked.megabytes), str(few), str(back),
        ", ".join(one.checked.findings) or "silent",
    )  # fmt: skip


def figures(one: Scored) -> Sequence[Figure]:
    """Quality, and that nothing objects."""
    name = f"{one.task}, {one.form.name} for {one.form.target}{', --max-drop' * one.asked}"
    unit = "points" if one.task in PERCENT else "%"
    note = "{} layers in few bits, {} given back".format(*one.checked.sites)
    quality = at_most(f"{name}: drop of {one.metric}", one.drop, MOST_DROP, unit, note)
    return (*([quality] if one.form.held else []), sound(name, one.checked))


def sound(name: str, found: Checked) -> Figure:
    """That neither the rules nor ONNX's checker nor the artifact's test objects."""
    return holds(
        f"{name}: rules, onnx.checker and verify.py", found.sound,
        "silent" if found.sound else "findings", "silent",
        found.valid or ", ".join(found.findings),
    )  # fmt: skip


def builders(settings: Settings) -> Outcome:
    """The transformers that onnxscript builds, in every form: nothing objects to the artifacts."""
    rows, found = list[tuple[str, ...]](), list[Figure]()
    for name in BUILDERS:
        if settings.tasks and name not in settings.tasks:
            continue
        for form in FORMS:
            line, figure = built(name, form, settings)
            rows.append(line)
            found.append(figure)
        gc.collect()
    return Outcome(
        "transformers from onnxscript's wheel, random weights, for TensorRT; no engine was built",
        ("model", "target", "form", "MB", "in few bits", "given back", "rules, checker, verify.py"),
        tuple(rows), tuple(found),
    )  # fmt: skip


def built(name: str, form: Form, settings: Settings) -> tuple[tuple[str, ...], Figure]:
    """One of them in one form."""
    print(f"{name}, {form.name} …", file=sys.stderr, flush=True)
    label, case = f"{name}, {form.name} for {form.target}", builder_case(name)
    source = settings.workdir / f"{name}.onnx"
    onnx.save_model(case.model, source)
    feeds = [dict(feed) for feed in case.feeds]
    try:
        made = made_for(form, name, source, feeds, settings, holdout=feeds, max_drift=NO_GATE)
    except PlanishError as error:
        line = (name, form.target, form.name, "", "", "", error.what)
        return line, holds(label, False, "not compiled", "silent", error.what)
    found = checked(made, form.target, megabytes(source))
    few, back = found.sites
    said = "silent" if found.sound else found.valid or ", ".join(found.findings) or "verify.py"
    sizes = "{:.1f} -> {:.1f}".format(*found.megabytes)
    return (name, form.target, form.name, sizes, str(few), str(back), said), sound(label, found)
