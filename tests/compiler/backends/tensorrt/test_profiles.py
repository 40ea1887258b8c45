"""Profiles from data, from what is stated, and what is said where nobody knows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from planish.compiler.backends.tensorrt.profiles import Shapes, axes_of, parse_profile, profile_of
from planish.compiler.data.feeds import load_feeds
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
