"""Encoders of images, and CLIP, which has one of texts beside it."""

from __future__ import annotations

from .family import WORDS, Family, Input
from .texts import IDS, MASK

_SIZES = {
    "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 40,
    "image_size": 16, "patch_size": 4,
}  # fmt: skip
_SMALL = Input("pixel_values", ("batch", 3, 16, 16), "floats")
_LARGE = Input("pixel_values", ("batch", 3, 32, 32), "floats")
_TEXT = {
    "vocab_size": WORDS, "hidden_size": 20, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 36, "max_position_embeddings": 32, "bos_token_id": 1, "eos_token_id": 60,
}  # fmt: skip
_SWIN = {
    "image_size": 32, "patch_size": 2, "embed_dim": 24, "depths": [2, 2], "num_heads": [3, 6],
    "window_size": 4, "mlp_ratio": 1.25,
}  # fmt: skip

IMAGES = (
    Family("ViT", "ViTModel", "ViTConfig", _SIZES, (_SMALL,), (4, 4), (40, 40)),
    Family("DeiT", "DeiTModel", "DeiTConfig", _SIZES, (_SMALL,), (4, 4), (40, 40)),
    Family("Swin", "SwinModel", "SwinConfig", _SWIN, (_LARGE,), (3, 3, 6, 6), (30, 30, 60, 60)),
    Family(
        "CLIP", "CLIPModel", "CLIPConfig",
        {"text_config": _TEXT, "vision_config": _SIZES, "projection_dim": 14},
        (IDS, _SMALL, MASK), (4,) * 4, (36, 36, 40, 40),
        outputs=("text_embeds", "image_embeds"),
    ),
    Family(
        "SAM encoder", "SamVisionModel", "SamVisionConfig",
        {"hidden_size": 24, "output_channels": 14, "num_hidden_layers": 2,
         "num_attention_heads": 4, "image_size": 32, "patch_size": 4, "mlp_dim": 40,
         "window_size": 3, "global_attn_indexes": [1]},
        (_LARGE,), (4, 4), (40, 40),
    ),
    Family("DINOv2", "Dinov2Model", "Dinov2Config", {**_SIZES, "mlp_ratio": 2}, (_SMALL,), (4, 4),
           (48, 48), required=False),
    Family("BEiT", "BeitModel", "BeitConfig",
           {**_SIZES, "use_relative_position_bias": True, "use_mask_token": False}, (_SMALL,),
           (4, 4), (40, 40), required=False),
    Family("SigLIP encoder", "SiglipVisionModel", "SiglipVisionConfig", _SIZES, (_SMALL,), (4, 4),
           (40, 40), required=False),
)  # fmt: skip
