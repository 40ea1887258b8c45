"""Workloads: texts, weights, what no model has, and what the shapes of feeds say."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import onnx_ir as ir
import pytest

from planish.compiler.workload import Workload, parse_workloads, portions, workloads_of
from planish.ir.errors import UsageError
from planish.ir.signature import Signature

KNOWN = ["batch", "sequence"]


def test_one_text_is_one_workload_of_all_runs() -> None:
    assert parse_workloads("batch=2, sequence=128", KNOWN) == (
        Workload({"batch": 2, "sequence": 128}, 1.0),
    )


@pytest.mark.parametrize("mark", ["*", ":", " * ", " : "])
def test_weights_are_scaled_to_add_up_to_one(mark: str) -> None:
    found = parse_workloads([f"batch=1,sequence=1{mark}3", f"sequence=256{mark}1"], KNOWN)
    assert [w.weight for w in found] == [0.75, 0.25]
    assert [dict(w.bindings) for w in found] == [{"batch": 1, "sequence": 1}, {"sequence": 256}]


def test_without_weights_all_weigh_the_same() -> None:
    assert [w.weight for w in parse_workloads(["batch=1", "batch=2"], KNOWN)] == [0.5, 0.5]


@pytest.mark.parametrize("empty", ["", [], ["", "  "], ","])
def test_nothing_binds_nothing(empty: str | list[str]) -> None:
    assert all(not w.bindings for w in parse_workloads(empty, KNOWN))


def test_a_workload_prints_as_it_is_written() -> None:
    (first, _) = parse_workloads(["batch=1,sequence=8*0.7", "batch=4*0.3"], KNOWN)
    assert str(first) == "batch=1,sequence=8*0.7"
    assert parse_workloads(str(first), KNOWN)[0].bindings == first.bindings
    assert str(Workload({})) == "as it is"


@pytest.mark.parametrize(
    "text",
    ["batch", "batch=", "=3", "batch=x", "batch=0", "batch=-1", "batch=1.5", "batch=1 sequence=2",
     "batch=99999999999", "batch=1,batch=2", "batch=1*0", "batch=1*-2", "batch=1*nan",
     "batch=1*inf", "batch=1:much", "batch=1*"],
)  # fmt: skip
def test_what_is_no_workload(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_workloads(text, KNOWN)
    assert caught.value.where == "--workload"
    assert "batch=1,seq=128" in caught.value.hint


def test_an_axis_that_the_model_lacks_comes_with_near_names() -> None:
    with pytest.raises(UsageError, match="no input has an axis 'sequense'") as caught:
        parse_workloads("batch=1,sequense=128", KNOWN)
    assert "sequence" in caught.value.hint
    with pytest.raises(UsageError) as caught:
        parse_workloads("batch=1", [])
    assert "fixed sizes" in caught.value.hint


def test_names_are_free_where_no_model_is_known() -> None:
    assert parse_workloads("anything=3")[0].bindings == {"anything": 3}


def test_shapes_of_feeds_weigh_what_was_seen(kit: ModuleType) -> None:
    model = kit.graph(
        "y = Add(x, z)", {}, 'float["n", "s"] x, float["n", "s"] z', 'float["n", "s"] y'
    )
    signature = Signature.of(ir.from_proto(model))
    sizes = [(2, 8), (1, 4), (2, 8), (2, 8)]
    feeds = [{"x": np.zeros(s, np.float32), "z": np.zeros(s, np.float32)} for s in sizes]
    assert workloads_of(feeds, signature) == (
        Workload({"n": 2, "s": 8}, 0.75),
        Workload({"n": 1, "s": 4}, 0.25),
    )
    assert workloads_of([], signature) == ()


def test_each_workload_has_a_part_of_the_runs() -> None:
    parts = portions([Workload({}, 0.98), Workload({}, 0.02)], 8)
    assert parts == (7, 1)
    assert portions([Workload({}, 0.1)] * 10, 8) == (1,) * 10
    assert portions([Workload({}, 0.5), Workload({}, 0.5)], 8) == (4, 4)
