"""What this machine is taken for, and what can run on it."""

from __future__ import annotations

import dataclasses
import platform
from pathlib import Path

import pytest

from planish.ir.errors import TargetError
from planish.targets import host, runtime
from planish.targets.host import Executable, Machine, executable_here, probe_host, read_machine
from planish.targets.loader import load_target
from planish.targets.schema import Target
from planish.targets.tomlfile import catalog_files

AVX2 = "fpu sse2 avx avx2 fma"
VNNI = AVX2 + " avx512f avx512bw avx512dq avx512vl avx512_vnni"


def machine(flags: str = VNNI, arch: str = "x86_64") -> Machine:
    return Machine(arch, frozenset(flags.split()), "Some CPU")


def cpuinfo(folder: Path, *cores: str, key: str = "flags") -> Path:
    path = folder / "cpuinfo"
    blocks = [
        f"processor\t: {i}\nmodel name\t: Some CPU\n{key}\t\t: {f}" for i, f in enumerate(cores)
    ]
    path.write_text("\n\n".join(blocks) + "\n")
    return path


def test_features_are_those_that_all_cores_have(tmp_path: Path) -> None:
    found = read_machine(cpuinfo(tmp_path, VNNI, AVX2))
    assert found.features == frozenset(AVX2.split())
    assert found.cpu == "Some CPU"


def test_arm_spells_its_features_differently(tmp_path: Path) -> None:
    found = read_machine(cpuinfo(tmp_path, "fp asimd asimddp", key="Features"))
    assert found.features == {"fp", "asimd", "asimddp"}


def test_without_cpuinfo_nothing_is_claimed(tmp_path: Path) -> None:
    found = read_machine(tmp_path / "absent")
    assert found.features == frozenset()
    assert found.arch


def test_systems_spell_architectures_differently(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for word, arch in (("AMD64", "x86_64"), ("arm64", "aarch64"), ("riscv64", "riscv64")):
        monkeypatch.setattr(platform, "machine", lambda word=word: word)
        assert read_machine(tmp_path / "absent").arch == arch


@pytest.mark.parametrize(
    ("here", "resolved"),
    [
        (machine(VNNI), "x86-avx512-vnni"),
        (machine(VNNI.replace("avx512bw ", "")), "x86-avx2"),
        (machine(AVX2), "x86-avx2"),
        (machine(AVX2 + " avx_vnni"), "x86-avx-vnni"),
        (machine(VNNI + " avx_vnni"), "x86-avx512-vnni"),
        (machine(AVX2.replace(" fma", "")), "generic"),
        (machine(""), "generic"),
        (machine(VNNI + " amx_tile amx_int8"), "x86-amx"),
        (machine(VNNI + " amx_tile"), "x86-avx512-vnni"),
        (machine("asimd", "aarch64"), "generic"),
        (machine("fp asimd asimddp", "aarch64"), "arm-neon-dotprod"),
        (machine("fp asimd asimddp i8mm sve", "aarch64"), "arm-i8mm"),
        (machine("asimd i8mm", "aarch64"), "generic"),
    ],
)
def test_the_host_is_the_best_class_that_fits(here: Machine, resolved: str) -> None:
    target, same = probe_host(here), load_target(resolved)
    assert (target.name, target.kind, target.resolved) == ("host", "host", resolved)
    assert (target.int8, target.runtime, target.features) == (
        same.int8,
        same.runtime,
        same.features,
    )
    assert resolved in target.summary
    assert executable_here(target, here) == Executable(True)


def test_no_class_at_all_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    only = {"x86-avx2": catalog_files()["x86-avx2"]}
    monkeypatch.setattr(host, "catalog_files", lambda: only)
    with pytest.raises(TargetError, match="no target of the catalogue fits"):
        probe_host(machine("asimd", "aarch64"))


@pytest.mark.parametrize(
    ("here", "reason"),
    [
        (machine(AVX2), "lacks avx512f, avx512bw, avx512dq, avx512vl, avx512_vnni"),
        (machine(""), "CPU features of this machine are unknown"),
        (machine(VNNI, "aarch64"), "is for x86_64, this machine is aarch64"),
    ],
)
def test_hardware_that_is_missing_is_named(here: Machine, reason: str) -> None:
    found = executable_here(load_target("x86-avx512-vnni"), here)
    assert not found.ok
    assert reason in found.reason


@pytest.mark.parametrize("name", ["apple-coreml", "qualcomm-hexagon-x-elite"])
def test_what_has_no_backend_runs_nowhere(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    found = executable_here(load_target(name), machine(VNNI, "aarch64"))
    assert (found.ok, "planish has no backend for" in found.reason) == (False, True)


def test_a_file_for_this_machine_runs_here_as_its_class_does(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        'name = "mine"\nsummary = "Mine"\nkind = "machine"\nextends = "x86-avx2"\n'
        '[measured]\ndate = "2026-11-21"\nruntime = "onnxruntime 1.31.1"\ncpu = "Some CPU"\n'
    )
    target = load_target(path)
    assert target.measured is not None
    assert executable_here(target, machine(AVX2)) == Executable(True)
    assert not executable_here(target, machine("")).ok


def with_runtime(**changes: str | None) -> Target:
    target = load_target("generic")
    return dataclasses.replace(target, runtime=dataclasses.replace(target.runtime, **changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("installed", "minimum", "maximum", "reason"),
    [
        ("1.31.1", "1.31", None, ""),
        ("1.31.0", "1.31.1", None, "1.31.1 or newer is needed"),
        ("1.9.0", "1.31", None, "1.31 or newer is needed"),
        ("1.100.0", "1.31", None, ""),
        ("2.0", "1.31", None, ""),
        ("1.31.5", "1.20", "1.31", ""),
        ("1.32.0", "1.20", "1.31", "at most 1.31 is known"),
        ("1.31.2rc1", "1.20", "1.31.1", "at most 1.31.1 is known"),
    ],
)
def test_runtime_versions_are_compared_as_numbers(
    installed: str,
    minimum: str,
    maximum: str | None,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runtime, "runtime_version", lambda: installed)
    found = executable_here(with_runtime(min_version=minimum, max_version=maximum), machine())
    wanted = f"onnxruntime {installed} is installed, {reason}" if reason else ""
    assert found == Executable(not reason, wanted)


def test_a_runtime_or_provider_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    found = executable_here(with_runtime(provider="ImaginaryProvider"), machine())
    assert not found.ok
    assert "has no ImaginaryProvider" in found.reason
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert executable_here(load_target("generic"), machine()).reason == (
        "onnxruntime is not installed"
    )


def test_the_host_runs_what_is_compiled_for_it() -> None:
    target = load_target("host")
    assert load_target(str(target.resolved)).kind == "class"
    assert executable_here(target) == Executable(True)
