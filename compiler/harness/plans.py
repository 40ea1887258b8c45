"""What is fuzzed: every pass of ours, with settings, targets and graphs on which it has to work."""

from __future__ import annotations

from dataclasses import dataclass, replace

from .subject import Subject

CPU = "x86-avx512-vnni"
"""The one with the lowest break-evens: there most layers are worth an edit."""
SPARSE, FLOAT8, FLOAT4 = "nvidia-ampere", "nvidia-hopper", "nvidia-blackwell"


@dataclass(frozen=True)
class Plan:
    """A pipeline, the target it is tried for, and what its graphs begin with.

    tower: a name in ``generator.TOWERS``; "" for graphs of single operators and layers.
    """

    pipeline: str
    tower: str = ""
    target: str = CPU

    def subject(self) -> Subject:
        """What the harness runs."""
        return Subject(self.pipeline, self.target)

    def on(self, target: str | None, tower: str | None) -> Plan:
        """The same with another target or tower, where one is given."""
        plan = self if target is None else replace(self, target=target)
        return plan if tower is None else replace(plan, tower=tower)


PLANS = (
    Plan("canonicalize,prune-heads{ratio=0.5 scope=layer}", "transformer"),
    Plan("canonicalize,prune-neurons{ratio=0.5 multiples=false}", "transformer"),
    Plan("canonicalize,prune-channels{ratio=0.5 multiples=false residual=true}", "convnet"),
    Plan("canonicalize,drop-layers{of=blocks}", "transformer"),
    Plan("canonicalize,low-rank{ratio=0.5 gain=size}", "transformer"),
    Plan("canonicalize,low-rank{energy=0.9 gain=size split=spatial}", "convnet"),
    Plan("canonicalize,sparsify{small=true}", "transformer", SPARSE),
    Plan("canonicalize,quantize-float8", "transformer", FLOAT8),
    Plan("canonicalize,quantize-float4", "transformer", FLOAT4),
    Plan("canonicalize,quantize-mxfp8", "transformer", FLOAT4),
    Plan("canonicalize,quantize,quantize-recurrent", "recurrent"),
    Plan("canonicalize,quantize{scheme=static narrow=true},quantize-residuals", "convnet"),
    Plan(
        "canonicalize,prune-heads{ratio=0.5 scope=layer},prune-neurons{multiples=false},"
        "low-rank{ratio=0.5 gain=size},quantize",
        "transformer",
    ),
    Plan("canonicalize"),
    Plan("canonicalize{rules=exact}"),
    Plan("equalize"),
    Plan("canonicalize,equalize"),
    Plan("quantize"),
    Plan("canonicalize,quantize"),
    Plan("canonicalize,quantize{scheme=static}"),
    Plan(
        "canonicalize,equalize,quantize{scheme=static calibrator=percentile bias_correction=false}"
    ),
    Plan("weight-only"),
    Plan("canonicalize,weight-only{bits=2 block=16 symmetric=true}"),
    Plan("canonicalize,weight-only{layers=false},quantize"),
)
"""Those that were fuzzed least come first."""
