"""Move range from activations into weights, channel by channel, so that 8 bits lose less.

What layers read, x, is divided by s where it is made, and the weights that read it are multiplied
by s: the same function, but no channel fills the range alone. Sources: Xiao et al., SmoothQuant
(arXiv 2211.10438), for activations; Nagel et al., Data-Free Quantization (arXiv 1906.04721), for
convolutions. Where a scale can go is found by ``ir.absorb``.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ..ir.absorb import ObstacleError, Scaled
from ..ir.channels import NONE
from ..ir.facts import FLOAT
from ..ir.graph import Array, attribute, constant_array, producer
from ..ir.rewriter import Rewriter
from ..ir.scale_groups import ScaleGroup, boundary, contraction, float_readers, joined, scale_group
from .api import (
    CALIBRATED,
    SITES,
    STATS,
    Candidate,
    Context,
    Pass,
    Perturbation,
    Refusal,
    Semantics,
    register,
)
from .math.equalize import cross_layer_scale, smooth_scale
from .math.noise import Reader, Spread, Vector, conv_reader, int8_noise, linear_reader

Requests = tuple[tuple[str, int], ...]
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


@dataclass(frozen=True, eq=False)
class Rescaled:
    """The new contents of one constant input of a node."""

    node: ir.Node
    index: int
    array: Array


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
            if FLOAT not in site.facts:
                yield Refusal(site.name, "not-float", "the layer is not in float any more")
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
        for item in perturbation.payload:
            old = item.node.inputs[item.index]
            new = rewriter.initializer(_hint(item), item.array)
            rewriter.set_input(item.node, item.index, new)
            rewriter.sweep([old])

    def _judged(self, groups: Sequence[ScaleGroup], ctx: Context) -> Iterator[Candidate | Refusal]:
        """In graph order: a scale sees those chosen before it."""
        constants, chosen = Constants(), dict[ScaleGroup, Choice]()
        requests = _requests((g for g in groups if _refuse(g, ctx) is None), ctx)
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
        start = int8_noise(np.ones(len(spread.low)), spread, readers, levels)
        choices = []
        for setting in self._settings(group, ctx):
            scale = _scale(setting, group, spread, readers, constants)
            noise = int8_noise(scale, spread, readers, levels) / start if start > 0 else 1.0
            choices.append(Choice(group, setting, scale, noise))
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


# -- constants -------------------------------------------------------------------------


class Constants:
    """Constants as the scales chosen so far make them; nothing in the graph changes."""

    def __init__(self) -> None:
        self._factors: dict[tuple[ir.Node, int], list[Array]] = {}

    def scale(self, group: ScaleGroup, scale: Vector) -> None:
        """Divide by ``scale`` in front of the group's activation, multiply behind it."""
        for scaled in group.absorber.scaled:
            self._multiply(scaled, 1.0 / scale)
        for scaled in group.readers:
            self._multiply(scaled, scale)

    def array(self, node: ir.Node, index: int) -> Array:
        """The contents of one constant input, rounded to float32 once."""
        array = constant_array(node.inputs[index])
        assert array is not None
        factors = self._factors.get((node, index), [])
        if not factors:
            return array
        return np.asarray(array * functools.reduce(np.multiply, factors), np.float32)

    def rescaled(self) -> tuple[Rescaled, ...]:
        """All constants that change, in the order of their first scale."""
        return tuple(Rescaled(*key, self.array(*key)) for key in self._factors)

    def _multiply(self, scaled: Scaled, factor: Vector) -> None:
        spread = np.where(scaled.channels == NONE, 1.0, factor[scaled.channels])
        self._factors.setdefault((scaled.node, scaled.index), []).append(spread)


def _scale(
    setting: str, group: ScaleGroup, spread: Spread, readers: Sequence[Reader], now: Constants
) -> Vector:
    """The scale that a setting means, float64 [C] holding float32 numbers."""
    peaks = np.max([r.peaks.max(axis=2, initial=0.0).reshape(-1) for r in readers], axis=0)
    if setting == CROSS_LAYER:
        return cross_layer_scale(_made_peaks(group, now), peaks).astype(np.float64)
    alpha = float(setting.removeprefix("alpha="))
    return smooth_scale(spread.absmax, peaks, alpha).astype(np.float64)


def _made_peaks(group: ScaleGroup, now: Constants) -> Vector:
    """Largest weight of each channel in the layer or factor that makes it, float64 [C]."""
    main = group.absorber.main
    array = now.array(main.node, main.index)
    alike = tuple(axis for axis, size in enumerate(main.channels.shape) if size == 1)
    peaks = np.abs(array).max(axis=alike, keepdims=True)
    mine = main.channels != NONE
    found = np.zeros(int(main.channels.max()) + 1)
    found[main.channels[mine]] = peaks[mine]
    return found


def _readers(group: ScaleGroup, now: Constants) -> list[Reader]:
    arrays = [(s.node, now.array(s.node, s.index)) for s in group.readers]
    if not group.convolves:
        return [linear_reader(array) for _, array in arrays]
    return [conv_reader(array, attribute(node, "group", 1)) for node, array in arrays]


# -- statistics ------------------------------------------------------------------------


def _requests(groups: Iterable[ScaleGroup], ctx: Context) -> Requests:
    if not ctx.analysis(CALIBRATED):
        return ()
    return tuple(sorted({(str(g.x.name), g.axis) for g in groups}))


def _spread(group: ScaleGroup, now: Constants, requests: Requests, ctx: Context) -> Spread | None:
    """What was observed of x; without data what its producer's weights let expect."""
    if ctx.analysis(CALIBRATED):
        stats = ctx.analysis(STATS, requests).get(str(group.x.name))
        return None if stats is None else Spread(stats.minimum, stats.maximum, stats.mean_square)
    reach = _made_peaks(group, now)
    low = np.zeros_like(reach) if producer(group.x, "Relu") else -reach
    return Spread(low, reach, reach**2 / 3.0)  # as if uniform


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


def _hint(item: Rescaled) -> str:
    """A name that still tells of the layer, unless the old one belongs to several."""
    old = item.node.inputs[item.index]
    assert old is not None
    if len(old.uses()) > 1:
        return f"{item.node.name}_equalized"
    return f"{str(old.name).removesuffix('_equalized')}_equalized"
