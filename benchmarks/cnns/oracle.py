"""Which channels belong together, found by changing one after the other; no operator is known here.

The graph falls apart at its layers: what a layer makes becomes an input, and all that is computed
from these inputs an output. Channel c of such an input is changed in one sample of a batch; where
that sample differs from the first one, c has been. For axes that are cut, channels that meet
at a position have to go together; that gives the finest units, to hold against those of a group.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from planish.ir.axes.groups import NONE, AxisGroup, Member
from planish.ir.save import to_bytes
from planish.targets.runtime import open_session

Channel: TypeAlias = tuple[str, int]
"""A value and a position along its channels."""
Unit: TypeAlias = frozenset[Channel]
Array: TypeAlias = npt.NDArray[np.float32]
Footprint: TypeAlias = npt.NDArray[np.bool_]
DIFFERENT = 1e-4
DRAWS = 3
"""Changes of each channel: behind a Relu a single one may not show."""


@dataclass(frozen=True)
class Layer:
    """A convolution or linear layer. axis: of channels in what it reads and makes."""

    reads: str
    makes: str
    weight: str
    axis: int
    groups: int = 1


@dataclass(frozen=True, eq=False)
class Coupling:
    """Where each channel goes: by input and value, bool [channels, rows, *axes behind the batch].

    rows: of a sample, 1 where the batch stands alone in front. outputs, inputs: of the model.
    """

    layers: tuple[Layer, ...]
    reached: dict[str, dict[str, Footprint]] = field(repr=False)
    outputs: tuple[str, ...]
    inputs: tuple[str, ...]

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Channels by input."""
        return {name: len(next(iter(found.values()))) for name, found in self.reached.items()}

    def places(self, value: str, axis: int) -> dict[Channel, set[int]]:
        """By channel, the positions along an axis of a value to which it comes."""
        found: dict[Channel, set[int]] = {}
        for name, values in self.reached.items():
            if value in values:
                array = values[value]
                others = tuple(i for i in range(1, array.ndim) if i != axis + 1)
                rows: Footprint = np.any(array, axis=others)
                for channel, row in enumerate(rows):
                    found[name, channel] = set(np.flatnonzero(row).tolist())
        return found

    def touched(self, channel: Channel) -> set[str]:
        """The values to which a channel comes."""
        name, place = channel
        return {value for value, array in self.reached[name].items() if array[place].any()}

    def leaves(self, channel: Channel) -> bool:
        """Whether a channel comes to an output of the model, or is one of its inputs."""
        return channel[0] in self.inputs or bool(self.touched(channel) & set(self.outputs))


def coupling(model: ir.Model, seed: int = 0) -> Coupling:
    """Change every channel of a model whose inputs and activations have the batch in front."""
    proto = onnx.load_from_string(to_bytes(model))
    inputs = tuple(str(v.name) for v in model.graph.inputs)
    outputs = tuple(str(v.name) for v in model.graph.outputs)
    layers = tuple(_layers(model))
    starts = {layer.makes: layer.axis for layer in layers} | dict.fromkeys(inputs, 1)
    base = _inputs(proto, starts, inputs, np.random.default_rng(seed))
    _fall_apart(proto, layers, base)
    session = open_session(proto.SerializeToString(), threads=1, optimize="none")
    reached = {
        name: _reached(session, base, name, axis, np.random.default_rng(seed + 1))
        for name, axis in starts.items()
    }
    return Coupling(layers, reached, outputs, inputs)


def _layers(model: ir.Model) -> Iterator[Layer]:
    for node in model.graph:
        weight = node.inputs[1] if len(node.inputs) > 1 else None
        if weight is None or not weight.is_initializer() or weight.const_value is None:
            continue
        shape = weight.const_value.shape.numpy()
        reads, makes, name = (str(v.name) for v in (node.inputs[0], node.outputs[0], weight) if v)
        if node.op_type in ("MatMul", "Gemm"):
            yield Layer(reads, makes, name, len(node.outputs[0].shape or ()) - 1)
        elif node.op_type in ("Conv", "ConvTranspose"):
            groups = node.attributes["group"].as_int() if "group" in node.attributes else 1
            if not groups == shape[0] > 1 == shape[1]:  # depthwise: each channel for itself
                yield Layer(reads, makes, name, 1, groups)


def _inputs(
    proto: onnx.ModelProto, starts: Iterable[str], inputs: Sequence[str],
    random: np.random.Generator,
) -> dict[str, Array]:  # fmt: skip
    """One sample of everything, of the shapes that the whole model gives it."""
    whole, shapes = onnx.ModelProto(), dict[str, tuple[int, ...]]()
    whole.CopyFrom(proto)
    for value in whole.graph.input:
        sizes = [d.dim_value for d in value.type.tensor_type.shape.dim]
        shapes[value.name] = (1, *sizes[1:])
    del whole.graph.output[:]
    whole.graph.output.extend(
        onnx.ValueInfoProto(name=name) for name in starts if name not in inputs
    )
    session = open_session(whole.SerializeToString(), threads=1, optimize="none")
    feeds = {name: random.normal(size=shapes[name]).astype(np.float32) for name in inputs}
    for name, array in zip(session.output_names, session.run(feeds), strict=True):
        feeds[name] = random.normal(size=array.shape).astype(np.float32)
    return feeds


def _fall_apart(proto: onnx.ModelProto, layers: Sequence[Layer], base: dict[str, Array]) -> None:
    """Take the layers out; what they made are inputs, all else that is computed are outputs."""
    graph, made = proto.graph, list(dict.fromkeys(layer.makes for layer in layers))
    left = [node for node in graph.node if not set(node.output) & set(made)]
    del graph.node[:], graph.output[:]
    graph.node.extend(left)
    for name in made:
        shape = ["batch", *base[name].shape[1:]]
        graph.input.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape))
    for name in base:
        graph.node.append(onnx.helper.make_node("Identity", [name], [f"{name}/same"]))
    for node in graph.node:
        for name in node.output:
            graph.output.append(onnx.ValueInfoProto(name=name))
    proto.graph.ClearField("value_info")


def _reached(
    session: Any, base: dict[str, Any], name: str, axis: int, random: np.random.Generator
) -> dict[str, Footprint]:
    count, found = base[name].shape[axis], dict[str, Footprint]()
    for _ in range(DRAWS):
        feeds = {key: np.repeat(array, count + 1, 0) for key, array in base.items()}
        for channel in range(count):
            part = np.moveaxis(feeds[name][channel + 1], axis - 1, 0)
            part[channel] += 3 * random.normal(size=part[channel].shape).astype(np.float32)
        for key, array in zip(session.output_names, session.run(feeds), strict=True):
            if array.dtype.kind not in "fb" or not array.ndim or array.shape[0] % (count + 1):
                continue  # sizes that the graph computes
            rows = array.reshape(count + 1, -1, *array.shape[1:]).astype(np.float64)
            differs = np.abs(rows[1:] - rows[:1]) > DIFFERENT * np.abs(rows).max(initial=1e-3)
            key = key.removesuffix("/same")
            found[key] = found.get(key, False) | differs
    return found


def separable(found: Coupling, value: str) -> bool:
    """Whether channels of what a layer makes could be told apart, and none leaves the model.

    All axes of channels that layers read are cut, and no other is looked at: what only a Reshape
    ties together (a shuffle) counts as apart.
    """
    channels = {(name, place) for name, size in found.sizes.items() for place in range(size)}
    classes = _Classes()
    _share(classes, found, channels)
    for layer in found.layers:
        if layer.groups == 1:
            _meet(classes, found.places(layer.reads, layer.axis), channels)
    units = [unit for unit in classes.units(channels) if any(c[0] == value for c in unit)]
    free = [unit for unit in units if not any(map(found.leaves, unit))]
    return len(free) > 1


# -- against a group ---------------------------------------------------------------------


def objections(found: Coupling, group: AxisGroup) -> list[str]:
    """What the channels that were changed say against the units of a group that can be cut."""
    activations = {m.value: m for m in group.members if not m.stored}
    ours = _units(group, [activations[n] for n in found.reached if n in activations])
    wrong = [*_missed(found, activations, ours), *_unequal(found, group, activations)]
    finest = list(_finest(found, group, activations))
    if not any(set(units) == set(ours) for units in finest):
        counts = sorted({len(units) for units in finest})
        wrong.append(f"{len(ours)} units, but the changed channels make {counts}, or others")
    return wrong


def _units(group: AxisGroup, members: Sequence[Member]) -> list[Unit]:
    rows = (
        frozenset((m.value, int(p)) for m in members for p in m.index[unit] if p != NONE)
        for unit in range(group.units)
    )
    return [row for row in rows if row]


def _missed(found: Coupling, activations: dict[str, Member], ours: Sequence[Unit]) -> Iterator[str]:
    """Values that a unit comes to and that no cut would make shorter."""
    for channel in itertools.chain(*ours):
        for value in found.touched(channel) - set(activations):
            yield f"{value!r} depends on {channel} and stays as it is"
        if found.leaves(channel):
            yield f"{channel} leaves the model"


def _unequal(found: Coupling, group: AxisGroup, activations: dict[str, Member]) -> Iterator[str]:
    """Weights that are not cut where their channels are."""
    stored: dict[tuple[str, str], Member] = {
        (m.value, m.role): m for m in group.members if m.stored
    }
    for layer in found.layers:
        if layer.groups > 1:
            continue
        for value, role in ((layer.makes, "produces"), (layer.reads, "consumes")):
            member, own = activations.get(value), stored.get((layer.weight, role))
            if (member is None) != (own is None):
                yield f"only one of {value!r} and {layer.weight!r} is cut"
            elif member is not None and own is not None and not _same(member, own):
                yield f"{value!r} and {layer.weight!r} are cut at other places"


def _same(a: Member, b: Member) -> bool:
    return all(
        set(one[one != NONE]) == set(other[other != NONE])
        for one, other in zip(a.index, b.index, strict=True)
    )


def _finest(
    found: Coupling, group: AxisGroup, activations: dict[str, Member]
) -> Iterator[list[Unit]]:
    """The finest units, by what grouped convolutions keep: whole groups, or places in each."""
    classes = _Classes()
    cut = {
        (name, int(p)) for name in found.reached if name in activations
        for p in activations[name].index.ravel() if p != NONE
    }  # fmt: skip
    for channel in cut:
        classes.find(channel)
    for member in activations.values():
        _meet(classes, found.places(member.value, member.axis), cut)
    _share(classes, found, cut)
    grouped = [y for y in found.layers if y.groups > 1 and {y.reads, y.makes} & set(activations)]
    for whole in itertools.product((False, True), repeat=len(grouped)):
        state = classes.copy()
        for layer, groups in zip(grouped, whole, strict=True):
            _group(state, found, layer, cut, whole=groups)
        yield state.units(cut)


class _Classes:
    """A union-find over channels."""

    def __init__(self) -> None:
        self.above: dict[Channel, Channel] = {}

    def copy(self) -> _Classes:
        other = _Classes()
        other.above = dict(self.above)
        return other

    def find(self, channel: Channel) -> Channel:
        while self.above.setdefault(channel, channel) != channel:
            channel = self.above[channel]
        return channel

    def join(self, *channels: Channel) -> None:
        for other in channels[1:]:
            self.above[self.find(other)] = self.find(channels[0])

    def units(self, channels: Iterable[Channel]) -> list[Unit]:
        found: dict[Channel, set[Channel]] = {}
        for channel in channels:
            found.setdefault(self.find(channel), set()).add(channel)
        return [frozenset(unit) for unit in found.values()]


def _share(classes: _Classes, found: Coupling, cut: set[Channel]) -> None:
    """Channels that one stored weight makes or reads at one position, in several layers."""
    at: dict[tuple[str, str, int], Channel] = {}
    for layer in found.layers:
        for side, value in (("makes", layer.makes), ("reads", layer.reads)):
            for channel, places in found.places(value, layer.axis).items():
                for place in places if channel in cut and layer.groups == 1 else ():
                    classes.join(at.setdefault((layer.weight, side, place), channel), channel)


def _meet(classes: _Classes, places: dict[Channel, set[int]], cut: set[Channel]) -> None:
    """Channels at one position go together."""
    at: dict[int, Channel] = {}
    for channel in cut & set(places):
        for place in places[channel]:
            classes.join(at.setdefault(place, channel), channel)


def _group(
    classes: _Classes, found: Coupling, layer: Layer, cut: set[Channel], *, whole: bool
) -> None:
    """What a grouped convolution asks for: channels at both sides in groups of one size."""
    sides = [
        {c: p for c, p in found.places(value, 1).items() if c in cut}
        for value in (layer.reads, layer.makes)
    ]
    at: dict[tuple[int, int], Channel] = {}
    for side, channels in enumerate(sides):
        size = 1 + max((p for places in channels.values() for p in places), default=0)
        width = -(-size // layer.groups)
        for channel, places in channels.items():
            for place in places:
                key = (0, place // width) if whole else (side + 1, place % width)
                classes.join(at.setdefault(key, channel), channel)
