"""Sets of feeds: sizes, digests, which axis the samples lie on, and splitting."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from planish.compiler.data.feedset import (
    Feeds,
    FeedSet,
    batch_axes,
    batch_size,
    feed_digest,
    feed_set,
    split,
)
from planish.ir.errors import InputError, UsageError
from planish.ir.signature import Signature, TensorSpec


def signature(**shapes: tuple[int | str | None, ...] | None) -> Signature:
    return Signature(tuple(TensorSpec(n, "FLOAT", shape) for n, shape in shapes.items()), ())


def numbered(sizes: list[int], wanted: Signature | None = None) -> FeedSet:
    """Feeds whose samples are numbered through: x[i] == [i, i], and a constant k."""
    starts = np.cumsum([0, *sizes])
    feeds: list[Feeds] = [
        {
            "x": np.repeat(np.arange(a, b, dtype=np.float32)[:, None], 2, axis=1),
            "k": np.array([5], np.float32),
        }
        for a, b in pairwise(starts)
    ]
    wanted = wanted or signature(x=("batch", 2), k=(1,))
    return feed_set("numbers", lambda i: feeds[i], len(feeds), wanted)


def ids(feeds: FeedSet) -> list[int]:
    return [int(i) for feed in feeds for i in feed["x"][:, 0]]


@pytest.mark.parametrize(
    ("shapes", "axes"),
    [
        ({"a": ("batch", "seq"), "b": ("batch",), "c": (), "d": (3,)}, [0, 0, None, None]),
        ({"a": (None, 3), "b": ("n", 3)}, [0, 0]),
        ({"x": ("b", 512), "state": (2, "b", 128), "rate": ()}, [0, 1, None]),
        ({"x": (8, 3), "y": (8,)}, [0, 0]),
        ({"x": (1, 3), "state": (2, 1)}, [None, None]),
        ({"x": None, "y": (3,)}, [0, None]),
        ({"x": ()}, [None]),
    ],
)
def test_the_axis_of_samples(shapes: dict[str, Any], axes: list[int | None]) -> None:
    assert list(batch_axes(signature(**shapes)).values()) == axes


def test_the_size_of_a_feed_is_that_of_the_first_input_with_samples() -> None:
    feed = {"k": np.zeros(3), "s": np.zeros((2, 5, 4)), "x": np.zeros((5, 1))}
    assert batch_size(feed, {"k": None, "s": 1, "x": 0}) == 5
    assert batch_size(feed, {"k": None}) == 1


def test_a_set_counts_reads_and_selects() -> None:
    feeds = numbered([3, 1, 4])
    assert (len(feeds), feeds.samples, feeds.sizes) == (3, 8, (3, 1, 4))
    assert ids(feeds) == list(range(8))
    assert [feeds.batch_of(feed) for feed in feeds] == [3, 1, 4]
    assert feeds[-1]["x"][0, 0] == 4
    with pytest.raises(IndexError):
        feeds[3]
    chosen = feeds.select([2, 0])
    assert ids(chosen) == [4, 5, 6, 7, 0, 1, 2]
    assert ids(chosen.select([1])) == [0, 1, 2]
    assert chosen.digests == (feeds.digests[2], feeds.digests[0])


def test_the_digest_is_of_names_dtypes_shapes_and_bytes() -> None:
    base = {"a": np.array([[1, 2]], np.float32), "b": np.array([3])}
    assert feed_digest(base) == feed_digest({"b": base["b"].copy(), "a": base["a"].copy()})
    strided = np.array([[1, 9, 2, 9]], np.float32)[:, ::2]
    assert feed_digest({"a": strided, "b": base["b"]}) == feed_digest(base)
    others: list[dict[str, Any]] = [
        {"a": base["a"], "c": base["b"]},
        {"a": base["a"].T.copy(), "b": base["b"]},
        {"a": base["a"].view(np.int32), "b": base["b"]},
        {"a": np.array([[1, 3]], np.float32), "b": base["b"]},
        {"a": base["a"], "b": np.array(3)},
        {"a": base["a"], "b": np.array(["3"])},
        {"a": base["a"]},
    ]
    assert len({feed_digest(feed) for feed in [base, *others]}) == len(others) + 1
    assert numbered([2, 2]).digest == numbered([2, 2]).digest
    assert len({numbered(s).digest for s in ([2, 2], [4], [1, 3], [2, 2, 1])}) == 4
    assert len(numbered([1]).digest) == 32


@pytest.mark.parametrize("sizes", [[4] * 10, [1] * 5, [3, 1, 4, 1, 5, 9]])
def test_many_feeds_are_split_by_feeds(sizes: list[int]) -> None:
    feeds = numbered(sizes)
    kept, held = split(feeds, 0.2, seed=3)
    assert len(held) == max(1, round(len(sizes) / 5))
    assert sorted(ids(kept) + ids(held)) == ids(feeds)
    assert set(kept.digests) | set(held.digests) == set(feeds.digests)
    assert ids(kept) == sorted(ids(kept))
    assert ids(held) == sorted(ids(held))


@pytest.mark.parametrize("sizes", [[50], [2], [1, 1], [10, 3, 1, 30]])
def test_few_feeds_are_split_by_samples(sizes: list[int]) -> None:
    feeds = numbered(sizes)
    kept, held = split(feeds, 0.2)
    assert held.samples == max(1, round(sum(sizes) / 5))
    assert sorted(ids(kept) + ids(held)) == ids(feeds)
    assert all((feed["k"] == [5]).all() for part in (kept, held) for feed in part)
    assert kept.sizes == tuple(len(feed["x"]) for feed in kept)
    assert kept.digests == tuple(feed_digest(feed) for feed in kept)


def test_a_state_is_split_along_its_own_axis() -> None:
    feed = {
        "x": np.arange(6, dtype=np.float32)[:, None],
        "state": np.tile(np.arange(6, dtype=np.float32)[None, :, None], (2, 1, 3)),
    }
    wanted = signature(x=("b", 1), state=(2, "b", 3))
    for part in split(feed_set("s", lambda _: feed, 1, wanted), 0.5):
        assert part[0]["state"].shape == (2, 3, 3)
        assert (part[0]["state"] == part[0]["x"][None]).all()


def test_the_seed_decides_and_the_draw_is_random() -> None:
    feeds = numbered([1] * 40)
    assert ids(split(feeds, 0.2, 1)[1]) == ids(split(feeds, 0.2, 1)[1])
    draws = {tuple(ids(split(feeds, 0.2, seed)[1])) for seed in range(20)}
    assert len(draws) == 20
    assert len({i for draw in draws for i in draw}) > 35  # not always the same corner


def test_a_fixed_batch_is_split_by_feeds_only() -> None:
    wanted = signature(x=(4, 2), k=(1,))
    kept, held = split(numbered([4, 4], wanted))
    assert (len(kept), len(held)) == (1, 1)
    assert kept[0]["x"].shape == (4, 2)
    with pytest.raises(InputError, match="one feed cannot both"):
        split(numbered([4], wanted))


def test_nothing_to_divide() -> None:
    with pytest.raises(InputError, match="one sample cannot both calibrate and measure") as caught:
        split(numbered([1]))
    assert caught.value.where == "numbers"
    for fraction in (0.0, 1.0, -1, 2):
        with pytest.raises(UsageError, match="fraction"):
            split(numbered([9]), fraction)


def test_samples_that_do_not_belong_together_are_not_torn_apart() -> None:
    wanted = signature(x=("images", 2), boxes=("boxes", 4))
    feed = {"x": np.zeros((3, 2), np.float32), "boxes": np.zeros((7, 4), np.float32)}
    with pytest.raises(InputError, match="'boxes' has 7 entries for 3 samples"):
        split(feed_set("s", lambda _: feed, 1, wanted))
