"""planish beside its peers on the same models, data and sentences: quality, size and speed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import peers
from benchmarks.artifacts import MODEL, compile_to, megabytes, session_run
from benchmarks.data import Feeds, calibration_feeds, minilm_task, tasks
from benchmarks.figures import Figure, Outcome, skipped
from benchmarks.minilm import Judge, artifact, speed_feeds
from benchmarks.settings import Settings
from benchmarks.timing import Timings, alternate

Models = dict[str, Path]
FLOAT, PLANISH = "float32", "planish"


def minilm(settings: Settings) -> Outcome:
    """MiniLM: Spearman, cosine, size and speed of every peer."""
    original = minilm_task(settings.workdir).model
    feeds = calibration_feeds(0)
    models: Models = {FLOAT: original, PLANISH: artifact(0, settings).path / MODEL}
    skips = add_peers(models, feeds, settings.workdir, "minilm", transformer=True)
    judge = Judge(settings.split, original, settings.threads)
    scores = {name: judge.score(path) for name, path in models.items()}
    taken = timed(models, speed_feeds(), settings)
    rows = tuple(
        (name, f"{s.spearman:.2f}", f"{s.drop:+.2f}", f"{s.cosine:.4f}", *cost(taken, name, path))
        for (name, path), s in zip(models.items(), scores.values(), strict=True)
    )
    columns = ("model", "Spearman %", "drop", "cosine", "MB", "seconds", "vs float32")
    title = f"MiniLM beside its peers, STS-B {settings.split} (en), 1,379 timed sentences"
    return Outcome(title, columns, rows, skips)


def resnet20(settings: Settings) -> Outcome:
    """ResNet-20: accuracy, size and speed of every peer."""
    return resnet("resnet20", settings)


def resnet56(settings: Settings) -> Outcome:
    """ResNet-56: accuracy, size and speed of every peer."""
    return resnet("resnet56", settings)


def resnet(name: str, settings: Settings) -> Outcome:
    """A network of ``cifar``: accuracy, size and speed of every peer."""
    task = tasks().TASKS[name](settings.workdir)
    feeds = list(task.calibration(512))
    folder = settings.workdir / f"{name}-{settings.target}"
    made = compile_to(folder, task.model, settings.target, feeds, settings.threads)
    models: Models = {FLOAT: task.model, PLANISH: made.path / MODEL}
    skips = add_peers(models, feeds, settings.workdir, name, transformer=False)
    scores = {n: task.evaluate(session_run(path, settings.threads)) for n, path in models.items()}
    taken = timed(models, feeds, settings)
    rows = tuple((n, *accuracies(scores[n]), *cost(taken, n, path)) for n, path in models.items())
    columns = ("model", "clean242 %", "JPEG %", "MB", "seconds", "vs float32")
    return Outcome(
        f"{name} beside its peers, {len(feeds)} timed batches of 32", columns, rows, skips
    )


def add_peers(
    models: Models, feeds: Sequence[Feeds], workdir: Path, name: str, *, transformer: bool
) -> tuple[Figure, ...]:
    """Add what each peer makes of the float model; a skipped figure for each that made nothing."""
    original = models[FLOAT]
    builders: dict[str, Callable[[Path], Path]] = {
        "onnxruntime dynamic": lambda path: peers.onnxruntime_dynamic(original, path),
        "onnxruntime static": lambda path: peers.onnxruntime_static(original, feeds, path),
        "NNCF": lambda path: peers.nncf_static(original, feeds, path, transformer=transformer),
    }
    skips = []
    for peer, build in builders.items():
        try:
            models[peer] = build(workdir / f"{name}-{peer.replace(' ', '-').lower()}.onnx")
        except (FileNotFoundError, RuntimeError) as error:
            skips.append(skipped(f"{name}, {peer}", "", str(error)))
    return tuple(skips)


def timed(models: Models, feeds: Sequence[Feeds], settings: Settings) -> Timings:
    """All models in alternation over the same feeds."""
    runs = {name: session_run(path, settings.threads) for name, path in models.items()}
    return alternate(runs, feeds, rounds=settings.rounds)


def cost(taken: Timings, name: str, path: Path) -> tuple[str, str, str]:
    """Size, seconds, speedup against float."""
    speedup = taken.speedup(FLOAT, name).value
    return f"{megabytes(path):.2f}", f"{taken.median(name):.3f}", f"{speedup:.2f}x"


def accuracies(scores: Any) -> tuple[str, str]:
    """Accuracy on the clean and the JPEG images."""
    return f"{scores.metrics['top1']:.2f}", f"{scores.metrics['top1/jpeg']:.2f}"
