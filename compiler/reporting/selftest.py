"""Check that a compiled model is whole and answers here as it did where it was compiled.

Files against their digests; the samples run through model.onnx against the outputs that the
compiler recorded, within its tolerances, and against the original model's outputs; one timing.
"""

from __future__ import annotations

import hashlib
import json
import statistics
import time
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

SCHEMA = "planish-manifest/1"
MODEL = "model.onnx"
DOCUMENTS = (".md",)  # people add to a model card; that breaks nothing
CHUNK = 1 << 20
TIMED_RUNS = 20
TIMED_LEAST = 0.05
TIMED_SECONDS = 2.0
SESSION_BYTES = 1.4  # that a loaded model takes at most for each byte of weights

Arrays = Mapping[str, Any]
RunModel = Callable[[Arrays], Arrays]


class BrokenArtifactError(Exception):
    """Something without which nothing can be checked; the text says what."""


@dataclass
class Outcome:
    """What was found. ``lines`` is for reading; the rest for programs; ``failures`` decides.

    worst: per output, the largest difference from the recorded output, in tolerances.
    fidelity: per output, cosine and SQNR (dB) against the original model over all samples.
    """

    lines: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    samples: int = 0
    worst: dict[str, float] = field(default_factory=dict)
    fidelity: dict[str, dict[str, float]] = field(default_factory=dict)
    milliseconds: float | None = None

    @property
    def passed(self) -> bool:
        """Whether nothing failed."""
        return not self.failures

    def say(self, label: str, text: str) -> None:
        """Add a line of result under a label."""
        self.lines.append(f"  {label:<9} {text}")

    def text(self) -> str:
        """The whole result as it is printed; the last line is PASS or FAIL."""
        failures = [f"  FAILED    {failure}" for failure in self.failures]
        return "\n".join(map(shown, [*self.lines, *failures, "PASS" if self.passed else "FAIL"]))


def shown(text: object) -> str:
    """One line, with what a terminal would act on written out: names may hold anything."""
    words = str(text)
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in words)


def check(
    folder: Path,
    open_model: Callable[[Path], RunModel],
    original: Path | None = None,
    tolerance: Mapping[str, float] | None = None,
    model: str | None = None,
) -> Outcome:
    """Check the artifact in ``folder``; ``open_model`` loads a file and returns what runs it.

    original: the file that was compiled, to compare the answers with; of the two models one is in
    memory at a time. tolerance: instead of that in the manifest. model: the file to run instead of
    the one that the manifest names. Raises BrokenArtifactError where there is no manifest or a
    model does not load.
    """
    manifest = read_manifest(folder)
    outcome = Outcome([f"planish verify: {folder}"])
    about = f"{manifest.get('source')} for {manifest.get('target')}"
    outcome.say("model", f"{about}: {manifest.get('headline')}")
    say_where(manifest, outcome)
    check_files(folder, manifest, outcome)
    if outcome.failures or (original is None and too_large(manifest, outcome)):
        return outcome
    samples = [read_sample(folder / name) for name in manifest["samples"]]
    if original is not None:
        answer(open_model, original, samples)
        outcome.say("original", f"{original} answers anew, the records of it do not count")
    run = open_model(folder / (model or manifest.get("reference_model") or MODEL))
    check_samples(run, samples, tolerance or manifest["tolerance"], outcome)
    if original is not None and is_lossless(manifest):
        check_originals(run, samples, outcome)
    if samples and not outcome.failures:
        outcome.milliseconds = time_runs(run, samples[0]["feed"])
        at = shapes_text(samples[0]["feed"])
        outcome.say("time", f"{outcome.milliseconds:.3f} ms a run of sample 0, {at} (median)")
    return outcome


def say_where(manifest: Mapping[str, Any], outcome: Outcome) -> None:
    """What the recorded answers cannot promise of the target, and how it likes to be opened."""
    if manifest.get("not_on_target"):
        ran = manifest.get("reference_runtime") or "nothing"
        outcome.say("target", f"was not there: {manifest['not_on_target']}; recorded with {ran}")
    if manifest.get("session_options"):
        options = ", ".join(map(str, manifest["session_options"]))
        outcome.say("options", f"{options} for speed on {manifest.get('target')}; not used here")


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of an artifact. Raises BrokenArtifactError where it cannot be read."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text("utf8"))
    except FileNotFoundError:
        raise BrokenArtifactError(f"{folder} is no artifact: it has no manifest.json") from None
    except (OSError, ValueError) as error:
        raise BrokenArtifactError(f"{folder / 'manifest.json'} cannot be read: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
        raise BrokenArtifactError(f"{folder / 'manifest.json'} has another schema than {SCHEMA}")
    for key, kind in (("files", dict), ("samples", list), ("tolerance", dict)):
        if not isinstance(manifest.get(key), kind):
            raise BrokenArtifactError(f"{folder / 'manifest.json'} has no proper {key!r}")
    return manifest


def too_large(manifest: Mapping[str, Any], outcome: Outcome) -> bool:
    """Whether the model was too large to run where it was compiled, and is so here."""
    memory = manifest.get("memory") or {}
    if not memory.get("bounded"):
        return False
    needed, free = SESSION_BYTES * memory.get("weights_bytes", 0), free_bytes()
    if free is None or free >= needed:
        return False
    text = f"not run: the model takes about {needed / 1e9:.1f} GB of memory"
    outcome.say("samples", f"{text}, {free / 1e9:.1f} GB are free")
    return True


def free_bytes() -> int | None:
    """Memory that the system says is available; None where it does not say."""
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
    except (OSError, ValueError):
        return None
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(found[0]) * 1024 if found else None


def is_lossless(manifest: Mapping[str, Any]) -> bool:
    """Whether no edit that loses anything was made, so that answers must be those before."""
    return all(edit.get("loss") is None for edit in manifest.get("edits", ()))


def answer(
    open_model: Callable[[Path], RunModel], original: Path, samples: list[dict[str, Any]]
) -> None:
    """Put the original model's answers into the samples; it is gone from memory afterwards."""
    if not original.is_file():
        raise BrokenArtifactError(f"there is no model {original}")
    run = open_model(original)
    for sample in samples:
        sample["original"] = dict(run(sample["feed"]))


def check_originals(run: RunModel, samples: list[dict[str, Any]], outcome: Outcome) -> None:
    """Hold a lossless model against the original: 1e-3 of the largest magnitude, or equal."""
    for number, sample in enumerate(samples):
        got = run(sample["feed"])
        for name, wanted in sample["original"].items():
            where = f"sample {number}, output {name!r} of the original"
            compare(where, name, got, np.asarray(wanted), {}, outcome)


def check_files(folder: Path, manifest: Mapping[str, Any], outcome: Outcome) -> None:
    """Compare each file that the manifest lists by size and SHA-256; documents may differ."""
    files = manifest["files"]
    problems = {name: file_problem(folder / name, entry) for name, entry in files.items()}
    found = {name: problem for name, problem in problems.items() if problem}
    good = len(files) - len(found)
    outcome.say("files", f"{good} of {len(files)} are as they were handed over")
    for name, problem in found.items():
        if name.endswith(DOCUMENTS):
            outcome.say("document", f"{name} {problem}")
        else:
            outcome.failures.append(f"file {name} {problem}")


def file_problem(path: Path, entry: Mapping[str, Any]) -> str:
    """How a file differs from its entry in the manifest; empty where it does not."""
    if not path.is_file():
        return "is missing"
    size, wanted = path.stat().st_size, entry.get("bytes")
    if size != wanted:
        return f"has {size} bytes, {wanted} were handed over"
    same = file_digest(path) == entry.get("sha256")
    return "" if same else "has the right size but other contents than were handed over"


def file_digest(path: Path) -> str:
    """SHA-256 of a file as hexadecimal text, as ``sha256sum`` prints it."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def read_sample(path: Path) -> dict[str, dict[str, Any]]:
    """``feed``, ``output`` and ``original``, each a table of arrays by name."""
    sample: dict[str, dict[str, Any]] = {"feed": {}, "output": {}, "original": {}}
    try:
        with np.load(path, allow_pickle=False) as arrays:
            for key in arrays.files:
                kind, _, name = key.partition("/")
                sample[kind][name] = arrays[key]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise BrokenArtifactError(f"the sample {path} cannot be read: {error}") from error
    return sample


def check_samples(
    run: RunModel, samples: list[dict[str, Any]], tolerance: Mapping[str, float], outcome: Outcome
) -> None:
    """Run every sample and compare; the original model's outputs are compared, never judged."""
    pairs: dict[str, list[tuple[Any, Any]]] = {}
    good = 0
    for number, sample in enumerate(samples):
        got = run(sample["feed"])
        before = len(outcome.failures)
        for name, wanted in sample["output"].items():
            compare(f"sample {number}, output {name!r}", name, got, wanted, tolerance, outcome)
        for name in sample["original"]:
            if name in got:
                pairs.setdefault(name, []).append((sample["original"][name], got[name]))
        good += len(outcome.failures) == before
    outcome.samples = len(samples)
    recorded = any(sample["output"] for sample in samples)
    if recorded or not samples:
        text = f"{good} of {len(samples)} give the recorded outputs" + spread(outcome)
    else:
        text = f"{len(samples)} were run; no outputs were recorded where the model was compiled"
    outcome.say("samples", text)
    if not recorded and samples and not pairs:
        outcome.say("original", "not compared: give --original MODEL for that")
    for name, both in pairs.items():
        if measured := fidelity(both):
            outcome.fidelity[name] = measured
            cosine, sqnr = measured["cosine"], measured["sqnr_db"]
            outcome.say("original", f"{name}: cosine {cosine:.5f}, SQNR {sqnr:.1f} dB")


def spread(outcome: Outcome) -> str:
    """The largest difference in units of its tolerance, as the end of a sentence."""
    if not outcome.worst:
        return ""
    name = max(outcome.worst, key=outcome.worst.__getitem__)
    return f"; largest difference {outcome.worst[name]:.2g} of its tolerance ({name})"


def compare(
    where: str, name: str, got: Arrays, wanted: Any, tolerance: Mapping[str, float],
    outcome: Outcome,
) -> None:  # fmt: skip
    """Hold one output against its record: present, same dtype and shape, within tolerance."""
    if name not in got:
        outcome.failures.append(f"{where}: the model has no such output")
        return
    value = np.asarray(got[name])
    if value.dtype.kind != wanted.dtype.kind and not (is_text(value) and is_text(wanted)):
        outcome.failures.append(f"{where} is {value.dtype}, was {wanted.dtype}")
        return
    if value.shape != wanted.shape:
        outcome.failures.append(f"{where} has the shape {value.shape}, had {wanted.shape}")
        return
    limit = float(tolerance.get(name, default_tolerance(wanted)))
    difference = largest_difference(value, wanted)
    if difference > 0:
        part = difference / limit if limit else float("inf")
        outcome.worst[name] = max(outcome.worst.get(name, 0.0), part)
    if not difference <= limit:
        outcome.failures.append(f"{where} differs by up to {difference:.4g}, allowed {limit:.4g}")


def default_tolerance(wanted: Any) -> float:
    """For an output without a stated one: 1e-3 of its largest magnitude; exact if not float."""
    if wanted.dtype.kind not in "fc" or not wanted.size:
        return 0.0
    finite = np.abs(wanted[np.isfinite(wanted)])
    return 1e-3 * float(finite.max()) if finite.size else 0.0


def largest_difference(a: Any, b: Any) -> float:
    """max |a - b|; infinite where only one is NaN or an infinity, or where texts differ."""
    if not a.size:
        return 0.0
    if is_text(a):
        return 0.0 if bool((a.astype(str) == b.astype(str)).all()) else float("inf")
    x, y = a.astype(np.float64), b.astype(np.float64)
    same = (x == y) | (np.isnan(x) & np.isnan(y))
    with np.errstate(invalid="ignore"):
        difference = np.where(same, 0.0, np.abs(x - y))
    return float(np.nan_to_num(difference, nan=np.inf, posinf=np.inf).max())


def is_text(array: Any) -> bool:
    """Whether the elements are strings or objects, which have no distance."""
    return bool(array.dtype.kind in "OUS")


def fidelity(pairs: list[tuple[Any, Any]]) -> dict[str, float]:
    """Cosine and signal to quantization noise ratio in dB; empty for what is not float.

    Each over all elements of all samples at once: sum(a b) / |a| |b|, 10 log10(|a|^2 / |a - b|^2).
    """
    fits = [(a, b) for a, b in pairs if a.shape == b.shape and a.dtype.kind == "f"]
    if not fits:
        return {}
    a = np.concatenate([x.astype(np.float64).ravel() for x, _ in fits])
    b = np.concatenate([y.astype(np.float64).ravel() for _, y in fits])
    signal, noise = float(a @ a), float((a - b) @ (a - b))
    length = float(np.sqrt(signal * (b @ b)))
    return {
        "cosine": float(a @ b) / length if length else float("nan"),
        "sqnr_db": 10 * float(np.log10(signal / noise)) if signal and noise else float("inf"),
    }


def shapes_text(feed: Arrays) -> str:
    """Of what shapes a feed is: ``ids 2x16, mask 2x16``."""
    known = {name: "x".join(map(str, np.shape(a))) or "scalar" for name, a in feed.items()}
    return ", ".join(f"{name} {shape}" for name, shape in known.items())


def time_runs(run: RunModel, feed: Arrays) -> float:
    """Median milliseconds of one run, after one warm-up: of 20 runs or, of a small model, as many
    as take 50 ms, since the first milliseconds are slow; stops after two seconds."""
    run(feed)
    taken: list[float] = []
    begun = time.perf_counter()
    while time.perf_counter() - begun < (
        TIMED_LEAST if len(taken) >= TIMED_RUNS else TIMED_SECONDS
    ):
        start = time.perf_counter()
        run(feed)
        taken.append(time.perf_counter() - start)
    return 1e3 * statistics.median(taken)
