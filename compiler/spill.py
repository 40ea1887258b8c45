"""Large new weights of a graph go to a file as soon as they are made, not into memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir

from ..ir.rewriter import Rewriter
from ..ir.storage.tensors import write_bytes

SPILLED = 1 << 20
"""Weights of more bytes lie in a file of their own."""


class SpillingRewriter(Rewriter):
    """A rewriter whose new weights are written to ``folder`` and read from there when asked for."""

    def __init__(self, model: ir.Model, folder: Path) -> None:
        super().__init__(model)
        self._folder = folder
        self._spilled = 0

    def initializer(
        self,
        hint: str,
        data: np.ndarray | ir.TensorProtocol,
        *,
        graph: ir.Graph | None = None,
    ) -> ir.Value:
        """As the rewriter's own."""
        return super().initializer(hint, self._kept(data), graph=graph)

    def set_tensor(self, value: ir.Value, data: np.ndarray | ir.TensorProtocol) -> None:
        """As the rewriter's own."""
        super().set_tensor(value, self._kept(data))

    def _kept(self, data: np.ndarray | ir.TensorProtocol) -> np.ndarray | ir.TensorProtocol:
        """The data itself where it is small or lies in a file anyway."""
        if isinstance(data, (np.ndarray, np.generic)):
            data = ir.tensor(np.asarray(data, order="C"))
        in_memory = isinstance(data, (ir.Tensor, ir.PackedTensor))
        if not in_memory or data.dtype == ir.DataType.STRING or data.nbytes <= SPILLED:
            return data
        return self._written(data)

    def _written(self, tensor: ir.TensorProtocol) -> ir.ExternalTensor:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._spilled += 1
        name = f"weight-{self._spilled:05d}.bin"
        with (self._folder / name).open("wb") as file:
            write_bytes(tensor, file.write)
        return ir.ExternalTensor(
            name,
            0,
            tensor.nbytes,
            tensor.dtype,
            shape=ir.Shape(tensor.shape.numpy()),
            name=tensor.name or "",
            base_dir=self._folder,
        )
