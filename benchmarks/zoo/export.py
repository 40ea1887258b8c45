"""A tiny model of a family with random weights, exported by PyTorch's exporter.

torch and transformers are imported where they are used.
"""

from __future__ import annotations

import hashlib
import math
from importlib.metadata import version
from pathlib import Path
from typing import Any

from planish.ir.pytorch.errors import first_sentence, quiet, root_cause

from .family import SIZES, Family


class NotExportedError(Exception):
    """The library or the exporter does not give this one; says why."""


def module_of(family: Family, attention: str) -> Any:
    """The torch module, seeded, in eval mode; its forward takes the inputs in order."""
    import torch
    import transformers

    config = getattr(transformers, family.config)(**family.sizes)
    torch.manual_seed(0)
    kind = getattr(transformers, family.model)
    whole = kind._from_config(config, attn_implementation=attention)
    _randomise(whole)
    inner = whole
    for name in filter(None, family.part.split(".")):
        inner = getattr(inner, name)
    call = _with_past if family.cached else _plainly

    class Called(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, *inputs: Any) -> Any:
            return call(self.inner, family, inputs)

    return Called().eval()


def _plainly(inner: Any, family: Family, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    names = [each.name for each in family.inputs]
    found = inner(**dict(zip(names, inputs, strict=True)), **family.settings)
    return tuple(getattr(found, name) for name in family.outputs)


def _with_past(inner: Any, family: Family, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Keys and values of the past come in, by layer, and those of the present go out."""
    from transformers import DynamicCache

    cache = DynamicCache()
    for layer, (keys, values) in enumerate(zip(inputs[1::2], inputs[2::2], strict=True)):
        cache.update(keys, values, layer)
    first = {family.inputs[0].name: inputs[0]}
    found = inner(**first, past_key_values=cache, **family.settings)
    layers: list[Any] = cache.layers
    present = [tensor for each in layers for tensor in (each.keys, each.values)]
    return (*(getattr(found, name) for name in family.outputs), *present)


def _randomise(module: Any) -> None:
    """Weights as large as what they are multiplied with: as built, attention hardly matters."""
    import torch

    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 1.5 / math.sqrt(parameter[0].numel()))
            else:
                parameter.normal_(1 if "weight" in name else 0, 0.3)


def exported(family: Family, opset: int, attention: str, folder: Path) -> Path:
    """The ONNX file, made unless it lies there. Raises NotExportedError."""
    name = family.name.lower().replace(" ", "-")
    path = folder / f"{name}-{opset}-{attention}-{_stamp(family)}.onnx"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    made = path.with_suffix(".part")
    try:
        with quiet():
            _export(family, opset, module_of(family, attention), made)
    except Exception as error:
        cause = root_cause(error)
        why = f"{type(cause).__name__}: {first_sentence(str(cause))}"
        raise NotExportedError(why) from error
    made.rename(path)
    return path


def _stamp(family: Family) -> str:
    """Of all that an export depends on, so that none of an older table is taken for it."""
    versions = [version(package) for package in ("torch", "onnxscript", "transformers")]
    return hashlib.sha256(repr((family, versions)).encode()).hexdigest()[:8]


def _export(family: Family, opset: int, module: Any, path: Path) -> None:
    import torch

    feeds = family.feeds(SIZES[0])
    free = [
        {i: torch.export.Dim.DYNAMIC for i, n in enumerate(each.shape) if isinstance(n, str)}
        for each in family.inputs
    ]
    with torch.no_grad():
        torch.onnx.export(
            module, tuple(torch.from_numpy(array) for array in feeds.values()), path, dynamo=True,
            verbose=False, opset_version=opset, external_data=False, input_names=list(feeds),
            dynamic_shapes={"inputs": tuple(free)} if family.dynamic else None,
        )  # fmt: skip
