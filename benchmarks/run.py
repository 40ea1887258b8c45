"""planish side by side with float and with its peers: tables, and figures against their bars.

    .venv/bin/python benchmarks/run.py --list
    .venv/bin/python benchmarks/run.py                     # all; or: make bench
    .venv/bin/python benchmarks/run.py minilm-speed resnet20 --json out.json
    .venv/bin/python benchmarks/run.py tasks --task gtcrn --task rlfn --target host
    .venv/bin/python benchmarks/run.py peers --task mnist  # one task; the page RESULTS.md

Figures of speed mean something on an otherwise idle machine only. Ends with status 1 where a
figure misses its bar, 2 where a benchmark could not be run.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import json
import os
import platform
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from rich.console import Console

# The script's own folder is on the path, not the one that holds the package ``benchmarks``.
sys.path.append(str(Path(__file__).resolve().parent.parent))

from benchmarks.data import NoDataError
from benchmarks.figures import Figure, Outcome, show, summarise
from benchmarks.settings import Settings

BENCHMARKS = {
    "minilm-quality": "minilm:quality",
    "minilm-speed": "minilm:speed",
    "minilm-kernels": "minilm:kernels",
    "resnet20": "cifar:resnet20",
    "resnet56": "cifar:resnet56",
    "ruined": "guards:ruined",
    "tiny": "guards:tiny",
    "int4-stories": "weight_only:stories",
    "int4-minilm": "weight_only:minilm",
    "sparse-minilm": "sparse:minilm",
    "smaller-minilm": "smaller:quality",
    "smaller-speed": "smaller:speed",
    "smaller-tsp": "smaller_tasks:tsp",
    "smaller-stories": "smaller_tasks:stories",
    "smaller-resnet20": "smaller_cifar:resnet20",
    "smaller-resnet56": "smaller_cifar:resnet56",
    "breadth-cnns": "breadth_cnns:breadth",
    "checking": "checking:tensorrt",
    "cost": "cost:cost",
    "cost-model": "cost_model:cost_model",
    "replay": "replay:replay",
    "net-cost": "scaling:net_cost",
    "coupling": "scaling:coupling",
    "diff": "diffing:diff",
    "diff-minilm": "diff_minilm:diff_minilm",
    "diff-tools": "diff_pairs:diff_tools",
    "doctor": "doctor:doctor",
    "report": "report:report",
    "equals": "equals:equals",
    "breadth-transformers": "breadth_transformers:breadth",
    "scaling": "scaling:scaling",
    "scaling-sites": "scaling:sites",
    "big-model": "large:large",
    "onnxruntime-cuda": "cuda:everything",
    "tensorrt": "tensorrt:everything",
    "tensorrt-builders": "tensorrt:builders",
    "polygraphy-sparsity": "polygraphy:sparsity",
    "polygraphy-lint": "polygraphy:linting",
    "upstream": "upstream:upstream",
    "tasks": "tasks:everything",
    "peers": "results:peers",
}
"""Name on the command line -> module and function; each takes Settings, returns an Outcome."""

TAKES_TASKS = ("tasks", "peers", "tensorrt", "tensorrt-builders", "polygraphy-lint")
COMMAND = ".venv/bin/python benchmarks/run.py"


def benchmark(name: str) -> Callable[[Settings], Outcome]:
    """The function of that name; its module, and what that loads, is imported here."""
    module, _, function = BENCHMARKS[name].partition(":")
    found: Callable[[Settings], Outcome] = getattr(
        importlib.import_module(f"benchmarks.{module}"), function
    )
    return found


def select(words: Sequence[str]) -> list[str]:
    """The benchmarks that the words name, or begin; all for no words. Raises ValueError."""
    chosen: list[str] = []
    for word in words or [""]:
        matching = [word] if word in BENCHMARKS else [n for n in BENCHMARKS if n.startswith(word)]
        if not matching:
            near = ", ".join(difflib.get_close_matches(word, BENCHMARKS, 3, 0.4))
            raise ValueError(f"no benchmark is called {word!r}; near: {near or 'see --list'}")
        chosen += [name for name in matching if name not in chosen]
    return chosen


def command(name: str, settings: Settings) -> str:
    """What takes the figures of one benchmark again."""
    default = Settings()
    words = [name]
    for option in ("split", "threads", "rounds", "target"):
        value = getattr(settings, option)
        if value != getattr(default, option):
            words += [f"--{option}", str(value)]
    if name in ("tasks", "peers", "tensorrt", "tensorrt-builders", "onnxruntime-cuda"):
        words += [word for task in settings.tasks for word in ("--task", task)]
    if name == "tasks":
        words += ["--lossless-only"] if settings.lossless_only else []
    return f"{COMMAND} {shlex.join(words)}"


def environment() -> dict[str, Any]:
    """What the figures depend on beside the code."""
    cpu = next(
        (line.partition(":")[2].strip() for line in cpu_lines() if line.startswith("model name")),
        platform.processor(),
    )
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "onnxruntime": onnxruntime.__version__,
    }


def cpu_lines() -> list[str]:
    """Lines of /proc/cpuinfo, none where there is no such file."""
    path = Path("/proc/cpuinfo")
    return path.read_text("utf8").splitlines() if path.exists() else []


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    default = Settings()
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", help="benchmarks, or what they begin with; none: all")
    parser.add_argument("--list", action="store_true", help="name every benchmark")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything found to FILE")
    parser.add_argument(
        "--split",
        choices=("test", "dev"),
        default=default.split,
        help="STS-B split that scores MiniLM; choose settings on dev",
    )
    parser.add_argument("--target", default=default.target)
    parser.add_argument("--threads", type=int, default=default.threads)
    parser.add_argument("--rounds", type=int, default=default.rounds, help="of alternating timing")
    parser.add_argument(
        "--workdir",
        type=Path,
        default=default.workdir,
        help="where exported models and artifacts go",
    )
    parser.add_argument(
        "--task",
        action="append",
        default=[],
        metavar="NAME",
        help=f"a task of {', '.join(TAKES_TASKS)}, repeatable; none: all",
    )
    parser.add_argument(
        "--lossless-only", action="store_true", help="of tasks, the lossless pipeline only"
    )
    parser.add_argument(
        "--timeout", type=float, default=default.timeout, help="seconds that a task may take"
    )
    parser.add_argument(
        "--resume", action="store_true", help="of smaller-*, keep artifacts that are in --workdir"
    )
    return parser.parse_args(arguments)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the chosen benchmarks, print their tables and then every figure; the exit status."""
    options = parse(arguments)
    console = Console(width=None if sys.stdout.isatty() else 160)
    if options.list:
        for name in BENCHMARKS:
            summary = (benchmark(name).__doc__ or "").partition("\n")[0]
            console.print(f"{name:16} {summary}", markup=False, highlight=False)
        return 0
    try:
        names = select(options.names)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    settings = Settings(
        options.split, options.workdir.resolve(), options.threads, options.rounds, options.target,
        tuple(options.task), options.lossless_only, options.timeout, options.resume,
    )  # fmt: skip
    return run(names, settings, console, options.json)


def run(names: Sequence[str], settings: Settings, console: Console, output: Path | None) -> int:
    """Run benchmarks by name, one after the other; a failing one does not stop the others."""
    settings.workdir.mkdir(parents=True, exist_ok=True)
    outcomes: dict[str, Outcome] = {}
    failures: dict[str, str] = {}
    for name in names:
        try:
            outcomes[name] = benchmark(name)(settings).with_command(command(name, settings))
            show(outcomes[name], console)
        except NoDataError as error:
            failures[name] = str(error)
        except Exception as error:
            console.print_exception()
            failures[name] = f"{type(error).__name__}: {error}"
    figures = [figure for outcome in outcomes.values() for figure in outcome.figures]
    summarise(figures, console)
    for name, reason in failures.items():
        print(f"error: {name} could not be run: {reason}", file=sys.stderr)
    if output is not None:
        write(output, outcomes, failures)
    return status(figures, failures)


def status(figures: Sequence[Figure], failures: dict[str, str]) -> int:
    """0: every figure that could be taken reaches its bar; 1: one misses; 2: one failed."""
    if failures:
        return 2
    return int(any(figure.met is False for figure in figures))


def write(path: Path, outcomes: dict[str, Outcome], failures: dict[str, str]) -> None:
    """Everything found, as JSON."""
    document = {
        "environment": environment(),
        "benchmarks": {name: outcome.to_json() for name, outcome in outcomes.items()},
        "failures": failures,
    }
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", "utf8")


if __name__ == "__main__":
    sys.exit(main())
