"""What earlier tools did to a model already, said before the work starts."""

from __future__ import annotations

import onnx_ir as ir

from ...ir.facts import QUANTIZED
from ...ir.provenance import Remark
from ...ir.sites import find_sites


def standing(model: ir.Model) -> list[Remark]:
    """A note where layers have 8 bits or fewer already; passes leave these alone."""
    layers = find_sites(model, nested=True).of_kind("linear", "conv", "embedding")
    done = [site for site in layers if QUANTIZED in site.facts]
    if not done:
        return []
    which = "the one layer is" if len(layers) == 1 else f"{len(done)} of {len(layers)} layers are"
    if len(done) == len(layers) > 1:
        which = f"all {len(layers)} layers are"
    sentence = f"{which} quantized already and stay as they are"
    return [Remark("note", "import", "model", "already-quantized", sentence)]
