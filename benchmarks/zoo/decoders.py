"""Decoders: the next token's logits for a whole text; one with keys and values of a past, too.

Where keys and values are grouped, four query heads share two of them, of width 6; the hidden size
is 20, so that it is not the heads' width taken together.
"""

from __future__ import annotations

from typing import Any

from .family import WORDS, Family, Input
from .texts import IDS, MASK

_WHOLE: dict[str, Any] = {"use_cache": False}
_SIZES: dict[str, Any] = {
    "vocab_size": WORDS, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 32, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
_GROUPED = {
    **_SIZES, "hidden_size": 20, "intermediate_size": 36, "num_key_value_heads": 2, "head_dim": 6,
}  # fmt: skip
_PLAIN = {**_SIZES, "hidden_size": 24, "intermediate_size": 40}


def _causal(
    name: str,
    stem: str,
    sizes: dict[str, Any],
    heads: int,
    neurons: int,
    *,
    config: str = "",
    required: bool = True,
) -> Family:
    return Family(
        name, f"{stem}ForCausalLM", config or f"{stem}Config", sizes, (IDS, MASK), (heads,) * 2,
        (neurons,) * 2, outputs=("logits",), settings=_WHOLE, required=required,
    )  # fmt: skip


_PAST = tuple(
    Input(f"past_{what}_{layer}", ("batch", 2, "past", 6), "floats")
    for layer in range(2)
    for what in ("keys", "values")
)
DECODERS = (
    Family(
        "GPT-2", "GPT2LMHeadModel", "GPT2Config",
        {"vocab_size": WORDS, "n_embd": 24, "n_layer": 2, "n_head": 4, "n_inner": 40,
         "n_positions": 32},
        (IDS, MASK), (4, 4), (40, 40), outputs=("logits",), settings=_WHOLE,
    ),
    _causal("OPT", "OPT", {
        **_SIZES, "hidden_size": 24, "ffn_dim": 40, "word_embed_proj_dim": 10}, 4, 40),
    _causal("Llama", "Llama", _GROUPED, 2, 36),
    Family(
        "Llama with past", "LlamaForCausalLM", "LlamaConfig", _GROUPED, (IDS, *_PAST), (2, 2),
        (36, 36), outputs=("logits",), settings={"use_cache": True}, cached=True, required=False,
    ),
    _causal("Mistral", "Mistral", {**_GROUPED, "sliding_window": 4}, 2, 36),
    _causal("Qwen2", "Qwen2", {**_PLAIN, "num_key_value_heads": 2}, 2, 40),
    _causal("Qwen3", "Qwen3", _GROUPED, 2, 36),
    _causal("Gemma", "Gemma", _GROUPED, 2, 36),
    _causal("Gemma 2", "Gemma2", {**_GROUPED, "query_pre_attn_scalar": 6, "sliding_window": 4},
            2, 36),
    _causal("Gemma 3", "Gemma3", {**_GROUPED, "query_pre_attn_scalar": 6, "sliding_window": 4},
            2, 36, config="Gemma3TextConfig"),
    _causal("Phi", "Phi", {**_PLAIN, "partial_rotary_factor": 0.5, "hidden_size": 32}, 4, 40),
    _causal("Phi-3", "Phi3", {**_PLAIN, "num_key_value_heads": 2}, 2, 40),
    _causal("Falcon", "Falcon", {
        **_PLAIN, "ffn_hidden_size": 40, "new_decoder_architecture": True, "num_kv_heads": 2},
        2, 40, required=False),
    _causal("BLOOM", "Bloom", {
        "vocab_size": WORDS, "hidden_size": 16, "n_layer": 2, "n_head": 4}, 4, 64, required=False),
    _causal("GPT-NeoX", "GPTNeoX", _PLAIN, 4, 40, required=False),
    _causal("Mixtral", "Mixtral", {**_GROUPED, "num_local_experts": 3, "num_experts_per_tok": 2,
            "experts_implementation": "batched_mm"}, 2, 36, required=False),
)  # fmt: skip
