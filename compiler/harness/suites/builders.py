"""The transformer models that the onnxscript wheel builds for its own fusion rules.

Encoders and decoders as torch exported them (BART, Whisper, SmolLM) and rotary embeddings, with
weights in ``Constant`` nodes and in initializers. Their weights are random and all positive;
matrices are drawn anew (``weights``). Builders without feeds (Phi) are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import onnx_ir as ir

from ..case import Case
from .weights import seed_weights
from .wheels import feedable, module, seeded

BUILDERS = {
    "bart-encoder": "_bart_encoder.bart_encoder_test",
    "whisper-encoder": "_whisper_encoder.whisper_encoder_test",
    "whisper-decoder": "_whisper_decoder.whisper_decoder_test",
    "smollm-1": "_smollm_1.smollm_test_1",
    "smollm-2": "_smollm_2.smollm_test_2",
    "rotary-1": "_rotary_embedding_models.test_case_1",
    "rotary-2": "_rotary_embedding_models.test_case_2",
    "rotary-partial": "_rotary_embedding_models.partial_rotary_test_case",
}
"""Name of the case, and the function in ``onnxscript.rewriter.models`` that makes its builder."""


def builder_cases() -> Iterator[Case]:
    """The models, one made at a time: the largest takes three quarters of a gigabyte."""
    return (builder_case(name) for name in BUILDERS)


def builder_case(name: str) -> Case:
    """One of ``BUILDERS`` with the feeds it comes with."""
    file, function = BUILDERS[name].split(".")
    models = module(f"onnxscript.rewriter.models.{file}", "pip install 'planish[torch]'")
    with seeded():
        builder: Any = getattr(models, function)()
        model: ir.Model = builder.get_onnx_model()
        feed = {n: feedable(data) for n, data in builder.get_ort_inputs().items()}
    del builder
    seed_weights(model)
    return Case(name, ir.to_proto(model), (feed,))
