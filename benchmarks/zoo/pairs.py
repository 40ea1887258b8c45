"""Encoders with decoders: the two stacks exported apart, as runtimes want them.

A decoder's layer attends to itself and to what the encoder computed.
"""

from __future__ import annotations

from typing import Any

from .family import WORDS, Family, Input
from .texts import IDS, MASK

_STATES = Input("encoder_hidden_states", ("batch", "sources", 24), "floats")
_SEEN = Input("encoder_attention_mask", ("batch", "sources"), "mask")
_WHOLE: dict[str, Any] = {"use_cache": False}
_LIKE_BART = {
    "vocab_size": WORDS, "d_model": 24, "encoder_layers": 2, "decoder_layers": 2,
    "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 40,
    "decoder_ffn_dim": 36, "max_position_embeddings": 32,
}  # fmt: skip
_LIKE_T5 = {
    "vocab_size": WORDS, "d_model": 24, "d_kv": 5, "d_ff": 40, "num_layers": 2, "num_heads": 4,
    "relative_attention_num_buckets": 8, "relative_attention_max_distance": 16,
}  # fmt: skip
_WHISPER = {
    "vocab_size": WORDS, "d_model": 24, "encoder_layers": 2, "decoder_layers": 2,
    "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 40,
    "decoder_ffn_dim": 36, "num_mel_bins": 8, "max_source_positions": 12,
    "max_target_positions": 32, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "decoder_start_token_id": 1, "suppress_tokens": None, "begin_suppress_tokens": None,
}  # fmt: skip


def _encoder(
    name: str,
    stem: str,
    sizes: dict[str, Any],
    neurons: int = 40,
    inputs: tuple[Input, ...] = (IDS, MASK),
    *,
    required: bool = True,
) -> Family:
    return Family(
        f"{name} encoder", f"{stem}Model", f"{stem}Config", sizes, inputs, (4, 4), (neurons,) * 2,
        part="encoder", required=required,
    )  # fmt: skip


def _decoder(
    name: str,
    stem: str,
    sizes: dict[str, Any],
    neurons: int,
    inputs: tuple[Input, ...] = (IDS, _STATES, _SEEN),
    *,
    required: bool = True,
) -> Family:
    return Family(
        f"{name} decoder", f"{stem}Model", f"{stem}Config", sizes, inputs, (4,) * 4, (neurons,) * 2,
        part="decoder", settings=_WHOLE, required=required,
    )  # fmt: skip


_SOUND = (Input("input_features", ("batch", 8, 24), "floats"),)
_GATED = {**_LIKE_T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
PAIRS = (
    _encoder("T5", "T5", _LIKE_T5),
    _decoder("T5", "T5", _LIKE_T5, 40),
    _encoder("T5 v1.1", "T5", _GATED),
    _decoder("T5 v1.1", "T5", _GATED, 40),
    _encoder("BART", "Bart", _LIKE_BART),
    _decoder("BART", "Bart", _LIKE_BART, 36),
    _encoder("Whisper", "Whisper", _WHISPER, inputs=_SOUND),
    _decoder("Whisper", "Whisper", _WHISPER, 36, (IDS, _STATES)),
    _encoder("MBart", "MBart", _LIKE_BART, required=False),
    _decoder("MBart", "MBart", _LIKE_BART, 36, required=False),
    _encoder("Pegasus", "Pegasus", _LIKE_BART, required=False),
    _decoder("Pegasus", "Pegasus", _LIKE_BART, 36, required=False),
)
