"""Policy: target and goal -> pipelines to try. The one place where targets and passes meet.

A pipeline here is a proposal. Where the target can be run, each is built, judged and timed,
and the measured best is kept; where it cannot, the first one whose quality holds is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

from ..ir.facts import FLOAT
from ..ir.graph import opset
from ..ir.sites import find_sites
from ..targets.schema import Target

Goal = Literal["latency", "size", "balanced"]
GOALS: tuple[Goal, ...] = ("latency", "size", "balanced")
LOSSLESS = "canonicalize"
QDQ_OPSET = 13
"""Scales per channel need QuantizeLinear of opset 13."""


@dataclass(frozen=True)
class Proposal:
    """A pipeline and why it is proposed."""

    pipeline: str
    reason: str


def propose(model: ir.Model, target: Target, *, calibrated: bool) -> list[Proposal]:
    """Pipelines worth trying on this model for this target, the likeliest first.

    The goal decides among them afterwards, by what was measured. Dynamic ranges suit linear
    layers, static ones both linear layers and convolutions, but need calibration data.
    """
    if not target.int8.supported or opset(model) < QDQ_OPSET:
        return []
    kinds = {site.kind for site in find_sites(model) if FLOAT in site.facts}
    static = [
        Proposal(f"{LOSSLESS},quantize{{scheme=static}}", "static ranges cost nothing at run time"),
        Proposal(
            f"{LOSSLESS},equalize,quantize{{scheme=static}}",
            "scales moved from activations into weights make static ranges tighter",
        ),
    ]
    dynamic = [
        Proposal(f"{LOSSLESS},quantize", "ranges taken at run time follow each input"),
    ]
    if "linear" not in kinds and "conv" not in kinds:
        return dynamic if "embedding" in kinds else []
    if not calibrated:
        return dynamic if "linear" in kinds else []
    return static if "linear" not in kinds else [*dynamic, *static]
