"""Encoders of text. All blocks have four heads of six, and 40 neurons."""

from __future__ import annotations

from typing import Any

from .family import WORDS, Family, Input

IDS = Input("input_ids", ("batch", "tokens"), "ids")
MASK = Input("attention_mask", ("batch", "tokens"), "mask")
_SIZES = {
    "vocab_size": WORDS, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 40, "max_position_embeddings": 32,
}  # fmt: skip


def _like_bert(name: str, stem: str, *, required: bool = True, **more: Any) -> Family:
    return Family(
        name, f"{stem}Model", f"{stem}Config", {**_SIZES, **more}, (IDS, MASK), (4, 4), (40, 40),
        required=required,
    )  # fmt: skip


_DEBERTA: dict[str, Any] = {
    "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "max_relative_positions": 32,
    "position_biased_input": False, "type_vocab_size": 0,
}  # fmt: skip
TEXTS = (
    _like_bert("BERT", "Bert"),
    Family(
        "DistilBERT", "DistilBertModel", "DistilBertConfig",
        {"vocab_size": WORDS, "dim": 24, "n_layers": 2, "n_heads": 4, "hidden_dim": 40,
         "max_position_embeddings": 32},
        (IDS, MASK), (4, 4), (40, 40),
    ),
    _like_bert("RoBERTa", "Roberta"),
    Family(
        "ALBERT", "AlbertModel", "AlbertConfig",
        {**_SIZES, "embedding_size": 10, "num_hidden_layers": 3}, (IDS, MASK),
        (4, 4, 4), (40, 40, 40),
    ),
    _like_bert("DeBERTa", "Deberta", **_DEBERTA),
    _like_bert("DeBERTa-v2", "DebertaV2", **_DEBERTA, position_buckets=8,
               norm_rel_ebd="layer_norm", share_att_key=True),
    _like_bert("MPNet", "MPNet"),
    _like_bert("ELECTRA", "Electra", embedding_size=10, required=False),
    _like_bert("ConvBERT", "ConvBert", embedding_size=10, head_ratio=1, conv_kernel_size=3,
               required=False),
    _like_bert("CamemBERT", "Camembert", required=False),
    Family(
        "ModernBERT", "ModernBertModel", "ModernBertConfig",
        {**_SIZES, "num_hidden_layers": 3, "local_attention": 4, "pad_token_id": 0,
         "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2},
        (IDS, MASK), (4, 4, 4), (40, 40, 40), required=False,
    ),
)  # fmt: skip
