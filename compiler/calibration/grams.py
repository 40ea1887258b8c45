"""Gram matrices of activations, collected a few at a time so that memory stays bounded.

The products run inside ONNX Runtime; only sums come out, and are added up in float64. A large
matrix is made a stripe of columns at a time, each stripe in a run over the feeds of its own.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir

from ...ir.errors import InputError
from ...passes.api import Gram, GramTable, Looked, Patches
from ..execution import running
from .observers import Columns, Masking, gram_graph, output_name

HELD = 512 << 20
"""Bytes of matrices (float64) that are kept at a time, but at least one."""
MADE = 128 << 20
"""Bytes of sums (float32) that one run of the runtime puts out."""
UNKNOWN_WIDTH = 4096
"""Taken for channels whose number the graph does not tell."""

Feeds = Mapping[str, np.ndarray]
Key = Hashable
Collect = Callable[[Sequence[Columns]], Mapping[str, Gram]]


def collect_grams(
    model: ir.Model,
    requests: Sequence[Columns],
    feeds: Iterable[Feeds],
    masking: Masking | None,
    *,
    threads: int = 0,
    advance: Callable[[], None] = lambda: None,
) -> dict[str, Gram]:
    """Sums over all feeds by value; a value of which there are no rows, or whose sums
    are beyond float32, is left out.

    The runtime's optimisations are off, as for all statistics. Raises InputError where an
    activation is not finite, naming the value.
    """
    found: dict[str, Gram] = {}
    with running(gram_graph(model, requests, masking), threads=threads, optimize="none") as session:
        for feed in feeds:
            sums = dict(zip(session.output_names, session.run(feed), strict=True))
            for request in requests:
                _add(found, request.value, sums)
            advance()
    counted = {name: gram for name, gram in found.items() if gram.count > 0}
    return {name: gram for name, gram in counted.items() if _finite(name, gram)}


def _add(found: dict[str, Gram], name: str, sums: Mapping[str, np.ndarray]) -> None:
    matrix, total = (
        sums[output_name(name, "gram")],
        sums[output_name(name, "total")].astype(np.float64),
    )
    count, known = float(sums[output_name(name, "count")][0]), found.get(name)
    if known is None:
        found[name] = Gram(matrix.astype(np.float64), total, count)
        return
    if known.matrix.shape != matrix.shape:
        raise InputError(
            "the number of channels of an activation changes from feed to feed", where=name
        )
    np.add(known.matrix, matrix, out=known.matrix)
    found[name] = Gram(known.matrix, known.total + total, known.count + count)


def _finite(name: str, gram: Gram) -> bool:
    """Whether the sums are numbers: squares of finite activations may be too large for float32."""
    if not np.isfinite(gram.total).all():
        raise InputError(
            "an activation is not finite on the calibration data",
            where=f"value {name!r}",
            hint="look for NaN, infinity or values far out of range in the calibration data",
        )
    return bool(np.isfinite(gram.matrix).all())


@dataclass
class GramStore:
    """Matrices by the digest of what they were computed from; the oldest make room."""

    limit: int = HELD
    _kept: OrderedDict[Key, Gram] = field(default_factory=OrderedDict)

    def get(self, key: Key) -> Gram | None:
        """The matrix, if it is still kept."""
        return self._kept.get(key)

    def put(self, key: Key, gram: Gram) -> None:
        """Keep a matrix, the newest, and drop the oldest beyond the limit."""
        self._kept[key] = gram
        while len(self._kept) > 1 and self._bytes() > self.limit:
            self._kept.popitem(last=False)

    def _bytes(self) -> int:
        return sum(gram.matrix.nbytes for gram in self._kept.values())


@dataclass
class Grams(GramTable):
    """What ``GRAMS`` answers: matrices that are collected when somebody looks them up.

    keys_by: by what was asked for, in the order of the asking, the store's key. widths: channels.
    A look-up of one that is not kept collects it and as many of those after it as fit.
    """

    keys_by: Mapping[Looked, Key]
    widths: Mapping[Looked, int]
    store: GramStore
    collect: Collect
    _missing: set[Looked] = field(default_factory=set)

    def __getitem__(self, observed: Looked) -> Gram:
        key = self.keys_by[observed]
        if self.store.get(key) is None and observed not in self._missing:
            self._fetch(observed)
        found = self.store.get(key)
        if found is None:
            raise KeyError(observed)
        return found

    def origin(self, observed: Looked) -> Key:
        """Digest of the input cone, and how it is looked at."""
        return self.keys_by[observed]

    def __iter__(self) -> Iterator[Looked]:
        return iter(self.keys_by)

    def __len__(self) -> int:
        return len(self.keys_by)

    def _fetch(self, first: Looked) -> None:
        together = self._together(first)
        found: dict[str, list[Gram]] = {}
        windows = {o.value: o.window for o in together if isinstance(o, Patches)}
        for run in runs([(o[0], o[1], self.widths[o]) for o in together]):
            wanted = [replace(columns, window=windows.get(columns.value)) for columns in run]
            for name, gram in self.collect(wanted).items():
                found.setdefault(name, []).append(gram)
        for observed in reversed(together):  # what is needed first is dropped last
            if observed[0] in found:
                self.store.put(self.keys_by[observed], _joined(found[observed[0]]))
            else:
                self._missing.add(observed)

    def _together(self, first: Looked) -> list[Looked]:
        order = list(self.keys_by)
        chosen: dict[str, Looked] = {}
        room = self.store.limit
        for observed in order[order.index(first) :]:
            if self.store.get(self.keys_by[observed]) is not None or observed[0] in chosen:
                continue
            room -= 8 * self.widths[observed] ** 2
            if room < 0 and chosen:
                break
            chosen[observed[0]] = observed
        return list(chosen.values())


def runs(wanted: Sequence[tuple[str, int, int]], limit: int = MADE) -> list[list[Columns]]:
    """(value, axis, channels) in as few runs as put out at most ``limit`` bytes each."""
    made: list[list[Columns]] = [[]]
    room = limit
    for value, axis, width in wanted:
        for columns in _stripes(width, limit):
            size = 4 * width * (width if columns is None else columns[1] - columns[0])
            if size > room and made[-1]:
                made.append([])
                room = limit
            made[-1].append(Columns(value, axis, columns))
            room -= size
    return made


def _stripes(width: int, limit: int) -> list[tuple[int, int] | None]:
    step = max(1, limit // (4 * max(width, 1)))
    if step >= width:
        return [None]
    return [(start, min(start + step, width)) for start in range(0, width, step)]


def _joined(stripes: Sequence[Gram]) -> Gram:
    if len(stripes) == 1:
        return stripes[0]
    matrix = np.concatenate([stripe.matrix for stripe in stripes], axis=1)
    return Gram(matrix, stripes[0].total, stripes[0].count)
