"""Two models of one lowered graph: the strongly typed one, and its twin in float32.

The typed model has half-precision constants, activations and scales, and casts where a node stays
float32. The twin computes in float32 with the same rounded constants, and rounds activations as
Q/DQ do with Div, Round, Clip and Mul (through a float8 type with two casts): standard operators,
which ONNX Runtime neither fuses into integer kernels nor quantizes on its own account. Half
precision of activations is not in the twin. Graph inputs and outputs keep their types in both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from ....ir.graph import (
    all_nodes,
    attribute,
    captured_values,
    constant_array,
    constant_tensor,
    consumers,
    given,
    is_constant,
    operator,
    opset,
    producer,
)
from ....ir.rewriter import Rewriter
from ....ir.rounded import rounded_values
from .precision import NUMPY, Precision, reads

FLOAT = ir.DataType.FLOAT
TYPED_IR = 9
"""The first IR version that has 8-bit floats; it came with opset 19."""
FLOAT8 = frozenset({ir.DataType.FLOAT8E4M3FN})
LIMITS = {ir.DataType.INT8: (-128.0, 127.0)}


def typed(model: ir.Model, precision: Precision) -> ir.Model:
    """The graph with its types in it, as TensorRT builds it; a copy."""
    made = _Writer(model.clone(), precision).write()
    made.ir_version = max(made.ir_version or 0, TYPED_IR)
    return made


def twin(model: ir.Model, precision: Precision) -> ir.Model:
    """The graph in float32 with the same roundings of weights and of what Q/DQ round; a copy."""
    return _Twin(model.clone(), precision).write()


def without_rounding(model: ir.Model) -> ir.Model:
    """The graph without what rounds activations; the model itself where nothing does."""
    if not any(_rounds(node) for node in model.graph) and not any(rounded_values(model)):
        return model
    copy = model.clone()
    rewriter = Rewriter(copy)
    for found in list(rounded_values(copy)):
        rewriter.replace_uses(found.y, found.x)
        rewriter.sweep([found.y])
    for node in [n for n in copy.graph if _rounds(n)]:
        x = node.inputs[0]
        assert x is not None
        for back in consumers(node.outputs[0]):
            if operator(back) == ("", "DequantizeLinear"):
                rewriter.replace_uses(back.outputs[0], x)
                rewriter.sweep(back.outputs)
    return copy


def _rounds(node: ir.Node) -> bool:
    return operator(node) == ("", "QuantizeLinear") and not is_constant(node.inputs[0])


@dataclass
class _Writer:
    model: ir.Model
    precision: Precision
    rewriter: Rewriter = field(init=False)
    _made: dict[tuple[ir.Value, ir.DataType], ir.Value] = field(default_factory=dict)
    _scales: dict[tuple[ir.Value, ir.DataType], ir.Value] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rewriter = Rewriter(self.model)

    def write(self) -> ir.Model:
        """Every node of the main graph in its type; bodies stay float32."""
        graph, half = self.model.graph, self.precision.dtype
        nodes = list(graph)
        if self.precision.converts:
            self._keep_outputs()
        for node in nodes:
            kind = operator(node)
            if kind == ("", "QuantizeLinear"):
                self.quantize(node)
            elif kind == ("", "DequantizeLinear") or kind[1] in ("Shape", "Size"):
                continue  # the readers of a DequantizeLinear say in which type they want it
            elif self.precision.wide(node):
                self._read(node, FLOAT)
                self._capture(node)
            else:
                self._read(node, half)
                self.state(node)
        dead = [v for n in nodes if n.graph is not None for v in n.outputs]
        self.rewriter.sweep(v for v in dead if not v.uses() and not v.is_graph_output())
        self.rewriter.sweep([v for v in list(graph.initializers.values()) if not v.uses()])
        used = {operator(node)[0] for node in all_nodes(self.model)} | {""}
        for domain in self.model.opset_imports.keys() - used:
            del self.model.opset_imports[domain]  # TensorRT has no plugins for it
        return self.model

    def state(self, node: ir.Node) -> None:
        """Declare what a node in half precision makes."""
        half = self.precision.dtype
        if operator(node) == ("", "Cast"):
            if attribute(node, "to") != int(FLOAT):
                return
            self.rewriter.set_attribute(node, "to", int(half))
        for value in node.outputs:
            if value.dtype == FLOAT:
                self.rewriter.set_type(value, half, value.shape)

    def quantize(self, node: ir.Node) -> None:
        """A QuantizeLinear whose scale is of the type of what it reads."""
        x = node.inputs[0]
        assert x is not None
        dtype = x.dtype if self._held(node) and x.dtype is not None else FLOAT
        if is_constant(x):
            dtype = FLOAT
        self.rewriter.set_input(node, 0, self.in_type(x, dtype))
        self.rewriter.set_input(node, 1, self.scale(node, dtype))

    def dequantized(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        """The value out of a DequantizeLinear in a type."""
        node = value.producer()
        assert node is not None
        if dtype != FLOAT and not self._held(node):
            return self.cast(self.in_type(value, FLOAT), dtype)
        made = self.rewriter.insert(
            "DequantizeLinear",
            [node.inputs[0], self.scale(node, dtype), *node.inputs[2:]],
            after=node,
            attributes={k: a.value for k, a in node.attributes.items()},
            name=str(node.name),
            origins=[node],
        )
        self.rewriter.set_type(made.outputs[0], dtype, value.shape)
        return made.outputs[0]

    def scale(self, node: ir.Node, dtype: ir.DataType) -> ir.Value:
        """The scale of a Q or DQ in a type; what the half type holds is rounded to it in both."""
        scale = node.inputs[1]
        assert scale is not None
        key = (scale, dtype)
        if key not in self._scales:
            array = constant_array(scale)
            if array is None:  # itself dequantized: scales of two levels
                found = self.in_type(scale, dtype)
                assert found is not None
                return found
            if self._held(node):
                array = array.astype(NUMPY[self.precision.dtype])
            array = array.astype(NUMPY.get(dtype, np.dtype(np.float32)))
            self._scales[key] = self.constant(str(scale.name), array)
        return self._scales[key]

    def in_type(self, value: ir.Value | None, dtype: ir.DataType) -> ir.Value | None:
        """A float value in a type, through a cast where it has another; others as they are."""
        if value is None or value.dtype not in (FLOAT, self.precision.dtype):
            return value
        key = (value, dtype)
        if key in self._made:
            return self._made[key]
        if producer(value, "DequantizeLinear") is not None:
            found = self.dequantized(value, dtype)
        elif value.dtype == dtype:
            return value
        elif constant_tensor(value) is not None:
            found = self.narrow(value)
        else:
            found = self.cast(value, dtype)
        self._made[key] = found
        return found

    def narrow(self, value: ir.Value) -> ir.Value:
        """A constant in half precision."""
        array = constant_array(value)
        assert array is not None
        return self.constant(str(value.name), array.astype(NUMPY[self.precision.dtype]))

    def constant(self, name: str, array: np.ndarray) -> ir.Value:
        """A new initializer beside that of the name."""
        return self.rewriter.initializer(name, array)

    def cast(self, value: ir.Value | None, dtype: ir.DataType) -> ir.Value:
        """The value behind a Cast."""
        assert value is not None
        made = value.producer()
        first = next(iter(self.model.graph), None) if made is None else None
        node = self.rewriter.insert(
            "Cast", [value], before=first, after=made, attributes={"to": int(dtype)},
            name=f"{value.name}_{dtype.name.lower()}", origins=[] if made is None else [made],
        )  # fmt: skip
        self.rewriter.set_type(node.outputs[0], dtype, value.shape)
        return node.outputs[0]

    def _read(self, node: ir.Node, dtype: ir.DataType) -> None:
        if operator(node) == ("", "Cast"):
            source = node.inputs[0]
            if source is None or producer(source, "DequantizeLinear") is None:
                return  # takes any type
        for i, value in enumerate(node.inputs):
            wanted = dtype
            if dtype != FLOAT and not reads(node, opset(self.model), i, dtype):
                wanted = FLOAT
            found = self.in_type(value, wanted)
            if found is not value:
                self.rewriter.set_input(node, i, found)

    def _capture(self, node: ir.Node) -> None:
        """Bodies read values from outside in float32."""
        for value in captured_values(node):
            found = self.in_type(value, FLOAT)
            if found is not value and found is not None:
                inner = [u for u in consumers(value) if u.graph is not node.graph]
                self.rewriter.replace_uses(value, found, only=inner)

    def _held(self, node: ir.Node) -> bool:
        scale = given(node, 1)
        return (
            self.precision.converts
            and scale is not None
            and str(scale.name) in self.precision.scales
        )

    def _keep_outputs(self) -> None:
        """Outputs that a node in half precision makes leave the graph through a cast."""
        for value in dict.fromkeys(self.model.graph.outputs):
            node = value.producer()
            if node is None or value.dtype != FLOAT or self.precision.wide(node):
                continue
            if operator(node) == ("", "DequantizeLinear"):
                continue
            users = [(user, index) for user, index in value.uses()]
            made = self.rewriter.insert(
                "Cast", [value], after=node, attributes={"to": int(FLOAT)},
                name=f"{value.name}_out", origins=[node],
            )  # fmt: skip
            self.rewriter.replace_uses(value, made.outputs[0])
            for user, index in (*users, (made, 0)):
                self.rewriter.set_input(user, index, value)


class _Twin(_Writer):
    """Float32 throughout: constants go through the half type, Q/DQ of activations are spelled."""

    def _keep_outputs(self) -> None:
        return

    def state(self, node: ir.Node) -> None:
        return

    def quantize(self, node: ir.Node) -> None:
        x, zero = node.inputs[0], given(node, 2)
        assert x is not None and zero is not None
        if is_constant(x):
            super().quantize(node)
            return
        scale = self.scale(node, FLOAT)
        x = self.in_type(x, FLOAT)
        steps = self._put(node, "Div", [x, scale])
        if zero.dtype in FLOAT8:
            code = self._put(node, "Cast", [steps], to=int(zero.dtype))
            grid = self._put(node, "Cast", [code], to=int(FLOAT))
        else:
            low, high = (
                self.constant("limit", np.asarray(v, np.float32))
                for v in LIMITS[zero.dtype or FLOAT]
            )
            grid = self._put(node, "Clip", [self._put(node, "Round", [steps]), low, high])
        rounded = self._put(node, "Mul", [grid, scale])
        for back in consumers(node.outputs[0]):
            self._made[back.outputs[0], FLOAT] = rounded
            self._made[back.outputs[0], self.precision.dtype] = rounded

    def dequantized(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        return super().dequantized(value, FLOAT)

    def cast(self, value: ir.Value | None, dtype: ir.DataType) -> ir.Value:
        assert value is not None
        return value

    def narrow(self, value: ir.Value) -> ir.Value:
        return super().cast(super().narrow(value), FLOAT)

    def _put(
        self, node: ir.Node, op: str, inputs: Sequence[ir.Value | None], **attributes: int
    ) -> ir.Value:
        made = self.rewriter.insert(
            op, inputs, before=node, attributes=attributes, name=f"{node.name}_{op.lower()}",
            origins=[node],
        )  # fmt: skip
        return made.outputs[0]
