"""A measured machine as a target file: TOML that the loader reads back to the same numbers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from ..cost.measured import Measured
from ..cost.tables import of_threads
from ..schema import Target

_INFERRED_RATES = {"fp32": "products.float32", "int8": "products.u8s8"}


def target_text(name: str, base: Target, measured: Measured, cores: int) -> str:
    """The file of a machine of class ``base`` (found on the host) with what was measured on it."""
    source = f"measured: {measured.date}, {measured.runtime}, {measured.cpu or base.arch}"
    doubt = (
        [f"The machine was busy while it was measured: {measured.busy}"] if measured.busy else []
    )
    rates = {rate: _peak(measured, table) for rate, table in _INFERRED_RATES.items()}
    bandwidth = _bandwidth(measured)
    lines = [
        f"name = {_text(name)}",
        f"summary = {_text(f'{measured.cpu or base.arch}, {cores} cores, measured')}",
        'kind = "machine"',
        f"extends = {_text(base.resolved or base.name)}",
        f"cores = {cores}",
        *([f"notes = {_list(doubt)}"] if doubt else []),
        *_section("memory", {"bandwidth_gbs": bandwidth}),
        *_section("rates", rates),
        *_table("measured", measured),
        "",
        "[sources]",
        '"cores" = "counted on the machine"',
        f'"memory.bandwidth_gbs" = {_text(f"{source}: the largest matrix read")}',
        *(f'"rates.{rate}" = {_text(f"{source}: the fastest product")}' for rate in rates),
    ]
    return "\n".join(lines) + "\n"


def file_name(cpu: str, arch: str) -> str:
    """A target name made of a CPU's model name: "amd-epyc-9r45"."""
    words = re.sub(r"\((r|tm|c)\)|@.*|\b\d+-core\b|\bprocessor\b|\bcpu\b", " ", cpu.lower())
    slug = re.sub(r"[^a-z0-9.]+", "-", words).strip("-.")
    return f"{slug or arch}-measured"


def _peak(measured: Measured, table: str) -> float:
    """TFLOPS of the fastest product with the most threads."""
    rows = getattr(measured.products, table.partition(".")[2])
    most = max((row[0] for row in rows), default=1.0)
    kept, _ = of_threads(rows, int(most))
    return max((2e-6 * m * k * n / us for m, k, n, us in kept), default=0.0)


def _bandwidth(measured: Measured) -> float:
    """GB/s with the largest working set and the most threads."""
    return max(measured.bandwidth, key=lambda row: (row[1], row[0]))[2]


def _section(name: str, figures: dict[str, float]) -> Iterator[str]:
    yield from ("", f"[{name}]")
    for key, value in figures.items():
        if value > 0:
            yield f"{key} = {value:.4g}"


def _table(name: str, data: Any) -> Iterator[str]:
    """A dataclass as a TOML table: its plain fields first, then its tables."""
    yield from ("", f"[{name}]")
    held = [(item.name, getattr(data, item.name)) for item in fields(data)]
    for key, value in held:
        if not is_dataclass(value):
            yield f"{key} = {_value(value)}"
    for key, value in held:
        if is_dataclass(value):
            yield from _table(f"{name}.{key}", value)


def _value(value: Any) -> str:
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, tuple) and value:
        return "[\n" + "".join(f"    {_row(row)},\n" for row in value) + "]"
    return "[]" if isinstance(value, tuple) else _number(value)


def _row(row: tuple[float, ...]) -> str:
    return f"[{', '.join(map(_number, row))}]"


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else repr(value)


def _list(texts: list[str]) -> str:
    return f"[{', '.join(map(_text, texts))}]"


def _text(text: str) -> str:
    """A basic string: what JSON escapes, TOML does alike; control characters included."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
