"""A probe of tiny grids through the real runtime, and the target file that comes of it."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pytest

from planish.ir.errors import UsageError
from planish.targets.cost.measured import Convolutions, Measured, Products, Streams
from planish.targets.host import probe_host
from planish.targets.loader import load_target
from planish.targets.probe.points import CONVOLUTIONS, PRODUCTS, Grid, points
from planish.targets.probe.run import Probed, probe
from planish.targets.probe.streams import STREAMS
from planish.targets.probe.writing import file_name, target_text
from planish.targets.runtime import optimized_graph

SMALL = Grid(
    rows=(1, 32), depths=(32,), widths=(32,), attention=(16,), pixels=(64,), channels=(16,),
    elements=(256, 4096), lines=(16, 256), lengths=(8, 64), weights=(1 << 16, 1 << 18),
)  # fmt: skip


@pytest.fixture(scope="module")
def probed() -> Probed:
    return probe([1], "test-machine", grid=SMALL, budget=20.0)


def test_every_table_is_filled_with_times_above_zero(probed: Probed) -> None:
    for group in (probed.measured.products, probed.measured.convolutions, probed.measured.streams):
        for item in fields(group):
            rows = getattr(group, item.name)
            assert rows, item.name
            assert all(row[-1] > 0 for row in rows)
            assert {row[0] for row in rows} == {1.0}
    for rows in (probed.measured.call, probed.measured.node, probed.measured.bandwidth):
        assert all(row[-1] > 0 for row in rows)
    ((threads, a, b),) = probed.measured.correction
    assert (threads, a >= 0, b > 0) == (1, True, True)


def test_the_file_is_a_target_with_the_same_numbers(probed: Probed, tmp_path: Path) -> None:
    path = tmp_path / "machine.toml"
    path.write_text(probed.text, "utf8")
    target = load_target(path)
    assert target.measured == probed.measured
    assert (target.name, target.kind) == ("test-machine", "machine")
    assert target.extends == probe_host().resolved
    assert target.int8 == probe_host().int8
    for path_, source in (("rates.fp32", "measured: "), ("memory.bandwidth_gbs", "onnxruntime ")):
        assert source in target.sources[path_]


def test_each_kind_of_point_has_a_place_in_the_file() -> None:
    assert set(PRODUCTS) == {f.name for f in fields(Products)}
    assert set(CONVOLUTIONS) == {f.name for f in fields(Convolutions)}
    assert set(STREAMS) == {f.name for f in fields(Streams)}


EXPECTED = {
    "products.u8s8": "MatMulIntegerToFloat", "products.dynamic": "DynamicQuantizeMatMul",
    "products.nbits4": "MatMulNBits", "convolutions.spatial": "Conv", "streams.turn": "Transpose",
    "convolutions.spatial_u8s8": "QLinearConv", "streams.softmax": "Softmax",
    "streams.transpose": "Transpose", "streams.binary": "Add", "streams.gather": "Gather",
}  # fmt: skip


@pytest.mark.parametrize("table", EXPECTED)
def test_the_runtime_runs_every_copy_in_the_kernel_that_is_meant(table: str) -> None:
    point = next(p for p in points(SMALL) if p.table == table)
    graph = point.build(point.key, 3)
    kernels = [n.op_type for n in optimized_graph(graph.model, threads=1).graph.node]
    layouts = 4 if "u8s8" in table and "conv" in table else 0
    assert kernels.count(EXPECTED[table]) >= graph.nodes - layouts
    assert graph.nodes == 3


@pytest.mark.parametrize("threads", [0, 4096])
def test_threads_that_the_machine_does_not_have(threads: int) -> None:
    with pytest.raises(UsageError, match="threads"):
        probe([threads], grid=SMALL)


@pytest.mark.parametrize(
    ("cpu", "name"),
    [
        ("AMD EPYC 9R45 64-Core Processor", "amd-epyc-9r45-measured"),
        ("Intel(R) Xeon(R) Platinum 8480C CPU @ 2.00GHz", "intel-xeon-platinum-8480c-measured"),
        ("", "x86_64-measured"),
    ],
)
def test_a_name_made_of_the_processor(cpu: str, name: str) -> None:
    assert file_name(cpu, "x86_64") == name.replace("_", "-" if cpu else "_")


def test_texts_that_toml_must_escape(tmp_path: Path) -> None:
    rows = ((1.0, 1.0, 8.0, 8.0, 0.25),)
    measured = Measured(
        "2026-01-01", "onnxruntime", 'a "quoted" \\ cpu\nof\x7f two lines é', busy='it "was"',
        bandwidth=((1.0, 1e6, 20.0),), products=Products(float32=rows, u8s8=rows),
    )  # fmt: skip
    path = tmp_path / "t.toml"
    path.write_text(target_text("a-name", probe_host(), measured, 2), "utf8")
    target = load_target(path)
    assert target.measured == measured
    assert target.cores == 2
    assert any('it "was"' in note for note in target.notes)
    assert target.rates.fp32 == pytest.approx(2e-6 * 64 / 0.25)
    assert replace(target, measured=None).memory.bandwidth_gbs == 20.0
