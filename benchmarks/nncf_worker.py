"""Quantize with NNCF: ``python nncf_worker.py MODEL FEEDS_FOLDER OUTPUT transformer|any``.

Runs in the peers' environment, which knows neither planish nor the evaluation data.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import onnx


def main(model: Path, folder: Path, output: Path, kind: str) -> None:
    """NNCF's default post-training quantization, over all feeds in the folder."""
    nncf = importlib.import_module("nncf")  # installed only there, so unknown to type checkers
    feeds = [dict(np.load(path)) for path in sorted(folder.glob("*.npz"))]
    quantized = nncf.quantize(
        onnx.load(model),
        nncf.Dataset(feeds),
        model_type=nncf.ModelType.TRANSFORMER if kind == "transformer" else None,
        subset_size=len(feeds),
    )
    onnx.save(quantized, output)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])
