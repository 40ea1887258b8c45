"""What one edit alone does to the outputs, against a plain computation in numpy."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import onnx_ir as ir
import pytest

from planish.compiler.checking.switches import output_changes, switchboard
from planish.ir.errors import PassError
from planish.ir.load import load_model
from planish.ir.save import to_bytes
from planish.passes.api import FakeQuant, Perturbation
from planish.targets.runtime import open_session

SCALE = 0.05


def layers(model: ir.Model) -> dict[str, np.ndarray]:
    return {n: v.const_value.numpy() for n, v in model.graph.initializers.items() if v.const_value}


def rounded(x: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(x / np.float32(SCALE)), -128, 127) * np.float32(SCALE)


def computed(w: dict[str, np.ndarray], x: np.ndarray, at: int | None = None) -> np.ndarray:
    """The chain in numpy; what layer ``at`` reads is rounded."""
    count = len(w) // 2
    for i in range(count):
        x = rounded(x) if i == at else x
        x = x @ w[f"block{i}.weight"] + w[f"block{i}.bias"]
        x = np.maximum(x, 0) if i < count - 1 else x
    return x


def relative(before: np.ndarray, after: np.ndarray) -> float:
    return float(((after - before) ** 2).sum() / (before**2).sum())


@pytest.fixture
def chain(kit: ModuleType) -> ir.Model:
    return load_model(kit.chain(3)).model


def rounding(i: int) -> Perturbation:
    read = "x" if i == 0 else f"r{i - 1}"
    return Perturbation((read,), (f"p{i}",), fake_quants={read: FakeQuant("int8", SCALE, 0)})


def test_each_edit_is_measured_alone(chain: ir.Model, kit: ModuleType) -> None:
    weights, x = layers(chain), kit.normal(16, 64, seed=7)
    smaller = weights["block1.weight"] * np.float32(0.9)
    both = Perturbation(
        ("r0",), ("p1",), {"block1.weight": smaller}, {"r0": FakeQuant("int8", SCALE, 0)}
    )
    found = output_changes(chain, [rounding(0), rounding(2), both], [({"x": x}, None)], 1)
    plain = computed(weights, x)
    expected = [relative(plain, computed(weights, x, at)) for at in (0, 2)]
    expected.append(relative(plain, computed(weights | {"block1.weight": smaller}, x, 1)))
    np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_samples_of_all_feeds_count_but_no_padding(chain: ir.Model, kit: ModuleType) -> None:
    x = [kit.normal(8, 64, seed=i) for i in range(2)]
    mask = np.arange(8) < 5
    found = output_changes(chain, [rounding(1)], [({"x": x[0]}, None), ({"x": x[1]}, mask)], 1)
    rows = np.concatenate([x[0], x[1][:5]])
    weights = layers(chain)
    expected = relative(computed(weights, rows), computed(weights, rows, 1))
    np.testing.assert_allclose(found, [expected], rtol=1e-3)


def test_two_edits_of_one_region_do_not_hide_each_other(chain: ir.Model, kit: ModuleType) -> None:
    coarse = Perturbation(("r0",), ("p1",), fake_quants={"r0": FakeQuant("int8", 0.5, 0)})
    feeds = [({"x": kit.normal(8, 64)}, None)]
    alone = [output_changes(chain, [p], feeds, 1)[0] for p in (rounding(1), coarse)]
    assert output_changes(chain, [rounding(1), coarse], feeds, 1) == pytest.approx(alone)
    assert alone[0] < alone[1] / 4


def test_an_output_that_is_rounded_itself(chain: ir.Model, kit: ModuleType) -> None:
    edit = Perturbation(("x",), ("y",), fake_quants={"y": FakeQuant("int8", SCALE, 0)})
    x = kit.normal(8, 64)
    plain = computed(layers(chain), x)
    found = output_changes(chain, [edit], [({"x": x}, None)], 1)
    np.testing.assert_allclose(found, [relative(plain, rounded(plain))], rtol=1e-3)


def test_switches_that_are_off_change_nothing(chain: ir.Model, kit: ModuleType) -> None:
    board, names = switchboard(chain, [rounding(0), rounding(1)])
    feed = {"x": kit.normal(8, 64)}
    off = {name: np.asarray(False) for name in names}
    before = open_session(to_bytes(chain), optimize="none").run(feed)
    after = open_session(to_bytes(board), optimize="none").run({**feed, **off})
    np.testing.assert_array_equal(before, after)
    assert len(chain.graph.inputs) == 1  # the model itself is left alone


def test_overflow_is_infinite_and_an_open_region_is_refused(
    chain: ir.Model, kit: ModuleType
) -> None:
    broken = np.full((64, 64), 1e38, np.float32)
    edit = Perturbation(("r0",), ("p1",), {"block1.weight": broken})
    assert output_changes(chain, [edit], [({"x": kit.normal(8, 64)}, None)], 1) == [np.inf]
    unknown = FakeQuant("int8", SCALE, 0)
    for wrong in (
        Perturbation((), ("p1",)),
        Perturbation(("nowhere",), ("p1",)),
        Perturbation(("r0",), ("p1",), {"nothing": broken}),
        Perturbation(("r0",), ("p1",), fake_quants={"nothing": unknown}),
    ):
        with pytest.raises(PassError):
            switchboard(chain, [wrong])


def test_a_compile_that_cannot_tell_goes_on(kit: ModuleType, tmp_path: Path) -> None:
    context = kit.workshop(kit.chain(3), tmp_path).context
    assert context.output_changes([rounding(0)]) == [None]  # it does not weigh that at all
    context.weighs_outputs = True
    context.begin_pass("quantize", context.model)
    inside = Perturbation(("inside a body",), ("p1",))
    assert context.output_changes([inside]) == [None]
    (known,) = context.output_changes([rounding(0)])
    assert known is not None
    assert known > 0
    assert set(context.operations()) == {"block0", "block1", "block2"}
