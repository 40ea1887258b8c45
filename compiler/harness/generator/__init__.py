"""Typed ONNX graphs made at random: valid, runnable, and dense in what breaks passes.

``generated`` makes them from a seed, ``models`` is the same as a Hypothesis strategy, for tests
that shrink. Shared and tied weights, residuals, graphs inside graphs, inputs left out, names that
collide, several opsets and IR versions, half and double precision, scalars, empty tensors, sizes
that differ between calls, constants in every form, layers and blocks in every spelling.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from ....ir.errors import UsageError, near
from ..case import Case
from . import blocks, constants, control, finish, images, layers, movement, pointwise, quantized
from .draws import DrawnDraws, Draws, SeededDraws
from .inputs import inputs
from .names import Names
from .scope import Scope, World
from .towers import TOWERS

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

Step = Callable[[Scope], None]
FEEDS = 2
BEHIND = 4
"""Things at most that are put into a graph that begins with a tower."""
STEPS: dict[str, tuple[tuple[int, Step], ...]] = {
    "pointwise": (
        (6, pointwise.unary), (2, pointwise.clip), (8, pointwise.binary), (2, pointwise.divide),
        (2, pointwise.power), (1, pointwise.prelu), (2, pointwise.softmax), (3, pointwise.reduce),
        (2, pointwise.integers), (2, pointwise.choose), (6, pointwise.rounding),
        (3, pointwise.cast), (5, pointwise.nothing), (3, pointwise.again), (2, constants.wild),
    ),
    "movement": (
        (3, movement.reshape), (3, movement.transpose), (5, movement.concat), (3, movement.split),
        (3, movement.slice_), (4, movement.axes_of_one), (6, movement.expand),
        (2, movement.gather), (4, movement.flatten), (3, movement.pad), (2, movement.counted),
        (2, movement.vacant),
    ),
    "layers": (
        (16, layers.linear), (16, images.convolution), (4, layers.layer_norm),
        (3, images.instance_norm),
        (14, layers.stacked),
    ),
    "blocks": ((11, blocks.attention), (5, blocks.feed_forward), (6, blocks.embedding)),
    "control": (
        (5, control.branch), (3, control.loop), (3, control.scan), (8, control.call),
        (3, control.sequence),
    ),
    "quantized": ((3, quantized.quantize_dequantize), (6, quantized.quantized_linear)),
}  # fmt: skip
"""By family, what may come next in a graph, and how likely it is."""


@dataclass(frozen=True)
class Profile:
    """What graphs are made of.

    steps: the most things that are put into one graph. opsets, ir_versions: the ranges. families:
    names in ``STEPS``, all by default. tower: a name in ``TOWERS``, which every graph then begins
    with; "" for none. Behind one few more things are put.
    """

    steps: int = 14
    opsets: tuple[int, int] = (7, 23)
    ir_versions: tuple[int, int] = (3, 11)
    families: tuple[str, ...] = tuple(STEPS)
    tower: str = ""

    def __post_init__(self) -> None:
        for name in self.families:
            if name not in STEPS:
                raise UsageError(f"there is no family {name!r}", hint=near(name, STEPS))
        if self.tower and self.tower not in TOWERS:
            raise UsageError(f"there is no tower {self.tower!r}", hint=near(self.tower, TOWERS))


def generated(count: int, seed: int = 0, *, start: int = 0, **profile: Any) -> Iterator[Case]:
    """``count`` cases from number ``start`` on; each depends on the seed and its number alone.

    profile: fields of ``Profile``. Raises UsageError for unknown ones.
    """
    known = [field.name for field in fields(Profile)]
    for name in profile:
        if name not in known:
            raise UsageError(f"a profile has no {name!r}", hint=near(name, known))
    wanted = Profile(**profile)
    for index in range(start, start + count):
        yield made(SeededDraws(seed, index), wanted, f"generated-{index}")


def models(**profile: Any) -> SearchStrategy[Case]:
    """The same graphs as a Hypothesis strategy, for ``@given(models())``; failures shrink.

    Raises UsageError where Hypothesis is not installed.
    """
    try:
        from hypothesis import strategies
    except ImportError as error:
        raise UsageError("models() needs Hypothesis", hint="pip install 'planish[test]'") from error
    wanted = Profile(**profile)

    @strategies.composite
    def cases(draw: Any) -> Case:
        return made(DrawnDraws(draw), wanted, "generated")

    return cases()


def made(draws: Draws, profile: Profile, name: str) -> Case:
    """One case."""
    opset = draws.integer(*profile.opsets)
    version = draws.integer(*profile.ir_versions)
    world = World(
        draws, opset, version, Names(draws), scoped=draws.chance(50), wide=draws.chance(50)
    )
    scope = Scope(world)
    first, tower = TOWERS[profile.tower] if profile.tower else ("", None)
    given = inputs(scope, FEEDS, first)
    scope.wires += given
    if tower is not None:
        tower(scope)
    steps = [step for family in profile.families for step in STEPS[family]]
    for _ in range(draws.integer(1, min(BEHIND, profile.steps) if tower else profile.steps)):
        draws.weighted(steps)(scope)
    return finish.case(name, scope, given, FEEDS)


__all__ = ["STEPS", "TOWERS", "Profile", "generated", "models"]
