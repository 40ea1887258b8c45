"""2:4 zeros on MiniLM: what they cost, on everything and on feed-forward layers only.

No NVIDIA runtime is at hand, so the passes run by themselves, for ``nvidia-a100``, and the model
that they leave runs dense in ONNX Runtime: the same numbers, none of the speed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from benchmarks.data import calibration_feeds, minilm_task
from benchmarks.figures import Figure, Outcome, at_least, holds
from benchmarks.minilm import SEEDS, Judge, Score
from benchmarks.settings import Settings
from planish.compiler.context import CompileContext
from planish.compiler.data.feeds import load_feeds
from planish.compiler.instruments import RegionCheck, VerifyEach
from planish.compiler.intake import masking_of
from planish.compiler.manager import PassManager
from planish.compiler.pipeline import parse
from planish.compiler.progress import Silent
from planish.compiler.workshop import instantiate
from planish.ir.load import load_model
from planish.ir.rewriter import Rewriter
from planish.ir.save import save_model
from planish.ir.signature import Signature
from planish.targets.loader import load_target

TARGET = "nvidia-a100"
LAYERS, FEED_FORWARD = 36, 12
FFN_ONLY = "exclude=*.attention.*"


@dataclass(frozen=True)
class Case:
    """A pipeline behind the clean-up. layers: with zeros. cosine: least median, None: no bar."""

    name: str
    pipeline: str
    layers: int
    cosine: float | None = None


CASES = (
    Case("everything", "sparsify", LAYERS, 0.86),
    Case("feed-forward only", f"sparsify{{{FFN_ONLY}}}", FEED_FORWARD, 0.92),
    Case("everything, by magnitude", "sparsify{score=magnitude refit=false permute=false}", LAYERS),
)


def minilm(settings: Settings) -> Outcome:
    """Spearman and embedding cosine of 2:4 over three calibration draws, and the pattern itself."""
    judge = Judge(settings.split, minilm_task(settings.workdir).model, settings.threads)
    paths = [thinned(seed, settings) for seed in SEEDS]
    rows, figures = list[tuple[str, ...]](), list[Figure]()
    for case in CASES:
        scores = [judge.score(found[case.name]) for found in paths]
        rows.append(_row(case, scores))
        figures += _figures(case, scores, paths[0][case.name])
    return Outcome(
        f"MiniLM with 2:4 zeros, STS-B {settings.split} (en), no training, {len(SEEDS)} draws of "
        "512 calibration sentences; run dense",
        ("zeros in", "Spearman %", "drops", "95 % of each", "cosine", "lowest"),
        tuple(rows),
        tuple(figures),
    )


def thinned(seed: int, settings: Settings) -> dict[str, Path]:
    """MiniLM behind each pipeline, saved; by case. What one draw says is looked at once."""
    model = load_model(minilm_task(settings.workdir).model).model
    signature = Signature.of(model)
    feeds = load_feeds(calibration_feeds(seed), signature)
    masking, _ = masking_of(model, signature, feeds, None)
    target, rewriter = load_target(TARGET), Rewriter(model)
    context = CompileContext(target, model, feeds, True, masking, settings.threads, Silent())
    manager = PassManager(rewriter, context, [VerifyEach(signature), RegionCheck()])
    start, made = rewriter.checkpoint(), dict[str, Path]()
    for case in CASES:
        for step, pass_ in instantiate(parse(f"canonicalize,{case.pipeline}")):
            manager.run(pass_, selector=step.selector)
        words = case.name.replace(",", "").replace(" ", "-")
        made[case.name] = settings.workdir / f"minilm-sparse-{words}-draw{seed}.onnx"
        save_model(rewriter.model, made[case.name])
        rewriter.rollback(start)
    return made


def pruned_layers(path: Path) -> tuple[int, int]:
    """Weights of products in a saved file that keep 2:4 along what is summed, and all of them.

    Read with onnx and numpy alone: independent of what the pass says of itself.
    """
    graph = onnx.load(path).graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    found = [
        numpy_helper.to_array(stored[node.input[1]])
        for node in graph.node
        if node.op_type == "MatMul" and node.input[1] in stored
    ]
    kept = [
        all(
            np.count_nonzero(weight[start : start + 4], axis=0).max() <= 2
            for start in range(0, len(weight), 4)
        )
        for weight in found
    ]
    return sum(kept), len(found)


def _row(case: Case, scores: Sequence[Score]) -> tuple[str, ...]:
    cosines = [score.cosine for score in scores]
    return (
        case.name, f"{np.median([s.spearman for s in scores]):.2f}",
        ", ".join(f"{s.drop:+.2f}" for s in scores),
        ", ".join(f"{s.low:+.2f} … {s.high:+.2f}" for s in scores),
        f"{np.median(cosines):.4f}", f"{min(cosines):.4f}",
    )  # fmt: skip


def _figures(case: Case, scores: Sequence[Score], path: Path) -> list[Figure]:
    sparse, layers = pruned_layers(path)
    found = [
        holds(f"MiniLM 2:4 on {case.name}, layers with the pattern in the file",
              (sparse, layers) == (case.layers, LAYERS), f"{sparse} of {layers}",
              f"{case.layers} of {LAYERS}")
    ]  # fmt: skip
    if case.cosine is not None:
        median = float(np.median([score.cosine for score in scores]))
        found.append(at_least(f"MiniLM 2:4 on {case.name}, mean cosine", median, case.cosine))
    return found
