"""What sums in 16 bits cost, by how weights are coded: whole models on an emulated CPU.

``python -m benchmarks.saturation resnet20 resnet56 minilm``: for static int8 with 7 bits, with
codes that cannot saturate, and with all 8 bits, the outputs on held-out samples against those of
the float model, with exact sums and with sums that saturate. No timing: any machine will do.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

import planish
from benchmarks import emulation
from benchmarks.artifacts import MODEL, session_run
from benchmarks.data import Array, Feeds, calibration_draw, sentence_feeds, tasks
from benchmarks.settings import Settings
from planish.targets.loader import load_target
from planish.targets.schema import Target

SAMPLES = 128
LOOSE = "sqnr=1"
"""So that no site is given back, and codes alone are compared."""


def targets() -> dict[str, Target]:
    """Seven bits, safe codes and eight bits, by name; none of them is measured here."""
    vnni, away = load_target("x86-avx512-vnni"), ("none-has-this",)
    exact = replace(vnni, name="far-away", features=away)
    return {
        "7 bits": replace(exact, int8=replace(vnni.int8, weight_bits=7)),
        "safe codes": replace(load_target("x86-avx2"), features=away),
        "8 bits": exact,
    }


def rows(name: str, folder: Path) -> Iterator[tuple[str, str, float, float, int]]:
    """Task, codes, SQNR in dB, mean cosine, results that were clipped."""
    model, calibration, held = data(name, folder)
    original = session_run(model, 1)
    expected = [np.asarray(original(feed)[0]) for feed in held]
    for codes, target in targets().items():
        output = folder / f"{name}-{codes.replace(' ', '-')}"
        planish.compile(
            str(model), target, calibration=calibration, output=output, force=True, threads=1,
            progress=False, pipeline="canonicalize,quantize{scheme=static}", max_drift=LOOSE,
        )  # fmt: skip
        run = session_run(output / MODEL, 1)
        yield name, codes, *closeness([np.asarray(run(f)[0]) for f in held], expected), 0
        if codes != "7 bits":
            found = [emulation.run_without_vnni(output / MODEL, feed) for feed in held]
            clipped = sum(count.clipped for _, count in found)
            there = closeness([outputs[0] for outputs, _ in found], expected)
            yield name, f"{codes}, 16-bit sums", *there, clipped


def data(name: str, folder: Path) -> tuple[Path, list[Feeds], list[Feeds]]:
    """The model's file, calibration feeds and held-out ones of another draw."""
    made = tasks().TASKS[name](folder)
    if name.startswith("minilm"):
        draw, held = calibration_draw(0, SAMPLES), calibration_draw(1, SAMPLES // 4)
        return made.model, list(sentence_feeds(draw, 16)), list(sentence_feeds(held, 4))
    feeds = [row for feed in made.calibration(5 * SAMPLES) for row in batches(feed, 16)]
    last = SAMPLES // 64
    return made.model, feeds[:-last], feeds[-last:]


def batches(feed: Feeds, size: int) -> Iterator[Feeds]:
    """The samples of a feed, so many at a time."""
    count = len(next(iter(feed.values())))
    yield from ({k: v[i : i + size] for k, v in feed.items()} for i in range(0, count, size))


def closeness(outputs: Sequence[Array], expected: Sequence[Array]) -> tuple[float, float]:
    """SQNR in dB over everything, and the mean cosine of rows."""
    x, y = (
        np.concatenate([o.reshape(-1, o.shape[-1]) for o in part]) for part in (outputs, expected)
    )
    cosine = (x * y).sum(1) / (np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1))
    return 10 * float(np.log10((y**2).sum() / ((x - y) ** 2).sum())), float(cosine.mean())


def main() -> None:
    """Print one line a task and coding."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tasks", nargs="*", default=["resnet20", "minilm"])
    folder = Settings().workdir
    folder.mkdir(parents=True, exist_ok=True)
    for task in parser.parse_args().tasks:
        for name, codes, sqnr, cosine, clipped in rows(task, folder):
            said = f"{sqnr:6.2f} dB  cosine {cosine:.4f}  clipped {clipped}"
            print(f"{name:<10} {codes:<24} {said}", flush=True)


if __name__ == "__main__":
    main()
