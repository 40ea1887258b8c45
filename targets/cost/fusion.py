"""Which nodes the runtime will not run as they stand: folded away, or part of another kernel.

Known rules of ONNX Runtime's CPU provider (1.31), read off the graph alone, so that they hold for
a machine that is not here. Conservative: a pattern that is not recognised counts node by node.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from ...ir.graph import (
    attribute,
    constant_tensor,
    consumers,
    dims,
    given,
    operator,
    producer,
    scalar,
    single_consumer,
    subgraphs,
)
from ...ir.types.bound import Shapes

QUANTIZE, DEQUANTIZE, DYNAMIC = "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"

_ACTIVATIONS = frozenset({"Relu", "LeakyRelu", "Sigmoid", "Tanh", "Clip", "HardSigmoid"})
_ELIMINATED = frozenset({"Identity", "Dropout"})
_INTEGER = frozenset({"Add", "Mul", "Sigmoid", "LeakyRelu", "Softmax", "Concat", "AveragePool",
                      "GlobalAveragePool"})  # fmt: skip
_MOVES = frozenset({"Reshape", "Transpose", "MaxPool", "Squeeze", "Unsqueeze", "Flatten", "Slice",
                    "Gather", "Resize"})  # fmt: skip
_PRODUCTS = frozenset({"MatMul", "Gemm"})
_RANDOM = frozenset({"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike",
                     "Bernoulli", "Multinomial"})  # fmt: skip
_SCALING = frozenset({"Mul", "Div"})


@dataclass
class Fusion:
    """gone: nodes without a kernel of their own. kernel: what others run as: "u8s8", "dynamic",
    "nbits4", "nbits8", "conv-u8s8", "integer", "layer-norm", "gelu". copies: how often a
    dequantization runs, once for each reader that computes with floats."""

    gone: set[ir.Node] = field(default_factory=set)
    kernel: dict[ir.Node, str] = field(default_factory=dict)
    copies: dict[ir.Node, int] = field(default_factory=dict)

    def absorb(self, *nodes: ir.Node | None) -> None:
        """These nodes are done by another one."""
        self.gone.update(node for node in nodes if node is not None)


def fuse(nodes: Sequence[ir.Node], shapes: Shapes) -> Fusion:
    """The nodes of a graph in order, with the shapes of its values."""
    found = Fusion()
    _fold(nodes, found)
    for rule in (_dynamic_groups, _static_groups, _norms, _gelus, _silus, _convolutions, _biases,
                 _before_norms, _scalings):  # fmt: skip
        rule([n for n in nodes if n not in found.gone], shapes, found)
    _drop_readerless(nodes, found)
    return found


def _fold(nodes: Iterable[ir.Node], found: Fusion) -> None:
    """What is known before any feed is computed as the model is loaded."""
    known: set[ir.Value] = set()

    def constant(value: ir.Value | None) -> bool:
        return value is None or value in known or constant_tensor(value) is not None

    for node in nodes:
        name = operator(node)[1]
        if name in _ELIMINATED:
            found.gone.add(node)
        elif name in (DEQUANTIZE, *_RANDOM) or any(True for _ in subgraphs(node)):
            continue
        elif all(map(constant, node.inputs)) or (name == "Shape" and _fixed(node.inputs[0])):
            known.update(node.outputs)
            found.gone.add(node)


def _fixed(value: ir.Value | None) -> bool:
    shape = dims(value)
    return shape is not None and all(isinstance(size, int) for size in shape)


def _dynamic_groups(nodes: Sequence[ir.Node], shapes: Shapes, found: Fusion) -> None:
    for node in _of(nodes, "MatMulInteger"):
        quantize = producer(node.inputs[0], DYNAMIC)
        cast = single_consumer(node.outputs[0])
        scale = None if cast is None else single_consumer(cast.outputs[0])
        if quantize is None or cast is None or scale is None or scale.op_type != "Mul":
            continue
        alone = len(consumers(quantize.outputs[0])) == 1
        found.kernel[node] = "dynamic" if alone else "u8s8"
        scales = [producer(v, "Mul") for v in scale.inputs if producer(v) is not cast]
        found.absorb(cast, scale, *scales, quantize if alone else None, _bias_add(scale))


def _static_groups(nodes: Sequence[ir.Node], shapes: Shapes, found: Fusion) -> None:
    for node in nodes:
        name = operator(node)[1]
        if name in _PRODUCTS:
            _quantized_product(node, shapes, found)
        elif name == "Conv":
            _quantized_convolution(node, found)
        elif name in _INTEGER | _MOVES:
            _between_codes(node, found)


def _quantized_product(node: ir.Node, shapes: Shapes, found: Fusion) -> None:
    x, w = (producer(v, DEQUANTIZE) for v in node.inputs[:2])
    if w is None or (x is None and constant_tensor(w.inputs[0]) is None):
        return
    behind = _quantizer(node.outputs[0])
    if x is None:
        if not attribute(node, "transB", 0):
            found.kernel[node] = f"nbits{_bits(w)}"
            found.absorb(w, _bias_add(node))
    elif _bits(w) == 8 and not attribute(w, "block_size", 0) and _takes_bias(node, shapes, behind):
        found.kernel[node] = "u8s8"
        bias = producer(given(node, 2), DEQUANTIZE)
        add = _bias_add(node) if behind is not None else None
        found.absorb(*_alone(x), *_alone(w), behind, bias, add)


def _takes_bias(node: ir.Node, shapes: Shapes, behind: ir.Node | None) -> bool:
    """A product with a float bias stays float unless its output is quantized."""
    if behind is not None:
        return True
    if node.op_type == "Gemm":
        bias = given(node, 2)
        return bias is None or producer(bias, DEQUANTIZE) is not None
    return _bias_add(node) is None or not _becomes_gemm(node)


def _quantized_convolution(node: ir.Node, found: Fusion) -> None:
    x, w = (producer(v, DEQUANTIZE) for v in node.inputs[:2])
    act = single_consumer(node.outputs[0])
    act = act if act is not None and operator(act)[1] in ("Relu", "Clip") else None
    behind = _quantizer((act or node).outputs[0])
    if x is None or w is None or behind is None or (act is not None and not _from_zero(behind)):
        return
    found.kernel[node] = "conv-u8s8"
    found.absorb(*_alone(x), *_alone(w), producer(given(node, 2), DEQUANTIZE), act, behind)


def _between_codes(node: ir.Node, found: Fusion) -> None:
    """An operator that computes with codes, or only moves them."""
    moves = operator(node)[1] in _MOVES
    sources = [producer(v, DEQUANTIZE) for v in (node.inputs[:1] if moves else node.inputs)]
    behind = _quantizer(node.outputs[0])
    if behind is not None and all(s is not None for s in sources):
        found.kernel[node] = "integer"
        found.absorb(behind, *(d for s in sources if s is not None for d in _alone(s)))


def _alone(dequantize: ir.Node) -> tuple[ir.Node, ...]:
    """A dequantization is gone where none of its readers computes with floats: checked at the end;
    here those that feed one kernel only."""
    return (dequantize,) if single_consumer(dequantize.outputs[0]) is not None else ()


def _drop_readerless(nodes: Sequence[ir.Node], found: Fusion) -> None:
    """A dequantization all of whose readers take codes needs no kernel."""
    taking = {"u8s8", "conv-u8s8", "integer"}
    for node in _of(nodes, DEQUANTIZE):
        readers = consumers(node.outputs[0])
        floats = [r for r in readers if found.kernel.get(r) not in taking and r not in found.gone]
        if readers and not floats:
            found.gone.add(node)
        found.copies[node] = max(1, len(floats))


def _norms(nodes: Sequence[ir.Node], shapes: Shapes, found: Fusion) -> None:
    """x - mean(x) over the root of its variance, spelled out."""
    for centre in _of(nodes, "Sub"):
        mean = producer(given(centre, 1), "ReduceMean")
        if mean is None or mean.inputs[0] is not centre.inputs[0]:
            continue
        divide = next((r for r in consumers(centre.outputs[0]) if r.op_type == "Div"), None)
        root = producer(given(divide, 1), "Sqrt") if divide is not None else None
        padded = producer(given(root, 0), "Add") if root is not None else None
        variance = producer(given(padded, 0), "ReduceMean") if padded is not None else None
        square = producer(given(variance, 0)) if variance is not None else None
        if divide is None or square is None or square.op_type not in ("Pow", "Mul"):
            continue
        scale = single_consumer(divide.outputs[0])
        scale = scale if scale is not None and scale.op_type == "Mul" else None
        found.kernel[divide] = "layer-norm"
        found.absorb(centre, mean, root, padded, variance, square, scale)
        found.absorb(_bias_add(scale) if scale is not None else None)


def _gelus(nodes: Sequence[ir.Node], shapes: Shapes, found: Fusion) -> None:
    """x / 2 (1 + erf(x / root 2)), spelled out; then a bias in front."""
    for erf in _of(nodes, "Erf"):
        scaled, plus = producer(erf.inputs[0]), single_consumer(erf.outputs[0])
        if scaled is None or scaled.op_type not in _SCALING or plus is None:
            continue
        times = single_consumer(plus.outputs[0])
        if plus.op_type != "Add" or times is None or times.op_type != "Mul":
            continue
        half = single_consumer(times.outputs[0])
        fused = half is not None and half.op_type in _SCALING and _with_scalar(half)
        other = [producer(v, "Mul") for v in times.inputs if producer(v) is not plus]
        found.kernel[erf] = "gelu"
        found.absorb(scaled, plus, times, half if fused else next(iter(other), None))
        _absorb_bias(scaled.inputs[0], found)
    for gelu in _of(nodes, "Gelu"):
        _absorb_bias(gelu.inputs[0], found)


def _absorb_bias(value: ir.Value | None, found: Fusion) -> None:
    add = producer(value, "Add")
    if add is not None and any(_is_row(v) for v in add.inputs):
        found.absorb(add)


def _silus(nodes: Sequence[ir.Node], shapes: Shapes, found: Fusion) -> None:
    """x times sigmoid(x)."""
    for sigmoid in _of(nodes, "Sigmoid"):
        if producer(sigmoid.inputs[0], DEQUANTIZE) is not None:
            continue  # each reader gets a dequantization of its own first: not one value any more
        times = single_consumer(sigmoid.outputs[0])
        if times is not None and times.op_type == "Mul" and sigmoid.inputs[0] in times.inputs:
            found.absorb(times)
            scale = producer(sigmoid.inputs[0], "Mul")
            if scale is not None and _with_scalar(scale):
                found.absorb(scale)


def _convolutions(nodes: Sequence[ir.Node], shapes: Shapes, found: Fusion) -> None:
    """Behind a convolution: a normalisation with constants, then an activation function."""
    for node in nodes:
        if operator(node)[1] not in ("Conv", "Gemm") or node in found.kernel:
            continue
        follower = single_consumer(node.outputs[0])
        if follower is not None and follower.op_type == "BatchNormalization":
            found.absorb(follower)
            follower = single_consumer(follower.outputs[0])
        if follower is not None and follower.op_type in _ACTIVATIONS:
            found.absorb(follower)


def _biases(nodes: Sequence[ir.Node], shapes: Shapes, found: Fusion) -> None:
    """The product of two matrices takes the bias along; one of more axes does if they are fixed."""
    for node in _of(nodes, "MatMul"):
        add = _bias_add(node)
        if add is None or add in found.gone or node in found.kernel:
            continue
        if _becomes_gemm(node):
            found.absorb(add)
            follower = single_consumer(add.outputs[0])
            if follower is not None and follower.op_type in _ACTIVATIONS:
                found.absorb(follower)


def _becomes_gemm(node: ir.Node) -> bool:
    x, w = dims(node.inputs[0]), dims(node.inputs[1])
    if x is None or w is None or len(w) != 2 or constant_tensor(node.inputs[1]) is None:
        return False
    return len(x) == 2 or all(isinstance(size, int) for size in x)


def _before_norms(nodes: Sequence[ir.Node], shapes: Shapes, found: Fusion) -> None:
    """The residual addition in front of a normalisation, and a bias in front of that."""
    for norm in _of(nodes, "LayerNormalization"):
        add = producer(norm.inputs[0], "Add")
        if add is None or add in found.gone or any(constant_tensor(v) for v in add.inputs):
            continue
        shape = dims(norm.inputs[0])
        if shape is None or len(shape) != 3:
            continue
        found.absorb(add)
        for value in add.inputs:
            bias = producer(value, "Add")
            if bias is not None and value is not None and single_consumer(value) is add:
                _absorb_bias(value, found)
                break


def _scalings(nodes: Sequence[ir.Node], shapes: Shapes, found: Fusion) -> None:
    """A number that multiplies an operand or the result of a float product, and an operand whose
    last two axes change places."""
    for node in _of(nodes, "MatMul"):
        if node in found.kernel:
            continue
        for value in node.inputs:
            made = producer(value)
            if made is not None and made.op_type in _SCALING and _with_scalar(made):
                found.absorb(made)
            if made is not None and _swaps_last_two(made):
                found.absorb(made)
        behind = single_consumer(node.outputs[0])
        if behind is not None and behind.op_type in _SCALING and _with_scalar(behind):
            found.absorb(behind)


def _swaps_last_two(node: ir.Node) -> bool:
    order = attribute(node, "perm", ()) if node.op_type == "Transpose" else ()
    size = len(order)
    swapped = (*range(size - 2), size - 1, size - 2)
    return size >= 2 and tuple(order) == swapped and len(consumers(node.outputs[0])) == 1


def _of(nodes: Iterable[ir.Node], *names: str) -> Iterator[ir.Node]:
    return (node for node in nodes if operator(node)[1] in names)


def _quantizer(value: ir.Value) -> ir.Node | None:
    node = single_consumer(value)
    if node is not None and node.op_type == "Add" and any(_is_row(v) for v in node.inputs):
        node = single_consumer(node.outputs[0])
    return node if node is not None and node.op_type == QUANTIZE else None


def _bias_add(node: ir.Node) -> ir.Node | None:
    """The addition of a constant row behind a node."""
    add = single_consumer(node.outputs[0])
    if add is None or add.op_type not in ("Add", "Sum") or len(add.inputs) != 2:
        return None
    return add if any(_is_row(v) for v in add.inputs) else None


def _is_row(value: ir.Value | None) -> bool:
    tensor = constant_tensor(value)
    return tensor is not None and len(tensor.shape) == 1 and tensor.size > 1


def _with_scalar(node: ir.Node) -> bool:
    return any((t := constant_tensor(v)) is not None and t.size == 1 for v in node.inputs)


def _from_zero(quantize: ir.Node) -> bool:
    """Whether the zero point is the least code, so that a Relu in front changes nothing."""
    zero = given(quantize, 2)
    if zero is None:
        return True
    least = 0.0 if zero.dtype == ir.DataType.UINT8 else -128.0
    return scalar(zero) == least


def _bits(dequantize: ir.Node) -> int:
    codes = dequantize.inputs[0]
    dtype = None if codes is None else codes.dtype
    return 8 if dtype is None else int(dtype.bitwidth)
