"""Networks as torch's exporter writes them, with random weights and statistics."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path

import onnx
import onnx_ir as ir
import torch
from torch import nn

from planish.ir.load import load_model
from planish.ir.pytorch.errors import quiet


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    """Weights after He, and norms that are not the identity; in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            drawn = torch.randn(tensor.shape, generator=generator)
            if "running_var" in name:
                tensor.copy_(drawn.abs() + 0.5)
            elif tensor.ndim > 1:
                tensor.copy_(drawn * math.sqrt(2 / tensor[0].numel()))
            elif tensor.ndim == 1:
                tensor.copy_(0.3 * drawn + float(name.endswith("weight")))
    return module.eval()


def exported(module: nn.Module, shape: Sequence[int], opset: int, *, traced: bool) -> ir.Model:
    """[n, *shape] -> what the module makes of it, imported.

    traced: by the older exporter, which leaves batch norms where they are here; the newer one
    folds them.
    """
    example = torch.zeros(2, *shape)
    with quiet(), torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "model.onnx"))
        if traced:
            torch.onnx.export(
                module, (example,), path, dynamo=False, opset_version=opset, input_names=["x"],
                dynamic_axes={"x": {0: "n"}}, training=torch.onnx.TrainingMode.PRESERVE,
            )  # fmt: skip
        else:
            torch.onnx.export(
                module, (example,), path, dynamo=True, verbose=False, opset_version=opset,
                input_names=["x"], dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
                external_data=False,
            )  # fmt: skip
        return load_model(onnx.load(path)).model
