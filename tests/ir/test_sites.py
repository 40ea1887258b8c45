"""Sites: layers and blocks in every spelling, their names, roles, uses and selectors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from planish.ir.errors import UsageError
from planish.ir.load import load_model
from planish.ir.sites import Site, Sites, find_sites

Arrays = Mapping[str, Any]
RANDOM = np.random.default_rng(0)


def array(*shape: int, dtype: type = np.float32) -> np.ndarray:
    return RANDOM.normal(size=shape).astype(dtype)


def build(
    body: str,
    weights: Arrays,
    *,
    inputs: str = "float[b, s, 8] x",
    outputs: str = "float[b, s, n] y",
    opset: int = 20,
) -> ir.Model:
    """A graph in ONNX's text form; the weights that it names become initializers."""
    header = f'<ir_version: 10, opset_import: ["": {opset}, "com.microsoft": 1]>'
    proto = onnx.parser.parse_model(f"{header} g ({inputs}) => ({outputs}) {{ {body} }}")
    used = {name: data for name, data in weights.items() if f'"{name}"' in body}
    proto.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(a), n) for n, a in used.items()
    )
    return load_model(proto).model


def sites_of(body: str, weights: Arrays, **kwargs: Any) -> Sites:
    return find_sites(build(body, weights, **kwargs))


def only(sites: Sites) -> Site:
    assert len(sites) == 1, [s.name for s in sites]
    return sites[0]


def ops(site: Site) -> list[str]:
    return [node.op_type for node in site.nodes]


# -- linear --------------------------------------------------------------------------------


@pytest.mark.parametrize("bias_first", [False, True])
def test_matmul_with_bias(bias_first: bool) -> None:
    add = 'Add ("enc.q.bias", p)' if bias_first else 'Add (p, "enc.q.bias")'
    site = only(
        sites_of(
            f'p = MatMul (x, "enc.q.weight") y = {add}',
            {"enc.q.weight": array(8, 6), "enc.q.bias": array(6)},
        )
    )
    assert (site.name, site.kind, ops(site)) == ("enc.q", "linear", ["MatMul", "Add"])
    assert site.weight is not None
    assert site.bias is not None
    assert (site.weight.name, site.bias.name) == ("enc.q.weight", "enc.q.bias")
    assert (site.input and site.input.name, site.output and site.output.name) == ("x", "y")
    assert site.facts == {"float"}
    assert site.weight_path == ()
    assert not site.nested


@pytest.mark.parametrize(
    ("body", "weights"),
    [
        # the product is read twice, is an output, or what is added is no bias
        ('p = MatMul (x, "w") q = Add (p, "b") y = Mul (p, q)', {"b": array(6)}),
        ('p = MatMul (x, "w") y = Add (p, x6)', {}),
        ('p = MatMul (x, "w") y = Add (p, "b")', {"b": array(1)}),
        ('p = MatMul (x, "w") y = Add (p, "b")', {"b": array(3, 6)}),
    ],
)
def test_an_add_that_is_no_bias(body: str, weights: Arrays) -> None:
    inputs = "float[b, 3, 8] x, float[b, 3, 6] x6"
    site = only(sites_of(body, {"w": array(8, 6), **weights}, inputs=inputs))
    assert site.bias is None
    assert ops(site) == ["MatMul"]


def test_a_product_that_is_an_output_keeps_its_bias_outside() -> None:
    model = build(
        'p = MatMul (x, "w") y = Add (p, "b")',
        {"w": array(8, 6), "b": array(6)},
        outputs="float[b, s, 6] p, float[b, s, 6] y",
    )
    assert ops(only(find_sites(model))) == ["MatMul"]


def test_gemm_and_matmul_of_a_transposed_weight_are_the_same_layer() -> None:
    weights = {"fc.weight": array(6, 8), "fc.bias": array(6)}
    inputs = "float[b, 8] x"
    gemm = only(
        sites_of('y = Gemm <transB = 1> (x, "fc.weight", "fc.bias")', weights, inputs=inputs)
    )
    matmul = only(
        sites_of(
            't = Transpose <perm = [1, 0]> ("fc.weight") p = MatMul (x, t) y = Add (p, "fc.bias")',
            weights,
            inputs=inputs,
        )
    )
    assert gemm.name == matmul.name == "fc"
    assert [n.op_type for n in matmul.weight_path] == ["Transpose"]
    for site in (gemm, matmul):
        assert site.weight is not None
        assert site.bias is not None
        assert (site.weight.name, site.bias.name) == ("fc.weight", "fc.bias")


@pytest.mark.parametrize(
    ("body", "weights"),
    [
        ("t = Transpose <perm = [0, 2, 1]> (x) y = MatMul (x, t)", {}),
        ('y = MatMul (x, "w")', {"w": array(4, 8, 8)}),
        ('y = MatMul ("w", x)', {"w": array(8, 8)}),
        ('f = Reshape (x, "shape") y = Gemm <transA = 1> (f, "w")', {"w": array(6, 6)}),
    ],
)
def test_products_that_are_no_layers(body: str, weights: Arrays) -> None:
    weights = {"shape": np.array([6, -1]), **weights}
    assert len(sites_of(body, weights, inputs="float[4, 8, 8] x")) == 0


def test_a_reshaped_weight_is_still_one() -> None:
    """As CNTK writes it: the stored weight is [4, 2, 6]."""
    weights = {"stored": array(4, 2, 6), "shape": np.array([8, 6])}
    site = only(sites_of('w = Reshape ("stored", "shape") y = MatMul (x, w)', weights))
    assert site.name == "linear1"
    assert [n.op_type for n in site.weight_path] == ["Reshape"]


def test_a_shared_weight_is_one_site_with_every_use() -> None:
    site = only(
        sites_of(
            'a = MatMul (x, "m.weight") b = Add (a, "b1") c = Neg (b)'
            ' d = MatMul (c, "m.weight") y = Add (d, "b2")',
            {"m.weight": array(8, 8), "b1": array(8), "b2": array(8)},
        )
    )
    assert site.name == "m"
    assert [u.input.name for u in site.uses] == ["x", "c"]
    assert [u.bias and u.bias.name for u in site.uses] == ["b1", "b2"]
    assert site.bias is site.uses[0].bias
    assert [u.output.name for u in site.uses] == ["b", "y"]


def test_an_embedding_and_its_head_are_two_sites_that_know_of_each_other() -> None:
    sites = sites_of(
        'e = Gather ("wte.weight", ids) t = Transpose ("wte.weight") y = MatMul (e, t)',
        {"wte.weight": array(10, 8)},
        inputs="int64[b, s] ids",
    )
    assert {s.name: (s.kind, s.ties) for s in sites} == {
        "wte": ("embedding", ("wte.linear1",)),
        "wte.linear1": ("linear", ("wte",)),
    }


# -- quantized spellings -------------------------------------------------------------------

QDQ = (
    'q = QuantizeLinear (x, "xs", "xz") d = DequantizeLinear (q, "xs", "xz")'
    ' w = DequantizeLinear <axis = 1> ("fc.weight", "ws", "wz") p = MatMul (d, w)'
    ' y = Add (p, "fc.bias")'
)
DYNAMIC = (
    'q, s, z = DynamicQuantizeLinear (x) p = MatMulInteger (q, "fc.weight", z, "wz")'
    ' f = Cast <to = 1> (p) m = Mul (s, "ws") r = Mul (f, m) y = Add (r, "fc.bias")'
)
DYNAMIC_TWO_STEPS = (
    'q, s, z = DynamicQuantizeLinear (x) p = MatMulInteger (q, "fc.weight", z, "wz")'
    ' f = Cast <to = 1> (p) m = Mul (f, s) r = Mul (m, "ws") y = Add (r, "fc.bias")'
)
FUSED = 'y = com.microsoft.DynamicQuantizeMatMul (x, "fc.weight", "ws", "wz", "fc.bias")'
TO_FLOAT = (
    "q, s, z = DynamicQuantizeLinear (x)"
    ' y = com.microsoft.MatMulIntegerToFloat (q, "fc.weight", s, "ws", z, "wz", "fc.bias")'
)
NBITS = (
    "y = com.microsoft.MatMulNBits <K = 8, N = 6, bits = 4, block_size = 16>"
    ' (x, "fc.weight", "scales", "", "", "fc.bias")'
)
QLINEAR = (
    'q = QuantizeLinear (x, "xs", "xz") p = QLinearMatMul (q, "xs", "xz", "fc.weight", "ws", "wz",'
    ' "xs", "xz") y = DequantizeLinear (p, "xs", "xz")'
)


@pytest.mark.parametrize(
    ("body", "operators", "output", "bias"),
    [
        (QDQ, ["MatMul", "Add"], "y", True),
        (DYNAMIC, ["MatMulInteger", "Cast", "Mul", "Add"], "y", True),
        (DYNAMIC_TWO_STEPS, ["MatMulInteger", "Cast", "Mul", "Mul", "Add"], "y", True),
        (FUSED, ["DynamicQuantizeMatMul"], "y", True),
        (TO_FLOAT, ["MatMulIntegerToFloat"], "y", True),
        (NBITS, ["MatMulNBits"], "y", True),
        (QLINEAR, ["QLinearMatMul"], "p", False),
    ],
)
def test_quantized_linear_layers(body: str, operators: list[str], output: str, bias: bool) -> None:
    packed = body is NBITS
    weight = np.ones((6, 1, 8), np.uint8) if packed else np.ones((8, 6), np.int8)
    weights = {
        "fc.weight": weight,
        "fc.bias": array(6),
        "ws": np.ones(6, np.float32),
        "wz": np.zeros(6, np.int8),
        "xs": np.float32(0.1),
        "xz": np.uint8(3),
        "scales": array(6),
    }
    site = only(sites_of(body, weights, outputs="float[b, s, 6] y"))
    assert (site.name, site.kind, ops(site)) == ("fc", "linear", operators)
    assert site.facts == {"quantized"}
    assert site.input is not None
    assert site.input.name == "x", "the float activation, not its codes"
    assert site.output is not None
    assert site.output.name == output
    assert (site.bias is not None) == bias


def test_a_float_layer_reads_what_it_reads() -> None:
    """Only a quantized layer looks behind the pair: a float one behind it runs on its output."""
    body = (
        'q = QuantizeLinear (x, "xs", "xz") d = DequantizeLinear (q, "xs", "xz")'
        ' y = MatMul (d, "fc.weight")'
    )
    weights = {"fc.weight": array(8, 6), "xs": np.float32(0.1), "xz": np.uint8(3)}
    site = only(sites_of(body, weights))
    assert site.input is not None
    assert site.input.name == "d"
    assert site.facts == {"float"}


# -- convolutions and embeddings -----------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "weight", "name"),
    [
        ('y = Conv (x, "c.weight", "c.bias")', array(6, 8, 3, 3), "c"),
        ('y = Conv <group = 8> (x, "c.weight")', array(8, 1, 3, 3), "c"),
        ('y = ConvTranspose (x, "c.weight", "c.bias")', array(8, 6, 3, 3), "c"),
    ],
)
def test_convolutions(body: str, weight: np.ndarray, name: str) -> None:
    site = only(
        sites_of(
            body,
            {"c.weight": weight, "c.bias": array(6)},
            inputs="float[b, 8, 9, 9] x",
            outputs="float[b, c, h, w] y",
        )
    )
    assert (site.kind, site.name, len(site.nodes)) == ("conv", name, 1)
    assert (site.bias is not None) == ("c.bias" in body)


def test_a_convolution_with_a_computed_kernel_is_no_site() -> None:
    body = 'k = Softmax ("c.weight") y = Conv (x, k)'
    weights = {"c.weight": array(6, 8, 3, 3)}
    shapes = {"inputs": "float[b, 8, 9, 9] x", "outputs": "float[b, c, h, w] y"}
    assert len(sites_of(body, weights, **shapes)) == 0


def test_a_convolution_quantized_with_an_integer_bias() -> None:
    body = (
        'q = QuantizeLinear (x, "xs", "xz") d = DequantizeLinear (q, "xs", "xz")'
        ' w = DequantizeLinear <axis = 0> ("c.weight", "ws", "wz")'
        ' b = DequantizeLinear <axis = 0> ("c.bias", "bs", "bz") y = Conv (d, w, b)'
    )
    weights = {
        "c.weight": np.ones((6, 8, 3, 3), np.int8),
        "c.bias": np.ones(6, np.int32),
        "ws": np.ones(6, np.float32),
        "wz": np.zeros(6, np.int8),
        "bs": np.ones(6, np.float32),
        "bz": np.zeros(6, np.int32),
        "xs": np.float32(0.1),
        "xz": np.uint8(0),
    }
    shapes = {"inputs": "float[b, 8, 9, 9] x", "outputs": "float[b, c, h, w] y"}
    site = only(sites_of(body, weights, **shapes))
    assert site.name == "c"
    assert site.facts == {"quantized"}
    assert site.bias is not None
    assert site.bias.name == "c.bias"


ROWS = 'r = Gather ("e.weight", ids) f = Cast <to = 1> (r) s = Gather ("e.scale", ids)'
SHIFTED = (
    'r = Gather ("e.weight", ids) f = Cast <to = 1> (r) z = Gather ("e.zero", ids)'
    ' c = Sub (f, z) s = Gather ("e.scale", ids) y = Mul (c, s)'
)


@pytest.mark.parametrize(
    ("body", "dtype", "operators"),
    [
        ('y = Gather ("e.weight", ids)', np.float32, ["Gather"]),
        ('y = Gather ("e.weight", ids)', np.float16, ["Gather"]),
        ('r = Gather ("e.weight", ids) y = DequantizeLinear (r, "k")', np.int8,
         ["Gather", "DequantizeLinear"]),
        ('t = DequantizeLinear ("e.weight", "k") y = Gather (t, ids)', np.int8, ["Gather"]),
        (ROWS + " y = Mul (f, s)", np.int8, ["Gather", "Cast", "Gather", "Mul"]),
        (ROWS + " y = Mul (s, f)", np.int8, ["Gather", "Cast", "Gather", "Mul"]),
        (SHIFTED, np.uint8, ["Gather", "Cast", "Gather", "Sub", "Gather", "Mul"]),
    ],
)  # fmt: skip
def test_embeddings(body: str, dtype: type, operators: list[str]) -> None:
    weights = {
        "e.weight": np.ones((10, 8), dtype),
        "e.scale": np.ones((10, 1), np.float32),
        "e.zero": np.ones((10, 1), np.float32),
        "k": np.float32(0.1),
    }
    kind = "float16" if dtype is np.float16 else "float"
    site = only(sites_of(body, weights, inputs="int64[b, s] ids", outputs=f"{kind}[b, s, 8] y"))
    assert (site.name, site.kind, ops(site)) == ("e", "embedding", operators)
    assert site.facts == {"float" if np.issubdtype(dtype, np.floating) else "quantized"}
    assert site.input is not None
    assert site.input.name == "ids"
    assert site.output is not None
    assert site.output.name == "y"


@pytest.mark.parametrize(
    ("body", "table"),
    [
        ('y = Gather ("t", ids)', np.ones((10, 8), np.int64)),  # positions
        ('y = Gather ("t", ids)', np.ones((10, 8), np.int8)),  # codes used as such
        ('y = Gather ("t", ids)', np.ones(10, np.float32)),
        ('y = Gather <axis = 1> ("t", ids)', np.ones((10, 8), np.float32)),
        ('y = Gather ("t", "fixed")', np.ones((10, 8), np.float32)),
    ],
)
def test_lookups_that_are_no_embeddings(body: str, table: np.ndarray) -> None:
    kind = {"int64": "int64", "int8": "int8", "float32": "float"}[str(table.dtype)]
    graph = onnx.parser.parse_graph(f"g (int64[b, s] ids) => ({kind}[] y) {{ {body} }}")
    graph.output[0].type.tensor_type.ClearField("shape")
    weights = {"t": table, "fixed": np.array([1, 2])}
    graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in weights.items())
    imports = [helper.make_opsetid("", 20)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=9)
    assert len(find_sites(load_model(model).model)) == 0


# -- attention -----------------------------------------------------------------------------

PROJECTIONS = {f"att.{role}.weight": array(8, 8) for role in "qkvo"}
SHAPES = {
    "heads": np.array([0, 0, 2, 4]),
    "flat": np.array([0, 0, 8]),
    "half": np.float32(0.5),
    "low": np.float32(-1e4),
    "zero": np.float32(0),
}
PROJECT = "".join(
    f' {r}p = MatMul (x, "att.{r}.weight") {r}r = Reshape ({r}p, "heads")'
    f" {r}h = Transpose <perm = [0, 2, 1, 3]> ({r}r)"
    for r in "qkv"
)
SCORES = " kt = Transpose <perm = [0, 1, 3, 2]> (kh) z = MatMul (qh, kt)"
CLOSE = (
    ' c = MatMul (p, vh) ct = Transpose <perm = [0, 2, 1, 3]> (c) cr = Reshape (ct, "flat")'
    ' y = MatMul (cr, "att.o.weight")'
)
ROLES = {role: f"att.{role}" for role in "qkvo"}


def attention_of(sites: Sites) -> Site:
    found = sites.of_kind("attention")
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize(
    "middle",
    [
        ' w = Mul (z, "half") p = Softmax (w)',
        ' w = Div (z, "half") a = Add (w, mask) p = Softmax <axis = 3> (a)',
        ' w = Mul (z, "half") a = Where (keep, w, "low") p = Softmax (a)',
        ' p0 = Softmax (z) n = IsNaN (p0) p = Where (n, "zero", p0)',
        " m = Add (mask, z) s = Softmax (m) p = Dropout (s)",
        ' t = Tanh (z) w = Mul (t, "half") p = Softmax (w)',
    ],
)
def test_attention_spelled_out(middle: str) -> None:
    sites = sites_of(
        PROJECT + SCORES + middle + CLOSE,
        {**PROJECTIONS, **SHAPES},
        inputs="float[b, s, 8] x, float[b, 1, s, s] mask, bool[b, 1, s, s] keep",
    )
    block = attention_of(sites)
    assert block.name == "att"
    assert dict(block.roles) == ROLES
    assert ops(block)[:2] == ["Softmax", "MatMul"]
    assert (block.input and block.input.name, block.output and block.output.name) == ("x", "y")
    assert block.facts == {"float"}
    assert all(sites.by_name[name].parent == "att" for name in ROLES.values())
    assert all(not sites.by_name[name].segments for name in ROLES.values())


def test_attention_with_scaled_query_and_key_rotary_and_shared_heads() -> None:
    """Grouped keys and values are expanded, rotary embedding splits and joins the halves."""
    rotate = (
        ' qa = Slice (qh, "0", "2", "3") qb = Slice (qh, "2", "4", "3") qn = Neg (qb)'
        " ql = Mul (qa, cos) qm = Mul (qn, sin) qe = Add (ql, qm) qf = Mul (qb, cos)"
        " qg = Mul (qa, sin) qi = Add (qf, qg) qj = Concat <axis = 3> (qe, qi)"
    )
    body = (
        PROJECT.replace('kr = Reshape (kp, "heads")', 'kr = Reshape (kp, "one")')
        + rotate
        + ' kx = Expand (kh, "two") kt = Transpose <perm = [0, 1, 3, 2]> (kx)'
        ' qs = Mul (qj, "half") ks = Mul (kt, "half") z = MatMul (qs, ks) p = Softmax (z)' + CLOSE
    )
    weights = {
        **PROJECTIONS,
        **SHAPES,
        "att.k.weight": array(8, 4),
        "one": np.array([0, 0, 1, 4]),
        "two": np.array([1, 2, 1, 1]),
        **{str(i): np.array([i]) for i in (0, 2, 3, 4)},
    }
    inputs = "float[b, s, 8] x, float[s, 2] cos, float[s, 2] sin"
    assert dict(attention_of(sites_of(body, weights, inputs=inputs)).roles) == ROLES


def test_attention_by_einsum() -> None:
    body = (
        PROJECT
        + ' z = Einsum <equation = "bhid,bhjd->bhij"> (qh, kh) w = Mul (z, "half") p = Softmax (w)'
        + CLOSE.replace("MatMul (p, vh)", 'Einsum <equation = "bhij,bhjd->bhid"> (p, vh)')
    )
    assert dict(attention_of(sites_of(body, {**PROJECTIONS, **SHAPES})).roles) == ROLES


def test_attention_without_projections_has_no_roles() -> None:
    body = (
        " kt = Transpose <perm = [0, 2, 1]> (x) z = MatMul (x, kt) p = Softmax (z)"
        " y = MatMul (p, x)"
    )
    block = only(sites_of(body, {}))
    assert (block.name, block.kind, dict(block.roles)) == ("block1.attention", "attention", {})
    assert block.input is not None
    assert block.input.name == "x"


def test_a_query_without_projection_is_not_taken_from_the_block_before() -> None:
    """Pre-norm: the walk back must not cross the norm into the feed-forward layer before it."""
    body = (
        ' u = MatMul (x, "up.weight") a = Relu (u) d = MatMul (a, "down.weight") r = Add (x, d)'
        ' n = LayerNormalization (r, "g")'
        ' kp = MatMul (n, "att.k.weight") kt = Transpose <perm = [0, 2, 1]> (kp)'
        ' vp = MatMul (n, "att.v.weight") z = MatMul (n, kt) p = Softmax (z) y = MatMul (p, vp)'
    )
    weights = {**PROJECTIONS, "up.weight": array(8, 16), "down.weight": array(16, 8), "g": array(8)}
    assert dict(attention_of(sites_of(body, weights)).roles) == {"k": "att.k", "v": "att.v"}


@pytest.mark.parametrize(
    ("call", "opset"),
    [
        ("c4 = Attention <q_num_heads = 2, kv_num_heads = 2> (qp, kp, vp)", 23),
        ("c4 = com.microsoft.MultiHeadAttention <num_heads = 2> (qp, kp, vp)", 20),
        (
            "c4, pk, pv = com.microsoft.GroupQueryAttention <num_heads = 2, kv_num_heads = 2>"
            " (qp, kp, vp, past, past, lengths, total)",
            20,
        ),
    ],
)
def test_attention_as_one_operator(call: str, opset: int) -> None:
    body = (
        "".join(f' {r}p = MatMul (x, "att.{r}.weight")' for r in "qkv")
        + call
        + ' y = MatMul (c4, "att.o.weight")'
    )
    inputs = "float[b, s, 8] x, float[b, 2, p, 4] past, int32[b] lengths, int32 total"
    block = attention_of(sites_of(body, PROJECTIONS, inputs=inputs, opset=opset))
    assert (block.name, dict(block.roles)) == ("att", ROLES)
    assert len(block.nodes) == 1


@pytest.mark.parametrize(
    ("attributes", "columns"),
    [
        ("num_heads = 2", {"q": (0, 8), "k": (8, 16), "v": (16, 24)}),
        (
            "num_heads = 2, qkv_hidden_sizes = [6, 6, 12]",
            {"q": (0, 6), "k": (6, 12), "v": (12, 24)},
        ),
    ],
)
def test_attention_that_holds_its_projection(
    attributes: str, columns: dict[str, tuple[int, int]]
) -> None:
    body = f'c = com.microsoft.Attention <{attributes}> (x, "att.qkv.weight", "att.qkv.bias")'
    weights = {"att.qkv.weight": array(8, 24), "att.qkv.bias": array(24), **PROJECTIONS}
    sites = sites_of(body + ' y = MatMul (c, "att.o.weight")', weights)
    block = attention_of(sites)
    assert block.weight is not None
    assert block.bias is not None
    assert (block.weight.name, block.bias.name) == ("att.qkv.weight", "att.qkv.bias")
    assert dict(block.segments) == columns
    assert dict(block.roles) == {"o": "att.o"}


SPLIT = ' qv, kv, vv = Split <axis = -1> (f, "parts")' + "".join(
    f' {r}r = Reshape ({r}v, "heads") {r}h = Transpose <perm = [0, 2, 1, 3]> ({r}r)' for r in "qkv"
)
SLICED = "".join(
    f' {r}v = Slice (f, "{8 * i}", "{8 * i + 8}", "2") {r}r = Reshape ({r}v, "heads")'
    f" {r}h = Transpose <perm = [0, 2, 1, 3]> ({r}r)"
    for i, r in enumerate("qkv")
)
STACKED = (  # as vision transformers have it: [b, s, 3, heads, 4]
    ' r5 = Reshape (f, "stacked") t5 = Transpose <perm = [2, 0, 3, 1, 4]> (r5)'
    + "".join(f' {r}h = Gather <axis = 0> (t5, "i{i}")' for i, r in enumerate("qkv"))
)
INTERLEAVED = STACKED.replace("stacked", "inter").replace("[2, 0, 3, 1, 4]", "[3, 0, 2, 1, 4]")
PACKED = {
    **SHAPES,
    "att.o.weight": PROJECTIONS["att.o.weight"],
    "att.qkv.weight": array(8, 24),
    "att.qkv.bias": array(24),
    "parts": np.array([8, 8, 8]),
    "stacked": np.array([0, 0, 3, 2, 4]),
    "inter": np.array([0, 0, 2, 3, 4]),
    **{f"i{i}": np.array(i) for i in range(3)},
    **{str(i): np.array([i]) for i in (0, 2, 8, 16, 24)},
}
PACK = 'e = MatMul (x, "att.qkv.weight") f = Add (e, "att.qkv.bias")'


@pytest.mark.parametrize("unpack", [SPLIT, SLICED, STACKED])
def test_the_columns_of_a_packed_weight(unpack: str) -> None:
    model = build(PACK + unpack + SCORES + " p = Softmax (z)" + CLOSE, PACKED)
    sites = find_sites(model)
    packed = sites.by_name["att.qkv"]
    assert dict(attention_of(sites).roles) == {**dict.fromkeys("qkv", "att.qkv"), "o": "att.o"}
    assert set(packed.segments) == set("qkv")
    for role, (start, stop) in packed.segments.items():
        reads = _columns_read(model, f"{role}h")
        assert reads == set(range(start, stop)), role


def _columns_read(model: ir.Model, value: str) -> set[int]:
    """By trial: the columns of the packed bias that change a value."""
    proto = ir.to_proto(model)
    del proto.graph.output[:]
    proto.graph.output.append(helper.make_empty_tensor_value_info(value))
    bias = next(t for t in proto.graph.initializer if t.name == "att.qkv.bias")
    feeds = {"x": np.ones((1, 3, 8), np.float32)}
    found = set()
    for column in range(-1, 24):
        shifted = PACKED["att.qkv.bias"].copy()
        if column >= 0:
            shifted[column] += 1
        bias.CopyFrom(numpy_helper.from_array(shifted, "att.qkv.bias"))
        (result,) = ReferenceEvaluator(proto).run(None, feeds)
        if column < 0:
            plain = result
        elif not np.array_equal(plain, result):
            found.add(column)
    return found


def test_interleaved_heads_have_no_columns_of_their_own() -> None:
    sites = sites_of(PACK + INTERLEAVED + SCORES + " p = Softmax (z)" + CLOSE, PACKED)
    assert attention_of(sites).roles["q"] == "att.qkv"
    assert dict(sites.by_name["att.qkv"].segments) == {}


# -- feed-forward --------------------------------------------------------------------------

FFN = {
    "ff.up.weight": array(8, 16),
    "ff.gate.weight": array(8, 16),
    "ff.down.weight": array(16, 8),
    "ff.up.bias": array(16),
    "one": np.float32(1),
    "half": np.float32(0.5),
    "root2": np.float32(2**0.5),
    "cubic": np.float32(0.044715),
    "three": np.float32(3),
}
UP = 'm = MatMul (x, "ff.up.weight") u = Add (m, "ff.up.bias")'
GATE = ' g = MatMul (x, "ff.gate.weight")'
DOWN = ' y = MatMul (h, "ff.down.weight")'


@pytest.mark.parametrize(
    "activation",
    [
        " h = Relu (u)",
        " h = Gelu (u)",
        ' a = Div (u, "root2") e = Erf (a) f = Add (e, "one") c = Mul (u, f) h = Mul (c, "half")',
        ' k = Pow (u, "three") l = Mul (k, "cubic") n = Add (u, l) t = Tanh (n)'
        ' f = Add (t, "one") c = Mul (u, f) h = Mul (c, "half")',
        " s = Sigmoid (u) h = Mul (u, s)",
        ' h = com.microsoft.BiasGelu (m, "ff.up.bias")',
    ],
)
def test_feed_forward_blocks(activation: str) -> None:
    up = 'm = MatMul (x, "ff.up.weight")' if "BiasGelu" in activation else UP
    sites = sites_of(up + activation + DOWN, FFN)
    block = sites.by_name["ff"]
    assert block.kind == "ffn"
    assert dict(block.roles) == {"up": "ff.up", "down": "ff.down"}
    assert (block.input and block.input.name, block.output and block.output.name) == ("x", "y")
    assert sites.by_name["ff.up"].parent == sites.by_name["ff.down"].parent == "ff"


@pytest.mark.parametrize(
    "activation",
    [" s = Sigmoid (g) a = Mul (g, s) h = Mul (a, u)", " a = Gelu (g) h = Mul (u, a)"],
)
def test_gated_feed_forward_blocks(activation: str) -> None:
    sites = sites_of(UP + GATE + activation + DOWN, FFN)
    assert dict(sites.by_name["ff"].roles) == {
        "up": "ff.up",
        "gate": "ff.gate",
        "down": "ff.down",
    }


@pytest.mark.parametrize(
    "between",
    [
        " h = Tanh (u)",  # a pooler
        ' h = Mul (u, "half")',  # nothing nonlinear
        " a = Add (u, x16) h = Relu (a)",  # fed from elsewhere
        GATE + " a = Relu (g) h = Add (a, u)",  # added, not gated
    ],
)
def test_chains_that_are_no_feed_forward_blocks(between: str) -> None:
    sites = sites_of(UP + between + DOWN, FFN, inputs="float[b, s, 8] x, float[b, s, 16] x16")
    assert sites.of_kind("ffn") == []


def test_a_layer_has_a_role_in_one_feed_forward_block() -> None:
    weights = {f"fc{i}.weight": array(8, 8) for i in (1, 2, 3)}
    sites = sites_of(
        'a = MatMul (x, "fc1.weight") b = Relu (a) c = MatMul (b, "fc2.weight") d = Relu (c)'
        ' y = MatMul (d, "fc3.weight")',
        weights,
    )
    assert [dict(s.roles) for s in sites.of_kind("ffn")] == [{"up": "fc1", "down": "fc2"}]
    assert sites.by_name["fc3"].parent is None


# -- names and selectors -------------------------------------------------------------------

NAMELESS = {
    **{f"val_{i}": array(8, 8) for i in range(4)},
    "heads": SHAPES["heads"],
    "flat": SHAPES["flat"],
    "val_7": array(8, 16),
    "val_8": array(16, 8),
}
BLOCK = (PROJECT + SCORES + " p = Softmax (z)" + CLOSE).replace("y =", "o =")
for number, role_name in enumerate("qkvo"):
    BLOCK = BLOCK.replace(f"att.{role_name}.weight", f"val_{number}")
BLOCK += ' u = MatMul (o, "val_7") h = Relu (u) d = MatMul (h, "val_8") y = MatMul (d, "val_0")'


def test_what_nothing_names_gets_a_structural_name() -> None:
    sites = sites_of(BLOCK, NAMELESS)
    assert [s.name for s in sites] == [
        *(f"block1.attention.{r}" for r in "qkv"),
        "block1.attention",
        "block1.attention.o",
        "block1.ffn.up",
        "block1.ffn",
        "block1.ffn.down",
    ]
    assert len(sites.by_name["block1.attention.q"].uses) == 2


def test_layers_outside_blocks_are_counted_by_kind() -> None:
    weights = {"val_1": array(8, 8), "head.weight": array(8, 8), "val_3": array(8, 8)}
    body = 'a = MatMul (x, "val_1") b = MatMul (a, "head.weight") y = MatMul (b, "val_3")'
    assert [s.name for s in sites_of(body, weights)] == ["linear1", "head", "linear3"]


def test_layers_of_one_module_are_numbered() -> None:
    weights = {"val_1": array(8, 8), "val_2": array(8, 8)}
    model = build('a = MatMul (x, "val_1") y = MatMul (a, "val_2")', weights)
    for node in model.graph:
        node.metadata_props["pkg.torch.onnx.name_scopes"] = "['', 'cell', 'linear']"
    assert [s.name for s in find_sites(model)] == ["cell.linear1", "cell.linear2"]


def test_sites_inside_branches_on_request() -> None:
    body = """y = If (flag) <
        then_branch = t () => (float[b, s, 6] a) { a = MatMul (x, "m.weight") },
        else_branch = e () => (float[b, s, 6] c) { c = MatMul (x, "n.weight") } >"""
    model = build(
        body,
        {"m.weight": array(8, 6), "n.weight": array(8, 6)},
        inputs="float[b, s, 8] x, bool flag",
        outputs="float[b, s, 6] y",
    )
    assert len(find_sites(model)) == 0
    nested = find_sites(model, nested=True)
    assert {(s.name, s.nested) for s in nested} == {("m", True), ("n", True)}


def test_selectors() -> None:
    sites = sites_of(PROJECT + SCORES + " p = Softmax (z)" + CLOSE, {**PROJECTIONS, **SHAPES})

    def names(pattern: str) -> list[str]:
        return [s.name for s in sites.select(pattern)]

    assert names("att.q") == ["att.q"]
    assert names("att") == ["att.q", "att.k", "att.v", "att", "att.o"]
    assert names("att.*") == ["att.q", "att.k", "att.v", "att.o"]
    assert names("*.[qk]") == ["att.q", "att.k"]
    assert names("*") == [s.name for s in sites]


def test_a_block_by_its_name_means_its_layers_wherever_they_are() -> None:
    weights = {"fc1.weight": array(8, 8), "fc2.weight": array(8, 8)}
    sites = sites_of(
        'a = MatMul (x, "fc1.weight") b = Relu (a) y = MatMul (b, "fc2.weight")', weights
    )
    assert [s.name for s in sites.select("block1.ffn")] == ["fc1", "block1.ffn", "fc2"]


def test_a_selector_that_matches_nothing_suggests_names() -> None:
    sites = sites_of('y = MatMul (x, "enc.query.weight")', {"enc.query.weight": array(8, 8)})
    with pytest.raises(UsageError) as caught:
        sites.select("enc.qeury")
    assert "'enc.query'" in caught.value.hint
    with pytest.raises(UsageError, match="no site matches"):
        sites_of("y = Relu (x)", {}).select("*")


def test_sites_by_node() -> None:
    sites = sites_of('p = MatMul (x, "w") y = Add (p, "b")', {"w": array(8, 6), "b": array(6)})
    assert {sites.by_node[node].name for node in sites[0].nodes} == {"linear1"}


# -- real models ---------------------------------------------------------------------------

BERT = "bert.encoder.layer.{}."
BERT_LAYERS = [
    *(f"attention.self.{role}" for role in ("query", "key", "value")),
    *("attention.output.dense", "intermediate.dense", "output.dense"),
]


@pytest.mark.torch
@pytest.mark.parametrize(
    ("opset", "kind"), [(20, "sdpa"), (20, "eager"), (23, "sdpa"), (17, "sdpa")]
)
def test_minilm_in_every_export(tasks: ModuleType, workdir: Path, opset: int, kind: str) -> None:
    pytest.importorskip("transformers")
    sites = find_sites(load_model(tasks.export_minilm(workdir, opset, kind)).model)
    expected = {BERT.format(i) + name for i in range(6) for name in BERT_LAYERS}
    assert {s.name for s in sites.of_kind("linear")} == expected
    assert all(s.bias is not None and s.facts == {"float"} for s in sites.of_kind("linear"))
    assert {s.name for s in sites.of_kind("embedding")} == {
        f"bert.embeddings.{name}_embeddings" for name in ("word", "position", "token_type")
    }
    for i in range(6):
        attention, ffn = (BERT.format(i) + name for name in ("attention", "ffn"))
        assert dict(sites.by_name[attention].roles) == {
            role: BERT.format(i) + name for role, name in zip("qkvo", BERT_LAYERS, strict=False)
        }
        assert dict(sites.by_name[ffn].roles) == {
            role: BERT.format(i) + name
            for role, name in zip(("up", "down"), BERT_LAYERS[4:], strict=True)
        }
    assert len(sites) == 36 + 3 + 6 + 6


@pytest.mark.torch
def test_a_llama(task: Callable[[str], Any]) -> None:
    sites = find_sites(load_model(task("stories260k").model).model)
    for i in range(5):
        assert dict(sites.by_name[f"blocks.{i}.attention"].roles) == {
            role: f"blocks.{i}.{name}"
            for role, name in zip("qkvo", ("query", "key", "value", "out"), strict=True)
        }
        assert dict(sites.by_name[f"blocks.{i}.ffn"].roles) == {
            role: f"blocks.{i}.{role}" for role in ("up", "gate", "down")
        }
    assert len(sites.of_kind("linear")) == 5 * 7 + 1


@pytest.mark.torch
def test_attention_between_batch_norms(task: Callable[[str], Any]) -> None:
    sites = find_sites(load_model(task("tsp20").model).model)
    for i in range(3):
        assert dict(sites.by_name[f"layers.{i}.attention"].roles) == {
            role: f"layers.{i}.{name}"
            for role, name in zip("qkvo", ("query", "key", "val", "out"), strict=True)
        }
        assert set(sites.by_name[f"layers.{i}.ffn"].roles) == {"up", "down"}


@pytest.mark.torch
def test_resnet56_by_its_modules(task: Callable[[str], Any]) -> None:
    names = {s.name for s in find_sites(load_model(task("resnet56").model).model)}
    blocks = {f"layer{a}.{b}.conv{c}" for a in (1, 2, 3) for b in range(9) for c in (1, 2)}
    assert {"conv1", *blocks} <= names
    assert len(names) == 56


def test_resnet20_by_its_modules(data: Path) -> None:
    sites = find_sites(load_model(data / "resnet_cifar10" / "resnet20.onnx").model)
    blocks = {f"layer{a}.{b}.conv{c}" for a in (1, 2, 3) for b in range(3) for c in (1, 2)}
    assert {"conv1", *blocks} <= {s.name for s in sites}
    assert len(sites) == 20


def test_squeezenet_by_its_layers(data: Path) -> None:
    folder = data / "squeezenet_deepcompression"
    sites = find_sites(load_model(folder / "squeezenet_decoded_fp32.onnx").model)
    assert len(sites) == 26
    assert {"conv1", "fire2.conv1x1_1", "fire9.conv3x3_2", "conv_final"} <= {s.name for s in sites}


def test_a_window_transformer_with_einsum(data: Path) -> None:
    sites = find_sites(load_model(data / "ntire2022_esr" / "onnx" / "20_MobileSR.onnx").model)
    for i in range(5):
        path = f"body.layers.{i}.0."
        assert dict(sites.by_name[path + "attn"].roles) == {
            **dict.fromkeys("qkv", path + "attn.qkv"),
            "o": path + "attn.proj_out",
        }
        assert dict(sites.by_name[path + "mlp.fc"].roles) == {
            "up": path + "mlp.fc.0",
            "down": path + "mlp.fc.2",
        }


def test_a_bert_with_a_tied_head(data: Path) -> None:
    path = data / "onnx_structural" / "contrib_transformers" / "bert_toy_optimized.onnx"
    sites = find_sites(load_model(path).model)
    assert len(sites.of_kind("attention")) == len(sites.of_kind("ffn")) == 5
    assert dict(sites.by_name["bert.encoder.layer.4.ffn"].roles) == {
        "up": "bert.encoder.layer.4.intermediate.dense",
        "down": "bert.encoder.layer.4.output.dense",
    }
    assert sites.by_name["cls.predictions"].ties == ("bert.embeddings.word_embeddings",)


def test_a_gpt2_with_fused_attention(data: Path) -> None:
    path = data / "onnx_structural" / "genai" / "tiny_gpt2_fp16_past.onnx"
    sites = find_sites(load_model(path).model)
    block = sites.by_name["transformer.h.3.attn"]
    assert dict(block.segments) == {"q": (0, 32), "k": (32, 64), "v": (64, 96)}
    assert dict(block.roles) == {"o": "transformer.h.3.attn.c_proj"}
    assert sites.by_name["lm_head"].kind == "linear"
    assert len(sites.of_kind("ffn")) == 5


def test_imported_quantized_models(data: Path) -> None:
    folder = data / "onnx_structural"
    for path, count in {
        "quantized/qdq_with_multi_consumer_dq_nodes.onnx": 6,
        "quantized/tract_qtdnn.onnx": 1,
        "dtypes/conv.int4_weights.qdq.onnx": 1,
    }.items():
        sites = find_sites(load_model(folder / path).model)
        assert [s.facts for s in sites] == [{"quantized"}] * count, path


def test_names_are_unique_and_no_exporter_s(data: Path) -> None:
    """Every structural model that loads: nothing raises, names are unique and stable."""
    count = 0
    for path in sorted((data / "onnx_structural").rglob("*.onnx")):
        try:
            model = load_model(path).model
        except Exception:
            continue
        names = [s.name for s in find_sites(model, nested=True)]
        assert len(set(names)) == len(names), path.name
        assert names == [s.name for s in find_sites(model, nested=True)]
        assert not [n for n in names if n.startswith(("val_", "onnx::", "node_"))], path.name
        count += 1
    assert count > 60


@pytest.mark.torch
@pytest.mark.parametrize("static", [False, True])
def test_a_model_quantized_elsewhere_has_the_same_sites(
    static: bool, task: Callable[[str], Any], tmp_path: Path
) -> None:
    from onnxruntime import quantization

    class Feeds(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.feeds = task("stories260k").calibration(1)

        def get_next(self) -> Any:
            return next(self.feeds, None)

    original, path = task("stories260k").model, tmp_path / "quantized.onnx"
    if static:
        quantization.quantize_static(original, path, Feeds())
    else:
        quantization.quantize_dynamic(original, path)
    before, after = (find_sites(load_model(p).model) for p in (original, path))
    assert [s.kind for s in after.of_kind("linear")] == [s.kind for s in before.of_kind("linear")]
    assert all(s.facts == {"quantized"} for s in after.of_kind("linear", "embedding"))
    for site in before.of_kind("attention", "ffn"):
        assert set(after.by_name[site.name].roles) == set(site.roles)
    pairs = zip(before.of_kind("linear"), after.of_kind("linear"), strict=True)
    for plain, quantized in pairs:
        assert plain.input is not None
        assert quantized.input is not None
        assert quantized.input.name == plain.input.name, "the float activation"
        if static:  # the dynamic spelling drops the scopes that name these layers
            assert quantized.name == plain.name
