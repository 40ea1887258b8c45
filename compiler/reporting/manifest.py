"""The manifest of an artifact: written once, read by tools, replayed by ``--plan``."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...ir.errors import InputError, near
from ...ir.shown import json_escaped
from ..result import CompileResult, Plan
from .headline import headline
from .selftest import SCHEMA

MANIFEST = "manifest.json"
PLAN_SCHEMA = "planish-plan/1"

MAX_BYTES = 256 << 20
"""Of a manifest or plan; that of 40,000 edits has 20 MB."""

_LEFT_OUT = frozenset({"samples"})
_PLAN_KEYS = tuple(field.name for field in dataclasses.fields(Plan))
_EXAMPLE = f'{{"schema": "{PLAN_SCHEMA}", "pipeline": "canonicalize,quantize"}}'


def to_json(result: CompileResult) -> dict[str, Any]:
    """Everything in a result but the arrays of its samples, as plain JSON values.

    Fields come in the order of the dataclasses, mappings sorted by key. A float that JSON does
    not have is its Python text ("inf", "nan"), which ``float`` reads back.
    """
    head = {"schema": SCHEMA, "headline": headline(result), "exit_code": result.exit_code}
    return head | {
        field.name: encode(getattr(result, field.name))
        for field in dataclasses.fields(result)
        if field.name not in _LEFT_OUT
    }


def encode(value: Any) -> Any:
    """``value`` as plain JSON values. Raises TypeError for what has no such form."""
    if isinstance(value, np.generic | np.ndarray):
        return encode(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "to_json"):
        return encode_in_order(value.to_json())
    if dataclasses.is_dataclass(value):
        return {f.name: encode(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): encode(value[key]) for key in sorted(value, key=str)}
    if isinstance(value, Sequence | set | frozenset):
        return [encode(item) for item in _ordered(value)]
    raise TypeError(f"a {type(value).__name__} has no place in a manifest")


def encode_in_order(table: Mapping[str, Any]) -> dict[str, Any]:
    """``encode`` for a table whose own order is meant."""
    return {key: encode(value) for key, value in table.items()}


def dumps(document: Mapping[str, Any]) -> str:
    """The text of a document: UTF-8 friendly, two spaces, a newline at the end."""
    return json_escaped(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)) + "\n"


def read(path: Path) -> dict[str, Any]:
    """The manifest in a file, or in an artifact's folder.

    Raises InputError where there is none, it is no JSON, or it has another schema.
    """
    file = path / MANIFEST if path.is_dir() else path
    document = _read_json(file)
    schema = document.get("schema")
    if schema == SCHEMA:
        return document
    raise InputError(
        f"not a manifest that this version reads: its schema is {schema!r}, not {SCHEMA!r}",
        where=str(file),
        hint="compile the model again with this version of planish",
    )


def plan_from(source: Path | str | Mapping[str, Any]) -> Plan:
    """The plan in a manifest, a plan file, an artifact's folder, or a mapping of either form.

    A plan file is what a manifest holds under ``plan``: ``pipeline``, ``given_back``,
    ``spellings``. Raises InputError that names the file and the key at fault.
    """
    if isinstance(source, Mapping):
        return _plan(source, "the plan")
    path = Path(source)
    file = path / MANIFEST if path.is_dir() else path
    return _plan(_read_json(file), str(file))


def _read_json(file: Path) -> dict[str, Any]:
    try:
        if file.stat().st_size > MAX_BYTES:
            raise InputError(f"the file is larger than {MAX_BYTES >> 20} MB", where=str(file))
        document = json.loads(file.read_text("utf8"))
    except FileNotFoundError:
        raise InputError(
            "no such file", where=str(file), hint="give a manifest.json or the folder it lies in"
        ) from None
    except OSError as error:
        raise InputError(f"cannot read the file: {error.strerror}", where=str(file)) from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"not a JSON file: {error}", where=str(file)) from error
    if not isinstance(document, dict):
        raise InputError("not a JSON object", where=str(file))
    return document


def _plan(document: Mapping[str, Any], where: str) -> Plan:
    schema = document.get("schema", PLAN_SCHEMA)
    if schema == SCHEMA:
        return _plan(_table(document, "plan", where), f"{where}, key 'plan'")
    if schema != PLAN_SCHEMA:
        known = f"{SCHEMA!r} or {PLAN_SCHEMA!r}"
        raise InputError(f"the plan's schema is {schema!r}, not {known}", where=where)
    for key in document:
        if key not in ("schema", *_PLAN_KEYS):
            raise InputError(f"unknown key {key!r}", where=where, hint=near(key, _PLAN_KEYS))
    pipeline = document.get("pipeline")
    if not isinstance(pipeline, str):
        raise InputError("a plan needs a 'pipeline', a text", where=where, hint=_EXAMPLE)
    given_back = _table(document, "given_back", where) if "given_back" in document else {}
    return Plan(
        pipeline=pipeline,
        given_back={
            name: _names(sites, f"{where}, key 'given_back', pass {name!r}")
            for name, sites in given_back.items()
        },
        spellings=_names(document.get("spellings", []), f"{where}, key 'spellings'"),
    )


def _table(document: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    value = document.get(key)
    if not isinstance(value, Mapping):
        raise InputError(f"{key!r} must be an object", where=where)
    return value


def _names(value: Any, where: str) -> tuple[str, ...]:
    if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
        return tuple(value)
    raise InputError("must be a list of texts", where=where)


def _ordered(value: Sequence[Any] | set[Any] | frozenset[Any]) -> Sequence[Any]:
    return value if isinstance(value, Sequence) else sorted(value, key=str)
