"""Paired intervals of a drop, written out plainly: nothing of the compiler's own statistics."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]


def drop_interval(
    drop: Callable[[Indices], float], samples: int, *, resamples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """95 % percentile interval of ``drop`` over draws with replacement of ``samples`` indices.

    drop: from indices [samples] to before - after, both models scored on the same samples.
    """
    rng = np.random.default_rng(seed)
    drawn = [drop(rng.integers(0, samples, samples)) for _ in range(resamples)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)
