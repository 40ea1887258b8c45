"""The machine this runs on: its features, the target it is, and what can run here."""

from __future__ import annotations

import importlib.util
import platform
from dataclasses import dataclass, replace
from pathlib import Path

from ..ir.errors import TargetError
from .schema import HOST as HOST
from .schema import Runtime, Target
from .techniques import compiles, has_backend, runs_on_cpu
from .tomlfile import catalog_files, read_target

CPUINFO = Path("/proc/cpuinfo")

_ARCHITECTURES = {"amd64": "x86_64", "x86_64": "x86_64", "arm64": "aarch64", "aarch64": "aarch64"}
_FEATURE_KEYS = ("flags", "Features")  # x86 and Arm spellings


@dataclass(frozen=True)
class Machine:
    """arch: "x86_64", "aarch64" or the system's own word. features: CPU flags as Linux spells
    them, empty where they cannot be read. cpu: the model name, or "" when unknown."""

    arch: str
    features: frozenset[str]
    cpu: str


@dataclass(frozen=True)
class Executable:
    """Whether a target's artifacts run here; ``reason`` says why not, "" when they do."""

    ok: bool
    reason: str = ""


def read_machine(cpuinfo: Path = CPUINFO) -> Machine:
    """This machine. Features that only some cores have do not count."""
    word = platform.machine().lower()
    arch = _ARCHITECTURES.get(word, word)
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return Machine(arch, frozenset(), platform.processor())
    rows = [(key.strip(), value.strip()) for key, _, value in _split_lines(text)]
    per_core = [frozenset(value.split()) for key, value in rows if key in _FEATURE_KEYS]
    features = frozenset.intersection(*per_core) if per_core else frozenset()
    cpu = next((value for key, value in rows if key == "model name"), platform.processor())
    return Machine(arch, features, cpu)


def probe_host(machine: Machine | None = None) -> Target:
    """The host as a target: the class with the most features, all of which are present here.

    It keeps the name "host"; ``resolved`` names the class.
    """
    here = machine or read_machine()
    catalog = [read_target(path) for path in catalog_files().values()]
    classes = [t for t in catalog if t.kind == "class" and runs_on_cpu(t)]
    fitting = [t for t in classes if not _hardware_problem(t, here)]
    if not fitting:
        raise TargetError(f"no target of the catalogue fits this machine ({here.arch})")
    best = max(fitting, key=lambda target: (len(target.features), target.name))
    summary = f"This machine ({here.cpu or here.arch}), compiled for as {best.name}"
    return replace(
        best, name=HOST, kind="host", summary=summary, extends=best.name, resolved=best.name
    )


def executable_here(target: Target, machine: Machine | None = None) -> Executable:
    """Whether the target's runtime is installed and this machine has what the target requires."""
    problem = _backend_problem(target) if target.device != "cpu" else ""
    problem = problem or _hardware_problem(target, machine or read_machine())
    problem = problem or _runtime_problem(target.runtime) or _backend_problem(target)
    return Executable(not problem, problem)


def _hardware_problem(target: Target, machine: Machine) -> str:
    if target.arch not in ("any", machine.arch):
        return f"{target.name} is for {target.arch}, this machine is {machine.arch}"
    missing = [feature for feature in target.features if feature not in machine.features]
    if missing and not machine.features:
        return f"the CPU features of this machine are unknown, {target.name} needs some"
    return f"this machine lacks {', '.join(missing)}" if missing else ""


def _backend_problem(target: Target) -> str:
    return "" if has_backend(target) else compiles(target).sentence


def _runtime_problem(wanted: Runtime) -> str:
    if importlib.util.find_spec(wanted.name) is None:
        return f"{wanted.name} is not installed"
    if wanted.name != "onnxruntime":
        return ""
    from .runtime import available_providers, runtime_version

    version = runtime_version()
    if _numbers(version) < _numbers(wanted.min_version):
        return f"{wanted.name} {version} is installed, {wanted.min_version} or newer is needed"
    if wanted.max_version is not None:
        limit = _numbers(wanted.max_version)
        if _numbers(version)[: len(limit)] > limit:
            return f"{wanted.name} {version} is installed, at most {wanted.max_version} is known"
    if wanted.provider not in available_providers():
        return f"{wanted.name} {version} has no {wanted.provider}"
    return ""


def _numbers(version: str) -> tuple[int, ...]:
    """Leading numbers of a version: "1.31.1rc2" -> (1, 31, 1)."""
    numbers: list[int] = []
    for part in version.split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits))
    return tuple(numbers)


def _split_lines(text: str) -> list[tuple[str, str, str]]:
    return [line.partition(":") for line in text.splitlines()]
