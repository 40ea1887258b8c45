"""All forms of quantized layers: the rules find something if and only if the runtime falters.

Falters: refuses the model, fails to run it, or runs a product in float.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from planish.ir.load import load_as_written
from planish.targets.loader import load_target
from planish.targets.rules.table import check_model


def falters(form: Any, forms: Any) -> bool:
    outcome = form.outcome()
    failed = "refused: " in outcome or "fails: " in outcome
    return failed or not forms.FLOAT_PRODUCTS.isdisjoint(outcome.split())


def said(form: Any, folder: Path) -> list[str]:
    path = folder / "model.onnx"
    path.write_bytes(form.bytes())
    found = check_model(load_as_written(path), load_target("x86-avx512-vnni"))
    return sorted({v.rule for v in found if v.severity != "note"})


def disagreements(cases: Iterator[tuple[str, Any]], forms: Any, folder: Path) -> list[str]:
    wrong = []
    for name, form in cases:
        rules = said(form, folder)
        if bool(rules) != falters(form, forms):
            wrong.append(f"{name}: {rules or 'nothing'} said of {form.outcome()}")
    return wrong


def static(forms: Any) -> Iterator[tuple[str, Any]]:
    shapes = (forms.FLAT, forms.DYNAMIC, forms.STATIC)
    biases = (None, (forms.N,), (1, forms.N), (1,))
    outs = ((False, 0), (True, 0), (True, 128))
    for shape, bias, middle, (out, zero) in itertools.product(
        shapes, biases, ("", "Relu", "LeakyRelu", "Gelu"), outs
    ):
        form = forms.linear(shape, bias=bias, middle=middle, out=out, out_zero=zero)
        yield f"{shape} bias {bias} {middle} out {out} {zero}", form


def weights(forms: Any) -> Iterator[tuple[str, Any]]:
    kinds: tuple[dict[str, Any], ...] = (
        {}, {"axis": None}, {"axis": 0}, {"axis": -1}, {"axis": 0, "block": 16},
        {"axis": 1, "block": 16}, {"axis": -2, "block": 16},
    )  # fmt: skip
    types = ("int8", "uint8", "int4", "uint4", "int16", "float8e4m3fn")
    for kind, dtype, act, out in itertools.product(kinds, types, (True, False), (True, False)):
        form = forms.linear(act=act, out=out, dtype=dtype, **kind)
        yield f"{kind} {dtype} act {act} out {out}", form


def activations(forms: Any) -> Iterator[tuple[str, Any]]:
    types = ("uint8", "int8", "uint16", "int16")
    for shape, dtype, bias in itertools.product(
        (forms.FLAT, forms.DYNAMIC), types, (None, (forms.N,))
    ):
        form = forms.linear(shape, activation=dtype, zero=0, bias=bias)
        yield f"{shape} {dtype} bias {bias}", form


def gemms(forms: Any) -> Iterator[tuple[str, Any]]:
    factors: tuple[dict[str, float], ...] = ({}, {"alpha": 0.5}, {"beta": 0.5})
    on = (False, True)
    biases = ((), (forms.N,), (1, forms.N), (1,))
    for act, bias, out, turned, more in itertools.product(on, biases, on, on, factors):
        if more and len(bias) != 1:
            continue
        form = forms.gemm(act=act, bias=bias, out=out, turned=turned, **more)
        yield f"act {act} bias {bias} out {out} turned {turned} {more}", form


def convolutions(forms: Any) -> Iterator[tuple[str, Any]]:
    on = (False, True)
    for act, middle, out, zero, axis in itertools.product(
        on, ("", "Relu", "Sigmoid"), on, (0, 128), (0, 1)
    ):
        form = forms.conv(act=act, middle=middle, out=out, out_zero=zero, axis=axis)
        yield f"act {act} {middle} out {out} {zero} axis {axis}", form


def signs(forms: Any) -> Iterator[tuple[str, Any]]:
    on = (False, True)
    for sign, out, layers, elsewhere, again in itertools.product(
        ("int8", "uint8"), ("", "int8", "uint8"), (1, 2), on, on
    ):
        form = forms.Form()
        x = form.pair("x", 0, sign)
        for i in range(layers):
            y = form.op("MatMul", x, form.weight(name=f"w{i}"))
            y = form.pair(y, 0, out) if out else y
            form.results += [y, form.op("Neg", y)] if again and out else [y]
        form.results += [form.op("Neg", x)] if elsewhere else []
        yield f"{sign} {out} layers {layers} elsewhere {elsewhere} again {again}", form


FAMILIES = (static, weights, activations, gemms, convolutions, signs)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.__name__)
def test_the_rules_say_what_the_runtime_does(family: Any, forms: Any, tmp_path: Path) -> None:
    wrong = disagreements(family(forms), forms, tmp_path)
    assert not wrong, f"{len(wrong)} differ:\n" + "\n".join(wrong[:20])
