"""Measuring drift: how far outputs are from the original's, feed by feed, without labels.

Everything is a running sum, or one number per row, so that no more than one feed's outputs
need be in memory. A row is one index of all axes but the last; rows that a mask calls
padding never count.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...ir.errors import InputError

RANKED_AXES = 3
"""Of an output with more axes (images, maps) the last one holds no classes to rank."""

Outputs = Sequence[NDArray[Any]]
Mask = NDArray[Any] | None


@dataclass(frozen=True)
class OutputDrift:
    """How one output moved; None where a measure has no meaning for it.

    rows: compared rows. sqnr_db: signal to noise ratio over all elements, infinite when
    equal. cosine, cosine_min, cosine_p1: mean, least and first percentile over rows along
    the last axis. top1: percent of rows with the same largest entry, of outputs with at most
    three axes; of class numbers (32 or 64-bit integers), booleans and strings, percent of
    equal elements. max_abs_error: in units of the output. non_finite: elements that became
    NaN or infinite. reshaped: feeds whose shape changed.
    """

    name: str
    rows: int = 0
    sqnr_db: float | None = None
    cosine: float | None = None
    cosine_min: float | None = None
    cosine_p1: float | None = None
    top1: float | None = None
    max_abs_error: float | None = None
    non_finite: int = 0
    reshaped: int = 0

    @property
    def equal(self) -> bool:
        """Whether no element of any row differs at all."""
        if not self.rows or self.non_finite or self.reshaped:
            return False
        return self.top1 == 100.0 if self.sqnr_db is None else self.sqnr_db == math.inf

    def measures(self) -> dict[str, float]:
        """What was measured, by name; ``non_finite`` and ``reshaped`` only where not zero."""
        found = {k: v for k, v in vars(self).items() if k != "name" and v is not None}
        return {k: v for k, v in found.items() if v or k not in ("non_finite", "reshaped")}


@dataclass(frozen=True)
class Drift:
    """The drift of every output, in the order of the model's outputs."""

    outputs: tuple[OutputDrift, ...]

    def measures(self) -> dict[str, dict[str, float]]:
        """Measures by output and name."""
        return {output.name: output.measures() for output in self.outputs}

    def to_json(self) -> dict[str, dict[str, float | str]]:
        """The same, with infinities as text: JSON has none."""
        return {
            name: {k: v if math.isfinite(v) else str(v) for k, v in measures.items()}
            for name, measures in self.measures().items()
        }


@dataclass
class _Sums:
    """Running sums of one output."""

    rows: int = 0
    signal: float = 0.0
    noise: float = 0.0
    largest: float = 0.0
    agreeing: int = 0
    asked: int = 0
    non_finite: int = 0
    reshaped: int = 0
    numeric: bool = False
    cosines: list[NDArray[np.float32]] = field(default_factory=list)


class DriftMeter:
    """Takes the outputs of both models for one feed after another."""

    def __init__(self, names: Sequence[str]) -> None:
        self._sums: Mapping[str, _Sums] = {name: _Sums() for name in names}

    def add(self, before: Outputs, after: Outputs, row_mask: Mask = None) -> None:
        """One feed's outputs, in the order of the names.

        row_mask: true where a row counts, of the shape of an output's leading axes ([batch,
        sequence] for an output [batch, sequence, hidden]); outputs whose leading axes it
        does not match count in full. Raises InputError for another number of outputs.
        """
        if not len(before) == len(after) == len(self._sums):
            raise InputError(
                f"{len(before)} outputs before, {len(after)} after and {len(self._sums)} names "
                "do not belong together"
            )
        for sums, one, two in zip(self._sums.values(), before, after, strict=True):
            _add(sums, np.asarray(one), np.asarray(two), row_mask)

    def result(self) -> Drift:
        """The drift of everything that was added."""
        return Drift(tuple(_result(name, sums) for name, sums in self._sums.items()))


def measure(
    before: Iterable[Outputs],
    after: Iterable[Outputs],
    row_masks: Iterable[Mask] | None = None,
    names: Sequence[str] | None = None,
) -> Drift:
    """Drift over feeds: per feed a list of outputs of each model, and a mask (see ``add``).

    The iterables may be generators; they must yield the same number of feeds. Names default
    to ``output 0``, ``output 1``, ….
    """
    meter: DriftMeter | None = None
    if row_masks is None:
        for one, two in zip(before, after, strict=True):
            meter = meter or _meter(names, one)
            meter.add(one, two)
    else:
        for one, two, mask in zip(before, after, row_masks, strict=True):
            meter = meter or _meter(names, one)
            meter.add(one, two, mask)
    return (meter or DriftMeter(names or ())).result()


def _meter(names: Sequence[str] | None, outputs: Outputs) -> DriftMeter:
    return DriftMeter(names or [f"output {i}" for i in range(len(outputs))])


def _add(sums: _Sums, before: NDArray[Any], after: NDArray[Any], row_mask: Mask) -> None:
    if before.shape != after.shape:
        sums.reshaped += 1
        return
    first, second = _rows(before, row_mask), _rows(after, row_mask)
    if not first.size:
        return
    if _is_discrete(before):
        sums.rows += len(first)
        sums.agreeing += int(np.count_nonzero(first == second))
        sums.asked += first.size
        return
    sums.numeric = True
    ranked = 1 < before.ndim <= RANKED_AXES and first.shape[1] > 1
    _add_numbers(sums, first.astype(np.float64), second.astype(np.float64), ranked)


def _is_discrete(values: NDArray[Any]) -> bool:
    """Class numbers, flags and text; integers of 8 and 16 bits are images or sound."""
    return values.dtype.kind in "bOSU" or (values.dtype.kind in "iu" and values.itemsize >= 4)


def _rows(values: NDArray[Any], row_mask: Mask) -> NDArray[Any]:
    """[..., last] -> [rows, last], without the rows that are masked out."""
    if values.ndim == 0:
        return values.reshape(1, 1)
    if row_mask is not None:
        mask = np.asarray(row_mask, dtype=bool)
        if mask.ndim < values.ndim and values.shape[: mask.ndim] == mask.shape:
            values = values[mask]
    return values.reshape(math.prod(values.shape[:-1]), values.shape[-1])


def _add_numbers(
    sums: _Sums, before: NDArray[np.float64], after: NDArray[np.float64], ranked: bool
) -> None:
    known, kept = np.isfinite(before), np.isfinite(after)
    sums.non_finite += int(np.count_nonzero(known & ~kept))
    some = known.any(axis=1)
    before, after, known, kept = before[some], after[some], known[some], kept[some]
    if ranked:
        # A masked logit of minus infinity must not win against negative ones.
        first = np.where(known, before, -np.inf).argmax(axis=1)
        second = np.where(known & kept, after, -np.inf).argmax(axis=1)
        sums.agreeing += int(np.count_nonzero(first == second))
        sums.asked += len(first)
    original = np.where(known, before, 0.0)
    changed = np.where(known & kept, after, 0.0)
    error = changed - original
    sums.rows += len(original)
    sums.signal += float(np.sum(original * original))
    sums.noise += float(np.sum(error * error))
    sums.largest = max(sums.largest, float(np.abs(error).max(initial=0.0)))
    if original.shape[1] > 1:
        sums.cosines.append(_cosines(original, changed).astype(np.float32))


def _cosines(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cosine of each row [rows, n] -> [rows]; two rows of zeros agree, one does not."""
    lengths = np.sqrt(np.einsum("ij,ij->i", a, a)) * np.sqrt(np.einsum("ij,ij->i", b, b))
    same = ~a.any(axis=1) & ~b.any(axis=1)
    inner = np.einsum("ij,ij->i", a, b)
    cosine = np.clip(inner / np.where(lengths > 0, lengths, 1.0), -1.0, 1.0)
    return np.where(same, 1.0, cosine)


def _result(name: str, sums: _Sums) -> OutputDrift:
    cosines = np.concatenate(sums.cosines).astype(np.float64) if sums.cosines else None
    return OutputDrift(
        name=name,
        rows=sums.rows,
        sqnr_db=_decibel(sums.signal, sums.noise) if sums.numeric else None,
        cosine=None if cosines is None else float(cosines.mean()),
        cosine_min=None if cosines is None else float(cosines.min()),
        cosine_p1=None if cosines is None else float(np.percentile(cosines, 1)),
        top1=100.0 * sums.agreeing / sums.asked if sums.asked else None,
        max_abs_error=sums.largest if sums.numeric else None,
        non_finite=sums.non_finite,
        reshaped=sums.reshaped,
    )


def _decibel(signal: float, noise: float) -> float:
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf
