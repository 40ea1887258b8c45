"""Profiles from data, from what is stated, and what is said where nobody knows."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from planish.compiler.backends.tensorrt.profiles import (
    Shapes,
    axes_of,
    parse_profile,
    profile_of,
    remarks_on,
)
from planish.compiler.data.feeds import load_feeds, split
from planish.compiler.workload import Workload
from planish.ir.errors import UsageError
from planish.ir.signature import Signature


@pytest.fixture
def signature(build: Any) -> Signature:
    body = "a = Cast<to=1>(ids) b = Add(a, mask) y = Add(b, c)"
    ports = "int64[batch, seq] ids, float[batch, seq] mask, float[1, 1] c", "float[batch, seq] y"
    return Signature.of(build(body, {}, *ports))


def feed(batch: int, seq: int) -> dict[str, np.ndarray]:
    return {
        "ids": np.zeros((batch, seq), np.int64), "mask": np.ones((batch, seq), np.float32),
        "c": np.ones((1, 1), np.float32),
    }  # fmt: skip


def test_the_sizes_seen_make_the_profile(signature: Signature) -> None:
    """Samples can be cut, so that the least batch is 1; the usual size is the one seen most."""
    feeds = load_feeds([feed(8, 30), feed(8, 20), feed(4, 20), feed(8, 64)], signature)
    held = load_feeds([feed(8, 128)], signature)
    profile = profile_of(signature, [feeds, held])
    assert profile["ids"] == profile["mask"] == Shapes((1, 20), (8, 20), (8, 128))
    assert profile["c"] == Shapes((1, 1), (1, 1), (1, 1))
    assert list(profile) == ["ids", "mask", "c"]


def test_what_is_stated_outranks_what_was_seen(signature: Signature) -> None:
    feeds = load_feeds([feed(8, 30)], signature)
    given = parse_profile("batch=2:16:32, seq=1:64:512", axes_of(signature))
    profile = profile_of(signature, [feeds], (), given)
    assert profile["mask"] == Shapes((2, 1), (16, 64), (32, 512))


def test_workloads_state_sizes_too(signature: Signature) -> None:
    stated = (Workload({"batch": 1, "seq": 16}, 0.9), Workload({"batch": 64, "seq": 16}, 0.1))
    assert profile_of(signature, (), stated)["ids"] == Shapes((1, 16), (64, 16), (64, 16))


@pytest.mark.parametrize("samples", [256, 64, 40, 9])
def test_how_planish_cuts_data_is_no_batch_of_the_users(signature: Signature, samples: int) -> None:
    """Round sizes, whatever is left when part is held out, and a remark with the way out."""
    sets = split(load_feeds(feed(samples, 20), signature))
    assert profile_of(signature, sets)["ids"] == Shapes((1, 20), (16, 20), (16, 20))
    (remark,) = remarks_on(signature, sets)
    assert (remark.kind, remark.code) == ("note", "chosen-size")
    for words in ("axis 'batch'", "1 to 16", "--profile batch=1:8:64"):
        assert words in remark.sentence


def test_sizes_that_somebody_stated_are_not_remarked_on(signature: Signature) -> None:
    cut, whole = (load_feeds(given, signature) for given in (feed(64, 20), [feed(32, 20)]))
    given = parse_profile("batch=1:8:64")
    assert remarks_on(signature, [cut], (), given) == []
    assert profile_of(signature, [cut], (), given)["mask"].max == (64, 20)
    stated = (Workload({"batch": 8}),)
    assert remarks_on(signature, [cut], stated) == []
    assert profile_of(signature, [cut], stated)["ids"] == Shapes((1, 20), (8, 20), (8, 20))
    for sets in ([cut, whole], [whole, cut]):
        assert remarks_on(signature, sets) == []
        assert profile_of(signature, sets)["ids"] == Shapes((1, 20), (32, 20), (32, 20))
    assert remarks_on(signature, [whole]) == []


def test_an_axis_without_a_name_is_told_by_its_input(build: Any) -> None:
    unnamed = Signature.of(build("y = Relu(x)", {}, "float[?, 4] x", "float[?, 4] y"))
    feeds = load_feeds({"x": np.ones((99, 4), np.float32)}, unnamed)
    (remark,) = remarks_on(unnamed, [feeds])
    assert "axis 0 of input 'x'" in remark.sentence
    assert "profiles.json" in remark.sentence


def test_names_in_a_command_to_copy_are_quoted(build: Any) -> None:
    feeds = {"x": np.ones((99, 4), np.float32)}
    model = build("y = Relu(x)", {}, "float[n, 4] x", "float[n, 4] y")
    for port in (*model.graph.inputs, *model.graph.outputs):
        port.shape = ir.Shape(["$(touch a)", 4])
    evil = Signature.of(model)
    (remark,) = remarks_on(evil, [load_feeds(feeds, evil)])
    assert "--profile '$(touch a)=1:8:64'" in remark.sentence


def test_an_axis_that_nobody_knows_is_refused(signature: Signature) -> None:
    with pytest.raises(UsageError, match="axis 'seq' of input 'ids' is open") as caught:
        profile_of(signature, (), (), {"batch": (1, 2, 3)})
    assert "--calibration, --workload or --profile" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("batch=8", "no profile of an axis"),
        ("batch=8:4:16", "does not go from least to largest"),
        ("batch=0:4:16", "does not go from least to largest"),
        ("bacth=1:4:16", "no input has an axis 'bacth'"),
        ("batch=1:4:16,batch=1:4:16", "given twice"),
        ("=1:2:3", "no profile of an axis"),
    ],
)
def test_what_is_no_profile_is_refused(text: str, said: str, signature: Signature) -> None:
    with pytest.raises(UsageError, match=said):
        parse_profile(text, axes_of(signature))
    assert parse_profile("") == parse_profile(None) == {}
