from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from planish.ir.axes.groups import NONE
from planish.passes.cutting.forms import Form

Array = NDArray[Any]
RNG = np.random.default_rng(0)

FORMS = [
    Form("linear", (6, 4)), Form("turned", (4, 6)), Form("Conv", (4, 6, 3, 2)),
    Form("Conv", (4, 3, 3), groups=2), Form("ConvTranspose", (6, 4, 2, 2)),
    Form("ConvTranspose", (6, 2, 2, 3), groups=2), Form("Conv", (4, 6, 3, 2), coarse=True),
    Form("Conv", (4, 3, 3), groups=2, coarse=True),
    Form("ConvTranspose", (6, 2, 2, 3), groups=2, coarse=True),
]  # fmt: skip


def entry(form: Form, weight: Array, channel: int, tap: tuple[int, ...], output: int) -> float:
    """What input ``channel`` counts for ``output`` at a tap, by the definition of the operator."""
    each, made = form.inputs // form.groups, form.outputs // form.groups
    if channel // each != output // made:
        return 0.0
    first, second = {
        "linear": (channel, output), "turned": (output, channel),
        "Conv": (output, channel % each), "ConvTranspose": (channel, output % made),
    }[form.kind]  # fmt: skip
    return float(weight[(first, second, *tap)])


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_matrices_hold_what_each_channel_counts_for_each_output(form: Form) -> None:
    weight = RNG.normal(size=form.shape)
    matrices = form.matrices(weight)
    assert (form.inputs, form.outputs) == (6, 4)
    each, made = form.inputs // form.groups, form.outputs // form.groups
    taps = list(product(*map(range, form.kernel)))
    for channel, (place, tap), output in product(range(6), enumerate(taps), range(4)):
        group = channel // each
        if group != output // made:
            continue
        row = channel % each if form.coarse else channel % each * len(taps) + place
        column = output % made + (place * made if form.coarse else 0)
        assert matrices[group, row, column] == entry(form, weight, channel, tap, output)
    np.testing.assert_array_equal(form.stored(matrices), weight)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_rows_of_units_are_all_that_their_channels_count_for(form: Form) -> None:
    size = form.shape[form.axis]
    units = [[0, size - 1], [1, NONE]]
    weight = RNG.normal(size=form.shape)
    zeroed = weight.copy()
    np.moveaxis(zeroed, form.axis, 0)[[0, size - 1]] = 0
    matrices = form.matrices(weight)
    for group, rows in enumerate(form.rows(np.array(units))):
        matrices[group][rows[0][rows[0] != NONE]] = 0
    np.testing.assert_array_equal(form.stored(matrices), zeroed)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_a_mean_of_rows_is_one_of_outputs(form: Form) -> None:
    """All inputs at their means, away from any border."""
    weight, means = RNG.normal(size=form.shape), RNG.normal(size=form.inputs)
    rows = np.repeat(means, form.rows_each).reshape(form.groups, -1)
    found = form.summed(np.einsum("gk,gkn->gn", rows, form.matrices(weight)))
    taps = list(product(*map(range, form.kernel)))
    wanted = [
        sum(means[c] * entry(form, weight, c, tap, o) for c in range(6) for tap in taps)
        for o in range(4)
    ]
    np.testing.assert_allclose(found, wanted)
