"""Feeds generated from a signature."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import ml_dtypes
import numpy as np
import pytest

from planish.compiler.data.feeds import load_feeds
from planish.compiler.data.synthetic import synthetic
from planish.ir.errors import InputError, UsageError
from planish.ir.finding.index_limits import index_limits
from planish.ir.finding.masks import mask_inputs
from planish.ir.load import load_model
from planish.ir.signature import Signature, TensorSpec

Shape = tuple[int | str | None, ...]


def signature(**inputs: tuple[str, Shape | None]) -> Signature:
    return Signature(tuple(TensorSpec(n, d, s) for n, (d, s) in inputs.items()), ())


BERT = signature(
    ids=("INT64", ("batch", "seq")),
    attention_mask=("INT64", ("batch", "seq")),
    kind=("INT32", ("batch", "seq")),
    image=("FLOAT", ("batch", 3, None, None)),
    flag=("BOOL", ("batch",)),
    scale=("FLOAT", ()),
)


def test_feeds_fit_their_signature() -> None:
    feeds = synthetic(BERT, 30, 0, limits={"ids": 1000})
    assert len(feeds) == 30
    assert feeds.synthetic
    assert load_feeds(feeds, BERT) is feeds  # passes every check
    assert set(feeds.sizes) == {1, 2, 3, 4}
    lengths = {feed["ids"].shape[1] for feed in feeds}
    assert min(lengths) >= 16
    assert max(lengths) <= 32
    assert len(lengths) > 5


def test_values_are_of_their_kind() -> None:
    feeds = list(synthetic(BERT, 40, 1, limits={"ids": 1000}, masks={"kind"}))
    ids = np.concatenate([feed["ids"].ravel() for feed in feeds])
    assert ids.min() >= 0
    assert 900 < ids.max() < 1000
    assert all((feed["attention_mask"] == 1).all() and (feed["kind"] == 1).all() for feed in feeds)
    image = np.concatenate([feed["image"].ravel() for feed in feeds])
    error = 5 / np.sqrt(image.size)
    assert abs(image.mean()) < error
    assert abs(image.std() - 1) < error
    assert {bool(b) for feed in feeds for b in feed["flag"]} == {False, True}


def test_an_unknown_table_is_taken_to_have_two_rows() -> None:
    feeds = synthetic(BERT, 5, 0)
    assert {int(v) for feed in feeds for v in feed["ids"].ravel()} == {0, 1}


def test_bindings_and_seed() -> None:
    feeds = synthetic(BERT, 4, 0, {"batch": 7, "seq": 5})
    assert all(feed["ids"].shape == (7, 5) for feed in feeds)
    assert synthetic(BERT, 3, 4).digest == synthetic(BERT, 3, 4).digest
    assert len({synthetic(BERT, 3, seed).digest for seed in range(5)}) == 5


@pytest.mark.parametrize(
    ("dtype", "numpy_dtype"),
    [("FLOAT16", np.float16), ("BFLOAT16", ml_dtypes.bfloat16), ("DOUBLE", np.float64),
     ("UINT8", np.uint8), ("INT8", np.int8), ("INT4", ml_dtypes.int4)],
)  # fmt: skip
def test_other_dtypes(dtype: str, numpy_dtype: type) -> None:
    wanted = signature(x=(dtype, ("n", 9)))
    feed = synthetic(wanted, 1, 0, limits={"x": 100_000})[0]
    assert feed["x"].dtype == np.dtype(numpy_dtype)
    if "INT" in dtype:
        assert (feed["x"].astype(np.int64) >= 0).all()


def test_what_cannot_be_generated() -> None:
    for spec in (("STRING", ("n",)), ("SEQUENCE(FLOAT)", ())):
        with pytest.raises(InputError, match="cannot be generated") as caught:
            synthetic(signature(x=spec), 1, 0)
        assert "calibration data" in caught.value.hint
    with pytest.raises(InputError, match="its rank is unknown"):
        synthetic(signature(x=("FLOAT", None)), 1, 0)
    with pytest.raises(UsageError):
        synthetic(BERT, 0, 0)


@pytest.mark.torch
def test_a_real_model_runs_on_them(tasks: ModuleType, workdir: Path) -> None:
    path = tasks.export_minilm(workdir, 20, "sdpa")
    model = load_model(path).model
    feeds = synthetic(
        Signature.of(model), 2, 0, limits=index_limits(model), masks=mask_inputs(model)
    )
    run = tasks.session_runner(path)
    for feed in feeds:
        hidden = run(feed)[0]
        assert hidden.shape == (*feed["input_ids"].shape, 384)
        assert np.isfinite(hidden).all()
        assert feed["attention_mask"].all()
