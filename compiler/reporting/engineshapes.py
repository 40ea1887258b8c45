"""The shapes of an engine's inputs as trtexec and ONNX Runtime's provider are told of them.

Both take one text, ``ids:1x128,mask:1x128``, and split it. Names come out of a model file and may
hold anything: what would be split wrongly is not written, and nothing is ever written unquoted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ..result import Engine

CHOSEN = "chosen-size"
"""Code of the remark that nobody stated the sizes of an axis."""
NUL = "\0"
"""No argument of a program, and no text of a C interface, holds one."""
SPLIT_BY_TRTEXEC = frozenset({",", "'", NUL})
"""It splits at commas whatever stands in quotes, and takes single quotes away.

Source: NVIDIA/TensorRT, samples/common/sampleOptions.cpp, getShapesBuild, splitNameAndValue.
"""
SPLIT_BY_PROVIDER = frozenset({",", ":", NUL})
"""It splits at every comma and colon, and knows no quotes.

Source: microsoft/onnxruntime, issue 18939, and ParseProfileShapes in
tensorrt_execution_provider_utils.h.
"""


def is_open(engine: Engine) -> bool:
    """Whether a profile is needed: an axis is open, or numbers of an input decide a shape."""
    return bool(engine.open_axes or engine.values)


def for_trtexec(engine: Engine, which: str) -> str:
    """Shapes as trtexec takes them; a name with a colon stands in single quotes, which reach it."""
    known = _shapes(engine, which)
    return _text({f"'{n}'" if ":" in n else n: shape for n, shape in known.items()})


def for_provider(engine: Engine, which: str) -> str:
    """Shapes as the provider takes them."""
    return _text(_shapes(engine, which))


def untold_trtexec(engine: Engine) -> list[str]:
    """Inputs of whose shapes trtexec cannot be told, for what their names hold."""
    return _holding(engine, SPLIT_BY_TRTEXEC)


def untold_provider(engine: Engine) -> list[str]:
    """Inputs of whose shapes ONNX Runtime's provider cannot be told."""
    return _holding(engine, SPLIT_BY_PROVIDER)


def _holding(engine: Engine, characters: frozenset[str]) -> list[str]:
    names = _shapes(engine, "opt") if is_open(engine) else ()
    return [name for name in names if characters & set(name)]


def _shapes(engine: Engine, which: str) -> dict[str, tuple[int, ...]]:
    """By input its shape; of inputs that decide shapes their numbers, which are written alike."""
    known = {name: shapes[which] for name, shapes in engine.profile.items() if shapes[which]}
    return known | {name: values[which] for name, values in engine.values.items()}


def _text(shapes: Mapping[str, Iterable[int]]) -> str:
    return ",".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in shapes.items())
