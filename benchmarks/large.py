"""A model larger than the memory it may take: peak memory, and time against a plain copy."""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.cost import measured
from benchmarks.data import NoDataError
from benchmarks.figures import Figure, Outcome, at_most, holds, skipped
from benchmarks.large_model import differing_weights, make, plan
from benchmarks.settings import Settings

SIZE_VARIABLE = "PLANISH_BIG_MODEL"
SIZE = 6e9  # bytes of weights
TIMED_FROM = 2e9  # of smaller models the time is that of the interpreter's start
LIMIT_SHARE = 0.25  # of the weights: 1.5 GB for 6 GB
BASE = 2.4e8  # bytes of the interpreter and the runtime, which small models are not charged for
DISK_SHARE = 2.5  # of the weights: the source, a tenth in four files, one result
TIMES = 2.0  # a plain copy through onnx_ir
ROUNDS = 3

COPY = """
import sys
import onnx_ir
model = onnx_ir.load(sys.argv[1])
onnx_ir.save(model, sys.argv[2], external_data="model.onnx.data")
"""


@dataclass(frozen=True)
class Timing:
    """Seconds until the files were on the disk, CPU seconds and peak bytes of one process."""

    seconds: float
    cpu_seconds: float
    peak: int
    exit_code: int


def large(settings: Settings) -> Outcome:
    """Lossless compile of a 6 GB model within 1.5 GB (``PLANISH_BIG_MODEL`` bytes instead)."""
    size = float(os.environ.get(SIZE_VARIABLE, SIZE))
    folder = settings.workdir / "big-model"
    shutil.rmtree(folder, ignore_errors=True)
    _check_room(size, settings.workdir)
    try:
        return _measured(size, folder, settings)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _check_room(size: float, folder: Path) -> None:
    needed, free = DISK_SHARE * size, shutil.disk_usage(folder).free
    if free < needed:
        what = f"{needed / 1e9:.0f} GB of free disk are needed, {free / 1e9:.0f} GB are there"
        raise NoDataError(f"{what}; {SIZE_VARIABLE}=1e9 takes a smaller model")


def limit_of(size: float) -> int:
    """Bytes that the compile of a model of ``size`` bytes may take."""
    return int(max(LIMIT_SHARE * size, BASE + LIMIT_SHARE * size / 2))


def _measured(size: float, folder: Path, settings: Settings) -> Outcome:
    path = make(folder / "source", plan(size))
    several = make(folder / "several", plan(size / 10, files=4))
    limit = limit_of(size)
    wrong = _wrong_weights(path, folder, limit)
    runs = {cold: alternating(path, folder, limit, cold=cold) for cold in (True, False)}
    parts = [t for pair in runs.values() for t in pair[1]]
    small = limit_of(size / 10)
    parts_small = timed(
        compile_command(several, folder / "out", small), folder, several, cold=False
    )
    rows = [
        (f"{name}, {'cold' if cold else 'hot'}", *_row(times))
        for cold, pair in runs.items()
        for name, times in zip(("onnx_ir load and save", "planish compile"), pair, strict=True)
    ]
    rows.append(("planish compile, a tenth in four files", *_row([parts_small])))
    cold_ratio, hot_ratio = (_ratio(*runs[cold]) for cold in (True, False))
    peak = max(t.peak for t in parts)
    figures: tuple[Figure, ...] = (
        at_most("big model: peak memory", peak / 1e9, limit / 1e9, "GB"),
        _time_figure(
            size, cold_ratio,
            f"source read from the disk, result on the disk; {hot_ratio:.2f}x with the source "
            "in the page cache",
        ),
        holds(
            "big model: weights of the result",
            not wrong,
            "; ".join(wrong[:3]) or "those of the source",
            "those of the source, transposed where they are said to be",
        ),
        at_most("big model in four files: peak memory", parts_small.peak / 1e9, small / 1e9, "GB"),
        holds(
            "big model: every compile went through",
            all(t.exit_code == 0 for t in (*parts, parts_small)), "exit code 0", "exit code 0",
        ),
    )  # fmt: skip
    return Outcome(
        f"A model of {size / 1e9:.1f} GB, lossless, at most {limit / 1e9:.2f} GB, fresh processes",
        ("", "seconds", "CPU seconds", "peak GB"),
        tuple(rows),
        figures,
        ("medians; time until both files are on the disk (fsync)",),
    )


def _time_figure(size: float, ratio: float, note: str) -> Figure:
    name = "big model: time against a plain copy"
    if size < TIMED_FROM:
        return skipped(name, f"≤ {TIMES:g}x", f"{size / 1e9:.1f} GB are too few; {ratio:.2f}x")
    return at_most(name, ratio, TIMES, "x", note)


def _wrong_weights(model: Path, folder: Path, limit: int) -> list[str]:
    """Compile once, and hold tiles of each weight of the result against the source."""
    output = folder / "checked"
    found = timed(compile_command(model, output, limit), folder, model, cold=False)
    if found.exit_code:
        return [f"the compile ended with {found.exit_code}"]
    wrong = differing_weights(model, output / "model.onnx")
    shutil.rmtree(output)
    return wrong


def compile_command(model: Path, output: Path, limit: int) -> list[str]:
    """``planish compile`` within a limit, as a list of words."""
    return [
        sys.executable, "-m", "planish", "compile", str(model), "-o", str(output),
        "--force", "--max-memory", str(limit),
    ]  # fmt: skip


def alternating(
    model: Path, folder: Path, limit: int, *, cold: bool
) -> tuple[list[Timing], list[Timing]]:
    """Copy and compile in turns, each in a fresh process. cold: the source is not cached."""
    copies: list[Timing] = []
    compiles: list[Timing] = []
    target, output = folder / "copy", folder / "out"
    for _ in range(ROUNDS):
        target.mkdir()
        words = [sys.executable, "-c", COPY, str(model), str(target / "model.onnx")]
        copies.append(timed(words, folder, model, cold=cold, written=target))
        shutil.rmtree(target)
        compiles.append(timed(compile_command(model, output, limit), folder, model, cold=cold))
        shutil.rmtree(output)
    return copies, compiles


def timed(
    words: Sequence[str], folder: Path, model: Path, *, cold: bool, written: Path | None = None
) -> Timing:
    """Run a command; written: a folder whose files are brought to the disk within the time."""
    os.sync()
    _cache(model.parent, drop=cold)
    start = time.perf_counter()
    found = measured(list(words), folder)
    for path in sorted(written.iterdir()) if written is not None else ():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    seconds = time.perf_counter() - start
    return Timing(seconds, found["cpu_seconds"], int(found["peak_bytes"]), int(found["exit_code"]))


def _cache(folder: Path, *, drop: bool) -> None:
    """Have the files of a folder in the page cache, or not."""
    for path in folder.iterdir():
        with path.open("rb", buffering=0) as file:
            if drop:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                continue
            buffer = bytearray(1 << 22)
            while file.readinto(buffer):
                pass


def _row(times: Sequence[Timing]) -> tuple[str, str, str]:
    seconds = statistics.median(t.seconds for t in times)
    cpu = statistics.median(t.cpu_seconds for t in times)
    return f"{seconds:.1f}", f"{cpu:.1f}", f"{max(t.peak for t in times) / 1e9:.2f}"


def _ratio(copies: Sequence[Timing], compiles: Sequence[Timing]) -> float:
    """The median of the ratios of neighbours in time."""
    return statistics.median(b.seconds / a.seconds for a, b in zip(copies, compiles, strict=True))
