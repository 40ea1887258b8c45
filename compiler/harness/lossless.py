"""What must hold of every model: the lossless passes, each alone and one after the other."""

from __future__ import annotations

from ...passes.api import Semantics, registered
from ...targets.host import read_machine
from ...targets.loader import backend_of, load_target, target_names
from ..policy import LOSSLESS
from .subject import Subject


def lossless_passes() -> tuple[str, ...]:
    """Names of the EXACT and REASSOCIATES passes; the one that brings the canonical form first."""
    names = [n for n, cls in registered().items() if cls.semantics is not Semantics.LOSSY]
    return tuple(sorted(names, key=lambda name: (name != LOSSLESS, name)))


def chained() -> Subject:
    """All of them in one pipeline: each is judged as a stage, behind those before it."""
    return Subject(",".join(lossless_passes()))


def cpu_targets() -> tuple[str, ...]:
    """Names of the classes that the runtime's CPU provider serves on this architecture, and host.

    Machines are compiled for as their class is: they add rates, not rules.
    """
    targets = [load_target(name) for name in target_names()]
    served = [t for t in targets if t.kind != "machine" and backend_of(t) == "onnxruntime-cpu"]
    return tuple(t.name for t in served if t.arch in ("any", read_machine().arch))


def lossless_subjects(targets: tuple[str, ...]) -> tuple[Subject, ...]:
    """Each pass alone, all in a chain, and the lossless pipeline on each of the targets."""
    alone = [Subject(name) for name in lossless_passes()]
    pipelines = [Subject(LOSSLESS, target) for target in targets]
    return tuple(dict.fromkeys([*alone, chained(), *pipelines]))
