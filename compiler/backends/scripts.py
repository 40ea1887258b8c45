"""Run scripts of an artifact where it is made: what the user gets is what is tried.

Each runs in a process of its own, so that a crash of a GPU's runtime ends no compile.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...ir.shown import printable
from ..reporting.samples import arrays_of, write_arrays
from ..reporting.selftest import fidelity
from ..result import Sample

RUN_SECONDS = 600
LOSS_DB, MOST_DB = 3.0, 60.0
"""Answers may be so much farther from the original than the reference's; float16 gives some 60."""
_SAID = 300


class ScriptError(Exception):
    """A script that failed; the text is the end of what it said. status: 0 where it has none."""

    def __init__(self, text: str, status: int = 0) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True)
class Answers:
    """What a script gave for each sample. milliseconds: of a run. timed: of what that is."""

    samples: tuple[dict[str, np.ndarray], ...]
    milliseconds: float
    timed: str

    @property
    def time(self) -> str:
        """The time as the end of a sentence."""
        return f"{self.milliseconds:.3f} ms a run of {self.timed}"


@dataclass(frozen=True)
class Compared:
    """Answers beside the recorded ones. worst: the largest difference in tolerances."""

    samples: int
    worst: float
    failures: tuple[str, ...] = ()

    def sentence(self, what: str) -> str:
        """What was run, on how much, and how near it is."""
        many = "sample" if self.samples == 1 else "samples"
        return (
            f"{what} was run on {self.samples} {many}; largest difference {self.worst:.2g} of its "
            "tolerance"
        )


def answered(path: Path, options: Sequence[str], samples: Sequence[Sample]) -> Answers:
    """What a script with ``--answers`` gives. Raises ScriptError."""
    with tempfile.TemporaryDirectory(prefix="planish-") as place:
        given = [Path(place, f"sample-{number}.npz") for number in range(len(samples))]
        for file, sample in zip(given, samples, strict=True):
            write_arrays(file, arrays_of(sample))
        output = Path(place, "answers.npz")
        script(path, [*options, "--answers", str(output), *map(str, given)], RUN_SECONDS)
        made: list[dict[str, np.ndarray]] = [{} for _ in samples]
        try:
            with np.load(output, allow_pickle=False) as arrays:
                known = {key: arrays[key] for key in arrays.files}
            milliseconds = float(known.pop("milliseconds"))
            timed = printable(str(known.pop("timed")))
            for key, array in known.items():
                number, _, name = key.partition("/")
                made[int(number)][name] = array
        except (OSError, ValueError, KeyError, IndexError) as error:
            raise ScriptError(f"its answers cannot be read: {error}") from error
    return Answers(tuple(made), milliseconds, timed)


def compared(
    tolerance: Mapping[str, float],
    samples: Sequence[Sample],
    answers: Sequence[Mapping[str, np.ndarray]],
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
            part = _apart(value, wanted) / (tolerance.get(name) or np.inf)
            if wanted.dtype.kind != "f":
                part = 0.0 if np.array_equal(value, wanted) else np.inf
            worst = max(worst, part)
            if not part <= 1.0:
                failures.append(f"{where} differs by {part:.3g} of its tolerance")
    failures += _farther(samples, answers) if not failures else []
    return Compared(len(samples), worst, tuple(failures))


def script(path: Path, words: Sequence[str], seconds: int) -> str:
    """What a script prints. Raises ScriptError where it fails or takes too long."""
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
        raise ScriptError(f"{path.name} ended with {done.returncode}: {said}", done.returncode)
    return done.stdout


def _apart(value: np.ndarray, wanted: np.ndarray) -> float:
    """max |a - b|; infinite where one alone is not finite."""
    x, y = value.astype(np.float64), wanted.astype(np.float64)
    same = (x == y) | (np.isnan(x) & np.isnan(y))
    with np.errstate(invalid="ignore"):
        difference = np.where(same, 0.0, np.abs(x - y))
    return float(np.nan_to_num(difference, nan=np.inf, posinf=np.inf).max(initial=0.0))


def _farther(samples: Sequence[Sample], answers: Sequence[Mapping[str, np.ndarray]]) -> list[str]:
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
