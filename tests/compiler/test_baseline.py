from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import planish
from planish.compiler.baseline import check_generated, undivided
from planish.compiler.data.feedset import FeedSet, feed_set
from planish.compiler.reporting.standing import standing
from planish.ir.errors import InputError, TargetError
from planish.ir.load import load_model
from planish.ir.signature import Signature
from planish.targets.runtime import open_session

OPTIONS: dict[str, Any] = {"target": "generic", "pipeline": "canonicalize", "threads": 1}
HEAD = '<ir_version: 8, opset_import: ["" : 17]>\ng (float[n, 4] x) => (float[n, k] y) '
X = np.arange(20, dtype=np.float32).reshape(5, 4)


def saved(folder: Path, text: str) -> Path:
    onnx.save(onnx.parser.parse_model(HEAD + text), folder / "model.onnx")
    return folder / "model.onnx"


def feeds_of(path: Path, *arrays: np.ndarray[Any, Any], synthetic: bool = False) -> FeedSet:
    signature = Signature.of(load_model(path).model)
    read = [{"x": array} for array in arrays]
    return feed_set("test", lambda i: read[i], len(read), signature, synthetic=synthetic)


def test_a_file_that_import_mended_is_compared_with_its_import(tmp_path: Path) -> None:
    path = saved(tmp_path, "{ [same] a = Neg(x) [same] y = Relu(a) }")
    with pytest.raises(TargetError, match="two nodes with same node name"):
        open_session(path)
    made = planish.compile(path, output=tmp_path / "out", holdout=[{"x": X}], **OPTIONS)
    [remark] = [r for r in made.manifest["remarks"] if r["code"] == "baseline-mended"]
    assert "two nodes with same node name" in remark["sentence"]
    np.testing.assert_array_equal(made.session().run({"x": X})[0], np.maximum(-X, 0))


def test_what_import_cannot_mend_is_refused_for_the_runtimes_reason(tmp_path: Path) -> None:
    path = saved(tmp_path, "{ y = Nonsense(x) }")
    with pytest.raises(TargetError, match="knows no operator Nonsense"):
        planish.compile(path, output=tmp_path / "out", holdout=[{"x": X}], **OPTIONS)
    assert not (tmp_path / "out").exists()


FIVE = "{ s = Constant<value_ints = [5, 4]>() r = Reshape(x, s) y = Relu(r) }"


def test_feeds_are_not_cut_where_the_first_axis_is_no_batch(tmp_path: Path) -> None:
    path = saved(tmp_path, FIVE)
    session = open_session(path, threads=1)
    assert not undivided(session, feeds_of(path, X)).divisible
    other = saved(tmp_path, "{ y = Relu(x) }")
    assert undivided(open_session(other, threads=1), feeds_of(other, X)).divisible
    path = saved(tmp_path, FIVE)
    made = planish.compile(path, output=tmp_path / "out", holdout=[{"x": X}], **OPTIONS)
    assert made.manifest["samples"]


def test_every_generated_feed_is_tried(tmp_path: Path) -> None:
    path = saved(tmp_path, FIVE)
    session = open_session(path, threads=1)
    check_generated(session, feeds_of(path, X, X[:3]))  # the user's: they speak for themselves
    check_generated(session, feeds_of(path, X, synthetic=True))
    with pytest.raises(InputError, match="cannot run on generated feeds"):
        check_generated(session, feeds_of(path, X, X[:3], synthetic=True))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{ y = MatMul(x, w) }", ""),
        ("{ d = DequantizeLinear(c, s) y = MatMul(x, d) }", "the one layer is quantized already"),
        (
            "{ d = DequantizeLinear(c, s) a = MatMul(x, d) y = MatMul(a, w) }",
            "1 of 2 layers are quantized already",
        ),
    ],
)
def test_what_is_quantized_already_is_counted(text: str, said: str) -> None:
    model = onnx.parser.parse_model(HEAD + text)
    eye, one = np.eye(4), np.ones((), np.float32)
    arrays: dict[str, Any] = {"w": eye.astype(np.float32), "c": eye.astype(np.int8), "s": one}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(a, n) for n, a in arrays.items())
    remarks = standing(load_model(model).model)
    assert [r.sentence.partition(" and stay")[0] for r in remarks] == ([said] if said else [])
