"""What became of each layer of an engine, read from the inspector's JSON.

Source: TensorRT documentation, 'Engine Inspector' (keys Name, LayerType, Inputs, Outputs,
Format/Datatype, Weights, TacticName; layers are bare names below ProfilingVerbosity DETAILED). No
engine was built where this was written: its tests read JSON of the documented form.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ....ir.errors import InputError

UNKNOWN = "unknown"
_TYPES = (
    ("fp4", re.compile(r"\b(fp4|e2m1)", re.I)),
    ("int4", re.compile(r"\bint4", re.I)),
    ("int8", re.compile(r"\bint8", re.I)),
    ("fp8", re.compile(r"\b(fp8|e4m3)", re.I)),
    ("float16", re.compile(r"\b(fp16|half|float16)", re.I)),
    ("bfloat16", re.compile(r"\b(bf16|bfloat16|bfloat)\b", re.I)),
    ("float32", re.compile(r"\b(fp32|float|float32|tf32)\b", re.I)),
)
"""The narrowest first: a layer computes in the narrowest type that it reads."""
_PRODUCT = re.compile(r"conv|gemm|matrix|matmul|fullyconnected|mha|attention|fusion", re.I)
_SPARSE = re.compile(r"sparse|sptensor", re.I)


@dataclass(frozen=True)
class EngineLayer:
    """One layer of an engine.

    precision: the narrowest type that it reads, "unknown" where the inspector does not say.
    product: whether it multiplies. sparse: whether its tactic skips zeros.
    """

    name: str
    kind: str
    precision: str
    product: bool
    sparse: bool


@dataclass(frozen=True)
class EngineLayers:
    """All layers of an engine. detailed: whether more than their names is known."""

    layers: tuple[EngineLayer, ...]
    detailed: bool

    @property
    def products(self) -> dict[str, int]:
        """How many products compute in each type."""
        return dict(sorted(Counter(x.precision for x in self.layers if x.product).items()))

    @property
    def sparse(self) -> int:
        """How many layers took a sparse tactic."""
        return sum(layer.sparse for layer in self.layers)

    def sentence(self) -> str:
        """What is known of the layers, for a reader."""
        if not self.detailed:
            return f"the engine has {len(self.layers)} layers, of which only the names are known"
        counts = ", ".join(f"{count} in {name}" for name, count in self.products.items())
        sparse = f"{self.sparse} took a sparse tactic" if self.sparse else "none took a sparse one"
        return f"of {len(self.layers)} layers of the engine the products are: {counts}; {sparse}"


def read_layers(text: str) -> EngineLayers:
    """The layers in the inspector's JSON: ``{"Layers": [...]}``, or the bare list.

    Raises InputError for what is neither.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"no JSON of an engine inspector: {error}", where="layers.json") from error
    found = document.get("Layers") if isinstance(document, dict) else document
    if not isinstance(found, list):
        raise InputError("the JSON of the engine inspector has no Layers", where="layers.json")
    return EngineLayers(tuple(map(_layer, found)), any(isinstance(x, dict) for x in found))


def _layer(entry: Any) -> EngineLayer:
    if not isinstance(entry, dict):
        return EngineLayer(str(entry), "", UNKNOWN, False, False)
    kind = str(entry.get("LayerType", ""))
    parameters = f"{kind} {entry.get('ParameterType', '')}"
    texts = list(_types_read(entry))
    precision = next((name for name, form in _TYPES if any(map(form.search, texts))), UNKNOWN)
    tactic = str(entry.get("TacticName", ""))
    product = "reformat" not in kind.lower() and bool(_PRODUCT.search(parameters))
    name = str(entry.get("Name", ""))
    return EngineLayer(name, kind, precision, product, bool(_SPARSE.search(tactic)))


def _types_read(entry: Mapping[str, Any]) -> Iterator[str]:
    """Texts that name the types of a layer's inputs and weights."""
    inputs = entry.get("Inputs")
    for tensor in inputs if isinstance(inputs, list) else ():
        if isinstance(tensor, dict):
            yield str(tensor.get("Format/Datatype", ""))
    weights = entry.get("Weights")
    if isinstance(weights, dict):
        yield str(weights.get("Type", ""))
