"""The families, and their exports."""

from __future__ import annotations

from .decoders import DECODERS
from .family import Family
from .images import IMAGES
from .pairs import PAIRS
from .texts import TEXTS

FAMILIES: dict[str, Family] = {f.name: f for f in (*TEXTS, *DECODERS, *PAIRS, *IMAGES)}
ATTENTIONS = ("eager", "sdpa")
OPSETS = (20, 23)
