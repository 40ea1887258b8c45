"""Compute what is computed twice once: a pass of onnx_ir, run behind planish's checks."""

import onnx_ir.passes.common

import planish

OnlyOnce = planish.adapt(onnx_ir.passes.common.CommonSubexpressionEliminationPass(), "only-once")
