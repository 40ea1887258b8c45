"""Load calibration and held-out data: where feeds come from.

Whatever the form, every feed is checked against the signature before a compile starts, and
nothing is unpickled. ``FeedSet`` and ``split`` live in ``feedset``.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...ir.errors import InputError, UsageError
from ...ir.signature import Signature
from .feedcheck import Place, as_array, check_feed, check_names
from .feedset import Feeds, FeedSet, batch_axes, feed_set, has_fixed_batch, split
from .synthetic import synthetic
from .tokenmask import TokenMask, padding_suspected, token_mask
from .usercode import call, is_function_reference, iterate, load_function

__all__ = [
    "FeedSet",
    "Feeds",
    "Source",
    "TokenMask",
    "load_feeds",
    "padding_suspected",
    "split",
    "synthetic",
    "token_mask",
]

Source = str | Path | FeedSet | Mapping[str, Any] | Iterable[Mapping[str, Any]]
MEMORY_SHARE = 0.5
"""Feeds that are held in memory may take this share of what is free."""

FORMS = "an .npz file, a folder of .npz files, or file.py:function"


def load_feeds(source: Source, signature: Signature, *, batch: int = 16) -> FeedSet:
    """Feeds for the model with this signature, each of them checked.

    source: an ``.npz`` (arrays named as the inputs, samples on axis 0, cut into feeds of
    ``batch``; inputs without a symbolic axis 0 go whole into every feed), a folder of ``.npz``
    files (a feed each, in order of name, read when needed), ``file.py:function`` returning or
    yielding feeds; in Python also dicts of arrays, one such dict of all samples, or a FeedSet.
    Raises InputError naming the feed and the input, UsageError for a source of another form.
    """
    if batch < 1:
        raise UsageError(f"a feed cannot hold {batch} samples", hint="give a batch of 1 or more")
    if isinstance(source, FeedSet):
        return _from_feed_set(source, signature)
    if isinstance(source, (str, Path)):
        return _from_text(str(source), signature, batch)
    if isinstance(source, Mapping):
        return _from_arrays(source, signature, batch, "the arrays given")
    if isinstance(source, Iterable):
        return _from_dicts(source, signature, "the feeds given")
    raise UsageError(f"feeds cannot come from {type(source).__name__}", hint=f"give {FORMS}")


def _from_text(source: str, signature: Signature, batch: int) -> FeedSet:
    path = Path(source)
    if path.is_dir():
        return _from_folder(path, signature)
    if path.is_file() and path.suffix == ".npz":
        return _from_arrays(read_npz(path), signature, batch, source)
    if is_function_reference(source):
        return _from_function(source, signature, batch)
    if path.exists():
        raise InputError("feeds cannot be read from this file", where=source, hint=f"give {FORMS}")
    raise InputError("there is no such file or folder", where=source, hint=f"give {FORMS}")


def _from_feed_set(source: FeedSet, signature: Signature) -> FeedSet:
    """The same feeds, checked against the present model's signature."""
    for index, feed in enumerate(source):
        check_feed(feed, signature, feed=f"feed {index + 1}", source=source.source)
    return source


def _from_folder(folder: Path, signature: Signature) -> FeedSet:
    files = sorted(folder.glob("*.npz"))
    if not files:
        raise InputError("the folder holds no .npz file", where=str(folder), hint=f"give {FORMS}")

    def read(index: int) -> Feeds:
        label = f"feed {index + 1} ({files[index].name})"
        return check_feed(read_npz(files[index]), signature, feed=label, source=str(folder))

    return feed_set(str(folder), read, len(files), signature)


def _from_function(reference: str, signature: Signature, batch: int) -> FeedSet:
    function = load_function(reference)
    what = "the function that gives feeds"
    given = call(function, what)
    if isinstance(given, Mapping):
        return _from_arrays(given, signature, batch, reference)
    if not isinstance(given, Iterable) or isinstance(given, (str, bytes, np.ndarray)):
        raise InputError(
            f"the function returned {type(given).__name__}, not feeds",
            where=reference,
            hint="yield dicts from input name to array, one a feed",
        )
    return _from_dicts(iterate(function, what, given), signature, reference)


def _from_dicts(given: Iterable[Mapping[str, Any]], signature: Signature, source: str) -> FeedSet:
    feeds: list[Feeds] = []
    room = _Room(source)
    for number, item in enumerate(given, 1):
        feed = check_feed(item, signature, feed=f"feed {number}", source=source)
        room.take(sum(array.nbytes for array in feed.values()))
        # Copied: a generator may well fill the same buffer again for its next feed.
        feeds.append({name: array.copy() for name, array in feed.items()})
    if not feeds:
        raise InputError("there is not one feed", where=source, hint="give at least one")
    return feed_set(source, _reader(feeds), len(feeds), signature)


def _from_arrays(
    arrays: Mapping[str, Any], signature: Signature, batch: int, source: str
) -> FeedSet:
    """Cut arrays of all samples into feeds of ``batch`` samples, the last one smaller."""
    label = "the data"
    check_names(arrays, signature, feed=label, source=source)
    whole = {
        spec.name: as_array(arrays[spec.name], Place(source, label, spec))
        for spec in signature.inputs
    }
    axes, step = _cut(whole, signature, batch)
    samples = _samples(whole, axes, source)
    feeds = [
        check_feed(
            {n: _piece(a, axes[n], start, step) for n, a in whole.items()},
            signature,
            feed=f"feed {start // step + 1}",
            source=source,
        )
        for start in range(0, samples, step)
    ]
    found = feed_set(source, _reader(feeds), len(feeds), signature)
    return found if has_fixed_batch(signature) else replace(found, cut=step)


def _cut(whole: Feeds, signature: Signature, batch: int) -> tuple[dict[str, int | None], int]:
    """Along which axes to cut, and the samples a feed.

    A model of fixed batch takes that many, from the arrays that hold more than one feed's worth.
    """
    axes = batch_axes(signature)
    if not has_fixed_batch(signature):
        return axes, batch
    fixed = {spec.name: spec.shape[0] for spec in signature.inputs if spec.shape}
    longer = {n: 0 for n, size in fixed.items() if whole[n].ndim and len(whole[n]) != size}
    sizes = {fixed[name] for name in longer}
    step = next(iter(sizes)) if len(sizes) == 1 else None
    if not isinstance(step, int) or step < 1:
        return dict.fromkeys(axes), 1
    return {name: longer.get(name) for name in axes}, step


def _samples(whole: Feeds, axes: Mapping[str, int | None], source: str) -> int:
    """The number of samples that all arrays agree on; 1 where none is cut."""
    counts = {n: whole[n].shape[a] for n, a in axes.items() if a is not None and whole[n].ndim > a}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{count} in {name!r}" for name, count in counts.items())
        raise InputError(
            f"the arrays hold different numbers of samples: {listed}",
            where=source,
            hint="give each input one entry a sample, or a folder of .npz files, one a feed",
        )
    samples = next(iter(counts.values()), 1)
    if not samples:
        raise InputError("there is not one sample", where=source, hint="give at least one")
    return samples


def _piece(array: npt.NDArray[Any], axis: int | None, start: int, size: int) -> npt.NDArray[Any]:
    if axis is None or array.ndim <= axis:
        return array
    return array[(slice(None),) * axis + (slice(start, start + size),)]


def _reader(feeds: Sequence[Feeds]) -> Callable[[int], Feeds]:
    return lambda index: dict(feeds[index])


def read_npz(path: Path) -> dict[str, npt.NDArray[Any]]:
    """The arrays of an ``.npz``. Raises InputError where it is none or holds pickled objects."""
    unreadable = (OSError, ValueError, EOFError, RuntimeError, NotImplementedError, MemoryError)
    try:
        with zipfile.ZipFile(path) as archive:
            _Room(str(path)).take(sum(item.file_size for item in archive.infolist()))
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (*unreadable, zipfile.BadZipFile, zlib.error) as error:
        pickled = "pickle" in str(error)
        what = "the .npz holds pickled objects" if pickled else f"not a readable .npz ({error})"
        hint = "write it with np.savez(path, input_name=array, …)"
        raise InputError(what, where=str(path), hint=hint) from error


class _Room:
    """Refuses feeds that would not fit into memory, before it is taken."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.free = available_memory()
        self.taken = 0

    def take(self, size: int) -> None:
        self.taken += size
        if self.free is not None and self.taken > self.free * MEMORY_SHARE:
            raise InputError(
                f"the feeds take more than {self.taken / 1e9:.1f} GB, too much for this machine",
                where=self.source,
                hint="give fewer samples, or a folder of .npz files, which are read one by one",
            )


def available_memory() -> int | None:
    """Bytes that can be taken without swapping; None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    sizes = (line.split()[1] for line in lines if line.startswith("MemAvailable:"))
    return next((int(size) * 1024 for size in sizes), None)
