"""The catalogue: what its files say is sourced, readable, and what the hardware is known to be."""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import fields

import pytest

from planish.targets.loader import aliases, backend_of, load_target
from planish.targets.schema import Rates, Target
from planish.targets.techniques import TECHNIQUES, support
from planish.targets.tomlfile import catalog_files

CATALOG = sorted(catalog_files())
CLASSES = {
    "generic", "x86-avx2", "x86-avx-vnni", "x86-avx512-vnni", "x86-amx", "arm-neon-dotprod",
    "arm-i8mm",
    "nvidia-turing", "nvidia-ampere", "nvidia-ada", "nvidia-hopper", "nvidia-blackwell",
    "nvidia-jetson-orin",
    "nvidia-onnxruntime-cuda", "apple-coreml", "qualcomm-hexagon",
}  # fmt: skip
MACHINES = {
    "nvidia-a100-sxm-80gb", "nvidia-h100-sxm-80gb", "nvidia-h200", "nvidia-b200",
    "nvidia-gb200-per-gpu", "nvidia-l4", "nvidia-l40s", "nvidia-rtx-4090", "nvidia-rtx-5090",
    "nvidia-a100-sxm-80gb-onnxruntime", "nvidia-h100-sxm-80gb-onnxruntime",
    "nvidia-l4-onnxruntime", "nvidia-rtx-4090-onnxruntime",
    "nvidia-t4", "nvidia-jetson-agx-orin", "nvidia-jetson-orin-nano-super",
    "intel-xeon-icelake-vnni", "intel-xeon-sapphire-rapids-amx", "amd-epyc-zen4", "amd-epyc-zen5",
    "x86-avx2-generic", "arm-neoverse-v1-graviton3", "arm-neoverse-v2-graviton4",
    "arm-neoverse-n1", "apple-m4", "apple-m4-pro", "apple-m4-max", "qualcomm-hexagon-x-elite",
    "qualcomm-hexagon-x2-elite", "raspberry-pi-5",
}  # fmt: skip


def test_the_catalogue_holds_the_classes_and_the_machines() -> None:
    kinds = {name: load_target(name).kind for name in CATALOG}
    assert {name for name, kind in kinds.items() if kind == "class"} == CLASSES
    assert {name for name, kind in kinds.items() if kind == "machine"} == MACHINES


@pytest.mark.parametrize("name", CATALOG)
def test_every_figure_of_the_catalogue_has_a_source(name: str) -> None:
    target = load_target(name)
    assert target.name == name
    assert [f.path for f in target.figures() if not f.source] == []
    for figure in target.figures():
        assert not re.search(r"/(tmp|home|work|usr|opt)/", figure.source), figure
        if figure.source.startswith("measured"):
            assert re.search(r"onnxruntime \d+\.\d+\.\d+", figure.source), figure


@pytest.mark.parametrize("name", CATALOG)
def test_no_source_stands_for_a_figure_that_is_unknown(name: str) -> None:
    target = load_target(name)
    assert set(target.sources) == {figure.path for figure in target.figures()} | {
        path for path in target.sources if path in ("sparse.patterns",)
    }


@pytest.mark.parametrize("name", CATALOG)
def test_every_target_explains_itself_and_survives_json(name: str) -> None:
    target = load_target(name)
    assert json.loads(json.dumps(target.to_json())) == target.to_json()
    assert target.summary[0].isupper() or target.summary.startswith("x86")
    assert not target.summary.endswith(".")
    rows = support(target)
    assert tuple(row.technique for row in rows) == TECHNIQUES
    assert all(row.sentence for row in rows)


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_a_class_holds_no_absolute_figures(name: str) -> None:
    target = load_target(name)
    assert (target.cores, target.clock_ghz, target.measured) == (None, None, None)
    assert not any(path.startswith(("rates.", "memory.")) for path, _, _ in target.figures())


@pytest.mark.parametrize("name", sorted(MACHINES))
def test_a_machine_adds_figures_to_a_class(name: str) -> None:
    target = load_target(name)
    assert target.extends in CLASSES
    own = tomllib.loads(catalog_files()[name].read_text())
    allowed = {"name", "summary", "kind", "extends", "aliases", "notes", "sources"}
    assert set(own) <= allowed | {"cores", "clock_ghz", "features", "memory", "rates"}


def test_rates_of_narrower_types_are_not_below_those_of_wider_ones() -> None:
    for target in map(load_target, sorted(MACHINES)):
        order = ("fp32", "tf32", "fp16", "fp8", "fp4")
        known = [rate for rate in (getattr(target.rates, name) for name in order) if rate]
        assert known == sorted(known), target.name
        assert target.rates.bf16 in (None, target.rates.fp16), target.name


def test_a_rate_is_only_stated_of_a_type_that_is_computed() -> None:
    floats = {"fp16": "float16", "bf16": "bfloat16", "fp8": "float8", "fp4": "float4"}
    for target in map(load_target, sorted(MACHINES)):
        for rate, name in floats.items():
            if getattr(target.rates, rate) is not None:
                assert getattr(target.floats, name) == "native", (target.name, rate)


def test_what_is_known_of_a_few_machines() -> None:
    a100 = load_target("nvidia-a100")
    assert (a100.rates.fp16, a100.rates.int8, a100.memory.bandwidth_gbs) == (312, 624, 2039)
    assert (a100.rates.fp8, a100.rates.fp4) == (None, None)
    assert load_target("nvidia-h100").rates == load_target("nvidia-h200").rates
    pi = load_target("raspberry-pi-5")
    assert (pi.cores, pi.clock_ghz, pi.memory.capacity_gb) == (4, 2.4, 4)
    assert "low end" in pi.sources["memory.capacity_gb"]
    assert load_target("amd-epyc-zen5").rates == Rates()


def test_a_figure_that_is_the_low_end_of_a_range_says_so() -> None:
    for name, path in (
        ("nvidia-jetson-agx-orin", "memory.capacity_gb"),
        ("qualcomm-hexagon-x2-elite", "memory.bandwidth_gbs"),
        ("raspberry-pi-5", "memory.capacity_gb"),
    ):
        assert "low end" in load_target(name).sources[path]


def test_products_on_arm_are_signed_and_exact() -> None:
    for name in ("arm-neon-dotprod", "arm-i8mm", "apple-m4", "graviton3", "raspberry-pi-5"):
        int8 = load_target(name).int8
        assert (int8.kernels, int8.activation_dtype, int8.weight_bits) == ("s8s8", "int8", 8)
        assert not int8.saturates
        assert "session.qdqisint8allowed=1" in int8.session_options


def test_what_can_be_compiled_for_is_what_the_cpu_provider_runs() -> None:
    made = {name: backend_of(load_target(name)) for name in CATALOG}
    compiled = {name for name, backend in made.items() if backend == "onnxruntime-cpu"}
    assert compiled == {name for name in CATALOG if load_target(name).device == "cpu"}
    built = {name for name, backend in made.items() if backend == "tensorrt"}
    assert built == {name for name in CATALOG if load_target(name).runtime.name == "tensorrt"}
    assert {"nvidia-a100-sxm-80gb", "nvidia-t4", "nvidia-b200"} <= built
    widened = {name for name, backend in made.items() if backend == "onnxruntime-cuda"}
    assert widened == {name for name in CATALOG if "onnxruntime" in name}
    assert {"x86-amx", "apple-m4", "raspberry-pi-5"} <= compiled
    assert not {"nvidia-ampere", "apple-coreml", "qualcomm-hexagon"} & compiled


def test_aliases_lead_to_targets_and_shadow_none() -> None:
    assert not set(aliases()) & set(CATALOG)
    for alias, name in aliases().items():
        assert alias in load_target(name).aliases


def test_files_are_written_by_hand() -> None:
    order = [item.name for item in fields(Target)]
    assert order[0] == "name"
    for path in catalog_files().values():
        lines = path.read_text(encoding="utf-8").splitlines()
        assert lines[0] == f'name = "{path.stem}"'
        assert lines[1].startswith("summary = ")
        assert not any(line != line.rstrip() for line in lines)
