"""What a user's evaluation function returns, and how much of it may be lost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...ir.errors import InputError, UsageError
from .statistics import Aggregate, mean

_HINT = (
    "return one number, an array with one number per sample, or "
    "planish.Scores(samples, aggregate) for metrics that are no mean of samples"
)


@dataclass(frozen=True, eq=False)
class Scores:
    """What an evaluation function found, sample by sample.

    samples: numbers [n], or rows [n, ...] (a prediction and its label, say) that
    ``aggregate`` turns into the metric; axis 0 are independent samples, which the bootstrap
    resamples. aggregate: any subset of the rows, with repeats -> float. slices: names of
    groups of samples, each a mask [n] or a list of indices; shown beside the whole.
    Raises InputError for anything else.
    """

    samples: NDArray[Any]
    aggregate: Aggregate = mean
    higher_is_better: bool = True
    slices: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        samples = _numbers(self.samples, "Scores hold")
        if samples.ndim == 0 or samples.size == 0:
            raise InputError("Scores hold no samples", hint=_HINT)
        if not callable(self.aggregate):
            raise InputError(
                f"the aggregate of Scores is {self.aggregate!r}, which is not a function",
                hint="give a function from samples (any subset of the rows) to a float",
            )
        slices = {str(k): _indices(str(k), s, len(samples)) for k, s in dict(self.slices).items()}
        object.__setattr__(self, "samples", samples)
        object.__setattr__(self, "slices", slices)

    def value(self, index: NDArray[np.int64] | None = None) -> float:
        """The metric of all samples, or of those at ``index``.

        Raises InputError when the aggregate raises, or returns no finite number.
        """
        chosen = self.samples if index is None else self.samples[index]
        try:
            value = float(self.aggregate(chosen))
        except Exception as error:
            raise InputError(
                f"the aggregate of Scores failed: {type(error).__name__}: {error}",
                hint="it must take any subset of the rows of samples and return a float",
            ) from error
        if not math.isfinite(value):
            raise InputError(
                f"the aggregate of Scores returned {value} for {len(chosen)} samples",
                hint="check the metric: a correlation of equal values, say, has no value",
            )
        return value


@dataclass(frozen=True)
class Point:
    """A metric as one bare number: it can be compared, but has no interval."""

    value: float
    higher_is_better: bool = True


@dataclass(frozen=True)
class Budget:
    """How much the metric may drop: in its units, or in percent of the float model's."""

    amount: float
    relative: bool = False

    @classmethod
    def parse(cls, text: str | float) -> Budget:
        """``0.5`` is in units of the metric, ``0.5%`` relative. Raises UsageError."""
        plain = str(text).strip()
        amount = _number_or_nan(plain.removesuffix("%"))
        if not (math.isfinite(amount) and amount >= 0):
            raise UsageError(
                f"{str(text)!r} is no bound of a drop",
                hint="give a number that is not negative: in units of the metric (0.5), or in "
                "percent of the original's value (0.5%)",
            )
        return cls(amount, plain.endswith("%"))

    def limit(self, before: float) -> float:
        """The largest drop that is allowed, in units of the metric."""
        return self.amount / 100 * abs(before) if self.relative else self.amount

    def __str__(self) -> str:
        return f"{self.amount:g}%" if self.relative else f"{self.amount:g}"


def normalise(result: object, *, where: str = "") -> Scores | Point:
    """What an evaluation function returned, in one of the two forms that can be compared.

    A number becomes a Point, a sequence or array [n] of numbers or of right and wrong
    becomes Scores of their mean, Scores stay. Raises InputError, with ``where`` (the
    function, as the user named it), for anything else, for NaN and for nothing at all.
    """
    if isinstance(result, Scores | Point):
        return result
    if isinstance(result, bool | np.bool_):
        raise InputError(f"the metric is {result}, not a number", where=where, hint=_HINT)
    values = _numbers(result, "the evaluation function returned", where)
    if values.ndim == 0:
        return Point(float(values))
    if values.size == 0:
        raise InputError("the evaluation function returned no samples", where=where, hint=_HINT)
    if values.ndim != 1:
        raise InputError(
            f"the evaluation function returned an array of shape {values.shape}, "
            "not one number per sample",
            where=where,
            hint=_HINT,
        )
    return Scores(values.astype(np.float64))


def _numbers(given: object, says: str, where: str = "") -> NDArray[Any]:
    """``given`` as an array of finite numbers or booleans. Raises InputError."""
    try:
        values = np.asarray(given)
    except Exception as error:
        raise InputError(
            f"{says} {_short(given)}, which is no array: {error}", where=where, hint=_HINT
        ) from error
    if values.dtype.kind not in "biuf":
        raise InputError(
            f"{says} {_short(given)}, which is not made of numbers",
            where=where,
            hint=_HINT,
        )
    broken = int(np.count_nonzero(~np.isfinite(values)))
    if broken:
        raise InputError(
            f"{says} {broken} of {values.size} values that are NaN or infinite",
            where=where,
            hint="check the metric, and whether the model's outputs are finite",
        )
    return values


def _indices(name: str, chosen: ArrayLike, n: int) -> NDArray[np.int64]:
    """A mask [n] or a list of indices as sorted, unique indices. Raises InputError."""
    values = np.asarray(chosen)
    if values.dtype == bool and values.shape == (n,):
        return np.flatnonzero(values)
    if values.ndim == 1 and values.size == 0:
        return np.zeros(0, dtype=np.int64)
    if values.ndim == 1 and values.dtype.kind in "iu" and _within(values, n):
        return np.unique(values.astype(np.int64))
    raise InputError(
        f"slice {name!r} does not select from {n} samples",
        hint=f"give a mask of {n} booleans, or a list of indices from 0 to {n - 1}",
    )


def _within(indices: NDArray[Any], n: int) -> bool:
    return bool(indices.min() >= 0 and indices.max() < n)


def _number_or_nan(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _short(value: object) -> str:
    text = f"{type(value).__name__} {value!r}" if value is not None else "None"
    return text if len(text) <= 60 else text[:57] + "..."
