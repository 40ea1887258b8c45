"""Move range from activations into weights, channel by channel, so that 8 bits lose less.

What layers read, x, is divided by s where it is made, and the weights that read it are multiplied
by s: the same function, but no channel fills the range alone. Sources: Xiao et al., SmoothQuant
(arXiv 2211.10438), for activations; Nagel et al., Data-Free Quantization (arXiv 1906.04721), for
convolutions. Where a scale can go is found by ``ir.absorb``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ..ir.facts import FLOAT, QUANTIZED
from ..ir.graph import attribute, producer
from ..ir.qdq import activated
from ..ir.rewriter import Rewriter
from ..ir.scaling.absorb import ObstacleError
from ..ir.scaling.rescale import Constants, put_in_place
from ..ir.scaling.scale_groups import (
    ScaleGroup,
    boundary,
    contraction,
    float_readers,
    joined,
    scale_group,
)
from .api import (
    CALIBRATED,
    SITES,
    STATS,
    Candidate,
    Context,
    Observed,
    Pass,
    Perturbation,
    Refusal,
    Semantics,
    ValueStats,
    register,
)
from .math.equalize import cross_layer_scale, smooth_scale
from .math.histogram import split_zero
from .math.noise import (
    Reader,
    Spread,
    Vector,
    conv_reader,
    int8_noise,
    linear_reader,
    rounding_noise,
)

Requests = tuple[Observed, ...]
GRID = tuple(round(0.05 * step, 2) for step in range(21))
"""Smoothing strengths that are tried."""
LEAST_GAIN = 0.05
"""A smaller fall of the predicted rounding error is not worth an edit."""
CROSS_LAYER = "cross-layer"


@dataclass(frozen=True)
class EqualizeOptions:
    """alpha: SmoothQuant's strength, 0 (weights decide) to 1 (activations do); none: the best."""

    alpha: float | None = None

    def __post_init__(self) -> None:
        if self.alpha is not None and not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha is {self.alpha}, not between 0 and 1")


@dataclass(frozen=True, eq=False)
class Choice:
    """A scale [C] for one group. noise: predicted rounding error, relative to none."""

    group: ScaleGroup
    setting: str
    scale: Vector
    noise: float


@register
class Equalize(Pass):
    """Scale channels of activations into weights, so that one range fits them all.

    What it does: divides an activation by a scale per channel, in the constants in front of it
    (normalisation, layer, convolution), and multiplies the weights that read it. Linear layers
    take SmoothQuant's scales, convolutions also those that make neighbouring layers alike.
    When it applies: all readers are float layers, nothing else reads the activation, and the
    predicted rounding error falls by 5 %. Linear layers need calibration data.
    What it costs: nothing; weights keep their shapes.
    Guarantee: equal in real arithmetic; groups that share weights are changed together.
    Options: ``alpha`` fixes the strength instead of choosing it for each group.
    Example: ``equalize{alpha=0.5}``
    """

    name = "equalize"
    semantics = Semantics.REASSOCIATES
    requires = frozenset({FLOAT})
    Options = EqualizeOptions
    options: EqualizeOptions

    def candidates(self, model: ir.Model, ctx: Context) -> Iterator[Candidate | Refusal]:
        sites = ctx.analysis(SITES)
        groups: list[ScaleGroup] = []
        for members in float_readers(sites).values():
            try:
                groups.append(scale_group(members))
            except ObstacleError as obstacle:
                yield Refusal(members[0].name, obstacle.code, str(obstacle))
        for site in sites.of_kind("linear", "conv"):
            if QUANTIZED in site.facts:
                yield Refusal(site.name, "already-quantized", "its weight has 8 bits or fewer")
            elif FLOAT not in site.facts:
                yield Refusal(site.name, "not-float", "the layer is not in float any more")
            elif site.nested:
                yield Refusal(site.name, "subgraph", "it stands inside a branch or a loop")
        yield from self._judged(groups, ctx)

    def perturb(self, model: ir.Model, candidate: Candidate, ctx: Context) -> Perturbation:
        sites = ctx.analysis(SITES)
        members, constants, groups = float_readers(sites), Constants(), list[ScaleGroup]()
        for name, about in candidate.details["groups"].items():
            first = sites.by_name[name].input
            assert first is not None
            group = scale_group(members[first])
            spread = _spread(group, constants, _requests([group], ctx), ctx)
            assert spread is not None
            readers = _readers(group, constants)
            constants.scale(group, _scale(about["scale"], group, spread, readers, constants))
            groups.append(group)
        inputs, outputs = boundary(groups)
        return Perturbation(
            tuple(str(v.name) for v in inputs),
            tuple(str(v.name) for v in outputs),
            payload=constants.rescaled(),
            contraction=contraction(groups),
        )

    def lower(
        self,
        model: ir.Model,
        candidate: Candidate,
        perturbation: Perturbation | None,
        rewriter: Rewriter,
        ctx: Context,
    ) -> None:
        assert perturbation is not None
        put_in_place(rewriter, perturbation.payload)

    def _judged(self, groups: Sequence[ScaleGroup], ctx: Context) -> Iterator[Candidate | Refusal]:
        """In graph order: a scale sees those chosen before it."""
        constants, chosen = Constants(), dict[ScaleGroup, Choice]()
        requests = _requests([g for g in groups if _refuse(g, ctx) is None], ctx)
        for group in groups:
            choice = _refuse(group, ctx) or self._judge(group, constants, requests, ctx)
            if isinstance(choice, Refusal):
                yield choice
                continue
            constants.scale(group, choice.scale)
            chosen[group] = choice
        for members in joined(list(chosen)):
            yield _candidate([chosen[group] for group in members])

    def _judge(
        self, group: ScaleGroup, constants: Constants, requests: Requests, ctx: Context
    ) -> Choice | Refusal:
        spread, readers = _spread(group, constants, requests, ctx), _readers(group, constants)
        if spread is None:
            return Refusal(group.name, "not-observed", "no calibration feed reached its input")
        levels = 2 ** (ctx.target.int8.weight_bits - 1) - 1
        floor = _floor(group, requests, ctx)
        start = int8_noise(np.ones(len(spread.low)), spread, readers, levels) + floor
        choices = []
        for setting in self._settings(group, ctx):
            scale = _scale(setting, group, spread, readers, constants)
            noise = int8_noise(scale, spread, readers, levels) + floor
            choices.append(Choice(group, setting, scale, noise / start if start > 0 else 1.0))
        best = min(choices, key=lambda choice: choice.noise)
        if best.noise <= 1 - LEAST_GAIN:
            return best
        gain = f"the best scale lowers the predicted rounding error by {1 - best.noise:.1%} only"
        return Refusal(group.name, "no-gain", gain if best.noise < 1 else "no scale rounds better")

    def _settings(self, group: ScaleGroup, ctx: Context) -> list[str]:
        strengths = GRID if self.options.alpha is None else (self.options.alpha,)
        smooth = [f"alpha={alpha:g}" for alpha in strengths]
        if not group.convolves:
            return smooth
        return [CROSS_LAYER, *(smooth if ctx.analysis(CALIBRATED) else [])]


# -- numbers ---------------------------------------------------------------------------


def _scale(
    setting: str, group: ScaleGroup, spread: Spread, readers: Sequence[Reader], now: Constants
) -> Vector:
    """The scale that a setting means, float64 [C] holding float32 numbers."""
    peaks = np.max([r.peaks.max(axis=2, initial=0.0).reshape(-1) for r in readers], axis=0)
    if setting == CROSS_LAYER:
        return cross_layer_scale(now.peaks(group.absorber.main), peaks).astype(np.float64)
    alpha = float(setting.removeprefix("alpha="))
    return smooth_scale(spread.absmax, peaks, alpha).astype(np.float64)


def _readers(group: ScaleGroup, now: Constants) -> list[Reader]:
    if not group.convolves:
        return [linear_reader(now.array(scaled)) for scaled in group.readers]
    return [conv_reader(now.array(s), attribute(s.node, "group", 1)) for s in group.readers]


def _requests(groups: Sequence[ScaleGroup], ctx: Context) -> Requests:
    if not ctx.analysis(CALIBRATED):
        return ()
    wanted = {(g.x, g.axis) for g in groups} | {(y, 1) for g in groups for y in _rounded(g, ctx)}
    return tuple(sorted((str(value.name), axis) for value, axis in wanted))


def _rounded(group: ScaleGroup, ctx: Context) -> list[ir.Value]:
    """Outputs of the readers that will be rounded as well, whatever the scale."""
    if not (group.convolves and ctx.target.int8.conv_needs_output_quant):
        return []
    outputs = [activated(site.output) for site in group.sites if site.output is not None]
    return [output for output in outputs if output.shape is not None]


def _floor(group: ScaleGroup, requests: Requests, ctx: Context) -> float:
    """The part of the rounding error that no scale changes: that of the outputs."""
    if not requests:
        return 0.0
    stats = ctx.analysis(STATS, requests)
    found = [s for y in _rounded(group, ctx) if (s := stats.get((str(y.name), 1)))]
    return sum(rounding_noise(s.minimum, s.maximum) * len(s.minimum) for s in found)


def _spread(group: ScaleGroup, now: Constants, requests: Requests, ctx: Context) -> Spread | None:
    """What was observed of x; without data what its producer's weights let expect."""
    if ctx.analysis(CALIBRATED):
        stats = ctx.analysis(STATS, requests).get((str(group.x.name), group.axis))
        return None if stats is None else _observed(stats)
    reach = now.peaks(group.absorber.main)
    if producer(group.x, "Relu"):
        return Spread(np.zeros_like(reach), reach, reach**2 / 6.0, live=0.5)
    return Spread(-reach, reach, reach**2 / 3.0)  # as if uniform


def _observed(stats: ValueStats) -> Spread:
    zeros = split_zero(stats.histogram)[1] / max(stats.histogram.total, 1.0)
    return Spread(stats.minimum, stats.maximum, stats.mean_square, 1.0 - zeros)


def _refuse(group: ScaleGroup, ctx: Context) -> Refusal | None:
    if not ctx.target.int8.supported:
        return Refusal(group.name, "target", f"{ctx.target.name} has no integer kernels to serve")
    if not group.convolves and not ctx.analysis(CALIBRATED):
        return Refusal(
            group.name,
            "no-calibration",
            "scales come from what the layer reads on real data; give --calibration",
        )
    return None


# -- candidates ------------------------------------------------------------------------


def _candidate(choices: Sequence[Choice]) -> Candidate:
    details = {
        c.group.name: {
            "scale": c.setting,
            "layers": [site.name for site in c.group.sites],
            "absorbed by": str(c.group.absorber.main.node.name),
            "noise": round(c.noise, 4),
        }
        for c in choices
    }
    setting = choices[0].setting if len(choices) == 1 else "joint"
    return Candidate(choices[0].group.name, setting, details={"groups": details})
