"""Feeds and sets of feeds: what a model is calibrated and measured on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ...ir.errors import InputError, UsageError
from ...ir.signature import Signature

Feeds = dict[str, npt.NDArray[Any]]
"""One call's worth of inputs: input name -> array."""

FEW_FEEDS = 5
"""With fewer feeds than this a split divides samples, not feeds."""


@dataclass(frozen=True, eq=False)
class FeedSet:
    """Feeds that fit a signature, read one at a time and in a fixed order.

    source: where they come from, for messages. sizes: samples in each feed. digests: content of
    each feed. axes: the axis of each input along which samples lie, None where an input is the
    same for all samples of a feed. divisible: whether the model takes any number of samples.
    synthetic: generated from the signature, not the user's data. cut: samples that planish put into
    a feed where it cut arrays of all of them, 0 where feeds came as they are: then nothing says in
    what numbers the model will be run.
    """

    source: str
    sizes: tuple[int, ...]
    digests: tuple[str, ...]
    axes: Mapping[str, int | None]
    read: Callable[[int], Feeds] = field(repr=False)
    divisible: bool = True
    synthetic: bool = False
    cut: int = 0

    def __len__(self) -> int:
        """Number of feeds."""
        return len(self.sizes)

    def __iter__(self) -> Iterator[Feeds]:
        return (self.read(index) for index in range(len(self)))

    def __getitem__(self, index: int) -> Feeds:
        return self.read(range(len(self))[index])

    @property
    def samples(self) -> int:
        """Number of samples in all feeds together."""
        return sum(self.sizes)

    @property
    def digest(self) -> str:
        """What the feeds hold and how they are cut; not where they come from. 32 hex digits."""
        return hashlib.blake2b("\n".join(self.digests).encode(), digest_size=16).hexdigest()

    def batch_of(self, feed: Mapping[str, npt.NDArray[Any]]) -> int:
        """Number of samples in one feed."""
        return batch_size(feed, self.axes)

    def select(self, indices: Sequence[int]) -> FeedSet:
        """These feeds only, in this order."""
        return replace(
            self,
            sizes=tuple(self.sizes[i] for i in indices),
            digests=tuple(self.digests[i] for i in indices),
            read=lambda index: self.read(indices[index]),
        )


def feed_set(
    source: str,
    read: Callable[[int], Feeds],
    count: int,
    signature: Signature,
    *,
    synthetic: bool = False,
) -> FeedSet:
    """A FeedSet over ``read(0)`` … ``read(count - 1)``, reading each once for size and digest."""
    axes = batch_axes(signature)
    sizes, digests = [], []
    for index in range(count):
        feed = read(index)
        sizes.append(batch_size(feed, axes))
        digests.append(feed_digest(feed))
    divisible = not has_fixed_batch(signature) and any(a is not None for a in axes.values())
    return FeedSet(source, tuple(sizes), tuple(digests), axes, read, divisible, synthetic)


def has_fixed_batch(signature: Signature) -> bool:
    """Whether no input of the model leaves its axis 0 open."""
    firsts = _first_sizes(signature)
    return bool(firsts) and all(isinstance(size, int) for size in firsts)


def batch_axes(signature: Signature) -> dict[str, int | None]:
    """Input name -> the axis along which samples lie.

    That is axis 0 where it is symbolic or unknown, else the axis that bears the same symbol as
    another input's axis 0 (a recurrent state [layers, batch, width]). In a model of fixed sizes
    it is axis 0, if all inputs of rank 1 and more agree on its size; else nobody can know.
    """
    firsts = _first_sizes(signature)
    if has_fixed_batch(signature):
        axis = 0 if len(set(firsts)) == 1 else None
        return {spec.name: axis if spec.shape else None for spec in signature.inputs}
    symbols = {size for size in firsts if isinstance(size, str)}
    return {spec.name: _batch_axis(spec.shape, symbols) for spec in signature.inputs}


def _first_sizes(signature: Signature) -> list[int | str | None]:
    """Axis 0 of every input that has one (an input of unknown rank may)."""
    shapes = [spec.shape for spec in signature.inputs]
    return [None if shape is None else shape[0] for shape in shapes if shape != ()]


def _batch_axis(shape: tuple[int | str | None, ...] | None, symbols: set[str]) -> int | None:
    if shape is None or (shape and not isinstance(shape[0], int)):
        return 0
    return next((i for i, size in enumerate(shape) if size in symbols), None)


def batch_size(feed: Mapping[str, npt.NDArray[Any]], axes: Mapping[str, int | None]) -> int:
    """Samples in a feed: the size of the first input that has a sample axis, else 1."""
    for name, axis in axes.items():
        if axis is not None and name in feed and feed[name].ndim > axis:
            return int(feed[name].shape[axis])
    return 1


def feed_digest(feed: Mapping[str, npt.NDArray[Any]]) -> str:
    """Digest of names, dtypes, shapes and bytes, whatever the order of names."""
    state = hashlib.blake2b(digest_size=16)
    for name in sorted(feed):
        array = feed[name]
        state.update(f"{name!r} {array.dtype.str} {array.dtype.name} {array.shape}\n".encode())
        state.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return state.hexdigest()


def split(feeds: FeedSet, fraction: float = 0.2, seed: int = 0) -> tuple[FeedSet, FeedSet]:
    """Part ``feeds`` into (calibration, holdout), at random but the same for the same seed.

    Whole feeds are held out where there are five and more or the model's batch is fixed, else
    single samples. Order is kept. Raises UsageError unless 0 < fraction < 1, InputError where
    there is nothing to divide.
    """
    if not 0 < fraction < 1:
        raise UsageError(f"the held-out fraction is {fraction}", hint="give a number in (0, 1)")
    by_feeds = len(feeds) >= FEW_FEEDS or not feeds.divisible
    if (len(feeds) if by_feeds else feeds.samples) < 2:
        raise InputError(
            f"one {'feed' if by_feeds else 'sample'} cannot both calibrate and measure",
            where=feeds.source,
            hint="give more data, or held-out feeds of their own",
        )
    if by_feeds:
        kept, held = _draw(len(feeds), fraction, seed)
        return feeds.select(kept), feeds.select(held)
    kept, held = _draw(feeds.samples, fraction, seed)
    return _take(feeds, kept), _take(feeds, held)


def _draw(count: int, fraction: float, seed: int) -> tuple[list[int], list[int]]:
    order = np.random.default_rng(seed).permutation(count)
    held = min(max(1, round(count * fraction)), count - 1)
    return sorted(order[:-held].tolist()), sorted(order[-held:].tolist())


def _take(feeds: FeedSet, samples: Sequence[int]) -> FeedSet:
    """Single samples, numbered through all feeds; they stay in the feeds they came in."""
    starts = np.cumsum([0, *feeds.sizes])
    parts: list[Feeds] = []
    for index, feed in enumerate(feeds):
        own = [s - starts[index] for s in samples if starts[index] <= s < starts[index + 1]]
        if own:
            parts.append(_rows(feed, np.array(own), feeds, index))
    return replace(
        feeds,
        sizes=tuple(feeds.batch_of(part) for part in parts),
        digests=tuple(feed_digest(part) for part in parts),
        read=lambda index: dict(parts[index]),
    )


def _rows(feed: Feeds, rows: npt.NDArray[Any], feeds: FeedSet, index: int) -> Feeds:
    taken: Feeds = {}
    for name, array in feed.items():
        axis = feeds.axes[name]
        if axis is not None and array.shape[axis] != feeds.sizes[index]:
            raise InputError(
                f"cannot take single samples out of feed {index + 1}: {name!r} has "
                f"{array.shape[axis]} entries for {feeds.sizes[index]} samples",
                where=feeds.source,
                hint=f"give {FEW_FEEDS} feeds and more, or held-out feeds",
            )
        taken[name] = array if axis is None else np.take(array, rows, axis)
    return taken
